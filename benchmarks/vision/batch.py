"""What a batch of images costs: plain torchvision, and the built-in classifier, in turns.

No server: one process runs the bare loop (decode, transform, model, best five) and our handler,
as it is, with its parts off, and with TorchScript. Medians of wall and CPU milliseconds per image.

``[GOMP_SPINCOUNT=1000] python benchmarks/vision/batch.py [--threads 2] [--busy]``; ``--busy`` keeps
one core busy with another process, which is what spinning threads are measured with.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torchvision import models, transforms

from ts.testing import load_handler

WIDTH, HEIGHT, BATCH = 500, 375, 8
MODEL_PY = """
from torchvision.models.resnet import BasicBlock, ResNet

class Classifier(ResNet):
    def __init__(self):
        super().__init__(BasicBlock, [2, 2, 2, 2])
"""
TRANSFORM = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="that torch computes with")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--busy", action="store_true", help="keep a core busy meanwhile")
    options = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # torch's, of TorchScript
    torch.set_num_threads(options.threads)
    body = photo()
    print(f"{WIDTH} x {HEIGHT}, {len(body):,} bytes, batch {BATCH}, {options.threads} threads")
    with TemporaryDirectory(prefix="vision-") as name, neighbour(options.busy):
        ways = _ways(Path(name), body)
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for number in range(options.rounds + 2):
            for way, run in ways.items():
                took = _measured(run)
                if number > 1:  # the first choose kernels and find memory
                    times[way].append(took)
    bare = median(wall for wall, _ in times["bare loop"])
    for way, took in times.items():
        wall, cpu = median(t[0] for t in took), median(t[1] for t in took)
        print(f"{way:24} {wall:7.2f} ms  cpu {cpu:7.2f} ms  {bare / wall:5.2f} x the bare loop")


def photo() -> bytes:
    """Noise as photos have it, the more the coarser: a JPEG of about 110 kB."""
    torch.manual_seed(1)
    down = torch.fft.fftfreq(HEIGHT)[:, None]
    distance = (down**2 + torch.fft.fftfreq(WIDTH)[None] ** 2).sqrt()
    distance[0, 0] = float("inf")
    noise = torch.randn(1, HEIGHT, WIDTH) * 0.8 + torch.randn(3, HEIGHT, WIDTH) * 0.4
    waves = torch.fft.ifft2(torch.fft.fft2(noise) / distance**1.1).real
    pixels = (118 + 52 * waves / waves.std(dim=(1, 2), keepdim=True)).clamp(0, 255)
    stream = io.BytesIO()
    image = Image.frombytes("RGB", (WIDTH, HEIGHT), bytes(pixels.permute(1, 2, 0).byte().numpy()))
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _ways(folder: Path, body: bytes) -> dict[str, Callable[[], object]]:
    torch.manual_seed(7)
    model = models.resnet18(weights=None).eval()
    (folder / "eager").mkdir()
    (folder / "eager" / "model.py").write_text(MODEL_PY)
    torch.save(model.state_dict(), folder / "eager" / "weights.pth")
    (folder / "script").mkdir()
    torch.jit.script(model).save(folder / "script" / "model.pt")
    rows = [{"body": body}] * BATCH

    def bare() -> object:
        images = [Image.open(io.BytesIO(body)).convert("RGB") for _ in range(BATCH)]
        with torch.inference_mode():
            scores = torch.softmax(model(torch.stack(list(map(TRANSFORM, images)))), 1)
        return [part.tolist() for part in scores.topk(5)]

    def ours(kind: str, folded: bool) -> Callable[[], object]:
        section = {"optimize_cpu": folded}
        files = {"eager": ("model.py", "weights.pth"), "script": (None, "model.pt")}[kind]
        manifest = {"modelFile": files[0], "serializedFile": files[1]}
        _manifest(folder / kind, {key: name for key, name in manifest.items() if name})
        loaded = load_handler(folder / kind, "image_classifier", yaml={"handler": section})
        return lambda: loaded.predict(*rows)

    return {
        "bare loop": bare,
        "image_classifier": ours("eager", True),
        "  without optimize_cpu": ours("eager", False),
        "  of TorchScript": ours("script", True),
    }


def _manifest(folder: Path, model: dict[str, str]) -> None:
    (folder / "MAR-INF").mkdir(exist_ok=True)
    manifest = {"model": {"modelName": "m", "modelVersion": "1.0", **model}}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))


def _measured(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU milliseconds per image."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall * 1000 / BATCH, cpu * 1000 / BATCH


@contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """Another process that wants a core, where ``busy``."""
    process = multiprocessing.get_context("spawn").Process(target=_turn, daemon=True)
    if busy:
        process.start()
    try:
        yield
    finally:
        if busy:
            process.terminate()
            process.join()


def _turn() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
