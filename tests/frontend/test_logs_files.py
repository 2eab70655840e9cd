"""What disks, pipes and terminals do to a log, and rolling."""

from __future__ import annotations

import fcntl
import gzip
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ts_frontend import log_files, rotation
from ts_frontend.config import Config, ConfigError
from ts_frontend.log_files import ConsoleSink, FileSink, Pump
from ts_frontend.logs import Logs


def opened(path: Path, max_bytes: int = rotation.MAX_BYTES) -> FileSink:
    sink = FileSink(path, max_bytes)
    sink.open()
    return sink


def rolled(folder: Path) -> dict[str, str]:
    return {
        path.name: gzip.decompress(path.read_bytes()).decode()
        for path in folder.iterdir()
        if path.suffix == ".gz"
    }


def test_rolls_by_size_and_keeps_every_file_of_a_day(tmp_path: Path) -> None:
    """TorchServe's pattern has the day only, so the second file would overwrite the first."""
    sink = opened(tmp_path / "a.log", 10)
    for text in ("first 89\n", "second 9\n", "third\n"):
        sink.write(text)
    sink.close()

    day = rotation.day_of((tmp_path / "a.log").stat().st_mtime)
    assert sorted(rolled(tmp_path)) == [f"a.{day}.1.log.gz", f"a.{day}.log.gz"]
    assert sorted(rolled(tmp_path).values()) == ["first 89\n", "second 9\n"]
    assert (tmp_path / "a.log").read_text() == "third\n"
    assert len(list(tmp_path.iterdir())) == 3


def test_five_rolled_files_are_kept_and_others_left_alone(tmp_path: Path) -> None:
    for number in range(7):
        old = tmp_path / f"a.0{number + 1}-Jan.log.gz"
        old.write_bytes(gzip.compress(b"old"))
        os.utime(old, (1000 + number, 1000 + number))
    (tmp_path / "ab.01-Jan.log.gz").touch()
    (tmp_path / "a.backup.log.gz").touch()
    sink = opened(tmp_path / "a.log", 10)
    sink.write("first 89\n")
    sink.write("second\n")
    sink.close()

    day = rotation.day_of((tmp_path / "a.log").stat().st_mtime)
    names = {path.name for path in tmp_path.iterdir()}
    kept = {f"a.0{number}-Jan.log.gz" for number in (4, 5, 6, 7)}
    assert names == {
        "a.log",
        "ab.01-Jan.log.gz",
        "a.backup.log.gz",
        f"a.{day}.log.gz",
        *kept,
    }


def test_rolls_when_the_day_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = opened(tmp_path / "a.log")
    sink.write("today\n")
    today = rotation.day_of((tmp_path / "a.log").stat().st_mtime)
    monkeypatch.setattr(rotation, "day_of", lambda seconds: "31-Dec")
    sink.write("tomorrow\n")
    sink.close()

    assert rolled(tmp_path) == {f"a.{today}.log.gz": "today\n"}
    assert (tmp_path / "a.log").read_text() == "tomorrow\n"


def test_months_have_english_names() -> None:
    assert rotation.day_of(1717070000) == "30-May"


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    sink = opened(tmp_path / "a.log", 10)
    sink.write("first 89\n")
    (tmp_path / "a.log").rename(tmp_path / "moved")
    sink.write("second\n")
    sink.close()

    assert (tmp_path / "a.log").read_text() == "second\n"


def test_a_full_disk_is_told_once_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sink = opened(tmp_path / "a.log")
    real = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    sink.write("lost\n")
    sink.write("lost\n")
    monkeypatch.setattr(os, "write", real)
    sink.write("kept\n")
    sink.close()

    lost = f"Log lines are lost: {tmp_path / 'a.log'}: No space left on device\n"
    assert capsys.readouterr().err == lost
    assert (tmp_path / "a.log").read_text() == "kept\n"


def test_the_folder_is_made_and_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    opened(tmp_path / "deep" / "er" / "a.log").close()
    assert (tmp_path / "deep" / "er" / "a.log").exists()

    (tmp_path / "a.log").mkdir()
    with pytest.raises(ConfigError, match=r"a\.log can't be written: Is a directory; set LOG_LOC"):
        opened(tmp_path / "a.log")


