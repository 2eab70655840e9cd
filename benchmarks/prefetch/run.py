"""What `prefetch` and `preprocess_ahead` gain: the same models with and without, side by side.

One server has them all, so that a noisy minute of the machine hits them alike; they are loaded in
turns. Needs wrk. `python -m benchmarks.prefetch.run --help` has the options.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.environments import our_environ
from benchmarks.load import wrk
from benchmarks.process import free_ports, request, running, tail

HERE = Path(__file__).resolve().parent
SCRIPTS = Path(sys.executable).parent
KINDS = {  # what the handler does, its body and how that is typed
    "resnet": ({}, "image.jpg", "image/jpeg"),
    "gpu": ({"gpu": True}, "image.jpg", "image/jpeg"),
    "json": ({"gpu": True, "json": True}, "numbers.json", "application/json"),
}
WAYS = {"plain": (0, False), "prefetch": (1, False), "ahead": (1, True)}


def main() -> None:
    """Print requests/s and ratios to the plain model, for each kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="that torch computes with")
    options = parser.parse_args()
    # On a busy machine torch's threads wait for each other, and that is all one would measure.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with TemporaryDirectory(prefix="prefetch-") as name:
        folder, port, *others = Path(name), *free_ports(3)
        _bodies(folder)
        models = [f"{kind}-{way}" for kind in options.kinds for way in WAYS]
        for model in models:
            _archive(folder, model, options.batch)
        with running(_command(folder, models, port, others), folder, our_environ()):
            token = _wait(folder, models, port)
            for kind in options.kinds:
                _compare(folder, f"http://127.0.0.1:{port}/predictions/{kind}-", token, options)


def _bodies(folder: Path) -> None:
    import torch
    from PIL import Image

    torch.manual_seed(0)
    noise = (torch.rand(30, 40, 3) * 255).byte().numpy()
    jpeg = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(jpeg, "JPEG")
    (folder / "image.jpg").write_bytes(jpeg.getvalue())
    (folder / "numbers.json").write_text(json.dumps(torch.rand(20_000).tolist()))


def _archive(folder: Path, model: str, batch: int) -> None:
    kind, way = model.split("-")
    prefetch, ahead = WAYS[way]
    config = folder / "model-config.yaml"  # JSON is yaml
    section = {**KINDS[kind][0], "preprocess_ahead": ahead}
    values = {"minWorkers": 1, "batchSize": batch, "prefetch": prefetch, "handler": section}
    config.write_text(json.dumps(values))
    pack = [SCRIPTS / "archiver", "--model-name", model, "--version", "1.0"]
    pack += ["--handler", HERE / "handler.py", "--config-file", config]
    (folder / "store").mkdir(exist_ok=True)
    subprocess.run(
        [*map(str, pack), "--export-path", str(folder / "store")],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _command(folder: Path, models: list[str], port: int, others: list[int]) -> list[str]:
    config = folder / "config.properties"
    config.write_text(
        f"inference_address=http://127.0.0.1:{port}\n"
        f"management_address=http://127.0.0.1:{others[0]}\n"
        f"metrics_address=http://127.0.0.1:{others[1]}\n"
    )
    command = [str(SCRIPTS / "torchserve-py"), "--start", "--foreground", "--ncs"]
    command += ["--ts-config", str(config), "--model-store", str(folder / "store"), "--models"]
    return [*command, *(f"{model}={model}.mar" for model in models)]


def _wait(folder: Path, models: list[str], port: int) -> str:
    keys = folder / "key_file.json"
    for _ in range(600):
        if keys.exists() and (text := keys.read_text()).rstrip().endswith("}"):
            token = str(json.loads(text)["inference"]["key"])
            body = (folder / "image.jpg").read_bytes()
            url = f"http://127.0.0.1:{port}/predictions/{{}}"
            photographed = [model for model in models if "json" not in model]
            answers = [request("POST", url.format(m), body, token)[0] for m in photographed]
            if all(status == 200 for status in answers):
                return token
        time.sleep(0.2)
    raise SystemExit(f"the server does not answer:\n{tail(folder)}")


def _compare(folder: Path, url: str, token: str, options: argparse.Namespace) -> None:
    kind = url.rsplit("/", 1)[1].rstrip("-")
    _, file, content_type = KINDS[kind]
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(-1, options.rounds):  # the first one warms up
        for way in list(WAYS) if number % 2 else reversed(WAYS):
            target = wrk.Target(f"{url}{way}", token, folder / file, content_type)
            sample = wrk.measure(target, options.connections, options.seconds)
            if sample.errors:
                raise SystemExit(f"{kind}-{way}: {sample}\n{tail(folder)}")
            if number >= 0:
                rates[way].append(sample.rate)
    for way, measured in rates.items():
        ratios = [one / plain for one, plain in zip(measured, rates["plain"], strict=True)]
        print(
            f"{kind:7} {way:9} {median(measured):8.1f} requests/s   x {median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
