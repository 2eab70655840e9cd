"""Parts of `torchserve-py bench`: histogram, answers, plans, tables, pictures; nothing is sent."""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import sys
import time
import xml.etree.ElementTree as ET
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts_frontend.bench import plot
from ts_frontend.bench.alarm import Alarm, poisson
from ts_frontend.bench.answer import AnswerReader
from ts_frontend.bench.errors import BenchError, LostConnection
from ts_frontend.bench.histogram import Histogram
from ts_frontend.bench.plan import Input, Level, Target, dumps, loads, model_path
from ts_frontend.bench.report import Result, as_json, bars, head, notes, row
from ts_frontend.bench.tally import Tally

LATENCIES = st.lists(st.integers(0, 10**13), min_size=1, max_size=300)


def histogram(values: list[int]) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


def result(connections: int = 4, milliseconds: int = 10, **fields: object) -> Result:
    tally = Tally(seconds=2.0, **fields)  # type: ignore[arg-type]
    for step in range(100):
        tally.good((milliseconds + step) * 1_000_000, 10, 2000)
    return Result(Level(connections), tally)


@given(LATENCIES, st.sampled_from([0.1, 1, 50, 90, 99, 99.9, 100]))
def test_percentiles_are_those_of_the_sorted_latencies(values: list[int], percent: float) -> None:
    exact = sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]

    found = histogram(values).percentile(percent)

    assert found is not None
    assert abs(found - exact) <= 0.004 * exact


@given(LATENCIES)
def test_mean_least_and_greatest_are_exact(values: list[int]) -> None:
    made = histogram(values)

    assert (made.least, made.greatest, made.percentile(100)) == (
        min(values),
        max(values),
        max(values),
    )
    assert made.mean() == pytest.approx(statistics.fmean(values), rel=1e-12)


@given(LATENCIES, st.lists(st.integers(0, 10**9), max_size=20))
def test_histograms_add_up_and_travel_as_json(some: list[int], others: list[int]) -> None:
    total = histogram(some)

    total.merge(Histogram.from_json(json.loads(json.dumps(histogram(others).as_json()))))

    assert total.as_json() == histogram(some + others).as_json()
    assert total.count == len(some + others)


def test_an_empty_histogram_has_no_latencies() -> None:
    assert (Histogram().mean(), Histogram().percentile(50)) == (None, None)


ANSWERS = {
    "length": (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello"),
    "empty": (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 503, b""),
    "no reason": (b"HTTP/1.1 200\r\nX: y\r\nCONTENT-LENGTH:2\r\n\r\nhi", 200, b"hi"),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0A;x=y\r\n0123456789\r\n"
        b"0\r\n\r\n",
        200,
        b"abc0123456789",
    ),
    "trailer": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n",
        200,
        b"a",
    ),
    "continue": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
        200,
        b"a",
    ),
    "nothing": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
}


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_read_in_whatever_pieces_they_come(name: str, size: int) -> None:
    data, status, body = ANSWERS[name]
    reader = AnswerReader()
    for _ in range(2):  # a connection is kept alive
        pieces = [data[at : at + size] for at in range(0, len(data), size)]

        *before, answer = [reader.feed(piece) for piece in pieces]

        assert before == [None] * len(before)
        assert answer is not None
        assert (answer.status, answer.body, answer.last) == (status, body, False)


def test_an_answer_may_end_with_its_connection() -> None:
    reader = AnswerReader()
    assert reader.feed(b"HTTP/1.0 200 OK\r\n\r\nall of") is None
    assert reader.feed(b" it") is None

    answer = reader.end()

    assert answer is not None
    assert (answer.body, answer.last) == (b"all of it", True)


def test_a_broken_answer_is_none() -> None:
    reader = AnswerReader()
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    assert reader.end() is None


def test_a_server_may_close_behind_an_answer() -> None:
    answer = AnswerReader().feed(
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n"
    )

    assert answer is not None
    assert answer.last


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 two\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
    ],
)
def test_what_is_no_http_is_refused(data: bytes) -> None:
    with pytest.raises(LostConnection):
        AnswerReader().feed(data)


def test_the_message_of_an_error_is_shown_in_a_line() -> None:
    body = json.dumps({"code": 503, "type": "T", "message": "No\nworker"}).encode()
    head = b"HTTP/1.1 503 X\r\nContent-Length: %d\r\n\r\n" % len(body)

    answer = AnswerReader().feed(head + body)

    assert answer is not None
    assert answer.text() == "No worker"


