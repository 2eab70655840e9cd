"""Warm-up: how samples are read, which batches are run, and what a worker does with them."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import pytest

from tests.worker.conftest import ask, until
from ts.context import Context
from ts.service import Service
from ts_worker.backend.base import LoadFailed
from ts_worker.messages import unpack_headers
from ts_worker.runtime.samples import BadSample, read_samples
from ts_worker.runtime.warmup import WarmUpFailed, batch_sizes, warm_up

HANDLER = """
import logging
from ts.handler_utils.utils import send_intermediate_predict_response

calls = []

def handle(data, context):
    if data is None:
        return None
    context.metrics.add_counter("Calls", 1)
    logging.info("[METRICS]Told.Count:1|#Level:Model|#hostname:h,1")
    calls.append([str(row.get("body")) for row in data])
    if len(calls) == 1:
        parts = ["part"] * len(data)
        send_intermediate_predict_response(parts, context.request_ids, "", 200, context)
    if "bad" in calls[-1]:
        raise ValueError("I can't stand it")
    return [",".join(str(len(call)) for call in calls)] * len(data)
"""


# In front of `HANDLER`: its first call, which is of the warm-up, waits for another worker's.
MEETING = """
import os, time
from pathlib import Path

class Calls(list):
    def append(self, call):
        super().append(call)
        Path("warms-%d" % os.getpid()).touch()
        end = time.monotonic() + 20
        while len(list(Path().glob("warms-*"))) < 2:
            assert time.monotonic() < end, "no other worker warms up"
            time.sleep(0.002)
"""


class Recorder:
    """A handler that remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[dict]] = []
        self.contexts: list[list[dict]] = []

    def handle(self, data: list[dict], context: Context) -> list[str]:
        self.batches.append(data)
        self.contexts.append([context.get_all_request_header(at) for at in range(len(data))])
        if any(row.get("body") == "refuse" for row in data):
            context.set_response_status(422, "Unprocessable", 0)
        return ["fine"] * len(data)


def service_of(folder: Path, recorder: Recorder, batch_size: int = 1, **yaml: object) -> Service:
    service = Service("m", str(folder), None, recorder.handle, None, batch_size)
    service.context.model_yaml_config.update(yaml)
    return service


def put(folder: Path, **files: str | bytes) -> None:
    """Write samples; ``kitten_jpg`` stands for kitten.jpg."""
    (folder / "warmup").mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / "warmup" / ".".join(name.rsplit("_", 1))
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_no_folder_means_no_samples(tmp_path: Path) -> None:
    assert read_samples(str(tmp_path)) == []


def test_a_package_of_that_name_is_the_handlers_own(tmp_path: Path) -> None:
    put(tmp_path, __init___py="", notes_json="[]")
    assert read_samples(str(tmp_path)) == []


def test_files_are_requests_in_the_order_of_their_names(tmp_path: Path) -> None:
    put(
        tmp_path,
        b_jpg=b"\xff\xd8",
        c_txt="words",
        d_weird=b"?",
        a_json='{"body": {"x": [1, 2]}, "k": "3", "headers": {"X-Mode": "fast"}}',
    )
    (tmp_path / "warmup" / ".hidden").write_text("nothing")

    described, image, text, unknown = read_samples(str(tmp_path))

    assert described.name == "warmup/a.json"
    assert [tuple(param) for param in described.params] == [
        ("body", "application/json", b'{"x": [1, 2]}'),
        ("k", "text/plain", b"3"),
    ]
    assert unpack_headers(described.headers) == [("X-Mode", "fast")]
    assert [tuple(param) for param in image.params] == [("body", "image/jpeg", b"\xff\xd8")]
    assert text.params[0].content_type == "text/plain"
    assert unknown.params[0].content_type == ""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "warmup/a.json is not JSON"),
        ("[1]", 'an object with an input "body" or "data"'),
        ('{"instances": [1]}', 'an object with an input "body" or "data"'),
        ('{"body": 1, "headers": {"X": 1}}', '"headers", an object of texts'),
    ],
)
def test_a_bad_description_says_what_it_should_be(tmp_path: Path, text: str, cause: str) -> None:
    put(tmp_path, a_json=text)
    with pytest.raises(BadSample) as error:
        read_samples(str(tmp_path))
    assert cause in str(error.value)


def test_a_folder_among_the_samples_is_refused(tmp_path: Path) -> None:
    (tmp_path / "warmup" / "more").mkdir(parents=True)
    with pytest.raises(BadSample, match="warmup/more is a folder"):
        read_samples(str(tmp_path))


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 3, 2]), (6, [1, 6, 2, 4, 3, 5])],
)
def test_every_batch_size_comes_once_and_the_telling_ones_first(largest, sizes) -> None:
    assert batch_sizes(largest) == sizes


