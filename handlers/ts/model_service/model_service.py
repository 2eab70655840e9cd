"""The base classes of services written for MXNet Model Server, TorchServe's ancestor.

Nothing of ours uses them; handlers of today extend `ts.torch_handler.base_handler.BaseHandler`.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from typing import Any, Dict, Optional


class ModelService(ABC):
    """A model that its folder's signature describes.

    Args:
        model_name: the registered name.
        model_dir: the unpacked archive.
        manifest: its ``Model.Signature`` names a JSON file of the archive.
        gpu: number of the GPU, None for the CPU.

    Raises:
        RuntimeError: the manifest names a signature and there is no such file.
    """

    def __init__(
        self, model_name: str, model_dir: str, manifest: Dict[str, Any], gpu: Optional[int] = None
    ) -> None:
        self.ctx: Any = None
        self.model_name = model_name
        self.model_dir = model_dir
        self.manifest = manifest
        self.gpu = gpu
        self._context: Any = None
        self._signature = _signature(model_dir, manifest)

    @property
    def context(self) -> Any:
        return self._context

    def initialize(self, context: Any) -> None:
        """Remember the context."""
        self._context = context

    @abstractmethod
    def inference(self, data: Any) -> Any:
        """Answer a request's inputs."""

    @abstractmethod
    def ping(self) -> Any:
        """Tell whether the model is well."""

    @property
    def signature(self) -> Any:
        """The content of the signature's file, None without one."""
        return self._signature


class SingleNodeService(ModelService):
    """A service of one model; subclasses define `_inference`, and `_preprocess` and `_postprocess`
    where the data need them."""

    def inference(self, data: Any) -> Any:
        """Run the three steps; each one's time goes to the context's metrics, in milliseconds."""
        for step, metric in (
            (self._preprocess, "PreprocessTime"),
            (self._inference, "InferenceTime"),
            (self._postprocess, "PostprocessTime"),
        ):
            start = time.perf_counter()
            data = step(data)
            metrics = getattr(self.context, "metrics", None)
            if metrics is not None:
                metrics.add_time(metric, round((time.perf_counter() - start) * 1000, 2))
        return data

    def ping(self) -> Any:
        return None

    @abstractmethod
    def _inference(self, data: Any) -> Any:
        """Run the model."""

    def _preprocess(self, data: Any) -> Any:
        return data

    def _postprocess(self, data: Any) -> Any:
        return data


def _signature(model_dir: str, manifest: Any) -> Any:
    name = ((manifest or {}).get("Model") or {}).get("Signature")
    if not name:
        return None
    path = os.path.join(model_dir, name)
    if not os.path.isfile(path):
        raise RuntimeError(f"Signature file is not found: {path}")
    with open(path, encoding="utf-8") as file:
        return json.load(file)
