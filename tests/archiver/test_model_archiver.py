"""`model_archiver`: torch-model-archiver's Python API on ours."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import model_archiver
from model_archiver import ModelArchiver, ModelArchiverConfig
from model_archiver.arg_parser import ArgParser
from model_archiver.manifest_components.manifest import Manifest, RuntimeType
from model_archiver.manifest_components.model import Model
from model_archiver.model_archiver_error import ModelArchiverError
from model_archiver.model_packaging import generate_model_archive, package_model
from model_archiver.model_packaging_utils import (
    ModelExportUtils,
    archiving_options,
    model_handlers,
)
from ts_archiver import inspect, read_manifest
from ts_archiver.manifest import ARCHIVER_VERSION
from ts_archiver.recipe import BUILTIN_HANDLERS


@pytest.fixture
def handler(tmp_path: Path) -> Path:
    path = tmp_path / "h.py"
    path.write_text("def handle(data, context): ...\n")
    return path


def config(handler: Path, **options: object) -> ModelArchiverConfig:
    base = {"export_path": str(handler.parent), "handler": str(handler)}
    return ModelArchiverConfig(**{"model_name": "m", "version": "1.0", **base, **options})


def names(archive: Path) -> set[str]:
    return {file.name for file in inspect(archive).files}


def test_the_configs_fields_are_torchserves_in_their_order(handler, tmp_path, monkeypatch):
    expected = "model_name handler version serialized_file model_file extra_files runtime "
    expected += "export_path archive_format force requirements_file config_file keep_tree"
    assert [f.name for f in dataclasses.fields(ModelArchiverConfig)] == expected.split()
    monkeypatch.chdir(tmp_path)
    short = ModelArchiverConfig.from_args(Namespace(model_name="m", handler="h", version="1", z=1))
    assert short == ModelArchiverConfig("m", "h", "1")
    assert (short.runtime, short.export_path, short.archive_format) == (
        "python",
        str(tmp_path),
        "default",
    )


def test_an_archive_is_made_by_a_config(handler, tmp_path):
    extra = tmp_path / "labels.json"
    extra.write_text("{}")
    generate_model_archive(config(handler, extra_files=str(extra)))
    assert names(tmp_path / "m.mar") == {"h.py", "labels.json"}
    ModelArchiver.generate_model_archive(config(handler, archive_format="tgz"))
    assert read_manifest(tmp_path / "m.tar.gz")["model"]["modelVersion"] == "1.0"


def test_a_namespace_and_a_manifest_of_the_callers_make_an_archive(handler, tmp_path):
    # As OpenMMLab's converters call it: some options are not there.
    args = Namespace(
        model_name="m",
        handler=str(handler),
        version="2.0",
        export_path=str(tmp_path),
        force=True,
        runtime="python",
        archive_format="default",
        extra_files=None,
        requirements_file=None,
    )
    manifest = ModelExportUtils.generate_manifest_json(args)
    package_model(args, manifest.replace("2.0", "3.0"))
    written = read_manifest(tmp_path / "m.mar")
    assert written["model"] == {"modelName": "m", "handler": "h.py", "modelVersion": "3.0"}
    assert list(written["files"]) == ["h.py"]
    with pytest.raises(ModelArchiverError, match="not valid JSON"):
        package_model(args, "{")


def test_errors_are_logged_and_raised(handler, tmp_path, caplog):
    with pytest.raises(FileNotFoundError, match=r"absent\.pt does not exist") as caught:
        generate_model_archive(config(handler, serialized_file="absent.pt"))
    assert isinstance(caught.value, ModelArchiverError)
    (tmp_path / "m.mar").write_text("")
    with pytest.raises(ModelArchiverError, match="already exists") as error:
        generate_model_archive(config(handler))
    assert error.value.message in caplog.messages
    with pytest.raises(ModelArchiverError, match="a/b"):
        generate_model_archive(config(handler, model_name="a/b"))


def test_without_a_config_the_command_line_is_read(handler, tmp_path, monkeypatch, capsys):
    words = ["--model-name", "m", "--handler", str(handler), "--export", str(tmp_path), "-v=7"]
    monkeypatch.setattr(sys, "argv", ["x", *words])
    assert ArgParser.export_model_args_parser() == config(handler, version="7")
    generate_model_archive()
    assert read_manifest(tmp_path / "m.mar")["model"]["modelVersion"] == "7"
    for words, code in (([], 2), (["--help"], 0)):
        monkeypatch.setattr(sys, "argv", ["x", *words])
        with pytest.raises(SystemExit) as caught:
            generate_model_archive()
        assert caught.value.code == code
    assert "--model-name" in capsys.readouterr().err


def test_it_is_a_command_too(handler, tmp_path):
    words = ["--model-name", "m", "--handler", str(handler), "--export-path", str(tmp_path)]
    command = [sys.executable, "-m", "model_archiver", *words, "--version", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_a_manifest_has_torchserves_keys_in_their_order():
    model = Model("m", "w.pt", "h.py", "model.py", "1.0", None, "req.txt", "c.yaml")
    written = json.loads(str(Manifest("python3", model)))
    assert list(written) == ["createdOn", "runtime", "model", "archiverVersion"]
    assert written["runtime"] == "python3"
    assert list(written["model"]) == [
        "modelName",
        "serializedFile",
        "handler",
        "modelFile",
        "modelVersion",
        "requirementsFile",
        "configFile",
    ]
    assert json.loads(str(Model("m", None, "h"))) == {"modelName": "m", "handler": "h"}
    assert [kind.value for kind in RuntimeType] == ["python", "python3", "LSP"]
    assert written["archiverVersion"] == model_archiver.__version__ == ARCHIVER_VERSION


def test_formats_and_built_in_handlers_are_listed():
    assert archiving_options == {
        "tgz": ".tar.gz",
        "no-archive": "",
        "zip-store": ".mar",
        "default": ".mar",
    }
    assert set(model_handlers) == BUILTIN_HANDLERS


def test_single_steps_check_names_and_places(tmp_path, caplog):
    path = ModelExportUtils.get_archive_export_path
    assert [path("d", "m", fmt) for fmt in archiving_options] == [
        "d/m.tar.gz",
        "d/m",
        "d/m.mar",
        "d/m.mar",
    ]
    check = ModelExportUtils.check_mar_already_exists
    assert check("m", None, False) == os.getcwd()
    (tmp_path / "m.mar").write_text("")
    with pytest.raises(ModelArchiverError, match="--force"):
        check("m", str(tmp_path), False)
    assert check("m", str(tmp_path), True) == str(tmp_path)
    assert "Overwriting" in caplog.text
    assert check("m", str(tmp_path), False, "tgz") == str(tmp_path)
    validate = ModelExportUtils.validate_inputs
    validate("m", str(tmp_path / "new"))
    assert (tmp_path / "new").is_dir()
    assert "does not exist. Creating..." in caplog.text
    with pytest.raises(ModelArchiverError, match="is not a directory"):
        validate("m", str(tmp_path / "m.mar"))
    with pytest.raises(ModelArchiverError, match="special characters"):
        validate("a b", str(tmp_path))


def test_single_steps_find_filter_and_clean(tmp_path):
    find = ModelExportUtils.find_unique
    assert find(["a.pt", "b.py"], ".pt") == "a.pt"
    assert find([], ".pt") is None
    with pytest.raises(ModelArchiverError, match=r"a\.pt, b\.pt"):
        find(["a.pt", "b.pt"], ".pt")
    wanted = ModelExportUtils.directory_filter
    assert [wanted(name, ["tmp"]) for name in ("x", "tmp", ".git")] == [True, False, False]
    kept = ModelExportUtils.file_filter
    assert [kept(name, ["a"]) for name in ("b", "a", ".b", "c.pyc")] == [True, False, False, False]
    ModelExportUtils.make_dir(str(tmp_path / "one" / "two"))
    ModelExportUtils.make_dir(str(tmp_path / "one" / "two"))
    (tmp_path / "file").write_text("")
    ModelExportUtils.clean_temp_files([str(tmp_path / "one"), str(tmp_path / "file")])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("archive_format", sorted(archiving_options))
def test_single_steps_make_the_same_archive(handler, tmp_path, archive_format, caplog):
    caplog.set_level(logging.WARNING)
    folder = tmp_path / "more"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "x.txt").write_text("x")
    copied = ModelExportUtils.copy_artifacts(
        "m", "python", handler=str(handler), extra_files=str(folder), model_file=None
    )
    manifest = ModelExportUtils.generate_manifest_json(config(handler))
    ModelExportUtils.archive(str(tmp_path), "m", copied, manifest, archive_format)
    made = Path(ModelExportUtils.get_archive_export_path(str(tmp_path), "m", archive_format))
    assert names(made) == {"h.py", "deep/x.txt"}
    assert not inspect(made).problems
    Path(copied, "MAR-INF").mkdir()
    Path(copied, "MAR-INF", "MANIFEST.json").write_text(manifest)
    other = tmp_path / "other"
    other.mkdir()
    ModelExportUtils.archive_dir(copied, str(other / made.name), archive_format, "m")
    assert names(other / made.name) == names(made)
    with pytest.raises(ModelArchiverError, match="needs a manifest"):
        ModelExportUtils.archive_dir(str(folder), str(other / "x.mar"), archive_format, "x")
    ModelExportUtils.clean_temp_files([copied])
