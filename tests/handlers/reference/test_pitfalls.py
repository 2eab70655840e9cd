"""The checklist of pitfalls, §12 of the reference, one test a row; ids name the row.

Those that show in a real worker only are in tests/worker/test_pitfalls.py. Left out, since what
they are about is not built yet: the half of 12.20 that is about sequence batching, 12.21 the async
mode, and 12.22 workflow registration, whose refusal is in tests/compat/reference/test_workflows.py.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.handlers.torch_files import MODEL_PY, Tiny
from ts.context import Context
from ts.handler_utils.timer import timed
from ts.metrics.metric_cache_errors import MetricsCacheValueError
from ts.prediction import encode_body
from ts.service import PredictionException, Service
from ts.torch_handler.densenet_handler import DenseNetHandler
from ts.torch_handler.image_classifier import ImageClassifier
from ts.torch_handler.text_classifier import TextClassifier
from ts_archiver import pack
from ts_frontend.core.parallel import Parallel, read_parallel
from ts_frontend.core.yaml_reader import YamlReader
from ts_worker.backend.base import Ranks
from ts_worker.messages import Param, Request, pack_headers
from ts_worker.runtime.rows import rows_of

LEFT_OUT = {21, 22}

CLASS = """
class Handler:
    def initialize(self, context): self.context = context
    def handle(self, data, context): return [str(row) for row in data]
"""


def pitfall(*names: str) -> pytest.MarkDecorator:
    """The rows that a test stands for; the first is its id."""
    return pytest.mark.parametrize("pitfall", [", ".join(names)])


def service_of(handle: Any, **kwargs: Any) -> Service:
    return Service("tiny", "/nowhere", None, handle, None, 4, **kwargs)


@pitfall("12.1 bytearrays, parsed JSON, decoded text, names and order")
def test_values_of_a_row(pitfall: str) -> None:
    params = (
        Param("z", "", b"raw"),
        Param("body", "application/json", b'{"a": [1]}'),
        Param("a", "text/csv", "é".encode()),
        Param("json-ish", "application/json;x", b"{}"),
    )
    _, (row,), _ = rows_of((Request(b"r", b"", params),), decode=True)
    assert row == {"z": b"raw", "body": {"a": [1]}, "a": "é", "json-ish": b"{}"}
    assert list(row) == ["z", "body", "a", "json-ish"]
    assert type(row["z"]) is type(row["json-ish"]) is bytearray
    _, (raw,), _ = rows_of((Request(b"r", b"", params),), decode=False)
    assert {type(value) for value in raw.values()} == {bytearray}


@pitfall("12.2 the case of request headers")
def test_header_case(pitfall: str, infer: Any) -> None:
    packed = pack_headers([("X-Mixed-Case", "1"), ("lower", "2")])
    heads, _, ids = rows_of((Request(b"r", packed, ()),), decode=True)
    context = Context("m", "/m", None, 1, None, "0")
    context.start_batch(heads, ids)
    assert context.get_request_header(0, "X-Mixed-Case") == "1"
    assert context.get_request_header(0, "x-mixed-case") is None
    assert list(context.get_all_request_header(0)) == ["X-Mixed-Case", "lower"]


@pitfall("12.4 one context for load and requests, with attributes of the handler's")
def test_one_context(pitfall: str, load: Any, model_dir: Any, infer: Any) -> None:
    source = """
def handle(data, context):
    if data is None:
        context.cache = {"loaded": True}
        return None
    context.cache[context.request_ids[0]] = id(context)
    return [repr(context.cache)]