def test_a_request_as_it_is_sent() -> None:
    target = Target("::1", 8080, "/predictions/m", (Input(b"{}", "application/json"),), token="k")

    assert target.requests() == (
        b"POST /predictions/m HTTP/1.1\r\nHost: [::1]:8080\r\nAccept: */*\r\n"
        b"Authorization: Bearer k\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    )


def test_names_are_escaped_in_the_path() -> None:
    assert model_path("/behind/", "a b", "1/2") == "/behind/predictions/a%20b/1%2F2"


def test_a_target_travels_as_json() -> None:
    inputs = (Input(bytes(range(256)), "", b"\xff"), Input())
    target = Target("h", 1, "/p", inputs, unix="/s", token="k")

    assert loads(dumps(target)) == target


@given(st.integers(1, 500), st.integers(1, 64), st.none() | st.integers(1, 500))
def test_shares_make_up_the_level(connections: int, processes: int, requests: int | None) -> None:
    level = Level(connections, rate=100.0, requests=requests)

    shares = level.shares(processes)

    assert sum(share.connections for share in shares) == connections
    assert sum(share.rate or 0 for share in shares) == pytest.approx(100)
    assert requests is None or sum(share.requests or 0 for share in shares) == requests
    assert min(share.connections for share in shares) > 0
    assert len({share.seed for share in shares}) == len(shares)


def test_arrivals_are_poisson_and_the_same_for_a_seed() -> None:
    gaps = list(islice(poisson(200.0, seed=7), 20_000))

    assert gaps == list(islice(poisson(200.0, seed=7), 20_000))
    assert statistics.fmean(gaps) == pytest.approx(1 / 200, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 200, rel=0.03)


@pytest.mark.parametrize("exact", [True, False])
async def test_the_alarm_rings_when_it_is_due(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exact:
        monkeypatch.setattr("ts_frontend.bench.alarm._libc", lambda: None)
    rung = asyncio.Event()
    alarm = Alarm(rung.set)
    try:
        for wait in (0.0, 0.003):
            due = time.monotonic() + wait
            alarm.set(due)
            await asyncio.wait_for(rung.wait(), 10)
            assert time.monotonic() >= due - 0.001
            rung.clear()
    finally:
        alarm.close()


def test_tallies_of_processes_add_up_and_travel_as_json() -> None:
    one, other = Tally(seconds=2.0, busy=[0.5], starved=[0.0]), Tally(seconds=1.9, busy=[0.2])
    one.good(1000, 10, 100)
    other.bad("status 503", 10, "no worker")
    other.waiting, other.oldest, other.interrupted = 2, 1.5, True

    one.merge(Tally.from_json(json.loads(json.dumps(other.as_json()))))

    assert (one.count, one.sent, one.received, one.busy) == (2, 20, 100, [0.5, 0.2])
    assert (one.errors, one.samples) == ({"status 503": 1}, {"status 503": "no worker"})
    assert (one.seconds, one.waiting, one.oldest, one.interrupted) == (2.0, 2, 1.5, True)
    assert one.rate == 0.5


def test_a_row_of_the_table() -> None:
    shown = result(busy=[0.25])

    names = "connections requests/s mean ms p50 p90 p99 max errors sent/s received/s client"
    assert " ".join(head(shown.level).split()) == names
    cells = "4 50.0 59.5 59.1 98.8 108 109 0 500 B 100 kB 25%"
    assert " ".join(row(shown).split()) == cells
    assert len(row(shown)) == len(head(shown.level))


def test_a_row_without_good_answers() -> None:
    tally = Tally(seconds=1.0)
    tally.bad("connection closed", 0)

    assert row(Result(Level(1), tally)).split()[:8] == ["1", "0", *["-"] * 5, "1"]


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"busy": [0.95]}, "the client was busy for 95% of the time"),
        ({"starved": [0.4]}, "wait for a free core for 40% of the time"),
        ({"waiting": 3, "oldest": 1.9}, "3 requests had no answer in the end, the oldest for 1.9"),
    ],
)
def test_what_limits_is_said(fields: dict[str, object], note: str) -> None:
    (said,) = notes(result(**fields))

    assert note in said


def test_errors_are_named_with_what_the_first_said() -> None:
    shown = result()
    for text in ("no worker", "later"):
        shown.tally.bad("status 503", 0, text)

    assert list(notes(shown)) == ["error: 2 x status 503: no worker"]


def test_an_open_loop_that_falls_behind_is_named() -> None:
    tally = result(waiting=900, oldest=1.2).tally

    (said,) = notes(Result(Level(8, rate=500.0), tally))

    assert said.startswith("the server did not keep up: 900 requests")


def test_bars_have_the_length_of_their_values() -> None:
    lines = list(bars([result(1), result(4, milliseconds=110)], plain=True))

    assert [line.count("#") for line in lines] == [0, 40, 40, 0, 20, 40]
    assert "\u2588" in "".join(bars([result()], plain=False))


def test_the_figures_as_json() -> None:
    fields = json.loads(json.dumps(as_json(result(busy=[0.25]))))

    assert (fields["connections"], fields["requests"], fields["requests_per_second"]) == (
        4,
        100,
        50,
    )
    assert fields["latency_ms"]["min"] == 10
    assert fields["latency_ms"]["p50"] == pytest.approx(59, rel=0.004)
    assert fields["client_busy"] == [0.25]


def test_the_picture_has_a_point_for_each_level() -> None:
    tally = Tally(seconds=1.0)  # no latencies: no points

    root = ET.fromstring(plot.svg('<m> & "x"', [result(1), result(16), Result(Level(64), tally)]))

    circles = [one for one in root.iter() if one.tag.endswith("circle")]
    texts = [one.text for one in root.iter() if one.tag.endswith("text")]
    assert len(circles) == 3 + 2 + 2
    assert {'<m> & "x"', "1", "16", "64", "connections", "p50", "p99"} <= set(texts)


@pytest.mark.parametrize(("greatest", "last"), [(0, 1), (1, 1), (8_392, 10_000), (0.013, 0.015)])
def test_axes_end_at_a_round_value(greatest: float, last: float) -> None:
    ticks = plot.ticks(greatest)

    assert ticks[-1] == pytest.approx(last)
    assert 2 <= len(ticks) <= 7


def test_png_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(BenchError, match=r"x\.png: PNG needs matplotlib.*name it \.svg"):
        plot.check(Path("x.png"))


def test_other_pictures_are_refused() -> None:
    with pytest.raises(BenchError, match=r"must end in \.svg or \.png"):
        plot.check(Path("x.gif"))


def test_a_png_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    plot.write(tmp_path / "x.png", "m", [result(1), result(4)])

    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
