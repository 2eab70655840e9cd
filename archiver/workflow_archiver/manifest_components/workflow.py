"""The manifest's part about the workflow."""

from __future__ import annotations

import json


class Workflow:
    """Names of the archive's files."""

    def __init__(self, workflow_name: str, spec_file: str, handler: str) -> None:
        self.workflow_name = workflow_name
        self.spec_file = spec_file
        self.handler = handler

    def to_dict(self) -> dict[str, str]:
        """With the manifest's keys, in its order."""
        return {
            "workflowName": self.workflow_name,
            "specFile": self.spec_file,
            "handler": self.handler,
        }

    def __str__(self) -> str:
        return json.dumps(self.to_dict())

    __repr__ = __str__
