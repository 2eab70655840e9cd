"""The manifest's part about the model."""

from __future__ import annotations

import json
from typing import Any


class Model:
    """Names of the archive's files; what is empty is left out of the JSON."""

    def __init__(
        self,
        model_name: str,
        serialized_file: str | None,
        handler: str,
        model_file: str | None = None,
        model_version: str | None = None,
        extensions: Any = None,
        requirements_file: str | None = None,
        config_file: str | None = None,
    ) -> None:
        self.model_name = model_name
        self.serialized_file = serialized_file
        self.handler = handler
        self.model_file = model_file
        self.model_version = model_version
        self.extensions = extensions
        self.requirements_file = requirements_file
        self.config_file = config_file

    def to_dict(self) -> dict[str, Any]:
        """With the manifest's keys, in its order."""
        entry = {
            "modelName": self.model_name,
            "serializedFile": self.serialized_file,
            "handler": self.handler,
            "modelFile": self.model_file,
            "modelVersion": self.model_version,
            "extensions": self.extensions,
            "requirementsFile": self.requirements_file,
            "configFile": self.config_file,
        }
        return {key: value for key, value in entry.items() if value}

    def __str__(self) -> str:
        return json.dumps(self.to_dict())

    __repr__ = __str__
