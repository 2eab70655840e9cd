"""Archives of models and workflows: making, reading, unpacking. The archiver's Python API."""

from ts_archiver.entries import Limits
from ts_archiver.errors import (
    AlreadyExists,
    ArchiveError,
    BadOption,
    Collision,
    CorruptArchive,
    ExtractFailed,
    ManifestError,
    MissingInput,
    NotAnArchive,
    PackError,
    ReadError,
    TooLarge,
    UnsafeArchive,
    WriteFailed,
)
from ts_archiver.inspecting import FileReport, Inspection, inspect
from ts_archiver.manifest import Manifest
from ts_archiver.packing import pack
from ts_archiver.reading import fingerprint
from ts_archiver.unpacking import extract, extract_hashed, read_manifest
from ts_archiver.workflows import pack_workflow

__all__ = [
    "AlreadyExists",
    "ArchiveError",
    "BadOption",
    "Collision",
    "CorruptArchive",
    "ExtractFailed",
    "FileReport",
    "Inspection",
    "Limits",
    "Manifest",
    "ManifestError",
    "MissingInput",
    "NotAnArchive",
    "PackError",
    "ReadError",
    "TooLarge",
    "UnsafeArchive",
    "WriteFailed",
    "extract",
    "extract_hashed",
    "fingerprint",
    "inspect",
    "pack",
    "pack_workflow",
    "read_manifest",
]
