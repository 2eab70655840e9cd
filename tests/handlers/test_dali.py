"""The DALI handlers against a stand-in for nvidia.dali: what is built, fed and answered."""

from __future__ import annotations

import base64
import contextlib
from typing import ClassVar

import pytest
import torch

from tests.handlers.optional_packages import pretend
from ts.context import Context
from ts.handler_utils.preprocess.dali import get_dali_pipeline
from ts.torch_handler.dali_handler import DALIHandler
from ts.torch_handler.dali_image_classifier import DALIImageClassifier
from ts.torch_handler.image_classifier import ImageClassifier

SECTION = {"batch_size": 4, "num_threads": 2, "device_id": 0, "seed": 12}


class Tensors:
    """DALI's list of output tensors; also the dense tensor it turns into."""

    dtype = "FLOAT"

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def as_tensor(self):
        return self

    def shape(self):
        return list(self.values.shape)


class Pipeline(contextlib.AbstractContextManager):
    made: ClassVar[list[Pipeline]] = []

    def __init__(self, **options):
        self.options = options
        self.fed: list = []
        self.built = False
        self.output = None
        Pipeline.made.append(self)

    def __exit__(self, *error):
        return None

    @classmethod
    def deserialize(cls, filename, **options):
        return cls(filename=filename, **options)

    def set_outputs(self, output):
        self.output = output

    def build(self):
        self.built = True

    def feed_input(self, name, batch):
        assert name == "my_source"
        self.fed.append([bytes(image) for image in batch])

    def run(self):
        # An image of one pixel in five scores: its first byte is the best class.
        rows = [[10.0 * (place == image[0]) for place in range(5)] for image in self.fed[-1]]
        return (Tensors(torch.tensor(rows)),)


class Operators:
    """Records the operators by name, outermost last."""

    def __init__(self):
        self.calls: list[tuple[str, dict]] = []
        self.decoders = self

    def __getattr__(self, name):
        return lambda *inputs, **options: self.calls.append((name, options)) or name


@pytest.fixture
def dali(monkeypatch):
    Pipeline.made = []
    operators = Operators()
    pretend(monkeypatch, "nvidia.dali", Pipeline=Pipeline)
    pretend(monkeypatch, "nvidia.dali.pipeline", Pipeline=Pipeline)
    module = pretend(monkeypatch, "nvidia.dali.fn")
    for name in ("external_source", "resize", "crop_mirror_normalize", "decoders"):
        setattr(module, name, getattr(operators, name))
    pretend(monkeypatch, "nvidia.dali.types", UINT8="uint8", FLOAT="float", RGB="rgb")
    pretend(
        monkeypatch,
        "nvidia.dali.plugin.pytorch",
        to_torch_type={"FLOAT": torch.float32},
        feed_ndarray=lambda source, target: target.copy_(source.values),
    )
    return operators


def context(folder, **yaml):
    return Context("images", str(folder), None, 4, None, "0", model_yaml_config=yaml)


def test_without_a_file_it_is_imagenets_pipeline(tmp_path, dali):
    pipeline = get_dali_pipeline(context(tmp_path, dali=SECTION))
    assert pipeline.built
    assert pipeline.options.items() >= SECTION.items()
    assert pipeline.output == "crop_mirror_normalize"
    calls = dict(dali.calls)
    assert calls["external_source"] == {"device": "cpu", "name": "my_source", "dtype": "uint8"}
    assert calls["image"] == {"device": "mixed", "output_type": "rgb"}
    assert calls["resize"] == {"resize_shorter": 256}
    crop = calls["crop_mirror_normalize"]
    assert crop["crop"] == (224, 224)
    assert crop["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert crop["std"] == pytest.approx([58.395, 57.12, 57.375])
    get_dali_pipeline(context(tmp_path, dali={**SECTION, "device_id": None}))
    assert dali.calls[5][1]["device"] == "cpu"


def test_a_pipeline_file_is_read_from_the_archive(tmp_path, dali):
    (tmp_path / "mine.dali").write_text("")
    pipeline = get_dali_pipeline(context(tmp_path, dali={**SECTION, "pipeline_file": "mine.dali"}))
    assert pipeline.options["filename"] == str(tmp_path / "mine.dali")
    assert pipeline.options.items() >= SECTION.items()
    assert pipeline.built


@pytest.mark.parametrize(
    ("yaml", "text"),
    [
        ({}, "no section dali"),
        ({"dali": {"batch_size": 1}}, "lacks num_threads, device_id"),
        ({"dali": {**SECTION, "pipeline_file": "absent"}}, "no file absent"),
    ],
)
def test_what_the_yaml_lacks_is_named(tmp_path, dali, yaml, text):
    with pytest.raises(ValueError, match=text):
        get_dali_pipeline(context(tmp_path, **yaml))


def test_without_the_package_the_error_says_what_to_install(tmp_path):
    with pytest.raises(ImportError, match="pip install nvidia-dali"):
        get_dali_pipeline(context(tmp_path, dali=SECTION))


def test_the_classifier_feeds_images_and_answers_with_labels(dali, load, infer, model_dir):
    folder = model_dir(
        {
            "model.py": "import torch\nclass M(torch.nn.Identity):\n    pass\n",
            "index_to_name.json": '{"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"}',
            "config.yaml": "dali: {batch_size: 4, num_threads: 2, device_id: 0}\n",
        },
        modelFile="model.py",
        configFile="config.yaml",
    )
    service = load(folder, "dali_image_classifier")
    assert issubclass(DALIImageClassifier, (DALIHandler, ImageClassifier))
    encoded = base64.b64encode(b"\x01image").decode()
    outcome = infer(service, {"data": bytearray(b"\x03image")}, {"body": encoded})
    assert outcome.code == 200
    best = [prediction.body.split(b'"')[1] for prediction in outcome.predictions]
    assert best == [b"d", b"b"]
    assert Pipeline.made[0].fed == [[b"\x03image", b"\x01image"]]
