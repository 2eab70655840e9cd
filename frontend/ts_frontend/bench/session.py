"""Runs the levels one after the other, prints each as it is there, and writes the files."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ts_frontend.bench import plot
from ts_frontend.bench.crew import Crew
from ts_frontend.bench.errors import BenchError
from ts_frontend.bench.first import check
from ts_frontend.bench.loop import run
from ts_frontend.bench.options import Aim, Options, aim, check_output, levels
from ts_frontend.bench.plan import Level
from ts_frontend.bench.report import Result, as_json, bars, head, notes, row
from ts_frontend.version import __version__

_ERRORS, _REFUSED, _INTERRUPTED = 1, 2, 130


def bench(options: Options) -> int:
    """Measure, and return the exit code."""
    try:
        aimed, asked = aim(options), levels(options)
        json_file = check_output("--json", options.json)
        picture = check_output("--plot", options.plot)
        if picture is not None:
            plot.check(picture)
        results: list[Result] = []
        try:
            interrupted = run(_measure(options, aimed, asked, results))
        finally:
            # What was measured is there even if a later level failed.
            if results:
                _finish(options, aimed, results, json_file, picture)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return _REFUSED
    except KeyboardInterrupt:
        return _INTERRUPTED
    if interrupted:
        return _INTERRUPTED
    return _ERRORS if any(one.tally.errors for one in results) else 0


async def _measure(
    options: Options, aimed: Aim, asked: Sequence[Level], results: list[Result]
) -> bool:
    """Run all levels; True where Ctrl-C ended that."""
    stop = asyncio.Event()
    with _interrupts(stop):
        await _check(aimed, stop)
        if stop.is_set():
            return True
        async with Crew(aimed.target, options.processes) as crew:
            print(f"{_model(options)} at {aimed.shown}, {_inputs(options, aimed)}")
            print(head(asked[0]), flush=True)
            for level in asked:
                result = Result(level, await crew.measure(level, stop))
                if result.tally.count or not stop.is_set():
                    results.append(result)
                    _show(result)
                if stop.is_set():
                    print("interrupted: this is what was measured by then", flush=True)
                    return True
    return False


async def _check(aimed: Aim, stop: asyncio.Event) -> None:
    """The first requests; Ctrl-C ends them."""
    checking = asyncio.create_task(check(aimed.target, aimed.shown, aimed.token_from))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([checking, stopping], return_when=asyncio.FIRST_COMPLETED)
        if checking.done():
            checking.result()
    finally:
        checking.cancel()
        stopping.cancel()
        await asyncio.wait([checking, stopping])


@contextmanager
def _interrupts(stop: asyncio.Event) -> Iterator[None]:
    """Let the first Ctrl-C set ``stop``; a second one is Python's again."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def restore() -> None:
        for number in numbers:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)

    def interrupt() -> None:
        stop.set()
        restore()

    for number in numbers:
        with suppress(NotImplementedError):  # on Windows: KeyboardInterrupt then ends it all
            loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        restore()


def _show(result: Result) -> None:
    print(row(result))
    for note in notes(result):
        print(f"{'':>11}  {note}")
    sys.stdout.flush()


def _finish(
    options: Options,
    aimed: Aim,
    results: Sequence[Result],
    json_file: Path | None,
    picture: Path | None,
) -> None:
    """Print the bars and write the files.

    Raises:
        BenchError: a file can't be written.
    """
    if len(results) > 1:
        plain = "utf" not in (sys.stdout.encoding or "").lower()
        print("", *bars(results, plain=plain), sep="\n")
    path = json_file
    try:
        if json_file is not None:
            json_file.write_text(_json(options, aimed, results), encoding="utf-8")
        path = picture
        if picture is not None:
            plot.write(picture, f"{_model(options)} at {aimed.shown}", results)
    except OSError as error:
        raise BenchError(f"{path} can't be written: {error.strerror or error}") from None


def _json(options: Options, aimed: Aim, results: Sequence[Result]) -> str:
    fields = {
        "client": f"torchserve-py {__version__}",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "server": aimed.shown,
        "path": aimed.target.path,
        "model": options.model,
        "version": options.version,
        "inputs": [
            {"file": name, "bytes": len(one.body), "content_type": one.content_type}
            for name, one in zip(options.inputs or (None,), aimed.target.inputs, strict=True)
        ],
        "loop": "closed" if options.rate is None else "open",
        "warmup_seconds": options.warmup,
        "processes": options.processes,
        "seed": options.seed,
        "levels": [as_json(one) for one in results],
    }
    return json.dumps(fields, indent=2) + "\n"


def _model(options: Options) -> str:
    return options.model if options.version is None else f"{options.model} {options.version}"


def _inputs(options: Options, aimed: Aim) -> str:
    if not options.inputs:
        return "empty bodies (see --input)"
    size = sum(len(one.body) for one in aimed.target.inputs) / len(aimed.target.inputs)
    count = len(options.inputs)
    return f"{count} input{'s' * (count > 1)} of {size:,.0f} bytes{' on average' * (count > 1)}"
