"""Typed look-ups in a model's yaml. `model_yaml` and `parallel` read with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ts_frontend.lenient_json import INT32_MAX

logger = logging.getLogger(__name__)

T = TypeVar("T")


class YamlReader:
    """Look-ups that warn and fall back, as TorchServe does for wrong values.

    Args:
        file: where the values are from, for warnings.

    Attributes:
        known: the keys that were looked up, whether or not they are there.
    """

    def __init__(self, values: Mapping[Any, Any], file: str) -> None:
        self.known: set[str] = set()
        self.file = file
        self._values = values

    def integer(
        self, key: str, *, least: int | None = None, clamp: int | None = None
    ) -> int | None:
        value = self._get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            self._refuse(key, value, "a whole number")
            return None
        if abs(value) > INT32_MAX:
            self._refuse(key, value, f"at most {INT32_MAX}")
            return None
        if least is not None and value < least:
            self._refuse(key, value, f"{least} or more")
            return None
        return value if clamp is None else max(clamp, value)

    def choice(self, key: str, accept: Callable[[Any], T | None], wanted: str) -> T | None:
        value = self._get(key)
        if value is None:
            return None
        accepted = accept(value)
        if accepted is None:
            self._refuse(key, value, wanted)
        return accepted

    def _get(self, key: str) -> Any:
        self.known.add(key)
        return self._values.get(key)

    def _refuse(self, key: str, value: object, wanted: str) -> None:
        logger.warning(
            "%s: %s must be %s, not %r: the default is used", self.file, key, wanted, value
        )
