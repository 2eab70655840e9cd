"""Which source wins for each value of a model, and what a model-config.yaml may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ts_frontend.config import Config
from ts_frontend.core.model_yaml import ModelYaml, read_model_yaml
from ts_frontend.core.settings import (
    NEVER,
    Registration,
    Settings,
    resolve,
    startup_workers,
    wanted_workers,
)
from ts_frontend.errors import InvalidModel


def settle(
    asked: dict[str, Any] | None = None,
    file: dict[str, Any] | None = None,
    table: dict[str, Any] | None = None,
    **config: Any,
) -> Settings:
    models = {"m": {"1.0": table}} if table else {}
    return resolve(
        Config(models=models, **config),
        "m",
        "1.0",
        Registration("m.mar", **(asked or {})),
        ModelYaml(**(file or {})),
    )


@pytest.mark.parametrize(
    ("name", "key", "built_in"),
    [("batch_size", "batchSize", 1), ("max_batch_delay", "maxBatchDelay", 100)],
)
def test_batching_call_yaml_table_server(name: str, key: str, built_in: int) -> None:
    def value(**sources: Any) -> int:
        return int(getattr(settle(**sources), name))

    everything: dict[str, Any] = {"asked": {name: 2}, "file": {name: 3}, "table": {key: 4}, name: 5}
    for expected, source in ((2, "asked"), (3, "file"), (4, "table"), (5, name)):
        assert value(**everything) == expected
        del everything[source]
    assert value(**everything) == built_in
    assert value(table={key: 0}) == built_in


@pytest.mark.parametrize(
    ("name", "key"),
    [("response_timeout", "responseTimeout"), ("startup_timeout", "startupTimeout")],
)
def test_timeouts_yaml_call_table_server_each_on_its_own(name: str, key: str) -> None:
    def value(**sources: Any) -> int:
        return int(getattr(settle(**sources), name))

    server = f"default_{name}"
    everything: dict[str, Any] = {
        "file": {name: 2},
        "asked": {name: 3},
        "table": {key: 4},
        server: 5,
    }
    for expected, source in ((2, "file"), (3, "asked"), (4, "table"), (5, server)):
        assert value(**everything) == expected
        del everything[source]
    assert value(**everything) == 120
    # TorchServe pinned these to 120 as soon as there was any yaml.
    assert value(file={"batch_size": 8}, asked={name: 7}) == 7


def test_the_latency_target_call_yaml_table_server_or_none() -> None:
    everything: dict[str, Any] = {
        "asked": {"max_latency": 20},
        "file": {"max_latency": 30},
        "table": {"maxLatencyMs": 40},
        "max_latency_ms": 50,
    }
    for expected, source in ((20, "asked"), (30, "file"), (40, "table"), (50, "max_latency_ms")):
        assert settle(**everything).max_latency == expected
        del everything[source]
    assert settle().max_latency == 0
    assert settle(file={"max_latency": 0}, max_latency_ms=50).max_latency == 0


def test_the_rest_and_their_defaults() -> None:
    assert settle() == Settings()
    given = settle(
        file={
            "max_retry_timeout": 0,
            "client_timeout": 50,
            "job_queue_size": 7,
            "batch_policy": "delay",
        },
        job_queue_size=200,
    )
    assert (given.max_retry_timeout, given.client_timeout) == (0, 50)
    assert (given.job_queue_size, given.batch_policy) == (7, "delay")
    assert settle(job_queue_size=200).job_queue_size == 200
    assert settle(batch_policy="delay").batch_policy == "delay"
    assert settle(table={"batchPolicy": "delay"}).batch_policy == "delay"
    assert settle(table={"batchPolicy": "delay"}, file={"batch_policy": "eager"}).batch_policy == (
        "eager"
    )


def test_in_debug_mode_one_worker_has_all_the_time_of_the_world() -> None:
    debug = Config(debug=True, default_workers_per_model=4)
    file = ModelYaml(min_workers=2, max_workers=3, response_timeout=5, startup_timeout=6)
    asked = Registration("m.mar", initial_workers=3, startup_timeout=7)
    settings = resolve(debug, "m", "1.0", asked, file)
    assert settings.response_timeout == settings.startup_timeout == NEVER
    assert startup_workers(debug, "m", "1.0", file, 8) == (1, 1)
    assert wanted_workers(debug, asked, file) == (1, 1)
    assert wanted_workers(debug, asked, ModelYaml()) == (1, 1)
    assert wanted_workers(debug, Registration("m.mar", initial_workers=0), ModelYaml()) == (0, 0)


def test_a_delay_of_zero_from_the_call_is_heeded() -> None:
    assert settle(asked={"max_batch_delay": 0}, file={"max_batch_delay": 50}).max_batch_delay == 0


@pytest.mark.parametrize(
    ("file", "initial", "default", "expected"),
    [
        ({"min_workers": 2, "max_workers": 4}, 9, 5, (2, 4)),
        ({"min_workers": 2}, 9, 5, (2, 2)),
        ({"min_workers": 3, "max_workers": 2}, 9, 5, (9, 9)),
        ({"max_workers": 2}, 9, 5, (9, 9)),
        ({}, 0, 5, (0, 0)),
        ({}, None, 5, (5, 5)),
        ({}, None, 0, (0, 0)),
        ({}, -3, 0, (0, 0)),
    ],
)
def test_workers_at_register(
    file: dict[str, Any], initial: int | None, default: int, expected: tuple[int, int]
) -> None:
    config = Config(default_workers_per_model=default)
    asked = Registration("m.mar", initial_workers=initial)
    assert wanted_workers(config, asked, ModelYaml(**file)) == expected


@pytest.mark.parametrize(
    ("file", "table", "default", "expected"),
    [
        ({}, {}, 0, (6, 6)),
        ({}, {}, 3, (3, 3)),
        ({}, {"minWorkers": 2, "maxWorkers": 5}, 3, (2, 5)),
        ({}, {"minWorkers": 7}, 3, (7, 7)),
        ({}, {"maxWorkers": 2}, 3, (2, 2)),
        ({"min_workers": 1}, {"minWorkers": 2, "maxWorkers": 5}, 3, (1, 1)),
    ],
)
def test_workers_at_startup(
    file: dict[str, Any], table: dict[str, int], default: int, expected: tuple[int, int]
) -> None:
    config = Config(models={"m": {"1.0": table}}, default_workers_per_model=default)
    assert startup_workers(config, "m", "1.0", ModelYaml(**file), 6) == expected


def read(tmp_path: Path, text: str) -> ModelYaml:
    path = tmp_path / "model-config.yaml"
    path.write_text(text)
    return read_model_yaml(path)


def test_every_key_of_the_yaml(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = """
minWorkers: 1
maxWorkers: 2
batchSize: 8
maxBatchDelay: 50
responseTimeout: 30
startupTimeout: 60
deviceType: GPU
deviceIds: [0, 2]
maxRetryTimeoutInSec: 10
clientTimeoutInMills: 500
jobQueueSize: 5
useVenv: true
pythonExecutable: ./bin/python
batchPolicy: delay
handler:
  profile: true
