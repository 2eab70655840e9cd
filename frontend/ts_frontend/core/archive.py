"""A model's files once they are ready to be loaded. `store` makes it, `registration` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive ready to be loaded.

    Args:
        url: as given to register.
        model_dir: the model's files; for a folder that is used in place, a link to it.
        root: our own folder, which goes away with the model.
        manifest: the parsed manifest, empty where there is none.
        downloaded: the file in the model store that goes away with the model.
        source: the archive or folder that it was made from.
        size: bytes of the model's files.
    """

    url: str
    model_dir: Path
    root: Path
    manifest: Mapping[str, Any]
    downloaded: Path | None = None
    source: Path | None = None
    size: int = 0
