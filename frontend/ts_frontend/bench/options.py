"""Reads what the command line names: files, the server's URL, the token, the levels."""

from __future__ import annotations

import ipaddress
import json
import mimetypes
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ts_frontend.bench.errors import BenchError
from ts_frontend.bench.plan import Input, Level, Target, model_path

DEFAULT_URL = "http://127.0.0.1:8080"
# Connections that an open loop may have: not more than files that a process may usually open.
OPEN_LOOP = 512
_KEY_FILE = Path("key_file.json")


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, as `cli` has it."""

    model: str
    version: str | None = None
    url: str | None = None
    unix: str | None = None
    insecure: bool = False
    inputs: tuple[str, ...] = ()
    expect: tuple[str, ...] = ()
    content_type: str | None = None
    token: str | None = None
    key_file: str | None = None
    connections: tuple[int, ...] | None = None
    rate: tuple[float, ...] | None = None
    seed: int = 0
    seconds: float = 5.0
    warmup: float = 1.0
    requests: int | None = None
    timeout: float = 120.0
    processes: int = 1
    json: str | None = None
    plot: str | None = None


@dataclass(frozen=True, slots=True)
class Aim:
    """The target, and how messages name the server and the origin of the token."""

    target: Target
    shown: str
    token_from: str | None


def aim(options: Options) -> Aim:
    """Where requests go, with what.

    Raises:
        BenchError: something can't be read, or makes no sense.
    """
    if options.unix is not None and options.url is not None:
        raise BenchError("--url and --unix name two servers: give one of them")
    if not options.model or options.version == "":
        raise BenchError("the name of the model and its version must not be empty")
    inputs = _inputs(options)
    url = urlsplit(_url(options.url or DEFAULT_URL))
    host = url.hostname or ""
    tls = url.scheme == "https"
    token, token_from = _token(options, near=options.unix is not None or _is_loopback(host))
    target = Target(
        host=host,
        port=url.port or (443 if tls else 80),
        path=model_path(url.path, options.model, options.version),
        inputs=inputs,
        tls=tls,
        insecure=options.insecure,
        unix=None if options.unix is None else options.unix.removeprefix("unix:"),
        token=token,
        timeout=options.timeout,
    )
    shown = f"unix:{target.unix}" if target.unix else f"{url.scheme}://{url.netloc}"
    return Aim(target, shown, token_from)


def levels(options: Options) -> list[Level]:
    """What to measure, one after the other.

    Raises:
        BenchError: options that exclude each other.
    """
    given = options.connections
    common = {
        "warmup": options.warmup,
        "seconds": options.seconds,
        "requests": options.requests,
        "seed": options.seed,
    }
    if options.rate is None:
        return [Level(each, **common) for each in given or (1, 4, 16, 64)]  # type: ignore[arg-type]
    if given is not None and len(given) > 1:
        raise BenchError("with --rate, --connections is one number: how many there may be")
    most = OPEN_LOOP if given is None else given[0]
    return [Level(most, rate=each, **common) for each in options.rate]  # type: ignore[arg-type]


def _url(text: str) -> str:
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        good = False
    if not good or url.query or url.fragment or url.username is not None:
        raise BenchError("--url: expected http://host:port or https://host:port")
    if re.search(r"[\s\x00-\x1f]", text):
        raise BenchError("--url: blanks must be escaped")
    return text


def _inputs(options: Options) -> tuple[Input, ...]:
    expected = [_read("--expect", name) for name in options.expect]
    bodies = [_read("--input", name) for name in options.inputs] or [b""]
    if options.content_type is not None and re.search(r"[\r\n]", options.content_type):
        raise BenchError("--content-type: one line is expected")
    if len(expected) not in (0, 1, len(bodies)):
        raise BenchError(
            f"{len(expected)} times --expect for {len(bodies)} inputs: give one for all, or one "
            "for each"
        )
    types = [_content_type(options, name) for name in options.inputs]
    if not types:
        types = [options.content_type or ""]
    answers: Sequence[bytes | None] = expected or [None]
    return tuple(
        Input(body, kind, answers[index % len(answers)])
        for index, (body, kind) in enumerate(zip(bodies, types, strict=True))
    )


def _content_type(options: Options, name: str) -> str:
    """As given, else by the file's ending, as run-handler has it."""
    if options.content_type is not None:
        return options.content_type
    return mimetypes.MimeTypes().guess_type(name)[0] or ""


def _token(options: Options, *, near: bool) -> tuple[str | None, str | None]:
    """The token and where it is from; a key file that lies here is shown to no other machine."""
    if options.token is not None:
        if options.key_file is not None:
            raise BenchError("--token and --key-file are two tokens: give one of them")
        if not re.fullmatch(r"[\x21-\x7e]+", options.token):
            raise BenchError("--token: a key has no blanks and no line ends")
        return options.token, "--token"
    if options.key_file is not None:
        return _key(Path(options.key_file)), options.key_file
    if near and _KEY_FILE.is_file():
        return _key(_KEY_FILE), f"./{_KEY_FILE}"
    return None, None


def _key(path: Path) -> str:
    text = _read("--key-file", str(path))
    try:
        key = json.loads(text)["inference"]["key"]
    except (ValueError, LookupError, TypeError):
        key = None
    if not isinstance(key, str) or not re.fullmatch(r"[\x21-\x7e]+", key):
        raise BenchError(f"--key-file {path}: there is no inference key in it; see --token")
    return key


def _read(option: str, name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise BenchError(f"{option} {name}: {error.strerror or error}") from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_output(option: str, name: str | None) -> Path | None:
    """A file that is written in the end: better refused before than after the measurement.

    Raises:
        BenchError: it can't be written.
    """
    if name is None:
        return None
    path = Path(name)
    if path.is_dir():
        raise BenchError(f"{option} {name}: is a folder")
    if not path.absolute().parent.is_dir():
        raise BenchError(f"{option} {name}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise BenchError(f"{option} {name}: permission denied")
    return path
