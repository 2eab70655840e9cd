"""Snapshots of torchserve-py in an SQLite database, instead of files.

The server finds `SqliteStore` by the entry point in pyproject.toml. The variable
SNAPSHOT_SQLITE_FILE names the database, which is made when it is first needed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

KEPT = 50


class SqliteStore:
    """One table of names and texts, of which the newest fifty are kept."""

    def __init__(self) -> None:
        self._path = os.environ.get("SNAPSHOT_SQLITE_FILE", "snapshots.db")

    def save(self, name: str, text: str) -> None:
        """Keep a snapshot; all of it or, when the process is killed here, nothing."""
        with self._database() as database:
            try:
                database.execute("INSERT INTO snapshot VALUES (?, ?)", (name, text))
            except sqlite3.IntegrityError:
                raise FileExistsError(name) from None
            newest = "SELECT name FROM snapshot ORDER BY name DESC LIMIT ?"
            database.execute(f"DELETE FROM snapshot WHERE name NOT IN ({newest})", (KEPT,))

    def last(self) -> tuple[str, str] | None:
        """The snapshot to start from."""
        with self._database() as database:
            query = "SELECT name, text FROM snapshot ORDER BY name DESC LIMIT 1"
            found: tuple[str, str] | None = database.execute(query).fetchone()
        return found

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction: each call may come in another thread."""
        # A snapshot may hold the password of a keystore.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(self._path)) as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS snapshot (name TEXT PRIMARY KEY, text TEXT)"
            )
            yield database
