"""`MicroBatching`: parts in order, errors to the caller, threads that end."""

from __future__ import annotations

import threading

import pytest
import torch

from ts.handler_utils.micro_batching import HANDLER_METHODS, MicroBatching
from ts.torch_handler.base_handler import BaseHandler

MODULE = """
from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.base_handler import BaseHandler

class Doubling(BaseHandler):
    def __init__(self):
        super().__init__()
        self.handle = MicroBatching(self, micro_batch_size=2)

    def initialize(self, context):
        self.parts = []

    def preprocess(self, data):
        self.parts.append(len(data))
        return [row["body"] for row in data]

    def inference(self, data):
        return [2 * value for value in data]

    def postprocess(self, data):
        return [{"doubled": value, "parts": self.parts} for value in data]
"""


class Steps:
    """A handler that is no BaseHandler: adds, doubles, and answers."""

    def __init__(self) -> None:
        self.indices: list[int | None] = []
        self.batching: MicroBatching | None = None
        self.bad: object = None

    def preprocess(self, data):
        return [value + 1 for value in data]

    def inference(self, data):
        if self.bad in data:
            raise RuntimeError("no such number")
        if self.batching is not None:
            self.indices.append(self.batching.get_micro_batch_idx())
        return [2 * value for value in data]

    def postprocess(self, data):
        return data


@pytest.fixture
def steps():
    handler = Steps()
    handler.batching = MicroBatching(handler, micro_batch_size=2)
    yield handler
    handler.batching.shutdown()


def alive() -> int:
    return sum(thread.name.startswith("micro-batch") for thread in threading.enumerate())


def test_a_handler_answers_through_it_as_through_its_own_handle(load, infer, model_dir, caplog):
    caplog.set_level("INFO")
    service = load(model_dir({"handler.py": MODULE}), "handler.py")
    outcome = infer(service, *({"body": number} for number in range(5)))
    assert outcome.code == 200
    bodies = [prediction.body for prediction in outcome.predictions]
    assert [b'"doubled": %d' % (2 * number) in bodies[number] for number in range(5)] == [True] * 5
    assert service._entry_point.handler.parts == [2, 2, 1]
    assert "HandlerTime" in caplog.text
    service._entry_point.shutdown()


def test_results_come_in_order_from_several_threads(steps):
    batching = steps.batching
    batching.parallelism = {"preprocess": 2, "inference": 3, "postprocess": 2}
    batching.micro_batch_size = 3
    assert batching.handle(list(range(50))) == [2 * (number + 1) for number in range(50)]
    assert sorted(steps.indices) == list(range(17))
    assert batching.get_micro_batch_idx() is None
    assert batching.handle([]) == []


def test_the_stages_run_side_by_side(steps):
    # Each stage waits for the other to be at work too: one after the other they would hang.
    meeting = threading.Barrier(2, timeout=20)

    def preprocess(data):
        if data != [0]:
            meeting.wait()
        return data

    def inference(data):
        if data != [2]:
            meeting.wait()
        return data

    steps.preprocess, steps.inference = preprocess, inference
    steps.batching.micro_batch_size = 1
    assert steps.batching.handle([0, 1, 2]) == [0, 1, 2]


def test_no_thread_runs_before_the_first_batch_nor_after_the_shutdown(steps):
    batching = steps.batching
    assert {step: len(batching.thread_groups[step]) for step in HANDLER_METHODS} == dict.fromkeys(
        HANDLER_METHODS, 1
    )
    assert alive() == 0
    batching.handle([1])
    assert alive() == 3
    assert not batching.terminate.is_set()
    batching.shutdown()
    assert alive() == 0
    assert batching.terminate.is_set()
    batching.shutdown()
    assert batching.handle([1]) == [4]  # and starts anew


def test_an_error_reaches_the_caller_and_the_next_batch_runs(steps):
    steps.bad = 3
    with pytest.raises(RuntimeError, match="no such number"):
        steps.batching.handle(list(range(20)))
    steps.bad = None
    assert steps.batching.handle([2]) == [6]

    def leave(data):
        raise SystemExit(3)

    steps.postprocess = leave
    with pytest.raises(SystemExit):
        steps.batching.handle([1])


@pytest.mark.parametrize("step", HANDLER_METHODS)
@pytest.mark.parametrize(
    ("index", "blamed"), [(1, [7]), ([0, 1], [6, 7]), ((0,), [6]), (None, None), ([], [])]
)
def test_a_row_that_a_step_blames_is_numbered_in_the_batch(steps, step, index, blamed):
    def fail(data):
        if data == [6, 7]:
            error = ValueError("bad rows")
            error.request_index = index
            raise error
        return data

    steps.preprocess = steps.inference = steps.postprocess = lambda data: data
    setattr(steps, step, fail)
    with pytest.raises(ValueError, match="bad rows") as caught:
        steps.batching.handle(list(range(9)))
    assert caught.value.request_index == blamed


@pytest.mark.parametrize("index", [2, -1, [0, 2], "1"])
def test_rows_that_a_part_lacks_blame_no_row_of_another_part(steps, caplog, index):
    def fail(data):
        error = ValueError("bad rows")
        error.request_index = index
        raise error

    steps.inference = fail
    with pytest.raises(ValueError, match="bad rows") as caught:
        steps.batching.handle(list(range(6)))
    assert caught.value.request_index is None
    assert f"request_index={index!r} names no rows of the handler's 2" in caplog.text


def test_several_callers_do_not_mix(steps):
    answers: dict[int, list[int]] = {}

    def call(number: int) -> None:
        answers[number] = steps.batching.handle([number] * 5)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: [2 * (number + 1)] * 5 for number in range(8)}


def test_parallelism_is_a_copy_and_knows_its_steps(steps):
    batching = steps.batching
    batching.parallelism["inference"] = 9
    assert batching.parallelism == dict.fromkeys(HANDLER_METHODS, 1)
    batching.parallelism = {"inference": 2}
    assert batching.parallelism == {"preprocess": 1, "inference": 2, "postprocess": 1}
    assert len(batching.thread_groups["inference"]) == 2
    with pytest.raises(AssertionError, match="predict"):
        batching.parallelism = {"predict": 1}
    with pytest.raises(ValueError, match="inference is 0"):
        batching.parallelism = {"inference": 0}
    batching.micro_batch_size = 0
    with pytest.raises(ValueError, match="micro_batch_size is 0"):
        batching.handle([1])
    assert MicroBatching(steps, parallelism={"preprocess": 4}).parallelism["preprocess"] == 4


def test_describe_explain_and_the_profiler_take_the_whole_batch(metrics, monkeypatch):
    class Asked:
        metrics = None

        def __init__(self, header):
            self.header, self.metrics = header, metrics

        def get_request_header(self, idx, key):
            return "True" if key == self.header else None

    class Handler(BaseHandler):
        def describe_handle(self):
            return {"about": 1}

        def preprocess(self, data):
            return torch.tensor(data)

        def explain_handle(self, data_preprocess, raw_data):
            return [len(data_preprocess), raw_data]

        def _infer_with_profiler(self, data):
            return ["profiled"], None

    batching = MicroBatching(Handler())
    assert batching([1, 2], Asked("describe")) == [{"about": 1}]
    assert batching([1, 2], Asked("explain")) == [2, [1, 2]]
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    assert batching([1, 2], Asked("")) == ["profiled"]
    assert alive() == 0