"""
    assert read(tmp_path, text) == ModelYaml(
        1, 2, 8, 50, 30, 60, "gpu", (0, 2), 10, 500, 5, True, "./bin/python", "delay"
    )
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("isolateErors", "isolateErrors"),
        ("minWorker", "minWorkers"),
        ("batchsize", "batchSize"),
        ("startupTimeOut", "startupTimeout"),
        ("prefetc", "prefetch"),
    ],
)
def test_a_key_that_is_nearly_one_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str, meant: str
) -> None:
    read(tmp_path, f"{key}: 1\n")
    assert f"model-config.yaml: the server has no key {key}, did you mean {meant}?" in caplog.text


def test_the_handlers_own_keys_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = ("handler", "pt2", "deepspeed", "pippy", "micro_batching", "batch", "workers", "timeout")
    read(tmp_path, "".join(f"{key}: 1\n" for key in (*own, "batch_size", "max_length", "1")))
    assert "did you mean" not in caplog.text


def test_an_empty_yaml_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing\n") == ModelYaml()


def test_values_are_clamped_as_in_torchserve(tmp_path: Path) -> None:
    got = read(tmp_path, "minWorkers: 0\nbatchSize: -4\nmaxRetryTimeoutInSec: -1\n")
    assert (got.min_workers, got.batch_size, got.max_retry_timeout) == (1, 1, 0)


@pytest.mark.parametrize(
    "line",
    [
        "maxWorkers: -1",
        "batchSize: many",
        "batchSize: true",
        "batchSize: 1.5",
        "maxBatchDelay: -1",
        "responseTimeout: 0",
        "responseTimeout: " + "9" * 400,
        "clientTimeoutInMills: 2147483648",
        "startupTimeout: -3",
        "deviceType: neuron",
        "deviceType: 3",
        "deviceIds: 0",
        "deviceIds: [0, one]",
        "deviceIds: []",
        "clientTimeoutInMills: -1",
        "jobQueueSize: -1",
        "useVenv: maybe",
        "batchPolicy: lazy",
        "maxLatencyMs: -1",
        "maxLatencyMs: 0.5",
    ],
)
def test_wrong_values_warn_and_fall_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    assert read(tmp_path, line) == ModelYaml()
    key = line.partition(":")[0]
    assert f"model-config.yaml: {key} must be " in caplog.text
    assert "the default is used" in caplog.text


@pytest.mark.parametrize("line", ["useJobTicket: true", "continuousBatching: true"])
def test_keys_that_are_not_supported_yet_warn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    assert read(tmp_path, line) == ModelYaml()
    key = line.partition(":")[0]
    assert f"model-config.yaml: {key} is accepted, but not supported yet" in caplog.text


@pytest.mark.parametrize("text", ["maxWorkers: 3", "minWorkers: 3\nmaxWorkers: 2"])
def test_a_pair_of_workers_that_is_none_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    assert read(tmp_path, text).workers is None
    assert "are ignored: minWorkers must be set" in caplog.text


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a: 1\nb: [2\nc: 3\n", "line 3, column 2: "),
        ("a: 1\n\tb: 2\n", "line 2, column 1: "),
        ("- a\n- b\n", "line 1: expected `key: value` lines, found a list."),
        ("just words\n", "line 1: expected `key: value` lines, found a str."),
        ("x: !!python/object:os.system {}\n", "line 1, column 4: could not determine"),
        ("\x00", "special characters are not allowed"),
        ("d: 2020-13-45\n", "month must be in 1..12"),
    ],
)
def test_a_bad_yaml_names_file_line_and_cause(tmp_path: Path, text: str, cause: str) -> None:
    with pytest.raises(InvalidModel) as caught:
        read(tmp_path, text)
    assert caught.value.message.startswith("Failed to parse model-config.yaml: ")
    assert cause in caught.value.message
    assert "\n" not in caught.value.message


def test_a_missing_or_binary_yaml_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"Failed to read none\.yaml: No such file"):
        read_model_yaml(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InvalidModel, match=r"Failed to parse x\.yaml: "):
        read_model_yaml(tmp_path / "x.yaml")
