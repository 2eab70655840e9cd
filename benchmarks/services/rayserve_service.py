"""The services for Ray Serve, run with its own environment: a one-node cluster in this folder."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import ray
from ray import serve

JOB = json.loads(Path("job.json").read_text())
THREADS = os.environ.get("OMP_NUM_THREADS")


class Work:
    """Batch by batch."""

    def __init__(self, services):
        sys.path.insert(0, services)
        if JOB["work"] == "image":
            import eager
            import images

            self.images, self.model = images, eager.load(JOB["model"])

    def answer(self, batch):
        if JOB["work"] == "echo":
            return batch
        return self.images.classify(self.model, [self.images.preprocess(one) for one in batch])

    async def body(self, request):
        return await (request.json() if JOB["work"] == "echo" else request.body())


class Single(Work):
    """Batch 1."""

    async def __call__(self, request):
        return self.answer([await self.body(request)])[0]


class Batched(Work):
    """As `serve.batch` advises."""

    async def __call__(self, request):
        return await self.together(await self.body(request))

    @serve.batch(max_batch_size=JOB["batch"], batch_wait_timeout_s=JOB["delay_ms"] / 1000)
    async def together(self, batch):
        return self.answer(batch)


def main():
    # Ray sets OMP_NUM_THREADS of actors by their num_cpus: 1 where nobody says another number.
    variables = {} if THREADS is None else {"env_vars": {"OMP_NUM_THREADS": THREADS}}
    ray.init(include_dashboard=False, _temp_dir=str(Path("ray").absolute()))
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    deployment = serve.deployment(
        Batched if JOB["batch"] > 1 else Single,
        num_replicas=JOB["workers"],
        max_ongoing_requests=1024,
        ray_actor_options={"num_cpus": 0, "runtime_env": variables},
    )
    serve.run(deployment.bind(str(Path(__file__).parent)))
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
