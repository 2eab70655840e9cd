"""What a handler knows about its model and about the requests of the current batch.

`ts.service` builds one `Context` per loaded model and refills its per-request fields; handlers
get the same object in `initialize` and in every `handle`, and may hang attributes of their own
on it (`context.cache = {}`): TorchServe's continuous batching examples live on that.
"""

from __future__ import annotations

import copy
import os
from typing import Any, Callable, Dict, List, Optional, Tuple

CancelProbe = Callable[[str], bool]
# Headers, rows and request ids of a batch.
Batch = Tuple[List[Dict[str, Any]], List[Dict[str, Any]], Dict[int, str]]
ChunkSink = Callable[[str, int, str, Dict[str, str], bytes], None]

# What copies of a context have in common: the ways to the server, and the metrics.
_SHARED = frozenset(("cl_socket", "_chunk_sink", "_cancel_probe", "_metrics"))


class RequestProcessor:
    """One request's headers, and the status and headers that its answer will carry."""

    def __init__(self, request_header: Dict[str, Any]) -> None:
        self._request_header = request_header
        self._status_code: Optional[int] = 200
        self._reason_phrase: Optional[str] = None
        self._response_header: Dict[str, Any] = {}

    def get_request_property(self, key: str) -> Any:
        """A request header by its exact name, None when the client did not send it."""
        return self._request_header.get(key)

    def get_request_properties(self) -> Dict[str, Any]:
        return self._request_header

    def report_status(self, code: Optional[int], reason_phrase: Optional[str] = None) -> None:
        """Answer this request with ``code``; None means 200."""
        self._status_code = code
        self._reason_phrase = reason_phrase

    def get_response_status_code(self) -> Optional[int]:
        return self._status_code

    def get_response_status_phrase(self) -> Optional[str]:
        return self._reason_phrase

    def add_response_property(self, key: str, value: Any) -> None:
        """Add a response header; values that are no str are turned into one when sent."""
        self._response_header[key] = value

    def get_response_headers(self) -> Dict[str, Any]:
        return self._response_header

    def get_response_header(self, key: str) -> Any:
        return self._response_header.get(key)


class Context:
    """A loaded model's surroundings; see TorchServe's custom service documentation.

    Args:
        model_name: the registered name, which may differ from the archive's.
        model_dir: absolute path of the unpacked archive, also the working directory.
        manifest: parsed ``MAR-INF/MANIFEST.json``, or None where there is none.
        batch_size: the largest batch that the server will form.
        gpu: CUDA ordinal given to this worker, or None for the CPU.
        mms_version: the server's version.
        limit_max_image_pixels: False lifts Pillow's bound on an image's size.
        metrics: the metrics cache, `context.metrics` of a handler.
        model_yaml_config: the parsed model yaml, {} where there is none.
    """

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: Optional[Dict[str, Any]],
        batch_size: Optional[int],
        gpu: Optional[int],
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: Optional[Dict[str, Any]] = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self._system_properties = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.request_ids: Optional[Dict[int, str]] = None
        # Handlers written for TorchServe also use these two by their inner names.
        self._request_processor: Any = None
        self._metrics = metrics
        self.model_yaml_config = {} if model_yaml_config is None else model_yaml_config
        self.stopping_criteria: Any = None
        self.cl_socket: Any = None
        self.header_key_sequence_id = _header_name("ID")
        self.header_key_sequence_start = _header_name("START")
        self.header_key_sequence_end = _header_name("END")
        self._chunk_sink: Optional[ChunkSink] = None
        self._cancel_probe: Optional[CancelProbe] = None

    @property
    def system_properties(self) -> Dict[str, Any]:
        """model_dir, gpu_id, batch_size, server_name, server_version, limit_max_image_pixels."""
        return self._system_properties

    @property
    def request_processor(self) -> Any:
        """One `RequestProcessor` per request of the batch; None before the first one."""
        return self._request_processor

    @request_processor.setter
    def request_processor(self, request_processor: Any) -> None:
        self._request_processor = request_processor

    @property
    def metrics(self) -> Any:
        """The metrics cache."""
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: Any) -> None:
        self._metrics = metrics

    def start_batch(self, headers: List[Dict[str, Any]], request_ids: Dict[int, str]) -> None:
        """Replace what belongs to a batch; called by `Service` before each `handle`."""
        self.request_ids = request_ids
        self._request_processor = [RequestProcessor(header) for header in headers]

    def is_cancelled(self, idx: int = 0) -> bool:
        """Whether nobody waits for request ``idx`` of the batch any more.

        Long-running handlers poll it between steps; TorchServe has no such question.
        """
        if self._cancel_probe is None or not self.request_ids or idx not in self.request_ids:
            return False
        return self._cancel_probe(self.request_ids[idx])

    def get_request_id(self, idx: int = 0) -> Optional[str]:
        return self.request_ids.get(idx) if self.request_ids else None

    def get_request_header(self, idx: int, key: str) -> Any:
        """Header ``key`` of request ``idx``, matched with exact case; None when absent."""
        return self._request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> Dict[str, Any]:
        """All headers of a request, and per input a dict with its ``content-type``."""
        return self._request_processor[idx].get_request_properties()

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> Optional[str]:
        return self.get_response_headers(idx).get("content-type")

    def get_response_status(self, idx: int) -> Tuple[Optional[int], Optional[str]]:
        """Code and reason phrase; (200, None) unless the handler chose others."""
        processor = self._request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Answer request ``idx`` with this status; does nothing outside a batch."""
        if self._request_processor is not None and self._request_processor[idx] is not None:
            self._request_processor[idx].report_status(code, reason_phrase=phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for idx in range(len(self._request_processor or ())):
            self.set_response_status(code, phrase, idx)

    def get_response_headers(self, idx: int) -> Dict[str, Any]:
        return self._request_processor[idx].get_response_headers()

    def set_response_header(self, idx: int, key: str, value: Any) -> None:
        self._request_processor[idx].add_response_property(key, value)

    def get_sequence_id(self, idx: int) -> Any:
        """The request's sequence id under sequence batching."""
        return self.get_request_header(idx, self.header_key_sequence_id)

    def __deepcopy__(self, memo: Dict[int, Any]) -> Context:
        """A context of its own for a request beside others; where answers go is shared."""
        other = copy.copy(self)
        memo[id(self)] = other
        for name, value in self.__dict__.items():
            if name not in _SHARED:
                other.__dict__[name] = copy.deepcopy(value, memo)
        # A cache of its own would forget what a request defines; only the request ids are its own.
        other._metrics = copy.copy(self._metrics)
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self.__dict__ == other.__dict__

    # Equal contexts may change apart, so the hash can only be that of the object.
    __hash__ = object.__hash__


def _header_name(part: str) -> str:
    return os.environ.get(f"TS_REQUEST_SEQUENCE_{part}", f"ts_request_sequence_{part.lower()}")
