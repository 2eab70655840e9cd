"""`@timed`: per-step times of a handler, for models whose yaml asks for them."""

from __future__ import annotations

import functools
import sys
import time
from typing import Any, Callable, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


def timed(method: Method) -> Method:
    """Record how long a handler's method takes as the gauge ``ts_handler_<method>`` in ms.

    Only where the model's yaml has ``handler: {profile: true}``. On a GPU the time of the
    kernels is measured, which waits for them. TorchServe's contract, except that a handler
    without the attribute ``context`` is simply not timed.
    """

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        context: Any = getattr(self, "context", None)
        config = getattr(context, "model_yaml_config", None) or {}
        section = config.get("handler")
        if not isinstance(section, dict) or not section.get("profile"):
            return method(self, *args, **kwargs)
        synchronize = _cuda_synchronize(self)
        synchronize()
        start = time.perf_counter()
        result = method(self, *args, **kwargs)
        synchronize()
        elapsed = round((time.perf_counter() - start) * 1000, 2)
        context.metrics.add_time(f"ts_handler_{method.__name__}", elapsed, None, "ms")
        return result

    return wrapper  # type: ignore[return-value]


def _cuda_synchronize(handler: Any) -> Callable[[], None]:
    """A function that waits for the handler's GPU; it does nothing on other devices."""
    device = getattr(handler, "device", None)
    torch = sys.modules.get("torch")
    if torch is None or getattr(device, "type", None) != "cuda":
        return lambda: None
    return functools.partial(torch.cuda.synchronize, device)
