"""Token keys in files that the environment names (Kubernetes and Docker secrets)."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from tests.frontend.test_tokens import Clock
from ts_frontend.config import ConfigError
from ts_frontend.errors import InvalidKey
from ts_frontend.http.tokens import Tokens, mounted_keys


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file as Kubernetes mounts it: a link to a link that is replaced on rotation."""
    rotate(tmp_path, "first\n", "1")
    path = tmp_path / "token"
    path.symlink_to(tmp_path / "..data" / "token")
    return path


def rotate(folder: Path, text: str, version: str) -> None:
    """Swap the folder behind the link, as the kubelet does."""
    (folder / version).mkdir()
    (folder / version / "token").write_text(text)
    (folder / "..new").symlink_to(version)
    os.replace(folder / "..new", folder / "..data")


def serve(secret: Path, clock: Clock) -> Tokens:
    mounted = mounted_keys({"TS_INFERENCE_TOKEN_FILE": str(secret), "TS_API_TOKEN_FILE": ""})
    tokens = Tokens(secret.parent / "key_file.json", 1.0, None, clock, mounted=mounted)
    tokens.open()
    return tokens


def opens(tokens: Tokens, key: str) -> bool:
    try:
        tokens.check("inference", f"Bearer {key}")
    except InvalidKey:
        return False
    return True


def test_the_key_is_fixed_and_not_written(secret: Path, clock: Clock) -> None:
    tokens = serve(secret, clock)
    clock.now += 10**6
    assert opens(tokens, "first")
    assert list(json.loads(tokens.path.read_text())) == ["management", "API"]
    tokens.close()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_one_line_break_at_the_end_does_not_count(secret: Path, clock: Clock, end: str) -> None:
    secret.write_bytes(b"gr\xc3\xbcn" + end.encode())
    assert opens(serve(secret, clock), "grün")


def test_a_rotated_key_counts_within_a_second(
    secret: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tokens = serve(secret, clock)
    assert opens(tokens, "first")
    rotate(secret.parent, "second\n", "2")

    clock.now += 0.9
    assert opens(tokens, "first")
    clock.now += 0.1
    assert not opens(tokens, "first")
    assert opens(tokens, "second")
    assert caplog.messages == [f"Another key was read from TS_INFERENCE_TOKEN_FILE={secret}"]


def test_a_clock_that_was_set_back_does_not_stop_the_looks(secret: Path, clock: Clock) -> None:
    tokens = serve(secret, clock)
    assert opens(tokens, "first")
    rotate(secret.parent, "second", "2")
    clock.now -= 10**6
    assert opens(tokens, "second")


@pytest.mark.parametrize("text", ["", "\n", "two words", "two\nlines\n"])
def test_the_old_key_stays_while_the_new_one_is_unusable(
    secret: Path, clock: Clock, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    tokens = serve(secret, clock)
    rotate(secret.parent, text, "2")
    for _ in range(3):
        clock.now += 1
        assert opens(tokens, "first")
    (message,) = caplog.messages
    assert message.startswith(f"TS_INFERENCE_TOKEN_FILE={secret}: the ")
    assert message.endswith("The key that was read before stays in use.")

    rotate(secret.parent, "third", "3")
    clock.now += 1
    assert opens(tokens, "third")


def test_the_old_key_stays_while_there_is_no_file(
    secret: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = serve(secret, clock)
    (secret.parent / "..data").unlink()
    for _ in range(3):
        clock.now += 1
        assert opens(tokens, "first")
    assert ["No such file or directory" in message for message in caplog.messages] == [True]

    (secret.parent / "..data").symlink_to("1")
    clock.now += 1
    assert opens(tokens, "first")
    assert len(caplog.messages) == 1


def test_the_same_key_in_a_new_file_is_no_news(
    secret: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tokens = serve(secret, clock)
    rotate(secret.parent, "first", "2")
    clock.now += 1
    assert opens(tokens, "first")
    assert caplog.messages == []


def test_renewing_a_mounted_key_changes_nothing(secret: Path, clock: Clock) -> None:
    """As for keys that a variable fixes."""
    tokens = serve(secret, clock)
    api = json.loads(tokens.path.read_text())["API"]["key"]
    tokens.refresh("inference", f"Bearer {api}")
    assert opens(tokens, "first")
    tokens.close()


def test_without_a_file_nothing_is_looked_at(tmp_path: Path, clock: Clock) -> None:
    tokens = Tokens(tmp_path / "k", 1.0, {"management": "a", "inference": "b", "API": "c"}, clock)
    tokens.open()
    assert opens(tokens, "b")
    assert tokens._looked == 0.0


def test_both_ways_at_once_are_refused(secret: Path) -> None:
    environ = {"TS_API_TOKEN": "x", "TS_API_TOKEN_FILE": str(secret)}
    with pytest.raises(ConfigError, match="TS_API_TOKEN and TS_API_TOKEN_FILE are both set"):
        mounted_keys(environ)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (None, "the key cannot be read: No such file or directory"),
        (b"", "the file is empty"),
        (b"\r\n", "the file is empty"),
        (b"a b", "the key has blanks"),
        (b"a\nb", "the key has blanks, line breaks"),
        (b"a\0b", "the key has blanks, line breaks or control characters"),
        (b" a", "the key has blanks"),
        (b"\xff", "the key is not UTF-8 text"),
        (b"x" * 4097, "a key has at most 4096 bytes"),
    ],
)
def test_an_unusable_file_is_one_clear_error(
    tmp_path: Path, data: bytes | None, cause: str
) -> None:
    path = tmp_path / "token"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        mounted_keys({"TS_MANAGEMENT_TOKEN_FILE": str(path)})
    assert str(caught.value).startswith(f"TS_MANAGEMENT_TOKEN_FILE={path}: {cause}")


def test_a_folder_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        mounted_keys({"TS_MANAGEMENT_TOKEN_FILE": str(tmp_path)})
