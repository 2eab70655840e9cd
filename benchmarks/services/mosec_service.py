"""The services for mosec, run with the Python of mosec's own environment."""

import json
from pathlib import Path

from mosec import Server, Worker

JOB = json.loads(Path("job.json").read_text())


class Echo(Worker):
    """JSON in, JSON out, as mosec does by default."""

    def forward(self, data):
        return data


class Length(Worker):
    """Bytes in, their length out."""

    def deserialize(self, data):
        return data

    def forward(self, data):
        return [len(one) for one in data] if JOB["batch"] > 1 else len(data)


class Preprocess(Worker):
    """The first stage where there are two."""

    def __init__(self):
        import images
        import torch

        torch.set_num_threads(1)
        self.images = images

    def deserialize(self, data):
        return data

    def forward(self, data):
        return self.images.preprocess(data).numpy()


class Classify(Worker):
    """The second stage, or the only one."""

    def __init__(self):
        import eager
        import images
        import torch

        self.images, self.torch = images, torch
        self.model = eager.load(JOB["model"])

    def deserialize(self, data):
        return self.images.preprocess(data)

    def forward(self, data):
        batch = data if JOB["batch"] > 1 else [data]
        tensors = [self.torch.as_tensor(one) for one in batch]
        answers = self.images.classify(self.model, tensors)
        return answers if JOB["batch"] > 1 else answers[0]


class Small(Worker):
    """JSON list in and out, the small model between."""

    def __init__(self):
        import eager
        import torch

        self.torch = torch
        self.model = eager.load(JOB["model"])

    def forward(self, data):
        with self.torch.inference_mode():
            return self.model(self.torch.tensor([data]))[0].tolist()


def main():
    server = Server()
    if JOB["processes"]:
        server.append_worker(Preprocess, num=JOB["processes"])
    worker = {"echo": Echo, "length": Length, "image": Classify, "small": Small}[JOB["work"]]
    batching = {"max_batch_size": JOB["batch"]}
    if JOB["batch"] > 1:
        batching["max_wait_time"] = JOB["delay_ms"]
    server.append_worker(worker, num=JOB["workers"], **batching)
    server.run()


if __name__ == "__main__":
    main()
