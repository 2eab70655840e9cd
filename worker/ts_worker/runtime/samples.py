"""The sample requests that an archive brings in its folder ``warmup``.

`warmup` runs them before a worker counts as loaded; `run_handler` takes them where it is given no
input. A ``.json`` file describes a request; any other file is the body of one.
"""

from __future__ import annotations

import json
import mimetypes
import os
import uuid
from typing import Any, Dict, List, NamedTuple, Tuple

from ts_worker.messages import Param, Request, pack_headers

FOLDER = "warmup"
_HEADERS = "headers"
_FORM = (
    'a sample is an object with an input "body" or "data", such as {"body": [1, 2]}, and may '
    'have "headers", an object of texts'
)


class BadSample(ValueError):
    """A file that can't be read as a request; the text says what is wrong."""


class Sample(NamedTuple):
    """One request, by the name of the file that it comes from."""

    name: str
    headers: bytes  # packed, as in `Request`
    params: Tuple[Param, ...]

    def request(self) -> Request:
        """A request with these inputs and an id of its own."""
        return Request(str(uuid.uuid4()).encode(), self.headers, self.params)


def read_samples(model_dir: str) -> List[Sample]:
    """The samples of a model by name; none where it has no such folder.

    Raises:
        BadSample: a file of it is no request.
    """
    folder = os.path.join(model_dir, FOLDER)
    if not os.path.isdir(folder) or os.path.isfile(os.path.join(folder, "__init__.py")):
        return []  # a package of that name is the handler's own
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        return [_sample(f"{FOLDER}/{name}", os.path.join(folder, name)) for name in names]
    except OSError as error:
        raise BadSample(f"{error.filename} can't be read: {error.strerror}") from error


def raw_sample(name: str, body: bytes, content_type: str) -> Sample:
    """A request whose body is this, as a client sends a file."""
    return Sample(name, b"", (Param("body", content_type, body),))


def content_type_of(name: str) -> str:
    """The media type of a file by its ending; "" for an ending that nobody knows."""
    # A table of its own: the machine's may differ from the one where the archive was made.
    return mimetypes.MimeTypes().guess_type(name)[0] or ""


def _sample(name: str, path: str) -> Sample:
    if os.path.isdir(path):
        raise BadSample(f"{name} is a folder: samples lie side by side in {FOLDER}")
    with open(path, "rb") as file:
        content = file.read()
    if not name.endswith(".json"):
        return raw_sample(name, content, content_type_of(name))
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadSample(f"{name} is not JSON: {error}") from error
    return _described(name, parsed)


def _described(name: str, parsed: Any) -> Sample:
    if not isinstance(parsed, dict) or not {"body", "data"} & set(parsed):
        raise BadSample(f"{name}: {_FORM}; a JSON body of a request is the value of its body")
    inputs: Dict[str, Any] = dict(parsed)
    headers = inputs.pop(_HEADERS, {})
    if not isinstance(headers, dict) or not all(
        isinstance(value, str) and "\0" not in key + value for key, value in headers.items()
    ):
        raise BadSample(f"{name}: {_FORM}")
    params = tuple(_param(key, value) for key, value in inputs.items())
    return Sample(name, pack_headers(list(headers.items())), params)


def _param(name: str, value: Any) -> Param:
    if isinstance(value, str):
        return Param(name, "text/plain", value.encode("utf-8", "surrogatepass"))
    return Param(name, "application/json", json.dumps(value).encode())
