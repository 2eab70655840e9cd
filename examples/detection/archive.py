"""Packs torchvision's Faster R-CNN for the built-in handler `object_detector`.

The weights are random, since published ones are not on PyPI. Where there is a network, build the
model with 91 classes, load ``FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.DEFAULT`` into it and
name the classes by its ``meta["categories"]``. The archive goes into ``model_store/`` of the
current folder, a photo into ``build/detection/``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import sklearn.datasets
import torch
from model import Detector

from ts_archiver import pack

HERE = Path(__file__).resolve().parent
BUILD = Path("build/detection")
PHOTO = Path(sklearn.datasets.__file__).parent / "images" / "flower.jpg"


def main() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PHOTO, BUILD / PHOTO.name)
    torch.manual_seed(0)
    torch.save(Detector().state_dict(), BUILD / "detector.pth")
    names = BUILD / "index_to_name.json"
    names.write_text(json.dumps({"0": "background", "1": "thing"}))
    archive = pack(
        "detection",
        "object_detector",
        "1.0",
        model_file=HERE / "model.py",
        serialized_file=BUILD / "detector.pth",
        extra_files=names,
        export_path="model_store",
        force=True,
    )
    print(f"Wrote {archive}")


if __name__ == "__main__":
    main()
