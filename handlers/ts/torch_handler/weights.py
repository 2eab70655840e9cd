"""Reading a model's weights into a module: safely, and shared between workers where possible."""

from __future__ import annotations

import inspect
import os
import pickle
import zipfile
from typing import Any, Dict

import torch


def load_into(model: torch.nn.Module, path: str, map_location: Any, shareable: bool) -> None:
    """Fill ``model`` from a file written by `torch.save(model.state_dict(), path)`.

    Args:
        map_location: device to read to.
        shareable: nobody rewrites the file in place, so its pages may be mapped instead of
            copied; all workers of a model then share one copy of its weights.

    Raises:
        ValueError: the file holds something else; the text names the cure.
        RuntimeError: the names or shapes differ from the model's.
    """
    mapped = shareable and _can_map(path) and str(map_location) == "cpu"
    state = read(path, map_location, mapped)
    if not isinstance(state, dict):
        raise ValueError(
            f"{path} holds a {type(state).__name__}, not weights. "
            "Save the weights alone: torch.save(model.state_dict(), path)"
        )
    nested = state.get("state_dict")
    if isinstance(nested, dict) and "state_dict" not in model.state_dict():
        raise ValueError(
            f"{path} is a training checkpoint, its weights are under the key 'state_dict'. "
            "Save them alone: torch.save(checkpoint['state_dict'], path)"
        )
    if mapped and _same_types(model, state):
        # Assigning keeps the mapped pages; copying would make them private again.
        model.load_state_dict(state, assign=True)
    else:
        model.load_state_dict(state)


def read(path: str, map_location: Any, mapped: bool = False) -> Any:
    """`torch.load` that runs no code from the file.

    The environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1, which is torch's own, lets
    files in that hold arbitrary pickled objects.
    """
    force = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "").lower()
    trusted = force in ("1", "y", "yes", "true")
    options: Dict[str, Any] = {"mmap": True} if mapped else {}
    try:
        return torch.load(path, map_location=map_location, weights_only=not trusted, **options)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds Python objects beside tensors, which loading does not run: "
            f"{_reason(error)}. Save plain weights, torch.save(model.state_dict(), path), or "
            "set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 for a file that you trust."
        ) from error


def _reason(error: Exception) -> str:
    """The line of torch's long text that names the object."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "nsupported" in line]
    return (named or lines or [type(error).__name__])[0].split(". ")[0].rstrip(".")


def _can_map(path: str) -> bool:
    """Whether this torch maps files (2.1 on) and the file is in the zip format that it maps."""
    return (
        "mmap" in inspect.signature(torch.load).parameters
        and "assign" in inspect.signature(torch.nn.Module.load_state_dict).parameters
        and not os.path.islink(path)
        and zipfile.is_zipfile(path)
    )


def _same_types(model: torch.nn.Module, state: Dict[str, Any]) -> bool:
    """Assigning takes the file's types; copying converts them to the model's, as users expect."""
    own = model.state_dict()
    return all(
        isinstance(value, torch.Tensor) and value.dtype == own[name].dtype
        for name, value in state.items()
        if name in own
    )
