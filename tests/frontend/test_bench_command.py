"""The command `torchserve-py bench` as a process of its own: output, files, exit codes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.frontend.http_fakes import echo, edge
from ts_frontend.bench.cli import command
from ts_frontend.core.job import Answer
from ts_worker.messages import Request


async def start(folder: Path, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ts_frontend.cli", "bench", *words),
        cwd=folder,
        stdout=PIPE,
        stderr=PIPE,
    )


async def bench(folder: Path, *words: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error."""
    process = await start(folder, *words)
    out, error = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), error.decode()


async def test_levels_are_printed_and_written(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    async with edge() as served:
        code, out, error = await bench(
            tmp_path,
            *("m", "--url", served.url(""), "--input", "x.txt", "--expect", "x.txt"),
            *("--connections", "1,2", "--requests", "20", "--warmup", "0"),
            *("--json", "figures.json", "--plot", "figures.svg"),
        )

    assert (code, error) == (0, "")
    title, names, *rows = out.splitlines()
    assert title == f"m at {served.url('')}, 1 input of 5 bytes"
    assert names.split()[:2] == ["connections", "requests/s"]
    assert {line.split()[0] for line in rows if line.strip()[:1] in ("1", "2")} == {"1", "2"}
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [one["connections"] for one in figures["levels"]] == [1, 2]
    assert [one["requests"] for one in figures["levels"]] == [20, 20]
    assert figures["inputs"] == [{"file": "x.txt", "bytes": 5, "content_type": "text/plain"}]
    assert (tmp_path / "figures.svg").read_text().startswith("<svg ")


async def test_errors_in_the_measurement_are_exit_code_1(tmp_path: Path) -> None:
    async def third(request: Request) -> Answer:
        if len(served.inference.calls) == 3:
            return Answer(503, "", b"", b"overloaded")
        return await echo(request)

    async with edge(behaviour=third) as served:
        code, out, _ = await bench(
            tmp_path,
            *("m", "--url", served.url(""), "--rate", "500", "--requests", "10", "--warmup", "0"),
        )

    assert code == 1
    assert "error: 1 x status 503: overloaded" in out


async def test_a_refusal_is_exit_code_2(tmp_path: Path) -> None:
    async with edge() as served:
        code, out, error = await bench(tmp_path, "nope", "--url", served.url(""))

    assert (code, out) == (2, "")
    assert error.startswith("bench: Model not found: nope")


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_ctrl_c_prints_and_writes_what_there_is(tmp_path: Path, processes: str) -> None:
    enough = asyncio.Event()

    async def count(request: Request) -> Answer:
        if len(served.inference.calls) == 100:
            enough.set()
        return await echo(request)

    async with edge(behaviour=count) as served, asyncio.timeout(60):
        process = await start(
            tmp_path,
            *("m", "--url", served.url(""), "--connections", "2,4", "--seconds", "600"),
            *("--warmup", "0", "--processes", processes, "--json", "figures.json"),
        )
        await enough.wait()
        process.send_signal(signal.SIGINT)
        out, error = await process.communicate()

    assert (process.returncode, error) == (130, b"")
    assert b"interrupted: this is what was measured by then" in out
    (level,) = json.loads((tmp_path / "figures.json").read_text())["levels"]
    assert level["interrupted"]
    assert level["requests"] >= 50


async def test_ctrl_c_before_the_first_answer(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def hang(_request: Request) -> Answer:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with edge(behaviour=hang) as served, asyncio.timeout(60):
        process = await start(tmp_path, "m", "--url", served.url(""))
        await begun.wait()
        process.send_signal(signal.SIGINT)
        out, error = await process.communicate()

    assert (process.returncode, out, error) == (130, b"", b"")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("m --connections 1,x", "'1,x': expected whole numbers above 0, such as 1,4,16"),
        ("m --connections 0", "expected whole numbers above 0"),
        ("m --connections 1,,2", "expected whole numbers above 0"),
        ("m --rate nan", "'nan': expected numbers above 0, such as 50,100"),
        ("m --rate inf", "expected numbers above 0"),
        ("m --seconds 0", "'--seconds'"),
        ("m --warmup nan", "nan is no time"),
        ("m --requests 0", "'--requests'"),
        ("m --processes 0", "'--processes'"),
        ("", "Missing argument 'MODEL'"),
    ],
)
def test_wrong_values_are_refused(words: str, text: str) -> None:
    result = CliRunner().invoke(command, words.split())

    assert result.exit_code == 2
    assert text in result.output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--json no/such.json", "--json no/such.json: there is no folder no"),
        ("--plot .", "--plot .: is a folder"),
        ("--plot x.gif", "the name must end in .svg or .png"),
    ],
)
def test_files_that_cannot_be_written_are_refused_before_anything_is_measured(
    words: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(command, ["m", *words.split()])

    assert result.exit_code == 2
    assert text in result.output
