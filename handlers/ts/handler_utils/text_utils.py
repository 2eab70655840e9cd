"""Tokens and n-grams for the text handlers, equal to those that torchtext models learned with."""

from __future__ import annotations

from typing import Callable, Iterator, List, Optional

_BREAK = "<br />"
_SPACED = {mark: f" {mark} " for mark in ".,()!?"}
_NORMALIZED = str.maketrans({**_SPACED, "'": " '  ", '"': "", ";": " ", ":": " "})


def ngrams_iterator(token_list: List[str], ngrams: int) -> Iterator[str]:
    """All single tokens, then all pairs joined by a blank, and so on up to ``ngrams``."""
    yield from token_list
    for size in range(2, ngrams + 1):
        for start in range(len(token_list) - size + 1):
            yield " ".join(token_list[start : start + size])


def get_tokenizer(
    tokenizer: Optional[str], language: str = "en"
) -> Optional[Callable[[str], List[str]]]:
    """A function from text to tokens.

    Args:
        tokenizer: None splits at blanks, ``basic_english`` normalises first; None is returned
            for any other name.
        language: only English is known; the argument is part of torchtext's signature.
    """
    if tokenizer is None:
        return str.split
    return _basic_english_normalize if tokenizer == "basic_english" else None


def _basic_english_normalize(line: str) -> List[str]:
    """Lower case; marks of punctuation become tokens, quotes, colons and breaks go."""
    return line.lower().replace(_BREAK, " ").translate(_NORMALIZED).split()
