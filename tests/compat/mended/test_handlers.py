"""Mended on purpose: what handlers, and the tool that packs workflows, ran into."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.handlers.optional_packages import pretend
from ts.context import Context
from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.vllm_handler import VLLMHandler
from ts.utils.timeit_decorator import timeit
from ts_archiver import pack_workflow
from ts_worker.messages import Request
from workflow_archiver.arg_parser import ArgParser


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
