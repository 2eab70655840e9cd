"""What this package raises.

ModelArchiverError
└── MissingFileError           a file to package is not there; a FileNotFoundError too
"""

from __future__ import annotations


class ModelArchiverError(Exception):
    """The model can't be packaged; the text names cause and cure."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class MissingFileError(ModelArchiverError, FileNotFoundError):
    """TorchServe's tool lets Python's own error through here, so callers expect that one."""

    def __str__(self) -> str:
        return self.message
