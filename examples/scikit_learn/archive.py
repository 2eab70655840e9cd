"""Trains a scikit-learn pipeline on the wine data set and packs it.

The archive goes into ``model_store/`` of the current folder, a wine to send into
``build/scikit_learn/``.
"""

from __future__ import annotations

import json
from pathlib import Path

import skops.io
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ts_archiver import pack

HERE = Path(__file__).resolve().parent
BUILD = Path("build/scikit_learn")


def main() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    wines = load_wine()
    features = list(wines.feature_names)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    pipeline.fit(wines.data, [f"cultivar {number + 1}" for number in wines.target])
    # Not a pickle: loading one runs whatever code its author put in.
    skops.io.dump({"pipeline": pipeline, "features": features}, BUILD / "wine.skops")
    request = dict(zip(features, wines.data[0].tolist(), strict=True))
    (BUILD / "wine.json").write_text(json.dumps(request))

    archive = pack(
        "wine",
        str(HERE / "handler.py"),
        "1.0",
        serialized_file=BUILD / "wine.skops",
        export_path="model_store",
        force=True,
    )
    print(f"Wrote {archive}")


if __name__ == "__main__":
    main()
