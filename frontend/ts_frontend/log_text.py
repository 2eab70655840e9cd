"""Text that others chose, fit for a log: no value of a client or handler begins a line of its own.

`log_lines` and the metric logs write it. JSON needs none of it.
"""

from __future__ import annotations

import re

# Tabs pass. U+0085 and the last two end a line for some readers.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_BUT_COLOURS = re.compile(f"\x1b\\[[0-9;]*m|({_CONTROL.pattern})")
_INDENT = "\n    "


def one_line(text: str) -> str:
    """Escape line breaks and control characters as Python does."""
    return text if text.isprintable() else _CONTROL.sub(_escaped, text)


def output_line(text: str) -> str:
    """`one_line` for what a handler wrote: its colours and the end of a DOS line pass."""
    if text.isprintable():
        return text
    return _CONTROL_BUT_COLOURS.sub(_escaped_but_colours, text.rstrip("\r"))


def entry(text: str) -> str:
    """A message, perhaps with a traceback; what follows its first line is indented, as for Java's
    stack traces, so that whatever stands in it can't be taken for the next entry."""
    return _INDENT.join(map(one_line, text.split("\n"))) if "\n" in text else one_line(text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _escaped_but_colours(found: re.Match[str]) -> str:
    return found[0] if found[1] is None else _escaped(found)
