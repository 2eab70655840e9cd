"""Every error of the archiver: one line of text that names the cause and the cure.

ArchiveError
├── PackError                  writing
│   ├── BadOption              a model name, format or runtime that can't be
│   ├── MissingInput           a file to package is not there, or is no plain file
│   ├── Collision              two different inputs want one name
│   ├── AlreadyExists          the output is there, and no --force
│   └── WriteFailed            the output could not be written
└── ReadError                  reading
    ├── NotAnArchive           the file is something else
    ├── CorruptArchive         cut short, or its checksums don't fit
    ├── UnsafeArchive          a path outside the folder, a link, a device, encryption, ...
    ├── TooLarge               more bytes, files or compression than `Limits` allows
    ├── ManifestError          the manifest is no JSON object
    └── ExtractFailed          the target folder could not be written
"""

from __future__ import annotations


class ArchiveError(Exception):
    """Something is wrong with an archive, or with what one is made from or unpacked to."""


class PackError(ArchiveError):
    pass


class BadOption(PackError):
    pass


class MissingInput(PackError):
    pass


class Collision(PackError):
    pass


class AlreadyExists(PackError):
    pass


class WriteFailed(PackError):
    pass


class ReadError(ArchiveError):
    pass


class NotAnArchive(ReadError):
    pass


class CorruptArchive(ReadError):
    pass


class UnsafeArchive(ReadError):
    pass


class TooLarge(ReadError):
    pass


class ManifestError(ReadError):
    pass


class ExtractFailed(ReadError):
    pass


def reason(error: OSError) -> str:
    """What the system says about a failed call, without the number and the path."""
    return error.strerror or str(error) or type(error).__name__
