"""Reads the parameters of management calls as leniently as TorchServe's gson did (§5.2).

Called by `management` only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

import yaml

from ts_frontend.errors import BadRequest, ServeError

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 100


class JsonSyntax(ServeError):
    """A JSON body that can't be read; TorchServe's status and name for it."""

    status = 500
    type = "JsonSyntaxException"


def lenient_json(body: bytes) -> Mapping[str, object]:
    """Read a JSON object; single quotes and bare names pass too, an empty body is empty.

    Raises:
        JsonSyntax: neither JSON nor nearly so, or not an object.
    """
    text = body.decode("utf-8", "replace").strip()
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        value = _nearly_json(text, error)
    except RecursionError:
        raise JsonSyntax("The request body is nested too deeply.") from None
    if not isinstance(value, dict):
        raise JsonSyntax("The request body must be a JSON object of parameters.")
    return value


def _nearly_json(text: str, error: ValueError) -> object:
    # A YAML flow mapping is JSON with gson's liberties; BaseLoader makes plain strings only.
    # Anything else, block YAML with its anchors above all, stays refused.
    if not (text.startswith("{") and text.endswith("}")) or "&" in text or "*" in text:
        raise JsonSyntax(f"The request body is not valid JSON: {error}.") from None
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        raise JsonSyntax(f"The request body is not valid JSON: {error}.") from None


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
        """Return a parameter as text, None without it."""
        value = self._values.get(name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return str(value)
        raise JsonSyntax(f"Parameter {name} must be a string, not {json.dumps(value)}.")

    def integer(self, name: str) -> int | None:
        """Return a parameter as an integer; None without it.

        Raises:
            JsonSyntax: a JSON body has something else there.
        """
        value = self._values.get(name)
        if value is None:
            return None
        try:
            if isinstance(value, float) and value.is_integer():
                return int(value)
            if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
                return int(value)
        except ValueError:
            pass
        if self._strict:
            raise JsonSyntax(f"Parameter {name} must be an integer, not {json.dumps(value)}.")
        log.warning("Parameter %s=%r is not an integer; its default is used.", name, value)
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


def page(arguments: Arguments) -> tuple[int, int]:
    """Read which page of a list is asked for: how many entries, from which one on (§5.6)."""
    limit = arguments.integer("limit")
    if limit is None or not 0 <= limit <= DEFAULT_LIMIT:
        limit = DEFAULT_LIMIT
    return limit, max(arguments.integer("next_page_token") or 0, 0)
