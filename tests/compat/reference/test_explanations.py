"""Explanations (4.2 /explanations, v1 :explain, v2 explain) from the client to captum and back."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from tests.compat.reference.conftest import Ask
from tests.e2e.conftest import Server, archive

pytestmark = pytest.mark.e2e

# Integrated gradients of a linear model are its weights times the input, so they can be foretold.
WEIGHTS = [[1.0, 2.0, 3.0, 4.0], [-1.0, 0.0, 1.0, 0.5]]
MODEL = """
from torch import nn

class Linear(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(4, 2, bias=False))
"""
IMAGE = [[[1.0, 2.0], [3.0, 4.0]]]
JSON = "Content-Type: application/json"


@pytest.fixture(scope="module")
def explained(plain: Server) -> Iterator[None]:
    """The model ``linear`` behind the built-in handler image_classifier."""
    pytest.importorskip("captum")
    code = plain.folder / "linear.py"
    code.write_text(MODEL)
    weights = plain.folder / "linear.pt"
    torch.save({"1.weight": torch.tensor(WEIGHTS)}, weights)
    flags = ("--model-file", str(code), "--serialized-file", str(weights))
    archive(plain.store, "linear", "image_classifier", *flags)
    assert plain.register("linear.mar", initial_workers=1).status == 200
    yield
    assert plain.manage("DELETE", "/models/linear").status == 200


def attributions(target: int) -> torch.Tensor:
    return torch.tensor(WEIGHTS[target]).reshape(1, 2, 2) * torch.tensor(IMAGE)


@pytest.mark.usefixtures("explained")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/explanations/linear", id="4.2 explanations"),
        pytest.param("/explanations/linear/1.0", id="4.2 explanations version"),
        pytest.param("/v1/models/linear:explain", id="4.2 v1 explain"),
        pytest.param("/v2/models/linear/explain", id="4.2 v2 explain"),
    ],
)
def test_explanations(inference: Ask, path: str) -> None:
    """What each value of the input speaks for class 0, the default target."""
    reply = inference("POST", path, json.dumps(IMAGE).encode(), JSON)
    assert reply.line == "HTTP/1.1 200 "
    torch.testing.assert_close(torch.tensor(reply.json), attributions(0))


@pytest.mark.usefixtures("explained")
def test_the_same_model_predicts(inference: Ask) -> None:
    """4.2 predictions: explaining leaves nothing behind in the handler."""
    reply = inference("POST", "/predictions/linear", json.dumps(IMAGE).encode(), JSON)
    assert list(reply.json) == ["0", "1"]


@pytest.mark.usefixtures("explained")
def test_a_target_in_a_form(inference: Ask) -> None:
    """4.4 a form field is bytes: TorchServe's handlers passed them on to captum, which failed.
    Mended: a number is a number."""
    head = 'Content-Disposition: form-data; name="{}"{}\r\n\r\n'
    body = "--b\r\n" + head.format("data", '; filename="i"\r\nContent-Type: application/json')
    body += json.dumps(IMAGE) + "\r\n--b\r\n" + head.format("target", "") + "1\r\n--b--\r\n"
    form = "Content-Type: multipart/form-data; boundary=b"
    reply = inference("POST", "/explanations/linear", body.encode(), form)
    assert reply.status == 200
    torch.testing.assert_close(torch.tensor(reply.json), attributions(1))
