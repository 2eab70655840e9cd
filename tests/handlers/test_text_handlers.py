"""The text handlers: cleaning, tokens, whole batches."""

from __future__ import annotations

import collections
import json
import re
from types import SimpleNamespace

import pytest
import torch

from tests.handlers.torch_files import save_script
from ts.handler_utils.text_utils import get_tokenizer, ngrams_iterator
from ts.torch_handler.contractions import CONTRACTION_MAP
from ts.torch_handler.text_classifier import TextClassifier


class Bag(torch.nn.Module):
    """Scores of two classes: how often the words 1 and 2 occur."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(4, 2, mode="sum")
        with torch.no_grad():
            self.embedding.weight.copy_(torch.tensor([[0.0, 0], [1, 0], [0, 1], [5, 5]]))

    def forward(self, text: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return self.embedding(text, offsets)


VOCAB = {"<unk>": 0, "good": 1, "bad": 2}


@pytest.fixture
def service(load, model_dir):
    labels = json.dumps({"0": "Good", "1": "Bad"})
    folder = model_dir({"index_to_name.json": labels}, serializedFile="m.pt")
    save_script(Bag(), folder / "m.pt")
    torch.save(VOCAB, folder / "source_vocab.pt")
    return load(folder, "text_classifier")


def answers(outcome) -> list:
    assert outcome.code == 200, outcome
    return [json.loads(prediction.body) for prediction in outcome.predictions]


def expected(*scores: float) -> dict[str, float]:
    probs = torch.softmax(torch.tensor(scores, dtype=torch.float), dim=0).tolist()
    return pytest.approx(dict(zip(["Good", "Bad"], probs, strict=True)))


def test_every_text_of_a_batch_is_classified(service, infer):
    rows = [
        {"data": "Good, <b>good</b> GOOD!"},
        {"body": bytearray("bád and unknown".encode())},
        {"body": ""},
        {"body": "good bad bad"},
    ]
    found = answers(infer(service, *rows))
    assert found == [expected(3, 0), expected(0, 1), expected(0, 0), expected(1, 2)]
    assert answers(infer(service, rows[1])) == [expected(0, 1)]


def test_texts_that_are_not_utf_8_are_to_blame_alone(service, infer):
    outcome = infer(service, {"body": b"good"}, {"body": b"\xff"}, {"body": b""}, {"data": b"\xff"})
    assert outcome[:2] == (503, "Prediction failed")
    assert outcome.blamed == (1, 3)


def test_one_text_is_prepared_as_torchserve_does():
    handler = TextClassifier()
    handler.device, handler.source_vocab = torch.device("cpu"), {"a": 1, "a b": 2}
    tensor, tokens = handler.preprocess([{"data": "a b"}])
    assert (tensor.tolist(), tokens) == ([1, 2], ["a", "b"])


def test_words_without_a_number_are_dropped_where_the_vocabulary_has_no_unk():
    handler = TextClassifier()
    handler.device, handler.source_vocab = torch.device("cpu"), {"a": 1}
    assert handler.preprocess([{"data": "a z"}])[0].tolist() == [1]
    handler.source_vocab = {"a": 1, "<unk>": 9}
    assert handler.preprocess([{"data": "a z"}])[0].tolist() == [1, 9, 9]


def test_a_vocabulary_with_a_default_of_its_own_is_asked_for_it():
    handler = TextClassifier()
    handler.device = torch.device("cpu")
    handler.source_vocab = collections.defaultdict(lambda: 7, {"a": 1, "<unk>": 9})
    assert handler.preprocess([{"data": "a z"}])[0].tolist() == [1, 7, 7]
    handler.source_vocab = collections.OrderedDict({"a": 1, "<unk>": 9})
    assert handler.preprocess([{"data": "a z"}])[0].tolist() == [1, 9, 9]


def test_a_vocabulary_object_answers_for_itself():
    class Vocabulary:
        def __getitem__(self, word: str) -> int:
            return len(word)

    handler = TextClassifier()
    handler.device, handler.source_vocab = torch.device("cpu"), Vocabulary()
    assert handler.preprocess([{"data": "ab c"}])[0].tolist() == [2, 1, 4]


def test_a_missing_vocabulary_is_named(load, model_dir):
    folder = model_dir(serializedFile="m.pt")
    save_script(Bag(), folder / "m.pt")
    with pytest.raises(FileNotFoundError, match=r"source_vocab file .*--extra-files"):
        load(folder, "text_classifier")


def test_an_old_manifest_names_its_vocabulary(load, model_dir, infer, tmp_path):
    torch.save(VOCAB, tmp_path / "old.pt")
    folder = model_dir(serializedFile="m.pt", sourceVocab=str(tmp_path / "old.pt"))
    save_script(Bag(), folder / "m.pt")
    assert infer(load(folder, "text_classifier"), {"data": "good"}).code == 200


MODEL_PY = '''
import torch

class Embedding(torch.nn.Module):
    """Sums word vectors; its layer `embedding` is what explanations look at."""
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(4, 2)
    def forward(self, text, offsets):
        return self.embedding(text).sum(dim=0, keepdim=True).expand(text.shape[0], 2)
'''


def test_an_explanation_names_each_word(load, model_dir, infer):
    pytest.importorskip("captum")
    folder = model_dir({"model.py": MODEL_PY}, modelFile="model.py")
    torch.save(VOCAB, folder / "source_vocab.pt")
    service = load(folder, "text_classifier")
    (answer,) = answers(infer(service, {"data": "good bad"}, headers=[{"explain": "True"}]))
    assert answer["words"] == ["good", "bad"]
    importances = torch.tensor(answer["importances"])
    assert importances.shape == (3, 2)  # two words and their pair, two numbers of each embedding
    assert importances.sum(dim=-1).norm() == pytest.approx(1)


@pytest.mark.parametrize(("shape", "dim"), [((4,), 0), ((4, 3), 1), ((2, 4, 3), 0)])
def test_attributions_are_summarized_over_the_dimension_that_torchserve_takes(shape, dim):
    attributions = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    shares = torch.softmax(attributions, dim=dim)
    expected = shares / shares.sum(dim=-1).norm()
    assert torch.equal(TextClassifier().summarize_attributions(attributions), expected)


def test_an_explanations_words_lose_the_mark_of_a_blank():
    handler = TextClassifier()
    handler.device = torch.device("cpu")
    handler.lig = SimpleNamespace(attribute=lambda tensor, *_, **__: torch.ones(len(tensor), 2))
    ((answer),) = handler.get_insights((torch.tensor([1, 2]), ["Ġgood", "bad"]), None)
    assert answer["words"] == ["good", "bad"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("I can't, won't and shouldn't've", "I cannot, will not and should notve"),
        ("He'd say it's what I'm", "He would say it is what I am"),
        ("CAN'T they've y'all'd've", "Cannot they have you alldve"),
        ("rock 'n' roll's", "rock n rolls"),
    ],
)
def test_contractions_are_expanded(text, clean):
    assert TextClassifier()._expand_contractions(text) == clean


def test_the_contractions_torchserve_names_are_known():
    words = list(CONTRACTION_MAP)
    assert len(words) == 123
    assert words[:6] == ["ain't", "aren't", "can't", "can't've", "'cause", "could've"]
    assert words[-2:] == ["you're", "you've"]
    assert words.index("it's") < words.index("let's") < words.index("ma'am")
    assert not {"here's", "this's", "didn't've", "that'll"} & set(words)
    assert CONTRACTION_MAP["how'd'y"] == "how do you"
    assert CONTRACTION_MAP["so's"] == "so as"
    assert all("'" not in meaning for meaning in CONTRACTION_MAP.values())


def test_text_is_cleaned():
    handler = TextClassifier()
    assert handler._remove_html_tags("<p>a</p>&nbsp;b") == "ab"
    assert handler._remove_accented_characters("Été naïve") == "Ete naive"
    assert handler._remove_punctuation("a,b.c!") == handler._remove_puncutation("a,b.c!") == "abc"
    assert handler.get_word_token(["Ġthe", "cat"]) == ["the", "cat"]
    assert handler._tokenize("It's (fine), no?") == [
        *("it", "'", "s", "(", "fine", ")", ",", "no", "?")
    ]


def test_tokenizers_and_ngrams():
    assert get_tokenizer(None)("a  b") == ["a", "b"]
    assert get_tokenizer("spacy") is None
    basic = get_tokenizer("basic_english")
    assert basic('Say: "Hi<br />there"; ok.') == ["say", "hi", "there", "ok", "."]
    grams = list(ngrams_iterator(["a", "b", "c"], 3))
    assert grams == ["a", "b", "c", "a b", "b c", "a b c"]
    assert list(ngrams_iterator([], 2)) == []


def test_contractions_are_tried_in_torchserves_order():
    # Its pattern finds "can't" before "can't've"; models know the words that come of it.
    assert TextClassifier()._expand_contractions("can't've") == "cannotve"
    assert all(re.search("'", text) for text in CONTRACTION_MAP)
