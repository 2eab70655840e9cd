"""The five log files: who writes where, in which pattern, through which door."""

from __future__ import annotations

import io
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frontend.log_writers import Said, by_writer, write_at_once
from ts_frontend.config import Config, ConfigError
from ts_frontend.logs import Logs

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
FILES = ("access_log", "ts_log", "model_log", "ts_metrics", "model_metrics")


@pytest.fixture
def console() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logs(tmp_path: Path, console: io.StringIO) -> Iterator[Logs]:
    logs = Logs(config(tmp_path), stdout=console)
    logs.open()
    yield logs
    logs.close()


def config(tmp_path: Path, **settings: object) -> Config:
    places = {"log_location": tmp_path / "logs", "metrics_location": tmp_path / "metrics"}
    return Config(**{**places, **settings})  # type: ignore[arg-type]


def read(tmp_path: Path, name: str) -> str:
    folder = tmp_path / ("metrics" if name.endswith("metrics") else "logs")
    return (folder / f"{name}.log").read_text("utf-8")


ACCESS = '/127.0.0.1:64003 "POST /predictions/resnet-18 HTTP/1.1" 200 118'


@pytest.mark.parametrize(
    ("write", "name", "own", "everywhere"),
    [
        (
            lambda logs: logs.access(ACCESS),
            "access_log",
            f"- {ACCESS}",
            f"[INFO ] main ACCESS_LOG - {ACCESS}",
        ),
        (
            lambda logs: logs.ts_metrics(Said("Requests2XX.Count:1|#Level:Host"), ()),
            "ts_metrics",
            "- Requests2XX.Count:1|#Level:Host",
            "[INFO ] main TS_METRICS - Requests2XX.Count:1|#Level:Host",
        ),
        (
            lambda logs: logs.model_metrics(Said("PredictionTime.ms:1"), ()),
            "model_metrics",
            "- PredictionTime.ms:1",
            "[INFO ] main MODEL_METRICS - PredictionTime.ms:1",
        ),
        (
            lambda logs: logs.model("W-9000-resnet_1.0", "stderr", logging.WARNING, "späte Zeile"),
            "model_log",
            "[WARN ] W-9000-resnet_1.0-stderr MODEL_LOG - späte Zeile",
            "[WARN ] W-9000-resnet_1.0-stderr MODEL_LOG - späte Zeile",
        ),
    ],
)
def test_a_line_stands_in_its_file_in_ts_log_and_on_the_console(
    write: Callable[[Logs], None],
    name: str,
    own: str,
    everywhere: str,
    logs: Logs,
    console: io.StringIO,
    tmp_path: Path,
) -> None:
    write(logs)
    logs.flush()

    assert re.fullmatch(f"{STAMP} {re.escape(own)}\n", read(tmp_path, name))
    assert re.fullmatch(f"{STAMP} {re.escape(everywhere)}\n", read(tmp_path, "ts_log"))
    assert console.getvalue() == read(tmp_path, "ts_log")
    others = set(FILES) - {name, "ts_log"}
    assert [read(tmp_path, other) for other in others] == [""] * 3


def test_the_servers_own_records_stand_in_ts_log_once(
    logs: Logs, console: io.StringIO, tmp_path: Path
) -> None:
    """TorchServe writes them twice; mended on purpose."""
    logging.getLogger("ts_frontend.core.store").info("extracted %s", "resnet")
    logs.flush()

    line = r"\[INFO \] main ts_frontend\.core\.store - extracted resnet"
    assert re.fullmatch(f"{STAMP} {line}\n", read(tmp_path, "ts_log"))
    assert console.getvalue() == read(tmp_path, "ts_log")


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (logging.CRITICAL, "FATAL"),
        (logging.ERROR, "ERROR"),
        (logging.WARNING, "WARN "),
        (logging.INFO + 1, "INFO "),
        (logging.INFO, "INFO "),
    ],
)
def test_levels_are_log4js(level: int, name: str, logs: Logs, tmp_path: Path) -> None:
    logging.getLogger("ts_worker").log(level, "x")
    logs.flush()

    assert f" [{name}] main ts_worker - x\n" in read(tmp_path, "ts_log")


def test_debug_is_off_and_a_threads_name_is_shown(logs: Logs, tmp_path: Path) -> None:
    log = logging.getLogger("ts_frontend.x")
    log.debug("hidden")
    thread = threading.Thread(target=log.info, args=("shown",), name="download-1")
    thread.start()
    thread.join()
    logs.flush()

    assert re.fullmatch(
        f"{STAMP} \\[INFO \\] download-1 ts_frontend.x - shown\n", read(tmp_path, "ts_log")
    )


def test_a_traceback_follows_its_message(logs: Logs, tmp_path: Path) -> None:
    try:
        raise RuntimeError("the cause")
    except RuntimeError:
        logging.getLogger("ts_frontend").exception("It broke")
    logs.flush()

    lines = read(tmp_path, "ts_log").splitlines()
    assert lines[0].endswith("[ERROR] main ts_frontend - It broke")
    assert lines[1] == "    Traceback (most recent call last):"
    assert lines[-1] == "    RuntimeError: the cause"


FORGED = "1999-11-25T00:00:00,000 [ERROR] main FORGED - x"


