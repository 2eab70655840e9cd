"""Certificates that OpenSSL can't take as they are: out of a keystore, or made on the spot.

`tls` imports this, and only where one is needed: it stands on cryptography, an optional package.
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAYS = 365
# Of a common name, by RFC 5280.
_MOST_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its chain and its key.

    Args:
        pem: the key, encrypted with the password, and the certificates, the server's first.
        password: made for this run.
        fingerprint: SHA-256 of the server's certificate, as browsers show it.
    """

    pem: bytes = field(repr=False)
    password: str = field(repr=False)
    fingerprint: str


def from_keystore(data: bytes, password: str) -> Identity:
    """Read the key entry of a PKCS12 keystore.

    Raises:
        ValueError: wrong password, no PKCS12, or nothing in it to serve with; says which.
    """
    try:
        store = pkcs12.load_pkcs12(data, password.encode() or None)
    except ValueError:
        raise ValueError("keystore_pass is wrong, or it is no PKCS12 keystore") from None
    if store.key is None or store.cert is None:
        raise ValueError("it holds no private key with a certificate")
    others = [entry.certificate for entry in store.additional_certs]
    return _identity(store.key, _chain(store.cert.certificate, others))


def _chain(leaf: x509.Certificate, others: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """In the order TLS 1.2 wants: each is followed by its issuer; what is not needed stays out."""
    chain = [leaf]
    while chain[-1].issuer != chain[-1].subject:
        issuers = [one for one in others if one.subject == chain[-1].issuer and one not in chain]
        if not issuers:
            break
        chain.append(issuers[0])
    return chain


def make(hosts: Sequence[str]) -> Identity:
    """Make a key and a certificate signed with it, for these host names and IPs."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:_MOST_CHARACTERS])],
    )
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of clients may be a little behind.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectAlternativeName(_names(hosts)), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (identifier, False),
        (issuer, False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return _identity(key, [builder.sign(key, hashes.SHA256())])


def _names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    """Each name once; an address that means every interface is reached by other names."""
    names: dict[x509.GeneralName, None] = {}
    for host in hosts:
        names[_name(host)] = None
        if host in ("0.0.0.0", "::"):
            others = ("localhost", "127.0.0.1", "::1", socket.gethostname())
            names.update(dict.fromkeys(map(_name, others)))
    return list(names)


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return x509.DNSName(host if host.isascii() else host.encode("idna").decode())


def _identity(key: PrivateKeyTypes, chain: Sequence[x509.Certificate]) -> Identity:
    password = secrets.token_urlsafe()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password.encode()),
    )
    certificates = [one.public_bytes(serialization.Encoding.PEM) for one in chain]
    fingerprint = chain[0].fingerprint(hashes.SHA256()).hex(":").upper()
    return Identity(b"".join([pem, *certificates]), password, fingerprint)
