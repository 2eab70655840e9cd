"""`preprocess` ahead of its turn, without a worker: who gets what a thread has prepared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ts.model_loader import ModelLoaderFactory
from ts.preparation import PreparedRows
from ts.service import Service

HANDLER = """
from ts.handler_utils.micro_batching import MicroBatching

calls = []

class Handler:
    preprocess_ahead = True

    def initialize(self, context):
        self.context = context

    def preprocess(self, data):
        calls.append(len(data))
        if "bad" in [row["body"] for row in data]:
            error = ValueError("bad")
            error.request_index = [row["body"] for row in data].index("bad")
            raise error
        return [row["body"].upper() for row in data]

    def handle(self, data, context):
        made = self.preprocess(data)
        return [[body, len(calls)] for body in made]
"""
IDS = {0: "a", 1: "b", 2: "c"}


@pytest.fixture
def load(tmp_path: Path):
    """A function that loads a handler's source with a yaml."""

    def make(source: str = HANDLER, yaml: str = "", prefetch: bool = True, **kw: Any) -> Service:
        (tmp_path / "a_preparing_handler.py").write_text(source)
        (tmp_path / "MAR-INF").mkdir()
        (tmp_path / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"configFile": "c.yaml"}}')
        (tmp_path / "c.yaml").write_text(yaml)
        loader = ModelLoaderFactory.get_model_loader()
        service = loader.load("m", str(tmp_path), "a_preparing_handler.py", batch_size=3, **kw)
        service.expect_batches_ahead(prefetch)
        return service

    return make


def rows(*bodies: str) -> list[dict[str, Any]]:
    return [{"body": body} for body in bodies]


def run(service: Service, data: list[Any]) -> Any:
    outcome = service.infer([{}] * len(data), data, {n: IDS[n] for n in range(len(data))})
    return [json.loads(one.body) for one in outcome.predictions] or outcome


def test_the_handler_s_own_call_gets_what_was_prepared_and_only_once(load) -> None:
    service = load()
    prepared = service.prepare([{}, {}], rows("x", "y"))
    assert isinstance(prepared, PreparedRows)
    assert prepared == rows("x", "y")
    assert run(service, prepared) == [["X", 1], ["Y", 1]]
    assert run(service, prepared) == [["X", 2], ["Y", 2]]  # it was taken: made anew
    assert run(service, rows("z")) == [["Z", 3]]


def test_an_error_of_preprocess_keeps_its_meaning(load) -> None:
    """Who is to blame is answered with it; the others are run again, from fresh rows."""
    service = load()
    failed = service.infer([{}, {}], service.prepare([{}, {}], rows("x", "bad")), {0: "a", 1: "b"})
    assert (failed.code, failed.blamed) == (503, (1,))
    parts = list(service.settle(failed, {0: "a", 1: "b"}, lambda _: ([{}], rows("x"), {0: "a"})))
    assert [(part.rows, part.outcome.code) for part in parts] == [([1], 503), ([0], 200)]


def test_a_description_is_not_preprocessed(load) -> None:
    service = load()
    data = rows("x")
    assert service.prepare([{"describe": "True"}], data) is data


@pytest.mark.parametrize(
    ("yaml", "prepares"),
    [
        ("handler: {preprocess_ahead: false}", False),
        ("handler: {preprocess_ahead: true}", True),
        ("handler: {preprocess_ahead: 1}", False),
        ("handler: nothing", True),
    ],
)
def test_the_yaml_wins_over_the_attribute(
    load, yaml: str, prepares: bool, caplog: pytest.LogCaptureFixture
) -> None:
    service = load(yaml=yaml)
    assert isinstance(service.prepare([{}], rows("x")), PreparedRows) is prepares
    assert ("must be true or false, not 1: it is off" in caplog.text) is yaml.endswith("1}")


MICRO = HANDLER.replace(
    "    def initialize",
    "    def __init__(self):\n        self.handle = MicroBatching(self)\n\n    def initialize",
)


@pytest.mark.parametrize(
    ("source", "options", "cause"),
    [
        (HANDLER, {"prefetch": False}, "it takes prefetch: 1 or more in the model's yaml"),
        (HANDLER, {"envelope": "body"}, "neither service_envelope nor MicroBatching"),
        (MICRO, {}, "neither service_envelope nor MicroBatching"),
        (HANDLER.replace("def preprocess(", "def prepare("), {}, "with a method preprocess"),
    ],
    ids=["no prefetch", "envelope", "micro-batches", "no preprocess"],
)
def test_where_it_can_t_be_the_log_says_why(
    load, source: str, options: dict[str, Any], cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = load(source, **options)
    data = rows("x")
    assert service.prepare([{}], data) is data
    (line,) = [line for line in caplog.messages if "preprocess_ahead is off" in line]
    assert cause in line


def test_a_handler_that_does_not_ask_is_left_alone(load, caplog: pytest.LogCaptureFixture) -> None:
    service = load(HANDLER.replace("preprocess_ahead = True", "other = 1"))
    data = rows("x")
    assert service.prepare([{}], data) is data
    assert not caplog.messages
