"""What happens around every call, whatever its service: request id, metrics, span, log, status of errors.

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
from extra_services.runtime import metrics, tracing
from extra_services.runtime.errors import status_of

log = structlog.get_logger()

REQUEST_ID = "x-request-id"
#: Characters of it that are kept.
MAX_REQUEST_ID = 200


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
        request_id = str(metadata.get(REQUEST_ID) or uuid.uuid4().hex)[:MAX_REQUEST_ID]
        around = _Around(details.method, request_id, metadata)
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
    """One call: begun in its own task, ended once, with the name of a gRPC code."""

    def __init__(self, method: str, request_id: str, metadata: dict[str, Any]) -> None:
        self.method = method
        self.request_id = request_id
        self._metadata = metadata
        service, _, self._name = method.rpartition("/")
        self._service = service.rpartition(".")[2]

    def unary(self, inner: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            self._begin()
            try:
                response = await inner(request, context)
            except Exception as error:
                await self._fail(error, context)
                raise AssertionError("abort raises") from error
            except BaseException:
                self._end(_code_of_cancelled(context))
                raise
            self._end("OK")
            return response

        return call

    def stream(
        self, inner: Callable[[Any, Any], AsyncIterator[Any]]
    ) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            self._begin()
            try:
                async for response in inner(request, context):
                    yield response
            except Exception as error:
                await self._fail(error, context)
            except BaseException:
                self._end(_code_of_cancelled(context))
                raise
            self._end("OK")

        return call

    def _begin(self) -> None:
        self._started = time.monotonic()
        structlog.contextvars.bind_contextvars(request_id=self.request_id)
        self._span = tracing.RpcSpan(self._service, self._name, self.request_id, self._metadata)
        metrics.RPCS_IN_FLIGHT.labels(self._service, self._name).inc()

    def _end(self, code: str, **more: Any) -> None:
        seconds = time.monotonic() - self._started
        metrics.RPCS_IN_FLIGHT.labels(self._service, self._name).dec()
        metrics.RPCS.labels(self._service, self._name, code).inc()
        metrics.RPC_SECONDS.labels(self._service, self._name).observe(seconds)
        self._span.end(code)
        level = log.debug if code == "OK" else log.info
        level("call", method=self.method, code=code, seconds=round(seconds, 4), **more)

    async def _fail(self, error: Exception, context: Any) -> None:
        if isinstance(error, grpc.aio.AbortError):
            self._end(_name(context.code()))
            raise error
        if isinstance(error, ServiceError):
            status = rpc_status.to_status(status_of(error))
            self._end(status.code.name, error=status.details)
            await context.abort(status.code, status.details, status.trailing_metadata)
        log.error("call failed", method=self.method, exc_info=error)
        self._end("INTERNAL")
        text = f"internal error; the server's log has it under request id {self.request_id}"
        await context.abort(grpc.StatusCode.INTERNAL, text)


def _code_of_cancelled(context: Any) -> str:
    """Why a call was cancelled: its deadline, or somebody."""
    left = context.time_remaining()
    return "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"


def _name(code: Any) -> str:
    """The name of a gRPC code, which grpc.aio's context gives as a number."""
    return next((known.name for known in grpc.StatusCode if code in (known, known.value[0])), "UNKNOWN")
