"""Which file is read, which source wins, what a start refuses and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from ts_frontend.config import ConfigError, LaunchError, load_config


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    for name in ("store", "other"):
        (tmp_path / name).mkdir()
    return tmp_path


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["model_store=store", *lines]), "utf-8")
    return path


def test_file_from_variable_then_flag_then_folder(cwd: Path) -> None:
    write(cwd / "env.cfg", "job_queue_size=1")
    write(cwd / "flag.cfg", "job_queue_size=2")
    write(cwd / "config.properties", "job_queue_size=3")
    flag = {"ts_config": "flag.cfg"}

    both = load_config(flag, {"TS_CONFIG_FILE": "env.cfg"}, cwd)
    assert (both.job_queue_size, both.source) == (1, cwd / "env.cfg")
    assert load_config(flag, {}, cwd).job_queue_size == 2
    assert load_config({}, {"TS_CONFIG_FILE": ""}, cwd).job_queue_size == 3


def test_without_any_file(cwd: Path) -> None:
    config = load_config({"model_store": "store"}, {}, cwd)

    assert config.source is None
    assert config.model_store == cwd / "store"
    assert config.warnings == ()


def test_environment_over_command_line_over_file(cwd: Path) -> None:
    write(cwd / "config.properties", "load_models=file.mar", "enable_envvars_config=true")
    options = {"models": ("a.mar", "b.mar")}

    assert load_config({}, {}, cwd).load_models == "file.mar"
    assert load_config(options, {}, cwd).load_models == "a.mar,b.mar"
    assert load_config(options, {"TS_LOAD_MODELS": "env.mar"}, cwd).load_models == "env.mar"


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("disable_token_auth", "disable_token_authorization"),
        ("enable_model_api", "enable_model_api"),
    ],
)
def test_switches_only_switch_on(option: str, key: str, cwd: Path) -> None:
    write(cwd / "config.properties", f"{key}=true")
    assert getattr(load_config({option: False}, {}, cwd), key) is True

    write(cwd / "config.properties", f"{key}=false")
    assert getattr(load_config({option: True}, {}, cwd), key) is True
    env = {f"TS_{key.upper()}": "false"}
    assert getattr(load_config({option: True}, env, cwd), key) is False


@pytest.mark.parametrize(("value", "on"), [("oip", True), ("OIP", False), ("true", False)])
def test_the_open_inference_variable_knows_one_word(value: str, on: bool, cwd: Path) -> None:
    write(cwd / "config.properties", f"ts_open_inference_protocol={str(not on).lower()}")
    env = {"TS_OPEN_INFERENCE_PROTOCOL": value}

    assert load_config({}, env, cwd).ts_open_inference_protocol is on


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        ((), False),
        (("enable_envvars_config=true",), False),
        (("use_env_allowed_urls=true",), False),
        (("enable_envvars_config=true", "use_env_allowed_urls=true"), True),
    ],
)
def test_urls_from_the_environment_need_two_permits(
    lines: tuple[str, ...], allowed: bool, cwd: Path
) -> None:
    write(cwd / "config.properties", *lines)

    config = load_config({}, {"TS_ALLOWED_URLS": "https://a/.*"}, cwd)

    assert (config.allowed_urls == ("https://a/.*",)) is allowed
    assert len(config.warnings) == (not allowed)


def test_a_bad_variable_is_named(cwd: Path) -> None:
    write(cwd / "config.properties", "enable_envvars_config=true")

    with pytest.raises(
        ConfigError, match="environment variable TS_JOB_QUEUE_SIZE: job_queue_size=x"
    ):
        load_config({}, {"TS_JOB_QUEUE_SIZE": "x"}, cwd)


def test_placeholders_come_from_the_environment(cwd: Path) -> None:
    write(cwd / "config.properties", "inference_address=http://$$HOST$$:$$PORT$$")

    config = load_config({}, {"HOST": "example", "PORT": "9000"}, cwd)
    assert str(config.inference_address) == "http://example:9000"
    with pytest.raises(ConfigError, match=r"line 2: .*Invalid Environment Variable PORT"):
        load_config({}, {"HOST": "example"}, cwd)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("job_queue_sise", ", did you mean job_queue_size?"),
        ("Inference_Address", ", did you mean inference_address?"),
        ("use_env_allowed", ", did you mean use_env_allowed_urls?"),
        ("xyz", ""),
    ],
)
def test_an_unknown_key_gets_a_hint(key: str, hint: str, cwd: Path) -> None:
    source = write(cwd / "config.properties", f"{key}=1")

    warnings = load_config({}, {}, cwd).warnings

    assert warnings == (f"{source}, line 2: unknown key {key} is ignored{hint}",)


def test_a_repeated_key_takes_the_last_value_and_warns(cwd: Path) -> None:
    write(cwd / "config.properties", "job_queue_size=1", "job_queue_size=2")

    config = load_config({}, {}, cwd)

    assert config.job_queue_size == 2
    assert ["line 3: job_queue_size: overrides" in w for w in config.warnings] == [True]


def test_flags_without_effect_warn_once(cwd: Path) -> None:
    (cwd / "cpp.xml").touch()
    options = {
        "model_store": "store",
        "workflow_store": "other",
        "plugins_path": "p",
        "cpp_log_config": "cpp.xml",
    }

    warnings = load_config(options, {}, cwd).warnings

    idle = [warning for warning in warnings if "accepted, no effect" in warning]
    assert sorted(warning.split(":")[0] for warning in idle) == [
        "--cpp-log-config",
        "--plugins-path",
        "--workflow-store",
    ]


def test_secrets_stay_out_of_messages(cwd: Path) -> None:
    (cwd / "k.jks").touch()
    lines = ("inference_address=https://a:1", "keystore=k.jks", "keystore_type=JKS")
    write(cwd / "config.properties", "keystore_pass=hunter1", "keystore_pass=hunter2", *lines)

    with pytest.raises(ConfigError) as caught:
        load_config({}, {}, cwd)
    assert "hunter" not in str(caught.value)

    write(cwd / "config.properties", "keystore_pass=hunter1", "keystore_pass=hunter2")
    warnings = load_config({}, {}, cwd).warnings
    assert len(warnings) == 1
    assert "hunter" not in warnings[0]


def test_log_folders_and_temp(cwd: Path) -> None:
    write(cwd / "config.properties")
    env = {"LOG_LOCATION": "l", "METRICS_LOCATION": "/m", "TEMP": "other"}

    config = load_config({}, env, cwd)

    assert (config.log_location, config.metrics_location) == (cwd / "l", Path("/m"))
    assert config.temp_dir == cwd / "other"
    assert load_config({}, {}, cwd).log_location == cwd / "logs"


@pytest.mark.parametrize(
    ("options", "env", "message"),
    [
        ({"log_config": "no.yaml"}, {}, "--log-config file not found: {cwd}/no.yaml"),
        (
            {},
            {"TEMP": "no"},
            "Invalid temp directory: no, please check TEMP environment variable.",
        ),
        ({"ts_config": "no.cfg"}, {}, "--ts-config file not found: no.cfg"),
        (
            {"ts_config": "config.properties"},
            {"TS_CONFIG_FILE": "no"},
            "--ts-config file not found: no",
        ),
        ({"model_store": "no"}, {}, "--model-store directory not found: no"),
        ({"workflow_store": "no"}, {}, "--workflow-store directory not found: no"),
        ({"cpp_log_config": "no.xml"}, {}, "--cpp-log-config file not found: {cwd}/no.xml"),
    ],
)
def test_the_launchers_words(
    options: dict[str, object], env: dict[str, str], message: str, cwd: Path
) -> None:
    write(cwd / "config.properties")

    with pytest.raises(LaunchError) as caught:
        load_config(options, env, cwd)

    assert str(caught.value) == message.format(cwd=cwd)


def test_a_model_store_is_mandatory(cwd: Path) -> None:
    (cwd / "config.properties").write_text("model_store=\n")

    for options in ({}, {"model_store": None}):
        with pytest.raises(LaunchError, match=r"^Missing mandatory parameter --model-store$"):
            load_config(options, {}, cwd)


def test_a_missing_store_of_the_file_is_named_there(cwd: Path) -> None:
    (cwd / "config.properties").write_text("model_store=absent")

    with pytest.raises(ConfigError, match="line 1: model_store=absent: directory not found"):
        load_config({}, {}, cwd)


@pytest.mark.parametrize("name", ["certificate_file", "private_key_file"])
def test_https_needs_both_files_of_a_pair(name: str, cwd: Path) -> None:
    (cwd / "x.pem").touch()
    write(cwd / "config.properties", "inference_address=https://a:1", f"{name}=x.pem")

    with pytest.raises(ConfigError, match=r"line 2: .*certificate_file and private_key_file"):
        load_config({}, {}, cwd)


def test_https_needs_no_certificate_but_says_when_a_keystore_is_missing(cwd: Path) -> None:
    write(cwd / "config.properties", "inference_address=https://a:1")
    assert load_config({}, {}, cwd).warnings == ()

    write(cwd / "config.properties", "inference_address=https://a:1", "keystore=k.p12")
    with pytest.raises(ConfigError, match=r"line 3: keystore=k.p12: file not found"):
        load_config({}, {}, cwd)


@pytest.mark.parametrize(("kind", "data"), [("jks", b""), ("PKCS12", b"\xfe\xed\xfe\xed\0")])
def test_a_jks_keystore_is_refused_with_what_converts_it(kind: str, data: bytes, cwd: Path) -> None:
    """By its type, or by its content: Java reads one under the default type, too."""
    (cwd / "my key.jks").write_bytes(data)
    lines = ("keystore=my key.jks", f"keystore_type={kind}")
    write(cwd / "config.properties", "inference_address=https://a:1", *lines)

    with pytest.raises(ConfigError) as caught:
        load_config({}, {}, cwd)

    command = (
        f"keytool -importkeystore -srckeystore '{cwd}/my key.jks' "
        f"-destkeystore '{cwd}/my key.p12' -deststoretype PKCS12"
    )
    assert str(caught.value).startswith(f"{cwd}/config.properties, line 3: keystore=my key.jks: ")
    assert command in str(caught.value)


def test_another_keystore_type_is_refused_where_it_is_used(cwd: Path) -> None:
    (cwd / "k").touch()
    lines = ("keystore=k", "keystore_type=BKS")
    write(cwd / "config.properties", *lines)
    (warning,) = load_config({}, {}, cwd).warnings
    assert "line 2: keystore: not used" in warning

    write(cwd / "config.properties", "metrics_address=https://a:1", *lines)
    with pytest.raises(ConfigError, match="keystore=k: keystore_type=BKS: expected PKCS12"):
        load_config({}, {}, cwd)


@pytest.mark.parametrize(
    ("lines", "idle"),
    [
        ((), {"keystore", "certificate_file", "private_key_file"}),
        (("inference_address=https://a:1",), set()),
        (("management_address=https://a:1",), set()),
        (("metrics_address=https://a:1",), set()),
        (
            ("metrics_address=https://a:1", "enable_metrics_api=false"),
            {"keystore", "certificate_file", "private_key_file"},
        ),
        (("enable_grpc_ssl=true",), {"keystore"}),
    ],
)
def test_a_certificate_that_nobody_shows_is_told(
    lines: tuple[str, ...], idle: set[str], cwd: Path
) -> None:
    names = ("keystore", "certificate_file", "private_key_file")
    (cwd / "x").touch()
    write(cwd / "config.properties", *(f"{name}=x" for name in names), *lines)

    warnings = load_config({}, {}, cwd).warnings

    told = [warning for warning in warnings if "not used, no address is https" in warning]
    assert {warning.split(": ")[1] for warning in told} == idle
    assert len(told) == len(idle)


def test_metrics_need_an_address_of_their_own(cwd: Path) -> None:
    same = "metrics_address=http://127.0.0.1:8080"
    write(cwd / "config.properties", same)
    with pytest.raises(ConfigError, match="address of another listener"):
        load_config({}, {}, cwd)

    write(cwd / "config.properties", same, "enable_metrics_api=false")
    assert load_config({}, {}, cwd).metrics_address.port == 8080


def test_inference_and_management_may_share_and_any_port_is_free(cwd: Path) -> None:
    shared = ("inference_address=http://h:8085", "management_address=http://h:8085")
    write(cwd / "config.properties", *shared)
    config = load_config({}, {}, cwd)
    assert config.inference_address == config.management_address

    names = ("inference_address", "management_address", "metrics_address")
    write(cwd / "config.properties", *(f"{name}=http://h:0" for name in names))
    assert load_config({}, {}, cwd).metrics_address.port == 0


def test_a_malformed_file_names_its_line(cwd: Path) -> None:
    write(cwd / "config.properties", "vmargs=C\\users")

    with pytest.raises(ConfigError, match=r"config\.properties, line 2: \\users is not"):
        load_config({}, {}, cwd)


def test_long_values_are_cut_in_messages(cwd: Path) -> None:
    write(cwd / "config.properties", "models={" + "x" * 500)

    with pytest.raises(ConfigError) as caught:
        load_config({}, {}, cwd)

    assert "x..." in str(caught.value)
    assert len(str(caught.value)) < 400
