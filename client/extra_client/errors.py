"""Errors of calls: one exception class for each kind of failure, each with what to do about it.

The servers answer with google.rpc.Status; `from_status` turns code and details into these exceptions, and
`from_item` does the same for the error of one item of a batch. Callers catch classes, never codes.
"""

from google.rpc import error_details_pb2, status_pb2

from extra_rl.v1 import common_pb2


class ExtraError(Exception):
    """Base class of all failures of a call.

    Attributes:
        message: What is wrong and what to do.
        method: The RPC. Empty, as the next two, for errors of single items and for those found before
            anything was sent.
        target: The server's address.
        request_id: Finds the call in the server's log.
    """

    def __init__(self, message: str, *, method: str = "", target: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.method = method
        self.target = target
        self.request_id = request_id


class InvalidArgumentError(ExtraError, ValueError):
    """The request is wrong and stays wrong; `field` is the path of the wrong field, if there is one."""

    def __init__(
        self, message: str, *, field: str = "", method: str = "", target: str = "", request_id: str = ""
    ) -> None:
        super().__init__(message, method=method, target=target, request_id=request_id)
        self.field = field


class NotFoundError(ExtraError):
    """The request names something that does not exist."""


class AlreadyExistsError(ExtraError):
    """The request would create something that exists."""


class FailedPreconditionError(ExtraError):
    """The request is well formed, but the service is not in the state for it."""


class OverloadedError(ExtraError):
    """A queue or limit of the server is full; try again in `retry_after` seconds.

    `retry_after` is None if the server gave no hint.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        method: str = "",
        target: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(message, method=method, target=target, request_id=request_id)
        self.retry_after = retry_after


class UnavailableError(ExtraError):
    """No server answers, even after the retries that are safe, or it cannot serve now."""


class DeadlineExceededError(ExtraError):
    """The answer did not come within the deadline; the server has stopped working on the call."""


class UnauthenticatedError(ExtraError):
    """The server wants a token and got none that it knows: see `Credentials`."""


class PermissionDeniedError(ExtraError):
    """The token is known, but its scope does not allow this in that namespace."""


class UnimplementedError(ExtraError):
    """The server does not know the method: it is older than this client, or another service."""


class CancelledError(ExtraError):
    """The call was cancelled, for example because its client was closed."""


class InternalError(ExtraError):
    """The server failed in an unforeseen way; its log has the reason under `request_id`."""


_BY_CODE: dict[int, type[ExtraError]] = {
    1: CancelledError,
    3: InvalidArgumentError,
    4: DeadlineExceededError,
    5: NotFoundError,
    6: AlreadyExistsError,
    7: PermissionDeniedError,
    8: OverloadedError,
    9: FailedPreconditionError,
    12: UnimplementedError,
    13: InternalError,
    14: UnavailableError,
    16: UnauthenticatedError,
}


def from_status(
    status: status_pb2.Status, message: str, *, method: str, target: str, request_id: str
) -> ExtraError:
    """Return the exception for a failed call with this message; its details come from `status`."""
    where = {"method": method, "target": target, "request_id": request_id}
    kind = _BY_CODE.get(status.code, ExtraError)
    if kind is InvalidArgumentError:
        return InvalidArgumentError(message, field=_field(status), **where)
    if kind is OverloadedError:
        return OverloadedError(message, retry_after=_retry_after(status), **where)
    return kind(message, **where)


def from_item(error: common_pb2.Error) -> ExtraError | None:
    """Return the exception for one item of a batch; None if the item was served (code 0)."""
    if not error.code:
        return None
    kind = _BY_CODE.get(error.code, ExtraError)
    if kind is InvalidArgumentError:
        text = f"{error.field}: {error.message}" if error.field else error.message
        return InvalidArgumentError(text, field=error.field)
    return kind(error.message)


def _field(status: status_pb2.Status) -> str:
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad) and bad.field_violations:
            return str(bad.field_violations[0].field)
    return ""


def _retry_after(status: status_pb2.Status) -> float | None:
    for detail in status.details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None
