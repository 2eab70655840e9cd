"""Small things handlers import by TorchServe's names: label mappings, class lookup, errors."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import logging
import os
import re
import warnings
from enum import Enum
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Type, Union

logger = logging.getLogger(__name__)

# Markup in text sent by browsers: tags, and named, decimal or hexadecimal character references.
CLEANUP_REGEX = re.compile("<.*?>|&([a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")


class PT2Backend(str, Enum):  # noqa: UP042 - StrEnum came with Python 3.11
    """Backends of `torch.compile` that TorchServe's model yaml may name."""

    EAGER = "eager"
    AOT_EAGER = "aot_eager"
    INDUCTOR = "inductor"
    NVFUSER = "nvfuser"
    AOT_NVFUSER = "aot_nvfuser"
    AOT_CUDAGRAPHS = "aot_cudagraphs"
    OFI = "ofi"
    FX2TRT = "fx2trt"
    ONNXRT = "onnxrt"
    IPEX = "ipex"
    TORCHXLA_TRACE_ONCE = "torchxla_trace_once"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    HPU_BACKEND = "hpu_backend"


class PredictionException(Exception):
    """Raised by a handler to answer requests with a status and a text of its own.

    Args:
        message: what the client reads.
        error_code: HTTP status.
        request_index: the number in the batch, or a list of numbers, of the requests that it is
            about: the others are run again without them. None for the whole batch.
    """

    def __init__(
        self,
        message: str,
        error_code: int = 500,
        request_index: Union[int, Sequence[int], None] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code
        self.request_index = request_index

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


def check_valid_pt2_backend(name: str) -> bool:
    """Whether ``name`` is one of `PT2Backend`; logs a warning when it is not."""
    if name in {backend.value for backend in PT2Backend}:
        return True
    logger.warning("%s is not a supported backend", name)
    return False


def list_classes_from_module(module: Any, parent_class: Optional[Type] = None) -> List[Type]:
    """Classes that are defined in ``module`` itself, by name, optionally of one family only."""
    return [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__
        and (parent_class is None or issubclass(cls, parent_class))
    ]


def get_yaml_config(yaml_file_path: str) -> Any:
    """Parse a yaml file with the safe loader.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not YAML; the text says where.
    """
    yaml = _yaml()
    with open(yaml_file_path, encoding="utf-8") as file:
        try:
            # libyaml, where there is one: each worker reads metrics.yaml.
            return yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise ValueError(
                f"{yaml_file_path} is not valid YAML: {' '.join(str(error).split())}"
            ) from error


@functools.lru_cache(maxsize=1)
def _yaml() -> Any:
    """The package yaml as it was before a model's folder was on the path, which may hold another
    module of that name."""
    import yaml

    return yaml


def load_label_mapping(mapping_file_path: str) -> Optional[Dict[str, str]]:
    """Read ``index_to_name.json``: class number as str to label.

    Three forms are known: ``{"0": "cat"}``, ``{"0": ["n02123045", "cat"]}`` (the last element is
    the label) and ``{"object_type_names": ["background", "cat"]}``.

    Returns:
        The mapping, or None with a warning where there is no file.

    Raises:
        ValueError: it is not JSON, or has another form.
    """
    if not os.path.isfile(mapping_file_path):
        logger.warning(
            "Missing the index_to_name.json file. Inference output will not include class name."
        )
        return None
    with open(mapping_file_path, encoding="utf-8") as file:
        try:
            mapping = json.load(file)
        except ValueError as error:
            raise ValueError(f"{mapping_file_path} is not valid JSON: {error}") from error
    if not isinstance(mapping, dict):
        raise ValueError(
            'index_to_name mapping should be in "class":"label" json format, '
            f"found {type(mapping).__name__} in {mapping_file_path}"
        )
    names = mapping.get("object_type_names")
    if isinstance(names, list):
        # TorchServe takes these as they are: the number 0 or null may stand for "nothing".
        return {str(index): _last(name) for index, name in enumerate(names)}
    return {key: _label(value) for key, value in mapping.items()}


def _last(value: Any) -> Any:
    return value[-1] if isinstance(value, list) and value else value


def _label(value: Any) -> str:
    label = _last(value)
    if not isinstance(label, str):
        raise ValueError(
            'labels in index_to_name must be either str or ["id", "label"] lists, '
            f"found {type(label).__name__}"
        )
    return label


def map_class_to_label(
    probs: List[Any],
    mapping: Optional[Dict[str, str]] = None,
    lbl_classes: Optional[Iterable[Any]] = None,
) -> List[Dict[str, float]]:
    """Turn rows of probabilities into one ``{label: probability}`` dict per row.

    Args:
        probs: ``[batch][k]``, a list of rows of any kind that can be iterated.
        mapping: class number as str to label; class numbers serve as labels without it.
        lbl_classes: ``[batch][k]`` class numbers, 0..k-1 by default.

    Raises:
        TypeError: probs is no list of rows, or the mapping no dict.
        KeyError: the mapping lacks a class.
    """
    if not (isinstance(probs, list) and all(hasattr(row, "__iter__") for row in probs)):
        raise TypeError("Convert the probabilities to a list of lists first: probs.tolist()")
    if mapping is not None and not isinstance(mapping, dict):
        raise TypeError(f"The mapping must be a dict, found {type(mapping).__name__}")
    if lbl_classes is None:
        lbl_classes = [itertools.count() for _ in probs]
    return [
        {
            (str(number) if mapping is None else mapping[str(number)]): prob
            for number, prob in zip(numbers, row)
        }
        for numbers, row in zip(lbl_classes, probs)
    ]


def deprecated(
    version: str,
    replacement: str = "",
    klass: Type[Warning] = PendingDeprecationWarning,
) -> Callable[[Callable], Callable]:
    """Decorate a function to warn on each call that it goes away in ``version``."""

    def decorate(function: Callable) -> Callable:
        instead = f", please use {replacement} instead" if replacement else ""
        text = f"{function.__name__} is deprecated and will be removed in {version}{instead}."

        @functools.wraps(function)
        def warned(*args: Any, **kwargs: Any) -> Any:
            warnings.warn(text, klass, stacklevel=2)
            return function(*args, **kwargs)

        return warned

    return decorate
