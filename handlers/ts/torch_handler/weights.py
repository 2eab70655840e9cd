"""Reading a model's weights into a module: safely, and shared between workers where possible."""

from __future__ import annotations

import inspect
import os
import pickle
import zipfile
from typing import Any, Dict, NoReturn

import torch

from ts.failures import refused_pickle


def load_into(model: Any, path: str, map_location: Any, shareable: bool) -> None:
    """Fill ``model`` from a file written by `torch.save(model.state_dict(), path)`.

    Args:
        model: a module, or anything with a `load_state_dict` of its own.
        map_location: device to read to.
        shareable: nobody rewrites the file in place, so its pages may be mapped instead of
            copied; all workers of a model then share one copy of its weights.

    Raises:
        ValueError: the file holds something else; the text names the cure.
        RuntimeError: the names or shapes differ from the model's.
    """
    mapped = shareable and _can_map(path) and str(map_location) == "cpu"
    state = read(path, map_location, mapped)
    if mapped and _fits(model, state):
        _share(model, state)
        return
    try:
        model.load_state_dict(state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        _explain(error, path, state)


def _explain(error: Exception, path: str, state: Any) -> NoReturn:
    """Say what is wrong with the file, where that is plain; else the error stays as it is."""
    if not isinstance(state, dict):
        raise ValueError(
            f"{path} holds a {type(state).__name__}, not weights. "
            "Save the weights alone: torch.save(model.state_dict(), path)"
        ) from error
    if isinstance(state.get("state_dict"), dict):
        raise ValueError(
            f"{path} is a training checkpoint, its weights are under the key 'state_dict'. "
            "Save them alone: torch.save(checkpoint['state_dict'], path)"
        ) from error
    raise error


def read(path: str, map_location: Any, mapped: bool = False) -> Any:
    """`torch.load` that runs no code from the file.

    The environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1, which is torch's own, lets
    files in that hold arbitrary pickled objects. The server sets it for a model that was registered
    with ``weights_only=false``.
    """
    force = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "").lower()
    trusted = force in ("1", "y", "yes", "true")
    options: Dict[str, Any] = {"mmap": True} if mapped else {}
    try:
        return torch.load(path, map_location=map_location, weights_only=not trusted, **options)
    except _UNREADABLE as error:
        if not _was_saved(path):
            raise ValueError(
                f"{path} ({os.path.getsize(path)} bytes) is damaged, or no file of torch.save: "
                f"{' '.join(f'{type(error).__name__} {error}'.split())[:200]}. Save it again."
            ) from error
        if not isinstance(error, pickle.UnpicklingError):
            raise
        raise ValueError(
            f"{path} holds Python objects beside tensors, which loading does not run: "
            f"{refused_pickle(error) or error}"
        ) from error


# What torch.load raises for files that are not its own, or cut off.
_UNREADABLE = (pickle.UnpicklingError, EOFError, RuntimeError, LookupError, ValueError)


def _was_saved(path: str) -> bool:
    """Whether it looks whole: a zip file with its end, or a pickle, which older versions wrote."""
    with open(path, "rb") as file:
        start = file.read(2)
    return zipfile.is_zipfile(path) or (len(start) == 2 and start[0] == 0x80)


def _can_map(path: str) -> bool:
    """Whether this torch maps files (2.1 on) and the file is in the zip format that it maps."""
    return (
        "mmap" in inspect.signature(torch.load).parameters
        and not os.path.islink(path)
        and zipfile.is_zipfile(path)
    )


# Methods and hooks by which a module takes part in loading; ours would pass them by.
_LOADING = ("load_state_dict", "_load_from_state_dict", "state_dict", "_save_to_state_dict")
_HOOKS = ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_state_dict_hooks")


def _fits(model: Any, state: Any) -> bool:
    """Whether loading means nothing but copying each tensor to its equal in the model."""
    if not isinstance(model, torch.nn.Module) or not isinstance(state, dict):
        return False
    if not all(_loads_plainly(module) for module in model.modules()):
        return False
    own = model.state_dict(keep_vars=True)
    return own.keys() == state.keys() and all(
        _alike(tensor, state[name]) for name, tensor in own.items()
    )


def _loads_plainly(module: torch.nn.Module) -> bool:
    if any(getattr(module, name, None) for name in _HOOKS):
        return False
    for name in _LOADING:
        method = getattr(type(module), name)
        # torch's own layers override some of them for files of older versions only.
        if name in vars(module) or not method.__module__.startswith("torch.nn.modules."):
            return False
    return True


def _alike(own: Any, new: Any) -> bool:
    """Copying would convert another type, and refuse another shape."""
    return (
        type(own) in (torch.Tensor, torch.nn.Parameter)
        and isinstance(new, torch.Tensor)
        and own.device == new.device
        and own.dtype == new.dtype
        and own.layout == new.layout
        and own.shape == new.shape
        and not _viewed(own)
    )


def _viewed(tensor: torch.Tensor) -> bool:
    """Whether other tensors look at the same memory: they would go on seeing the old values."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    if count is None:
        return False
    fresh = torch.empty(1)  # what a tensor and this look at it count for
    alone, found = fresh.untyped_storage(), tensor.untyped_storage()
    return bool(count(found._cdata) > count(alone._cdata))


def _share(model: torch.nn.Module, state: Dict[str, Any]) -> None:
    """Point the model's tensors to the mapped pages; copying would make them private again.

    The parameters stay the same objects: models keep them in lists of their own, too.
    """
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data = state[name].detach()
