"""The server's own gRPC services, as the routes of the HTTP port call them, and their failures."""

import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from connectrpc.code import Code
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from starlette.requests import ClientDisconnect, Request

from extra_services.errors import InvalidInput, ServiceError
from extra_services.runtime.errors import status_of
from extra_services.runtime.interceptor import REQUEST_ID
from extra_services.runtime.tokens import Tokens

log = structlog.get_logger()

#: Headers of a request that travel on as metadata.
FORWARDED = ("authorization", REQUEST_ID, "traceparent", "tracestate")
CODES = {
    code.value[0]: Code[code.name.replace("CANCELLED", "CANCELED")]
    for code in grpc.StatusCode
    if code.value[0]
}
#: As Connect's specification has them.
HTTP_STATUS = {
    Code.CANCELED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}

#: Calls an RPC: its full name ("/package.Service/Rpc"), the request, the headers of the HTTP request.
Call = Callable[[str, Message, Mapping[str, str]], Awaitable[Any]]


class Upstream:
    """Calls the server's RPCs over a private socket, so that every call passes gRPC's checks and metrics.

    Args:
        channel: To that socket.
        tokens: Those of gRPC.
        limit: Most bytes of a request.
    """

    def __init__(self, channel: grpc.aio.Channel, tokens: Tokens, limit: int) -> None:
        self._channel = channel
        self._tokens = tokens
        self.limit = limit

    async def call(
        self, method: str, request: Message, headers: Mapping[str, str], timeout: float | None = None
    ) -> Any:
        """Return the answer of a unary RPC.

        Args:
            method: Its full name, "/package.Service/Rpc".
            request: The request.
            headers: What `forwarded` returned.
            timeout: Seconds; None: any.

        Raises:
            grpc.aio.AioRpcError: The call failed.
        """
        rpc = self._channel.unary_unary(
            method, request_serializer=_bytes, response_deserializer=_answer(method).FromString
        )
        return await rpc(request, timeout=timeout, metadata=tuple(headers.items()))

    async def stream(
        self, method: str, request: Message, headers: Mapping[str, str]
    ) -> AsyncGenerator[Any, None]:
        """Yield the answers of an RPC that streams them; closing the generator ends the call.

        Raises:
            grpc.aio.AioRpcError: The call failed.
        """
        rpc = self._channel.unary_stream(
            method, request_serializer=_bytes, response_deserializer=_answer(method).FromString
        )(request, metadata=tuple(headers.items()))
        try:
            async for answer in rpc:
                yield answer
        finally:
            rpc.cancel()

    def caller(self, headers: Mapping[str, str]) -> str:
        """Return the name of the caller's token, "" if this server has none.

        Raises:
            Unauthenticated: The token is unknown.
        """
        return self._tokens.identify(headers.items()).name if self._tokens.required else ""


@dataclass(frozen=True)
class Failure:
    """A failed call, as every form of error tells it."""

    code: Code
    message: str
    #: The field of the request at fault, "" if none is; `message` then begins with it.
    field: str = ""
    #: Seconds after which another try makes sense; None: not known.
    retry_seconds: float | None = None

    @property
    def status(self) -> int:
        """The status in HTTP."""
        return HTTP_STATUS.get(self.code, 500)


def failure_of(error: Exception, path: str, headers: Mapping[str, str]) -> Failure:
    """Return what the caller is told of an error; one that nobody foresaw is logged.

    Args:
        error: A domain's error, that of a call upstream, or any other.
        path: Of the request.
        headers: What `forwarded` returned.
    """
    if isinstance(error, ServiceError):
        return _of_status(status_of(error))
    if isinstance(error, ClientDisconnect):
        return Failure(Code.CANCELED, "the caller has hung up")
    if isinstance(error, grpc.aio.AioRpcError):
        status = rich_status(error)
        return _of_status(status) if status else Failure(CODES[error.code().value[0]], error.details() or "")
    request_id = headers[REQUEST_ID]
    log.error("call failed", method=path, request_id=request_id, exc_info=error)
    return Failure(Code.INTERNAL, f"internal error; the server's log has it under request id {request_id}")


def rich_status(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    """Return the google.rpc.Status that came with an error, None if none did."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    return None


def forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a call, with a request id."""
    found = {name: headers[name] for name in FORWARDED if name in headers}
    return {REQUEST_ID: uuid.uuid4().hex} | found


async def read_json(request: Request, limit: int) -> Any:
    """Return the JSON of a request's body.

    Raises:
        InvalidInput: It is larger than `limit` bytes, or no JSON.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise InvalidInput("request", f"is larger than {limit:,} bytes, max_message_bytes of this server")
    try:
        return json.loads(body, parse_constant=_no_number)
    # Of brackets inside brackets there may be too many.
    except (ValueError, RecursionError) as error:
        raise InvalidInput("request", f"is no JSON: {error}") from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number there; send null for what is missing")


def descriptor_of(method: str) -> Any:
    """Return the descriptor of an RPC by its full name."""
    _, service, name = method.split("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]


def _of_status(status: status_pb2.Status) -> Failure:
    field, seconds = "", None
    for detail in status.details:
        bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad):
            field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            seconds = retry.retry_delay.ToMilliseconds() / 1000
    return Failure(CODES[status.code], status.message, field, seconds)


def _answer(method: str) -> Any:
    return GetMessageClass(descriptor_of(method).output_type)


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()
