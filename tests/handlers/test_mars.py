"""The small handlers that all tests share do what they say; the ones that end processes, apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MARS = Path(__file__).parents[1] / "mars"


@pytest.mark.parametrize("handler", ["echo.py", "echo_class.py", "crash.py"])
def test_echoes(load, model_dir, infer, handler):
    outcome = infer(load(model_dir({handler: None}), handler), {"body": bytearray(b"x")})
    assert outcome.predictions[0].body == b"x"


def test_echo_class_takes_status_and_type_from_the_request(load, model_dir, infer):
    service = load(model_dir({"echo_class.py": None}), "echo_class.py")
    headers = [{"X-Status": "404", "X-Reason": "gone", "X-Content-Type": "text/plain"}, {}]
    first, second = infer(service, {"body": b"a"}, {"data": b"b"}, headers=headers).predictions
    assert (first.status, first.reason, first.body) == (404, "gone", b"a")
    assert first.headers == {"content-type": "text/plain", "X-Batch-Size": "2"}
    assert (second.status, second.body) == (200, b"b")


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("prediction", 404, "no such endpoint"),
        ("prediction 413", 413, "too much"),
        ("prediction without a code", 500, "cannot"),
        ("memory", 507, "Out of resources"),
        ("cuda", 507, "Out of resources"),
        ("tuple", 503, "Invalid model predict output"),
        ("short", 503, "number of batch response mismatched"),
        ("object", 503, "Unsupported model output data type."),
        ("value", 503, "Prediction failed"),
    ],
)
def test_raises(load, model_dir, infer, command, code, message):
    service = load(model_dir({"raises.py": None}), "raises.py")
    outcome = infer(service, {"body": bytearray(command.encode())})
    assert (outcome.code, outcome.message) == (code, message)


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit", 3), ("137", 137), ("sysexit", 4), ("segfault", -11), ("kill", -9)],
)
def test_crash_ends_its_process(command, code):
    script = f"import crash; crash.handle([{{'body': b'{command}'}}], None)"
    run = subprocess.run([sys.executable, "-c", script], cwd=MARS, check=False)
    assert run.returncode == code


def test_whoami(load, model_dir, infer):
    service = load(model_dir({"whoami.py": None}), "whoami.py", gpu_id=3)
    answer = json.loads(infer(service, {}).predictions[0].body)
    assert (answer["pid"], answer["gpu_id"], answer["cwd"]) == (os.getpid(), 3, os.getcwd())
    assert answer["request_ids"] == ["id0"]


def test_cancel(load, model_dir, infer, tmp_path):
    service = load(model_dir({"cancel.py": None}), "cancel.py")
    asked = []
    service.set_cancel_probe(lambda request_id: asked.append(request_id) or len(asked) > 2)
    path = tmp_path / "stopped"
    outcome = infer(service, {"body": bytearray(str(path).encode())})
    assert outcome.predictions[0].body == b"cancelled"
    assert path.read_text() == "cancelled\n"
    assert set(asked) == {"id0"}


def test_slow(load, model_dir, infer):
    service = load(model_dir({"slow.py": None}), "slow.py")
    predictions = infer(service, {"body": b"0.01"}, {"body": b"0"}).predictions
    assert [prediction.body for prediction in predictions] == [b"2", b"2"]
