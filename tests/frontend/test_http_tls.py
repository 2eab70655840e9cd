"""https addresses (reference §2.4): PEM files, a keystore, a certificate made at the start."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import logging
import os
import shutil
import ssl
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from tests.frontend.http_fakes import edge, post
from tests.frontend.http_kept import Kept
from ts_frontend import http
from ts_frontend.config import Address, ConfigError
from ts_frontend.http import certificates

HTTPS = Address("https", "127.0.0.1", 0)
KEY = rsa.generate_private_key(65537, 2048)


def issue(subject: str, issuer: str, *, ca: bool = False) -> x509.Certificate:
    """A certificate for 127.0.0.1; one key for all of them keeps the tests fast."""
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (subject, issuer)]
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(KEY, hashes.SHA256())
    )


ROOT = issue("root", "root", ca=True)
MIDDLE = issue("middle", "root", ca=True)
LEAF = issue("leaf", "middle")


def trust(certificate: x509.Certificate) -> ssl.SSLContext:
    """A client that trusts this certificate only, and not what it signed unless it is a CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(
        cadata=certificate.public_bytes(serialization.Encoding.PEM).decode()
    )
    return context


def write_keystore(
    folder: Path, password: bytes = b"changeit", extra: Sequence[x509.Certificate] = ()
) -> Path:
    """A keystore whose chain is in no order and has a certificate too many."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    others = [*extra, ROOT, issue("other", "other"), MIDDLE]
    path = folder / "keystore.p12"
    path.write_bytes(pkcs12.serialize_key_and_certificates(b"k", KEY, LEAF, others, encryption))
    return path


async def talk_tls(port: int, context: ssl.SSLContext, body: bytes = b"x") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(post("/predictions/m", body))
    answer = await reader.read()
    writer.close()
    return answer


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Path]:
    """PEM files with a self-signed certificate for 127.0.0.1 and its key, as settings."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(ROOT.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(private_pem(serialization.NoEncryption()))
    return {"certificate_file": certificate, "private_key_file": key}


def private_pem(encryption: serialization.KeySerializationEncryption) -> bytes:
    pkcs8 = serialization.PrivateFormat.PKCS8
    return KEY.private_bytes(serialization.Encoding.PEM, pkcs8, encryption)


async def test_a_prediction_over_tls(pair: dict[str, Path]) -> None:
    body = b"x" * 200_000
    async with edge(inference_address=HTTPS, **pair) as e:
        answer = await talk_tls(e.port, trust(ROOT), body)
    assert answer.startswith(b"HTTP/1.1 200 \r\n")
    assert answer.endswith(b"\r\n\r\n" + body)


async def test_a_request_is_repeated_over_tls(pair: dict[str, Path]) -> None:
    async with (
        edge(inference_address=HTTPS, **pair) as e,
        Kept(e, ssl=trust(ROOT)) as client,
    ):
        for n in range(3):
            assert (await client.ask("/predictions/m", b"%d" % n)).body == b"%d" % n
        assert e.inference.submitted == 2


@pytest.mark.parametrize("source", ["pair", "keystore", "made"])
async def test_old_protocols_are_refused(
    source: str, pair: dict[str, Path], tmp_path: Path
) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    keystore = {"keystore": write_keystore(tmp_path)}
    settings = {"pair": pair, "keystore": keystore, "made": {}}[source]
    async with edge(inference_address=HTTPS, **settings) as e:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", e.port, ssl=old)


@pytest.mark.parametrize("name", ["certificate_file", "private_key_file"])
async def test_half_a_pair_is_a_clear_error(name: str, pair: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="needs certificate_file and private_key_file"):
        async with edge(inference_address=HTTPS, **{name: pair[name]}):
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


async def test_a_key_with_a_password_is_a_clear_error(pair: dict[str, Path]) -> None:
    """OpenSSL would ask at the terminal, and a server in the background would never start."""
    secret = serialization.BestAvailableEncryption(b"secret")
    pair["private_key_file"].write_bytes(private_pem(secret))

    with pytest.raises(ConfigError, match="the key must have no password"):
        async with edge(inference_address=HTTPS, **pair):
            pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("password", ["changeit", "gehe\u00fc\u00fcm", ""])
