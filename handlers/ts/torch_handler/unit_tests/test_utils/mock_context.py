"""A context without a server, for users' tests of their handlers; TorchServe ships it too."""

from __future__ import annotations

import os
import uuid
from typing import Any, Dict, Optional

import torch

from ts.metrics.metrics_store import MetricsStore
from ts.utils.util import get_yaml_config


class MockContext:
    """Enough of `ts.context.Context` to initialise a handler and call its steps."""

    def __init__(
        self,
        model_pt_file: Optional[str] = "model.pt",
        model_dir: str = "ts/torch_handler/unit_tests/models/tmp",
        model_file: Optional[str] = "model.py",
        gpu_id: Any = "0",
        model_name: str = "mnist",
        model_yaml_config_file: Optional[str] = None,
    ) -> None:
        model = {"modelName": model_name}
        if model_pt_file:
            model["serializedFile"] = model_pt_file
        if model_file:
            model["modelFile"] = model_file
        self.manifest: Dict[str, Any] = {"model": model}
        self.system_properties: Dict[str, Any] = {"model_dir": str(model_dir)}
        if torch.cuda.is_available() and gpu_id is not None:
            self.system_properties["gpu_id"] = gpu_id
        self.explain = False
        self.metrics = MetricsStore({0: str(uuid.uuid4())}, model_name)
        self.model_yaml_config: Dict[str, Any] = {}
        if model_yaml_config_file:
            path = os.path.join(model_dir, model_yaml_config_file)
            self.model_yaml_config = get_yaml_config(path) or {}

    def get_request_header(self, idx: Any, exp: Any) -> bool:
        return bool(idx and exp and self.explain)
