"""Packs the TorchScript model that the package silero-vad brings.

The archive goes into ``model_store/`` of the current folder, a sound to send into
``build/voice_activity/``.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import voice

from ts_archiver import pack

HERE = Path(__file__).resolve().parent
BUILD = Path("build/voice_activity")


def main() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    voice.write(BUILD / "vowels.wav")
    spec = find_spec("silero_vad")
    assert spec is not None, "pip install silero-vad"
    assert spec.origin is not None
    # The ending is what tells `BaseHandler` how to load a model.
    shutil.copyfile(Path(spec.origin).parent / "data" / "silero_vad.jit", BUILD / "silero_vad.pt")
    archive = pack(
        "voice_activity",
        str(HERE / "handler.py"),
        "1.0",
        serialized_file=BUILD / "silero_vad.pt",
        export_path="model_store",
        force=True,
    )
    print(f"Wrote {archive}")


if __name__ == "__main__":
    main()
