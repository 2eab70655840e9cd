"""Reads one object of an S3 bucket, or of whatever speaks S3, for archives at ``s3://`` URLs.

`download` calls it. boto3 is an extra and slow to import: only a registration that needs it pays.
"""

from __future__ import annotations

from typing import Any

# So long a thread may be held by an endpoint that does not answer, times boto3's attempts.
_CONNECT_SECONDS = 10
_WHY = {
    "NoSuchKey": "there is no such key in the bucket",
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "access is denied to these credentials",
}
_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


class S3Object:
    """The bytes of one object, from `open_object`; to be closed."""

    def __init__(self, client: Any, body: Any, trouble: tuple[type[Exception], ...]) -> None:
        self._client = client
        self._body = body
        self._trouble = trouble

    def read1(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end.

        Raises:
            OSError: the connection broke, or the object ended too early.
        """
        try:
            return bytes(self._body.read(size))
        except self._trouble as error:
            raise OSError(_reason(error)) from error

    def close(self) -> None:
        """Give the connection back."""
        self._body.close()
        self._client.close()


def open_object(url: str, read_timeout: float) -> S3Object:
    """Ask for an object with the credentials, region and endpoint that boto3 finds.

    Args:
        url: ``s3://bucket/key``; the key is taken as it stands, percent signs are no escapes.
        read_timeout: seconds without a byte.

    Raises:
        OSError: it can't be had; the text says why.
    """
    try:
        from boto3.session import Session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise OSError("s3:// URLs need boto3: pip install torchserve-py[s3]") from None
    bucket, _, key = url[len("s3://") :].partition("/")
    limits = Config(connect_timeout=_CONNECT_SECONDS, read_timeout=read_timeout)
    trouble = (BotoCoreError, ClientError)
    client: Any = None
    try:
        # A session of its own: the shared one is not for several threads.
        client = Session().client("s3", config=limits)
        body = client.get_object(Bucket=bucket, Key=key)["Body"]
    except trouble as error:
        if client is not None:
            client.close()
        raise OSError(_reason(error)) from error
    return S3Object(client, body, trouble)


def _reason(error: Exception) -> str:
    response: dict[str, Any] = getattr(error, "response", {})
    why = _WHY.get(str(response.get("Error", {}).get("Code")))
    if why is not None:
        return f"{why}: {error}"
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return f"{str(error).rstrip('.')}: {_KEYS}"
    return str(error)
