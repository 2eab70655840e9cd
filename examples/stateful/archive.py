"""Packs the running mean into ``model_store/`` of the current folder."""

from __future__ import annotations

from pathlib import Path

from ts_archiver import pack

HERE = Path(__file__).resolve().parent


def main() -> None:
    archive = pack(
        "running_mean",
        str(HERE / "handler.py"),
        "1.0",
        config_file=HERE / "model-config.yaml",
        export_path="model_store",
        force=True,
    )
    print(f"Wrote {archive}")


if __name__ == "__main__":
    main()
