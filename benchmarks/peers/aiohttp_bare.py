"""The limit for requests: an aiohttp handler in one process, with no model server around it."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers.peer import SERVICES, Job, Peer


class AiohttpBare(Peer):
    """In this checkout's environment, which has aiohttp and uvloop."""

    name = "aiohttp (bare)"
    works = ("echo", "length")

    def install(self) -> None:
        """Nothing is missing: ours needs the same packages."""

    def version(self) -> str:
        return version("aiohttp")

    def settings(self, job: Job) -> str:
        return "web.Application in one process, uvloop, no access log; neither batches nor workers"

    def command(self, job: Job, folder: Path, ports: list[int]) -> list[str]:
        script = str(SERVICES / "aiohttp_service.py")
        return [sys.executable, script, str(ports[0]), job.work, str(job.body_limit or 1 << 20)]
