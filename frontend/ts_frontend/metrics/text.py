"""Numbers and label values as TorchServe's Java wrote them, for /metrics and the metric logs.

Pure functions, called by `family` and `recorder`. prometheus-client's own exposition differs
(`_total`, `_created`, `1e+07`, no trailing comma), so these lines are written by hand.
"""

from __future__ import annotations

from collections.abc import Iterable

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


def java_double(value: float) -> str:
    """Format like Java's ``Double.toString``: ``3.0``, ``1.0E7``, ``2.5E-4``."""
    magnitude = abs(value)
    if 1e-3 <= magnitude < 1e7 or magnitude == 0.0:
        return repr(float(value))
    if magnitude != magnitude:
        return "NaN"
    if magnitude == float("inf"):
        return "Infinity" if value > 0 else "-Infinity"
    return _scientific(value)


def _scientific(value: float) -> str:
    # repr() finds the shortest digits that read back as the same number, "%e" would pad them.
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(float(value))).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0)
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0") or "0"
    return f"{sign}{digits[0]}.{digits[1:] or '0'}E{point - 1}"


def sample_value(value: float) -> str:
    """Format a sample: as `java_double`, infinities as Prometheus spells them."""
    text = java_double(value)
    if text == "Infinity":
        return "+Inf"
    return "-Inf" if text == "-Infinity" else text


def label_block(names: Iterable[str], values: Iterable[str]) -> str:
    """Return ``{name="value",}`` with simpleclient's trailing comma, or nothing without labels."""
    pairs = [f'{name}="{_escape(value)}",' for name, value in zip(names, values, strict=True)]
    return f"{{{''.join(pairs)}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def help_lines(name: str, kind: str, unit: str) -> str:
    """Return the HELP and TYPE lines of a metric family, as TorchServe words them."""
    text = f"Torchserve prometheus {kind} metric with unit: {unit}"
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
