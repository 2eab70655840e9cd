"""EfficientNet-Lite0 with published weights on the processor, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import models
from benchmarks.images import classified
from benchmarks.rows import Row
from benchmarks.suite import Options


def run(options: Options) -> Iterator[Row]:
    """As `images` tells."""
    yield from classified("efficientnet_lite0", models.efficientnet_lite0(), options)
