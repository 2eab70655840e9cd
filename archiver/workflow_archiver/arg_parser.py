"""The command line of torch-workflow-archiver."""

from __future__ import annotations

import argparse
import os


class ArgParser:
    """Makes the parser."""

    @staticmethod
    def workflow_archiver_args_parser() -> argparse.ArgumentParser:
        """The parser itself; `export_model_args_parser` of the model's tool gives its result."""
        parser = argparse.ArgumentParser(
            prog="torch-workflow-archiver",
            description="Package a workflow's graph and functions into a .war archive.",
        )
        add = parser.add_argument
        add("--workflow-name", required=True, help="Name of the workflow and of its archive.")
        add("--spec-file", required=True, help="The graph (yaml).")
        add("--handler", required=True, help="Python file with the functions of the graph's nodes.")
        add("--export-path", default=os.getcwd(), help="Folder to put the archive in.")
        add("--extra-files", help="Further files, with commas between them.")
        add("-f", "--force", action="store_true", help="Overwrite an existing archive.")
        return parser
