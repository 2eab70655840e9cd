"""Packs the colour classifier.

The archive goes into ``model_store/`` of the current folder, a photo into
``build/micro_batching/``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import sklearn.datasets

from ts_archiver import pack

HERE = Path(__file__).resolve().parent
BUILD = Path("build/micro_batching")
PHOTO = Path(sklearn.datasets.__file__).parent / "images" / "flower.jpg"


def main() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PHOTO, BUILD / PHOTO.name)
    names = BUILD / "index_to_name.json"
    names.write_text(json.dumps(dict(enumerate(["red", "green", "blue", "black", "white"]))))
    archive = pack(
        "colours",
        str(HERE / "handler.py"),
        "1.0",
        model_file=HERE / "model.py",
        extra_files=names,
        config_file=HERE / "model-config.yaml",
        export_path="model_store",
        force=True,
    )
    print(f"Wrote {archive}")


if __name__ == "__main__":
    main()
