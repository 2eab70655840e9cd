"""Packs torchvision's LR-ASPP for the built-in handler `image_segmenter`.

The weights are random, since published ones are not on PyPI. Where there is a network, load them
into `Segmenter().network` from ``LRASPP_MobileNet_V3_Large_Weights.DEFAULT.get_state_dict()``. The
archive goes into ``model_store/`` of the current folder, a photo into ``build/segmentation/``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import sklearn.datasets
import torch
from model import Segmenter

from ts_archiver import pack

HERE = Path(__file__).resolve().parent
BUILD = Path("build/segmentation")
PHOTO = Path(sklearn.datasets.__file__).parent / "images" / "flower.jpg"


def main() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PHOTO, BUILD / PHOTO.name)
    torch.manual_seed(0)
    torch.save(Segmenter().state_dict(), BUILD / "segmenter.pth")
    archive = pack(
        "segmentation",
        "image_segmenter",
        "1.0",
        model_file=HERE / "model.py",
        serialized_file=BUILD / "segmenter.pth",
        export_path="model_store",
        force=True,
    )
    print(f"Wrote {archive}")


if __name__ == "__main__":
    main()
