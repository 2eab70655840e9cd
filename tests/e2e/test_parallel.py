"""Models of two processes behind the real server: a tensor's parts, a pipeline's stages."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import MARS, Server, archive, runs, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ONES = json.dumps({"x": [1.0] * 8}).encode()
TENSOR = "parallelType: tp\ntorchrun: {nproc-per-node: 2, OMP_NUMBER_THREADS: 2}\n"
PIPELINE = "parallelType: pp\nparallelLevel: 2\n"


@pytest.fixture(scope="module")
def server(make_server) -> Server:
    server = make_server(enable_model_api="true", default_startup_timeout=60)
    add(server, "tensor", "two_ranks", TENSOR)
    add(server, "pipeline", "two_stages", PIPELINE)
    add(server, "broken", "two_ranks", f"{TENSOR}broken_rank: 1\n")
    return server.start()


def add(server: Server, name: str, mar: str, yaml: str) -> Path:
    config = server.folder / f"{name}.yaml"
    config.write_text(yaml)
    return archive(server.store, name, MARS / f"{mar}.py", "--config-file", str(config))


def processes(server: Server, model: str) -> list[psutil.Process]:
    """The ranks of a model: named by it, as in ps."""
    return [one for one in server.family() if one.name() == f"ts:{model}"]


def test_a_model_of_two_ranks(server: Server) -> None:
    assert server.register("tensor.mar", initial_workers=1).status == 200
    answer = server.predict("tensor", ONES)
    assert (answer.status, answer.json) == (200, {"sum": 36.0})
    first, second = server.predict("tensor", b'"where"').json
    (body,) = server.manage("GET", "/models/tensor").json
    assert (body["parallelType"], body["parallelLevel"]) == ("tp", 2)
    (worker,) = body["workers"]
    assert worker["pid"] == first["pid"]
    memory = [psutil.Process(each["pid"]).memory_info().rss for each in (first, second)]
    assert worker["memoryUsage"] > max(memory) * 1.2
    assert first["threads"] == second["threads"] == 2
    id = worker["id"]
    assert int(id) >= 29500
    for rank in (0, 1):
        name = f"W-{id}-tensor_1.0-rank{rank}-stdout"
        line = f"{name} MODEL_LOG - initializing rank {rank}"
        until(lambda line=line: line in server.log("model_log"))

    # One rank dies: the worker is replaced as a whole.
    os.kill(second["pid"], signal.SIGKILL)
    until(lambda: server.workers("tensor")[0]["pid"] not in (-1, first["pid"]))
    until(lambda: server.ready("tensor"))
    assert server.predict("tensor", ONES).json == {"sum": 36.0}
    until(
        lambda: f"W-{id}-tensor_1.0 Worker disconnected. rank 1: killed by SIGKILL" in server.output
    )
    third, fourth = server.predict("tensor", b'"where"').json
    assert len({each["pid"] for each in (first, second, third, fourth)}) == 4

    ranks = processes(server, "tensor")
    assert {each.pid for each in ranks} == {third["pid"], fourth["pid"]}
    assert server.manage("DELETE", "/models/tensor").status == 200
    assert not any(map(runs, ranks))


def test_a_batch_behind_one_that_put_ranks_out_of_step_is_answered(server: Server) -> None:
    add(server, "shaky", "two_ranks", f"{TENSOR}responseTimeout: 2\n")
    assert server.register("shaky.mar", initial_workers=1).status == 200
    bad = json.dumps({"x": [1.0] * 8, "fails": 0}).encode()
    assert server.predict("shaky", bad).status == 503
    assert server.predict("shaky", ONES).json == {"sum": 36.0}
    assert "shaky_1.0 Worker disconnected. rank 1: still at a batch" in server.output
    assert server.manage("DELETE", "/models/shaky").status == 200


def test_a_rank_that_does_not_load_is_told_with_its_traceback(server: Server) -> None:
    answer = server.register("broken.mar", initial_workers=1)
    assert answer.status == 500
    first, cause, *rest = answer.json["message"].splitlines()
    assert first == "Failed to start workers for model broken version: 1.0"
    assert cause == "rank 1: ValueError: this rank has no weights"
    assert any("in initialize" in line for line in rest)
    assert not processes(server, "broken")


def test_a_pipeline_of_two_stages(server: Server) -> None:
    assert server.register("pipeline.mar", initial_workers=2).status == 200
    assert server.predict("pipeline", b"20").json == 41.0
    ids = [int(worker["id"]) for worker in server.workers("pipeline")]
    assert ids[1] - ids[0] == 2
    ranks = processes(server, "pipeline")
    assert len(ranks) == 4
    assert server.manage("PUT", "/models/pipeline", min_worker=1, synchronous="true").status == 200
    until(lambda: len(processes(server, "pipeline")) == 2)
    assert server.predict("pipeline", b"1").json == 3.0
    assert server.stop() == 0
    assert not any(map(runs, ranks))
