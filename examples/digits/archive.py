"""Trains a small network on scikit-learn's digits and packs it in four ways.

Writes into the current folder: archives into ``model_store/``, a picture to send into
``build/digits/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from model import Digits
from sklearn.datasets import load_digits
from torch.nn import functional
from torchvision.transforms.functional import to_pil_image

from ts_archiver import pack

HERE = Path(__file__).resolve().parent
MODEL = HERE / "model.py"
BUILD = Path("build/digits")
THREE = 3  # the fourth picture of the data set; the data set is sorted so


def main() -> None:
    images, digits = _data()
    model = _train(images, digits)
    samples = BUILD / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    to_pil_image(images[THREE]).save(samples / "three.png")

    torch.save(model.state_dict(), BUILD / "digits.pth")
    _pack("digits", "digits.pth", model_file=MODEL)

    # The server chooses the batch, so its size must stay open; two rows, since torch.export
    # takes a size of 1 for a constant.
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (images[:2],), dynamic_shapes=batch)
    torch.export.save(program, BUILD / "digits.pt2")
    _pack("digits_exported", "digits.pt2")

    torch.onnx.export(program, f=BUILD / "digits.onnx", external_data=False, verbose=False)
    _pack("digits_onnx", "digits.onnx")

    _pack(
        "digits_compiled",
        "digits.pth",
        model_file=MODEL,
        config_file=HERE / "compiled.yaml",
        warmup=samples,
    )


def _pack(name: str, weights: str, **files: Any) -> None:
    """One archive; ``files`` are further arguments of `pack`. All have the same handler."""
    archive = pack(
        name,
        str(HERE / "handler.py"),
        "1.0",
        serialized_file=BUILD / weights,
        export_path="model_store",
        force=True,
        **files,
    )
    print(f"Wrote {archive}")


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    """1797 pictures with values from 0 to 1, ``[1797][1][8][8]``, and what they show."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(data.target)


def _train(images: torch.Tensor, digits: torch.Tensor) -> Digits:
    """Train on all but the last 300 pictures, and tell how many of those come out right."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a network gains nothing by a second one
    model = Digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(8):
        for rows in torch.randperm(1497).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), digits[rows]).backward()
            optimizer.step()
    model.eval()
    with torch.inference_mode():
        right = (model(images[1497:]).argmax(dim=1) == digits[1497:]).float().mean().item()
    print(f"Trained: {right:.1%} of unseen digits are right")
    return model


if __name__ == "__main__":
    main()
