"""The modules that run the installed commands: argument parsers, launchers."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import yaml

from tests.e2e.conftest import Server, archive
from tests.handlers.optional_packages import pretend
from ts import commands, launcher, llm_launcher, model_server
from ts.arg_parser import ArgParser

LINES = """\
import sys
print("starting", *sys.argv[1:], flush=True)
if "--stop" in sys.argv:
    sys.exit(0)
if "bad" in sys.argv:
    print("no such model")
    sys.exit(3)
print("Model server started.", flush=True)
for number in range(3):
    print("line", number, flush=True)
"""


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Stand-ins for the installed commands, which print what they were asked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("torchserve", "torch-model-archiver"):
        script = folder / name
        script.write_text(f"#!{sys.executable}\n{LINES}")
        script.chmod(0o755)
    monkeypatch.setattr(commands.sysconfig, "get_path", lambda name: str(folder))
    return folder


def test_the_launchers_options_are_parsed():
    args = ArgParser.extract_args(
        ["--start", "--ncs", "--model-store", "store", "--models", "a.mar", "b=b.mar", "--dt"]
    )
    assert args.start
    assert args.no_config_snapshots
    assert args.disable_token_auth
    assert args.models == ["a.mar", "b=b.mar"]
    assert (args.model_store, args.ts_config, args.foreground) == ("store", None, False)
    assert ArgParser.ts_parser().parse_args(["--ppath", "p"]).plugins_path == "p"
    with pytest.raises(SystemExit):
        ArgParser.extract_args(["--start", "--stop"])


def test_the_launchers_options_are_the_commands():
    from ts_frontend.cli import command

    known = {name for parameter in command.params for name in parameter.opts}
    options = {name for action in ArgParser.ts_parser()._actions for name in action.option_strings}
    assert options - {"-h", "--help"} == known


def test_the_workers_options_are_parsed():
    parse = ArgParser.model_service_worker_args().parse_args
    args = parse(["--sock-type", "tcp", "--port", "9000", "--metrics-config", "m", "--async"])
    assert (args.sock_type, args.port, args.metrics_config) == ("tcp", 9000, "m")
    assert (args.sock_name, args.host, args.async_comm) == (None, None, True)
    with pytest.raises(SystemExit):
        parse(["--sock-type", "pipe"])


def test_start_runs_the_command_with_the_processs_arguments(scripts, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["python", "--start", "--models", "good"])
    model_server.start()
    assert capfd.readouterr().out.startswith("starting --start --models good\n")
    monkeypatch.setattr(sys, "argv", ["python", "bad"])
    with pytest.raises(SystemExit) as caught:
        model_server.start()
    assert caught.value.code == 3


def test_a_ctrl_c_is_the_servers_to_obey(monkeypatch, scripts):
    wait = Mock(side_effect=[KeyboardInterrupt, 0])
    monkeypatch.setattr(model_server.subprocess, "Popen", lambda words: SimpleNamespace(wait=wait))
    model_server.run(["--foreground"])
    assert wait.call_count == 2


def test_a_missing_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(commands.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="pip install torchserve-py"):
        launcher.stop()


def test_properties_are_read_as_the_launcher_reads_them(tmp_path):
    file = tmp_path / "config.properties"
    file.write_text("# a=b\n model_store = store\nnothing\n\nvmargs=-Da=b\nlast=\n")
    expected = {"model_store": "store", "vmargs": "-Da=b", "last": ""}
    assert model_server.load_properties(str(file)) == expected


def test_the_launcher_waits_and_hands_out_the_lines(scripts, capfd):
    lines = launcher.start("store", "my.properties", True, "plugins", True, ["a", "b"], True)
    words = "--start --foreground --model-store store --ts-config my.properties --plugins-path "
    words += "plugins --no-config-snapshots --disable-token-auth --enable-model-api --models a b"
    assert capfd.readouterr().out == f"starting {words}\nModel server started.\n"
    assert [lines.get(timeout=20) for _ in range(3)] == ["line 0\n", "line 1\n", "line 2\n"]
    launcher.stop()
    launcher.stop(wait=False)
    assert capfd.readouterr().out == "starting --stop --foreground\nstarting --stop\n"


def test_the_launcher_tells_why_the_server_did_not_start(scripts):
    with pytest.raises(RuntimeError, match=r"exit code 3:\n.*\nno such model"):
        launcher.start(models="bad")


def test_models_are_registered_by_requests(monkeypatch):
    posted = []
    pretend(monkeypatch, "requests", post=lambda url, params: posted.append((url, params)) or "ok")
    assert launcher.register_model("m", "m.mar") == "ok"
    assert launcher.register_model_with_params({"url": "n.mar"}) == "ok"
    assert posted == [
        (
            "http://localhost:8081/models",
            {"model_name": "m", "url": "m.mar", "initial_workers": "1", "synchronous": "true"},
        ),
        ("http://localhost:8081/models", {"url": "n.mar"}),
    ]


def test_without_requests_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(ImportError, match="pip install requests"):
        launcher.register_model("m", "m.mar")


@pytest.mark.e2e
def test_the_launcher_starts_and_stops_a_real_server(tmp_path, monkeypatch):
    server = Server(tmp_path)
    server.prepare()
    (tmp_path / "handler.py").write_text("def handle(data, context):\n    return ['hi']\n")
    archive(server.store, "hi", tmp_path / "handler.py")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    lines = launcher.start(
        str(server.store), "config.properties", True, disable_token=True, models="hi.mar"
    )
    launcher.stop()
    seen = []
    while not lines.empty():
        seen.append(lines.get_nowait())
    assert not any("already running" in line for line in seen)


def llm(*words: str, store: object = "store"):
    return llm_launcher.arguments([*words, "--model_store", str(store)])


def test_the_language_models_yaml_follows_the_options(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    config = llm_launcher.get_model_config(
        llm("--model_id", "org/m", "--vllm_engine.max_num_seqs", "8", "--startup_timeout", "60")
    )
    assert config == {
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 1,
        "maxBatchDelay": 100,
        "responseTimeout": 1200,
        "startupTimeout": 60,
        "deviceType": "gpu",
        "asyncCommunication": True,
        "parallelType": "custom",
        "parallelLevel": 4,
        "handler": {
            "model_path": "org/m",
            "vllm_engine_config": {
                "max_num_seqs": 8,
                "dtype": "bfloat16",
                "tensor_parallel_size": 4,
            },
        },
    }


def test_the_language_model_is_packed_and_served(tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr(llm_launcher, "run", served.append)
    llm_launcher.main(llm("--model_name", "llama", "--disable_token_auth", store=tmp_path))
    packed = yaml.safe_load((tmp_path / "llama" / "model-config.yaml").read_text())
    assert packed["handler"]["model_path"] == "meta-llama/Meta-Llama-3.1-8B-Instruct"
    assert '"handler": "vllm_handler"' in (tmp_path / "llama/MAR-INF/MANIFEST.json").read_text()
    words = ["--start", "--foreground", "--no-config-snapshots", "--model-store", str(tmp_path)]
    assert served == [[*words, "--models", "llama", "--disable-token-auth"]]


def test_tensorrt_builds_its_engine_once(tmp_path, monkeypatch, capsys):
    built = []

    class LLM:
        def __init__(self, **options):
            built.append(options)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def save(self, folder):
            os.mkdir(folder)

    pretend(monkeypatch, "tensorrt_llm", LLM=LLM, BuildConfig=lambda **fields: fields)
    pretend(monkeypatch, "huggingface_hub", snapshot_download=lambda **asked: "snapshot")
    monkeypatch.setattr(llm_launcher, "run", lambda words: None)
    args = llm("--engine", "trt_llm", "--dtype", "float16", store=tmp_path)
    llm_launcher.main(args)
    llm_launcher.main(args)
    batch = {"max_batch_size": 4}
    assert built == [{"model": "snapshot", "dtype": "float16", "build_config": batch}]
    assert "remove the folder" in capsys.readouterr().out
    packed = yaml.safe_load((tmp_path / "model" / "model-config.yaml").read_text())
    assert packed["handler"] == {
        "tokenizer_dir": "snapshot",
        "engine_dir": str(tmp_path / "model-engine"),
        "kv_cache_config": {"free_gpu_memory_fraction": 0.1},
    }


def test_the_language_launcher_is_a_command():
    words = [sys.executable, "-m", "ts.llm_launcher", "--help"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    for option in ("--model_id", "--vllm_engine.max_model_len", "--trt_llm_engine.max_batch_size"):
        assert option in text
