"""Handlers under test, without a server: the real loader, a context made by hand, a pytest fixture.

For the tests of who writes handlers; docs/handlers.md has an example. Nothing in the server or in
its workers imports it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import types
import uuid
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Union,
)

from ts.context import Context
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.model_loader import TsModelLoader
from ts.prediction import Prediction
from ts.service import Service
from ts.version import __version__

StrPath = Union[str, "os.PathLike[str]"]
Headers = Mapping[str, Any]


class Answer(NamedTuple):
    """What a client would get for one request."""

    status: int
    reason: str
    headers: Dict[str, str]
    body: bytes
    parts: List[bytes]  # that were streamed before ``body``

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode("utf-8")

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class LoadedHandler:
    """A handler as a worker has it; `load_handler` makes it.

    Its folder is the working directory and on the import path during calls only, and so are the
    modules that it brings: tests of several handlers do not get in each other's way.
    """

    def __init__(self, place: _Place, service: Service) -> None:
        self._place = place
        self.service = service

    @property
    def context(self) -> Context:
        """The context that `initialize` got and that every call gets."""
        return self.service.context

    @property
    def handler(self) -> Any:
        """The handler's object, for tests of single steps; None where it is a function."""
        return self.service.handler

    def predict(
        self, *rows: Any, headers: Union[Headers, Sequence[Headers], None] = None
    ) -> List[Answer]:
        """Answer a batch.

        Args:
            rows: one for each request: a dict of its inputs, or the value of ``body`` alone, bytes
                or what is left of JSON and text once they are decoded.
            headers: of the requests, one mapping for all or one for each. ``{"explain": "True"}``
                asks for an explanation.

        Raises:
            ValueError: as many headers as rows were expected, or the handler's result is no list
                with one element for each row.
            Exception: what the handler raises, unchanged.
        """
        ids = {idx: str(uuid.uuid4()) for idx in range(len(rows))}
        parts: Dict[str, List[bytes]] = {id: [] for id in ids.values()}
        self.service.set_chunk_sink(lambda id, status, reason, head, body: parts[id].append(body))
        with self._place.entered():
            inputs = [row if isinstance(row, dict) else {"body": row} for row in rows]
            outcome = self.service.run(_heads(headers, len(rows)), inputs, ids)
        if outcome.code != 200:
            raise ValueError(f"{outcome.message}: return a list with one element for each row")
        return [
            _answer(prediction, parts[id])
            for id, prediction in zip(ids.values(), outcome.predictions)
        ]


def load_handler(
    model: StrPath,
    handler: Optional[str] = None,
    *,
    model_name: Optional[str] = None,
    gpu_id: Optional[int] = None,
    batch_size: int = 1,
    envelope: Optional[str] = None,
    yaml: Optional[Mapping[str, Any]] = None,
    **keys: Any,
) -> LoadedHandler:
    """Load a handler as a worker does, in this process.

    Args:
        model: a handler's file, or the folder of a model: one that the archiver made with
            ``--archive-format no-archive``, an unpacked archive, or any folder with the files.
        handler: as for the archiver's ``--handler``; what the manifest says where None.
        model_name: what the manifest says where None.
        gpu_id: CUDA ordinal, None for the CPU.
        batch_size: what the context tells as the largest batch.
        envelope: as the server's ``service_envelope``.
        yaml: keys of model-config.yaml; they go before those of the model's own file.
        keys: more of them, where no argument above has that name, as with ``handler``.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a packed archive, or no handler is named.
        Exception: whatever the handler's own code raises, unchanged.
    """
    path = os.path.realpath(model)
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no handler or model folder {path}")
    folder = path
    if not os.path.isdir(path):
        if not path.endswith(".py"):
            raise ValueError(
                f"{path} is neither a Python file nor a folder: unpack an archive first"
            )
        folder, handler = os.path.dirname(path), handler or os.path.basename(path)
    named = _manifest_entry(folder)
    handler = handler or named.get("handler")
    if not handler:
        raise ValueError(f"{folder} has no manifest that names a handler: give handler=")
    name = model_name or named.get("modelName") or "model"
    place = _Place(folder)
    with place.entered():
        service = _Loader({**(yaml or {}), **keys}).load(
            name, folder, handler, gpu_id, batch_size, envelope
        )
    return LoadedHandler(place, service)


