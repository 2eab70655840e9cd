"""The inputs of a small model, in a folder that is the current one."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

WEIGHTS = random.Random(7).randbytes(10_000)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """h.py, m.py, w.pt, requirements.txt, model-config.yaml and a folder of extra files."""
    folder = tmp_path / "model"
    (folder / "extra" / "sub").mkdir(parents=True)
    (folder / "extra" / "__pycache__").mkdir()
    (folder / "extra" / ".git").mkdir()
    texts = {
        "h.py": "def handle(data, context):\n    return data\n" * 50,
        "m.py": "class Model:\n    pass\n",
        "requirements.txt": "numpy\n",
        "model-config.yaml": "minWorkers: 1\n",
        "extra/labels.json": '{"0": "cat"}' * 100,
        "extra/sub/deep.txt": "deep",
        "extra/.hidden": "kept, as TorchServe keeps it",
        "extra/__pycache__/x.pyc": "left out",
        "extra/.git/config": "left out",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "w.pt").write_bytes(WEIGHTS)
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return folder
