"""The error vocabulary of the domain: what can be wrong, without saying how it travels.

Domain code raises these and knows no gRPC. `runtime.errors` holds the one table that maps them to status
codes; anything else that escapes is a bug and reaches the caller as INTERNAL with a request id only.
"""


class ServiceError(Exception):
    """Base of all errors a caller is told about; `message` says what was wrong and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(ServiceError):
    """The request is wrong and stays wrong; `field` is the path of the offending field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class NotFound(ServiceError):
    """What the request names does not exist."""


class AlreadyExists(ServiceError):
    """What the request would create exists."""


class FailedPrecondition(ServiceError):
    """The request is well formed, but not in the state the service is in."""


class Overloaded(ServiceError):
    """A queue or limit is full; worth another try after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(ServiceError):
    """The service cannot serve now, for no fault of the request; worth another try."""


class Unauthenticated(ServiceError):
    """The request does not show who sends it, where that is required."""


class PermissionDenied(ServiceError):
    """Who sends the request is known, and may not do this."""
