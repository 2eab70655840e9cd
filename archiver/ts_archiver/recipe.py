"""What the user asked to package: the options of one archive, and what they mean by themselves.

`cli` and `packing` make it, `sources` finds its files, `manifest` writes it down.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ts_archiver.errors import BadOption

StrPath = str | os.PathLike[str]

RUNTIMES = ("python", "python3", "LSP")
SUFFIXES = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}

BUILTIN_HANDLERS = frozenset(
    {
        "base_handler",
        "text_classifier",
        "image_classifier",
        "object_detector",
        "image_segmenter",
        "dali_image_classifier",
        "vllm_handler",
        "trt_llm_handler",
    }
)
# TorchServe's C++ backend brings these along.
_LSP_BUILTIN_HANDLERS = frozenset({"BaseHandler", "TorchScriptHandler"})

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
_WITH_FUNCTION = re.compile(r"(?P<file>.+):(?P<function>[^\W\d]\w*)")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The options of torch-model-archiver under its own names, then three of ours.

    Args:
        extra_files: files, folders and glob patterns: one string with commas between them, one
            path, or a sequence.
        keep_tree: store the contents of an extra folder under the folder's name.
        last_wins: where two inputs differ under one name, the later one is stored, with a
            warning; else that is an error.
        warmup: a folder of sample requests, which the archive has as ``warmup``.
    """

    model_name: str
    handler: str
    version: str
    serialized_file: StrPath | None = None
    model_file: StrPath | None = None
    extra_files: StrPath | Sequence[StrPath] | None = None
    runtime: str = "python"
    export_path: StrPath = "."
    archive_format: str = "default"
    force: bool = False
    requirements_file: StrPath | None = None
    config_file: StrPath | None = None
    keep_tree: bool = False
    last_wins: bool = False
    warmup: StrPath | None = None

    def check(self) -> None:
        """Refuse what no file system could mend.

        Raises:
            BadOption: the model name, handler, runtime or format can't be.
        """
        if not is_name(self.model_name):
            raise BadOption(
                f"model name {self.model_name!r} can't be a file name and a URL part. Use letters, "
                "digits, '_', '-' and '.', with a letter or digit first."
            )
        if not self.handler:
            raise BadOption("the handler is empty. Name a built-in handler or a Python file.")
        if self.runtime not in RUNTIMES:
            raise BadOption(f"unknown runtime {self.runtime!r}. Use one of {', '.join(RUNTIMES)}.")
        if self.archive_format not in SUFFIXES:
            formats = ", ".join(SUFFIXES)
            raise BadOption(f"unknown format {self.archive_format!r}. Use one of {formats}.")

    @property
    def target(self) -> Path:
        """The file (or folder, for no-archive) that packing makes."""
        return Path(self.export_path) / (self.model_name + SUFFIXES[self.archive_format])

    def handler_file(self) -> Path | None:
        """The file to package for ``handler``; None where the server brings it along.

        ``h``, ``h.py``, ``h:function`` and ``h.py:function`` all mean ``h.py``.
        """
        if self.runtime == "LSP":
            return self._library()
        if self.handler in BUILTIN_HANDLERS:
            return None
        match = _WITH_FUNCTION.fullmatch(self.handler)
        name = match["file"] if match else self.handler
        # Any name with ".py" in it is taken as it stands by TorchServe's tool.
        if name.endswith(".py") or (".py" in name and Path(name).is_file()):
            return Path(name)
        return Path(name + ".py")

    def _library(self) -> Path | None:
        if self.handler in _LSP_BUILTIN_HANDLERS:
            return None
        suffix = ".dylib" if sys.platform == "darwin" else ".so"
        return Path(self.handler.partition(":")[0] + suffix)

    def model_entry(self) -> dict[str, str]:
        """The manifest's ``model``: names without folders; keys only where there is a value."""
        entry = {
            "modelName": self.model_name,
            "serializedFile": _name(self.serialized_file),
            "handler": _name(self.handler),
            "modelFile": _name(self.model_file),
            "modelVersion": self.version,
            "requirementsFile": _name(self.requirements_file),
            "configFile": _name(self.config_file),
        }
        return {key: value for key, value in entry.items() if value}


def is_name(text: str) -> bool:
    """Whether a model or workflow may be called so: a file name and a part of a URL."""
    return _NAME.fullmatch(text) is not None


def _name(path: StrPath | None) -> str:
    return os.path.basename(path) if path else ""
