"""Wraps every call of every service: request id, metrics, span, log, and the status of errors.

Servicers and domain raise exceptions; only here they become statuses. A ServiceError is reported as it is.
Any other exception is a bug: the caller gets INTERNAL with the request id, the log gets the stack trace.
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
from extra_services.runtime.handlers import behaviour_of, remade

log = structlog.get_logger()

REQUEST_ID = "x-request-id"
#: Characters of a request id that are kept.
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
        around = _Around(behaviour_of(handler), details.method, request_id, metadata)
        return remade(handler, around, handler.request_deserializer)


class _Around:
    """One call: it begins in its own task and ends once, with the name of a gRPC code."""

    def __init__(self, inner: Any, method: str, request_id: str, metadata: dict[str, Any]) -> None:
        self._inner = inner
        self.method = method
        self.request_id = request_id
        self._metadata = metadata
        service, _, self._name = method.rpartition("/")
        self._service = service.rpartition(".")[2]

    async def unary(self, request: Any, context: Any) -> Any:
        self._begin()
        try:
            response = await self._inner(request, context)
        except Exception as error:
            await self._fail(error, context)
            raise AssertionError("abort raises") from error
        except BaseException:
            self._end(_code_of_cancelled(context))
            raise
        self._end("OK")
        return response

    async def stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self._begin()
        try:
            async for response in self._inner(request, context):
                yield response
        except Exception as error:
            await self._fail(error, context)
        except BaseException:
            self._end(_code_of_cancelled(context))
            raise
        self._end("OK")

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
    """DEADLINE_EXCEEDED if the call's deadline has passed, else CANCELLED."""
    left = context.time_remaining()
    return "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"


def _name(code: Any) -> str:
    """Name of a gRPC code, which grpc.aio's context holds as a number."""
    return next((known.name for known in grpc.StatusCode if code in (known, known.value[0])), "UNKNOWN")
