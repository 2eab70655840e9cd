"""The script ``setup_model_venv.py FOLDER``: an environment that also sees this one's packages.

The server makes its models' environments itself (``useVenv``), by the same rules.
"""

from __future__ import annotations

import argparse
import os
import site
import subprocess
import sysconfig
import venv
from typing import List


def create_venv(folder: str) -> str:
    """Make an environment with pip, replacing what is in ``folder``; returns its interpreter."""
    venv.create(folder, clear=True, with_pip=True)
    scripts = "Scripts" if os.name == "nt" else "bin"
    return os.path.join(folder, scripts, "python")


def inherit_packages(python: str) -> str:
    """Let the environment of ``python`` find the packages of this one, behind its own.

    Returns:
        The .pth file that says so.
    """
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    answer = subprocess.run([python, "-c", ask], check=True, stdout=subprocess.PIPE, text=True)
    path = os.path.join(answer.stdout.strip(), "inherited-site-packages.pth")
    # A folder that a .pth file merely names has its own .pth files ignored: editable installs.
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in _package_folders()]
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(lines)
    return path


def _package_folders() -> List[str]:
    own = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    found = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [path for path in dict.fromkeys([*found, *own, *site.getsitepackages()]) if path]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a Python environment for a model")
    parser.add_argument("venv_path", help="folder of the environment; what is in it is removed")
    inherit_packages(create_venv(parser.parse_args().venv_path))


if __name__ == "__main__":
    main()
