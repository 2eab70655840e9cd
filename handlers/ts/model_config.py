"""The model's own configuration file, as `ts.service` and the handler's context see it."""

from __future__ import annotations

import logging
import os
from typing import Any, Dict, Optional

from ts.utils.util import get_yaml_config

logger = logging.getLogger(__name__)


def read_model_config(model_dir: str, manifest: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    """What the file that the manifest names holds; {} where it names none.

    Raises:
        ValueError: the file is missing or is not valid.
    """
    name = (manifest or {}).get("model", {}).get("configFile")
    if not name:
        return {}
    path = os.path.join(model_dir, name)
    try:
        config = get_yaml_config(path)
    except OSError as error:
        raise ValueError(
            f"The model's config file {path} cannot be read: {error.strerror}. "
            "Pack it again with --config-file."
        ) from error
    # An empty file is an empty configuration; TorchServe's handlers fail on None.
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a mapping of keys, found {type(config).__name__}")
    return config


def isolates_errors(config: Dict[str, Any]) -> bool:
    """Whether ``isolateErrors`` is on; see `ts.isolation`."""
    value = config.get("isolateErrors", False)
    if not isinstance(value, bool):
        logger.warning("isolateErrors must be true or false, not %r: it is off", value)
    return value is True
