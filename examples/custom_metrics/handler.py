"""Counts words, and what it counts is on the server's metrics address."""

from __future__ import annotations

import re
from typing import Any

from ts.context import Context
from ts.metrics.metric_type_enum import MetricTypes


class WordCounter:
    """Answers a text with its number of words."""

    def initialize(self, context: Context) -> None:
        """Look the metrics up, which metrics.yaml has defined.

        Labels are given at each observation, in the order of metrics.yaml.
        """
        metrics = context.metrics
        self.words = metrics.get_metric("Words", MetricTypes.COUNTER)
        self.longest = metrics.get_metric("LongestWord", MetricTypes.GAUGE)
        self.length = metrics.get_metric("SentenceLength", MetricTypes.HISTOGRAM)

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[str]:
        return [self._count(row, context.model_name) for row in data]

    def _count(self, row: dict[str, Any], model: str) -> str:
        body = row.get("data") or row.get("body") or ""
        # The server decodes what declares itself as text, and leaves other bodies as bytes.
        text = body if isinstance(body, str) else bytes(body).decode()
        words = re.findall(r"\w+", text)
        self.words.add_or_update(len(words), [model, "en"])
        self.longest.add_or_update(max(map(len, words), default=0), [model])
        self.length.add_or_update(len(words), [model])
        return str(len(words))
