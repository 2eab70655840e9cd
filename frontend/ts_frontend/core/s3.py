"""Signs a GET for S3 (AWS Signature Version 4), for registrations with ``s3_sse_kms=true``.

`download` calls it. The rules: docs.aws.amazon.com, "Signature Calculations for the Authorization
Header".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_NO_BODY = hashlib.sha256(b"").hexdigest()
_NEEDED = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")

# Amazon's other names, such as those of rented machines and load balancers, lead to anybody.
_AMAZONS = re.compile(r"(.+\.)?s3[.-]([a-z0-9-]+\.)?amazonaws\.com(\.cn)?")


def is_amazons(url: str) -> bool:
    """Whether an https URL leads to Amazon's own S3."""
    parts = urlsplit(url)
    return parts.scheme == "https" and _AMAZONS.fullmatch(parts.hostname or "") is not None


def sign_get(
    url: str,
    environ: Mapping[str, str],
    *,
    now: datetime | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The headers that authorize a GET of ``url``.

    Args:
        environ: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION and, for temporary
            credentials, AWS_SESSION_TOKEN.
        headers: further headers to send and sign.

    Raises:
        ValueError: a variable is missing; the text names it.
    """
    missing = [name for name in _NEEDED if not environ.get(name)]
    if missing:
        raise ValueError(f"s3_sse_kms needs the environment variable {', '.join(missing)}")
    key_id, secret, region = (environ[name] for name in _NEEDED)
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    parts = urlsplit(url)
    signed = {
        "host": parts.netloc,
        "x-amz-content-sha256": _NO_BODY,
        "x-amz-date": stamp,
        **{name.lower(): value for name, value in (headers or {}).items()},
    }
    if token := environ.get("AWS_SESSION_TOKEN"):
        signed["x-amz-security-token"] = token
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        [
            "GET",
            quote(unquote(parts.path) or "/", safe="/-_.~"),
            _canonical_query(parts.query),
            *[f"{name}:{signed[name]}" for name in sorted(signed)],
            "",
            names,
            _NO_BODY,
        ]
    )
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signature = _signature(secret, scope, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}")
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key_id}/{scope},SignedHeaders={names},Signature={signature}"
    )
    return signed


def _canonical_query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    return "&".join(sorted(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in pairs))


def _signature(secret: str, scope: str, text: str) -> str:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
