"""Reads a model's requirements file: what pip is to be told, and what says that two are the same.

`env_builder` installs them, `python_env` reads them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# These would bring a second package `ts`, which the worker would import in place of the server's.
OURS = frozenset(
    f"{name}{nightly}"
    for name in ("torchserve", "torch-model-archiver", "torch-workflow-archiver", "torchserve-py")
    for nightly in ("", "-nightly")
)
WHEEL_FOLDERS = ("wheels", "wheelhouse")
_ARCHIVES = (".whl", ".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz")
_OPTION = re.compile(
    r"(?P<name>--requirement|--constraint|--find-links|--editable|-[rcfe])(?:\s*=\s*|\s+|(?<=-\w))"
    r"(?P<value>.+)"
)
_SHORT = {"--requirement": "-r", "--constraint": "-c", "--find-links": "-f", "--editable": "-e"}
_COMMENT = re.compile(r"(^|\s+)#.*$")
# A path, its extras, and what else stands behind it: a marker, options.
_PATH = re.compile(r"(?P<path>[^\s;\[]+)(?P<rest>(\[[^\]]*\])?\s*(;.*|--.*)?)")


class BadRequirements(Exception):
    """The text names file, cause and cure."""


@dataclass(slots=True)
class Requirements:
    """A requirements file with all that it refers to.

    Args:
        lines: as pip shall have them: nested files are unfolded, paths are absolute.
        named: the packages that are asked for by name.
        skipped: those of `OURS` among them; they are in neither of the two.
        wheels: the archive's folder of wheels, which then take the place of an index.
    """

    lines: list[str] = field(default_factory=list)
    named: list[Requirement] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    wheels: Path | None = None
    _identity: list[str] = field(default_factory=list)

    @property
    def identity(self) -> str:
        """The same wherever the model lies: contents stand for paths."""
        return "\n".join(self._identity)

    def add(self, line: str, content: str = "") -> None:
        """Take in a line; ``content`` says what the path in it leads to."""
        self.lines.append(line)
        self._identity.append(content or line)


def read_requirements(model_dir: Path, name: str) -> Requirements:
    """Read the file that the manifest names as ``requirementsFile``, and hash what it refers to.
    Blocks.

    Raises:
        BadRequirements: a file is missing or no text.
    """
    found = Requirements()
    _Reader(model_dir.resolve(), found).file(model_dir.resolve() / name, ())
    for folder in (model_dir / name for name in WHEEL_FOLDERS):
        if folder.is_dir() and any(path.name.endswith(_ARCHIVES) for path in folder.iterdir()):
            found.wheels = folder.resolve()
            found._identity.append(f"wheels {digest(folder)}")
            break
    return found


def digest(path: Path) -> str:
    """A hash of a file, or of all files in a folder with their names."""
    total = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    for one in sorted(path.rglob("*")):
        if one.is_file():
            total.update(f"{one.relative_to(path).as_posix()}\0{digest(one)}\n".encode())
    return total.hexdigest()


class _Reader:
    """Follows ``-r`` from file to file."""

    def __init__(self, model_dir: Path, found: Requirements) -> None:
        self._model_dir = model_dir
        self._found = found

    def file(self, path: Path, outer: tuple[Path, ...]) -> None:
        if path in outer:
            raise BadRequirements(f"{self._title(path)} includes itself.")
        try:
            text = path.read_text("utf-8-sig")
        except OSError as error:
            where = f" that {self._title(outer[-1])} names" if outer else ""
            raise BadRequirements(
                f"The archive has no file {self._title(path)}{where}."
                if isinstance(error, FileNotFoundError)
                else f"{self._title(path)} can't be read: {error.strerror}."
            ) from error
        except UnicodeDecodeError as error:
            raise BadRequirements(f"{self._title(path)} is no text in UTF-8: {error}.") from error
        for line in _logical_lines(text):
            self._line(line, path, outer)

    def _line(self, line: str, file: Path, outer: tuple[Path, ...]) -> None:
        option = _OPTION.fullmatch(line)
        if option is None:
            self._entry(line, file)
            return
        name = _SHORT.get(option["name"], option["name"])
        value = option["value"].strip("\"'")
        path = file.parent / value
        if name == "-e":
            # An editable install would point into the model's folder, which goes with the model.
            local = _PATH.fullmatch(value)
            editable = local is None or not (self._model_dir / local["path"]).exists()
            self._entry(f"-e {value}" if editable else value, file)
        elif "://" in value or (name == "-f" and not path.exists()):
            self._found.add(f"{name} {value}")
        elif name == "-r":
            self.file(path, (*outer, file))
        elif not path.exists():
            raise BadRequirements(f"The archive has no file {value} that {file.name} names.")
        else:
            self._found.add(f"{name} {path}", f"{name} {digest(path)}")

    def _entry(self, line: str, file: Path) -> None:
        local = _PATH.fullmatch(line)
        if local is not None and _is_path(local["path"]):
            # Beside the model's files: TorchServe ran pip there.
            path = self._model_dir / local["path"]
            if not path.exists():
                raise BadRequirements(
                    f"{self._title(file)} asks for {local['path']}, and the archive has no such "
                    "file; --extra-files packs it."
                )
            self._found.add(f"{path}{local['rest']}", f"{digest(path)} {local['rest']}")
            return
        # Here: most servers start without a model that asks for packages.
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.utils import canonicalize_name

        try:
            named = Requirement(line.partition(" --")[0])
        except InvalidRequirement:  # an option, a URL, or what pip knows best how to complain about
            self._found.add(line)
            return
        if canonicalize_name(named.name) in OURS:
            self._found.skipped.append(named.name)
            return
        self._found.named.append(named)
        self._found.add(line)

    def _title(self, path: Path) -> str:
        return os.path.relpath(path, self._model_dir)


def _logical_lines(text: str) -> Iterator[str]:
    for line in re.sub(r"\\\r?\n", "", text).splitlines():
        line = _COMMENT.sub("", line).strip()
        if line:
            yield line


def _is_path(text: str) -> bool:
    if text.startswith("-") or "://" in text or "@" in text:
        return False
    return text.startswith(".") or os.sep in text or text.endswith(_ARCHIVES)
