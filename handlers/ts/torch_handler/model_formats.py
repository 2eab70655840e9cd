"""One loader per kind of model file: eager, TorchScript, torch.export, AOTInductor and ONNX."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import zipfile
from typing import Any, List, Optional, Sequence

import torch

from ts.deprecations import torchscript_warning_hidden
from ts.model_modules import import_own
from ts.torch_handler import weights
from ts.utils.util import list_classes_from_module

logger = logging.getLogger(__name__)

_TORCHSCRIPT = "a TorchScript archive"
_EXPORTED = "a torch.export archive"
_AOT = "an AOTInductor package"
_STATE_DICT = "weights without a model (torch.save)"


def load_eager(
    model_dir: str, model_file: str, weights_path: Optional[str], device: Any
) -> torch.nn.Module:
    """Build the one class of ``model_file`` without arguments and fill it with the weights.

    Raises:
        RuntimeError: the file is missing, with TorchServe's text.
        ValueError: it defines no class or several, or the weights are no state_dict.
    """
    path = os.path.join(model_dir, model_file)
    if not os.path.isfile(path):
        raise RuntimeError(f"Missing the model.py file: {path}")
    if model_dir not in sys.path:
        sys.path.insert(0, model_dir)
    module = import_own(model_file.split(".")[0], model_dir)
    classes = list_classes_from_module(module)
    if len(classes) != 1:
        names = ", ".join(cls.__name__ for cls in classes)
        raise ValueError(
            f"Expected only one class as model definition. [{names}] in {model_file}: "
            "move helper classes to a file of their own and pack it with --extra-files"
        )
    model: torch.nn.Module = classes[0]()
    if weights_path:
        shareable = not os.path.islink(model_dir)
        weights.load_into(model, weights_path, device, shareable)
    return model


def load_torchscript(path: str, device: Any) -> Any:
    """`torch.jit.load` without the note that it is deprecated.

    Raises:
        ValueError: the file is of another kind; the text says how to pack that one.
    """
    kind = kind_of(path)
    if kind != _TORCHSCRIPT:
        raise ValueError(f"{path} is not a TorchScript archive but {kind}. {_cure(kind)}")
    if importlib.util.find_spec("torch_tensorrt") is not None:
        importlib.import_module("torch_tensorrt")  # registers the operators of such archives
    with torchscript_warning_hidden():
        return torch.jit.load(path, map_location=device)


def load_exported(path: str, device: Any) -> Any:
    """The callable module of a ``.pt2`` file, of `torch.export` or of AOTInductor."""
    kind = kind_of(path)
    if kind == _AOT:
        return _load_aot_package(path, device)
    if kind != _EXPORTED:
        raise ValueError(f"{path} is not a torch.export archive but {kind}. {_cure(kind)}")
    if not hasattr(torch, "export"):
        raise RuntimeError(
            f"{path} is a torch.export archive, which torch {torch.__version__} cannot load; "
            "install torch 2.1 or later in the model's environment"
        )
    program = torch.export.load(path)
    if device.type != "cpu" or any(
        tensor.device != device for tensor in program.state_dict.values()
    ):
        program = _moved(program, device)
    return program.module()


def load_aot_library(path: str, map_location: Optional[str], device: Any) -> Any:
    """A shared library that `torch._export.aot_compile` wrote."""
    if map_location == "cuda":
        torch.cuda.set_device(device)
    return torch._export.aot_load(path, map_location or "cpu")


def onnx_session(path: str, map_location: Optional[str]) -> Any:
    """An onnxruntime session on the GPU where one is assigned, else on the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeError(
            f"{path} needs the package onnxruntime in the model's environment: "
            "pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    # torch's number of threads is this worker's share of the machine.
    options.intra_op_num_threads = torch.get_num_threads()
    wanted = ["CPUExecutionProvider"]
    if map_location == "cuda":
        wanted.insert(0, "CUDAExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    return onnxruntime.InferenceSession(path, sess_options=options, providers=providers)


def is_onnx_session(model: Any) -> bool:
    """Whether ``model`` runs in onnxruntime rather than in torch."""
    return type(model).__module__.partition(".")[0] == "onnxruntime"


def run_onnx(session: Any, inputs: Sequence[Any], device: Any) -> Any:
    """Run a session on tensors.

    Args:
        inputs: tensors in the order of the session's inputs.

    Returns:
        A tensor on ``device``, or a tuple of them where the model has several outputs.
    """
    names = [item.name for item in session.get_inputs()]
    feed = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, inputs)}
    outputs = tuple(torch.as_tensor(output, device=device) for output in session.run(None, feed))
    return outputs[0] if len(outputs) == 1 else outputs


def kind_of(path: str) -> str:
    """What a model file really is, whatever its name: read from its table of contents."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"The model file {path} does not exist; pack it again")
    if not zipfile.is_zipfile(path):
        return "no zip file: damaged, or saved in torch's format of before 1.6"
    with zipfile.ZipFile(path) as archive:
        return _kind(archive.namelist())


def _kind(names: List[str]) -> str:
    """All kinds are zip files; each has members that the others lack."""
    # Members lie under a folder named after the file, except in old torch.export archives.
    members = {name.partition("/")[2] for name in names} | set(names)
    if any(name.startswith("data/aotinductor/") for name in members):
        return _AOT
    if "serialized_exported_program.json" in members or "archive_format" in members:
        return _EXPORTED
    if "constants.pkl" in members:
        return _TORCHSCRIPT
    return _STATE_DICT if "data.pkl" in members else "a zip file of an unknown kind"


def _cure(kind: str) -> str:
    return {
        _TORCHSCRIPT: "Name it .pt.",
        _EXPORTED: "Name it .pt2.",
        _AOT: "Name it .pt2.",
        _STATE_DICT: "Pack the model's class beside it with --model-file, or save the whole "
        "model with torch.export.save.",
    }.get(kind, "Save it again with torch.export.save as a .pt2 file.")


def _load_aot_package(path: str, device: Any) -> Any:
    from torch import _inductor

    load = getattr(_inductor, "aoti_load_package", None)
    if load is None:
        raise RuntimeError(
            f"{path} is an AOTInductor package, which torch {torch.__version__} cannot load; "
            "install torch 2.6 or later in the model's environment"
        )
    if getattr(device, "type", None) == "cuda":
        torch.cuda.set_device(device)
    return load(path)


def _moved(program: Any, device: Any) -> Any:
    """An exported program has its device written into its graph."""
    try:
        from torch.export.passes import move_to_device_pass
    except ImportError:
        logger.warning(
            "torch %s cannot move an exported program to %s: it stays where it was exported",
            torch.__version__,
            device,
        )
        return program
    return move_to_device_pass(program, device)
