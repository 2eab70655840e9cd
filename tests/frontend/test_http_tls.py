"""https addresses (reference §2.4)."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import warnings
from pathlib import Path

import pytest

from tests.frontend.http_fakes import edge, post
from ts_frontend.config import Address, ConfigError

HTTPS = Address("https", "127.0.0.1", 0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


async def test_a_prediction_over_tls(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    trust = ssl.create_default_context(cafile=certificate)
    body = b"x" * 200_000
    async with edge(
        inference_address=HTTPS, certificate_file=certificate, private_key_file=key
    ) as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port, ssl=trust)
        writer.write(post("/predictions/m", body))
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 \r\n")
    assert answer.endswith(b"\r\n\r\n" + body)


async def test_old_protocols_are_refused(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    old = ssl.create_default_context(cafile=certificate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with edge(
        inference_address=HTTPS, certificate_file=certificate, private_key_file=key
    ) as e:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", e.port, ssl=old)


async def test_https_without_a_pair_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="needs certificate_file and private_key_file"):
        async with edge(inference_address=HTTPS):
            pass


async def test_a_pair_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    for certificate in (bad, tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=r"missing.pem|bad.pem.*Both must be PEM"):
            async with edge(
                inference_address=HTTPS, certificate_file=certificate, private_key_file=bad
            ):
                pass
