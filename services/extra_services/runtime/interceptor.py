"""What happens around every call, whatever its service: request id, log line, errors made statuses.

Servicers and domain raise; here, and nowhere else, an exception becomes a status. A ServiceError is told as
it is. Anything else is a bug: the caller gets INTERNAL with the request id, the log gets the stack trace.
"""

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog
from grpc_status import rpc_status

from extra_services.errors import ServiceError
from extra_services.runtime.errors import status_of

log = structlog.get_logger()

REQUEST_ID = "x-request-id"


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wraps the async handlers of this project's services; health and reflection pass untouched."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/extra_rl."):
            return handler
        metadata = dict(details.invocation_metadata or ())
        around = _Around(details.method, str(metadata.get(REQUEST_ID) or uuid.uuid4().hex))
        if handler.response_streaming:
            make, inner = _streaming_maker(handler), handler.stream_stream or handler.unary_stream
            wrapped: Any = around.stream(inner)
        else:
            make, inner = _unary_maker(handler), handler.stream_unary or handler.unary_unary
            wrapped = around.unary(inner)
        return make(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _streaming_maker(handler: Any) -> Any:
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler
    return grpc.unary_stream_rpc_method_handler


def _unary_maker(handler: Any) -> Any:
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler
    return grpc.unary_unary_rpc_method_handler


class _Around:
    def __init__(self, method: str, request_id: str) -> None:
        self.method = method
        self.request_id = request_id

    def unary(self, inner: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            started = time.monotonic()
            try:
                response = await inner(request, context)
            except Exception as error:
                await self._fail(error, context, started)
                raise AssertionError("abort raises") from error
            self._log(started, "OK")
            return response

        return call

    def stream(
        self, inner: Callable[[Any, Any], AsyncIterator[Any]]
    ) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            started = time.monotonic()
            try:
                async for response in inner(request, context):
                    yield response
            except Exception as error:
                await self._fail(error, context, started)
            self._log(started, "OK")

        return call

    async def _fail(self, error: Exception, context: Any, started: float) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, ServiceError):
            status = rpc_status.to_status(status_of(error))
            self._log(started, status.code.name, error=status.details)
            await context.abort(status.code, status.details, status.trailing_metadata)
        log.error("call failed", method=self.method, request_id=self.request_id, exc_info=error)
        text = f"internal error; the server's log has it under request id {self.request_id}"
        await context.abort(grpc.StatusCode.INTERNAL, text)

    def _log(self, started: float, code: str, **more: Any) -> None:
        seconds = round(time.monotonic() - started, 4)
        level = log.debug if code == "OK" else log.info
        level("call", method=self.method, request_id=self.request_id, code=code, seconds=seconds, **more)
