"""`BaseHandler`: loads a model of any known kind and runs preprocess, inference, postprocess.

Users subclass it and override single steps, so each method keeps TorchServe's name, arguments
and place in the flow. The loaders themselves are in `model_formats`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from abc import ABC
from typing import Any, List, Optional, Tuple

import torch
from torch.profiler import ProfilerActivity as ProfilerActivity  # handlers import these from here
from torch.profiler import profile as profile
from torch.profiler import record_function as record_function

from ts.context import Context
from ts.handler_utils.timer import timed
from ts.torch_handler import compilation, devices, model_formats, profiling
from ts.utils.util import load_label_mapping

logger = logging.getLogger(__name__)

_TORCH = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])

# Names that handlers import to ask what the environment can do.
PROFILER_AVAILABLE = True
PT2_AVAILABLE = _TORCH >= (2, 0)
PT230_AVAILABLE = _TORCH >= (2, 3)
XLA_AVAILABLE = importlib.util.find_spec("torch_xla") is not None
ONNX_AVAILABLE = importlib.util.find_spec("onnxruntime") is not None
IPEX_AVAILABLE = (
    os.environ.get("TS_IPEX_ENABLE") == "true"
    and importlib.util.find_spec("intel_extension_for_pytorch") is not None
)


def setup_ort_session(model_pt_path: str, map_location: Optional[str]) -> Any:
    """An onnxruntime session for ``model_pt_path``, on the GPU for the location ``cuda``."""
    return model_formats.onnx_session(model_pt_path, map_location)


class BaseHandler(ABC):  # noqa: B024 - TorchServe's base; usable as it stands
    """The handler that every built-in one extends; also usable itself as `base_handler`.

    Subclasses that skip `__init__` work: every attribute that the flow needs is set by
    `initialize` and `handle`.
    """

    # Whether a thread may run `preprocess` on the next batch while `inference` and `postprocess`
    # are at this one. It then looks at nothing but the rows and what `initialize` has set, and
    # leaves nothing on `self`.
    preprocess_ahead = False

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: Any = None
        self.device: Any = None
        self.initialized = False
        self.context: Any = None
        self.model_pt_path: Optional[str] = None
        self.manifest: Any = None
        self.map_location: Optional[str] = None
        self.explain = False
        self.target: Any = 0
        self.profiler_args: Any = {}

    def initialize(self, context: Context) -> None:
        """Load the model that the manifest names, and ``index_to_name.json`` where there is one.

        Raises:
            RuntimeError: no way to load it: no serialised file, or one of an unknown kind.
            ValueError: the file is not what its name says; the text tells what it is.
        """
        properties = context.system_properties
        self.model_yaml_config = getattr(context, "model_yaml_config", None) or {}
        self.map_location, self.device = devices.choose(properties.get("gpu_id"))
        self.manifest = context.manifest
        model_dir = properties["model_dir"]
        self.model_pt_path = None
        named = (self.manifest or {}).get("model", {})
        if named.get("serializedFile"):
            self.model_pt_path = os.path.join(model_dir, named["serializedFile"])
        self.model = self._load(model_dir, named.get("modelFile"))
        self._optimize()
        self.mapping = load_label_mapping(os.path.join(model_dir, "index_to_name.json"))
        self.initialized = True

    @timed
    def preprocess(self, data: Any) -> Any:
        """Turn the rows of the batch into the model's input: here one tensor of the numbers."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on ``data``; further arguments go to the model as they are."""
        with torch.inference_mode():
            if model_formats.is_onnx_session(self.model):
                return model_formats.run_onnx(self.model, (data, *args), self.device)
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> Any:
        """Turn the model's output into a list with one element per request."""
        return data.tolist()

    def handle(self, data: List[Any], context: Context) -> Any:
        """Answer a batch; called by the worker.

        Args:
            data: one dict of inputs per request.

        Returns:
            A list with one element per request.
        """
        start = time.perf_counter()
        self.context = context
        if os.environ.get("ENABLE_TORCH_PROFILER"):
            output, _ = self._infer_with_profiler(data)
        elif self._is_describe():
            output = [self.describe_handle()]
        else:
            prepared = self.preprocess(data)
            if self._is_explain():
                output = self.explain_handle(prepared, data)
            else:
                output = self.postprocess(self.inference(prepared))
        elapsed = round((time.perf_counter() - start) * 1000, 2)
        context.metrics.add_time("HandlerTime", elapsed, None, "ms")
        return output

    def explain_handle(self, data_preprocess: Any, raw_data: List[Any]) -> Any:
        """Answer an explanation request by the subclass's `get_insights`.

        The first row's ``target`` is the number of the class to explain, 0 by default. Digits in
        text or bytes, as a form has them, are a number too.
        """
        row = raw_data[0]
        inputs, target = None, 0
        if isinstance(row, dict):  # an envelope hands over the input itself
            inputs = row.get("data") or row.get("body")
            target = _number(row.get("target") or 0)
        return self.get_insights(data_preprocess, inputs, target)  # type: ignore[attr-defined]

    def describe_handle(self) -> Any:
        """The model's own part of a customised description; subclasses return a dict."""
        return None

    def get_device(self) -> Any:
        return self.device

    def _load(self, model_dir: str, model_file: Optional[str]) -> Any:
        path = self.model_pt_path or ""
        if model_file:
            model = self._load_pickled_model(model_dir, model_file, self.model_pt_path)
            # Wrappers around a module need not return themselves from either.
            model.to(self.device)
            model.eval()
            return model
        if path.endswith(".pt"):
            model = self._load_torchscript_model(path)
            model.eval()
            return model
        if path.endswith(".pt2"):
            return model_formats.load_exported(path, self.device)
        if path.endswith(".onnx"):
            return setup_ort_session(path, self.map_location)
        if path.endswith(".so") and PT230_AVAILABLE and self._use_torch_export_aot_compile():
            return self._load_torch_export_aot_compile(path)
        raise RuntimeError(
            f"No model weights could be loaded: {path or 'the archive names no serialized file'}. "
            "Pack a .pt, .pt2 or .onnx file with --serialized-file, or the model's class with "
            "--model-file."
        )

    def _load_pickled_model(
        self, model_dir: str, model_file: str, model_pt_path: Optional[str]
    ) -> Any:
        return model_formats.load_eager(model_dir, model_file, model_pt_path, self.device)

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return model_formats.load_torchscript(model_pt_path, self.device)

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        return model_formats.load_aot_library(model_so_path, self.map_location, self.device)

    def _use_torch_export_aot_compile(self) -> bool:
        pt2 = self.model_yaml_config.get("pt2")
        export = pt2.get("export") if isinstance(pt2, dict) else None
        return bool(isinstance(export, dict) and export.get("aot_compile"))

    def _optimize(self) -> None:
        """Compile the model as its yaml asks; where it does not, IPEX may optimise it."""
        options = compilation.compile_options(self.model_yaml_config)
        model = compilation.compiled(self.model, options) if options is not None else None
        if model is not None:
            self.model = model
        elif IPEX_AVAILABLE:
            ipex = importlib.import_module("intel_extension_for_pytorch")
            self.model = self.model.to(memory_format=torch.channels_last)
            self.model = ipex.optimize(self.model)

    def _infer_with_profiler(self, data: Any) -> Tuple[Any, Any]:
        return profiling.profiled(self, data)

    def _asks_for(self, header: str) -> bool:
        context = self.context
        return context is not None and context.get_request_header(0, header) == "True"

    def _is_explain(self) -> bool:
        if self._asks_for("explain"):
            self.explain = True
            return True
        return False

    def _is_describe(self) -> bool:
        return self._asks_for("describe")


def _number(target: Any) -> Any:
    if isinstance(target, (str, bytes, bytearray)):
        try:
            return int(target)
        except ValueError:
            pass  # a handler of the user's may know what it means
    return target
