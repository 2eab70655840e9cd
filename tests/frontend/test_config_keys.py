"""The key table: every key can be set in the file and by its variable, and says what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.config_samples import SAMPLES
from ts_frontend.config import Address, Config, ConfigError, load_config
from ts_frontend.keys import INTERNAL, key_table

Load = Callable[..., Config]

TABLE = key_table()
INTEGERS = [name for name, key in TABLE.items() if "whole" in key.read.__qualname__]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write lines into ./config.properties and load it; a model store is always given."""
    (tmp_path / "store").mkdir()
    for name in ("m.yaml", "c.pem", "k.pem", "k.p12"):
        (tmp_path / name).touch()

    def run(*lines: str, env: dict[str, str] | None = None, **options: Any) -> Config:
        (tmp_path / "config.properties").write_text("\n".join(lines), "utf-8")
        return load_config({"model_store": "store", **options}, env or {}, tmp_path)

    return run


def expected(value: object, cwd: Path) -> object:
    return cwd / value if isinstance(value, Path) else value


def default_text(default: object) -> str:
    """A default as a user would write it down."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple) and not isinstance(default, Address):
        return ",".join(default)
    return "" if default is None or default == {} else str(default)


def test_every_key_has_a_sample() -> None:
    assert set(SAMPLES) == set(TABLE)


# Its sample is not there, or not used: no address is https.
REMARKED = ("plugins_path", "keystore", "certificate_file", "private_key_file")


@pytest.mark.parametrize("name", SAMPLES)
def test_set_in_the_file(name: str, load: Load, tmp_path: Path) -> None:
    raw, value = SAMPLES[name]
    options = {"model_store": None} if name == "model_store" else {}

    config = load(f"{name}={raw}", **options)

    assert getattr(config, name) == expected(value, tmp_path)
    about = [warning for warning in config.warnings if f": {name}: " in warning]
    assert config.warnings == tuple(about)
    idle = [warning for warning in about if "accepted, no effect" in warning]
    assert len(idle) == bool(TABLE[name].no_effect)
    assert len(about) - len(idle) == (name in REMARKED)
    assert all("line 1" in warning for warning in about)


@pytest.mark.parametrize("name", [name for name, key in TABLE.items() if key.env])
def test_set_by_its_variable(name: str, load: Load, tmp_path: Path) -> None:
    raw, value = SAMPLES[name]
    raw = "oip" if name == "ts_open_inference_protocol" else raw
    env = {str(TABLE[name].env): raw}

    config = load("enable_envvars_config=true", "use_env_allowed_urls=true", env=env)

    assert getattr(config, name) == expected(value, tmp_path)


@pytest.mark.parametrize("name", [name for name, key in TABLE.items() if key.env])
def test_its_variable_alone(name: str, load: Load, tmp_path: Path) -> None:
    key = TABLE[name]
    raw = "oip" if name == "ts_open_inference_protocol" else SAMPLES[name][0]

    config = load(env={str(key.env): raw})

    if key.env_always:
        assert getattr(config, name) == expected(SAMPLES[name][1], tmp_path)
    else:
        assert getattr(config, name) == (
            tmp_path / "store" if name == "model_store" else key.default
        )
        assert [f"{key.env} ignored" in warning for warning in config.warnings] == [True]


# An empty number aborts, as in TorchServe; an empty model store is none.
WRITABLE = [
    name for name, key in TABLE.items() if name not in INTEGERS or default_text(key.default)
]


@pytest.mark.parametrize("name", [name for name in WRITABLE if name != "model_store"])
def test_its_default_written_down_changes_nothing(name: str, load: Load) -> None:
    config = load(f"{name}={default_text(TABLE[name].default)}")

    assert getattr(config, name) == TABLE[name].default
    assert config.warnings == ()


def test_variables_that_are_not_the_key_in_capitals() -> None:
    odd = {key.name: key.env for key in TABLE.values() if key.env != f"TS_{key.name.upper()}"}

    assert odd == {
        "token_expiration_min": "TS_TOKEN_EXPIRATION_TIME_MIN",
        "ts_open_inference_protocol": "TS_OPEN_INFERENCE_PROTOCOL",
        "ts_header_key_sequence_id": "TS_HEADER_KEY_SEQUENCE_ID",
        "ts_header_key_sequence_start": "TS_HEADER_KEY_SEQUENCE_START",
        "ts_header_key_sequence_end": "TS_HEADER_KEY_SEQUENCE_END",
        **dict.fromkeys(
            (
                "models",
                "use_env_allowed_urls",
                "metric_time_interval",
                "enable_envvars_config",
                "model_snapshot",
                "plugins_path",
                "system_metrics_cmd",
                "use_native_io",
                "io_ratio",
                "vmargs",
            )
        ),
    }


def test_defaults_need_no_file() -> None:
    config = Config()

    assert config.inference_address == Address("http", "127.0.0.1", 8080)
    assert config.log_location == Path("logs")
    assert config.temp_dir.is_dir()
    assert dataclasses.replace(config, batch_size=4).batch_size == 4


@pytest.mark.parametrize("bad", ["lots", "1.5", "-1", "1_000", "0x10", ""])
@pytest.mark.parametrize("name", INTEGERS)
def test_an_unusable_number_names_file_line_key_and_expectation(
    name: str, bad: str, load: Load, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load("# comment", f"{name}={bad}")

    where = f"{tmp_path / 'config.properties'}, line 2: {name}={bad}: "
    assert str(caught.value).startswith(f"{where}expected a whole number, ")


@pytest.mark.parametrize(
    ("name", "bad", "expectation"),
    [
        ("inference_address", "127.0.0.1:8080", "expected http://host:port"),
        ("inference_address", "http://host:8080/", "expected http://host:port"),
        ("inference_address", "http://::1:8080", "expected http://host:port"),
        ("inference_address", "ftp://host:8080", "expected http://host:port"),
        ("management_address", "http://host:65536", "port from 0 to 65535"),
        ("metrics_address", "unix:relative", "expected http://host:port"),
        ("job_queue_size", "0", "at least 1"),
        ("initial_worker_port", "70000", "0 to 65535"),
        ("io_ratio", "101", "1 to 100"),
        ("blacklist_env_vars", "(", "regular expression"),
        ("allowed_urls", "https://.*,*", "regular expression"),
        ("batch_policy", "lazy", "eager or delay"),
        ("archive_max_ratio", "0.5", "at least 1"),
        ("archive_max_ratio", "nan", "at least 1"),
        ("grpc_inference_address", "http://a", "host name"),
        ("models", "{", "expected JSON"),
        ("models", "[]", "JSON object for the models"),
        ("models", "{a: {1.0: {}},}", "expected a name at line 1, column 15"),
        ("job_queue_size", "2147483648", "1 to 2147483647"),
        ("models", '{"a": 1}', "versions of a"),
        ("models", '{"a": {"1.0": 2}}', "settings of a 1.0"),
        ("metrics_config", "absent.yaml", "file not found"),
    ],
)
def test_values_that_abort(name: str, bad: str, expectation: str, load: Load) -> None:
    with pytest.raises(ConfigError, match=f"line 1: {name}=.*{expectation}"):
        load(f"{name}={bad}")


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("enable_metrics_api", "yes", False),
        ("enable_metrics_api", "1", False),
        ("disable_token_authorization", "true ", False),
        ("debug", "", False),
        ("metrics_mode", "statsd", "log"),
        ("token_expiration_min", "soon", 60.0),
        ("token_expiration_min", "nan", 60.0),
        ("token_expiration_min", "-5", 60.0),
        ("models", '{"a": {"1.0": {"batchSize": 0}}}', {"a": {"1.0": {}}}),
        ("models", '{"a": {"1.0": {"batchSize": true}}}', {"a": {"1.0": {}}}),
        ("models", '{"a": {"1.0": {"responseTimeout": 2147483648}}}', {"a": {"1.0": {}}}),
        ("token_expiration_min", "1e300", 60.0),
        ("models", '{"a": {"1.0": {"batchsize": 3}}}', {"a": {"1.0": {}}}),
        ("models", '{"a": {"1.0": {"batchPolicy": "lazy"}}}', {"a": {"1.0": {}}}),
    ],
)
def test_values_that_fall_back_with_one_warning(
    name: str, raw: str, value: object, load: Load
) -> None:
    config = load(f"{name}={raw}")

    assert getattr(config, name) == value
    assert len(config.warnings) == 1
    assert f"line 1: {name}=" in config.warnings[0]


@pytest.mark.parametrize(
    ("name", "raw", "address"),
    [
        ("inference_address", "http://host", Address("http", "host", 80)),
        ("inference_address", "HTTPS://host", Address("https", "host", 443)),
        ("management_address", "http://host", Address("http", "host", 8081)),
        ("management_address", "https://host", Address("https", "host", 8444)),
        ("metrics_address", "http://host", Address("http", "host", 8082)),
        ("metrics_address", "https://host", Address("https", "host", 8445)),
        ("metrics_address", "https://[fe80::1]:1", Address("https", "fe80::1", 1)),
        ("metrics_address", "http://h:0", Address("http", "h", 0)),
        ("metrics_address", "unix:///tmp/x", Address("unix", "", 0, "/tmp/x")),
    ],
)
def test_addresses(name: str, raw: str, address: Address, load: Load) -> None:
    pem = ("certificate_file=c.pem", "private_key_file=k.pem")

    assert getattr(load(f"{name}={raw}", *pem), name) == address


@pytest.mark.parametrize("text", ["http://[::1]:8080", "https://h:1", "unix:/tmp/x"])
def test_an_address_prints_as_it_is_written(text: str, load: Load) -> None:
    config = load(f"inference_address={text}", "certificate_file=c.pem", "private_key_file=k.pem")

    assert str(config.inference_address) == text


def test_a_version_of_models_is_the_text_that_stands_there(load: Load) -> None:
    assert load("models={a: {1.10: {batchSize: 4}}}").models == {"a": {"1.10": {"batchSize": 4}}}


def test_lenient_json_of_models(load: Load) -> None:
    line = "models={'a': {1.0: {batchSize: 4.0, runtimeType: python, defaultVersion: true}}}"

    settings = {"batchSize": 4, "runtimeType": "python", "defaultVersion": True}
    assert load(line).models == {"a": {"1.0": settings}}


def test_keys_of_a_torchserve_snapshot_are_known(load: Load) -> None:
    config = load(*(f"{name}=x" for name in INTERNAL))

    assert config.warnings == ()
