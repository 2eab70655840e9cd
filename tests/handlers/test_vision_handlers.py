"""The image handlers, on real images and small models."""

from __future__ import annotations

import base64
import io
import json
import sys

import pytest
import torch
from PIL import Image

from tests.handlers.torch_files import save_exported, save_script
from ts.prediction import dumps
from ts.torch_handler.densenet_handler import DenseNetHandler
from ts.torch_handler.image_classifier import ImageClassifier
from ts.torch_handler.object_detector import ObjectDetector


class Means(torch.nn.Module):
    """Scores of three classes: the means of red, green and blue."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=[2, 3]) * 10


class Pixels(torch.nn.Module):
    """A segmentation: each pixel's class is its strongest colour."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": x * 10}


DETECTOR_PY = """
import torch

class Detector(torch.nn.Module):
    def forward(self, images):
        found = []
        for image in images:
            height, width = float(image.shape[1]), float(image.shape[2])
            found.append({
                "boxes": torch.tensor([[0.0, 0.0, width, height], [1.0, 1.0, 2.0, 2.0]]),
                "labels": torch.tensor([2, 1]),
                "scores": torch.tensor([0.75, 0.25]),
            })
        return found
"""
LABELS = json.dumps({"0": ["n0", "red"], "1": ["n1", "green"], "2": ["n2", "blue"]})


def image(colour, size=(300, 260), mode="RGB", kind="PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def classifier(load, model_dir):
    folder = model_dir({"index_to_name.json": LABELS}, serializedFile="m.pt")
    save_script(Means(), folder / "m.pt")
    return load(folder, "image_classifier")


def answers(outcome) -> list:
    assert outcome.code == 200, outcome
    return [json.loads(prediction.body) for prediction in outcome.predictions]


def test_a_batch_of_images_in_every_form(classifier, infer):
    red, green, blue = (image(colour) for colour in ("red", "green", "blue"))
    rows = [
        {"data": bytearray(red)},
        {"body": green},
        {"body": base64.b64encode(blue).decode()},
        {"body": torch.full((3, 224, 224), 0.5).tolist()},
    ]
    found = answers(infer(classifier, *rows))
    assert [next(iter(row)) for row in found[:3]] == ["red", "green", "blue"]
    # topk is 5; the model has three classes.
    assert [len(row) for row in found] == [3, 3, 3, 3]
    for row in found:
        assert list(row.values()) == sorted(row.values(), reverse=True)
        assert sum(row.values()) == pytest.approx(1)


def test_the_answer_equals_torch_and_is_two_blanks_json(classifier, infer):
    outcome = infer(classifier, {"body": image("red")})
    tensor = ImageClassifier.image_processing(Image.new("RGB", (300, 260), "red"))
    scores = torch.softmax(Means()(tensor.unsqueeze(0)), dim=1)[0]
    expected = dict(zip(["red", "green", "blue"], scores.tolist(), strict=True))
    (answer,) = answers(outcome)
    assert answer == pytest.approx(expected)
    assert outcome.predictions[0].body == dumps(answer).encode()


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("CMYK", "JPEG")]
)
def test_images_of_every_mode_are_classified(classifier, infer, mode, kind):
    (answer,) = answers(infer(classifier, {"body": image("red", mode=mode, kind=kind)}))
    assert sum(answer.values()) == pytest.approx(1)
    assert mode == "L" or next(iter(answer)) == "red"


def test_what_is_no_image_fails_the_batch(classifier, infer, caplog):
    outcome = infer(classifier, {"body": b"no image"})
    assert (outcome.code, outcome.message) == (503, "Prediction failed")
    assert "cannot identify image file" in str(caplog.records[-1].exc_info[1])


@pytest.mark.parametrize("handler", ["image_classifier", "image_segmenter", "object_detector"])
def test_rows_that_are_no_images_are_to_blame_alone(load, model_dir, infer, caplog, handler):
    folder = model_dir({"index_to_name.json": LABELS}, serializedFile="m.pt")
    save_script(Means(), folder / "m.pt")
    good, odd = {"body": image("red")}, {"data": "not base64!"}
    outcome = infer(load(folder, handler), good, {"body": b"no image"}, good, odd, {})
    assert outcome[:2] == (503, "Prediction failed")
    assert outcome.blamed == (1, 3, 4)
    assert "Invoking custom service failed. (request id1, id3, id4)" in caplog.messages
    assert any(text.startswith("Row 3 of the batch: Error: ") for text in caplog.messages)


def test_a_row_whose_client_is_told_something_else_is_run_again(load, model_dir, infer):
    source = """
from ts.torch_handler.image_classifier import ImageClassifier
from ts.utils.util import PredictionException

def transform(image):
    raise PredictionException(f"{image.width} pixels", 422)

class Strict(ImageClassifier):
    image_processing = staticmethod(transform)
"""
    folder = model_dir({"strict.py": source}, serializedFile="m.pt")
    save_script(Means(), folder / "m.pt")
    small, large = ({"body": image("red", (width, 9))} for width in (4, 5))
    outcome = infer(load(folder, "strict"), small, large, small, {"body": b"no image"})
    assert (outcome.message, outcome.blamed) == ("4 pixels", (0, 2))


def test_memory_that_ran_out_is_no_rows_fault(classifier, infer, monkeypatch):
    def run_out(image):
        raise MemoryError

    monkeypatch.setattr(ImageClassifier, "image_processing", staticmethod(run_out))
    outcome = infer(classifier, {"body": image("red")}, {"body": image("red")})
    assert (outcome.code, outcome.blamed) == (507, ())


def test_the_number_of_classes_can_be_set():
    handler = ImageClassifier()
    assert handler.get_max_result_classes() == 5
    handler.set_max_result_classes(2)
    assert [len(row) for row in handler.postprocess(torch.zeros(2, 7))] == [2, 2]
    assert ImageClassifier.topk == 5


