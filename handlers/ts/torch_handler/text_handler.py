"""Text in, cleaned tokens to the model: the base of the text handlers."""

from __future__ import annotations

import os
import re
import string
import unicodedata
from abc import ABC
from typing import Any, Callable, List, Optional

import torch

from ts.context import Context
from ts.handler_utils.text_utils import get_tokenizer
from ts.torch_handler import weights
from ts.torch_handler.attribution import Attribution
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.contractions import CONTRACTION_MAP
from ts.utils.util import CLEANUP_REGEX

CONTRACTIONS_PATTERN = re.compile(f"({'|'.join(CONTRACTION_MAP)})", re.IGNORECASE)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextHandler(BaseHandler, ABC):
    """Loads the vocabulary of the model's training and cleans text as TorchServe does."""

    # Explains a model that has a layer called `embedding`.
    lig = Attribution("LayerIntegratedGradients", layer="embedding")

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None
        self.tokenizer: Optional[Callable[[str], List[str]]] = get_tokenizer("basic_english")
        self.input_text: Any = None
        self.initialized: Any = None

    def initialize(self, context: Context) -> None:
        """As `BaseHandler.initialize`, and read ``source_vocab.pt``.

        Raises:
            FileNotFoundError: the archive has no vocabulary.
            ValueError: it is no plain mapping; the text names the cure.
        """
        super().initialize(context)
        self.source_vocab = weights.read(self.get_source_vocab_path(context), "cpu")

    def get_source_vocab_path(self, ctx: Context) -> str:
        """The manifest's `sourceVocab` of old archives, else source_vocab.pt of the model."""
        named = (ctx.manifest or {}).get("model", {}).get("sourceVocab")
        path = named or os.path.join(ctx.system_properties["model_dir"], "source_vocab.pt")
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"Missing the source_vocab file {path}: save the vocabulary as a dict of token to "
                "number with torch.save and pack it with --extra-files"
            )
        return path

    def get_word_token(self, input_tokens: List[str]) -> List[str]:
        """Tokens of byte-level encoders without their mark for a blank."""
        return [token.replace("Ġ", "") for token in input_tokens]

    def summarize_attributions(self, attributions: Any) -> Any:
        """Comparable importances in the attributions' own shape, ``[tokens][embedding]``."""
        # TorchServe leaves the dimension to softmax, which takes the first of 1 or 3.
        shares = torch.softmax(attributions, dim=0 if attributions.dim() in (0, 1, 3) else 1)
        return shares / torch.norm(shares.sum(dim=-1))

    def _remove_html_tags(self, text: str) -> str:
        return CLEANUP_REGEX.sub("", text)

    def _expand_contractions(self, text: str) -> str:
        """ "don't" becomes "do not"; the case of the first letter stays."""
        return CONTRACTIONS_PATTERN.sub(_expanded, text).replace("'", "")

    def _remove_accented_characters(self, text: str) -> str:
        decomposed = unicodedata.normalize("NFKD", text)
        return decomposed.encode("ascii", "ignore").decode("ascii")

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(_NO_PUNCTUATION)

    # The name has been misspelt in TorchServe for long enough that handlers call it.
    _remove_puncutation = _remove_punctuation

    def _tokenize(self, text: str) -> List[str]:
        if self.tokenizer is None:
            raise ValueError("This handler has no tokenizer")
        return self.tokenizer(text)


def _expanded(match: re.Match[str]) -> str:
    found = match.group(0)
    meaning = CONTRACTION_MAP.get(found) or CONTRACTION_MAP[found.lower()]
    return found[0] + meaning[1:]
