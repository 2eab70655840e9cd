"""The command lines of TorchServe's launcher and of its worker, as argparse parsers."""

from __future__ import annotations

import argparse
from typing import Any, List, Optional


class ArgParser:
    """Makes the parsers; for scripts that read such a command line themselves."""

    @staticmethod
    def ts_parser() -> argparse.ArgumentParser:
        """The options of the command `torchserve`."""
        parser = argparse.ArgumentParser(prog="torchserve", description="Serve PyTorch models")
        action = parser.add_mutually_exclusive_group()
        action.add_argument("-v", "--version", action="store_true", help="print the version")
        action.add_argument("--start", action="store_true", help="start the server")
        action.add_argument("--stop", action="store_true", help="stop the running server")
        parser.add_argument("--ts-config", help="settings; else ./config.properties")
        parser.add_argument("--model-store", help="folder of the model archives")
        parser.add_argument("--workflow-store", help="folder of the workflow archives")
        parser.add_argument(
            "--models", nargs="+", metavar="MODEL", help="x.mar, name=x.mar, a URL, or all"
        )
        parser.add_argument("--log-config", help="configuration of the logs")
        parser.add_argument("--cpp-log-config", help="configuration of C++ workers' logs")
        parser.add_argument("--foreground", action="store_true", help="stay until the server ends")
        parser.add_argument(
            "--no-config-snapshots", "--ncs", action="store_true", help="keep no snapshots"
        )
        parser.add_argument("--plugins-path", "--ppath", help="folder of plugins")
        parser.add_argument(
            "--disable-token-auth", "--dt", action="store_true", help="serve without tokens"
        )
        parser.add_argument(
            "--watch", action="store_true", help="reload folders when their files change"
        )
        parser.add_argument(
            "--enable-model-api", action="store_true", help="register and unregister models"
        )
        return parser

    @staticmethod
    def model_service_worker_args() -> argparse.ArgumentParser:
        """The options of `ts.model_service_worker`."""
        parser = argparse.ArgumentParser(
            prog="model-server-worker", description="A worker on TorchServe's wire"
        )
        parser.add_argument("--sock-type", required=True, choices=["unix", "tcp"])
        parser.add_argument("--sock-name", help="path of the unix socket")
        parser.add_argument("--host", help="address to listen at, 127.0.0.1 by default")
        parser.add_argument("--port", type=int, help="tcp port to listen at")
        parser.add_argument("--metrics-config", help="the server's metrics.yaml")
        parser.add_argument(
            "--async", dest="async_comm", action="store_true", help="the handler is asynchronous"
        )
        return parser

    @staticmethod
    def extract_args(args: Optional[List[str]] = None) -> Any:
        """Parse a launcher's command line, ``sys.argv`` where None."""
        return ArgParser.ts_parser().parse_args(args)
