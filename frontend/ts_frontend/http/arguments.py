"""Reads the parameters of management calls as leniently as TorchServe's gson did (§5.2).

Called by `management` only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from ts_frontend.errors import BadRequest, ServeError, TooLarge
from ts_frontend.lenient_json import (
    INT32_MAX,
    INT32_MIN,
    MalformedJson,
    Number,
    gson_int,
    java_int,
    read,
)

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 100
# It holds a URL and a dozen short parameters, and is read while requests wait.
MAX_BODY = 64 << 10
_SHOWN = 80  # characters of a value in an error


class JsonSyntax(ServeError):
    """A JSON body that can't be read; TorchServe's status and name for it."""

    status = 500
    type = "JsonSyntaxException"


def lenient_json(body: bytes) -> Mapping[str, object]:
    """Read a JSON object as gson does, with quotes single or missing; an empty body is empty.

    Raises:
        TooLarge: more than 64 KiB.
        JsonSyntax: neither JSON nor nearly so, or not an object.
    """
    if len(body) > MAX_BODY:
        raise TooLarge(
            f"The JSON body has {len(body)} bytes, the limit for parameters is {MAX_BODY}."
        )
    text = body.decode("utf-8", "replace")
    if not text.strip():
        return {}
    try:
        value = read(text)
    except MalformedJson as error:
        raise JsonSyntax(f"The request body is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise JsonSyntax("The request body must be a JSON object of parameters.")
    return value


class Arguments:
    """Parameters of a call, from its query or its JSON body.

    Args:
        values: by name; text from a query, any JSON value from a body.
        strict: True for JSON, where a wrong kind of value is an error; in a query it has always
            counted as not given.
    """

    def __init__(self, values: Mapping[str, object], *, strict: bool = False) -> None:
        self._values = values
        self._strict = strict

    def text(self, name: str) -> str | None:
        """Return a parameter as text, a number as it was written; None without it."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return str(value)
        raise JsonSyntax(f"Parameter {name} must be a string, not {_shown(value)}.")

    def integer(self, name: str) -> int | None:
        """Return a parameter as an integer of 32 bits; None without it.

        Raises:
            JsonSyntax: a JSON body has something else there.
        """
        value = self._values.get(name)
        if value is None:
            return None
        number = gson_int(value) if self._strict else java_int(str(value))
        if number is not None:
            return number
        bounds = f"an integer from {INT32_MIN} to {INT32_MAX}"
        if self._strict:
            raise JsonSyntax(f"Parameter {name} must be {bounds}, not {_shown(value)}.")
        log.warning("Parameter %s=%s is not %s; its default is used.", name, _shown(value), bounds)
        return None

    def chosen(self, name: str, *unset: int) -> int | None:
        """Return an integer, None for the numbers TorchServe's clients send for "not set"."""
        value = self.integer(name)
        return None if value in unset else value

    def flag(self, name: str, default: bool) -> bool:
        """Return a parameter as a boolean: any case of ``true``, else false."""
        value = self.text(name)
        return default if value is None else value.strip().lower() == "true"

    def decision(self, name: str) -> bool | None:
        """Return a boolean, None without it; for what a slip of the pen must not decide.

        Raises:
            BadRequest: it is neither true nor false.
        """
        value = self.text(name)
        if value is None:
            return None
        if value.strip().lower() not in ("true", "false"):
            raise BadRequest(f"Parameter {name} must be true or false, not {value!r}.")
        return value.strip().lower() == "true"


def _shown(value: object) -> str:
    text = value if isinstance(value, Number) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def page(arguments: Arguments) -> tuple[int, int]:
    """Read which page of a list is asked for: how many entries, from which one on (§5.6)."""
    limit = arguments.integer("limit")
    if limit is None or not 0 <= limit <= DEFAULT_LIMIT:
        limit = DEFAULT_LIMIT
    return limit, max(arguments.integer("next_page_token") or 0, 0)
