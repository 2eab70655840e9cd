"""What importing the package may cost: no torch for the plain parts, no threads for any."""

from __future__ import annotations

import ast
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

HANDLERS = Path(__file__).parents[2] / "handlers"
MODULES = sorted(
    module.name for module in pkgutil.walk_packages([str(HANDLERS / "ts")], prefix="ts.")
)


def run(script: str, **env: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_list_of_modules_is_not_empty():
    assert {"ts.context", "ts.torch_handler.image_classifier", "ts.metrics.unit"} <= set(MODULES)


@pytest.mark.parametrize(
    "modules",
    [
        "ts.context, ts.model_loader, ts.service, ts.utils.util",
        "ts.metrics.metric_cache_yaml_impl, ts.metrics.metrics_store, ts.metrics.metric_encoder",
        "ts.handler_utils.utils, ts.handler_utils.timer, ts.protocol.otf_message_handler",
    ],
)
def test_the_plain_parts_import_nothing_heavy(modules):
    heavy = "('torch', 'numpy', 'yaml', 'PIL', 'psutil', 'captum', 'asyncio', 'inspect_')"
    assert run(f"import sys, {modules}\nprint([m for m in {heavy} if m in sys.modules])") == "[]"


def test_importing_everything_starts_no_thread_and_touches_no_gpu():
    # What a zygote does before it forks; each of its threads would be lost in the fork.
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    script = f"""
import importlib, os, numpy, torch, torchvision
for name in {MODULES}:
    importlib.import_module(name)
import sys
extra = [m for m in ('captum', 'onnxruntime', 'transformers') if m in sys.modules]
print(len(os.listdir('/proc/self/task')), torch.cuda.is_initialized(), extra)
"""
    assert run(script, **one) == "1 False []"


@pytest.mark.parametrize("path", sorted((HANDLERS / "ts").rglob("*.py")), ids=lambda p: p.name)
def test_it_is_python_3_9(path):
    # A model may run in an older interpreter of its own.
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    future = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    annotated = any(isinstance(node, (ast.AnnAssign, ast.arg)) for node in ast.walk(tree))
    assert not annotated or any(node.module == "__future__" for node in future)
