"""The options of `cli` that choose settings, and how a command reads its words.

Loads nothing but click: a command must answer at once.
"""

from __future__ import annotations

from collections.abc import Callable

import click

from ts_frontend.argv import ArgvError, Takes, normalise

CONTEXT = {"help_option_names": ["-h", "--help"]}
# What both a start and `config` understand.
_SETTINGS = (
    click.option(
        "--ts-config",
        metavar="FILE",
        help="Settings; else those of the last snapshot, or ./config.properties.",
    ),
    click.option("--model-store", metavar="DIR", help="Folder of the model archives."),
    click.option("--workflow-store", metavar="DIR", help="Accepted; workflows are not built yet."),
    click.option(
        "--models",
        multiple=True,
        metavar="MODEL...",
        help="Models to load: x.mar, name=x.mar, a URL, a folder, or all.",
    ),
    click.option("--log-config", metavar="FILE", help="Levels: Python logging or log4j2 XML."),
    click.option("--cpp-log-config", metavar="FILE", help="Accepted; there are no C++ workers."),
    click.option(
        "--no-config-snapshots",
        "--ncs",
        is_flag=True,
        help="Write no snapshots, and don't start from the last one.",
    ),
    click.option(
        "--plugins-path", "--ppath", metavar="PATH", help="Accepted; Java plugins cannot run here."
    ),
    click.option("--disable-token-auth", "--dt", is_flag=True, help="Serve without tokens."),
    click.option(
        "--watch", is_flag=True, help="Reload models that are folders when their files change."
    ),
    click.option(
        "--enable-model-api", is_flag=True, help="Allow to register and unregister models."
    ),
)


class Command(click.Command):
    """A click command that reads its words as argparse would."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = {
            name: _takes(param)
            for param in self.get_params(ctx)
            for name in param.opts
            if name.startswith("--")
        }
        try:
            return super().parse_args(ctx, normalise(args, options))
        except ArgvError as error:
            raise click.UsageError(str(error), ctx) from None


def _takes(param: click.Parameter) -> Takes:
    if getattr(param, "is_flag", False):
        return Takes.NOTHING
    return Takes.MANY if param.multiple else Takes.ONE


def with_settings(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options, in this order."""
    for option in reversed(_SETTINGS):
        function = option(function)
    return function
