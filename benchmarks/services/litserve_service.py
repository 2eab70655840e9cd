"""The services for LitServe, run with the Python of its own environment."""

import json
import sys
from pathlib import Path
from typing import Annotated

import litserve
from fastapi import Body

JOB = json.loads(Path("job.json").read_text())
# The body as it is: an UploadFile would come as multipart, which is slower.
Raw = Annotated[bytes, Body(media_type="application/octet-stream")]


class Echo(litserve.LitAPI):
    """JSON in, JSON out."""

    def setup(self, device):
        pass

    def decode_request(self, request):
        return request

    def batch(self, inputs):
        return inputs

    def predict(self, data):
        return data

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output


class Length(Echo):
    """Bytes in, their length out."""

    def decode_request(self, request: Raw):
        return request

    def predict(self, data):
        return [len(one) for one in data] if JOB["batch"] > 1 else len(data)


class Classify(Echo):
    """JPEG in, the five best classes out."""

    def setup(self, device):
        import eager
        import images

        self.images = images
        self.model = eager.load(JOB["model"])

    def decode_request(self, request: Raw):
        return self.images.preprocess(request)

    def predict(self, data):
        answers = self.images.classify(self.model, data if JOB["batch"] > 1 else [data])
        return answers if JOB["batch"] > 1 else answers[0]


class Small(Echo):
    """JSON list in and out, the small model between."""

    def setup(self, device):
        import eager
        import torch

        self.torch = torch
        self.model = eager.load(JOB["model"])

    def predict(self, data):
        with self.torch.inference_mode():
            return self.model(self.torch.tensor([data]))[0].tolist()


def main():
    api = {"echo": Echo, "length": Length, "image": Classify, "small": Small}[JOB["work"]]
    batching = {"max_batch_size": JOB["batch"], "batch_timeout": JOB["delay_ms"] / 1000}
    server = litserve.LitServer(
        api(**batching if JOB["batch"] > 1 else {}),
        accelerator="cpu",
        workers_per_device=JOB["workers"],
        fast_queue=True,
        max_payload_size=JOB["body_limit"],
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=JOB["processes"] or None,
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
