"""A compiled model: the second worker and the next start find what the first one compiled."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.e2e.conftest import Server, archive, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler"),
]

MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(6))

    def forward(self, x):
        for layer in self.layers:
            x = torch.softmax(torch.relu(layer(x)) + x.sin(), dim=-1)
        return x
"""
HANDLER = """
import json
import torch
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def preprocess(self, data):
        return torch.tensor([json.loads(bytes(row["body"])) if isinstance(row["body"], bytearray)
                             else row["body"] for row in data], dtype=torch.float32)
"""
SAMPLE = "[" + ",".join(["0.5"] * 64) + "]"


def make_archive(server: Server) -> Path:
    sources = server.folder / "sources"
    (sources / "warmup").mkdir(parents=True)
    (sources / "net.py").write_text(MODEL)
    (sources / "net_handler.py").write_text(HANDLER)
    (sources / "warmup" / "row.json").write_text(f'{{"body": {SAMPLE}}}')
    (sources / "model-config.yaml").write_text(
        "minWorkers: 1\nmaxWorkers: 1\nwarmupSeconds: 100\nstartupTimeout: 300\n"
        "pt2: {compile: {enable: true}}\n"
    )
    namespace: dict = {}
    exec(MODEL, namespace)
    torch.save(namespace["Net"]().state_dict(), sources / "net.pth")
    return archive(
        server.store,
        "net",
        sources / "net_handler.py",
        *("--model-file", str(sources / "net.py"), "--serialized-file", str(sources / "net.pth")),
        *("--config-file", str(sources / "model-config.yaml")),
        *("--warmup", str(sources / "warmup")),
    )


def load_times(server: Server) -> list[int]:
    """Milliseconds of each load, in order, as the log has them."""
    return [int(ms) for ms in re.findall(r"loaded its model in (\d+) ms", server.output)]


def test_the_second_worker_and_a_restart_compile_nothing(
    make_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch sets them for itself where another test has compiled in this process.
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    cache = "compiled"
    server = make_server(compile_cache=cache, enable_model_api="true")
    make_archive(server)
    server.start("--models", "net.mar")
    until(lambda: load_times(server), 100)
    answer = server.predict("net", SAMPLE.encode(), content_type="application/json")
    assert answer.status == 200, answer.text
    server.manage("PUT", "/models/net", min_worker=2, max_worker=2, synchronous="true")
    first, second = until(lambda: len(times := load_times(server)) == 2 and times)
    compiled = set((server.folder / cache).rglob("*.cpp"))
    assert compiled, "nothing was compiled into the folder"
    server.stop()

    server.start("--models", "net.mar")
    until(lambda: load_times(server), 100)
    restarted = load_times(server)[0]
    server.stop()

    print(f"first worker {first} ms, second {second} ms, after a restart {restarted} ms")
    assert set((server.folder / cache).rglob("*.cpp")) == compiled
    assert max(second, restarted) < first
