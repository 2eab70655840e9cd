"""English contractions and what they stand for, built from the rules that form them."""

from __future__ import annotations

from typing import Dict, Iterator, Tuple

_PRONOUNS = ("I", "i", "you", "he", "she", "it", "we", "they")
_PLURALS = ("you", "we", "they")
_QUESTIONS = ("how", "what", "when", "where", "who", "why")

# Word groups that take an ending, and what the ending stands for.
_ENDINGS: Tuple[Tuple[Tuple[str, ...], Dict[str, str]], ...] = (
    (
        (*_PRONOUNS, "that", "there"),
        {"'d": "would", "'d've": "would have", "'ll": "will", "'ll've": "will have"},
    ),
    (("I", "i", *_PLURALS), {"'ve": "have"}),
    (("I", "i"), {"'m": "am"}),
    (_PLURALS, {"'re": "are"}),
    (("he", "she", "it", "that", "there", "here", "this", *_QUESTIONS), {"'s": "is"}),
    (_QUESTIONS, {"'ll": "will", "'d": "did", "'ve": "have", "'re": "are"}),
    (("what", "who"), {"'ll've": "will have"}),
    (("could", "might", "must", "should", "would", "will", "to", "so"), {"'ve": "have"}),
)

_NEGATED = (
    *("are", "could", "did", "does", "do", "had", "has", "have", "is", "may", "might", "must"),
    *("need", "ought", "should", "was", "were", "would"),
)
_NEGATED_PERFECT = ("could", "had", "might", "must", "need", "ought", "should", "would")

_IRREGULAR = {
    "ain't": "is not",
    "can't": "cannot",
    "can't've": "cannot have",
    "won't": "will not",
    "won't've": "will not have",
    "shan't": "shall not",
    "sha'n't": "shall not",
    "shan't've": "shall not have",
    "'cause": "because",
    "let's": "let us",
    "ma'am": "madam",
    "o'clock": "of the clock",
    "so's": "so as",
    "y'all": "you all",
    "y'all'd": "you all would",
    "y'all'd've": "you all would have",
    "y'all're": "you all are",
    "y'all've": "you all have",
}


def _regular() -> Iterator[Tuple[str, str]]:
    for words, endings in _ENDINGS:
        for word in words:
            for ending, meaning in endings.items():
                yield word + ending, f"{word} {meaning}"
    for verb in _NEGATED:
        yield f"{verb}n't", f"{verb} not"
    for verb in _NEGATED_PERFECT:
        yield f"{verb}n't've", f"{verb} not have"


# Longer ones first: a pattern that tries them in this order never stops halfway into a word.
CONTRACTION_MAP: Dict[str, str] = dict(
    sorted({**dict(_regular()), **_IRREGULAR}.items(), key=lambda item: (-len(item[0]), item[0]))
)
