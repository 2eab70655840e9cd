"""The key table: every setting of the server with its type, default, environment name and state.

`Config` is both the table and the result: `config` reads the metadata of its fields to fill
it, everything else reads its values. docs/configuration.md tells what each key does.
"""

# The defaults are calls, but each one makes the description of a field, once.
# ruff: noqa: RUF009

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from ts_frontend import values as v
from ts_frontend.model_settings import ModelSettings, model_settings
from ts_frontend.model_snapshot import ModelSnapshot, model_snapshot
from ts_frontend.values import Address

T = TypeVar("T")

# Why a key that the user set does nothing; the warning that goes out says it.
_JVM = "it tunes the JVM, and there is none"
_GRPC = "gRPC is not served yet"
_SEQUENCES = "sequence batching is not built yet"
_LAUNCHER = "the workers of a model share the cores out among themselves without it"
_NATIVE = "it turns off what unix: addresses need in Java, and here they need nothing"

# These stand in snapshots. They are known, but mean nothing to us.
INTERNAL = ("version", "python", "tsConfigFile")


@dataclass(frozen=True, slots=True)
class Key:
    """What is known about one key of config.properties.

    Args:
        name: as written in the file.
        read: turns text into a value; raises BadValue or FallBack.
        default: the value when nobody sets the key.
        env: environment variable that sets it, or None.
        env_always: read it even without ``enable_envvars_config=true``.
        no_effect: why setting the key changes nothing; empty for a key that works.
        secret: the value is never shown.
    """

    name: str
    read: Callable[[str], object]
    default: object
    env: str | None
    env_always: bool
    no_effect: str
    secret: bool


def _key(
    default: T,
    read: Callable[[str], T],
    *,
    env: str | None = "",
    env_always: bool = False,
    no_effect: str = "",
    secret: bool = False,
) -> T:
    """A field of `Config` that is a key; ``env=""`` means TS_ and the name in capitals."""
    facts = {"read": read, "env": env, "env_always": env_always, "no_effect": no_effect}
    return field(default=default, metadata={**facts, "secret": secret})