def test_no_value_begins_a_line_of_its_own(logs: Logs, tmp_path: Path) -> None:
    for end in ("\n", "\r", "\r\n", "\x85", "\u2028", "\x0b"):
        value = f"a{end}{FORGED}"
        logging.getLogger("ts_frontend").info("url %s", value)
        logs.model("W-9000-a_1.0", "stdout", logging.INFO, value)
        try:
            raise RuntimeError(value)
        except RuntimeError:
            logging.getLogger("ts_frontend").exception("It broke")
    logs.flush()

    for name in ("ts_log", "model_log"):
        lines = read(tmp_path, name).splitlines()
        assert any("FORGED" in line for line in lines)
        assert [line for line in lines if line.startswith(FORGED[:10])] == []


def test_control_characters_are_escaped_but_a_handlers_colours(logs: Logs, tmp_path: Path) -> None:
    text = "\x1b[1;31mred\x1b[0m\tand\x1b[2Kgone\x07 10%\r20%\r"
    logs.model("W-9000-a_1.0", "stderr", logging.WARNING, text)
    logging.getLogger("ts_frontend").info("url %s", text)
    logs.flush()

    own = "\x1b[1;31mred\x1b[0m\tand\\x1b[2Kgone\\x07 10%\\r20%\n"
    assert read(tmp_path, "model_log").endswith(f" - {own}")
    assert read(tmp_path, "ts_log").endswith(
        " - url \\x1b[1;31mred\\x1b[0m\tand\\x1b[2Kgone\\x07 10%\\r20%\\r\n"
    )


def test_records_of_other_libraries_arrive_too(logs: Logs, tmp_path: Path) -> None:
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    logs.flush()

    assert "[ERROR] main asyncio - Task exception" in read(tmp_path, "ts_log")


def test_lines_come_by_themselves_and_in_order(logs: Logs, tmp_path: Path) -> None:
    """Nobody calls flush: the thread writes within its interval."""
    for number in range(5000):
        logs.access(str(number))
    tick = threading.Event()
    for _ in range(1000):
        if read(tmp_path, "access_log").count("\n") == 5000:
            break
        tick.wait(0.01)

    numbers = [line.split(" - ")[1] for line in read(tmp_path, "access_log").splitlines()]
    assert numbers == [str(number) for number in range(5000)]


def test_nothing_is_lost_between_threads(logs: Logs, tmp_path: Path) -> None:
    wrote = write_at_once(logs, 3000)

    lines = read(tmp_path, "access_log").splitlines()
    assert by_writer(line.split(" - ")[1] for line in lines) == wrote


def test_close_writes_what_waits_and_lets_go_of_logging(tmp_path: Path) -> None:
    before = logging.getLogger().handlers[:]
    logs = Logs(config(tmp_path), stdout=None)
    logs.open()
    logs.access("last")
    logs.close()
    logs.close()

    assert read(tmp_path, "access_log").endswith(" - last\n")
    assert logging.getLogger().handlers == before
    assert logging.getLogger("ts_frontend").level == logging.NOTSET
    names = {thread.name for thread in threading.enumerate()}
    assert names.isdisjoint({"log-files", "log-console"})


def test_lines_of_an_earlier_run_are_kept(tmp_path: Path) -> None:
    for text in ("first", "second"):
        logs = Logs(config(tmp_path), stdout=None)
        logs.open()
        logs.access(text)
        logs.close()

    assert [line.split(" - ")[1] for line in read(tmp_path, "access_log").splitlines()] == [
        "first",
        "second",
    ]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    logs = Logs(config(tmp_path), stdout=None)

    with pytest.raises(ConfigError, match=r"log file .*ts_log\.log can't be written: .*LOG_LOCAT"):
        logs.open()


def test_undecodable_output_of_a_worker_is_written_escaped(logs: Logs, tmp_path: Path) -> None:
    logs.model("W-9000-a_1.0", "stdout", logging.INFO, b"\xff".decode("utf-8", "surrogateescape"))
    logs.flush()

    assert read(tmp_path, "model_log").endswith(" - \\udcff\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.yaml", "version: 1\nloggers: {ts_frontend: {level: ERROR}}\n"),
        ("log.json", '{"version": 1, "loggers": {"ts_frontend": {"level": "ERROR"}}}'),
        (
            "log.ini",
            "[loggers]\nkeys=root,ts\n[handlers]\nkeys=\n[formatters]\nkeys=\n"
            "[logger_root]\nhandlers=\n"
            "[logger_ts]\nqualname=ts_frontend\nlevel=ERROR\nhandlers=\n",
        ),
    ],
)
def test_a_python_logging_configuration_is_applied(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    package = logging.getLogger("ts_frontend")
    (tmp_path / name).write_text(text)
    logs = Logs(config(tmp_path, log_config=tmp_path / name), stdout=None)
    logs.open()
    try:
        package.warning("hidden")
        package.error("shown")
    finally:
        logs.close()
        package.setLevel(logging.NOTSET)
        root.setLevel(logging.WARNING)

    assert "hidden" not in read(tmp_path, "ts_log")
    assert "shown" in read(tmp_path, "ts_log")


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.yaml", "- 1"), ("b.yaml", "{"), ("c.json", "{}"), ("d.ini", "x"), ("e.ini", "[a]\n")],
)
def test_an_unusable_logging_configuration(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    logs = Logs(config(tmp_path, log_config=tmp_path / name), stdout=None)

    with pytest.raises(ConfigError, match=f"--log-config .*{name}: not a Python logging conf"):
        logs.open()