async def test_a_keystore_gives_certificate_chain_and_key(
    password: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    keystore = write_keystore(tmp_path, password.encode())
    client = trust(ROOT)
    client.minimum_version = client.maximum_version = version
    (tmp_path / "temp").mkdir()
    async with edge(
        inference_address=HTTPS,
        keystore=keystore,
        keystore_pass=password,
        temp_dir=tmp_path / "temp",
    ) as e:
        assert (await talk_tls(e.port, client)).startswith(b"HTTP/1.1 200 \r\n")
    assert list((tmp_path / "temp").iterdir()) == []


async def test_a_keystore_goes_before_a_pair(
    pair: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keystore = write_keystore(tmp_path)
    pair["certificate_file"].write_text("not looked at")
    async with edge(inference_address=HTTPS, keystore=keystore, **pair) as e:
        assert (await talk_tls(e.port, trust(ROOT))).startswith(b"HTTP/1.1 200 \r\n")
    assert ["keystore is used" in message for message in caplog.messages] == [True]


def test_the_chain_is_in_order_and_has_no_more_than_it_needs(tmp_path: Path) -> None:
    data = write_keystore(tmp_path, extra=[LEAF]).read_bytes()

    identity = certificates.from_keystore(data, "changeit")

    assert x509.load_pem_x509_certificates(identity.pem) == [LEAF, MIDDLE, ROOT]
    assert identity.pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert identity.password not in repr(identity)


@pytest.mark.skipif(shutil.which("keytool") is None, reason="needs Java's keytool")
@pytest.mark.parametrize("legacy", [(), ("-J-Dkeystore.pkcs12.legacy",)])
async def test_a_keystore_that_keytool_made(legacy: tuple[str, ...], tmp_path: Path) -> None:
    """As TorchServe's documentation makes one; before Java 17 the ciphers were others."""
    path = tmp_path / "keystore.p12"
    command = [
        *("keytool", *legacy, "-genkey", "-keyalg", "RSA", "-alias", "ts", "-keystore", path),
        *("-storepass", "changeit", "-storetype", "PKCS12", "-validity", "2"),
        *("-keysize", "2048", "-dname", "CN=x", "-ext", "san=ip:127.0.0.1"),
    ]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    identity = certificates.from_keystore(path.read_bytes(), "changeit")
    certificate = x509.load_pem_x509_certificates(identity.pem)[0]

    async with edge(inference_address=HTTPS, keystore=path) as e:
        answer = await talk_tls(e.port, trust(certificate))
    assert answer.startswith(b"HTTP/1.1 200 \r\n")


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (None, "No such file or directory"),
        (b"no keystore", "keystore_pass is wrong, or it is no PKCS12 keystore"),
        (
            pkcs12.serialize_key_and_certificates(
                None, KEY, LEAF, None, serialization.BestAvailableEncryption(b"else")
            ),
            "keystore_pass is wrong, or it is no PKCS12 keystore",
        ),
        (
            pkcs12.serialize_key_and_certificates(
                None, None, LEAF, None, serialization.BestAvailableEncryption(b"hunter2")
            ),
            "it holds no private key with a certificate",
        ),
    ],
)
async def test_a_keystore_that_cannot_be_used_is_a_clear_error(
    data: bytes | None, cause: str, tmp_path: Path
) -> None:
    path = tmp_path / "k.p12"
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(ConfigError) as caught:
        async with edge(inference_address=HTTPS, keystore=path, keystore_pass="hunter2"):
            pass
    assert str(caught.value) == f"keystore={path} cannot be used: {cause}"


async def test_without_any_certificate_one_is_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All https listeners show the same one, which one warning names."""
    every = Address("https", "0.0.0.0", 0)
    async with edge(inference_address=HTTPS, management_address=every, temp_dir=tmp_path) as e:
        pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", e.port))
        certificate = x509.load_pem_x509_certificate(pem.encode())
        client = trust(certificate)
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        assert (await talk_tls(e.port, client)).startswith(b"HTTP/1.1 200 \r\n")
        await talk_tls(e.listeners[1].port, client)

    assert os.listdir(tmp_path) == []
    (record,) = [r for r in caplog.records if r.name == "ts_frontend.http.tls"]
    assert record.levelno == logging.WARNING
    assert "127.0.0.1, 0.0.0.0, for tests only" in record.getMessage()
    assert certificate.fingerprint(hashes.SHA256()).hex(":").upper() in record.getMessage()


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("example.org", ["example.org"]),
        ("b\u00fccher.example", ["xn--bcher-kva.example"]),
        ("::1", ["::1"]),
        ("fe80::1%eth0", ["fe80::1"]),
        ("x" * 60 + ".example", ["x" * 60 + ".example"]),
    ],
)
def test_a_made_certificate_carries_the_address(host: str, names: list[str]) -> None:
    identity = certificates.make([host])

    (certificate,) = x509.load_pem_x509_certificates(identity.pem)
    found: Any = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in found] == names
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    assert common == host[:64]
    assert identity.pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


@pytest.mark.parametrize("with_keystore", [True, False])
async def test_without_cryptography_the_error_names_the_cure(
    with_keystore: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"keystore": write_keystore(tmp_path)} if with_keystore else {}
    monkeypatch.delattr(http, "certificates")
    monkeypatch.delitem(sys.modules, "ts_frontend.http.certificates")
    monkeypatch.setitem(sys.modules, "cryptography", None)

    with pytest.raises(ConfigError, match=r"pip install torchserve-py\[tls\]$"):
        async with edge(inference_address=HTTPS, **settings):
            pass


async def test_a_pair_needs_no_cryptography(
    pair: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(http, "certificates")
    monkeypatch.delitem(sys.modules, "ts_frontend.http.certificates")
    monkeypatch.setitem(sys.modules, "cryptography", None)

    async with edge(inference_address=HTTPS, **pair) as e:
        assert (await talk_tls(e.port, trust(ROOT))).startswith(b"HTTP/1.1 200 \r\n")
