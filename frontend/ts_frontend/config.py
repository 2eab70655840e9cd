"""Settings of the server from command line, environment and config.properties.

`cli` calls `load_config` once; every other room gets the frozen `Config`. Precedence:
environment, command line, file, default.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ts_frontend.keys import Config
from ts_frontend.sources import Draft, read_file, take_environment, take_options
from ts_frontend.values import Address, BadValue, ConfigError, FallBack, LaunchError

__all__ = ["Address", "Config", "ConfigError", "LaunchError", "load_config"]


def load_config(
    argv_options: Mapping[str, object], environ: Mapping[str, str], cwd: Path
) -> Config:
    """Put all sources of settings together, checking in the order of TorchServe's launcher.

    A snapshot left by an earlier run is not read, only reported: TorchServe would start from it
    instead of ``./config.properties``.

    Args:
        argv_options: ``ts_config``, ``model_store``, ``workflow_store``, ``models`` (a sequence),
            ``log_config``, ``cpp_log_config``, ``plugins_path``, ``disable_token_auth``,
            ``enable_model_api``, ``no_config_snapshots``; absent, None and False mean not given.
        environ: the process environment.
        cwd: relative paths start here.

    Raises:
        LaunchError: a file or folder that the command line names is missing.
        ConfigError: a setting can't be used; names file, line, key and what was expected.
    """
    draft = Draft(environ, cwd)
    log_config = _given_file(argv_options, "log_config", cwd)
    temp_dir = _temp_dir(environ, cwd)
    source = _choose_file(argv_options, environ, cwd)
    if source is not None:
        read_file(draft, source)
    take_options(draft, argv_options)
    take_environment(draft)
    _check_folders(draft, argv_options)
    logs = cwd / (environ.get("LOG_LOCATION") or "logs")
    snapshots = not argv_options.get("no_config_snapshots")
    if snapshots and not _explicit_file(argv_options, environ):
        _report_snapshot(draft, logs / "config")
    config = Config(
        **_values(draft),
        log_config=log_config,
        log_location=logs,
        metrics_location=cwd / (environ.get("METRICS_LOCATION") or "logs"),
        temp_dir=temp_dir,
        snapshots=snapshots,
        source=source,
        warnings=tuple(draft.warnings),
    )
    _check_listeners(config, draft)
    _check_files(config, draft)
    return config


def _given_file(options: Mapping[str, object], name: str, cwd: Path) -> Path | None:
    given = options.get(name)
    if not given:
        return None
    path = Path(os.path.realpath(cwd / str(given)))
    if not path.is_file():
        raise LaunchError(f"--{name.replace('_', '-')} file not found: {path}")
    return path


def _temp_dir(environ: Mapping[str, str], cwd: Path) -> Path:
    given = environ.get("TEMP")
    if not given:
        return Path(tempfile.gettempdir())
    if not (cwd / given).is_dir():
        raise LaunchError(
            f"Invalid temp directory: {given}, please check TEMP environment variable."
        )
    return cwd / given


def _explicit_file(options: Mapping[str, object], environ: Mapping[str, str]) -> str | None:
    return environ.get("TS_CONFIG_FILE") or str(options.get("ts_config") or "") or None


def _choose_file(
    options: Mapping[str, object], environ: Mapping[str, str], cwd: Path
) -> Path | None:
    given = _explicit_file(options, environ)
    if given:
        if not (cwd / given).is_file():
            raise LaunchError(f"--ts-config file not found: {given}")
        return cwd / given
    beside = cwd / "config.properties"
    return beside if beside.is_file() else None


def _check_folders(draft: Draft, options: Mapping[str, object]) -> None:
    store = draft.settings.get("model_store")
    if store is None or not store.raw.strip():
        raise LaunchError("Missing mandatory parameter --model-store")
    if not (draft.cwd / store.raw.strip()).is_dir():
        if store.origin == "--model-store":
            raise LaunchError(f"--model-store directory not found: {store.raw}")
        raise ConfigError(f"{store.origin}: model_store={store.raw}: directory not found")
    workflows = options.get("workflow_store")
    if workflows and not (draft.cwd / str(workflows)).is_dir():
        raise LaunchError(f"--workflow-store directory not found: {workflows}")
    _given_file(options, "cpp_log_config", draft.cwd)


def _report_snapshot(draft: Draft, folder: Path) -> None:
    found = sorted(folder.glob("*.cfg")) if folder.is_dir() else []
    if found:
        draft.warnings.append(
            f"snapshot {found[-1]} is not read: snapshots are not restored yet; "
            "--ncs takes this warning away"
        )


def _values(draft: Draft) -> dict[str, Any]:
    """Read every setting; warn of values that fall back and of keys that do nothing."""
    values: dict[str, Any] = {}
    for name, setting in draft.settings.items():
        key = draft.table[name]
        try:
            value = key.read(setting.raw)
        except FallBack as error:
            value = error.value
            draft.warnings.append(f"{setting.origin}: {name}={_shown(setting.raw)}: {error}")
        except BadValue as error:
            message = f"{setting.origin}: {name}={_shown(setting.raw)}: {error}"
            raise ConfigError(message) from None
        if key.no_effect and value != key.default:
            draft.warnings.append(f"{setting.origin}: {name}: accepted, no effect: {key.no_effect}")
        values[name] = draft.cwd / value if isinstance(value, Path) else value
    return values


def _shown(raw: str) -> str:
    """A value as messages show it: on one line, and not all of a long one."""
    line = " ".join(raw.split())
    return line if len(line) <= 80 else f"{line[:77]}..."


def _check_listeners(config: Config, draft: Draft) -> None:
    """Refuse listeners that could never come up."""
    listeners = {
        "inference_address": config.inference_address,
        "management_address": config.management_address,
        "metrics_address": config.metrics_address,
    }
    for name, address in listeners.items():
        if address.scheme == "https" and not (config.certificate_file and config.private_key_file):
            raise ConfigError(
                f"{draft.settings[name].origin}: {name}={address}: https needs certificate_file "
                "and private_key_file, both in PEM form"
            )
    shared = config.metrics_address in (config.inference_address, config.management_address)
    if config.enable_metrics_api and shared and _fixed(config.metrics_address):
        raise ConfigError(
            f"metrics_address={config.metrics_address} is the address of another listener; "
            "give it a port of its own or set enable_metrics_api=false"
        )


def _check_files(config: Config, draft: Draft) -> None:
    for name in ("metrics_config", "certificate_file", "private_key_file"):
        path = getattr(config, name)
        if path is not None and not path.is_file():
            setting = draft.settings[name]
            raise ConfigError(f"{setting.origin}: {name}={setting.raw}: file not found")


def _fixed(address: Address) -> bool:
    """Port 0 is a different free port for every listener."""
    return address.scheme == "unix" or address.port != 0
