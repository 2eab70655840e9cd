"""What a model version runs with, and which source wins for each value.

`registration` resolves it once, from the register call, the model's yaml, the ``models`` JSON of
config.properties and the server-wide defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ts_frontend.core.model_yaml import DeviceType, ModelYaml
from ts_frontend.core.parallel import Parallel
from ts_frontend.core.weights import UNDECIDED, WeightsPolicy, weights_policy
from ts_frontend.model_snapshot import SavedVersion

if TYPE_CHECKING:
    from ts_frontend.config import Config

MAX_RETRY_TIMEOUT = 300
BATCH_SIZE = 1
MAX_BATCH_DELAY = 100
# Seconds of a timeout in debug mode: TorchServe's number, 68 years.
NEVER = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Registration:
    """A register call; None where the client sent nothing. The numbers of ``restored``, which a
    snapshot has, go before all others."""

    url: str
    model_name: str | None = None
    handler: str | None = None
    runtime: str | None = None
    batch_size: int | None = None
    max_batch_delay: int | None = None
    initial_workers: int | None = None
    synchronous: bool = True
    response_timeout: int | None = None
    startup_timeout: int | None = None
    s3_sse_kms: bool = False
    weights_only: bool | None = None
    max_latency: int | None = None
    restored: SavedVersion | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in the units of TorchServe's keys: seconds, but milliseconds for the batch delay, the
    client timeout (0: never) and the latency target (0: none). ``max_response_size`` is in bytes;
    None passes on all. ``prefetch`` counts batches that a busy worker is sent ahead."""

    batch_size: int = BATCH_SIZE
    max_batch_delay: int = MAX_BATCH_DELAY
    response_timeout: int = 120
    startup_timeout: int = 120
    max_retry_timeout: int = MAX_RETRY_TIMEOUT
    client_timeout: int = 0
    job_queue_size: int = 100
    batch_policy: Literal["eager", "delay"] = "eager"
    device_type: DeviceType | None = None
    device_ids: tuple[int, ...] | None = None
    use_venv: bool = False
    max_response_size: int | None = None
    weights: WeightsPolicy = UNDECIDED
    parallel: Parallel | None = None
    prefetch: int = 0
    max_latency: int = 0


def resolve(
    config: Config, name: str, version: str, asked: Registration, file: ModelYaml
) -> Settings:
    """Settle each value on its own.

    Batch size, delay and latency target: register call, yaml, ``models`` JSON, server-wide key,
    1, 100 and none.
    Timeouts: yaml, register call, ``models`` JSON, server-wide key. TorchServe let a yaml without
    the timeouts pin them to 120, and the JSON beat the call. In debug mode there are none.
    """
    table = _Table(config, name, version)
    settled = Settings(
        batch_size=_first(
            asked.batch_size,
            file.batch_size,
            table.positive("batchSize"),
            config.batch_size,
            BATCH_SIZE,
        ),
        max_batch_delay=_first(
            asked.max_batch_delay,
            file.max_batch_delay,
            table.positive("maxBatchDelay"),
            config.max_batch_delay,
            MAX_BATCH_DELAY,
        ),
        response_timeout=_first(
            NEVER if config.debug else None,
            file.response_timeout,
            asked.response_timeout,
            table.positive("responseTimeout"),
            config.default_response_timeout,
        ),
        startup_timeout=_first(
            NEVER if config.debug else None,
            file.startup_timeout,
            asked.startup_timeout,
            table.positive("startupTimeout"),
            config.default_startup_timeout,
        ),
        max_retry_timeout=_first(file.max_retry_timeout, MAX_RETRY_TIMEOUT),
        client_timeout=file.client_timeout or 0,
        job_queue_size=_first(file.job_queue_size, config.job_queue_size),
        batch_policy=file.batch_policy or table.batch_policy() or config.batch_policy,
        device_type=file.device_type,
        device_ids=file.device_ids,
        use_venv=file.use_venv,
        max_response_size=config.max_response_size,
        weights=weights_policy(asked.weights_only, file.weights_only, config.weights_only),
        parallel=file.parallel,
        prefetch=file.prefetch,
        max_latency=_first(
            asked.max_latency,
            file.max_latency,
            table.positive("maxLatencyMs"),
            config.max_latency_ms,
        ),
    )
    return settled if asked.restored is None else _restored(settled, asked.restored, config)


def _restored(settled: Settings, saved: SavedVersion, config: Config) -> Settings:
    settled = replace(settled, batch_size=saved.batch_size, max_batch_delay=saved.max_batch_delay)
    if config.debug:
        return settled
    return replace(
        settled,
        response_timeout=saved.response_timeout,
        startup_timeout=saved.startup_timeout,
    )


def wanted_workers(config: Config, asked: Registration, file: ModelYaml) -> tuple[int, int]:
    """(min, max) for a register call: snapshot, yaml, ``initial_workers``,
    ``default_workers_per_model``; in debug mode one at most."""
    count = max(0, _first(asked.initial_workers, config.default_workers_per_model))
    low, high = file.workers or (count, count)
    if asked.restored is not None:
        low, high = asked.restored.min_workers, asked.restored.max_workers
    return (min(1, low), min(1, high)) if config.debug else (low, high)


def startup_workers(
    config: Config, name: str, version: str, file: ModelYaml, machine_default: int
) -> tuple[int, int]:
    """(min, max) for a model loaded at startup; one in debug mode.

    Args:
        machine_default: GPUs, or cores where there are none; used when
            ``default_workers_per_model`` is 0.
    """
    if config.debug:
        return (1, 1)
    if file.workers is not None:
        return file.workers
    default = config.default_workers_per_model or machine_default
    table = _Table(config, name, version)
    least = table.positive("minWorkers")
    most = table.positive("maxWorkers")
    if least is None and most is None:
        return (default, default)
    low = _first(least, min(default, _first(most, default)))
    return (low, max(low, _first(most, low)))


class _Table:
    """One version's entry of the ``models`` JSON. Values below 1 or no numbers are not there."""

    def __init__(self, config: Config, name: str, version: str) -> None:
        versions: Mapping[str, Mapping[str, int | str | bool]] = config.models.get(name, {})
        self._entry = versions.get(version, {})

    def positive(self, key: str) -> int | None:
        value = self._entry.get(key)
        usable = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return int(value) if usable and value is not None else None

    def batch_policy(self) -> Literal["eager", "delay"] | None:
        value = self._entry.get("batchPolicy")
        return "eager" if value == "eager" else "delay" if value == "delay" else None

    def runtime(self) -> str | None:
        value = self._entry.get("runtimeType")
        return value if isinstance(value, str) else None


def configured_runtime(config: Config, name: str, version: str) -> str | None:
    """``runtimeType`` of the ``models`` JSON."""
    return _Table(config, name, version).runtime()


def _first(*candidates: int | None) -> int:
    return next(value for value in candidates if value is not None)
