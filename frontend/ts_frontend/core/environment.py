"""The environment variables of worker processes. `registration` calls it once per version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ts_frontend.config import Config


def worker_environment(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """The server's environment without the names that fully match ``blacklist_env_vars``, plus
    what TorchServe exports for handlers.

    PYTHONPATH stays as inherited: the model's folders travel as import paths, because a worker
    with a PYTHONPATH of its own could not be forked from the zygote.
    """
    hidden = re.compile(config.blacklist_env_vars) if config.blacklist_env_vars else None
    kept = {
        name: value
        for name, value in environ.items()
        if hidden is None or hidden.fullmatch(name) is None
    }
    return {
        **kept,
        "TS_DECODE_INPUT_REQUEST": str(config.decode_input_request).lower(),
        "TS_IPEX_ENABLE": str(config.ipex_enable).lower(),
        "TS_IPEX_GPU_ENABLE": str(config.ipex_gpu_enable).lower(),
    }
