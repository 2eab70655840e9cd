"""Helpers for handlers: streamed answers and classes by name."""

from __future__ import annotations

import importlib
import os
from typing import Any, Dict, Mapping, Optional, Type

from ts.prediction import STREAM_NEXT, prediction
from ts.protocol.otf_message_handler import create_predict_response
from ts.utils.util import PredictionException

__all__ = ["create_predict_response", "import_class", "send_intermediate_predict_response"]


def import_class(class_name: str, module_prefix: Optional[str] = None) -> Type:
    """Import a class given as ``"package.Class"``, or as ``"Class"`` with its module beside.

    Raises:
        ImportError: the name is empty, or the module or the class does not exist.
    """
    module_name, _, name = class_name.rpartition(".")
    if module_prefix is not None:
        module_name = f"{module_prefix}.{module_name}".rstrip(".")
    if not name or not module_name:
        raise ImportError(f"Expected the name of a module and a class, found {class_name!r}")
    module = importlib.import_module(module_name)
    try:
        cls: Type = getattr(module, name)
    except AttributeError:
        raise ImportError(f"There is no class {name} in module {module_name}") from None
    return cls


def send_intermediate_predict_response(
    ret: Any, req_id_map: Mapping[int, str], message: str, code: int, context: Any
) -> None:
    """Send a part of each answer now; what `handle` returns later ends the answers.

    Args:
        ret: the parts, indexed by the keys of ``req_id_map``.
        req_id_map: index to request id, usually ``context.request_ids``.
        code: 200. Any other code ends the whole batch with ``message``, as in TorchServe.
        context: the handler's context; its response status and headers go with the first part.

    Raises:
        RuntimeError: nobody is listening, e.g. outside a worker.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    if code != 200:
        raise PredictionException(message, code)
    sink = getattr(context, "_chunk_sink", None)
    if sink is None:
        _write_to_socket(ret, req_id_map, message, code, context)
        return
    # A micro-batch numbers its requests from 0: ids, not numbers, say which request is meant.
    indices = _indices(context)
    for idx, request_id in req_id_map.items():
        own = indices.get(request_id, idx)
        context.set_response_header(own, STREAM_NEXT, "true")
        part = prediction(context, own, ret[idx])
        sink(request_id, part.status, part.reason, part.headers, part.body)


def _indices(context: Any) -> Dict[str, int]:
    return {request_id: idx for idx, request_id in (context.request_ids or {}).items()}


def _write_to_socket(
    ret: Any, req_id_map: Mapping[int, str], message: str, code: int, context: Any
) -> None:
    if getattr(context, "cl_socket", None) is None:
        raise RuntimeError("Nobody is listening for parts of an answer outside a worker")
    encoded = create_predict_response(ret, req_id_map, message, code, context, True)
    if encoded is not None:
        context.cl_socket.sendall(encoded)
