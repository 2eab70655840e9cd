"""TorchServe's own archivers installed beside this one: their files have the names of ours.

The archiver's commands and the server say so; `cli` of the server refuses TorchServe itself.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

_OWNED = {
    "torch-model-archiver": "model_archiver",
    "torch-model-archiver-nightly": "model_archiver",
    "torch-workflow-archiver": "workflow_archiver",
    "torch-workflow-archiver-nightly": "workflow_archiver",
}


def rivals() -> list[str]:
    """A warning for each of them that is installed. pip lets the last one overwrite the files of
    the others, and removes those of ours with it: the cure has two steps."""
    return [
        f"{name} is installed beside torchserve-py, and both have the module {module} and the "
        f"command {name.removesuffix('-nightly')}: what of them is whose depends on which was "
        f"installed last. Run `pip uninstall {name}`, then "
        "`pip install --force-reinstall --no-deps torchserve-py`."
        for name, module in _OWNED.items()
        if _installed(name)
    ]


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
