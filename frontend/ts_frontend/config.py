"""Settings of the server from command line, environment and config.properties.

`cli` calls `load_config` once; every other room gets the frozen `Config`. `sources` decides which
source wins: environment, command line, file, default.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ts_frontend.config_file import read_source
from ts_frontend.keys import Config
from ts_frontend.snapshot_store import snapshot_folder
from ts_frontend.sources import (
    Draft,
    Origin,
    Setting,
    take_environment,
    take_options,
    take_places,
    written,
)
from ts_frontend.urls import without_secrets
from ts_frontend.values import Address, BadValue, ConfigError, FallBack, LaunchError

__all__ = [
    "Address",
    "Config",
    "ConfigError",
    "LaunchError",
    "Loaded",
    "load",
    "load_config",
]


_JKS_MAGIC = b"\xfe\xed\xfe\xed"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and where each of its values stands that is no default."""

    config: Config
    origins: Mapping[str, Origin]


def load_config(
    argv_options: Mapping[str, object], environ: Mapping[str, str], cwd: Path
) -> Config:
    """Put all sources of settings together, checking in the order of TorchServe's launcher.

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
    return load(argv_options, environ, cwd).config


def load(
    argv_options: Mapping[str, object],
    environ: Mapping[str, str],
    cwd: Path,
    *,
    need_store: bool = True,
) -> Loaded:
    """`load_config` with the origins; without ``need_store`` an absent model store only warns."""
    draft = Draft(environ, cwd)
    take_places(draft, argv_options)
    log_config = _given_file(argv_options, "log_config", cwd)
    temp_dir = _temp_dir(draft)
    logs = _log_folder(draft, "log_location")
    source = read_source(draft, snapshot_folder(logs))
    take_options(draft, argv_options)
    texts = written(draft)
    take_environment(draft)
    _check_folders(draft, argv_options, need_store=need_store)
    config = Config(
        **_values(draft),
        log_config=log_config,
        log_location=logs,
        metrics_location=_log_folder(draft, "metrics_location"),
        temp_dir=temp_dir,
        snapshots="snapshots" not in draft.places,
        source=source.path,
        restored_from=source.snapshot,
        written=texts,
    )
    _check_files(config, draft)
    _check_snapshot(config, draft)
    _check_listeners(config, draft)
    _report_idle_certificates(config, draft)
    _report_java_plugins(draft)
    config = replace(config, warnings=tuple(draft.warnings))
    settings = {**draft.settings, **draft.places}
    return Loaded(config, {name: setting.origin for name, setting in settings.items()})


def _given_file(options: Mapping[str, object], name: str, cwd: Path) -> Path | None:
    given = options.get(name)
    if not given:
        return None
    path = Path(os.path.realpath(cwd / str(given)))
    if not path.is_file():
        raise LaunchError(f"--{name.replace('_', '-')} file not found: {path}")
    return path


def _temp_dir(draft: Draft) -> Path:
    given = draft.places.get("temp_dir")
    if given is None:
        return Path(tempfile.gettempdir())
    if not (draft.cwd / given.raw).is_dir():
        raise LaunchError(
            f"Invalid temp directory: {given.raw}, please check TEMP environment variable."
        )
    return draft.cwd / given.raw


def _log_folder(draft: Draft, name: str) -> Path:
    given = draft.places.get(name)
    return draft.cwd / (given.raw if given else "logs")


def _check_folders(draft: Draft, options: Mapping[str, object], *, need_store: bool) -> None:
    store = draft.settings.get("model_store")
    if store is None or not store.raw.strip():
        if need_store:
            raise LaunchError("Missing mandatory parameter --model-store")
        draft.warnings.append("model_store is not set: to start, give --model-store")
    elif not (draft.cwd / store.raw.strip()).is_dir():
        if store.origin.kind == "flag":
            raise LaunchError(f"--model-store directory not found: {store.raw}")
        raise ConfigError(f"{store.origin}: model_store={store.raw}: directory not found")
    workflows = options.get("workflow_store")
    if workflows and not (draft.cwd / str(workflows)).is_dir():
        raise LaunchError(f"--workflow-store directory not found: {workflows}")
    _given_file(options, "cpp_log_config", draft.cwd)


def _check_snapshot(config: Config, draft: Draft) -> None:
    """Refuse a snapshot whose archives are gone, as TorchServe does: a server that comes up with
    half of its models would be taken for a sound one."""
    snapshot = config.model_snapshot
    if snapshot is None:
        return
    origin, listed = draft.settings["model_snapshot"].origin, draft.settings.get("load_models")
    # A snapshot goes on carrying the load_models of the run that began it all.
    if listed is not None and listed.raw and listed.origin.name != config.restored_from:
        draft.warnings.append(
            f"{listed.origin}: load_models={_shown(listed.raw)} is ignored: the models come from "
            f"model_snapshot ({origin})"
            f"{'; what failed of it in the last run is tried again' if snapshot.failed else ''}"
        )
    absent = [] if config.model_store is None else snapshot.absent(config.model_store, draft.cwd)
    if absent:
        named = ", ".join(f"{one.mar_name} of {one.model} {one.version}" for one in absent)
        aside = "start with --ncs" if config.restored_from else "take it out of model_snapshot"
        raise ConfigError(
            f"{origin}: model_snapshot: not in the model store {config.model_store}: {named}. "
            f"Put it there, or {aside}"
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
    line = " ".join(without_secrets(raw).split())
    return line if len(line) <= 80 else f"{line[:77]}..."


def _check_listeners(config: Config, draft: Draft) -> None:
    """Refuse listeners that could never come up."""
    listeners = {
        "inference_address": config.inference_address,
        "management_address": config.management_address,
        "metrics_address": config.metrics_address,
    }
    for name, address in listeners.items():
        if address.scheme == "https":
            _check_certificate(config, draft, f"{draft.settings[name].origin}: {name}={address}")
    shared = config.metrics_address in (config.inference_address, config.management_address)
    if config.enable_metrics_api and shared and _fixed(config.metrics_address):
        raise ConfigError(
            f"metrics_address={config.metrics_address} is the address of another listener; "
            "give it a port of its own or set enable_metrics_api=false"
        )


def _check_certificate(config: Config, draft: Draft, listener: str) -> None:
    """A keystore goes before PEM files; with neither, `http.tls` makes a certificate."""
    if config.keystore is not None:
        _check_keystore(config.keystore, config.keystore_type, draft.settings["keystore"])
    elif (config.certificate_file is None) != (config.private_key_file is None):
        raise ConfigError(
            f"{listener}: https needs both certificate_file and private_key_file, in PEM form, "
            "or a keystore; with none of them a certificate is made for tests"
        )


def _check_keystore(path: Path, kind: str, setting: Setting) -> None:
    where = f"{setting.origin}: keystore={setting.raw}"
    try:
        with path.open("rb") as file:
            magic = file.read(len(_JKS_MAGIC))
    except OSError as error:
        raise ConfigError(f"{where}: can't be read: {error.strerror}") from None
    # Java reads a JKS file even where keystore_type says PKCS12.
    if kind.strip().upper() == "JKS" or magic == _JKS_MAGIC:
        source, target = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(".p12")))
        raise ConfigError(
            f"{where}: JKS keystores are not read, convert it: keytool -importkeystore "
            f"-srckeystore {source} -destkeystore {target} -deststoretype PKCS12; "
            f"then set keystore={target} and keystore_type=PKCS12"
        )
    if kind.strip().upper() != "PKCS12":
        raise ConfigError(f"{where}: keystore_type={kind}: expected PKCS12")


def _report_idle_certificates(config: Config, draft: Draft) -> None:
    addresses = [config.inference_address, config.management_address]
    if config.enable_metrics_api:
        addresses.append(config.metrics_address)
    if any(address.scheme == "https" for address in addresses):
        return
    # gRPC takes PEM files only.
    pair = () if config.enable_grpc_ssl else ("certificate_file", "private_key_file")
    for name in ("keystore", *pair):
        setting = draft.settings.get(name)
        if setting is not None and getattr(config, name) is not None:
            draft.warnings.append(
                f"{setting.origin}: {name}: not used, no address is https: write https://... "
                "for inference_address, management_address or metrics_address"
            )


def _report_java_plugins(draft: Draft) -> None:
    setting = draft.settings.get("plugins_path")
    if setting is not None:
        from ts_frontend import java_plugins  # few have any

        said = java_plugins.findings(setting.raw, draft.cwd)
        draft.warnings += [f"{setting.origin}: plugins_path: {one}" for one in said]


def _check_files(config: Config, draft: Draft) -> None:
    for name in ("metrics_config", "certificate_file", "private_key_file", "keystore"):
        path = getattr(config, name)
        if path is not None and not path.is_file():
            setting = draft.settings[name]
            raise ConfigError(f"{setting.origin}: {name}={setting.raw}: file not found")


def _fixed(address: Address) -> bool:
    """Port 0 is a different free port for every listener."""
    return address.scheme == "unix" or address.port != 0
