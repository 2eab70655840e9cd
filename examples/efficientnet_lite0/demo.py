"""`make demo`: from pretrained weights to a classified photo, with the real commands.

Archives EfficientNet-Lite0, serves it, classifies two photos over REST, scales it to two
workers, describes it, stops it. Exit code 0 only if the cat is a cat and the coffee an espresso.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from archive import NAME, ROOT, archive, curl, photos
from server import DemoFailed, DemoServer

CATS = frozenset({"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"})
EXPECTED = {"chelsea.png": CATS, "coffee.png": frozenset({"espresso"})}


def main() -> int:
    """Run the demo; 0 if everything came out as it should."""
    try:
        _step("Archiving EfficientNet-Lite0 with `archiver`")
        made = archive(ROOT / "model_store")
        print(f"{made.relative_to(ROOT)}, {made.stat().st_size / 1e6:.1f} MB")
        with TemporaryDirectory(prefix="torchserve-py-demo-") as folder:
            _serve(DemoServer(Path(folder), made.parent))
    except subprocess.CalledProcessError as failed:
        print(f"\nDemo failed: {' '.join(map(str, failed.cmd))} ended with {failed.returncode}")
        return 1
    except (DemoFailed, OSError) as failed:
        print(f"\nDemo failed: {failed}")
        return 1
    print("\nDemo passed. After `make serve`, this classifies the cat from another terminal:\n")
    print(curl())
    return 0


def _serve(server: DemoServer) -> None:
    """The part with a server; it is stopped, and on failure its log shown, whatever happens."""
    try:
        _step("Starting the server with `torchserve-py --start`")
        server.start(f"{NAME}={NAME}.mar")
        print("ready")
        for photo in photos():
            _classify(server, photo)
        _scale(server)
        _step("Stopping the server with `torchserve-py --stop`")
        server.stop()
        print("stopped")
    except (DemoFailed, OSError):
        print(f"\nThe server's last lines:\n{server.log_tail()}")
        raise
    finally:
        server.stop()


def _classify(server: DemoServer, photo: Path) -> None:
    _step(f"Classifying {photo.name} over REST")
    labels = server.predict(NAME, photo)
    for label, probability in labels.items():
        print(f"  {probability:6.1%}  {label}")
    best = next(iter(labels))
    if best not in EXPECTED[photo.name]:
        wanted = ", ".join(sorted(EXPECTED[photo.name]))
        raise DemoFailed(f"{photo.name} came out as {best!r}, expected one of: {wanted}")


def _scale(server: DemoServer) -> None:
    _step("Scaling to 2 workers and describing the model")
    answer = server.manage("PUT", f"/models/{NAME}?min_worker=2&max_worker=2&synchronous=true")
    print(answer["status"])
    described = server.manage("GET", f"/models/{NAME}")
    print(json.dumps(described, indent=2))
    ready = [worker for worker in described[0]["workers"] if worker["status"] == "READY"]
    if len(ready) != 2:
        raise DemoFailed(f"expected 2 ready workers, the description shows {len(ready)}")


def _step(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