def test_without_a_mapping_class_numbers_are_the_labels():
    assert ImageClassifier().postprocess(torch.tensor([[0.0, 9.0]]))[0].keys() == {"1", "0"}


def test_the_size_bound_of_pillow_is_lifted_on_request(load, model_dir, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    folder = model_dir(serializedFile="m.pt")
    save_script(Means(), folder / "m.pt")
    load(folder, "image_classifier")
    assert Image.MAX_IMAGE_PIXELS == 100
    load(folder, "image_classifier", limit_max_image_pixels=False)
    assert Image.MAX_IMAGE_PIXELS is None


def test_an_explanation_has_the_images_shape(classifier, infer):
    pytest.importorskip("captum")
    row = {"body": image("red"), "target": 0}
    (answer,) = answers(infer(classifier, row, headers=[{"explain": "True"}]))
    assert torch.tensor(answer).shape == (3, 224, 224)
    # Only the red channel speaks for the class red.
    assert [bool(torch.tensor(channel).any()) for channel in answer] == [True, False, False]


def test_without_captum_explanations_say_what_is_missing(classifier, infer, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    outcome = infer(classifier, {"body": image("red")}, headers=[{"explain": "True"}])
    assert outcome.code == 501
    assert "pip install captum" in outcome.message
    assert infer(classifier, {"body": image("red")}).code == 200


def test_a_handler_may_bring_its_own_attribution():
    handler = ImageClassifier()
    handler.ig = mine = object()
    assert handler.ig is mine


def test_segmentation_gives_a_class_and_a_probability_per_pixel(load, model_dir, infer):
    folder = model_dir(serializedFile="m.pt2")
    save_exported(Pixels(), folder / "m.pt2", torch.zeros(2, 3, 224, 224))
    service = load(folder, "image_segmenter")
    outcome = infer(service, {"body": image("blue")}, {"body": image("red")})
    first, second = (torch.tensor(answer) for answer in answers(outcome))
    assert first.shape == second.shape == (224, 224, 2)
    assert first[..., 0].unique().tolist() == [2.0]
    assert second[..., 0].unique().tolist() == [0.0]
    assert bool((first[..., 1] > 0.9).all())


def test_detection_keeps_good_boxes_of_images_of_any_size(load, model_dir, infer):
    names = json.dumps({"object_type_names": ["none", "cat", "dog"]})
    folder = model_dir({"model.py": DETECTOR_PY, "index_to_name.json": names}, modelFile="model.py")
    service = load(folder, "object_detector")
    rows = [{"body": image("red", (30, 20))}, {"body": image("red", (10, 40))}]
    assert answers(infer(service, *rows)) == [
        [{"dog": [0.0, 0.0, 30.0, 20.0], "score": 0.75}],
        [{"dog": [0.0, 0.0, 10.0, 40.0], "score": 0.75}],
    ]
    (alone,) = answers(infer(service, {"body": image("red", (30, 20), mode="L")}))
    assert alone == [{"dog": [0.0, 0.0, 30.0, 20.0], "score": 0.75}]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("P", 3), ("CMYK", 3)])
def test_detection_leaves_grey_images_grey(mode, channels):
    picture = Image.open(io.BytesIO(image("red", mode=mode, kind="TIFF")))
    assert ObjectDetector.image_processing(picture).shape[0] == channels


def test_a_detection_is_timed_once(load, model_dir, infer, caplog):
    caplog.set_level("INFO", "ts.metrics.caching_metric")
    files = {"model.py": DETECTOR_PY, "c.yaml": "handler: {profile: true}"}
    folder = model_dir(files, modelFile="model.py", configFile="c.yaml")
    infer(load(folder, "object_detector"), {"body": image("red", (30, 20))})
    names = [record.metric[0] for record in caplog.records if hasattr(record, "metric")]
    assert names.count("ts_handler_inference") == 1


def test_densenet_takes_and_gives_saved_tensors(load, model_dir, infer):
    folder = model_dir(serializedFile="m.pt")
    save_script(Means(), folder / "m.pt")
    service = load(folder, "densenet_handler")
    rows = []
    for size, value in ((4, 1.0), (4, 2.0), (8, 3.0)):
        stream = io.BytesIO()
        torch.save(torch.full((3, size, size), value), stream)
        rows.append({"body": bytearray(stream.getvalue())})
    # One row as TorchServe answers it, one batch of a size, and rows of two sizes.
    for batch, expected in ((rows[:1], [10]), (rows[:2], [10, 20]), (rows, [10, 20, 30])):
        outcome = infer(service, *batch)
        assert outcome.code == 200
        found = [torch.load(io.BytesIO(answer.body)).tolist() for answer in outcome.predictions]
        assert found == [[[number] * 3] for number in expected]


def test_densenet_blames_rows_that_are_no_saved_tensors():
    handler = DenseNetHandler()
    stream = io.BytesIO()
    torch.save(torch.zeros(2), stream)
    with pytest.raises(Exception, match=r"weights_only|pickle") as caught:
        handler.preprocess([{"body": stream.getvalue()}, {"body": b"no tensor"}, {}])
    assert caught.value.request_index == [1, 2]


def test_densenet_calls_the_model_once_for_a_batch():
    handler = DenseNetHandler()
    handler.device, calls = torch.device("cpu"), []
    handler.model = lambda batch: calls.append(batch.shape) or batch
    rows = []
    for _ in range(2):
        stream = io.BytesIO()
        torch.save(torch.ones(3), stream)
        rows.append({"data": stream.getvalue()})
    handler.postprocess(handler.inference(handler.preprocess(rows)))
    assert calls == [(2, 3)]
