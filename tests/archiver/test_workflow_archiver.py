"""`workflow_archiver` and the command `torch-workflow-archiver`: .war archives."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest

import workflow_archiver
from ts_archiver import MissingInput, pack_workflow
from workflow_archiver.arg_parser import ArgParser
from workflow_archiver.manifest_components.manifest import Manifest
from workflow_archiver.manifest_components.workflow import Workflow
from workflow_archiver.workflow_archiver_error import WorkflowArchiverError
from workflow_archiver.workflow_packaging import package_workflow
from workflow_archiver.workflow_packaging_utils import WorkflowExportUtils

Utils = WorkflowExportUtils


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spec.yaml").write_text("models:\n  a: {url: a.mar}\ndag:\n  pre: [a]\n")
    (tmp_path / "functions.py").write_text("def pre(data, context): return data\n")
    for name in ("x.txt", "y.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "out").mkdir()
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workflow_archiver", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


BASE = ("--workflow-name", "w", "--spec-file", "spec.yaml", "--handler", "functions.py")


def test_the_command_makes_a_war(folder):
    done = run(folder, *BASE, "--extra-files", "x.txt,y.txt", "--export-path", "out")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with zipfile.ZipFile(folder / "out" / "w.war") as war:
        assert war.namelist() == [
            "functions.py",
            "spec.yaml",
            "x.txt",
            "y.txt",
            "WAR-INF/MANIFEST.json",
        ]
        assert {info.compress_type for info in war.infolist()} == {zipfile.ZIP_DEFLATED}
        assert war.read("x.txt") == b"x.txt"
        manifest = json.loads(war.read("WAR-INF/MANIFEST.json"))
    assert list(manifest) == ["createdOn", "workflow", "archiverVersion"]
    assert manifest["archiverVersion"] == workflow_archiver.__version__
    assert manifest["workflow"] == {
        "workflowName": "w",
        "specFile": "spec.yaml",
        "handler": "functions.py",
    }


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "--workflow-name"),
        (BASE[:4], 2, "--handler"),
        ((*BASE, "--workflow-name", "a b"), 1, "Workflow name contains special characters"),
        ((*BASE, "--export-path", "absent"), 1, "Given export-path absent is not a directory"),
        ((*BASE, "--export-path", "x.txt"), 1, "Given export-path x.txt is not a directory"),
        ((*BASE, "--extra-files", "absent"), 1, "file absent does not exist"),
        ((*BASE, "--extra-files", "out"), 1, "out is a folder"),
        ((*BASE, "--handler", "functions"), 1, "file functions does not exist"),
    ],
)
def test_what_can_not_be_packed_is_told_in_a_line(folder, words, code, text):
    done = run(folder, *words)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "w.war").exists()


def test_an_existing_war_is_kept_unless_forced(folder):
    assert run(folder, *BASE).returncode == 0
    again = run(folder, *BASE)
    assert again.returncode == 1
    assert "ERROR - w.war already exists. Use --force" in again.stderr.replace(f"{folder}/", "")
    assert run(folder, *BASE, "-f").returncode == 0


def test_from_python_with_a_manifest_of_the_callers(folder, monkeypatch, caplog):
    monkeypatch.chdir(folder)
    args = ArgParser.workflow_archiver_args_parser().parse_args(list(BASE))
    package_workflow(args, Utils.generate_manifest_json(args).replace('"w"', '"other"'))
    with zipfile.ZipFile("w.war") as war:
        assert b'"workflowName": "other"' in war.read("WAR-INF/MANIFEST.json")
    with pytest.raises(SystemExit) as caught:
        package_workflow(args, "{}")
    assert caught.value.code == 1
    assert "already exists" in caplog.text
    with pytest.raises(SystemExit):
        package_workflow(Namespace(**{**vars(args), "force": True}), "{")


def test_our_own_call_gives_the_same_bytes_each_time(folder, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    made = [
        pack_workflow(
            "w", folder / "spec.yaml", folder / "functions.py", export_path=folder, force=True
        )
        for _ in range(2)
    ]
    assert made[0] == folder / "w.war"
    first = made[0].read_bytes()
    pack_workflow(
        "w", folder / "spec.yaml", folder / "functions.py", export_path=folder, force=True
    )
    assert made[0].read_bytes() == first
    with pytest.raises(MissingInput):
        pack_workflow("w", "absent", folder / "functions.py", export_path=folder, force=True)


def test_a_graph_that_is_no_yaml_is_warned_of(folder, caplog):
    (folder / "spec.yaml").write_text("a: [")
    pack_workflow("w", folder / "spec.yaml", folder / "functions.py", export_path=folder)
    assert "is not valid YAML" in caplog.text


def test_manifests_are_built_in_python():
    manifest = Manifest(Workflow("w", "s.yaml", "h.py"))
    assert list(json.loads(str(manifest))) == ["createdOn", "workflow", "archiverVersion"]
    assert json.loads(str(manifest.workflow)) == manifest.to_dict()["workflow"]


def test_single_steps(folder):
    assert Utils.get_archive_export_path("d", "w") == "d/w.war"
    assert Utils.check_war_already_exists("w", str(folder), False) == str(folder)
    (folder / "w.war").write_text("")
    with pytest.raises(WorkflowArchiverError, match="--force") as caught:
        Utils.check_war_already_exists("w", str(folder), False)
    assert caught.value.message == str(caught.value)
    assert Utils.check_war_already_exists("w", str(folder), True) == str(folder)
    Utils.validate_inputs("w", str(folder))
    with pytest.raises(WorkflowArchiverError, match="not a directory"):
        Utils.validate_inputs("w", str(folder / "absent"))
    with pytest.raises(WorkflowArchiverError, match="special characters"):
        Utils.check_workflow_name_regex_or_exit("-w")
    copied = Utils.copy_artifacts("w", [f"{folder}/x.txt,{folder}/y.txt", None])
    manifest = Utils.generate_manifest_json(
        Namespace(workflow_name="w", spec_file="a/s.yaml", handler="h.py")
    )
    Utils.archive(str(folder), "w", copied, manifest)
    with zipfile.ZipFile(folder / "w.war") as war:
        assert war.namelist() == ["x.txt", "y.txt", "WAR-INF/MANIFEST.json"]
    Utils.make_dir(f"{copied}/WAR-INF")
    Path(copied, "WAR-INF", "MANIFEST.json").write_text(manifest)
    Utils.archive_dir(copied, str(folder / "other.war"))
    assert (folder / "other.war").read_bytes() == (folder / "w.war").read_bytes()
    with pytest.raises(WorkflowArchiverError, match="does not exist"):
        Utils.copy_artifacts("w", ["absent"])
    Utils.clean_temp_files([copied])
    assert not Path(copied).exists()
    assert Utils.directory_filter("a", [])
    assert not Utils.file_filter("a", ["a"])
