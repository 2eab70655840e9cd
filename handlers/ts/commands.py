"""The installed commands, as subprocesses: `ts` itself holds no part of the server.

Used by `ts.model_server`, `ts.launcher` and `ts.llm_launcher`.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from typing import List


def command(name: str, *arguments: str) -> List[str]:
    """The words that run a command, the one of this interpreter before others on the path.

    Raises:
        FileNotFoundError: it is not installed.
    """
    scripts = sysconfig.get_path("scripts")
    found = shutil.which(name, path=scripts) or shutil.which(name)
    if found is None:
        raise FileNotFoundError(
            f"The command {name} is neither in {os.path.abspath(scripts)} nor on the PATH: "
            "pip install torchserve-py"
        )
    return [found, *arguments]
