"""A linear layer whose columns are spread over ranks: each multiplies its share of the input with
its share of the weights, and the answer is the sum of all. No rank can give it alone.
"""

import json
import os
import time

import torch
from torch import distributed

WIDTH = 8


def be_late():
    time.sleep(600)


class TwoRanks:
    def initialize(self, context):
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        print("initializing rank", self.rank)
        config = context.model_yaml_config
        if self.rank == config.get("broken_rank"):
            raise ValueError("this rank has no weights")
        if self.rank == config.get("late_rank"):
            be_late()
        if distributed.is_initialized():
            raise RuntimeError("somebody else has joined this process to a group")
        distributed.init_process_group("gloo")
        share = WIDTH // self.size
        self.mine = slice(self.rank * share, (self.rank + 1) * share)
        self.weights = torch.arange(1.0, WIDTH + 1)[self.mine]

    def handle(self, data, context):
        answers = []
        for row in data:
            body = json.loads(bytes(row["body"]))
            if body == "where":
                answers.append(self._where())
                continue
            self._misbehave(body)
            part = (torch.tensor(body["x"])[self.mine] * self.weights).sum()
            distributed.all_reduce(part)
            answers.append({"sum": part.item()})
        return answers

    def _misbehave(self, body):
        if self.rank == body.get("fails"):
            raise ValueError("this rank does not take part")

    def _where(self):
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "OMP_NUM_THREADS")
        mine = {name: os.environ.get(name) for name in names}
        mine.update(pid=os.getpid(), threads=torch.get_num_threads())
        ranks = [None] * self.size
        distributed.all_gather_object(ranks, mine)
        return ranks
