"""The services for BentoML, run with its own environment.

A batchable method takes lists only. JSON is sent as a list of one, images need the second service
that its documentation describes: it takes single requests and hands them to the batching one.
"""

import json
from pathlib import Path
from typing import Any

import bentoml

JOB = json.loads(Path("job.json").read_text())
LIMITS = {"traffic": {"timeout": 60, "max_concurrency": 1024}}


class _Echo:
    def answer(self, batch):
        return batch


class _Classify:
    def __init__(self):
        import eager
        import images

        self.images = images
        self.model = eager.load(JOB["model"])

    def answer(self, batch):
        return self.images.classify(self.model, [self.images.preprocess(one) for one in batch])


WORK = {"echo": _Echo, "image": _Classify}[JOB["work"]]
# With `Any` the JSON stays what it is; a body that is no JSON comes as bytes.
BODY = {"echo": Any, "image": bytes}[JOB["work"]]


@bentoml.service(workers=JOB["workers"], **LIMITS)
class Single:
    """Batch 1."""

    def __init__(self):
        self.work = WORK()

    @bentoml.api(route="/predict")
    def predict(self, body: BODY, /) -> Any:
        return self.work.answer([body])[0]


@bentoml.service(workers=JOB["workers"], **LIMITS)
class Batching:
    """Lists in and out, as a batchable method wants; its dispatcher decides how long to wait."""

    def __init__(self):
        self.work = WORK()

    @bentoml.api(route="/predict", batchable=True, max_batch_size=max(2, JOB["batch"]))
    def predict(self, bodies: list[BODY]) -> list[Any]:
        return self.work.answer(bodies)


@bentoml.service(**LIMITS)
class Front:
    """Images: raw bodies in, lists of one to the batching service."""

    batching = bentoml.depends(Batching)

    @bentoml.api(route="/predict")
    async def predict(self, body: BODY, /) -> Any:
        return (await self.batching.to_async.predict([body]))[0]
