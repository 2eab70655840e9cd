"""The command `torchserve-py run-handler`: a model's handler on some inputs, without a server.

`cli` calls it. What a server does with an archive is done here with the same parts: unpack it, read
manifest and yaml, install its packages, settle environment, import path and GPU. Then a process of
its own loads and runs the handler, see `ts_worker.runtime.run_handler`; nothing here imports torch.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from ts_frontend.config import Config, ConfigError, load
from ts_frontend.core.blueprint import draw
from ts_frontend.core.devices import Devices
from ts_frontend.core.env_cache import open_env_cache
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.registration import build
from ts_frontend.core.settings import Registration
from ts_frontend.core.store import Store
from ts_frontend.core.threads import usable_cores
from ts_frontend.errors import ServeError
from ts_worker.backend.spawning import command as interpreter
from ts_worker.messages import Load
from ts_worker.trial import Input, Trial, dumps

_WRONG_INPUT = 2


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of the command that say what to run."""

    inputs: tuple[str, ...] = ()
    content_type: str | None = None
    batch: int | None = None
    explain: bool = False
    repeat: int = 1
    profile: bool = False
    gpu: int | None = None
    output: str | None = None


class _Refused(Exception):
    """The command can't do what it was asked for; the text says why."""


@click.command("run-handler", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", metavar="MAR_OR_DIR")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="FILE",
    help="Body of a request; may be given several times. Without it the model's warmup/ is run.",
)
@click.option("--content-type", metavar="T", help="Of the inputs; else by the files' endings.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="Requests in a call, inputs repeated to fill it up; else all, up to the batch size.",
)
@click.option("--explain", is_flag=True, help="Ask for explanations.")
@click.option(
    "--repeat", type=click.IntRange(min=1), default=1, metavar="N", help="Run it N times."
)
@click.option("--profile", is_flag=True, help="Print torch.profiler's table of the last time.")
@click.option("--gpu", type=click.IntRange(min=0), metavar="N", help="CUDA device to load onto.")
@click.option("--output", metavar="DIR", help="Write the bodies of answers into files there.")
@click.option("--ts-config", metavar="FILE", help="Settings; else those of ./config.properties.")
def command(model: str, ts_config: str | None, **options: object) -> None:
    """Load a model as a server does and run its handler, in one process on this terminal.

    Answers go to standard output, times and logs to standard error. breakpoint() works. The exit
    code is 1 where the handler fails, 2 where something is wrong with what was asked for.
    """
    sys.exit(run_handler(model, Wish(**options), ts_config))  # type: ignore[arg-type]


def run_handler(model: str, wish: Wish, ts_config: str | None = None) -> int:
    """Run a handler; returns the exit code. What is unpacked is removed again, also on Ctrl-C."""
    try:
        _check(wish)
        config = _config(model, ts_config)
        with asyncio.Runner() as runner:
            site = _Site(config, Path(os.path.realpath(model)))
            try:
                version = runner.run(site.open(wish.gpu))
                return _execute(version, _trial(config, version, wish))
            finally:
                runner.run(site.close())
    except (_Refused, ConfigError) as error:
        text = str(error)
    except ServeError as error:
        text = error.message
    except KeyboardInterrupt:
        return 130
    print(f"run-handler: {text}", file=sys.stderr)
    return _WRONG_INPUT


class _Site:
    """A model's files and environment, as a server prepares them.

    Args:
        path: of the archive or folder.
    """

    def __init__(self, config: Config, path: Path) -> None:
        self._config = config
        self._path = path
        self._store = Store(config)
        self._environments = open_env_cache(config, os.environ)
        self._version: ModelVersion | None = None

    async def open(self, gpu: int | None) -> ModelVersion:
        """Raises ServeError and `_Refused`."""
        asked = Registration(str(self._path))
        archive = await self._store.fetch(asked.url)
        devices = Devices(self._config.number_of_gpu, os.environ)
        try:
            blueprint = await asyncio.to_thread(draw, self._config, asked, archive)
            self._version = await build(
                self._config, devices, blueprint, archive, os.environ, self._environments
            )
        except BaseException:
            await self._store.discard(archive)
            raise
        _place(self._version, gpu, devices.count)
        return self._version

    async def close(self) -> None:
        if self._version is not None:
            self._environments.release(self._version.archive.root)
            await self._store.discard(self._version.archive)