"""
    service = load(model_dir({"h.py": source}), "h")
    infer(service, {})
    infer(service, {})
    assert service.context.cache == {"loaded": True, "id0": id(service.context)}


@pitfall("12.5 a function is called once without data, its result ignored")
def test_function_handlers(pitfall: str, load: Any, model_dir: Any, infer: Any) -> None:
    source = (
        "calls = []\ndef handle(d, c):\n    calls.append(d)\n    return 3 if d is None else d\n"
    )
    service = load(model_dir({"h.py": source}), "h")
    assert infer(service, "x").predictions[0].body == b"x"
    assert service._entry_point.__globals__["calls"] == [None, ["x"]]


@pitfall("12.6 exactly one class, and handle at module level wins")
def test_one_class(pitfall: str, load: Any, model_dir: Any, infer: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected only one class .* \[Handler, Second\]"):
        load(model_dir({"two.py": f"{CLASS}class Second(Handler): pass\n"}), "two")
    source = f"{CLASS}def handle(data, context):\n    return data and ['function']\n"
    assert infer(load(model_dir({"h.py": source}), "h"), {}).predictions[0].body == b"function"


@pitfall("12.7 ImportError masking")
def test_import_error_masking(pitfall: str, load: Any, model_dir: Any) -> None:
    """TorchServe says that there is no module ts.torch_handler.h, whatever h lacks."""
    for lack in ("import no_such_package", "from json import no_such_name"):
        with pytest.raises(ImportError, match="no_such") as caught:
            load(model_dir({"h.py": lack}), "h")
        assert "torch_handler" not in str(caught.value)
    with pytest.raises(RuntimeError, match="No model weights"):  # the fall-back itself is kept
        load(model_dir(), "base_handler")


@pitfall("12.9 result types")
@pytest.mark.parametrize(
    ("value", "body"),
    [
        ({"a": [1, None]}, b'{\n  "a": [\n    1,\n    null\n  ]\n}'),
        ([1.5, True], b"[\n  1.5,\n  true\n]"),
        ("plain é", "plain é".encode()),
        (b"\x00raw", b"\x00raw"),
        (3, b"3"),
        (None, b"null"),
    ],
)
def test_results(pitfall: str, infer: Any, value: Any, body: bytes) -> None:
    assert infer(service_of(lambda data, context: [value]), {}).predictions[0].body == body


@pitfall("12.9 a result is a list of one element per request, a tensor is saved")
def test_result_shape(pitfall: str, infer: Any) -> None:
    for result in ((1, 2), "ab", {0: 1, 1: 2}, [1]):
        assert infer(service_of(lambda d, c, r=result: r), {}, {}).code == 503
    saved = encode_body(torch.arange(3))
    assert torch.equal(torch.load(io.BytesIO(saved)), torch.arange(3))


@pitfall("12.10 no content type unless set, status per request, an error overrides all")
def test_heads_of_answers(pitfall: str, infer: Any) -> None:
    def handle(data: Any, context: Context) -> Any:
        context.set_response_status(418, "teapot", 1)
        context.set_response_header(1, "X-One", "1")
        if data[0].get("fail"):
            raise PredictionException("no", 400)
        return ["a", "b"]

    first, second = infer(service_of(handle), {}, {}).predictions
    assert (first.status, first.reason, first.headers) == (200, "", {})
    assert (second.status, second.reason, second.headers) == (418, "teapot", {"X-One": "1"})
    failed = infer(service_of(handle), {"fail": 1}, {})
    assert (failed.code, failed.message, failed.predictions) == (400, "no", [])


@pitfall("12.11 topk=5 with fewer classes")
def test_few_classes(pitfall: str) -> None:
    handler = ImageClassifier()
    handler.mapping = {"0": "cat", "1": "dog"}
    (answer,) = handler.postprocess(torch.tensor([[0.0, 1.0]]))
    assert list(answer) == ["dog", "cat"]


@pitfall("12.11 text_classifier with a batch")
def test_batches_of_texts(pitfall: str) -> None:
    handler = TextClassifier()
    handler.device, handler.source_vocab = torch.device("cpu"), {"a": 1, "b": 2}
    tensors, tokens = handler.preprocess([{"data": "a"}, {"data": "b"}])
    assert ([one.tolist() for one in tensors], tokens) == ([[1], [2]], [["a"], ["b"]])


@pitfall("12.11 kserve envelopes with a batch")
@pytest.mark.parametrize("envelope", ["kserve", "kservev2"])
def test_batches_of_kserve(
    pitfall: str, envelope: str, load: Any, model_dir: Any, infer: Any
) -> None:
    source = "def handle(data, context):\n    return data and [1 for _ in data]\n"
    service = load(model_dir({"h.py": source}), "h", envelope=envelope)
    tensor = {"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}
    body = {"instances": [1]} if envelope == "kserve" else {"inputs": [tensor]}
    outcome = infer(service, {"body": json.dumps(body).encode()})
    assert outcome.code == 200
    if envelope == "kserve":
        assert len(infer(service, *[{"body": body}] * 3).predictions) == 3


@pitfall("12.11 a class without a label")
def test_unmapped_classes(pitfall: str) -> None:
    handler = ImageClassifier()
    handler.mapping = {"0": "cat"}
    with pytest.raises(KeyError):  # 503 as upstream: the archive lacks a label
        handler.postprocess(torch.tensor([[0.0, 1.0]]))


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("run!",))


@pitfall("12.12 torch.load reads tensors only: weights")
def test_pickled_weights(pitfall: str, load: Any, model_dir: Any, capsys: Any) -> None:
    folder = model_dir({"model.py": MODEL_PY}, modelFile="model.py", serializedFile="w.pth")
    torch.save(Evil(), folder / "w.pth")
    with pytest.raises(ValueError, match="weights_only=false in the register call"):
        load(folder, "base_handler")
    torch.save(Tiny().state_dict(), folder / "w.pth")
    load(folder, "base_handler")
    assert "run!" not in capsys.readouterr().out


@pitfall("12.12 torch.load reads tensors only: source_vocab.pt")
def test_pickled_vocabularies(pitfall: str, load: Any, model_dir: Any, capsys: Any) -> None:
    folder = model_dir({"model.py": MODEL_PY}, modelFile="model.py")
    torch.save(Evil(), folder / "source_vocab.pt")
    with pytest.raises(ValueError, match=r"source_vocab\.pt holds Python objects beside tensors"):
        load(folder, "text_classifier")
    assert "run!" not in capsys.readouterr().out


@pitfall("12.12 torch.load reads tensors only: inputs of DenseNetHandler")
def test_pickled_inputs(pitfall: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Whatever the model may read, a client's bytes never run."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    handler = DenseNetHandler()
    handler.device = torch.device("cpu")
    stream = io.BytesIO()
    torch.save(Evil(), stream)
    with pytest.raises(pickle.UnpicklingError):
        handler.preprocess([{"data": stream.getvalue()}])
    assert "run!" not in capsys.readouterr().out


@pitfall("12.14 helpers do not raise for dimensions and negative counters, but for units")
def test_metric_errors(pitfall: str, metrics: Any, caplog: Any) -> None:
    metrics.add_counter("Count", -1)
    metrics.add_metric_to_cache("Two", "count", ["a", "b"]).add_or_update(1, ["only one"])
    assert len([one for one in caplog.records if "Failed to update metric" in one.message]) == 2
    with pytest.raises(MetricsCacheValueError):
        metrics.add_time("T", 1, unit="h")
    with pytest.raises(MetricsCacheValueError):
        metrics.add_size("S", 1, unit="TB")


@pitfall("12.15 timed without self.context")
def test_timed_without_a_context(pitfall: str) -> None:
    class Handler:  # has not called super().__init__(), nor been handed a context yet
        @timed
        def preprocess(self, data: Any) -> Any:
            return data

    assert Handler().preprocess("x") == "x"


@pitfall("12.16 header values that are no str")
def test_header_values(pitfall: str, infer: Any) -> None:
    def handle(data: Any, context: Context) -> Any:
        for name, value in (("X-Int", 3), ("X-None", None), ("X-Bytes", b"b"), ("X-Float", 1.5)):
            context.set_response_header(0, name, value)
        return ["x"]

    (answer,) = infer(service_of(handle), {}).predictions
    assert answer.headers == {"X-Int": "3", "X-None": "None", "X-Bytes": "b", "X-Float": "1.5"}


@pitfall("12.17 lengths of content type and reason are in bytes")
def test_frames_beyond_ascii(pitfall: str) -> None:
    def handle(data: Any, context: Context) -> Any:
        context.set_response_status(200, "schön", 0)
        context.set_response_content_type(0, "text/é")
        return ["x"]

    request = {"requestId": b"r", "headers": [], "parameters": []}
    sent = service_of(handle).predict([request])
    for text in ("schön", "text/é"):
        encoded = text.encode()
        assert struct.pack("!i", len(encoded)) + encoded in sent
    assert sent.endswith(struct.pack("!i", 1) + b"x" + struct.pack("!i", -1))


@pitfall("12.18 the envelope is the server's, not the manifest's")
def test_envelopes(pitfall: str, load: Any, model_dir: Any, infer: Any) -> None:
    folder = model_dir({"h.py": CLASS}, envelope="json")
    row = {"body": b'{"instances": [1]}'}
    plain = infer(load(folder, "h"), row).predictions[0].body
    assert b"instances" in plain
    enveloped = infer(load(folder, "h", envelope="json"), row).predictions[0].body
    assert enveloped == b'{"predictions": ["1"]}'


@pitfall("12.19 archiver: file.py:func, the .py rule, folders, hidden files")
def test_archiver(pitfall: str, tmp_path: Path) -> None:
    handler = tmp_path / "h.py"
    handler.write_text("def fn(data, context): return data\n")
    extra = tmp_path / "extra"
    for folder in (".hidden", "kept", "__pycache__"):
        (extra / folder).mkdir(parents=True)
        (extra / folder / "file.txt").write_text(folder)
    (extra / ".dot").write_text("a hidden file")
    (extra / "old.pyc").write_bytes(b"pyc")
    stem = str(handler.with_suffix(""))
    for number, given in enumerate([f"{stem}:fn", f"{handler}:fn"]):  # the latter is mended
        out = tmp_path / f"out{number}"
        made = pack("m", given, "1.0", extra_files=str(extra), export_path=out)
        with zipfile.ZipFile(made) as archive:
            found = set(archive.namelist())
            manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        assert {".dot", "old.pyc", "kept/file.txt", "h.py"} <= found
        assert not [name for name in found if ".hidden/" in name or "__pycache__" in name]
        assert manifest["model"]["handler"] in ("h:fn", "h.py:fn")


@pitfall("12.20 parallelType without torchrun, and custom without asyncCommunication")
@pytest.mark.parametrize(
    ("kind", "ranks"),
    [
        ("tp", Ranks(2, 29500, all_predict=True)),
        ("pptp", Ranks(2, 29500, all_predict=True)),
        ("pp", Ranks(2, 29500, all_predict=False)),
        ("custom", None),  # one process, which is all that is waited for
    ],
)
def test_parallel_types(pitfall: str, kind: Any, ranks: Ranks | None, caplog: Any) -> None:
    """TorchServe had no torchrun to start, and with custom waited for processes that nobody
    starts."""
    found = read_parallel(YamlReader({"parallelType": kind, "parallelLevel": 2}, "m.yaml"))
    assert found == Parallel(kind, 2)
    assert found.ranks(29500) == ranks
    assert not caplog.records


def test_each_pitfall_has_a_test() -> None:
    here = Path(__file__)
    texts = [here.read_text(), (here.parents[2] / "worker" / "test_pitfalls.py").read_text()]
    named = re.findall(r'^@pitfall\("12\.(\d+) ', "\n".join(texts), re.MULTILINE)
    assert set(map(int, named)) == set(range(1, 23)) - LEFT_OUT
