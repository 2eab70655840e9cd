"""Every error the server answers a client with. Raised by `core`, mapped once by each edge.

ServeError
├── ResourceNotFound         404 ResourceNotFoundException
├── ModelNotFound            404 ModelNotFoundException
├── VersionNotFound          404 ModelVersionNotFoundException
├── WorkflowNotFound         404 WorkflowNotFoundException
├── BadRequest               400 BadRequestException
├── InvalidKey               400 InvalidKeyException            a missing, wrong or expired token
├── InvalidModel             400 InvalidModelException          the archive's manifest is unusable
├── DownloadFailed           400 DownloadArchiveException
├── ModelSetupFailed         400 ModelException                 pip or venv of a model failed
├── InvalidVersion           403 InvalidModelVersionException   default version, others exist
├── InvalidArgument          403 IllegalArgumentException       a malformed escape in a path
├── MethodNotAllowed         405 MethodNotAllowedException
├── RequestTimeout           408 RequestTimeoutException        504 where a worker was too slow
├── Conflict                 409 ConflictStatusException
├── TooLarge                 413 RequestEntityTooLargeException
├── Internal                 500 InternalServerException (also with a worker's own code)
├── WorkerInitialization     500 WorkerInitializationException
└── ServiceUnavailable       503 ServiceUnavailableException
    └── NotInTime                                            refused under a latency target

`status` and `type` are TorchServe's: clients match on both.
"""

from __future__ import annotations

from typing import ClassVar


class ServeError(Exception):
    """An error with an HTTP status, TorchServe's exception name and a message for the client.

    Args:
        reason: a word for programs, where the status may have several reasons.
    """

    status: int = 500
    type: ClassVar[str] = "InternalServerException"
    closes: bool = True  # the connection behind it, as TorchServe does behind each error

    def __init__(
        self, message: str, *, status: int | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        if status is not None:
            self.status = status


class ResourceNotFound(ServeError):
    status = 404
    type = "ResourceNotFoundException"


class ModelNotFound(ServeError):
    status = 404
    type = "ModelNotFoundException"


class VersionNotFound(ServeError):
    status = 404
    type = "ModelVersionNotFoundException"


class WorkflowNotFound(ServeError):
    status = 404
    type = "WorkflowNotFoundException"


class BadRequest(ServeError):
    status = 400
    type = "BadRequestException"


class InvalidKey(ServeError):
    status = 400
    type = "InvalidKeyException"


class InvalidModel(ServeError):
    status = 400
    type = "InvalidModelException"


class DownloadFailed(ServeError):
    status = 400
    type = "DownloadArchiveException"


class ModelSetupFailed(ServeError):
    status = 400
    type = "ModelException"


class InvalidVersion(ServeError):
    status = 403
    type = "InvalidModelVersionException"


class InvalidArgument(ServeError):
    status = 403
    type = "IllegalArgumentException"


class MethodNotAllowed(ServeError):
    status = 405
    type = "MethodNotAllowedException"


class RequestTimeout(ServeError):
    status = 408
    type = "RequestTimeoutException"


class Conflict(ServeError):
    status = 409
    type = "ConflictStatusException"


class TooLarge(ServeError):
    status = 413
    type = "RequestEntityTooLargeException"


class Internal(ServeError):
    status = 500
    type = "InternalServerException"


class WorkerInitialization(ServeError):
    status = 500
    type = "WorkerInitializationException"


class ServiceUnavailable(ServeError):
    status = 503
    type = "ServiceUnavailableException"


class NotInTime(ServiceUnavailable):
    closes = False  # there may be thousands a second: new connections would cost more than they do
