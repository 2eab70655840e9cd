"""MAR-INF/MANIFEST.json: what a model archive says about itself.

`packing` builds it, `unpacking` and `inspecting` read it. Keys, their order and the date format
are those of torch-model-archiver 0.12; `files` is ours, and TorchServe ignores it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ts_archiver.errors import BadOption, ManifestError
from ts_archiver.recipe import Recipe
from ts_archiver.sources import MANIFEST_NAME, Member

Manifest = dict[str, Any]

ARCHIVER_VERSION = "1.0.0"

# A manifest lists names and hashes: 64 MiB is some half a million files.
MAX_MANIFEST_BYTES = 64 << 20

DATE_FORMAT = "%d/%m/%Y %H:%M:%S"


def describe(recipe: Recipe, created_on: str) -> Manifest:
    """What ``recipe`` says about its model, before anything is packed."""
    return {
        "createdOn": created_on,
        "runtime": recipe.runtime,
        "model": recipe.model_entry(),
        "archiverVersion": ARCHIVER_VERSION,
    }


def build(described: Manifest, members: Iterable[Member], digests: Mapping[str, str]) -> bytes:
    """The JSON text that goes into the archive: what is described, and each file's hash."""
    files = {
        member.name: {"size": member.size, "sha256": digests[member.name]} for member in members
    }
    return json.dumps({**described, "files": files}, indent=2).encode()


def parse(text: bytes, origin: str) -> Manifest:
    """Read a manifest's text; a number with a fraction is the text that stands there.

    Raises:
        ManifestError: ``text`` is no JSON object; the message starts with ``origin``.
    """
    try:
        # Only versions are such numbers, and of manifests that others wrote: 1.10 is not 1.1.
        manifest = json.loads(text, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"{origin}: {MANIFEST_NAME} is not valid JSON ({error}). Package the model again."
        ) from error
    if not isinstance(manifest, dict):
        raise ManifestError(
            f"{origin}: {MANIFEST_NAME} must hold a JSON object. Package the model again."
        )
    return manifest


def absent() -> Manifest:
    """What TorchServe takes for granted of an archive without a manifest."""
    return {"runtime": "python", "model": {}}


def creation_time(members: Iterable[Member], source_date_epoch: str | None) -> str:
    """``createdOn``: SOURCE_DATE_EPOCH, else the newest input, else 1980. UTC, so that the
    same inputs give the same bytes in every time zone.

    Raises:
        BadOption: SOURCE_DATE_EPOCH is no whole number of seconds.
    """
    if source_date_epoch:
        try:
            return time.strftime(DATE_FORMAT, time.gmtime(int(source_date_epoch)))
        except (ValueError, OverflowError, OSError) as error:
            raise BadOption(
                f"SOURCE_DATE_EPOCH={source_date_epoch!r} is no time. Give whole seconds "
                "since 1970, or unset it."
            ) from error
    newest = max((int(member.modified) for member in members), default=315532800)
    return time.strftime(DATE_FORMAT, time.gmtime(newest))
