"""Writes text word by word, and sends each word as soon as it has it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ts.context import Context
from ts.handler_utils.utils import send_intermediate_predict_response

WORDS = 20  # at most, in an answer


class TextWriter:
    """Continues a text by the words that followed each other in the training text.

    The smallest of all language models; what matters is how its words are sent.
    """

    def initialize(self, context: Context) -> None:
        folder = Path(context.system_properties["model_dir"])
        self.followers: dict[str, list[str]] = json.loads((folder / "followers.json").read_text())

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[str]:
        """Stream the answer to a batch of one; model-config.yaml makes no larger ones.

        What is returned is the last part.
        """
        body = data[0].get("data") or data[0].get("body") or ""
        # The server decodes what declares itself as text, and leaves other bodies as bytes.
        text = body if isinstance(body, str) else bytes(body).decode()
        requests = context.request_ids or {}
        for word in self._continued(text):
            if context.is_cancelled():  # the client has gone, nobody reads the rest
                break
            send_intermediate_predict_response(
                [f"{word} "], requests, "Intermediate Prediction success", 200, context
            )
        return ["\n"]

    def _continued(self, start: str) -> Iterator[str]:
        """The words of the text so far, then those that the model adds."""
        words = start.lower().split() or ["the"]
        yield from words
        chance = random.Random(start)  # the same text for the same start
        for _ in range(WORDS - len(words)):
            followers = self.followers.get(words[-1])
            if followers is None:
                return
            words.append(chance.choice(followers))
            yield words[-1]
