"""The network of this example; packed with `model_file`."""

from __future__ import annotations

import torch
from torch import nn

# Rows of the table of words and pairs of words; archive.py makes no more of them.
TERMS = 512
INTENTS = 4


class IntentClassifier(nn.Module):
    """Scores of the intents of texts.

    Called as the built-in `text_classifier` calls its models: the numbers of all texts' terms in a
    row, and where each text begins. The layer's name `embedding` is what explanations look for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(TERMS, 32)
        self.hidden = nn.Linear(32, 32)
        self.output = nn.Linear(32, INTENTS)

    def forward(self, terms: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        text = self.embedding(terms, offsets)
        scores: torch.Tensor = self.output(torch.relu(self.hidden(text)))
        return scores
