"""From a handler string and a model folder to a `Service`: TorchServe's resolution rules.

The worker's runtime calls `ModelLoaderFactory.get_model_loader().load(...)` once per process.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import types
import uuid
from abc import ABC, abstractmethod
from typing import Any, Callable, Dict, Optional, Tuple, Type

from ts.context import Context
from ts.deprecations import torchscript_warning_hidden
from ts.entry_point import refuse_coroutine, warn_of_late_handle
from ts.model_modules import import_own
from ts.service import Service
from ts.utils.util import list_classes_from_module

logger = logging.getLogger(__name__)

_BUILT_IN = "ts.torch_handler"
_ENVELOPES = ("body", "json", "kserve", "kservev2")


class ModelLoaderFactory:
    """Where the runtime gets its loader."""

    @staticmethod
    def get_model_loader() -> TsModelLoader:
        return TsModelLoader()


class ModelLoader(ABC):
    """What a loader can do."""

    @abstractmethod
    def load(
        self,
        model_name: str,
        model_dir: str,
        handler: Optional[str] = None,
        gpu_id: Optional[int] = None,
        batch_size: Optional[int] = None,
        envelope: Optional[str] = None,
        limit_max_image_pixels: bool = True,
        metrics_cache: Any = None,
    ) -> Service:
        """Load a model and initialise its handler."""


class TsModelLoader(ModelLoader):
    """TorchServe's loader."""

    awaits = False  # whether whoever drives the service awaits a ``handle`` that is a coroutine

    def load(
        self,
        model_name: str,
        model_dir: str,
        handler: Optional[str] = None,
        gpu_id: Optional[int] = None,
        batch_size: Optional[int] = None,
        envelope: Optional[str] = None,
        limit_max_image_pixels: bool = True,
        metrics_cache: Any = None,
    ) -> Service:
        """Import the handler, build its service and call its `initialize`.

        Args:
            model_dir: the unpacked archive; put first on `sys.path` unless it is there.
            handler: ``file``, ``file.py``, ``file:function`` or a built-in handler's name.
            gpu_id: CUDA ordinal, None for the CPU.
            envelope: body, json, kserve or kservev2; None for rows as they come.
            metrics_cache: `context.metrics`; the default definitions where None.

        Raises:
            ModuleNotFoundError: no such file and no such built-in.
            ValueError: the handler's module offers no entry point, or one that is a coroutine; or
                bad manifest or yaml.
            Exception: whatever the handler's own code raises, unchanged.
        """
        metrics = metrics_cache if metrics_cache is not None else _default_metrics()
        metrics.model_name = model_name
        # What a handler records while it loads belongs to this pseudo request.
        metrics.set_request_ids(str(uuid.uuid4()))
        manifest = _read_manifest(model_dir)
        if not handler:
            raise ValueError(f"Model {model_name} names no handler: archive it with --handler")
        if model_dir not in sys.path:
            sys.path.insert(0, model_dir)
        with torchscript_warning_hidden():
            module, function = self._load_handler_file(handler, model_dir)
            handle, initialize = self._entry_point(module, function)
            if not self.awaits:
                refuse_coroutine(handle)
            entry_point = handle
            if envelope:
                entry_point = self._load_default_envelope(envelope)(handle).handle
            service = Service(
                model_name,
                model_dir,
                manifest,
                entry_point,
                gpu_id,
                batch_size,
                limit_max_image_pixels,
                metrics,
            )
            _prepare_gpu(gpu_id)
            self._before_initialize(service.context)
            initialize(service.context)
            warn_of_late_handle(handle)
        return service

    def _before_initialize(self, context: Context) -> None:
        """For loaders that know more of a model than its files say."""

    def _load_handler_file(
        self, handler: str, model_dir: Optional[str] = None
    ) -> Tuple[types.ModuleType, Optional[str]]:
        """The handler's module and the function named after the colon, if any.

        A module on the path wins over a built-in of the same name. What the module itself fails
        to import is reported as it is; TorchServe hides it behind the search for a built-in.
        """
        file, _, function = handler.partition(":")
        stem = file[:-3] if file.endswith(".py") else file
        name = stem.rsplit("/", 1)[-1]
        folder = os.path.dirname(file)
        if os.path.isabs(folder) and folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            module = import_own(name, model_dir)
        except ModuleNotFoundError as error:
            # A dotted name (distributed.base_pippy_handler) fails on its first part.
            if error.name is None or not (name + ".").startswith(error.name + "."):
                raise
            module = self._load_default_handler(stem, model_dir)
        return module, function or None

    def _load_default_handler(
        self, handler: str, model_dir: Optional[str] = None
    ) -> types.ModuleType:
        name = f"{_BUILT_IN}.{handler.rsplit('/', 1)[-1]}"
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name + ".").startswith(error.name + "."):
                raise
            raise ModuleNotFoundError(
                f"Handler {handler!r} was not found: there is no {handler}.py in {model_dir}, "
                "and no built-in handler of that name. Archive the file with --handler, or use "
                "a built-in one such as image_classifier or base_handler.",
                name=handler,
            ) from None

    def _load_default_envelope(self, envelope: str) -> Type:
        name = f"{_BUILT_IN}.request_envelope.{envelope}"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ValueError(
                f"service_envelope {envelope!r} is unknown; use one of {', '.join(_ENVELOPES)}"
            ) from None
        return list_classes_from_module(module)[0]

    def _entry_point(
        self, module: types.ModuleType, function: Optional[str]
    ) -> Tuple[Callable, Callable]:
        """What answers batches, and what is called once with the context before them."""
        if hasattr(module, function or "handle"):
            return self._get_function_entry_point(module, function or "handle")
        if not function:
            return self._get_class_entry_point(module)
        missing = f"There is no function {function} in module {module.__name__}"
        try:
            entry_point = self._get_class_entry_point(module)
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{missing}, and no handler class: {error}") from error
        logger.warning("%s: its class takes its place", missing)
        return entry_point

    def _get_function_entry_point(
        self, module: types.ModuleType, name: str
    ) -> Tuple[Callable, Callable]:
        entry_point = getattr(module, name)
        if not callable(entry_point):
            raise ValueError(f"{name} in module {module.__name__} cannot be called")
        # TorchServe's contract: a function handler loads its model when it gets no data.
        return entry_point, lambda context: entry_point(None, context)

    def _get_class_entry_point(self, module: types.ModuleType) -> Tuple[Callable, Callable]:
        cls = _handler_class(module)
        handler = cls()
        for method in ("handle", "initialize"):
            if not callable(getattr(handler, method, None)):
                error = ValueError if method == "handle" else AttributeError
                raise error(f"Expect {method} method in class {cls.__module__}.{cls.__name__}")
        return handler.handle, handler.initialize


