"""argparse's liberties: prefixes and several values after one option."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ts_frontend import cli
from ts_frontend.argv import ArgvError, Takes, normalise
from ts_frontend.version import __version__

OPTIONS = {
    "--start": Takes.NOTHING,
    "--stop": Takes.NOTHING,
    "--models": Takes.MANY,
    "--model-store": Takes.ONE,
    "--plugins-path": Takes.ONE,
}


@pytest.mark.parametrize(
    ("argv", "plain"),
    [
        ("", ""),
        ("--models a b c", "--models a --models b --models c"),
        ("--models a b --start", "--models a --models b --start"),
        ("--models a --models=b", "--models a --models=b"),
        ("--models a=b.mar", "--models a=b.mar"),
        ("--model-s dir", "--model-store dir"),
        ("--model-s=dir", "--model-store=dir"),
        ("--p x --sto", "--plugins-path x --stop"),
        ("--model-store --start", "--model-store --start"),
        ("-v --start", "-v --start"),
        ("--unknown x", "--unknown x"),
        ("--start -- --models", "--start -- --models"),
        ("stray", "stray"),
    ],
)
def test_normalise(argv: str, plain: str) -> None:
    assert normalise(argv.split(), OPTIONS) == plain.split()


def test_a_prefix_of_two_options_is_refused() -> None:
    message = "ambiguous option: --model could match --model-store, --models"

    with pytest.raises(ArgvError, match=f"^{message}$"):
        normalise(["--model", "x"], OPTIONS)


@pytest.mark.parametrize("argv", [["--models"], ["--models", "--start"]])
def test_several_values_means_at_least_one(argv: list[str]) -> None:
    with pytest.raises(ArgvError, match="--models: expected at least one argument"):
        normalise(argv, OPTIONS)


@pytest.mark.parametrize("flag", ["-v", "--version", "--vers"])
def test_version(flag: str) -> None:
    result = CliRunner().invoke(cli.command, [flag])

    assert (result.exit_code, result.output) == (0, f"TorchServe Version is {__version__}\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--start", "--stop"], "argument --stop: not allowed with argument --start"),
        (["-v", "--start"], "argument --start: not allowed with argument --version"),
        (["--mode", "x"], "ambiguous option: --mode"),
        (["--ts-config"], "requires an argument"),
        (["--frobnicate"], "No such option"),
        (["stray"], "unexpected extra argument"),
        (["--models"], "expected at least one argument"),
    ],
)
def test_wrong_usage_is_exit_code_2(argv: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.command, argv)

    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("argv", "seen"),
    [
        (["--models", "a", "b"], {"models": ("a", "b")}),
        (["--ncs"], {"no_config_snapshots": True}),
        (["--no-config-snapshots"], {"no_config_snapshots": True}),
        (["--no"], {"no_config_snapshots": True}),
        (["--dt"], {"disable_token_auth": True}),
        (["--disable-token-auth"], {"disable_token_auth": True}),
        (["--enable-model-api"], {"enable_model_api": True}),
        (["--ppath", "p"], {"plugins_path": "p"}),
        (["--plugins-path", "p"], {"plugins_path": "p"}),
        (["--log", "l"], {"log_config": "l"}),
        (["--cpp-log-config", "c"], {"cpp_log_config": "c"}),
        (["--ts-config=f"], {"ts_config": "f"}),
        (["--workflow-store", "w"], {"workflow_store": "w"}),
        (["--model-store", "m", "--foreground"], {"model_store": "m", "foreground": True}),
    ],
)
def test_every_flag_reaches_start(
    argv: list[str], seen: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    got: dict[str, object] = {}

    def start(options: dict[str, object]) -> int:
        got.update(options)
        return 3

    monkeypatch.setattr(cli, "start", start)
    result = CliRunner().invoke(cli.command, argv)

    assert result.exit_code == 3
    given = {name: value for name, value in got.items() if value}
    assert given == seen


def test_help_names_every_flag() -> None:
    result = CliRunner().invoke(cli.command, ["-h"])

    assert result.exit_code == 0
    for flag in ("--start", "--stop", "--ts-config", "--model-store", "--models", "--ncs", "--dt"):
        assert flag in result.output
