"""Text of a whole batch while transformers generates it.

`generate(streamer=...)` calls only `put` and `end`, so transformers need not be there to import
this.
"""

from __future__ import annotations

import queue
from typing import Any, Dict, Iterator, List, Optional

# Scripts without blanks between words: each character may go out at once.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class _Text:
    """One row's tokens and how much of their text has gone out.

    A token need not be a whole character and later tokens may change earlier text, so only whole
    words leave before the end.
    """

    def __init__(self, tokenizer: Any, decode_kwargs: Dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._decode_kwargs = decode_kwargs
        self._tokens: List[int] = []
        self._sent = 0

    def put(self, tokens: List[int]) -> str:
        """What the new tokens make ready to go out."""
        self._tokens.extend(tokens)
        text = self._decoded()
        if text.endswith("\n"):
            # A line's end is final: decoding the same tokens ever again would be quadratic.
            return self._restart(text)
        if text and _is_ideograph(text[-1]):
            return self._take(text, len(text))
        return self._take(text, text.rfind(" ") + 1)

    def end(self) -> str:
        return self._restart(self._decoded())

    def _decoded(self) -> str:
        if not self._tokens:
            return ""
        text: str = self._tokenizer.decode(self._tokens, **self._decode_kwargs)
        return text

    def _restart(self, text: str) -> str:
        ready = text[self._sent :]
        self._tokens, self._sent = [], 0
        return ready

    def _take(self, text: str, end: int) -> str:
        ready = text[self._sent : end]
        self._sent += len(ready)
        return ready


class TextIteratorStreamerBatch:
    """Iterate over it while `generate` runs in another thread.

    Each step of the generation gives a list with a ``{"text": str}`` for each row, "" where no
    word is complete yet.

    Args:
        tokenizer: has `decode(tokens, **decode_kwargs)`.
        batch_size: rows that will be generated.
        skip_prompt: leave out the tokens of the first `put`, which are the prompts.
        timeout: seconds to wait for a step before `queue.Empty` is raised; None waits for ever.
        decode_kwargs: for `decode`, such as ``skip_special_tokens=True``.
    """

    def __init__(
        self,
        tokenizer: Any,
        batch_size: int,
        skip_prompt: bool = False,
        timeout: Optional[float] = None,
        **decode_kwargs: Any,
    ) -> None:
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.skip_prompt = skip_prompt
        self.timeout = timeout
        self.decode_kwargs = decode_kwargs
        self.next_tokens_are_prompt = True
        self._texts = [_Text(tokenizer, decode_kwargs) for _ in range(batch_size)]
        self._steps: Any = queue.Queue()

    def put(self, value: Any) -> None:
        """Take a step's tokens, ``[batch]`` or ``[batch][tokens]``; called by `generate`.

        Raises:
            ValueError: the first dimension is not the batch size.
        """
        if value.shape[0] != self.batch_size:
            raise ValueError(
                f"The streamer was made for a batch of {self.batch_size}, found {value.shape[0]}"
            )
        is_prompt, self.next_tokens_are_prompt = self.next_tokens_are_prompt, False
        if is_prompt and self.skip_prompt:
            return
        rows = value.tolist()
        tokens = [row if isinstance(row, list) else [row] for row in rows]
        self._steps.put([text.put(row) for text, row in zip(self._texts, tokens)])

    def end(self) -> None:
        """Give out what is left of each row and end the iteration; called by `generate`."""
        self._steps.put([text.end() for text in self._texts])
        self._steps.put(None)
        self.next_tokens_are_prompt = True

    def __iter__(self) -> Iterator[List[Dict[str, str]]]:
        return self

    def __next__(self) -> List[Dict[str, str]]:
        step = self._steps.get(timeout=self.timeout)
        if step is None:
            raise StopIteration
        return [{"text": text} for text in step]


def _is_ideograph(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _IDEOGRAPHS)
