"""A scikit-learn pipeline behind a handler of a few lines: no torch, no `BaseHandler`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import skops.io

from ts.context import Context
from ts.utils.util import PredictionException


class WineClassifier:
    """Answers the measurements of a wine with ``{cultivar: probability}``."""

    def initialize(self, context: Context) -> None:
        """Load the pipeline; skops raises where a file holds what it cannot vouch for."""
        saved = skops.io.load(Path(context.system_properties["model_dir"]) / "wine.skops")
        self.pipeline = saved["pipeline"]
        self.features: list[str] = saved["features"]

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[dict[str, float]]:
        """One call of the pipeline for the whole batch."""
        rows = np.array([self._values(index, row.get("body")) for index, row in enumerate(data)])
        cultivars = self.pipeline.classes_.tolist()
        return [
            dict(zip(cultivars, probabilities, strict=True))
            for probabilities in self.pipeline.predict_proba(rows).tolist()
        ]

    def _values(self, index: int, body: Any) -> list[float]:
        """The measurements of a request in the order of the training.

        Raises:
            PredictionException: 400 where one is missing or no number; the other requests of the
                batch are answered all the same.
        """
        try:
            return [float(body[name]) for name in self.features]
        except (KeyError, TypeError, ValueError) as error:
            expected = f"Send a JSON object with a number for each of: {', '.join(self.features)}"
            raise PredictionException(expected, 400, request_index=index) from error
