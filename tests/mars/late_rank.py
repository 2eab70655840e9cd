"""Does not load on rank 1."""

import os
import time


def handle(data, context):
    if data is None and os.environ["RANK"] == "1":
        only_rank_1()
    return data


def only_rank_1():
    time.sleep(600)
