"""What of a URL may be shown: one may carry a password, or a signature in its query.

What a token guards shows URLs as they are; log lines and messages at the start come through here.
"""

from __future__ import annotations

import re

_URL = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^\s/?#]*@)?([^\s?#]*)(?:[?#]\S*)?", re.IGNORECASE)


def shown(url: str) -> str:
    """A URL without user, password, query and fragment; other text, such as a path, as it is."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    authority, slash, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def without_secrets(text: str, url: str = "") -> str:
    """A text with each URL in it as `shown`.

    Args:
        url: one that is known to be in it: with a blank it could not be told where it ends.
    """
    if url:
        text = text.replace(url, shown(url))
    return _URL.sub(r"\1\2", text)
