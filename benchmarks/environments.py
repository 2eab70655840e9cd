"""Puts each peer into an environment of its own, once; the peers call it before they are measured.

The environments live under `.bench/`, outside git. `.bench/torch` has torch and what models
need in the versions that this checkout's environment has, and every peer's environment finds
them there by a `.pth`, so that no ratio comes from different builds of torch and no disk is filled
with copies. A stamp names what was installed: a second run installs nothing, a changed pin anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.process import clean_environ
from benchmarks.suite import Missing

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".bench"
SHARED = ("torch", "torchvision", "numpy", "pillow", "efficientnet-lite-pytorch")


def require(command: str, cure: str) -> None:
    """Raise `Missing` with ``cure`` unless ``command`` is on the PATH."""
    if shutil.which(command) is None:
        raise Missing(f"{command} is not installed. Cure: {cure}")


def environment(name: str, requirements: Sequence[str], torch: bool = True) -> Path:
    """Make sure that ``.bench/<name>`` holds ``requirements``; return its ``bin`` folder.

    With ``torch``, it also finds what `.bench/torch` has.

    Raises:
        Missing: pip could not install them; the message has its last lines.
    """
    folder = CACHE / name
    stamp = folder / "installed.txt"
    wanted = "\n".join([*requirements, *(["with .bench/torch"] if torch else [])])
    if not stamp.is_file() or stamp.read_text() != wanted:
        shared = _shared() if torch else None
        print(f"installing {', '.join(requirements)} into .bench/{name} ...", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        if shared is not None:
            (_site_packages(folder) / "shared-torch.pth").write_text(f"{shared}\n")
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "-q", *requirements])
        stamp.write_text(wanted)
    return folder / "bin"


def shared_python() -> Path:
    """The interpreter of `.bench/torch`, which has torch and what models need, but no server.

    Raises:
        Missing: pip could not install them, or ours has not got them.
    """
    try:
        pins = [f"{package}=={version(package).partition('+')[0]}" for package in SHARED]
    except PackageNotFoundError as unknown:
        raise Missing(f"{unknown.name} is not installed. Cure: make setup") from None
    return environment("torch", pins, torch=False) / "python"


def our_bin() -> Path:
    """The folder of the project's own commands, where `make` installed them."""
    folder = Path(sys.executable).parent
    if not (folder / "torchserve-py").is_file():
        raise Missing("torchserve-py is not installed beside this Python. Cure: make setup")
    return folder


def our_environ() -> dict[str, str]:
    """What our commands get from the environment and no peer may: the PYTHONPATH, which names
    another checkout in `pairs`.
    """
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": path} if path else {}


def _shared() -> Path:
    """The folder of packages that all peers have in common."""
    shared_python()
    return _site_packages(CACHE / "torch")


def _site_packages(folder: Path) -> Path:
    paths = {"base": str(folder), "platbase": str(folder)}
    return Path(sysconfig.get_path("purelib", "venv", paths))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Missing(f"{' '.join(command[:6])} ... failed: {' | '.join(last)}")