def test_each_sample_runs_alone_and_then_in_every_batch_size(tmp_path: Path) -> None:
    put(tmp_path, a_json='{"data": [1], "headers": {"X-Mode": "fast"}}', b_txt="two")
    recorder = Recorder()

    warm_up(service_of(tmp_path, recorder, batch_size=3), decode=True)

    one, two = {"data": [1]}, {"body": "two"}
    assert recorder.batches == [[one], [two], [one, two, one], [one, two]]
    assert recorder.contexts[0][0]["X-Mode"] == "fast"


def test_bodies_stay_bytes_where_requests_are_not_decoded(tmp_path: Path) -> None:
    put(tmp_path, a_json='{"body": [1]}')
    recorder = Recorder()
    warm_up(service_of(tmp_path, recorder), decode=False)
    assert recorder.batches == [[{"body": bytearray(b"[1]")}]]


def test_it_ends_when_its_time_is_over_and_says_so(tmp_path: Path, caplog) -> None:
    put(tmp_path, a_txt="x")
    recorder = Recorder()
    service = service_of(tmp_path, recorder, batch_size=8, warmupSeconds=2)

    warm_up(service, decode=True, clock=itertools.count().__next__)

    assert [len(batch) for batch in recorder.batches] == [1]
    assert "Warm-up ended after warmupSeconds=2 s: 1 of 8 batches" in caplog.text
    assert "not those of 2, 3, 4, 5, 6, 7, 8" in caplog.text


def test_zero_seconds_run_nothing(tmp_path: Path) -> None:
    put(tmp_path, a_txt="x")
    recorder = Recorder()
    warm_up(service_of(tmp_path, recorder, warmupSeconds=0), decode=True)
    assert recorder.batches == []


@pytest.mark.parametrize("value", [-1, "long", True, None])
def test_seconds_that_are_none_are_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match="warmupSeconds must be a number of seconds"):
        warm_up(service_of(tmp_path, Recorder(), warmupSeconds=value), decode=True)


def test_an_answer_with_an_error_status_fails_it(tmp_path: Path) -> None:
    put(tmp_path, a_txt="fine", b_txt="refuse")
    with pytest.raises(WarmUpFailed, match=r"failed on warmup/b.txt: status 422 fine"):
        warm_up(service_of(tmp_path, Recorder()), decode=True)


def test_an_error_without_a_text_fails_it(tmp_path: Path) -> None:
    class Unsayable(Exception):
        def __str__(self) -> str:
            return str(1 / 0)

    def handle(data: object, context: object) -> None:
        raise Unsayable

    put(tmp_path, a_txt="x")
    with pytest.raises(WarmUpFailed, match=r"Unsayable: <its __str__ raised ZeroDivisionError>"):
        warm_up(Service("m", str(tmp_path), None, handle, None, 1), decode=True)


def test_results_of_the_wrong_number_fail_it(tmp_path: Path) -> None:
    put(tmp_path, a_txt="x")
    service = Service("m", str(tmp_path), None, lambda data, context: [], None, 1)
    with pytest.raises(WarmUpFailed, match="number of batch response mismatched"):
        warm_up(service, decode=True)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_is_warm_before_it_is_loaded(backend, spec, tmp_path) -> None:
    put(tmp_path, a_txt="x")
    described = spec(HANDLER, batch_size=3)
    events = described.events

    worker = await backend.start(described)

    assert any("Warm-up: 3 batches" in record.text for record in events.records)
    assert {metric.name for metric in events.metrics} <= {"WorkerLoadTime"}
    assert not any("Told.Count" in record.text for record in events.records)
    reply, chunks = await ask(worker, b"real")
    assert [bytes(row.body) for row in reply.responses] == [b"1,3,2,1"]
    assert chunks == []
    await until(lambda: "Calls" in {metric.name for metric in events.metrics})
    await worker.stop(5)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_failing_sample_fails_the_load(backend, spec, tmp_path) -> None:
    put(tmp_path, fine_txt="x", late_txt="bad")
    with pytest.raises(LoadFailed) as failure:
        await backend.start(spec(HANDLER))
    assert failure.value.message == (
        "WarmUpFailed: The handler failed on warmup/late.txt: ValueError: I can't stand it"
    )
    assert "handler_of_test.py" in failure.value.traceback


@pytest.mark.asyncio(loop_scope="module")
async def test_two_workers_warm_up_side_by_side(backend, spec, tmp_path) -> None:
    put(tmp_path, a_json=json.dumps({"body": "x"}))
    source = MEETING + HANDLER.replace("calls = []", "calls = Calls()")
    specs = [spec(source, id=id, batch_size=4) for id in ("9000", "9001")]
    workers = await asyncio.gather(*map(backend.start, specs))
    for number, (worker, started) in enumerate(zip(workers, specs, strict=True)):
        told = [record.text for record in started.events.records]
        assert [text for text in told if text.startswith("Warm-up: 4 batches")], told
        reply, _ = await ask(worker, b"real", batch_id=number)
        assert [bytes(row.body) for row in reply.responses] == [b"1,4,2,3,1"]
    await asyncio.gather(*(worker.stop(5) for worker in workers))
