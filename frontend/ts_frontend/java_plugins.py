"""What `plugins_path` holds: Java archives that can't run here, and what takes their place.

`config` asks for the warnings of a start. TorchServe put the archives on the JVM's class path; the
names of its own ones tell what they were for.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path

from ts_frontend.plugins import GROUP as ENDPOINTS
from ts_frontend.snapshot_store import GROUP as SNAPSHOTS

_PAGE = "see docs/plugins.md"
_WORDS = {
    ENDPOINTS: ("endpoint", "execution"),
    SNAPSHOTS: ("dynamodb", "ddb", "snapshot"),
}


def findings(raw: str, cwd: Path) -> list[str]:
    """Say for each archive of a `plugins_path` what takes its place, and what is not there.

    Args:
        raw: a file, a folder or a pattern with ``*``, or several with colons between.
        cwd: relative paths start here.
    """
    said = []
    for part in filter(None, (part.strip() for part in raw.split(os.pathsep))):
        path = cwd / part
        if "*" in part:
            found = sorted(glob.glob(str(path)))
        elif path.is_dir():
            found = [str(entry) for entry in sorted(path.iterdir())]
        else:
            found = [str(path)] if path.exists() else []
        jars = [name for name in found if name.lower().endswith(".jar")]
        said += [f"{jar} is not loaded: {_place(jar)}" for jar in jars]
        if not jars:
            said.append(f"{_nothing(part, path)}; for plugins in Python {_PAGE}")
    return said


def _place(jar: str) -> str:
    name = os.path.basename(jar).lower()
    groups = [group for group, words in _WORDS.items() if any(word in name for word in words)]
    wanted = " or ".join(groups or _WORDS)
    return f"a Python package with the entry point {wanted} takes its place, {_PAGE}"


def _nothing(part: str, path: Path) -> str:
    if "*" in part:
        return f"{part} matches no Java archive"
    if not path.exists():
        return f"{part} does not exist"
    return f"there is no Java archive in {part}" if path.is_dir() else f"{part} is no Java archive"
