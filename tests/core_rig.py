"""The core put together around a `FakeBackend`, for tests that need more than one of its parts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.fakes import Behaviour, FakeBackend, FakeLog, FakeMeter, FakeWorker, echo, make_request
from ts_frontend.config import Config
from ts_frontend.core.archive import Archive
from ts_frontend.core.catalog import Catalog
from ts_frontend.core.devices import Devices
from ts_frontend.core.events import answer_calls
from ts_frontend.core.inference import Inference
from ts_frontend.core.job import Answer
from ts_frontend.core.management import Management, Outcome, Registration
from ts_frontend.core.model import Launch, ModelVersion
from ts_frontend.core.settings import Settings
from ts_frontend.core.slot import State
from ts_frontend.core.store import Store
from ts_frontend.core.supervisor import Supervisor
from ts_worker.backend.base import WorkerSpec

_TURNS = 200_000  # of the loop; a second or two, which is far more than anything takes


class Rig:
    """A server's core without edges, archives and processes."""

    def __init__(
        self, config: Config | None = None, behaviour: Behaviour = echo, cores: int = 8
    ) -> None:
        self.config = config or Config()
        self.backend = FakeBackend(behaviour)
        self.meter = FakeMeter()
        self.log = FakeLog()
        self.catalog = Catalog()
        self.inference = Inference(self.catalog, self.meter)
        self.supervisor = Supervisor(
            self.config,
            self.catalog,
            self.backend,
            meter=self.meter,
            log=self.log,
            answer=answer_calls(self.inference),
            cores=cores,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.supervisor.close()
        assert self.backend.alive == []

    def add(self, name: str = "m", version: str = "1.0", **settings: Any) -> ModelVersion:
        """Register a model that has no workers yet."""
        model = a_version(name, version, **settings)
        self.catalog.add(model)
        return model

    async def serve(self, name: str = "m", workers: int = 1, **settings: Any) -> ModelVersion:
        """Register a model and bring up its workers."""
        model = self.add(name, **settings)
        assert await self.supervisor.settle(self.supervisor.scale(model, workers, workers), None)
        return model

    @property
    def worker(self) -> FakeWorker:
        """The worker that was started last."""
        return self.backend.workers[-1]


class Site(Rig):
    """A rig with a model store and `Management`."""

    def __init__(self, place: Path, environ: dict[str, str] | None = None, **config: Any) -> None:
        self.folder = place / "store"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.temp = place / "temp"
        super().__init__(Config(model_store=self.folder, temp_dir=self.temp, **config))
        self.management = Management(
            self.config,
            self.catalog,
            Store(self.config),
            self.supervisor,
            Devices(self.config.number_of_gpu, {}),
            cores=3,
            environ={"PATH": "/bin"} if environ is None else environ,
        )

    def model(self, name: str = "m", version: str = "1.0", **entries: Any) -> str:
        return str(model_folder(self.folder, name, version, **entries))

    async def register(self, url: str, workers: int | None = 1, **options: Any) -> Outcome:
        asked = Registration(url, initial_workers=workers, **options)
        return await self.management.register(asked)

    @property
    def unpacked(self) -> int:
        models = self.temp / "models"
        return len(list(models.iterdir())) if models.exists() else 0


async def never(spec: WorkerSpec) -> None:
    """A load that never ends."""
    await asyncio.get_running_loop().create_future()


def a_version(
    name: str = "m",
    version: str = "1.0",
    *,
    env: dict[str, str] | None = None,
    next_device: Callable[[], int | None] = lambda: None,
    **settings: Any,
) -> ModelVersion:
    """A model version without an archive."""
    archive = Archive(f"{name}.mar", Path("/nowhere"), Path("/nowhere"), {})
    launch = Launch("/nowhere", "handler.py", env=env or {})
    return ModelVersion(name, version, "python", archive, Settings(**settings), launch, next_device)


def send(rig: Rig, body: bytes = b"hello", version: str | None = None) -> asyncio.Task[Answer]:
    """A client's request to the model m."""
    return asyncio.create_task(rig.inference.predict("m", version, make_request(body)))


def states(model: ModelVersion) -> list[State]:
    """Where each slot of a version stands."""
    return [slot.state for slot in model.slots]


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is true that has no event of its own."""
    for _ in range(_TURNS):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


def model_folder(place: Path, name: str = "m", version: str = "1.0", **entries: Any) -> Path:
    """Write a model as an unpacked archive. ``yaml`` is the text of its model-config.yaml."""
    folder = place / f"{name}-{version}"
    (folder / "MAR-INF").mkdir(parents=True)
    text = entries.pop("yaml", None)
    runtime = entries.pop("runtime", "python")
    model = {"modelName": name, "modelVersion": version, "handler": "handler.py", **entries}
    if text is not None:
        (folder / "model-config.yaml").write_text(text)
        model["configFile"] = "model-config.yaml"
    manifest = {"createdOn": "x", "runtime": runtime, "model": model, "archiverVersion": "0.12.0"}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (folder / "handler.py").write_text("def handle(data, context):\n    return data\n")
    return folder
