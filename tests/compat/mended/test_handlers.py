"""Mended on purpose: what handlers, and the tool that packs workflows, ran into."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from tests.handlers.optional_packages import pretend
from ts.context import Context
from ts.handler_utils.micro_batching import MicroBatching
from ts.model_loader import TsModelLoader
from ts.service import Service
from ts.torch_handler.vllm_handler import VLLMHandler
from ts.utils.timeit_decorator import timeit
from ts_archiver import pack_workflow
from ts_worker.messages import Predict, Reply, Request
from ts_worker.runtime.answers import answer
from ts_worker.runtime.logs import FrameHandler
from ts_worker.wire import encode
from workflow_archiver.arg_parser import ArgParser


def test_an_asynchronous_handler_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe took the coroutine for the result: 503 "Invalid model predict output"."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "asynchronous.py").write_text("async def handle(data, context): pass\n")
    with pytest.raises(ValueError, match="handle is async def: asynchronous handlers"):
        TsModelLoader().load("m", str(tmp_path), "asynchronous.py")


def test_an_error_in_a_micro_batch_reaches_the_caller() -> None:
    """TorchServe's thread ended with it, and nobody answered."""

    class Handler:
        def preprocess(self, data: list[int]) -> list[float]:
            return [1 / value for value in data]

        inference = postprocess = staticmethod(list)

    batching = MicroBatching(Handler())
    with pytest.raises(ZeroDivisionError):
        batching.handle([1, 0, 2])
    assert batching.handle([2, 4]) == [0.5, 0.25]
    batching.shutdown()


def test_a_header_that_cannot_be_sent_fails_its_own_request() -> None:
    """TorchServe's worker ended, and the whole batch got "Worker died."."""

    def handle(data: list[dict[str, bytes]], context: Context) -> list[bytes]:
        context.set_response_header(0, "X-Mood", "\ud800")
        return [b"first", b"second"]

    class Sender:
        def __init__(self) -> None:
            self.sent: list[tuple[int, list[bytes]]] = []

        def send(self, reply: Reply) -> None:
            encode(reply)
            self.sent.append((reply.code, [bytes(one.body) for one in reply.responses]))

    service, sender = Service("m", "/m", None, handle, None, 2), Sender()
    batch = Predict(1, (Request(b"a", b"", ()), Request(b"b", b"", ())))
    answer(sender, service, batch, True, FrameHandler(Mock()))
    assert sender.sent == [(503, [b""]), (200, [b"second"])]


async def test_a_language_models_error_has_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe answered 200, with the error in the body."""
    error = SimpleNamespace(code=404, model_dump=lambda: {"message": "no such model"})

    class Request(SimpleNamespace):
        @classmethod
        def model_validate(cls, body: dict[str, Any]) -> Request:
            return cls(**body)

    async def create(request: Request, raw_request: None) -> SimpleNamespace:
        return error

    pretend(
        monkeypatch,
        "vllm.entrypoints.openai.protocol",
        CompletionRequest=Request,
        ErrorResponse=SimpleNamespace,
    )
    handler = VLLMHandler()
    handler.completion_service = SimpleNamespace(create_completion=create)
    context = Context("m", "/m", None, 1, None, "0")
    context.start_batch([{"url_path": "v1/completions"}], {0: "r"})
    answer = await handler.handle([{"body": {"model": "other"}}], context)
    assert answer == [{"message": "no such model"}]
    assert context.get_response_status(0)[0] == 404


def test_timeit_works(capsys: pytest.CaptureFixture[str]) -> None:
    """TorchServe's asks for `time.clock`."""
    assert timeit(len)("abc") == 3
    assert capsys.readouterr().out.startswith("len: ")


def test_a_workflow_without_a_handler_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """TorchServe's tool ended in an AttributeError, and left copies behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "out").mkdir()
    files = [tmp_path / name for name in ("spec.yaml", "f.py")]
    for file in files:
        file.write_text("")
    words = ["--workflow-name", "w", "--spec-file", str(files[0])]
    with pytest.raises(SystemExit) as caught:
        ArgParser.workflow_archiver_args_parser().parse_args(words)
    assert caught.value.code == 2
    assert "--handler" in capsys.readouterr().err
    pack_workflow("w", *files, export_path=tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["f.py", "out", "spec.yaml"]
