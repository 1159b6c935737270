"""The errors of the domain, independent of gRPC.

Domain code raises these. `runtime.errors` holds the one table that maps them to status codes. Any other
exception is a bug and reaches the caller as INTERNAL with nothing but a request id.
"""


class ServiceError(Exception):
    """Base of all errors that are reported to the caller; `message` names the problem and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(ServiceError):
    """The request is wrong, and a retry will not help; `field` is the path of the wrong field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class NotFound(ServiceError):
    """Something that the request names does not exist."""


class AlreadyExists(ServiceError):
    """Something that the request would create exists already."""


class FailedPrecondition(ServiceError):
    """The request is well formed, but not possible in the present state of the service."""


class Overloaded(ServiceError):
    """A queue or limit is full; the caller may retry after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(ServiceError):
    """The service cannot serve now, through no fault of the request; the caller may retry."""


class Unauthenticated(ServiceError):
    """The request has no valid token, and the server requires one."""


class PermissionDenied(ServiceError):
    """The caller is known, and not allowed to do this."""
