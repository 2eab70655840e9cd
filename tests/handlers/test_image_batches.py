"""Batches of images: to the bit what the transform makes of one image after the other."""

from __future__ import annotations

import io
import subprocess
import sys
import threading

import pytest
import torch
from PIL import Image
from torchvision import transforms

from tests.handlers.photos import photo
from ts.torch_handler import image_batches
from ts.torch_handler.image_batches import Crew, batch, steps_of
from ts.torch_handler.image_classifier import ImageClassifier
from ts.torch_handler.images import imagenet_transform, to_rgb

NORMALIZE = transforms.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])


def one_by_one(rows, transform) -> torch.Tensor:
    return torch.stack([transform(Image.open(io.BytesIO(row["body"]))) for row in rows])


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG")]
)
def test_a_batch_equals_torchvisions_images_to_the_bit(two_threads, mode, kind):
    transform = imagenet_transform()
    rows = [{"body": photo(w, h, mode, kind)} for w, h in ((300, 270), (270, 333), (90, 80))]
    found = batch(rows, transform, Crew(), False)
    assert torch.equal(found, one_by_one(rows, transform))
    assert found.is_contiguous()


def test_images_are_decoded_by_as_many_threads_as_torch_has(two_threads, monkeypatch):
    meeting = threading.Barrier(2, timeout=30)

    def opened(row):
        meeting.wait()  # nobody gets on alone
        return torch.zeros(3, 2, 2)

    monkeypatch.setattr(image_batches, "decoded", opened)
    crew = Crew()
    assert batch([{}] * 4, imagenet_transform(), crew, False).shape == (4, 3, 2, 2)
    torch.set_num_threads(1)
    names = []
    monkeypatch.setattr(
        image_batches,
        "decoded",
        lambda row: names.append(threading.current_thread()) or torch.zeros(3, 2, 2),
    )
    batch([{}] * 4, imagenet_transform(), crew, False)
    assert set(names) == {threading.current_thread()}


def test_a_child_that_a_handler_forks_has_threads_of_its_own():
    # In a process of its own: a fork of pytest would be one with pytest's threads.
    program = """
import os, torch
from ts.torch_handler.image_batches import Crew
torch.set_num_threads(2)
crew = Crew()
assert list(crew.map(abs, [-1, -2])) == [1, 2]
child = os.fork()
if not child:
    os._exit(list(crew.map(abs, [-3, -4])) != [3, 4])
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_step_of_the_users_own_runs_in_one_thread_and_in_order(two_threads):
    seen = []

    def own(image):
        seen.append((image.width, threading.current_thread()))
        return image.crop((0, 0, 8, 8))

    transform = transforms.Compose([own, transforms.ToTensor(), NORMALIZE])
    rows = [{"body": photo(width, 20)} for width in (30, 20, 40, 50)]
    found = batch(rows, transform, Crew(), False)
    here = threading.current_thread()
    assert seen == [(30, here), (20, here), (40, here), (50, here)]
    assert torch.equal(found, one_by_one(rows, transform))


class Brighter(transforms.Normalize):
    def forward(self, tensor):
        return super().forward(tensor) + 1


@pytest.mark.parametrize(
    "transform",
    [
        transforms.ToTensor(),
        transforms.Compose([transforms.ToTensor()]),
        transforms.Compose([transforms.ToTensor(), Brighter([0.5], [0.5])]),
        transforms.Compose([transforms.ToTensor(), NORMALIZE, lambda tensor: tensor * 2]),
        transforms.Compose([transforms.Grayscale(), transforms.ToTensor()]),
    ],
)
def test_any_other_transform_is_called_for_each_image(transform):
    assert steps_of(transform) is None
    rows = [{"body": photo(20, 10)}, {"body": photo(20, 10)}]
    assert torch.equal(batch(rows, transform, Crew(), False), one_by_one(rows, transform))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_modes_that_the_transform_leaves_are_finished_as_they_are(mode):
    mean = [0.5] * {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    last = [transforms.ToTensor(), transforms.Normalize(mean, mean)]
    transform = transforms.Compose([transforms.Resize((8, 6)), *last])
    rows = [{"body": photo(20, 10, mode)}, {"body": photo(31, 17, mode)}]
    found = batch(rows, transform, None, False)
    assert torch.equal(found, one_by_one(rows, transform))


def test_numbers_and_images_share_a_batch():
    numbers = torch.full((3, 224, 224), 0.25)
    rows = [{"body": numbers.tolist()}, {"body": photo(230, 230)}]
    found = batch(rows, imagenet_transform(), None, False)
    assert torch.equal(found[0], numbers)
    assert torch.equal(found[1:], one_by_one(rows[1:], imagenet_transform()))


def test_rows_that_fail_in_threads_are_to_blame(two_threads):
    rows = [{"body": photo(9, 9)}, {"body": b"none"}, {"body": photo(9, 9)}, {"body": b"none"}]
    with pytest.raises(OSError, match="cannot identify") as caught:
        batch(rows, imagenet_transform(), Crew(), False)
    assert caught.value.request_index == [1, 3]


def test_a_grey_image_among_coloured_ones_is_to_blame_for_three_means():
    transform = transforms.Compose([transforms.ToTensor(), NORMALIZE])
    rows = [{"body": photo(9, 9)}, {"body": photo(9, 9, "L")}]
    with pytest.raises(RuntimeError) as caught:
        batch(rows, transform, None, False)
    assert caught.value.request_index == [1]


def test_a_jpeg_is_decoded_at_a_reduced_scale_only_where_it_stays_large_enough():
    transform = transforms.Compose(
        [to_rgb, transforms.Resize(32), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
    )
    small, large, png = photo(200, 180), photo(200, 192), photo(200, 192, kind="PNG")
    for body, equal in ((small, True), (png, True), (large, False)):
        rows = [{"body": body}, {"body": body}]
        plain, reduced = (batch(rows, transform, None, flag) for flag in (False, True))
        assert reduced.shape == plain.shape
        assert torch.equal(reduced, plain) == equal
        assert (reduced - plain).abs().max() < 0.1


@pytest.mark.parametrize(
    ("first", "kept"),
    [
        ([to_rgb, transforms.Resize(50)], (300, 150)),
        ([transforms.Resize((40, 50))], (150, 120)),
        ([transforms.Resize([40])], None),
        ([transforms.Resize(50, max_size=60)], None),
        ([transforms.CenterCrop(50), transforms.Resize(20)], None),
        ([], None),
    ],
)
def test_what_a_jpeg_keeps_depends_on_the_first_resize(first, kept):
    steps = steps_of(transforms.Compose([*first, transforms.ToTensor(), NORMALIZE]))
    assert steps is not None
    assert image_batches.draft_size(steps, (1000, 500)) == kept


def test_a_handler_without_initialize_still_preprocesses():
    handler = ImageClassifier()
    handler.device = torch.device("cpu")
    rows = [{"body": photo(240, 240)}]
    assert torch.equal(handler.preprocess(rows), one_by_one(rows, imagenet_transform()))
