"""Models in several processes: DeepSpeed and PiPPy by stand-ins, torch's RPC for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.e2e.conftest import free_ports
from tests.handlers.optional_packages import pretend
from ts.context import Context
from ts.handler_utils.distributed import pt_pippy
from ts.handler_utils.distributed.deepspeed import create_checkpoints_json, get_ds_engine
from ts.torch_handler.distributed import base_pippy_handler
from ts.torch_handler.distributed.base_deepspeed_handler import BaseDeepSpeedHandler
from ts.torch_handler.distributed.base_pippy_handler import BasePippyHandler


def context(folder, **yaml) -> Context:
    return Context("large", str(folder), None, 1, None, "0", model_yaml_config=yaml)


@pytest.fixture
def engines(monkeypatch):
    """What DeepSpeed was asked for."""
    asked: list[dict] = []

    def init_inference(model, config, **kwargs):
        asked.append({"config": config, **kwargs})
        return ("engine", model)

    pretend(monkeypatch, "deepspeed", init_inference=init_inference)
    return asked


def test_deepspeed_gets_the_config_and_the_checkpoint_of_the_yaml(tmp_path, engines):
    for name in ("ds.json", "ckpt.json"):
        (tmp_path / name).write_text("{}")
    ctx = context(tmp_path, deepspeed={"config": "ds.json", "checkpoint": "ckpt.json"})
    assert get_ds_engine("model", ctx) == ("engine", "model")
    assert engines == [
        {"config": str(tmp_path / "ds.json"), "checkpoint": str(tmp_path / "ckpt.json")}
    ]
    get_ds_engine("model", context(tmp_path, deepspeed={"config": "ds.json"}))
    assert engines[1] == {"config": str(tmp_path / "ds.json")}


def test_without_a_checkpoint_the_weights_of_model_path_are_listed(tmp_path, engines):
    (tmp_path / "ds.json").write_text("{}")
    weights = tmp_path / "weights" / "deep"
    weights.mkdir(parents=True)
    for name in ("b.bin", "a.pt", "config.json"):
        (weights / name).write_text("")
    ctx = context(tmp_path, deepspeed={"config": "ds.json"}, handler={"model_path": "weights"})
    get_ds_engine("model", ctx)
    listed = json.loads((tmp_path / "checkpoints.json").read_text())
    assert engines[0]["checkpoint"] == str(tmp_path / "checkpoints.json")
    assert listed == {
        "type": "ds_model",
        "checkpoints": [str(weights / "a.pt"), str(weights / "b.bin")],
        "version": 1.0,
    }
    create_checkpoints_json(weights, tmp_path / "again.json")
    assert sorted(os.listdir(tmp_path)) == ["again.json", "checkpoints.json", "ds.json", "weights"]


@pytest.mark.parametrize(
    ("yaml", "text"),
    [
        ({}, "no section deepspeed"),
        ({"deepspeed": {}}, "names no config"),
        ({"deepspeed": {"config": "absent.json"}}, "no file absent.json"),
        ({"deepspeed": {"config": "ds.json"}, "handler": {"model_path": "gone"}}, "is no folder"),
    ],
)
def test_what_deepspeed_lacks_is_named(tmp_path, engines, yaml, text):
    (tmp_path / "ds.json").write_text("{}")
    with pytest.raises(ValueError, match=text):
        get_ds_engine("model", context(tmp_path, **yaml))


def test_without_the_packages_the_error_says_what_to_install(tmp_path):
    (tmp_path / "ds.json").write_text("{}")
    with pytest.raises(ImportError, match="pip install deepspeed"):
        get_ds_engine("model", context(tmp_path, deepspeed={"config": "ds.json"}))
    with pytest.raises(ImportError, match="pip install torchpippy"):
        pt_pippy.get_pipeline_driver(
            torch.nn.Linear(1, 1), 2, context(tmp_path, pippy={"input_names": ["input"]})
        )


def test_pippy_cuts_the_model_by_the_yaml(tmp_path, monkeypatch):
    asked = {}

    def all_compile(model, **kwargs):
        asked.update(kwargs)
        return "driver", "stage"

    class Model(torch.nn.Module):
        def forward(self, input_ids, mask=None, scale=2):
            return input_ids

    pretend(
        monkeypatch, "pippy", all_compile=all_compile, split_into_equal_size=lambda n: ("split", n)
    )
    pretend(monkeypatch, "pippy.hf", PiPPyHFTracer=lambda: "tracer")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "index.json").write_text("{}")
    model = Model()
    ctx = context(
        tmp_path,
        pippy={"input_names": ["input_ids"], "model_type": "HF", "chunks": 3},
        handler={"model_path": "m", "index_filename": "index.json"},
    )
    assert pt_pippy.get_pipeline_driver(model, 4, ctx) == "driver"
    assert not model.training
    assert asked == {
        "num_ranks": 4,
        "num_chunks": 3,
        "schedule": "FillDrain",
        "split_policy": ("split", 4),
        "tracer": "tracer",
        "concrete_args": {"mask": None, "scale": 2},
        "index_filename": str(tmp_path / "m" / "index.json"),
        "checkpoint_prefix": str(tmp_path / "m"),
    }
    asked.clear()
    pt_pippy.get_pipline_driver(model, 2, context(tmp_path, pippy={"input_names": ["input_ids"]}))
    assert "tracer" not in asked
    assert asked["num_chunks"] == 1
    with pytest.raises(ValueError, match=r"pippy: \{input_names"):
        pt_pippy.get_pipeline_driver(model, 2, context(tmp_path))
    yaml = {"pippy": {"input_names": ["x"]}, "handler": {"index_filename": "absent"}}
    with pytest.raises(ValueError, match="index_filename of its yaml"):
        pt_pippy.get_pipeline_driver(model, 2, context(tmp_path, **yaml))


RANK = """
import os, sys, torch
from torch.distributed import rpc
from ts.context import Context
from ts.torch_handler.distributed.base_pippy_handler import BasePippyHandler

