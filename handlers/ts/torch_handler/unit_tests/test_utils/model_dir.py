"""Model folders for users' tests of their handlers; TorchServe ships them too."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Dict
from urllib import request
from urllib.parse import urlsplit


def download_model(model_url: str, model_dir: Path) -> None:
    """Put the file at a URL into ``model_dir`` as ``model.pt``, `MockContext`'s default.

    The download is kept in a folder of the user's cache for the next test.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torchserve-py")
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / Path(urlsplit(model_url).path).name
    if not kept.exists():
        _download(model_url, kept)
    shutil.copyfile(kept, Path(model_dir) / "model.pt")


def copy_files(src_dir: Path, dst_dir: Path, files: Dict[str, str]) -> None:
    """Copy each file of ``src_dir`` to its new name in ``dst_dir``: ``{old name: new name}``."""
    for old, new in files.items():
        shutil.copyfile(Path(src_dir) / old, Path(dst_dir) / new)


def _download(url: str, target: Path) -> None:
    # Under another name until it is whole: what was cut short must not be taken for the model.
    with (
        request.urlopen(url) as source,
        tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file,
    ):
        try:
            shutil.copyfileobj(source, file)
            file.close()
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise
