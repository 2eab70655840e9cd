"""The echo benchmark: torchserve-py, TorchServe 0.12 and mosec, one after the other, under wrk.

`make bench-echo` calls this. It prints a table and writes `results.json` beside itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from install import Missing, require
from load import Sample, measure, middle, warm_up
from process import NotReady
from servers import SERVERS, Server

RESULTS = Path(__file__).resolve().parent / "results.json"
REFERENCE = "torchserve"
Samples = dict[str, dict[int, list[Sample]]]


def main() -> int:
    """Measure what the command line asks for; 0 when every server answered without an error."""
    options = _options()
    try:
        require("wrk", "apt-get install -y wrk")
        servers = [SERVERS[name]() for name in options.servers]
        began, load_before = time.monotonic(), os.getloadavg()[0]
        samples = _rounds(servers, options.rounds, options.connections, options.seconds)
    except (Missing, NotReady) as problem:
        print(f"bench-echo: {problem}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as problem:
        print(f"bench-echo: {problem}\n{problem.stderr or ''}", file=sys.stderr)
        return 1
    medians = {n: {c: middle(s) for c, s in per.items()} for n, per in samples.items()}
    print("\n" + table(medians))
    print(
        f"\n{options.rounds} rounds of {options.seconds} s, {time.monotonic() - began:.0f} s in all"
    )
    _write(medians, samples, load_before)
    return 0 if not any(s.errors for per in medians.values() for s in per.values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-echo", description=__doc__.splitlines()[0])
    parser.add_argument("--servers", nargs="+", choices=list(SERVERS), default=list(SERVERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64])
    return parser.parse_args()


def _rounds(servers: list[Server], rounds: int, connections: list[int], seconds: int) -> Samples:
    """Every server once a round, so that a noisy minute of the machine hits all alike."""
    samples: Samples = {s.name: {c: [] for c in connections} for s in servers}
    for number in range(1, rounds + 1):
        for server in servers:
            with server.serving() as target:
                warm_up(target, max(connections))
                for count in connections:
                    sample = measure(target, count, seconds)
                    samples[server.name][count].append(sample)
                    print(_line(number, server.name, count, sample), flush=True)
    return samples


def _line(number: int, name: str, connections: int, sample: Sample) -> str:
    figures = f"{sample.rate:9.0f} requests/s  p99 {sample.p99:8.2f} ms  {sample.errors} errors"
    return f"round {number}  {name:14} {connections:3} connections  {figures}"


def table(medians: dict[str, dict[int, Sample]]) -> str:
    """The medians as a markdown table, with ratios to TorchServe where it was measured."""
    lines = [
        "| server | connections | requests/s | vs TorchServe | p50 ms | p99 ms | errors |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, per in medians.items():
        for count, s in per.items():
            base = medians.get(REFERENCE, {}).get(count)
            ratio = f"{s.rate / base.rate:.1f} x" if base and base.rate else "-"
            lines.append(
                f"| {name} | {count} | {s.rate:,.0f} | {ratio} "
                f"| {s.p50:.2f} | {s.p99:.2f} | {s.errors} |"
            )
    return "\n".join(lines)


def _write(medians: dict[str, dict[int, Sample]], samples: Samples, load_before: float) -> None:
    """``results.json``: medians, every sample, and what the machine was."""
    document = {
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "load_before": load_before,
        },
        "medians": {n: {c: asdict(s) for c, s in per.items()} for n, per in medians.items()},
        "samples": {
            n: {c: [asdict(s) for s in ss] for c, ss in per.items()} for n, per in samples.items()
        },
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