def _place(version: ModelVersion, gpu: int | None, count: int) -> None:
    """Settle which GPU the handler gets.

    Raises:
        _Refused: there is no such GPU, or the model takes several processes.
    """
    parallel = version.settings.parallel
    if parallel is not None and parallel.ranks(0) is not None:
        raise _Refused(
            f"{version.name} has parallelType {parallel.type}, so that a worker of it is "
            f"{parallel.level} processes, and this command runs one: serve it"
        )
    if gpu is not None and gpu >= count:
        raise _Refused(f"there is no GPU {gpu}: {count} can be used here")
    gpus = version.free_gpus()
    if gpu is not None:
        version.next_device = lambda: gpu
    elif gpus is not None:  # as for a worker: it sees these alone, and numbers them anew
        env = {**version.launch.env, "CUDA_VISIBLE_DEVICES": gpus.visible}
        version.launch = replace(version.launch, env=env)
        version.next_device = lambda: 0


def _check(wish: Wish) -> None:
    for name in wish.inputs:
        if not Path(name).is_file():
            raise _Refused(f"--input {name}: no such file")
    if wish.content_type is not None and not wish.inputs:
        raise _Refused("--content-type is that of --input, and there is none")
    if wish.output is not None:
        try:
            Path(wish.output).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _Refused(f"--output {wish.output}: {error.strerror}") from None


def _config(model: str, ts_config: str | None) -> Config:
    """The settings of a server here, whose model store is where the model is."""
    if not os.path.exists(model):
        raise _Refused(f"{model}: no such archive or folder")
    if model.endswith(".py") and not os.path.isdir(model):
        name = re.sub(r"[^\w.-]", "_", Path(model).stem) + "_model"
        raise _Refused(
            f"{model} is a handler alone: give an archive, or the folder of a model. This makes "
            f"the folder {name}:\n  archiver --archive-format no-archive --version 1.0 "
            f"--model-name {name} --handler {shlex.quote(model)}"
        )
    # Not from a snapshot: it stands for a server that ran, not for the one to be.
    options = {"ts_config": ts_config, "no_config_snapshots": True}
    loaded = load(options, os.environ, Path.cwd(), need_store=False)
    return replace(loaded.config, model_store=Path(os.path.realpath(model)).parent)


def _trial(config: Config, version: ModelVersion, wish: Wish) -> Trial:
    launch = version.launch
    metrics = config.metrics_config
    load = Load(
        model_name=version.name,
        model_version=version.version,
        model_dir=launch.model_dir,
        handler=launch.handler,
        batch_size=wish.batch or version.settings.batch_size,
        gpu_id=version.next_device(),
        envelope=config.service_envelope,
        limit_max_image_pixels=config.limit_max_image_pixels,
        decode_input_request=config.decode_input_request,
        metrics_config=None if metrics is None else str(metrics),
        threads=usable_cores(),
        import_paths=launch.import_paths,
        env=None,  # the process is started with it
    )
    inputs = tuple(Input(os.path.abspath(name), wish.content_type) for name in wish.inputs)
    output = None if wish.output is None else os.path.abspath(wish.output)
    return Trial(load, inputs, wish.batch, wish.explain, wish.repeat, wish.profile, output)


def _execute(version: ModelVersion, trial: Trial) -> int:
    """Run the handler's process in the foreground of this terminal; returns its exit code."""
    words = interpreter(version.launch.python, "run_handler", dumps(trial))
    with _signals_passed_on() as children:
        try:
            process = subprocess.Popen(
                words, env=dict(version.launch.env), cwd=version.launch.model_dir
            )
        except OSError as error:
            raise _Refused(f"{words[0]} can't be started: {error.strerror}") from None
        children.append(process)
        code = process.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _signals_passed_on() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Live on to clean up: Ctrl-C reaches the handler's process by itself, other ends through us.

    Python handlers, not SIG_IGN, which the process would inherit.
    """
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: object) -> None:
        for child in children:
            child.send_signal(number)

    ends = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, pass_on) for number in ends}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
