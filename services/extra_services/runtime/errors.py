"""Domain errors as gRPC statuses: one table from error kinds to codes, with google.rpc details.

`status_of` is for an error that fails a whole call: google.rpc.Status in the trailing metadata, with
BadRequest for the field at fault, or RetryInfo for the time to retry after. `item_error` is for one item of a
batch.
"""

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from extra_rl.v1 import common_pb2
from extra_services.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Overloaded,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    Unavailable,
)

#: Bytes of an error's text. It travels twice in base64 and once with up to three characters a byte, all in
#: 8 KiB of metadata, above which clients report that limit in the place of the error.
MAX_TEXT = 1000

CODES: dict[type[ServiceError], int] = {
    InvalidInput: code_pb2.INVALID_ARGUMENT,
    NotFound: code_pb2.NOT_FOUND,
    AlreadyExists: code_pb2.ALREADY_EXISTS,
    FailedPrecondition: code_pb2.FAILED_PRECONDITION,
    Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    Unavailable: code_pb2.UNAVAILABLE,
    Unauthenticated: code_pb2.UNAUTHENTICATED,
    PermissionDenied: code_pb2.PERMISSION_DENIED,
}


def status_of(error: ServiceError) -> status_pb2.Status:
    """Return the google.rpc.Status that reports `error` to the caller, in metadata of a size that arrives."""
    status = status_pb2.Status(code=CODES[type(error)], message=cut(_text(error)))
    if isinstance(error, InvalidInput):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=cut(error.field, 300), description=cut(error.message)
        )
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded):
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after_seconds * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def item_error(error: ServiceError) -> common_pb2.Error:
    """Return `error` as the Error of one item of a batch."""
    field = error.field if isinstance(error, InvalidInput) else ""
    return common_pb2.Error(code=CODES[type(error)], message=error.message, field=field)


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """Return `text`, without its middle if it has more than `limit` bytes: its end says what to do."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    end = limit // 3
    start = limit - end
    first, last = data[:start].decode("utf-8", "ignore"), data[-end:].decode("utf-8", "ignore")
    return f"{first} [... {len(data) - limit:,} bytes left out ...] {last}"


def _text(error: ServiceError) -> str:
    return f"{error.field}: {error.message}" if isinstance(error, InvalidInput) else error.message
