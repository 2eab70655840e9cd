"""Convolutional models made quicker on a CPU, as long as their answers stay what they were.

Batch norms are folded into the convolutions before them, and the channels of a pixel lie together
in memory, which oneDNN's kernels prefer. Both only change how sums are rounded. Called by
`vision_handler`.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
import torch.fx
from torch import nn

from ts.deprecations import torchscript_warning_hidden

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5  # of the largest number, or of 1 where that is more
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def quicker(model: Any, samples: Callable[[], Any], answers: Callable[[Any], Any]) -> Optional[Any]:
    """A model that answers the same in less time, or None where there is none.

    Args:
        model: on the CPU and in evaluation mode. It is not changed, and shares its other weights
            with what is returned; the convolutions' are copied.
        samples: makes an input, images as the model will get them.
        answers: what becomes of the model's output; it is compared as well.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        made = _frozen(model) if isinstance(model, torch.jit.ScriptModule) else _folded(model)
        if made is None:
            return None
        with torch.inference_mode():
            probe = samples()
            before, after = model(probe), made(probe)
            apart = [_distance(before, after), _distance(answers(before), answers(after))]
    except Exception as error:  # a model may do anything when it is traced or probed
        logger.info("The model runs as it is: %s", f"{type(error).__name__}: {error}"[:200])
        return None
    if not all(distance <= TOLERANCE for distance in apart):  # nan is not, either
        logger.info("The model runs as it is: folded, its answers are %.1e apart", max(apart))
        return None
    logger.info("The model runs folded; its answers are within %.1e", max(apart))
    return made


class _ChannelsLast(nn.Module):
    """Hands a model its images with the channels of a pixel side by side."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(images, torch.Tensor) and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.model(images, *args, **kwargs)


def _frozen(model: Any) -> Any:
    with torchscript_warning_hidden():
        return _ChannelsLast(torch.jit.freeze(model)).eval()


def _folded(model: Any) -> Optional[Any]:
    """The model's graph without its batch norms, as far as they follow a convolution.

    Raises:
        Exception: there is no graph: what the model does depends on its input.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.fx.GraphModule):
        return None
    modules = list(model.modules())
    if not any(type(module) in _CONVOLUTIONS for module in modules) or any(map(_watched, modules)):
        return None
    traced = torch.fx.symbolic_trace(model)
    for convolution, norm in _pairs(traced):
        _fold(traced, convolution, norm)
    traced.recompile()
    for name, module in list(traced.named_modules()):
        if type(module) in _CONVOLUTIONS:
            _replace(traced, name, _convolution(module, module.weight, module.bias))
    return _ChannelsLast(traced).eval()


def _watched(module: Any) -> bool:
    return any(getattr(module, name, None) for name in _HOOKS)


def _pairs(traced: Any) -> List[Tuple[Any, Any]]:
    """Nodes of convolutions and of the batch norms that alone use what they compute."""
    modules: Dict[str, Any] = dict(traced.named_modules(remove_duplicate=False))
    called = [node for node in traced.graph.nodes if node.op == "call_module"]
    uses = Counter(id(modules[node.target]) for node in called)
    found = []
    for node in called:
        before: Any = node.args[0] if len(node.args) == 1 else None
        if type(modules[node.target]) is not nn.BatchNorm2d or before not in called:
            continue
        convolution = modules[before.target]
        once = uses[id(convolution)] == 1 and uses[id(modules[node.target])] == 1
        if type(convolution) is nn.Conv2d and once and len(before.users) == 1:
            found.append((before, node))
    return found


def _fold(traced: Any, convolution: Any, norm: Any) -> None:
    conv, bn = traced.get_submodule(convolution.target), traced.get_submodule(norm.target)
    weight, bias = nn.utils.fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    _replace(traced, convolution.target, _convolution(conv, weight, bias))
    norm.replace_all_uses_with(convolution)
    traced.graph.erase_node(norm)


def _convolution(like: Any, weight: Any, bias: Any) -> Any:
    """The same convolution with other weights. Its own, which may be large, are not copied on the
    way: freed memory does not always go back."""
    made = copy.copy(like)
    made._parameters = dict(like._parameters)
    weight = weight.detach().contiguous(memory_format=torch.channels_last)
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = bias
    return made


def _replace(traced: Any, target: str, module: Any) -> None:
    parent, _, name = target.rpartition(".")
    setattr(traced.get_submodule(parent), name, module)


def _distance(before: Any, after: Any) -> float:
    """How far two outputs are apart; infinitely where they are of different kinds."""
    if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        scale = max(1.0, float(before.abs().max()))
        return float((before - after).abs().max()) / scale
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        return _distance(list(before.values()), list(after.values()))
    sequence = isinstance(before, (list, tuple)) and isinstance(after, (list, tuple))
    if not sequence or len(before) != len(after):
        return float("inf")
    apart = [_distance(*pair) for pair in zip(before, after)]
    return max(apart, key=lambda distance: (distance != distance, distance), default=float("inf"))
