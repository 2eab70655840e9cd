"""Makes a data set of short orders, trains an intent classifier on it and packs it.

Three files travel beside the model's code: weights, vocabulary and the intents' names. The archive
goes into ``model_store/`` of the current folder.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import torch
from model import INTENTS, TERMS, IntentClassifier
from torch.nn import functional

from ts.handler_utils.text_utils import get_tokenizer, ngrams_iterator
from ts_archiver import pack

HERE = Path(__file__).resolve().parent
BUILD = Path("build/intent_classifier")

# Every opening of an intent goes with each of its objects.
PHRASES = {
    "light": (
        ["turn on", "switch off", "please dim", "i want to brighten"],
        ["the light", "the lamp in the kitchen", "all lights", "the bedroom lamps"],
    ),
    "music": (
        ["play", "put on", "i want to hear", "turn up"],
        ["some jazz", "the radio", "my favourite song", "a piano concert"],
    ),
    "weather": (
        ["will it", "is it going to", "how likely is it to", "tell me if it will"],
        ["rain today", "snow tomorrow", "be sunny on sunday", "freeze tonight"],
    ),
    "timer": (
        ["set a timer for", "wake me in", "remind me in", "start a countdown of"],
        ["ten minutes", "an hour", "thirty seconds", "half an hour"],
    ),
}


def main() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    texts = [
        _terms(f"{a} {b}") for opens, ends in PHRASES.values() for a, b in product(opens, ends)
    ]
    intents = [number for number, (a, b) in enumerate(PHRASES.values()) for _ in product(a, b)]
    vocabulary = {term: number for number, term in enumerate(sorted(set().union(*texts)))}
    assert len(vocabulary) <= TERMS, "make the table in model.py larger"
    assert len(PHRASES) == INTENTS, "model.py has another number of intents"

    numbers = [torch.tensor([vocabulary[term] for term in text]) for text in texts]
    model = _train(numbers, torch.tensor(intents))
    torch.save(model.state_dict(), BUILD / "intents.pth")
    # These two names are where the handler looks for a vocabulary and for labels.
    torch.save(vocabulary, BUILD / "source_vocab.pt")
    (BUILD / "index_to_name.json").write_text(json.dumps(dict(enumerate(PHRASES))))

    archive = pack(
        "intents",
        "text_classifier",
        "1.0",
        model_file=HERE / "model.py",
        serialized_file=BUILD / "intents.pth",
        extra_files=[BUILD / "source_vocab.pt", BUILD / "index_to_name.json"],
        export_path="model_store",
        force=True,
    )
    print(f"Wrote {archive}")


def _terms(text: str) -> list[str]:
    """Words and pairs of neighbours, made as the handler makes them of a request."""
    return list(ngrams_iterator(get_tokenizer("basic_english")(text), 2))


def _train(texts: list[torch.Tensor], intents: torch.Tensor) -> IntentClassifier:
    """Train on all texts at once, as one batch of bags."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a network gains nothing by a second one
    model = IntentClassifier()
    lengths = torch.tensor([0] + [len(text) for text in texts[:-1]])
    terms, offsets = torch.cat(texts), lengths.cumsum(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(terms, offsets), intents).backward()
        optimizer.step()
    return model.eval()


if __name__ == "__main__":
    main()
