"""What is left of a URL that is shown."""

from __future__ import annotations

import pytest

from ts_frontend.urls import shown, without_secrets


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("https://host/m.mar", "https://host/m.mar"),
        ("https://user:pw@host:8443/a/m.mar?sig=1#x", "https://host:8443/a/m.mar"),
        ("https://user:p@w@host/m.mar", "https://host/m.mar"),
        ("https://user:pw@host?a b", "https://host"),
        ("s3://bucket/a@1/m.mar", "s3://bucket/a@1/m.mar"),
        ("m=https://user@host/m.mar?q", "m=https://host/m.mar"),
        ("m.mar", "m.mar"),
        ("a?b.mar", "a?b.mar"),
    ],
)
def test_a_url(url: str, left: str) -> None:
    assert shown(url) == left


def test_a_text() -> None:
    text = "no https://u:p@h/m.mar?q=1 and s3://b/k#f,\nHTTP://H/x"
    assert without_secrets(text) == "no https://h/m.mar and s3://b/k\nHTTP://H/x"
    assert without_secrets("x http://h/a?b c=d", "http://h/a?b c=d") == "x http://h/a"
