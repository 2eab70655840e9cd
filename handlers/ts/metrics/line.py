"""The text of a metric line: names and values come from handlers, and must not end it."""

from __future__ import annotations

import re

# As in the server's logs. U+0085 and the last two end a line for some readers.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def one_line(text: str) -> str:
    """Escape line breaks and control characters as Python does."""
    return text if text.isprintable() else _CONTROL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
