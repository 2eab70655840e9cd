"""What the pump of `dispatch` knows of a batch that its worker has."""

from __future__ import annotations

from ts_frontend.core.job import Job
from ts_frontend.errors import Internal
from ts_worker.messages import Reply


class Flight:
    """A batch that was sent and is not answered yet.

    Args:
        jobs: by the id of their request; those without an answer.
        taken: when the batch left the queue, of `time.monotonic`.
    """

    __slots__ = ("jobs", "sent", "size", "taken")

    def __init__(self, jobs: dict[bytes, Job], taken: float) -> None:
        self.jobs = jobs
        self.size = len(jobs)
        self.taken = taken
        self.sent = taken

    def fail(self, reply: Reply) -> None:
        """Answer the requests that the reply names with its error; where it names none, all."""
        # TorchServe turns 413 into 507: "too large" must not blame the client's body.
        status = 507 if reply.code == 413 else reply.code
        named = [response.request_id for response in reply.responses] or list(self.jobs)
        for request_id in named:
            job = self.jobs.pop(request_id, None)
            if job is not None:
                job.fail(Internal(reply.message, status=status))