def _models() -> ModelSettings:
    facts = {"read": model_settings, "env": None, "env_always": False, "no_effect": ""}
    return field(default_factory=dict, metadata={**facts, "secret": False})


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one server; ``Config()`` is a server nobody configured."""

    # Listeners.
    inference_address: Address = _key(Address("http", "127.0.0.1", 8080), v.address(80, 443))
    management_address: Address = _key(Address("http", "127.0.0.1", 8081), v.address(8081, 8444))
    metrics_address: Address = _key(Address("http", "127.0.0.1", 8082), v.address(8082, 8445))
    enable_metrics_api: bool = _key(True, v.boolean)
    max_request_size: int = _key(6553500, v.whole(1, v.INT64_MAX))
    max_response_size: int | None = _key(None, v.optional_whole(1, v.INT64_MAX))
    certificate_file: Path | None = _key(None, v.optional_path)
    private_key_file: Path | None = _key(None, v.optional_path)
    keystore: Path | None = _key(None, v.optional_path)
    keystore_pass: str = _key("changeit", v.text, secret=True)
    keystore_type: str = _key("PKCS12", v.text)
    cors_allowed_origin: str | None = _key(None, v.optional_text)
    cors_allowed_methods: str | None = _key(None, v.optional_text)
    cors_allowed_headers: str | None = _key(None, v.optional_text)
    disable_token_authorization: bool = _key(False, v.boolean, env_always=True)
    token_expiration_min: float = _key(60.0, v.minutes, env="TS_TOKEN_EXPIRATION_TIME_MIN")
    enable_model_api: bool = _key(False, v.boolean, env_always=True)

    # Models.
    model_store: Path | None = _key(None, v.optional_path)
    load_models: str | None = _key(None, v.optional_text)
    models: ModelSettings = _models()
    watch_models: bool = _key(False, v.boolean)
    model_snapshot: ModelSnapshot | None = _key(None, model_snapshot, env=None)
    snapshot_store: str | None = _key(None, v.optional_text, env_always=True)
    allowed_urls: tuple[str, ...] = _key(("file://.*|http(s)?://.*|s3://.*",), v.patterns)
    use_env_allowed_urls: bool = _key(False, v.boolean, env=None)
    archive_max_bytes: int = _key(256 << 30, v.whole(1, v.INT64_MAX))
    archive_max_ratio: float = _key(100.0, v.ratio)
    archive_cache: Path | None = _key(None, v.optional_path)
    archive_cache_max: int = _key(10 << 30, v.whole(0, v.INT64_MAX))
    install_py_dep_per_model: bool = _key(False, v.boolean)
    py_env_cache: Path | None = _key(None, v.optional_path)
    py_env_cache_max: int = _key(20, v.whole(0))
    py_env_builder: Literal["pip", "uv"] = _key("pip", v.py_env_builder)
    default_service_handler: str | None = _key(None, v.optional_text)
    service_envelope: str | None = _key(None, v.optional_text)
    weights_only: bool = _key(True, v.strict_boolean)
    compile_cache: Path | None = _key(None, v.optional_path)

    # Batches and queues.
    batch_policy: Literal["eager", "delay"] = _key("eager", v.batch_policy)
    batch_size: int | None = _key(None, v.optional_whole(1))
    max_batch_delay: int | None = _key(None, v.optional_whole(0))
    max_latency_ms: int = _key(0, v.whole(0))
    job_queue_size: int = _key(100, v.whole(1))

    # Workers.
    default_workers_per_model: int = _key(0, v.whole(0))
    default_response_timeout: int = _key(120, v.whole(1))
    default_startup_timeout: int = _key(120, v.whole(1))
    unregister_model_timeout: int = _key(120, v.whole(1))
    number_of_gpu: int | None = _key(None, v.optional_whole(0))
    initial_worker_port: int = _key(9000, v.whole(0, 65535))
    initial_distribution_port: int = _key(29500, v.whole(1, 65535))
    blacklist_env_vars: str | None = _key(None, v.optional_pattern)
    limit_max_image_pixels: bool = _key(True, v.boolean)
    decode_input_request: bool = _key(True, v.boolean)
    ipex_enable: bool = _key(False, v.boolean)
    ipex_gpu_enable: bool = _key(False, v.boolean)
    debug: bool = _key(False, v.boolean)

    # Metrics.
    metrics_mode: Literal["log", "prometheus", "legacy"] = _key("log", v.metrics_mode)
    metrics_config: Path | None = _key(None, v.optional_path)
    model_metrics_auto_detect: bool = _key(False, v.boolean)
    disable_system_metrics: bool = _key(False, v.boolean)
    metric_time_interval: int = _key(60, v.whole(1), env=None)
    system_metrics_cmd: str | None = _key(None, v.optional_text, env=None)

    # Logs.
    log_format: Literal["text", "json"] = _key("text", v.log_format)

    # Where settings come from.
    enable_envvars_config: bool = _key(False, v.boolean, env=None)

    # Accepted, no effect yet: gRPC.
    grpc_inference_address: str = _key("127.0.0.1", v.host, no_effect=_GRPC)
    grpc_management_address: str = _key("127.0.0.1", v.host, no_effect=_GRPC)
    grpc_inference_port: int = _key(7070, v.whole(0, 65535), no_effect=_GRPC)
    grpc_management_port: int = _key(7071, v.whole(0, 65535), no_effect=_GRPC)
    grpc_inference_max_connection_age_ms: int | None = _key(
        None, v.optional_whole(1), no_effect=_GRPC
    )
    grpc_management_max_connection_age_ms: int | None = _key(
        None, v.optional_whole(1), no_effect=_GRPC
    )
    grpc_inference_max_connection_age_grace_ms: int | None = _key(
        None, v.optional_whole(0), no_effect=_GRPC
    )
    grpc_management_max_connection_age_grace_ms: int | None = _key(
        None, v.optional_whole(0), no_effect=_GRPC
    )
    enable_grpc_ssl: bool = _key(False, v.boolean, no_effect=_GRPC)

    # Accepted, no effect yet: the rest.
    ts_open_inference_protocol: bool = _key(
        False,
        v.boolean,
        env="TS_OPEN_INFERENCE_PROTOCOL",
        env_always=True,
        no_effect="the Open Inference Protocol is not served yet",
    )
    workflow_store: Path | None = _key(
        None, v.optional_path, no_effect="workflows are not built yet"
    )
    plugins_path: str | None = _key(
        None,
        v.optional_text,
        env=None,
        no_effect="Java plugins cannot run here; Python packages take their place, "
        "see docs/plugins.md",
    )
    ts_header_key_sequence_id: str = _key(
        "ts_request_sequence_id", v.text, env="TS_HEADER_KEY_SEQUENCE_ID", no_effect=_SEQUENCES
    )
    ts_header_key_sequence_start: str = _key(
        "ts_request_sequence_start",
        v.text,
        env="TS_HEADER_KEY_SEQUENCE_START",
        no_effect=_SEQUENCES,
    )
    ts_header_key_sequence_end: str = _key(
        "ts_request_sequence_end", v.text, env="TS_HEADER_KEY_SEQUENCE_END", no_effect=_SEQUENCES
    )
    cpu_launcher_enable: bool = _key(False, v.boolean, no_effect=_LAUNCHER)
    cpu_launcher_args: str | None = _key(None, v.optional_text, no_effect=_LAUNCHER)
    cpp_log_config: Path | None = _key(
        None, v.optional_path, no_effect="C++ workers are not supported"
    )

    # Accepted, no effect ever.
    model_server_home: Path | None = _key(
        None, v.optional_path, env_always=True, no_effect="no files of TorchServe's are needed"
    )
    number_of_netty_threads: int = _key(0, v.whole(0), no_effect=_JVM)
    netty_client_threads: int = _key(0, v.whole(0), no_effect=_JVM)
    prefer_direct_buffer: bool = _key(False, v.boolean, no_effect=_JVM)
    use_native_io: bool = _key(True, v.boolean, env=None, no_effect=_NATIVE)
    io_ratio: int = _key(50, v.whole(1, 100), env=None, no_effect=_JVM)
    vmargs: str | None = _key(None, v.optional_text, env=None, no_effect=_JVM)
    async_logging: bool = _key(False, v.boolean, no_effect="logging never blocks a request here")

    # Not keys: the command line, three environment variables, and what was found on the way.
    log_config: Path | None = None
    log_location: Path = Path("logs")
    metrics_location: Path = Path("logs")
    temp_dir: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    snapshots: bool = True
    source: Path | None = None
    restored_from: str | None = None  # what messages call the snapshot that nobody had to name
    written: tuple[tuple[str, str], ...] = ()  # by file and command line, for the next snapshot
    warnings: tuple[str, ...] = ()


def key_table() -> Mapping[str, Key]:
    """Every key that may stand in config.properties, but for `INTERNAL`."""
    return {f.name: _describe(f.name, f.metadata) for f in fields(Config) if f.metadata}


def _describe(name: str, facts: Mapping[str, Any]) -> Key:
    entry = Config.__dataclass_fields__[name]
    default = {} if name == "models" else entry.default
    env = f"TS_{name.upper()}" if facts["env"] == "" else facts["env"]
    return Key(name, default=default, **{**facts, "env": env})
