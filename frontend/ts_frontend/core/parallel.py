"""What a model's yaml says of workers that are spread over processes and GPUs.

`model_yaml` calls it; `registration` finds the GPUs, `supervisor` tells the backend of the ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ts_frontend.core.yaml_reader import YamlReader
from ts_frontend.errors import InvalidModel
from ts_worker.backend.base import Ranks

logger = logging.getLogger(__name__)

ParallelType = Literal["pp", "tp", "pptp", "custom"]

_THREADS = "OMP_NUM_THREADS"
_FOLLOWED = ("nnodes", "nproc-per-node", "OMP_NUMBER_THREADS")
# What torchrun needs to bring machines together, with the defaults that ask for nothing.
_WITHOUT_EFFECT: Mapping[str, object] = {
    "rdzv-backend": "c10d",
    "rdzv-endpoint": None,
    "rdzv-conf": None,
    "monitor-interval": 5,
    "node-rank": 0,
}


@dataclass(frozen=True, slots=True)
class Parallel:
    """How each worker of a model is spread.

    Args:
        type: a pipeline's stages (``pp``), a tensor's parts (``tp``), both (``pptp``), or what the
            handler makes of several GPUs in one process (``custom``).
        level: GPUs of a worker and, but for ``custom``, its processes.
        threads: OMP_NUM_THREADS of each process; None where the yaml leaves it open.
    """

    type: ParallelType
    level: int
    threads: int | None = None

    def ranks(self, first_port: int) -> Ranks | None:
        """For the backend; None for one process that needs no rank."""
        if self.type == "custom":
            return None
        return Ranks(self.level, first_port, all_predict=self.type != "pp")

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """The environment of its processes. Like torchrun, one thread each where nobody chose."""
        if self.type == "custom":
            return dict(env)
        if self.threads is not None:
            return {**env, _THREADS: str(self.threads)}
        return {_THREADS: "1", **env}


def read_parallel(read: YamlReader) -> Parallel | None:
    """``parallelType``, ``parallelLevel`` and the section ``torchrun`` of a yaml; None for workers
    of one process and one device.

    Raises:
        InvalidModel: the ranks are to be on several machines.
    """
    file = read.file
    kind: ParallelType | None = read.choice("parallelType", _type, "pp, tp, pptp or custom")
    level = read.integer("parallelLevel", least=0) or 0
    threads = None
    section = read.choice("torchrun", _mapping, "a mapping")
    if section is not None:
        count, threads = _read_torchrun(section, f"{file}: torchrun")
        if level not in (0, count):
            logger.warning(
                "%s: parallelLevel %s is ignored: torchrun has nproc-per-node %s",
                file,
                level,
                count,
            )
        level = count
    if kind is not None and level:
        return Parallel(kind, level, threads)
    if kind is not None:
        logger.warning(
            "%s: parallelType %s has no effect without parallelLevel or nproc-per-node",
            file,
            kind,
        )
    elif level:
        logger.warning("%s: parallelLevel and torchrun have no effect without parallelType", file)
    return None


def _read_torchrun(section: Mapping[Any, Any], where: str) -> tuple[int, int | None]:
    """Processes, and threads of each."""
    unknown = [str(key) for key in section if key not in {*_FOLLOWED, *_WITHOUT_EFFECT}]
    if unknown:
        logger.warning("%s: unknown parameters are ignored: %s", where, ", ".join(unknown))
    inert = [
        key for key, default in _WITHOUT_EFFECT.items() if section.get(key, default) != default
    ]
    if inert:
        logger.warning(
            "%s: %s have no effect: the server starts all ranks itself, on its own machine",
            where,
            ", ".join(inert),
        )
    read = YamlReader(section, where)
    nodes = read.integer("nnodes", least=1) or 1
    if nodes > 1:
        raise InvalidModel(
            f"{where}: nnodes is {nodes}, but all ranks of a worker have to be on the server's "
            "machine: set it to 1, and nproc-per-node to the number of ranks."
        )
    return (
        read.integer("nproc-per-node", least=1) or 1,
        read.integer("OMP_NUMBER_THREADS", least=1),
    )


def _type(value: object) -> ParallelType | None:
    known: dict[str, ParallelType] = {"pp": "pp", "tp": "tp", "pptp": "pptp", "custom": "custom"}
    return known.get(value.lower()) if isinstance(value, str) else None


def _mapping(value: object) -> Mapping[Any, Any] | None:
    return value if isinstance(value, dict) else None
