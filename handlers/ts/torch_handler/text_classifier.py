"""The built-in handler `text_classifier`: the probability of each class for a text."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import torch

from ts.blame import each
from ts.handler_utils.text_utils import ngrams_iterator
from ts.torch_handler.text_handler import TextHandler
from ts.utils.util import map_class_to_label


class TextClassifier(TextHandler):
    """For models over an embedding bag: ``model(token_numbers, offsets)`` gives class scores.

    Every request of a batch is answered; TorchServe's handler takes the first one only.
    """

    ngrams = 2

    def preprocess(self, data: List[Any]) -> Tuple[Any, Any]:
        """Numbers of the tokens and n-grams of each text, and the tokens themselves.

        Returns:
            For one request ``(tensor, tokens)`` as TorchServe's handler does, for several
            ``([tensor, ...], [tokens, ...])``.
        """
        texts = each(self._tokens, data)
        tensors = each(self._numbers, texts)
        return (tensors[0], texts[0]) if len(data) == 1 else (tensors, texts)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Scores ``[batch][classes]`` of what `preprocess` returned."""
        tensors = data[0] if isinstance(data[0], list) else [data[0]]
        lengths = torch.tensor([0] + [len(tensor) for tensor in tensors[:-1]])
        offsets = lengths.cumsum(0).to(self.device)
        return super().inference(torch.cat(tensors), offsets)

    def postprocess(self, data: Any) -> List[Dict[str, float]]:
        """``{label: probability}`` of all classes for each text."""
        return map_class_to_label(torch.softmax(data, dim=-1).tolist(), self.mapping)

    def get_insights(self, text_preprocess: Any, _: Any, target: Any = 0) -> List[Dict[str, Any]]:
        """The importance of each token and n-gram for class ``target``."""
        tensor, tokens = text_preprocess
        attributed = self.lig.attribute(
            tensor,
            torch.zeros_like(tensor),
            target=target,
            additional_forward_args=(torch.tensor([0]).to(self.device),),
        )
        importances = self.summarize_attributions(attributed).tolist()
        return [{"importances": importances, "words": self.get_word_token(tokens)}]

    def _tokens(self, row: Any) -> List[str]:
        text = row.get("data") or row.get("body") or ""
        if isinstance(text, (bytes, bytearray)):
            text = text.decode("utf-8")
        text = self._expand_contractions(self._remove_html_tags(text).lower())
        text = self._remove_accented_characters(text)
        return self._tokenize(self._remove_punctuation(text))

    def _numbers(self, tokens: List[str]) -> Any:
        grams = list(ngrams_iterator(tokens, self.ngrams))
        if _is_plain(self.source_vocab):
            # Vocabularies saved as plain mappings have no default of their own.
            unknown = self.source_vocab.get("<unk>")
            found = [self.source_vocab.get(gram, unknown) for gram in grams]
            numbers = [number for number in found if number is not None]
        else:
            numbers = [self.source_vocab[gram] for gram in grams]
        return torch.tensor(numbers, dtype=torch.long, device=self.device)


def _is_plain(vocab: Any) -> bool:
    """A dict that answers as dict does; others, such as a defaultdict, answer for themselves."""
    kind = type(vocab)
    return (
        issubclass(kind, dict)
        and kind.__getitem__ is dict.__getitem__
        and not hasattr(kind, "__missing__")
    )
