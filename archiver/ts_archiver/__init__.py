"""Model archives: making, reading and unpacking them. The Python API of the archiver."""

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
from ts_archiver.unpacking import extract, read_manifest

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
    "inspect",
    "pack",
    "read_manifest",
]