class Handler(BasePippyHandler):
    pass

yaml = {"pippy": {"rpc_timeout": 60, "num_worker_threads": 4}}
handler = Handler()
handler.initialize(Context("m", "/", None, 1, None, "0", model_yaml_config=yaml))
assert rpc.get_worker_info().name == f"worker{handler.local_rank}"
if handler.local_rank == 0:
    print(handler.device, int(rpc.rpc_sync("worker1", torch.add, args=(torch.tensor(2), 3))))
rpc.shutdown()
"""


def test_two_processes_join_by_rpc():
    port = free_ports(1)[0]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK],
            env=common | {"LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=100) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert outputs[0][0] == "cpu 5\n"


def test_the_bases_take_their_place_from_the_environment(tmp_path, monkeypatch):
    joined = []
    monkeypatch.setattr(
        base_pippy_handler, "initialize_rpc_workers", lambda *args: joined.append(args)
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    ctx = context(tmp_path)
    pipeline, deepspeed = BasePippyHandler(), BaseDeepSpeedHandler()
    pipeline.initialize(ctx)
    deepspeed.initialize(ctx)
    assert (pipeline.local_rank, pipeline.world_size, pipeline.device) == (3, 4, 1)
    assert joined == [(3, 4, ctx)]
    assert deepspeed.device == 3
    monkeypatch.delenv("LOCAL_RANK")
    deepspeed.initialize(ctx)
    assert deepspeed.device == 0


def test_gpus_are_mapped_between_the_workers(tmp_path, monkeypatch):
    from torch.distributed import rpc

    maps, calls = {}, []

    class Options:
        def __init__(self, **kwargs):
            calls.append(kwargs)

        def set_device_map(self, to, mapping):
            maps[to] = mapping

    monkeypatch.setattr(rpc, "TensorPipeRpcBackendOptions", Options)
    monkeypatch.setattr(rpc, "init_rpc", lambda name, **kwargs: calls.append(name))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    pt_pippy.initialize_rpc_workers(3, 4, context(tmp_path))
    assert maps == {"worker0": {1: 0}, "worker1": {1: 1}, "worker2": {1: 0}, "worker3": {1: 1}}
    assert calls == [{}, "worker3"]
