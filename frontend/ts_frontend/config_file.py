"""Which file the settings come from: the one that is named, the last snapshot, or
``./config.properties``. `config` asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ts_frontend import properties
from ts_frontend.snapshot_store import Folder, open_store
from ts_frontend.sources import Draft, Origin, Setting, read_file, read_text
from ts_frontend.values import ConfigError, LaunchError

_STORE = "snapshot_store"


@dataclass(frozen=True, slots=True)
class Source:
    """What was read.

    Args:
        path: the file, None for a snapshot that is not in one.
        snapshot: what messages call the snapshot, where it was one that nobody named.
    """

    path: Path | None
    snapshot: str | None = None


def read_source(draft: Draft, folder: Path) -> Source:
    """Read the file that TorchServe would read, in its order.

    Args:
        folder: of the snapshots that are files.

    Raises:
        LaunchError: a file that is named does not exist.
        ConfigError: the file, or the store of the snapshots, can't be used.
    """
    given = draft.places.get("source")
    if given is not None:
        if not (draft.cwd / given.raw).is_file():
            raise LaunchError(f"--ts-config file not found: {given.raw}")
        read_file(draft, draft.cwd / given.raw)
        return Source(draft.cwd / given.raw)
    beside = draft.cwd / "config.properties"
    if "snapshots" not in draft.places:
        snapshot = _read_snapshot(draft, folder, beside)
        if snapshot is not None:
            return snapshot
    if not beside.is_file():
        return Source(None)
    read_file(draft, beside)
    return Source(beside)


def _read_snapshot(draft: Draft, folder: Path, beside: Path) -> Source | None:
    """Read the last snapshot; its settings stand for all of the file beside, but for where
    snapshots are kept: that can't be looked up in one."""
    chosen = _chosen_store(draft, beside)
    opened = open_store(chosen.raw if chosen else None, folder)
    try:
        last = opened.store.last()
    except (Exception, SystemExit) as error:  # code of others, of which anything may come
        raise ConfigError(
            f"the last snapshot of {opened.title} can't be read: {type(error).__name__}: {error}; "
            "--ncs starts without it"
        ) from error
    if last is None:
        return None
    name, text = last
    label = opened.label(name)
    read_text(draft, label, text)
    if "model_snapshot" not in draft.settings:
        raise ConfigError(
            f"snapshot {label} is not complete: it has no model_snapshot. Remove it, "
            "or start with --ncs, which reads no snapshot"
        )
    if chosen is not None and chosen.origin.kind == "file":
        draft.settings[_STORE] = chosen
    unread = f" {beside} is not read." if beside.is_file() else ""
    draft.warnings.append(
        f"restored from snapshot {label}: models and settings are those of the last run.{unread} "
        "--ncs starts without snapshots, --ts-config FILE with that file"
    )
    store = opened.store
    return Source(store.path(name) if isinstance(store, Folder) else None, label)


def _chosen_store(draft: Draft, beside: Path) -> Setting | None:
    """The store that the environment names, or else the file that is not read further."""
    key = draft.table[_STORE]
    named = draft.environ.get(key.env or "")
    if named:
        return Setting(named, Origin("variable", str(key.env)))
    try:
        entries = properties.parse(properties.decode(beside.read_bytes()))
    except (OSError, properties.PropertiesError):  # told when it is what a server starts from
        return None
    for entry in reversed(entries):
        if entry.key == _STORE and entry.value:
            return Setting(entry.value, Origin("file", str(beside), entry.line))
    return None
