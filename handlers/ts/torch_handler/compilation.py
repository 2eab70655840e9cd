"""`torch.compile` as the key `pt2` of a model's yaml asks for it."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Any, Dict, Optional

import torch

from ts.utils.util import check_valid_pt2_backend

logger = logging.getLogger(__name__)

# Packages that bring a backend of `torch.compile` with them.
_PROVIDERS = {"openvino": "openvino.torch", "tensorrt": "torch_tensorrt"}


def compile_options(config: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """Arguments for `torch.compile`, or None when the yaml asks for none.

    ``pt2: {compile: {enable: true, backend: ..., mode: ...}}`` is today's form; ``pt2: inductor``
    and ``pt2: {backend: ...}`` are TorchServe's former ones.

    Raises:
        ValueError: `pt2` is of another type.
        KeyError: `compile` lacks `enable`.
    """
    pt2 = config.get("pt2")
    if pt2 is None:
        return None
    if isinstance(pt2, str):
        logger.warning("pt2: %s is deprecated; write pt2: {compile: {enable: true, ...}}", pt2)
        return _checked({"backend": pt2})
    if not isinstance(pt2, dict):
        raise ValueError(f"pt2 should be str or dict, found {type(pt2).__name__}")
    if "compile" in pt2:
        options = dict(pt2["compile"] or {})
        if "enable" not in options:
            raise KeyError("pt2.compile in the model's yaml needs the key enable: true or false")
        return _checked(options) if options.pop("enable") else None
    if "export" in pt2:
        return None
    logger.warning("Options directly under pt2 are deprecated; move them to pt2.compile")
    return _checked(dict(pt2))


def compiled(model: Any, options: Dict[str, Any]) -> Optional[Any]:
    """The compiled model, or None where torch refuses; the reason is logged, as in TorchServe."""
    provider = _PROVIDERS.get(options.get("backend", ""))
    try:
        if provider and importlib.util.find_spec(provider.partition(".")[0]):
            importlib.import_module(provider)
        result = torch.compile(model, **options)
    except (RuntimeError, TypeError, ValueError, ImportError) as error:
        logger.warning("Compiling the model failed, it runs uncompiled: %s", error)
        return None
    given = ", ".join(f"{name} {value}" for name, value in options.items())
    logger.info("Compiled model with %s", given or "backend inductor")
    return result


def _checked(options: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    backend = options.get("backend")
    return options if backend is None or check_valid_pt2_backend(backend) else None
