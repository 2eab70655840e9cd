"""What the options of `torchserve-py bench` mean: the target and the levels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ts_frontend.bench.errors import BenchError
from ts_frontend.bench.options import Options, aim, levels
from ts_frontend.bench.plan import Input, Level, Target


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "key_file.json").write_text(json.dumps({"inference": {"key": "abc"}}))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_inputs_have_the_type_of_their_ending_and_the_key_is_found() -> None:
    aimed = aim(Options("m", "2.0", inputs=("x.json",)))

    assert aimed.target == Target(
        "127.0.0.1",
        8080,
        "/predictions/m/2.0",
        (Input(b"{}", "application/json"),),
        token="abc",
    )
    assert (aimed.shown, aimed.token_from) == ("http://127.0.0.1:8080", "./key_file.json")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "token"),
    [
        (Options("m", url="http://example.com"), None),  # nobody else's business
        (Options("m", url="http://example.com", key_file="key_file.json"), "abc"),
        (Options("m", url="http://localhost:1"), "abc"),
        (Options("m", url="http://[::1]:1"), "abc"),
        (Options("m", unix="/s"), "abc"),
        (Options("m", token="given"), "given"),
    ],
)
def test_a_key_file_that_lies_here_is_for_this_machine(options: Options, token: str | None) -> None:
    assert aim(options).target.token == token


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (Options("m", inputs=("nix",)), "--input nix: No such file or directory"),
        (Options("m", inputs=(".",)), "--input .: Is a directory"),
        (Options("m", expect=("nix",)), "--expect nix: No such file"),
        (Options("m", expect=("x.json",) * 2), "2 times --expect for 1 inputs"),
        (Options("m", key_file="nix"), "--key-file nix: No such file"),
        (Options("m", key_file="x.json"), "--key-file x.json: there is no inference key in it"),
        (Options("m", key_file="x.json", token="x"), "--token and --key-file are two tokens"),
        (Options("m", token="a\r\nb"), "--token: a key has no blanks"),
        (Options("m", content_type="a\r\nb"), "--content-type: one line"),
        (Options("m", url="ftp://x"), "--url: expected http://host:port"),
        (Options("m", url="http://x:99999"), "--url: expected http://host:port"),
        (Options("m", url="127.0.0.1:8080"), "--url: expected http://host:port"),
        (Options("m", url="http://x/a b"), "--url: blanks must be escaped"),
        (Options("m", url="http://x", unix="/s"), "--url and --unix name two servers"),
        (Options(""), "the name of the model"),
    ],
)
def test_what_makes_no_sense_is_refused(options: Options, text: str) -> None:
    with pytest.raises(BenchError) as raised:
        aim(options)

    assert text in str(raised.value)


def test_levels_of_both_loops() -> None:
    assert [one.connections for one in levels(Options("m"))] == [1, 4, 16, 64]
    assert levels(Options("m", rate=(5.0, 9.5), connections=(8,), seed=3)) == [
        Level(8, rate=5.0, seed=3),
        Level(8, rate=9.5, seed=3),
    ]
    with pytest.raises(BenchError, match="--connections is one number"):
        levels(Options("m", rate=(5.0,), connections=(1, 2)))