def fake_context(
    model_dir: StrPath = ".",
    *,
    manifest: Optional[Mapping[str, Any]] = None,
    yaml: Optional[Mapping[str, Any]] = None,
    headers: Union[Headers, Sequence[Headers], None] = None,
    requests: int = 1,
    model_name: str = "model",
    gpu_id: Optional[int] = None,
    batch_size: int = 1,
    **properties: Any,
) -> Context:
    """A context for tests of a handler's single steps, at the beginning of a batch.

    Args:
        model_dir: ``system_properties["model_dir"]``, made absolute.
        manifest: ``context.manifest``; one that only has the model's name where None.
        yaml: ``context.model_yaml_config``.
        headers: of the requests, one mapping for all or one for each.
        requests: how many there are in the batch.
        properties: more of ``system_properties``.
    """
    context = Context(
        model_name,
        os.path.abspath(model_dir),
        dict(manifest) if manifest is not None else {"model": {"modelName": model_name}},
        batch_size,
        gpu_id,
        __version__,
        metrics=_metrics(model_name),
        model_yaml_config=dict(yaml or {}),
    )
    context.system_properties.update(properties)
    ids = {idx: str(uuid.uuid4()) for idx in range(requests)}
    context.start_batch(_heads(headers, requests), ids)
    context.metrics.set_request_ids(ids)
    return context


class _Loader(TsModelLoader):
    def __init__(self, yaml: Mapping[str, Any]) -> None:
        self._yaml = yaml

    def _before_initialize(self, context: Context) -> None:
        context.model_yaml_config.update(self._yaml)


class _Place:
    """A model's folder: where its handler runs, and what it has imported from there."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._modules: Dict[str, types.ModuleType] = {}

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in the folder, with the modules that came from it, as a worker always is."""
        path, before = list(sys.path), dict(sys.modules)
        here = os.getcwd()
        os.chdir(self._folder)
        sys.path.insert(0, self._folder)
        sys.modules.update(self._modules)
        try:
            yield
        finally:
            os.chdir(here)
            sys.path[:] = path
            for name, module in list(sys.modules.items()):
                if before.get(name) is not module and self._is_from_here(module):
                    self._modules[name] = module
                    del sys.modules[name]
                    if name in before:
                        sys.modules[name] = before[name]

    def _is_from_here(self, module: Any) -> bool:
        file = getattr(module, "__file__", None) or ""
        return file.startswith(self._folder + os.sep) and "site-packages" not in file


def _manifest_entry(folder: str) -> Dict[str, Any]:
    try:
        with open(os.path.join(folder, "MAR-INF", "MANIFEST.json"), encoding="utf-8") as file:
            entry = json.load(file).get("model", {})
    except (OSError, ValueError, AttributeError):
        return {}  # the loader tells what is wrong with one that is there
    return entry if isinstance(entry, dict) else {}


def _heads(headers: Union[Headers, Sequence[Headers], None], count: int) -> List[Dict[str, Any]]:
    if headers is None or isinstance(headers, Mapping):
        return [dict(headers or {}) for _ in range(count)]
    if len(headers) != count:
        raise ValueError(f"There are {len(headers)} headers for {count} requests")
    return [dict(each) for each in headers]


def _answer(prediction: Prediction, parts: List[bytes]) -> Answer:
    body = bytes(prediction.body)
    return Answer(prediction.status, prediction.reason, prediction.headers, body, parts)


def _metrics(model_name: str) -> MetricsCacheYamlImpl:
    packaged = os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", "metrics.yaml")
    metrics = MetricsCacheYamlImpl(packaged)
    metrics.initialize_cache()
    metrics.model_name = model_name
    return metrics


try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture(name="load_handler")
    def _load_handler(request: pytest.FixtureRequest) -> Callable[..., LoadedHandler]:
        """`ts.testing.load_handler`, with paths that begin beside the file of the test."""

        def load(model: StrPath, *args: Any, **kwargs: Any) -> LoadedHandler:
            return load_handler(request.path.parent / model, *args, **kwargs)

        return load