def until(condition: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(1000):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("the condition did not come true within ten seconds")


def logs_in(folder: Path, stdout: io.TextIOBase) -> Logs:
    logs = Logs(Config(log_location=folder, metrics_location=folder), stdout=stdout)  # type: ignore[arg-type]
    logs.open()
    return logs


def test_a_broken_pipe_ends_the_console_only(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        logs = logs_in(tmp_path, stdout)
        logs.access("one")
        logs.flush()
        logs.access("two")
        logs.close()

    assert (tmp_path / "access_log.log").read_text().count("\n") == 2
    text = (tmp_path / "ts_log.log").read_text()
    assert text.count("standard output is gone (") == 1


def test_a_closed_stream_ends_the_console_only(tmp_path: Path) -> None:
    stdout = io.StringIO()
    logs = logs_in(tmp_path, stdout)
    stdout.close()
    logs.access("one")
    logs.flush()
    logs.close()

    assert "standard output is gone" in (tmp_path / "ts_log.log").read_text()


def test_a_pipe_that_nobody_reads_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TorchServe's console appender the server stands still once such a pipe is full."""
    monkeypatch.setattr(log_files, "MAX_WAITING", 200_000)
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stdout:
        logs = logs_in(tmp_path, stdout)
        for number in range(20_000):
            logs.access(f"line {number}")
            if number % 5000 == 0:
                assert logs._pump.flush(10)
        assert logs._pump.flush(10)
        assert (tmp_path / "access_log.log").read_text().count("\n") == 20_000

        seen = bytearray()
        drain = threading.Thread(target=lambda: read_all(reader, seen))
        drain.start()
        logs.flush()
        logs.close()
    drain.join()
    os.close(reader)

    assert b"log lines not shown: nobody read them in time\n" in seen
    assert seen.startswith(b"20")
    assert seen.count(b"\n") < 20_000


def read_all(fd: int, into: bytearray) -> None:
    while chunk := os.read(fd, 1 << 16):
        into += chunk


def test_closing_does_not_wait_for_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ts_frontend.logs._CONSOLE_GRACE", 0.05)
    reader, writer = os.pipe()
    # The stream is closed by hand: the abandoned thread still writes to the pipe.
    stdout = os.fdopen(writer, "w", closefd=False)
    logs = logs_in(tmp_path, stdout)
    for number in range(5000):
        logs.access(f"line {number}")
    logs.close()

    assert (tmp_path / "access_log.log").read_text().count("\n") == 5000
    console = logs._console_pump._thread
    assert console.is_alive()
    seen = bytearray()
    drain = threading.Thread(target=lambda: read_all(reader, seen))
    drain.start()
    console.join(10)
    stdout.close()
    os.close(writer)
    drain.join()
    os.close(reader)


def test_a_non_blocking_stream_gets_every_line() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFL, fcntl.fcntl(writer, fcntl.F_GETFL) | os.O_NONBLOCK)
    seen = bytearray()
    drain = threading.Thread(target=lambda: read_all(reader, seen))
    with os.fdopen(writer, "w") as stdout:
        sink = ConsoleSink(stdout)
        sink.offer("x" * 500_000 + "\n")
        drain.start()
        sink.drain()
        assert not sink.closed
    drain.join()
    os.close(reader)

    assert len(seen) == 500_001


def test_lines_are_dropped_and_counted_when_the_disk_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ts_frontend.logs._MAX_WAITING", 100)
    gate = threading.Event()
    entered = threading.Event()
    real = FileSink.write

    def slow(self: FileSink, text: str) -> None:
        entered.set()
        gate.wait(10)
        real(self, text)

    monkeypatch.setattr(FileSink, "write", slow)
    logs = logs_in(tmp_path, io.StringIO())
    logs.access("first")
    assert entered.wait(10)
    tick = threading.Event()
    while not logs._missing:
        for _ in range(200):
            logs.access("later")
        tick.wait(0.002)
    gate.set()
    logs.flush()
    logs.close()

    text = (tmp_path / "ts_log.log").read_text()
    assert "log lines are lost: the disk was too slow" in text


def test_an_idle_pump_sleeps_and_wakes() -> None:
    rounds: list[int] = []
    pump = Pump("p", lambda: rounds.append(1), 0)
    pump.start()
    pump.wake()
    until(lambda: len(rounds) == 1)
    assert pump.idle
    assert pump.flush(10)
    assert pump.close(10)


def test_an_earlier_days_log_is_rolled_before_the_first_line(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    old = folder / "access_log.log"
    old.write_text("old\n")
    os.utime(old, (1717101963, 1717101963))  # 30 May 2024
    logs = logs_in(folder, io.StringIO())
    logs.access("new")
    logs.close()

    rolled = [path.name for path in folder.iterdir() if path.name.endswith(".gz")]
    assert rolled in (["access_log.30-May.log.gz"], ["access_log.31-May.log.gz"])
    assert gzip.decompress((folder / rolled[0]).read_bytes()) == b"old\n"
    assert old.read_text().endswith(" - new\n")
