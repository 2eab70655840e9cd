"""A manifest that is built in Python."""

from __future__ import annotations

import json
import time
from enum import Enum
from typing import Any

from model_archiver.manifest_components.model import Model
from ts_archiver.manifest import ARCHIVER_VERSION, DATE_FORMAT


class RuntimeType(Enum):
    """What runs a model; LSP is TorchServe's C++ backend."""

    PYTHON = "python"
    PYTHON3 = "python3"
    LSP = "LSP"


class Manifest:
    """What an archive says about itself; `str` gives the JSON that goes into it.

    Args:
        runtime: a value of `RuntimeType`.
    """

    def __init__(self, runtime: str, model: Model) -> None:
        self.creation_time = time.strftime(DATE_FORMAT)
        self.runtime = RuntimeType(runtime)
        self.model = model
        self.archiver_version = ARCHIVER_VERSION

    def to_dict(self) -> dict[str, Any]:
        return {
            "createdOn": self.creation_time,
            "runtime": self.runtime.value,
            "model": self.model.to_dict(),
            "archiverVersion": self.archiver_version,
        }

    def __str__(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    __repr__ = __str__
