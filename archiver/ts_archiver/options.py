"""Makes click read a command line as argparse does, because scripts written for
torch-model-archiver rely on it: shortened options, and no option taken for a value.

`cli` uses it for both commands.
"""

from __future__ import annotations

import re

import click

_NUMBER = re.compile(r"-\d+|-\d*\.\d+")


class ArgparseCommand(click.Command):
    """A command whose long options may be shortened as long as only one fits."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, normalise(self, ctx, args))


def normalise(command: click.Command, ctx: click.Context, args: list[str]) -> list[str]:
    """Spell out shortened options and refuse values that look like options.

    Raises:
        click.UsageError: a shortened option fits several, or an option lacks its value.
    """
    takes_value = _options(command, ctx)
    result: list[str] = []
    waiting = ""  # the option whose value comes next
    for position, arg in enumerate(args):
        if waiting and _looks_like_option(arg):
            raise click.UsageError(f"Option {waiting!r} requires an argument.", ctx)
        if waiting or not _looks_like_option(arg):
            result.append(arg)
            waiting = ""
        elif arg == "--":
            return [*result, *args[position:]]
        else:
            name, value = _split(arg, takes_value, ctx)
            result.append(name if value is None else f"{name}={value}")
            if not arg.startswith("--") and value is not None:
                result[-1:] = [name, value]  # argparse takes -v=1 too, click only -v 1
            waiting = name if value is None and takes_value.get(name) else ""
    return result


def _options(command: click.Command, ctx: click.Context) -> dict[str, bool]:
    """Every spelling of every option, and whether it takes a value."""
    return {
        spelling: not (parameter.is_flag or parameter.count)
        for parameter in command.get_params(ctx)
        if isinstance(parameter, click.Option)
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    }


def _looks_like_option(arg: str) -> bool:
    return arg.startswith("-") and arg != "-" and " " not in arg and not _NUMBER.fullmatch(arg)


def _split(arg: str, takes_value: dict[str, bool], ctx: click.Context) -> tuple[str, str | None]:
    name, equals, value = arg.partition("=")
    if arg.startswith("--"):
        return _expand(name, takes_value, ctx), value if equals else None
    if equals and takes_value.get(name):
        return name, value
    return arg, None


def _expand(name: str, takes_value: dict[str, bool], ctx: click.Context) -> str:
    if name in takes_value:
        return name
    fitting = sorted(option for option in takes_value if option.startswith(name))
    if len(fitting) > 1:
        raise click.UsageError(f"{name} could be any of {', '.join(fitting)}.", ctx)
    return fitting[0] if fitting else name
