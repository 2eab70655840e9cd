"""What this package raises."""

from __future__ import annotations


class WorkflowArchiverError(Exception):
    """The workflow can't be packaged; the text names cause and cure."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
