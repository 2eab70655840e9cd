"""How the text of a setting becomes a value: one reader per type, each with its bounds.

`keys` names the reader of every key, `config` calls them. A reader raises `BadValue` where
TorchServe does not start, and `FallBack` where it goes on with another value.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ts_frontend.lenient_json import INT32_MAX, MalformedJson, read

_TCP = re.compile(r"(https?)://(\[[0-9a-f:.%]+\]|[^:/\[\]\s]+)(?::(\d+))?", re.IGNORECASE)
INT64_MAX = 2**63 - 1
_TRUE_LIKE = {"yes", "y", "on", "1", "t", "enable", "enabled"}


class ConfigError(ValueError):
    """The server can't start with these settings; the text names the cause and the cure."""


class LaunchError(ConfigError):
    """A wrong command line or folder, in the exact words of TorchServe's launcher."""


class BadValue(ValueError):
    """What was expected instead of this text."""


class FallBack(ValueError):
    """TorchServe goes on with ``value`` here; the text is the warning."""

    def __init__(self, value: object, warning: str) -> None:
        super().__init__(warning)
        self.value = value


class Address(NamedTuple):
    """Where a listener binds. ``path`` is set for ``unix`` only; ``host`` has no brackets."""

    scheme: Literal["http", "https", "unix"]
    host: str
    port: int
    path: str | None = None

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def text(raw: str) -> str:
    """Any text, as it stands."""
    return raw


def optional_text(raw: str) -> str | None:
    """Any text; empty means unset."""
    return raw or None


def lenient_json(raw: str) -> object:
    """JSON as `ts_frontend.lenient_json` reads it."""
    try:
        return read(raw)
    except MalformedJson as error:
        raise BadValue(f"expected JSON: {error}") from None


def json_object(value: object, what: str) -> dict[str, Any]:
    """A value of such JSON that must be an object, of ``what``."""
    if not isinstance(value, dict):
        raise BadValue(f"expected a JSON object for {what}")
    return value


def boolean(raw: str) -> bool:
    """``true`` in any case is true; every other text is false, as for Java's parseBoolean."""
    if raw.lower() in ("true", "false"):
        return raw.lower() == "true"
    hint = ""
    if raw.strip().lower() in _TRUE_LIKE | {"true"}:
        hint = "; write exactly true if you mean it"
    raise FallBack(False, f"only true is true: taken as false{hint}")


def strict_boolean(raw: str) -> bool:
    """``true`` or ``false``, where taking a slip of the pen for false would be dangerous."""
    if raw.strip().lower() in ("true", "false"):
        return raw.strip().lower() == "true"
    raise BadValue("expected true or false")


def whole(least: int, most: int = INT32_MAX) -> Callable[[str], int]:
    """Reader of a whole number within bounds; TorchServe's numbers have 32 bits."""
    bounds = f"at least {least}" if most >= INT32_MAX else f"{least} to {most}"

    def read(raw: str) -> int:
        if not re.fullmatch(r"\s*[+-]?[0-9]{1,19}\s*", raw) or int(raw) < least:
            raise BadValue(f"expected a whole number, {bounds}")
        if int(raw) > most:
            raise BadValue(f"expected a whole number, {least} to {most}")
        return int(raw)

    return read


def optional_whole(least: int, most: int = INT32_MAX) -> Callable[[str], int | None]:
    """`whole` for a setting whose default is unset."""
    return whole(least, most)


def minutes(raw: str) -> float:
    """A number of minutes, fractions allowed; TorchServe takes 60 when it can't be read."""
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not 0 <= value <= INT32_MAX:  # more has no date any more
        raise FallBack(60.0, "not a number of minutes: 60 is used")
    return value


def ratio(raw: str) -> float:
    """A number of at least 1."""
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not value >= 1:
        raise BadValue("expected a number, at least 1")
    return value


def optional_path(raw: str) -> Path | None:
    """A path; blanks around it are dropped, empty means unset."""
    return Path(raw.strip()) if raw.strip() else None


def metrics_mode(raw: str) -> Literal["log", "prometheus", "legacy"]:
    """TorchServe removes blanks, ignores case, and takes ``log`` for what it doesn't know."""
    match "".join(raw.split()).lower():
        case "log":
            return "log"
        case "prometheus":
            return "prometheus"
        case "legacy":
            return "legacy"
    raise FallBack("log", "expected log, prometheus or legacy: log is used")


def batch_policy(raw: str) -> Literal["eager", "delay"]:
    """When a batch that isn't full is dispatched."""
    match raw.strip().lower():
        case "eager":
            return "eager"
        case "delay":
            return "delay"
    raise BadValue("expected eager or delay")


def py_env_builder(raw: str) -> Literal["pip", "uv"]:
    """What installs the packages of models."""
    match raw.strip().lower():
        case "pip":
            return "pip"
        case "uv":
            return "uv"
    raise BadValue("expected pip or uv")


def log_format(raw: str) -> Literal["text", "json"]:
    """How lines of logs look."""
    match raw.strip().lower():
        case "text":
            return "text"
        case "json":
            return "json"
    raise BadValue("expected text or json")


def pattern(raw: str) -> str:
    """A regular expression; must compile."""
    try:
        re.compile(raw)
    except re.error as error:
        raise BadValue(f"expected a regular expression of Python's re: {error}") from None
    return raw


def optional_pattern(raw: str) -> str | None:
    """`pattern`; empty means unset."""
    return pattern(raw) if raw else None


def patterns(raw: str) -> tuple[str, ...]:
    """Comma separated regular expressions, as for ``allowed_urls``."""
    return tuple(pattern(part.strip()) for part in raw.split(",") if part.strip())


def host(raw: str) -> str:
    """The host name or IP of a gRPC listener; brackets of an IPv6 address are dropped."""
    name = raw.strip()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    if not name or re.search(r"[\s/\[\]]", name):
        raise BadValue("expected a host name or an IP address, without scheme and port")
    return name


def address(http_port: int, https_port: int) -> Callable[[str], Address]:
    """Reader of ``http(s)://host[:port]`` or ``unix:/path``.

    Args:
        http_port: port of an http address that names none.
        https_port: the same for https.
    """

    def read(raw: str) -> Address:
        value = raw.strip()
        if value[:6].lower() == "unix:/":
            return Address("unix", "", 0, os.path.normpath("/" + value[5:].lstrip("/")))
        match = _TCP.fullmatch(value)
        if match is None:
            raise BadValue("expected http://host:port, https://host:port or unix:/path")
        scheme: Literal["http", "https"] = "https" if match[1].lower() == "https" else "http"
        port = int(match[3]) if match[3] else https_port if scheme == "https" else http_port
        if port > 65535:
            raise BadValue(f"expected a port from 0 to 65535, not {port}")
        return Address(scheme, match[2].strip("[]"), port)

    return read
