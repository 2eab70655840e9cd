"""What `torchserve-py bench` can refuse.

BenchError              what was asked for can't be done: cause and cure
`-- LostConnection      no answer: the connection broke, or what came was no HTTP
"""

from __future__ import annotations


class BenchError(Exception):
    """The measurement can't begin or go on; the text says why and what to do."""


class LostConnection(BenchError):
    """A request got no answer. The text is the kind of error that the report counts."""
