"""The limit for images: the model in a loop, with no server around it. Prints images a second.

``torch_loop.py MODEL_FOLDER JPEG BATCH SECONDS``; as many torch threads as torch takes.
"""

import sys
import time
from pathlib import Path

import eager
import images
import torch


def main():
    folder, photo, batch, seconds = sys.argv[1:]
    model, body, count = eager.load(folder), Path(photo).read_bytes(), int(batch)

    def once():
        images.classify(model, [images.preprocess(body) for _ in range(count)])

    for _ in range(5):
        once()
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < float(seconds):
        once()
        done += count
    print(f'{{"rate": {done / spent:.4f}, "threads": {torch.get_num_threads()}}}')


if __name__ == "__main__":
    main()
