"""What tests of several rows begin with: a call, a worker that can't load, a config.properties."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from tests.core_rig import Rig, send
from tests.fakes import LoadFailed, hold, run_virtual
from ts.service import Outcome, Service
from ts_frontend.core.job import Answer
from ts_worker.backend.base import WorkerSpec


async def get(url: str, method: str = "GET", **options: object) -> tuple[int, str]:
    """Status and text of a request without a token."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, **options) as answer,  # type: ignore[arg-type]
    ):
        return answer.status, await answer.text()


async def refuse(spec: WorkerSpec) -> None:
    """How a worker loads whose handler raises."""
    raise LoadFailed(500, "ValueError: no weights", "Traceback\n  line 3\nValueError: no weights")


def scaled_down_at_work() -> Answer:
    """What a request gets whose worker is scaled away while it is at it."""

    async def main() -> Answer:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            running = send(rig, b"run")
            await rig.worker.received()
            change = rig.supervisor.scale(model, 0, 0)
            rig.worker.finish()
            answer = await running
            await rig.supervisor.settle(change, None)
            return answer

    return run_virtual(main)


def run(handle: Callable[[Any, Any], Any]) -> Outcome:
    """What a worker makes of one row, with this handler."""
    service = Service("m", "/nowhere", None, handle, None, 1)
    return service.infer([{}], [{"body": b""}], {0: "id"})


def properties(folder: Path, *lines: str) -> None:
    """A config.properties with these lines, and an empty model store beside it."""
    (folder / "store").mkdir(exist_ok=True)
    (folder / "config.properties").write_text("\n".join(["model_store=store", *lines]))
