"""Learns which word follows which in a text, and packs that.

The archive goes into ``model_store/`` of the current folder.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from ts_archiver import pack

HERE = Path(__file__).resolve().parent
BUILD = Path("build/streaming_text")

TEXT = """
the server takes a request and puts it into a queue . a worker that has nothing to do takes a batch
from the queue and hands it to the handler . the handler makes tensors of the batch and the model
makes scores of the tensors . the worker sends the answer to the server and the server sends it to
the client . a client that waits for a long answer reads the first words of the answer while the
model makes the next words .
"""


def main() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    followers: dict[str, list[str]] = {}
    for word, following in pairwise(TEXT.split()):
        followers.setdefault(word, []).append(following)
    table = BUILD / "followers.json"
    table.write_text(json.dumps(followers))
    archive = pack(
        "streaming_text",
        str(HERE / "handler.py"),
        "1.0",
        extra_files=table,
        config_file=HERE / "model-config.yaml",
        export_path="model_store",
        force=True,
    )
    print(f"Wrote {archive}")


if __name__ == "__main__":
    main()
