"""When a model needs a fresh interpreter, and how one is started. Called by `process`.

A forked worker inherits every module the zygote imported. That is wrong for a model that brings
its own copy of one of them, another interpreter, or variables that only count at import.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ts_worker.backend.base import WorkerSpec

_IMPORT_TIME = ("OMP_", "GOMP_", "MKL_", "OPENBLAS_", "KMP_", "LD_", "MALLOC_", "PYTHON", "CUDA_")
# How often torch's threads look for work before they sleep. By libgomp's default they look for
# milliseconds, and keep the core from others that have work. See benchmarks/NOTES.md.
_TURNS = "1000"
# Our packages go last on the path, so that a model's own environment wins over the server's; the
# empty entry that -c puts first is dropped, as it would be the model's folder.
_BOOTSTRAP = (
    "import sys; sys.path[:] = [p for p in sys.path if p] + sys.argv[1].split({sep!r}); "
    "from ts_worker.runtime.{module} import main; main(sys.argv[2:])"
)


def reason_to_spawn(
    spec: WorkerSpec, inherited: Collection[str], environ: Mapping[str, str]
) -> str | None:
    """Why this worker must not be forked, or None when it may.

    Args:
        spec: the worker to start.
        inherited: top-level names of the modules that the zygote has imported.
        environ: the environment the zygote was started with.
    """
    if spec.python is not None and os.path.abspath(spec.python) != sys.executable:
        return f"its interpreter is {spec.python}"
    ours, theirs = import_time(environ), import_time(spec.env)
    if ours != theirs:
        names = sorted(dict(ours.items() ^ theirs.items()))
        return f"it sets {', '.join(names)}, which count when libraries are imported"
    for folder in spec.import_paths:
        for name in top_level_modules(Path(folder)):
            if name in inherited:
                return f"{folder} has a module {name} of its own"
    return None


def import_time(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that libraries read when they are imported."""
    return {name: value for name, value in environ.items() if name.startswith(_IMPORT_TIME)}


def yielding(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that computes: its threads give up a core that they only wait
    on, unless the variables already say how they wait."""
    told = "GOMP_SPINCOUNT" in environ or "OMP_WAIT_POLICY" in environ
    return dict(environ) if told else {**environ, "GOMP_SPINCOUNT": _TURNS}


def top_level_modules(folder: Path) -> Iterator[str]:
    """Names that ``import`` would find in this folder."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name.endswith((".py", ".so")):
            yield entry.name.partition(".")[0]
        elif entry.is_dir() and (Path(entry.path) / "__init__.py").exists():
            yield entry.name


def spawn(spec: WorkerSpec, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a fresh interpreter as a worker, leader of a process group of its own.

    Raises:
        OSError: the interpreter can't be started.
    """
    return subprocess.Popen(
        command(spec.python, "spawned", *map(str, descriptors)),
        env=yielding(spec.env),
        cwd=spec.model_dir,
        pass_fds=tuple(descriptors),
        stdin=subprocess.DEVNULL,
        stdout=descriptors[1],  # from the first instruction on, so that a failing start is seen
        stderr=descriptors[2],
        start_new_session=True,
    )


def command(python: str | None, module: str, *arguments: str) -> list[str]:
    """What starts ``main`` of a module of `ts_worker.runtime` in a fresh interpreter.

    Args:
        python: the interpreter; None for our own.
    """
    code = _BOOTSTRAP.format(sep=os.pathsep, module=module)
    return [python or sys.executable, "-c", code, _own_roots(), *arguments]


def _own_roots() -> str:
    """The folders that hold `ts_worker` and `ts`, without importing the latter."""
    roots = [str(Path(__file__).resolve().parents[2])]
    found = importlib.util.find_spec("ts")
    if found is not None and found.submodule_search_locations:
        roots += [str(Path(place).parent) for place in found.submodule_search_locations]
    return os.pathsep.join(dict.fromkeys(roots))
