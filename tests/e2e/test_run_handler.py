"""`torchserve-py run-handler`: the real command on archives and folders, without a server."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import SCRIPTS, archive, until

pytestmark = pytest.mark.e2e

HANDLER = """
import logging, os, time
from pathlib import Path

class Steps:
    def initialize(self, context):
        self.context = context
        self.calls = 0
        logging.getLogger("mine").info("loaded from %s", os.getcwd())

    def preprocess(self, data):
        self.calls += 1
        return [row.get("body") for row in data]

    def inference(self, data):
        if data == ["fail"]:
            raise LookupError("no such word")
        if data == ["debug"]:
            breakpoint()
        if data == ["wait"]:
            Path(os.environ["MARK"]).write_text(os.getcwd())
            time.sleep(60)
        return data

    def handle(self, data, context):
        context.metrics.add_counter("Calls", 1)
        rows = self.inference(self.preprocess(data))
        if context.get_request_header(0, "explain"):
            return ["because"] * len(data)
        if rows == ["headers"]:
            context.set_response_status(202, "Accepted", 0)
            context.set_response_header(0, "X-Size", "1")
        return [self.answer(row, len(data)) for row in rows]

    def answer(self, row, size):
        if isinstance(row, bytearray):
            return bytes(row)
        return {"row": row, "size": size, "call": self.calls} if isinstance(row, dict) else row
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An archive whose yaml allows batches of two, and some inputs beside it."""
    (tmp_path / "steps.py").write_text(HANDLER)
    (tmp_path / "model-config.yaml").write_text("batchSize: 2\n")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "one.json").write_text('{"body": {"sample": 1}}')
    (tmp_path / "x.json").write_text('{"x": 1}')
    (tmp_path / "blob.bin").write_bytes(bytes(range(128, 228)))
    for word in ("fail", "debug", "wait", "headers"):
        (tmp_path / f"{word}.txt").write_text(word)
    (tmp_path / "temp").mkdir()
    return archive(
        tmp_path,
        "steps",
        tmp_path / "steps.py",
        *("--config-file", str(tmp_path / "model-config.yaml")),
        *("--warmup", str(tmp_path / "samples")),
    )


def start(model: Path, *words: str, **options) -> subprocess.Popen:
    env = os.environ | {"TEMP": str(model.parent / "temp"), "MARK": str(model.parent / "mark")}
    return subprocess.Popen(
        [SCRIPTS / "torchserve-py", "run-handler", str(model), *words],
        cwd=model.parent,
        env=env,
        text=True,
        stdin=options.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def run(model: Path, *words: str, typed: str | None = None) -> subprocess.CompletedProcess:
    """The finished command; nothing may be left in the temporary folder."""
    process = start(model, *words, stdin=subprocess.PIPE if typed else subprocess.DEVNULL)
    out, err = process.communicate(typed, timeout=60)
    assert left(model) == []
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def left(model: Path) -> list[Path]:
    return list((model.parent / "temp" / "models").glob("*"))


def test_an_input_is_answered_as_a_client_would_see_it(model: Path) -> None:
    done = run(model, "--input", "x.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == '{\n  "row": {\n    "x": 1\n  },\n  "size": 1,\n  "call": 1\n}\n'
    assert "INFO mine - loaded from" in done.stderr
    assert "[METRICS]" not in done.stderr
    times = r"^load +\d+\.\d\d ms\npreprocess +\d.*\ninference +\d.*\ntotal +\d"
    assert re.search(times, done.stderr, re.M)


def test_status_headers_and_bytes(model: Path) -> None:
    done = run(model, "--input", "headers.txt")
    assert done.stdout == "headers\n"
    assert "headers.txt: 202 Accepted, 7 bytes\n    X-Size: 1\n" in done.stderr
    done = run(model, "--input", "blob.bin")
    assert done.stdout.startswith("<100 bytes: 80 81 82 83")
    assert run(model, "--input", "x.json", "--content-type", "text/plain").stdout == '{"x": 1}\n'


def test_batches_are_filled_up_and_repeated(model: Path) -> None:
    words = ["--input", "x.json", "--input", "x.json", "--input", "x.json"]
    done = run(model, *words, "--repeat", "2")
    assert re.findall(r'"size": (\d),\n  "call": (\d)', done.stdout) == [
        ("2", "3"),  # the yaml's batch size: two calls in each of two rounds
        ("2", "3"),
        ("2", "4"),
    ]
    assert re.search(r"^2 rounds +min +median +max$", done.stderr, re.M)
    done = run(model, "--input", "x.json", "--batch", "5")
    assert '"size": 5' in done.stdout
    assert done.stdout.count('"row"') == 1


def test_bodies_go_into_files(model: Path) -> None:
    done = run(model, "--input", "x.json", "--input", "blob.bin", "--output", "out")
    folder = model.parent / "out"
    paths = [folder / "000-x.json", folder / "001-blob.bin"]
    assert done.stdout.split() == list(map(str, paths))
    assert paths[1].read_bytes() == (model.parent / "blob.bin").read_bytes()


def test_the_samples_of_the_archive_serve_where_no_input_is_given(model: Path) -> None:
    assert '"sample": 1' in run(model).stdout
    assert run(model, "--explain").stdout == "because\n"


def test_a_folder_is_used_in_place(model: Path, tmp_path: Path) -> None:
    folder = archive(tmp_path, "plain", tmp_path / "steps.py", "--archive-format", "no-archive")
    folder = folder.with_suffix("")
    done = run(folder, "--input", "x.json")
    assert done.returncode == 0, done.stderr
    assert folder.is_dir()


def test_a_failing_handler_shows_its_traceback(model: Path) -> None:
    done = run(model, "--input", "fail.txt")
    assert done.returncode == 1
    assert 'steps.py", line' in done.stderr
    assert done.stderr.rstrip().endswith("LookupError: no such word")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--input", "nowhere.jpg"], "run-handler: --input nowhere.jpg: no such file"),
        (["--gpu", "63", "--input", "x.json"], "run-handler: there is no GPU 63"),
        (["--content-type", "a/b"], "--content-type is that of --input, and there is none"),
        (["--output", "x.json", "--input", "x.json"], "--output x.json: File exists"),
        (["--batch", "0"], "Invalid value for '--batch'"),
        (["--ts-config", "nowhere"], "--ts-config file not found"),
    ],
)
def test_what_is_asked_for_wrongly_is_told(model: Path, words: list[str], text: str) -> None:
    done = run(model, *words)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_there_must_be_a_model_and_something_to_run(model: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "nothing.mar")
    assert (done.returncode, "no such archive or folder" in done.stderr) == (2, True)
    bare = archive(tmp_path, "bare", tmp_path / "steps.py")
    done = run(bare)
    assert (done.returncode, "give --input, or put samples" in done.stderr) == (2, True)
    (tmp_path / "broken.mar").write_bytes(b"no archive")
    done = run(tmp_path / "broken.mar")
    assert (done.returncode, "Failed to save model" in done.stderr) == (2, True)


def test_a_handler_alone_is_refused_with_the_command_that_makes_a_model(
    model: Path, tmp_path: Path
) -> None:
    (tmp_path / "my steps.py").write_text((tmp_path / "steps.py").read_text())
    done = run(tmp_path / "my steps.py", "--input", "x.json")
    assert done.returncode == 2
    assert (
        "my steps.py is a handler alone: give an archive, or the folder of a model" in done.stderr
    )
    words = shlex.split(done.stderr.splitlines()[-1])
    made = subprocess.run([str(SCRIPTS / words[0]), *words[1:]], cwd=tmp_path, check=False)
    assert made.returncode == 0
    done = run(tmp_path / "my_steps_model", "--input", "x.json")
    assert done.returncode == 0, done.stderr


def test_a_model_of_several_processes_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "pp.yaml").write_text("parallelType: pp\ntorchrun:\n  nproc-per-node: 2\n")
    words = ("--config-file", str(tmp_path / "pp.yaml"))
    done = run(archive(tmp_path, "pp", tmp_path / "steps.py", *words), "--input", "x.json")
    assert done.returncode == 2
    assert "a worker of it is 2 processes, and this command runs one: serve it" in done.stderr


def test_the_configuration_of_the_server_counts(model: Path) -> None:
    (model.parent / "config.properties").write_text("decode_input_request=false\n")
    assert run(model, "--input", "x.json").stdout == '{"x": 1}\n'


def test_a_debugger_has_the_terminal(model: Path) -> None:
    done = run(model, "--input", "debug.txt", typed="p data\ncontinue\n")
    assert done.returncode == 0, done.stderr
    assert "(Pdb) ['debug']" in done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_removes_what_was_unpacked(model: Path, number: int, code: int) -> None:
    process = start(model, "--input", "wait.txt", start_new_session=True)
    mark = model.parent / "mark"
    until(lambda: mark.exists() and mark.read_text())
    unpacked = Path(mark.read_text())
    assert unpacked.exists()
    # A terminal's Ctrl-C goes to the whole group, a SIGTERM to one process.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert not unpacked.exists()
    assert left(model) == []
    assert "Traceback" not in err


def test_the_profiler_prints_its_table(model: Path, tmp_path: Path) -> None:
    source = "import torch\n\ndef handle(data, context):\n    return [str(torch.ones(3).sum())]\n"
    (tmp_path / "ones.py").write_text(source)
    ones = archive(tmp_path, "ones", tmp_path / "ones.py")
    done = run(ones, "--input", "x.json", "--profile")
    assert done.stdout == "tensor(3.)\n"
    assert "Self CPU" in done.stderr
    assert "aten::sum" in done.stderr
