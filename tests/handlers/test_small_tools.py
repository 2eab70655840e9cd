"""What handlers and their tests import beside the handlers: old bases, downloads, scripts, data."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import ts
from tests.compat.reference.web import web_server
from tests.handlers.optional_packages import pretend
from ts.model_service.model_service import ModelService, SingleNodeService
from ts.torch_handler.unit_tests.test_utils.model_dir import copy_files, download_model
from ts.utils import hf_utils, setup_model_venv
from ts.utils.timeit_decorator import timeit
from ts_frontend import version
from ts_frontend.config import load_config

MANIFEST = {"Model": {"Signature": "signature.json"}}


class Old(SingleNodeService):
    def _preprocess(self, data):
        return [*data, "pre"]

    def _inference(self, data):
        return [*data, "infer"]


def test_an_old_service_runs_its_steps_and_records_them(tmp_path, metrics, caplog):
    caplog.set_level("INFO")
    (tmp_path / "signature.json").write_text('{"input_type": "image/jpeg"}')
    service = Old("old", str(tmp_path), MANIFEST, 0)
    assert service.inference(["data"]) == ["data", "pre", "infer"]
    service.initialize(type("Context", (), {"metrics": metrics}))
    service.inference([])
    assert [f"{step}Time.Milliseconds" in caplog.text for step in ("Preprocess", "Inference")]
    assert service.signature == {"input_type": "image/jpeg"}
    assert (service.model_name, service.gpu, service.ping()) == ("old", 0, None)
    assert Old("old", str(tmp_path), {}).signature is None
    with pytest.raises(RuntimeError, match="Signature file is not found"):
        Old("old", "/nowhere", MANIFEST)
    with pytest.raises(TypeError, match="abstract"):
        ModelService("old", str(tmp_path), {})


def test_models_of_the_hub_are_downloaded(monkeypatch):
    asked = []

    def snapshot_download(**options):
        asked.append(options)
        return "folder"

    pretend(monkeypatch, "huggingface_hub", snapshot_download=snapshot_download)
    assert hf_utils.download_model("org/m") == "folder"
    hf_utils.download_model("org/m", "v2", "cache", use_auth_token=False)
    common = {"repo_id": "org/m"}
    assert asked == [
        {**common, "revision": "main", "cache_dir": ".cache", "token": None},
        {**common, "revision": "v2", "cache_dir": "cache", "token": False},
    ]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        hf_utils.download_model("org/m")


def test_timeit_prints_each_calls_time(capsys):
    @timeit
    def double(value, *, by=2):
        return value * by

    assert double(3, by=3) == 9
    assert double.__name__ == "double"
    name, _, time = capsys.readouterr().out.partition(": ")
    assert name == "double"
    assert time.endswith(" ms\n")


def test_a_models_environment_sees_this_ones_packages(tmp_path):
    folder = tmp_path / "venv"
    script = Path(setup_model_venv.__file__)
    subprocess.run([sys.executable, str(script), str(folder)], check=True)
    python = folder / "bin" / "python"
    words = [str(python), "-c", "import sys, yaml, ts, pip; print(sys.prefix, pip.__file__)"]
    prefix, pip = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert prefix == str(folder)
    assert pip.startswith(str(folder))


def test_a_test_gets_its_model_and_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with web_server() as web:
        web.files = {"/w/weights.pth": b"weights"}
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            download_model(web.url("/w/weights.pth"), tmp_path / name)
            web.files = {}  # the second comes from the cache
    assert [(tmp_path / name / "model.pt").read_bytes() for name in ("one", "two")] == [
        b"weights",
        b"weights",
    ]
    assert os.listdir(tmp_path / "cache" / "torchserve-py") == ["weights.pth"]
    copy_files(tmp_path / "one", tmp_path, {"model.pt": "copy.pt"})
    assert (tmp_path / "copy.pt").read_bytes() == b"weights"


def test_the_packages_data_is_there():
    data = resources.files(ts)
    assert data.joinpath("version.txt").read_text().strip() == version.__version__
    assert ts.__version__ == version.__version__
    assert "model_metrics" in data.joinpath("configs/metrics.yaml").read_text()


def test_a_models_own_interpreter_knows_the_version_without_metadata(tmp_path):
    code = "import importlib.metadata as m\ndef version(name): raise m.PackageNotFoundError\n"
    code += "m.version = version\nimport ts\nprint(ts.__version__)"
    folder = Path(ts.__file__).parents[1]
    words = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"]
    assert subprocess.check_output(words, text=True).strip() == version.__version__


def test_sagemakers_settings_are_known_to_the_server(tmp_path):
    path = Path(ts.__file__).parent / "configs" / "sagemaker_config.properties"
    config = load_config({"model_store": str(tmp_path), "ts_config": str(path)}, {}, tmp_path)
    assert config.warnings == ()
    assert config.inference_address == config.management_address
    assert config.inference_address.port == 8080
    assert config.disable_token_authorization
    assert config.enable_model_api
