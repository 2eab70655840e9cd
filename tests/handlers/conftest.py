"""Model folders, a metrics cache and a loader that leaves no trace, for all handler tests."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.model_loader import ModelLoaderFactory
from ts.service import Outcome, Service

MARS = Path(__file__).parents[1] / "mars"
METRICS_YAML = Path(__file__).parents[2] / "handlers" / "ts" / "configs" / "metrics.yaml"


@pytest.fixture
def metrics() -> MetricsCacheYamlImpl:
    """`context.metrics` with the default definitions."""
    cache = MetricsCacheYamlImpl(str(METRICS_YAML))
    cache.initialize_cache()
    cache.model_name = "tiny"
    return cache


@pytest.fixture
def model_dir(tmp_path: Path) -> Callable[..., Path]:
    """``model_dir({"handler.py": source, ...}, serializedFile="m.pt", ...)`` makes a folder.

    A file whose content is None is copied from tests/mars.
    """

    def make(files: dict[str, str | None] | None = None, **model: str) -> Path:
        folder = tmp_path / "model"
        (folder / "MAR-INF").mkdir(parents=True, exist_ok=True)
        for name, text in (files or {}).items():
            if text is None:
                shutil.copy(MARS / name, folder / Path(name).name)
            else:
                (folder / name).write_text(text)
        manifest = {"model": {"modelName": "tiny", "modelVersion": "1.0", **model}}
        (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
        return folder

    return make


@pytest.fixture
def load(metrics: MetricsCacheYamlImpl) -> Iterator[Callable[..., Service]]:
    """Load a handler as the runtime does; imports and the path are as before afterwards."""
    path, modules, filters = list(sys.path), set(sys.modules), list(warnings.filters)

    def call(folder: Path, handler: str, **kwargs: Any) -> Service:
        loader = ModelLoaderFactory.get_model_loader()
        return loader.load("tiny", str(folder), handler, metrics_cache=metrics, **kwargs)

    yield call
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        # Only what came from a model's folder: torch's lazy imports do not survive a second one.
        if "site-packages" not in (getattr(sys.modules[name], "__file__", None) or "site-packages"):
            del sys.modules[name]
    assert warnings.filters == filters


@pytest.fixture
def infer() -> Callable[..., Outcome]:
    """``infer(service, row, row, headers=[...])`` runs a batch with ids id0, id1, ..."""

    def call(
        service: Service, *rows: dict[str, Any], headers: list[dict[str, Any]] | None = None
    ) -> Outcome:
        ids = {idx: f"id{idx}" for idx in range(len(rows))}
        return service.infer(headers or [{} for _ in rows], list(rows), ids)

    return call
