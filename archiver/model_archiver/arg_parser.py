"""The command line of torch-model-archiver, for callers that want it parsed only."""

from __future__ import annotations

import sys

import click

from model_archiver.model_archiver_config import ModelArchiverConfig
from ts_archiver.cli import torch_model_archiver_command


class ArgParser:
    """Reads ``sys.argv``."""

    @staticmethod
    def export_model_args_parser() -> ModelArchiverConfig:
        """What the command line asks for; in spite of its name the result, not a parser.

        Raises:
            SystemExit: 2 for wrong usage, which is told on standard error; 0 after ``--help``.
        """
        command = torch_model_archiver_command
        try:
            context = command.make_context("torch-model-archiver", sys.argv[1:])
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        return ModelArchiverConfig(**context.params)
