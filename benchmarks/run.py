"""The benchmark: torchserve-py beside its peers, one server at a time. `make bench` calls this.

Writes ``results.json`` as it goes, and at the end of every suite the table and the plots, to
`benchmarks/results/`. `--resume` goes on where an interrupted run with the same settings ended.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from benchmarks import machine, report, results
from benchmarks.peers.registry import FIRST_RING, NAMES, SECOND_RING, peers
from benchmarks.rows import Row
from benchmarks.suite import Missing, Options, Suite

FOLDER = Path(__file__).resolve().parent / "results"
# Each with its share of the time, in the order in which they run.
SHARES = {
    "echo": 26,
    "bodies": 9,
    "resnet18": 20,
    "openloop": 8,
    "start": 4,
    "scaling": 8,
    "archives": 9,
    "efficientnet_lite0": 10,
    "many_models": 6,
}
NOT_QUICK = ("efficientnet_lite0", "many_models")
SUITES = [name for name in SHARES if find_spec(f"benchmarks.suites.{name}")]
MINUTES, QUICK_MINUTES = 30, 5


def main(arguments: list[str] | None = None) -> int:
    """Measure what the command line asks for; 0 when ours did all of it without an error."""
    options = _options(arguments)
    servers, versions = _installed(options.servers)
    settings = {"quick": options.quick, "seconds": options.seconds, "rounds": options.rounds}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    found = _before(path, settings) if options.resume else None
    kept = found or results.Results(machine.described(), versions, settings)
    kept.versions.update(versions)
    try:
        _measure(options, servers, kept, path)
    except KeyboardInterrupt:
        report.write(kept, options.out)
        print(f"\nbench: interrupted; {path} has what was measured, and --resume goes on from it")
        return 130
    print(f"\n{report.table(kept)}\nwritten to {options.out}")
    missing = any(not _done(kept, name) for name in options.suites)
    return 1 if missing or _failures(kept.rows()) else 0


def _measure(
    options: argparse.Namespace, servers: tuple[str, ...], kept: results.Results, path: Path
) -> None:
    """Every suite that is not done, each with its share of the time; none once it is over."""
    end = time.monotonic() + options.minutes * 60
    left = [name for name in options.suites if not _done(kept, name)]
    while left and time.monotonic() < end:
        share = SHARES[left[0]] / sum(SHARES[name] for name in left)
        given = Options(
            servers=servers,
            quick=options.quick,
            rounds=options.rounds,
            seconds=options.seconds,
            budget=max(0.0, end - time.monotonic()) * share,
        )
        _suite(left.pop(0), given, kept, path)
        report.write(kept, options.out)
    if left:
        print(
            f"bench: {options.minutes:g} minutes are over; left out: {', '.join(left)}. "
            "Cure: --resume, or more --minutes",
            file=sys.stderr,
        )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the most telling workloads, once")
    parser.add_argument(
        "--suites",
        nargs="+",
        choices=SUITES,
        help=f"(default all; quick without {' and '.join(NOT_QUICK)})",
    )
    parser.add_argument(
        "--servers", nargs="+", choices=NAMES, help="(default all; quick without the second ring)"
    )
    parser.add_argument("--rounds", type=int, help="at most (default 3, quick 1)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--minutes", type=float, help="in all (default 30, quick 5)")
    parser.add_argument("--resume", action="store_true", help="leave out suites that are done")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    short = [name for name in SUITES if name not in NOT_QUICK]
    options.suites = options.suites or (short if options.quick else SUITES)
    few = [name for name in NAMES if name not in SECOND_RING]
    options.servers = options.servers or (few if options.quick else list(NAMES))
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.minutes = options.minutes or (QUICK_MINUTES if options.quick else MINUTES)
    return options


def _installed(names: list[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The servers that can run here, with their versions; says why of those that can't."""
    versions: dict[str, str] = {}
    for name in names:
        peer = peers()[name]
        try:
            peer.install()
            versions[name] = peer.version()
        except Missing as missing:
            print(f"bench: {name} is left out: {missing}", file=sys.stderr)
    return tuple(versions), versions


def _before(path: Path, settings: dict[str, object]) -> results.Results | None:
    found = results.read(path)
    if found is not None and found.settings != settings:
        print(
            f"bench: {path} has other settings, {found.settings}: beginning anew", file=sys.stderr
        )
        return None
    return found


def _done(kept: results.Results, name: str) -> bool:
    return name in kept.suites and kept.suites[name].done


def _suite(name: str, options: Options, kept: results.Results, path: Path) -> None:
    """Run one suite; what it lacks ends it alone."""
    suite = kept.suites[name] = results.SuiteResult(load_before=machine.load())
    began = time.monotonic()
    print(f"\n{name}, at most {options.rounds} rounds, about {options.budget:.0f} s", flush=True)
    try:
        for row in cast(Suite, import_module(f"benchmarks.suites.{name}")).run(options):
            suite.rows.append(row)
            kept.write(path)
            print(_line(row), flush=True)
        suite.done = True
    except Missing as missing:
        suite.problem = str(missing)
        print(f"bench: {name} is left out: {missing}", file=sys.stderr)
    suite.seconds = time.monotonic() - began
    suite.load_after = machine.load()
    kept.write(path)


def _line(row: Row) -> str:
    head = f"  {row.server:14} {row.title}: {row.metric}"
    if row.median is None:
        return f"{head} failed: {row.problem}"
    further = [f"{name} {row.figure(name):.4g}" for name in row.figures]
    return f"{head} {row.median:,.4g} {row.unit}" + (f" ({', '.join(further)})" if further else "")


def _failures(rows: list[Row]) -> list[Row]:
    """What ours could not do, or answered with errors."""
    return [
        row for row in rows if row.server == FIRST_RING[0] and (row.problem or row.figure("errors"))
    ]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no server is left behind
    sys.exit(main())
