"""Whether a model's workers may load pickled weights that can run code, and who allowed it.

`settings` settles it and `registration` puts it into the workers' environment: as a variable of
torch's own, which `torch.load` reads at each call, so that it holds for a handler's calls as well.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

logger = logging.getLogger(__name__)

FREE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
BOUND = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # the opposite: torch refuses to see both

CALL = "weights_only=false in the register call"
YAML = "weightsOnly: false in its yaml"
CONFIG = "weights_only=false in the server's configuration"

_TRUE = ("1", "y", "yes", "true")  # what torch takes for true


@dataclass(frozen=True, slots=True)
class WeightsPolicy:
    """``only`` None: nobody said anything, so that torch's default holds, and what the server's
    own environment says about it."""

    only: bool | None = None
    source: str = ""

    @property
    def asked(self) -> bool | None:
        """What the register call said; a snapshot has to remember that."""
        return self.only if self.source == CALL else None


UNDECIDED = WeightsPolicy()


def weights_policy(asked: bool | None, file: bool | None, config: bool) -> WeightsPolicy:
    """Register call, then yaml, then the server's ``weights_only``."""
    if asked is not None:
        return WeightsPolicy(asked, CALL)
    if file is not None:
        return WeightsPolicy(file, YAML)
    return UNDECIDED if config else WeightsPolicy(False, CONFIG)


def weights_environment(
    env: Mapping[str, str], policy: WeightsPolicy, model: str, version: str
) -> dict[str, str]:
    """The environment of a version's workers; a warning tells of the weaker policy."""
    if policy.only is None:
        if env.get(FREE, "").lower() in _TRUE:
            _warn(model, version, f"{FREE}={env[FREE]} in the server's environment")
        return dict(env)
    if policy.only:
        return {name: value for name, value in env.items() if name != FREE}
    _warn(model, version, policy.source)
    return {**{name: value for name, value in env.items() if name != BOUND}, FREE: "1"}


def _warn(model: str, version: str, source: str) -> None:
    logger.warning(
        "Model %s version %s may load pickles that run code when they are read, because of %s: "
        "its archive must come from somebody you trust",
        model,
        version,
        source,
    )