def _handler_class(module: types.ModuleType) -> Type:
    """The one class of the module; helper classes beside it may lack `handle`.

    TorchServe refuses modules with any second class, a dataclass or an enum among them.
    """
    classes = list_classes_from_module(module)
    if len(classes) > 1:
        handlers = [cls for cls in classes if callable(getattr(cls, "handle", None))]
        classes = handlers if len(handlers) == 1 else classes
    if len(classes) != 1:
        names = ", ".join(cls.__name__ for cls in classes)
        raise ValueError(
            "Expected only one class in custom service code or a function entry point "
            f"[{names}]: module {module.__name__} must define one class with a method handle, "
            "or a function handle(data, context)"
        )
    return classes[0]


def _prepare_gpu(gpu_id: Optional[int]) -> None:
    """What TorchServe's base handler does when it is imported, for handlers that import ours and
    never call its `initialize`."""
    if gpu_id is not None and f"{_BUILT_IN}.base_handler" in sys.modules:
        importlib.import_module(f"{_BUILT_IN}.devices").prefer_tensor_cores(int(gpu_id))


def _read_manifest(model_dir: str) -> Optional[Dict[str, Any]]:
    path = os.path.join(model_dir, "MAR-INF", "MANIFEST.json")
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8") as file:
        try:
            manifest = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON: {error}. Archive it again.") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} must hold an object, found {type(manifest).__name__}")
    return manifest


def _default_metrics() -> Any:
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

    cache = MetricsCacheYamlImpl(
        os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", "metrics.yaml")
    )
    cache.initialize_cache()
    return cache
