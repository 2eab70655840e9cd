"""`ts.testing`: handlers loaded as in a worker, answers as a client gets them, no traces."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ts.testing import fake_context, load_handler

ROOT = Path(__file__).parents[2]
HANDLER = """
import json, os
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler
import words_of_model

class Words(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.yaml = context.model_yaml_config
        self.here = sorted(os.listdir("."))
        self.initialized = True

    def preprocess(self, data):
        if data[0].get("body") == "fail":
            raise LookupError("no such word")
        return data

    def inference(self, data):
        from later_of_model import shout
        return [shout(words_of_model.PREFIX + str(row.get("body"))) for row in data]

    def postprocess(self, data):
        header = self.context.get_request_header(0, "X-Mode")
        if header:
            self.context.set_response_status(202, "Accepted", 0)
            self.context.set_response_header(0, "X-Mode", header)
        if header == "stream":
            parts = ["part"] * len(data)
            context = self.context
            send_intermediate_predict_response(parts, context.request_ids, "", 200, context)
        if header == "short":
            return []
        return [{"said": word, "yaml": self.yaml, "here": self.here} for word in data]
"""


@pytest.fixture
def model(model_dir) -> Path:
    return model_dir(
        {
            "words.py": HANDLER,
            "words_of_model.py": "PREFIX = 'w:'\n",
            "later_of_model.py": "def shout(text):\n    return text.upper()\n",
            "model-config.yaml": "a: 1\nb: 2\n",
        },
        handler="words.py",
        configFile="model-config.yaml",
    )


def test_a_model_folder_answers_a_batch(model: Path) -> None:
    loaded = load_handler(model, yaml={"b": 2.5, "c": 4}, b=3)
    one, two = loaded.predict("x", {"body": "y"})
    assert (one.json()["said"], two.json()["said"]) == ("W:X", "W:Y")
    assert one.json()["yaml"] == {"a": 1, "b": 3, "c": 4}
    assert "words.py" in one.json()["here"]
    assert (one.status, one.headers, one.parts) == (200, {}, [])
    assert loaded.context.manifest["model"]["modelName"] == loaded.context.model_name == "tiny"
    assert type(loaded.handler).__name__ == "Words"


def test_nothing_is_left_over(model: Path, tmp_path: Path) -> None:
    here, path, modules = os.getcwd(), list(sys.path), set(sys.modules)
    load_handler(model).predict("x")
    assert (os.getcwd(), sys.path) == (here, path)
    assert not {"words", "words_of_model", "later_of_model"} & (set(sys.modules) - modules)
    other = tmp_path / "other"
    other.mkdir()
    (other / "words.py").write_text("def handle(data, context):\n    return data and ['other']\n")
    assert load_handler(other / "words.py").predict("x")[0].text == "other"


def test_headers_status_and_streamed_parts(model: Path) -> None:
    loaded = load_handler(model)
    answer, _ = loaded.predict("x", "y", headers=[{"X-Mode": "stream"}, {}])
    assert (answer.status, answer.reason) == (202, "Accepted")
    assert answer.headers["X-Mode"] == "stream"
    assert answer.parts == [b"part"]
    with pytest.raises(ValueError, match="1 headers for 2 requests"):
        loaded.predict("x", "y", headers=[{}])


def test_errors_of_the_handler_pass(model: Path) -> None:
    loaded = load_handler(model)
    with pytest.raises(LookupError, match="no such word"):
        loaded.predict("fail")
    with pytest.raises(ValueError, match="one element for each row"):
        loaded.predict("x", headers={"X-Mode": "short"})


def test_envelopes_and_functions(tmp_path: Path) -> None:
    source = "def handle(data, context):\n    return data and [row['x'] for row in data]\n"
    (tmp_path / "function_of_test.py").write_text(source)
    loaded = load_handler(tmp_path / "function_of_test.py", envelope="json", batch_size=4)
    assert loaded.predict({"body": {"instances": [{"x": 1}, {"x": 2}]}})[0].json() == {
        "predictions": [1, 2]
    }
    assert loaded.handler is None
    assert loaded.context.system_properties["batch_size"] == 4


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("nowhere", FileNotFoundError, "There is no handler or model folder"),
        ("m.mar", ValueError, "neither a Python file nor a folder: unpack an archive first"),
        ("empty", ValueError, "names a handler: give handler="),
    ],
)
def test_what_cannot_be_loaded(tmp_path: Path, name: str, error: type, text: str) -> None:
    (tmp_path / "m.mar").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=text):
        load_handler(tmp_path / name)


def test_a_context_made_by_hand() -> None:
    context = fake_context(
        "models",
        yaml={"a": 1},
        headers={"X-Mode": "fast"},
        requests=2,
        gpu_id=3,
        limit_max_image_pixels=False,
    )
    assert context.system_properties["model_dir"] == os.path.abspath("models")
    assert context.system_properties["gpu_id"] == 3
    assert context.system_properties["limit_max_image_pixels"] is False
    assert context.get_request_header(1, "X-Mode") == "fast"
    assert context.manifest == {"model": {"modelName": "model"}}
    assert context.model_yaml_config == {"a": 1}
    context.metrics.add_time("Step", 1.0, None, "ms")
    context.set_response_status(404, "None", 1)
    assert context.get_response_status(1) == (404, "None")


def test_the_example_of_the_page_passes(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "handlers.md").read_text()
    section = page[page.index("## Tests of a handler") :]
    names = re.findall(r"^# (\w+\.py)\n", section, re.MULTILINE)
    blocks = re.findall(r"```python\n# \w+\.py\n(.*?)```", section, re.DOTALL)
    for name, block in zip(names, blocks, strict=True):
        (tmp_path / name).write_text(block)
    assert {"conftest.py", "test_greeter.py", "greeter.py"} <= set(names)
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:asyncio",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
