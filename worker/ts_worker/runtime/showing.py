"""Answers for people: on a terminal, or as files. Called by `run_handler`."""

from __future__ import annotations

import mimetypes
import os
import sys
from typing import Dict, List, NamedTuple, Optional

_FIRST_BYTES = 32


class Shown(NamedTuple):
    """One answer, by the name of what was asked."""

    name: str
    status: int
    reason: str
    headers: Dict[str, str]
    body: bytes


def show(answers: List[Shown], folder: Optional[str]) -> None:
    """Print answers, their bodies into files of ``folder`` where there is one.

    Bodies are as clients get them: JSON with an indent, text as it is. Bytes that are no text are
    told by their number and the first of them.
    """
    for number, answer in enumerate(answers):
        if len(answers) > 1 or answer.status != 200 or answer.reason or answer.headers or folder:
            print(_head(answer), file=sys.stderr)
        sys.stderr.flush()
        if folder is None:
            print(as_text(answer.body), flush=True)
            continue
        path = os.path.join(folder, _file_name(number, answer))
        with open(path, "wb") as file:
            file.write(answer.body)
        print(path, flush=True)


def as_text(body: bytes) -> str:
    """The body as it can be printed."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if text is not None and all(c.isprintable() or c in "\n\r\t" for c in text):
        return text
    more = " ..." if len(body) > _FIRST_BYTES else ""
    return f"<{len(body)} bytes: {body[:_FIRST_BYTES].hex(' ')}{more}>"


def _head(answer: Shown) -> str:
    status = f"{answer.status} {answer.reason}".rstrip()
    headers = "".join(f"\n    {name}: {value}" for name, value in answer.headers.items())
    return f"{answer.name}: {status}, {len(answer.body)} bytes{headers}"


def _file_name(number: int, answer: Shown) -> str:
    """Numbered, since two inputs may have one name."""
    stem = os.path.splitext(os.path.basename(answer.name))[0]
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    ending = mimetypes.MimeTypes().guess_extension(kind) or _guessed(answer.body)
    return f"{number:03}-{stem}{ending}"


def _guessed(body: bytes) -> str:
    text = as_text(body)
    if text.startswith("<"):
        return ".bin"
    return ".json" if text.lstrip()[:1] in ("{", "[") else ".txt"
