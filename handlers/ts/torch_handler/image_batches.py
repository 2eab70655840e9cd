"""A batch of images through a transform of torchvision's, in fewer steps and on several cores.

`vision_handler` calls it. What comes out equals the transform of one image after the other to the
bit, but where JPEGs are decoded at a reduced scale, which a model's yaml has to ask for.
"""

from __future__ import annotations

import base64
import io
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from PIL import Image
from torchvision import transforms

from ts.blame import each
from ts.torch_handler.images import to_rgb, to_rgb_or_grey

# Steps that may run in several threads: they look at nothing but their image.
_PLAIN = (transforms.Resize, transforms.CenterCrop, transforms.Grayscale, transforms.Pad)
_MODES = (to_rgb, to_rgb_or_grey)
_KEPT = 3


class Steps(NamedTuple):
    """A transform taken apart: ``first`` is for each image, the last two are for the batch."""

    first: List[Any]
    to_tensor: Any
    normalize: Any
    side_by_side: bool  # whether ``first`` may run in several threads

    def finish(self, pixels: Any) -> Any:
        """The last two steps for one image."""
        return self.normalize(self.to_tensor(pixels))


def steps_of(transform: Any) -> Optional[Steps]:
    """A `Compose` that ends with `ToTensor` and `Normalize`; None of any other transform.

    Subclasses of these do what they like, and are left alone.
    """
    steps: Sequence[Any] = transform.transforms if type(transform) is transforms.Compose else ()
    if len(steps) < 2 or (type(steps[-2]), type(steps[-1])) != _LAST:
        return None
    first = list(steps[:-2])
    plain = all(type(step) in _PLAIN or step in _MODES for step in first)
    return Steps(first, steps[-2], steps[-1], plain)


_LAST = (transforms.ToTensor, transforms.Normalize)


class Crew:
    """Threads that share a batch's images: decoding and resizing leave the interpreter to others.

    There are as many as torch computes with, which wait meanwhile; with one, nothing changes.
    """

    def __init__(self) -> None:
        self._pool: Optional[ThreadPoolExecutor] = None
        self._size = 0
        self._process = 0

    def map(self, function: Callable[[Any], Any], rows: Sequence[Any]) -> Iterable[Any]:
        """As the builtin, but the calls may come all at once."""
        count = min(torch.get_num_threads(), len(rows))
        if count < 2:
            return map(function, rows)
        # A child that the handler forks has the pool, but none of its threads.
        if self._pool is None or self._size < count or self._process != os.getpid():
            self._pool = ThreadPoolExecutor(count, "images")
            self._size, self._process = count, os.getpid()
        return self._pool.map(function, rows)


def decoded(row: Any) -> Any:
    """A row's picture, not yet read to its end, or a tensor where it is nested lists of numbers."""
    image = row.get("data") or row.get("body")
    if isinstance(image, str):
        image = base64.b64decode(image)
    if isinstance(image, (bytes, bytearray)):
        return Image.open(io.BytesIO(image))
    return torch.FloatTensor(image)


def batch(rows: Sequence[Any], transform: Any, crew: Optional[Crew], reduce: bool) -> Any:
    """A tensor ``[batch][channels][height][width]`` of the rows' images.

    Args:
        crew: None to use no threads.
        reduce: decode JPEGs at a reduced scale where the transform makes them smaller still.

    Raises:
        Exception: what can't be read or transformed; it blames these rows, see `ts.blame`.
    """
    steps = steps_of(transform)
    if steps is None:
        return torch.stack(each(lambda row: whole(decoded(row), transform), rows))
    mapping = crew.map if crew is not None and steps.side_by_side else map
    found = each(lambda row: _pixels(decoded(row), steps, reduce), rows, mapping)
    shapes = {None if isinstance(item, torch.Tensor) else item.shape for item in found}
    if len(shapes) == 1 and None not in shapes:
        return _normalized(found, steps.normalize)
    finished = each(lambda item: whole(item, steps.finish), found)
    return torch.stack(finished)


def whole(image: Any, transform: Any) -> Any:
    """A transformed image; numbers stay as they are."""
    return image if isinstance(image, torch.Tensor) else transform(image)


def _pixels(image: Any, steps: Steps, reduce: bool) -> Any:
    """An array of bytes ``[height][width][channels]``, or the finished tensor of another image."""
    if isinstance(image, torch.Tensor):
        return image
    target = draft_size(steps, image.size) if reduce else None
    if target is not None:
        image.draft(image.mode, target)
    for step in steps.first:
        image = step(image)
    if not isinstance(image, Image.Image) or image.mode not in ("RGB", "L"):
        return steps.finish(image)
    import numpy  # as ToTensor does

    return numpy.array(image).reshape(image.height, image.width, -1)


def _normalized(images: Sequence[Any], normalize: Any) -> Any:
    """What `ToTensor` and `Normalize` make of each, at once: they treat each number alone."""
    import numpy

    pixels = torch.from_numpy(numpy.stack(images)).permute(0, 3, 1, 2).contiguous()
    numbers = pixels.to(torch.get_default_dtype()).div_(255)
    return transforms.Normalize(normalize.mean, normalize.std, inplace=True)(numbers)


def draft_size(steps: Steps, size: Tuple[int, int]) -> Optional[Tuple[int, int]]:
    """The width and height that a JPEG of this size keeps at least in decoding: three times those
    of the result, with which the best classes of photos stayed the same (benchmarks/NOTES.md).

    None where the transform does not begin with a plain `Resize`: it may look at all pixels.
    """
    resize: Any = next((step for step in steps.first if step not in _MODES), None)
    if type(resize) is not transforms.Resize or resize.max_size is not None:
        return None
    if not isinstance(resize.size, int):
        width, height = resize.size[-1], resize.size[0]
        return (width * _KEPT, height * _KEPT) if len(resize.size) == 2 else None
    width, height = (side * resize.size * _KEPT // min(size) for side in size)
    return width, height
