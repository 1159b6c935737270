"""Checks every call before a servicer gets it: its token, rate, message and namespace.

This is an interceptor inside the one that turns errors into statuses. It takes the request as bytes and
decodes it here, because gRPC reports a malformed message as a fault of the server. The health service needs
no token. If the server has tokens, all other services outside the API (reflection, channelz) require one, of
any scope.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from extra_services.errors import InvalidInput, ServiceError
from extra_services.runtime.access import REQUIRED_SCOPES, RequiredScope
from extra_services.runtime.errors import CODES, cut
from extra_services.runtime.handlers import behaviour_of, remade
from extra_services.runtime.tokens import Token, Tokens

OPEN = "/grpc.health.v1.Health/"
API = "/extra_rl."
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls that `tokens` (if they are required) do not allow, and malformed messages."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith(OPEN):
            return handler
        api = details.method.startswith(API)
        token: Token | None = None
        try:
            if self._tokens.required:
                token = self._identify(details)
        except ServiceError as error:
            return remade(handler, _Refused(error) if api else _RefusedOutside(error), None)
        # Without a deserializer: the request comes undecoded.
        return (
            remade(handler, _Admitted(handler, REQUIRED_SCOPES[details.method], token), None)
            if api
            else handler
        )

    def _identify(self, details: grpc.HandlerCallDetails) -> Token:
        token = self._tokens.identify(details.invocation_metadata or ())
        # For every line that is logged for this call.
        structlog.contextvars.bind_contextvars(token=token.name)
        token.count()
        # Before the request, which may be large, is read.
        for need in REQUIRED_SCOPES.get(details.method, ()):
            if not need.field:
                token.require(need.scope, need.namespace)
        return token


class _Refused:
    """Raises the error, for the interceptor around this one to report."""

    def __init__(self, error: ServiceError) -> None:
        self._error = error

    async def unary(self, request: Any, context: Any) -> Any:
        raise self._error

    async def stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        raise self._error
        yield


class _RefusedOutside:
    """As _Refused, for services whose errors no interceptor reports."""

    def __init__(self, error: ServiceError) -> None:
        self._error = error

    async def unary(self, request: Any, context: Any) -> Any:
        await context.abort(_BY_NUMBER[CODES[type(self._error)]], cut(self._error.message))

    async def stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.unary(request, context)
        yield


class _Admitted:
    """Decodes the requests of `handler`, and checks the namespaces they name."""

    def __init__(self, handler: Any, needs: tuple[RequiredScope, ...], token: Token | None) -> None:
        self._decode = handler.request_deserializer
        self._streaming = handler.request_streaming
        self._inner = behaviour_of(handler)
        self._needs = [need for need in needs if need.field]
        self._token = token

    async def unary(self, request: Any, context: Any) -> Any:
        if not self._streaming:
            return await self._inner(self._message(request, first=True), context)
        messages = _Messages(request, self._message)
        try:
            return await self._inner(messages, context)
        except Exception:
            messages.raise_refusal()
            raise

    async def stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if not self._streaming:
            async for response in self._inner(self._message(request, first=True), context):
                yield response
            return
        messages = _Messages(request, self._message)
        try:
            async for response in self._inner(messages, context):
                yield response
        except Exception:
            messages.raise_refusal()
            raise

    def _message(self, data: bytes, *, first: bool) -> Any:
        try:
            message = self._decode(data)
        except DecodeError as error:
            raise InvalidInput("request", "is no message of this RPC, or not of this version") from error
        if first and self._token:
            for need in self._needs:
                self._token.require(need.scope, getattr(message, need.field))
        return message


class _Messages:
    """Decoded messages of a stream; keeps the error if one is refused, in case the servicer replaces it."""

    def __init__(self, raw: AsyncIterator[bytes], decode: Callable[..., Any]) -> None:
        self._raw = aiter(raw)
        self._decode = decode
        self._first = True
        self._refusal: ServiceError | None = None

    def __aiter__(self) -> "_Messages":
        return self

    async def __anext__(self) -> Any:
        data = await anext(self._raw)
        try:
            message = self._decode(data, first=self._first)
        except ServiceError as error:
            self._refusal = error
            raise
        self._first = False
        return message

    def raise_refusal(self) -> None:
        """Raise the error of the message that was refused, if one was."""
        if self._refusal is not None:
            raise self._refusal
