"""The TLS of the https listeners: which certificate they show; `listeners` asks for it once.

A PKCS12 keystore goes before a pair of PEM files, as in TorchServe; with neither a certificate is
made for this run. `certificates`, and with it the package cryptography, is loaded only where PEM
files are not enough.
"""

from __future__ import annotations

import logging
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ts_frontend.config import Config, ConfigError

if TYPE_CHECKING:
    from ts_frontend.http.certificates import Identity

log = logging.getLogger(__name__)


def server_context(config: Config, hosts: Sequence[str]) -> ssl.SSLContext:
    """Return what https listeners speak TLS with.

    Args:
        config: the settings of the server.
        hosts: names and IPs of the https addresses, for a certificate that has to be made.

    Raises:
        ConfigError: certificate or key can't be used, or the extra `tls` is not installed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate, key = config.certificate_file, config.private_key_file
    if config.keystore is not None:
        _use_keystore(context, config, config.keystore)
    elif certificate is not None and key is not None:
        _use_files(context, certificate, key)
    elif certificate is None and key is None:
        _use_made(context, config, hosts)
    else:
        raise ConfigError("https needs certificate_file and private_key_file, not one of them")
    return context


def _use_files(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        # The password keeps OpenSSL from asking for one at the terminal.
        context.load_cert_chain(certificate, key, password=" ")
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"certificate_file={certificate} and private_key_file={key} cannot be used: "
            f"{error.strerror or error}. Both must be PEM and belong together, "
            "and the key must have no password."
        ) from error


def _use_keystore(context: ssl.SSLContext, config: Config, keystore: Path) -> None:
    if config.certificate_file is not None or config.private_key_file is not None:
        log.warning("keystore is used, certificate_file and private_key_file are not")
    made = _certificates("keystore")
    try:
        identity: Identity = made.from_keystore(keystore.read_bytes(), config.keystore_pass)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"keystore={keystore} cannot be used: {cause}") from None
    _load(context, identity, config.temp_dir)


def _use_made(context: ssl.SSLContext, config: Config, hosts: Sequence[str]) -> None:
    identity: Identity = _certificates("https without certificate_file and keystore").make(hosts)
    _load(context, identity, config.temp_dir)
    log.warning(
        "https without certificate_file and keystore: serving a certificate made just now for %s, "
        "for tests only, as no client has reason to trust it (SHA-256 %s)",
        ", ".join(hosts),
        identity.fingerprint,
    )


def _certificates(what: str) -> ModuleType:
    try:
        from ts_frontend.http import certificates
    except ImportError as error:
        raise ConfigError(
            f"{what} needs the package cryptography, which cannot be loaded ({error}): "
            "pip install torchserve-py[tls]"
        ) from None
    return certificates


def _load(context: ssl.SSLContext, identity: Identity, folder: Path) -> None:
    """OpenSSL takes a key from a file only: of this user alone, encrypted, gone afterwards."""
    with tempfile.NamedTemporaryFile(prefix=".ts_tls_", suffix=".pem", dir=folder) as file:
        file.write(identity.pem)
        file.flush()
        try:
            context.load_cert_chain(file.name, password=identity.password)
        except ssl.SSLError as error:
            raise ConfigError(f"the certificate cannot be used: {error}") from error
