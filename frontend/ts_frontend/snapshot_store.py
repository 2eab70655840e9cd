"""Where snapshots are kept: the folder ``<LOG_LOCATION>/config``, or what a plugin offers.

`config` asks for the last one when no file is named, `core.snapshot` saves. Both only see
`SnapshotStore`; docs/plugins.md tells how to write another one.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ts_frontend.properties import decode
from ts_frontend.values import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "torchserve_py.snapshots"
FILE = "file"  # the name of the folder among the stores
KEPT = 50
# A comment in what this server writes: TorchServe's files in the same folder are not ours to prune.
MARK = "torchserve-py"
_NAME = re.compile(r"(\d{17})-(.+)\.cfg")
_OWN_NAME = re.compile(r"\d{17}-(startup|snapshot|shutdown)\.cfg")


class SnapshotStore(Protocol):
    """Keeps snapshots. Both methods may block; `save` is never called twice at a time.

    A snapshot is the text of a .properties file. Its name, ``20250130235959123-snapshot.cfg``, is
    greater than every earlier one and ends with ``startup``, ``snapshot`` or ``shutdown``.
    """

    def save(self, name: str, text: str) -> None:
        """Keep a snapshot; `FileExistsError` asks for another name, any other error is logged."""

    def last(self) -> tuple[str, str] | None:
        """Name and text of the snapshot with the greatest name; None where there is none."""


class Folder:
    """Snapshots as files, each complete or not there, and for their owner's eyes only: they may
    hold the password of a keystore."""

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        self._folder = folder
        self._kept = kept
        self._foreign: set[str] = set()

    def path(self, name: str) -> Path:
        """Where the snapshot of this name is."""
        return self._folder / name

    def save(self, name: str, text: str) -> None:
        """Write a file, then remove the oldest of its kind beyond the newest fifty.

        Raises:
            FileExistsError: there is one of this name, which is left alone.
            OSError: it can't be written; nothing has changed.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{name}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            with open(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            _move(temporary, self._folder / name)
            _sync(self._folder)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        with contextlib.suppress(OSError):
            self._prune(name)

    def last(self) -> tuple[str, str] | None:
        """As `SnapshotStore`; names without a time are not looked at, where TorchServe broke off.

        Raises:
            OSError: the folder or the file can't be read.
        """
        try:
            names = [name for name in os.listdir(self._folder) if _NAME.fullmatch(name)]
        except (FileNotFoundError, NotADirectoryError):
            return None
        for name in sorted(names, reverse=True):
            if self.path(name).is_file():
                return name, decode(self.path(name).read_bytes())
        return None

    def _prune(self, name: str) -> None:
        kind = name.partition("-")[2]
        same = sorted(
            one
            for one in os.listdir(self._folder)
            if _OWN_NAME.fullmatch(one) and one.partition("-")[2] == kind
        )
        for one in same[: -self._kept]:
            if one in self._foreign:
                continue
            if _ours(self.path(one)):
                self.path(one).unlink()
            else:
                self._foreign.add(one)


class Opened(NamedTuple):
    """A store, its name, and what messages call it where it is to blame."""

    name: str
    title: str
    store: SnapshotStore

    def label(self, name: str) -> str:
        """What messages call one of its snapshots: the path, where it has one."""
        if isinstance(self.store, Folder):
            return str(self.store.path(name))
        return f"{name} of snapshot store {self.name}"


def snapshot_folder(log_location: Path) -> Path:
    """Where the snapshots that are files are, as in TorchServe."""
    return log_location / "config"


def installed() -> bool:
    """Whether a plugin offers a store, so that code of others may be loaded."""
    from importlib.metadata import entry_points

    return bool(entry_points(group=GROUP))


def open_store(chosen: str | None, folder: Path) -> Opened:
    """The store of this name; without one the plugin that is installed, or the folder.

    Args:
        chosen: ``file`` for the folder, or the name of an entry point.
        folder: of the snapshots that are files.

    Raises:
        ConfigError: no such plugin, several and none chosen, or one that does not load.
    """
    files = Opened(FILE, f"folder {folder}", Folder(folder))
    if chosen == FILE:
        return files
    from importlib.metadata import entry_points

    found = list(entry_points(group=GROUP))
    named = [entry for entry in found if chosen is None or entry.name == chosen]
    if len(named) == 1:
        return Opened(named[0].name, f"store {_title(named[0])}", _load(named[0]))
    if not found and chosen is None:
        return files
    listed = ", ".join(map(_title, found)) or "none"
    if not named:
        raise ConfigError(
            f"snapshot_store={chosen}: no snapshot store has this name; installed: {listed}. "
            f"Install the one you mean, or set {FILE}, which is the folder {folder}"
        )
    raise ConfigError(
        f"several snapshot stores are installed: {listed}. Set snapshot_store, or the variable "
        f"TS_SNAPSHOT_STORE, to the name of one, or to {FILE}, and uninstall one of two with one "
        "name"
    )


def _title(entry: EntryPoint) -> str:
    distribution = entry.dist.name if entry.dist else "unknown"
    return f"{entry.name} ({entry.value} of {distribution})"


def _load(entry: EntryPoint) -> SnapshotStore:
    try:
        found = entry.load()
        store: SnapshotStore = found() if isinstance(found, type) else found
    except (Exception, SystemExit) as error:  # code of others, of which anything may come
        raise ConfigError(
            f"snapshot store {_title(entry)} does not load: {type(error).__name__}: {error}. "
            f"Repair or uninstall it, or set snapshot_store={FILE}"
        ) from error
    for method in ("save", "last"):
        if not callable(getattr(store, method, None)):
            raise ConfigError(
                f"snapshot store {_title(entry)} has no method {method}: it must be an object, or "
                "a class without arguments, with save(name, text) and last()"
            )
    return store


def _move(temporary: Path, target: Path) -> None:
    """Give a complete file its name unless it is taken: another server may write here, too."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(str(target)) from None
        temporary.replace(target)


def _sync(folder: Path) -> None:
    """A name is on the disk only when its folder is."""
    with contextlib.suppress(OSError):  # a file system, or a system, that can't
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _ours(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as stream:
        head = [next(stream, "") for _ in range(3)]
    return any(line.startswith(f"#{MARK}") for line in head)
