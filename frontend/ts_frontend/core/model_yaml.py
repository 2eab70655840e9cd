"""Reads a model's model-config.yaml: the keys that the server itself follows.

`registration` calls it; what handlers keep in the same file is none of its business.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml

from ts_frontend.core.parallel import Parallel, read_parallel
from ts_frontend.core.yaml_reader import YamlReader
from ts_frontend.errors import InvalidModel

logger = logging.getLogger(__name__)

DeviceType = Literal["cpu", "gpu", "mps"]

# TorchServe follows these and this server does not yet.
_UNSUPPORTED = (
    "useJobTicket",
    "continuousBatching",
    "sequenceBatching",
    "sequenceMaxIdleMSec",
    "sequenceTimeoutMSec",
    "maxSequenceJobQueueSize",
    "maxNumSequence",
    "asyncCommunication",
)
_THE_WORKERS = ("isolateErrors", "warmupSeconds")  # keys that are read there
_NEARLY = 0.85  # a letter or two amiss: other keys are the handler's own, and are left alone


@dataclass(frozen=True, slots=True)
class ModelYaml:
    """The file's values; None where a key is missing or its value was refused with a warning."""

    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay: int | None = None
    response_timeout: int | None = None
    startup_timeout: int | None = None
    device_type: DeviceType | None = None
    device_ids: tuple[int, ...] | None = None
    max_retry_timeout: int | None = None
    client_timeout: int | None = None
    job_queue_size: int | None = None
    use_venv: bool = False
    python_executable: str | None = None
    batch_policy: Literal["eager", "delay"] | None = None
    weights_only: bool | None = None
    parallel: Parallel | None = None
    prefetch: int = 0
    max_latency: int | None = None
    compiles: bool = False  # whether its `pt2` asks for `torch.compile`

    @property
    def workers(self) -> tuple[int, int] | None:
        """(min, max) when the file decides them; only ``minWorkers`` means as many at most.

        TorchServe ignored the latter and started the default number.
        """
        if self.min_workers is None:
            return None
        top = self.min_workers if self.max_workers is None else self.max_workers
        return (self.min_workers, top) if top >= self.min_workers else None


def read_model_yaml(path: Path) -> ModelYaml:
    """Read the file that the manifest names as ``configFile``.

    Raises:
        InvalidModel: it is missing, unreadable or no yaml; the message has file, line and cause.
            TorchServe only logged that and served with defaults.
    """
    try:
        parsed = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise InvalidModel(
            f"Failed to read {path.name}: {error.strerror}. "
            "The manifest names it as configFile; pack it with --config-file."
        ) from error
    except yaml.YAMLError as error:
        raise InvalidModel(f"Failed to parse {path.name}: {_where(error)}") from error
    except ValueError as error:  # bytes that are no text, a timestamp out of range
        raise InvalidModel(f"Failed to parse {path.name}: {error}") from error
    if parsed is None:
        return ModelYaml()
    if not isinstance(parsed, dict):
        raise InvalidModel(
            f"Failed to parse {path.name}: line 1: expected `key: value` lines, "
            f"found a {type(parsed).__name__}."
        )
    return _interpret(parsed, path.name)


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    context = getattr(error, "context", None)
    cause = f"{problem} ({context})" if context else problem
    if mark is None:
        return f"{cause}."
    return f"line {mark.line + 1}, column {mark.column + 1}: {cause}."


def _interpret(values: Mapping[Any, Any], file: str) -> ModelYaml:
    for key in _UNSUPPORTED:
        if key in values:
            logger.warning("%s: %s is accepted, but not supported yet", file, key)
    read = YamlReader(values, file)
    result = ModelYaml(
        min_workers=read.integer("minWorkers", clamp=1),
        max_workers=read.integer("maxWorkers", least=0) or None,
        batch_size=read.integer("batchSize", clamp=1),
        max_batch_delay=read.integer("maxBatchDelay", least=0) or None,
        response_timeout=read.integer("responseTimeout", least=1),
        startup_timeout=read.integer("startupTimeout", least=1),
        device_type=read.choice("deviceType", _device_type, "cpu, gpu or mps"),
        device_ids=read.choice("deviceIds", _device_ids, "a list of device numbers"),
        max_retry_timeout=read.integer("maxRetryTimeoutInSec", clamp=0),
        client_timeout=read.integer("clientTimeoutInMills", least=0),
        job_queue_size=read.integer("jobQueueSize", least=0) or None,
        use_venv=bool(read.choice("useVenv", _boolean, "true or false")),
        python_executable=read.choice("pythonExecutable", _program, "the path of an interpreter"),
        batch_policy=read.choice("batchPolicy", _policy, "eager or delay"),
        weights_only=read.choice("weightsOnly", _boolean, "true or false"),
        parallel=read_parallel(read),
        prefetch=read.integer("prefetch", least=0) or 0,
        max_latency=read.integer("maxLatencyMs", least=0),
        compiles=_compiles(values.get("pt2")),
    )
    _warn_of_near_misses(values, (*_UNSUPPORTED, *read.known, *_THE_WORKERS), file)
    if result.workers is None and (result.min_workers or result.max_workers):
        logger.warning(
            "%s: minWorkers %s and maxWorkers %s are ignored: minWorkers must be set, and "
            "maxWorkers not below it",
            file,
            result.min_workers,
            result.max_workers,
        )
    return result


def _warn_of_near_misses(values: Mapping[Any, Any], known: Collection[str], file: str) -> None:
    for key in values:
        if not isinstance(key, str) or key in known:
            continue
        close = get_close_matches(key, known, 1, _NEARLY)
        if close:
            logger.warning("%s: the server has no key %s, did you mean %s?", file, key, close[0])


def _device_type(value: object) -> DeviceType | None:
    known: dict[str, DeviceType] = {"cpu": "cpu", "gpu": "gpu", "mps": "mps"}
    return known.get(value.lower()) if isinstance(value, str) else None


def _device_ids(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not value:
        return None
    whole = all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    return tuple(value) if whole else None


def _compiles(pt2: object) -> bool:
    """Whether `ts.torch_handler.compilation` finds something to do in it."""
    if not isinstance(pt2, dict):
        return isinstance(pt2, str)
    if "compile" in pt2:
        options = pt2["compile"]
        return isinstance(options, dict) and bool(options.get("enable"))
    return "export" not in pt2


def _boolean(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _program(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _policy(value: object) -> Literal["eager", "delay"] | None:
    return "eager" if value == "eager" else "delay" if value == "delay" else None
