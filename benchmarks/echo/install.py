"""Puts each rival server into an environment of its own, once; `run` calls it before measuring.

The environments live under `.bench/`, outside git. A stamp file names what was installed, so a
second run installs nothing and a changed pin installs anew.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".bench"

# torchserve 0.12 declares neither torch nor yaml nor numpy, but its worker does not start without.
TORCHSERVE = ("torchserve==0.12.0", "torch-model-archiver==0.12.0", "torch", "numpy", "pyyaml")
MOSEC = ("mosec==0.9.8",)


class Missing(Exception):
    """Something the benchmark needs is not on this machine; the message names the cure."""


def require(command: str, cure: str) -> None:
    """Raise `Missing` with ``cure`` unless ``command`` is on the PATH."""
    if shutil.which(command) is None:
        raise Missing(f"{command} is not installed. Cure: {cure}")


def environment(name: str, requirements: Sequence[str]) -> Path:
    """Make sure that ``.bench/<name>`` holds ``requirements``; return its ``bin`` folder."""
    folder = CACHE / name
    stamp = folder / "installed.txt"
    wanted = "\n".join(requirements)
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(
            f"installing {', '.join(requirements)} into {folder.relative_to(ROOT)} ...", flush=True
        )
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, *requirements], check=True)
        stamp.write_text(wanted)
    return folder / "bin"


def our_bin() -> Path:
    """The folder of the project's own commands, where `make` installed them."""
    folder = Path(sys.executable).parent
    if not (folder / "torchserve-py").is_file():
        raise Missing("torchserve-py is not installed beside this Python. Cure: make bench-echo")
    return folder
