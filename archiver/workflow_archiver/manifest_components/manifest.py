"""A manifest that is built in Python."""

from __future__ import annotations

import json
import time
from typing import Any

from ts_archiver.manifest import ARCHIVER_VERSION, DATE_FORMAT
from workflow_archiver.manifest_components.workflow import Workflow


class Manifest:
    """What an archive says about itself; `str` gives the JSON that goes into it."""

    def __init__(self, workflow: Workflow) -> None:
        self.creation_time = time.strftime(DATE_FORMAT)
        self.workflow = workflow
        self.archiver_version = ARCHIVER_VERSION

    def to_dict(self) -> dict[str, Any]:
        return {
            "createdOn": self.creation_time,
            "workflow": self.workflow.to_dict(),
            "archiverVersion": self.archiver_version,
        }

    def __str__(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    __repr__ = __str__
