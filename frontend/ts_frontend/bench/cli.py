"""The command `torchserve-py bench`: a load test of one model of a running server.

A client like any other: it imports nothing of the server, and `ts_frontend.cli` calls it. `session`
does the work.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TypeVar

import click

from ts_frontend.bench.options import Options
from ts_frontend.bench.session import bench

_Number = TypeVar("_Number", int, float)
_Callback = Callable[[click.Context, click.Parameter, str | None], tuple[_Number, ...] | None]


def _numbers(read: Callable[[str], _Number], expected: str) -> _Callback[_Number]:
    """Reads numbers with commas between them."""

    def callback(
        _context: click.Context, _option: click.Parameter, text: str | None
    ) -> tuple[_Number, ...] | None:
        if text is None:
            return None
        try:
            numbers = tuple(read(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(0 < number <= _MOST for number in numbers):  # nor is NaN
            raise click.BadParameter(f"{text!r}: expected {expected}")
        return numbers

    return callback


def _time(_context: click.Context, _option: click.Parameter, seconds: float) -> float:
    if math.isnan(seconds):
        raise click.BadParameter("nan is no time")
    return seconds


_MOST = 1_000_000
_TIME = click.FloatRange(min=0.001, max=_MOST)


@click.command("bench", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option("--version", metavar="V", help="Of the model; else its default version.")
@click.option(
    "--url",
    metavar="URL",
    help="Inference address of the server.  [default: http://127.0.0.1:8080]",
)
@click.option("--unix", metavar="PATH", help="Its unix socket, in place of --url.")
@click.option("--insecure", is_flag=True, help="Take any certificate from an https address.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="FILE",
    help="Body of a request; several are sent in turns. Without it bodies are empty.",
)
@click.option("--content-type", metavar="T", help="Of the inputs; else by the files' endings.")
@click.option(
    "--expect",
    multiple=True,
    metavar="FILE",
    help="The answer that counts as good: one for all inputs, or one for each.",
)
@click.option("--token", metavar="T", help="The server's inference key.")
@click.option(
    "--key-file",
    metavar="FILE",
    help="Take the key from there; else from ./key_file.json for a server on this machine.",
)
@click.option(
    "--connections",
    callback=_numbers(int, "whole numbers above 0, such as 1,4,16"),
    metavar="N,...",
    help="Levels of load: so many clients, each of which waits for its answer.  "
    "[default: 1,4,16,64]",
)
@click.option(
    "--rate",
    callback=_numbers(float, "numbers above 0, such as 50,100"),
    metavar="R,...",
    help="Levels of load: so many requests/s at random times, whether or not answers are back.",
)
@click.option("--seed", type=int, default=0, metavar="N", help="Of the times of --rate.")
@click.option(
    "--seconds",
    type=_TIME,
    callback=_time,
    default=5.0,
    metavar="S",
    show_default=True,
    help="For each level.",
)
@click.option(
    "--warmup",
    type=click.FloatRange(min=0, max=_MOST),
    callback=_time,
    default=1.0,
    metavar="S",
    show_default=True,
    help="The same load before it, not counted.",
)
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    metavar="N",
    help="For each level, in place of --seconds.",
)
@click.option(
    "--timeout",
    type=_TIME,
    callback=_time,
    default=120.0,
    metavar="S",
    show_default=True,
    help="From when on a request without an answer is an error.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1, max=256),
    default=1,
    metavar="N",
    help="Processes of the client, where one is what limits.",
)
@click.option("--json", metavar="FILE", help="Write all figures there.")
@click.option("--plot", metavar="FILE", help="Draw them: .svg, or .png with matplotlib.")
def command(**options: object) -> None:
    """Measure how many requests a model of a running server answers, and how fast.

    Each level of load gives a line. Answers count that have status 200 and, with --expect, the
    expected body; latencies are in milliseconds. The exit code is 1 where some answers were not
    good, 2 where nothing could be measured, 130 after Ctrl-C, which prints what there is by then.
    """
    sys.exit(bench(Options(**options)))  # type: ignore[arg-type]
