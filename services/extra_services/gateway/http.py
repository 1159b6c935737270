"""The unary RPCs over HTTP/1.1 and 2 beside gRPC, as JSON or binary: one more port, off by default.

The protocol is Connect, by its official package; Hypercorn speaks HTTP. Each call is sent on to this server's
own gRPC services over a private Unix socket. So tokens, scopes, limits, request ids, metrics, traces, errors
and drain are those of gRPC, and none of it is written twice. The price is one more hop inside the process.
"""

import asyncio
import json
import logging
import shutil
import socket
import ssl
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
import structlog
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from hypercorn.asyncio import serve
from hypercorn.config import Config
from protobuf.wkt import Any as AnyDetail
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from extra_services.errors import InvalidInput, ServiceError
from extra_services.gateway.openapi import openapi
from extra_services.runtime.errors import status_of
from extra_services.runtime.interceptor import REQUEST_ID
from extra_services.runtime.settings import ServerSettings
from extra_services.runtime.tls import Certificates
from extra_services.runtime.tokens import Tokens

log = structlog.get_logger()

#: Headers of a request that travel on as metadata.
FORWARDED = ("authorization", REQUEST_ID, "traceparent", "tracestate")
_CODES = {
    code.value[0]: Code[code.name.replace("CANCELLED", "CANCELED")]
    for code in grpc.StatusCode
    if code.value[0]
}

#: Calls an RPC: its full name ("/package.Service/Rpc"), the request, the headers of the HTTP request.
Call = Callable[[str, Message, Mapping[str, str]], Awaitable[Any]]
#: Answers the JSON of a POST, and the parameters of its URL, with JSON; or an error like `Call`.
Handler = Callable[[Any, Mapping[str, str], Call, Mapping[str, str]], Awaitable[Any]]


class Gateway:
    """The HTTP port of a server. Make it before the gRPC server starts, `start` it after."""

    def __init__(
        self,
        settings: ServerSettings,
        tokens: Tokens,
        server: grpc.aio.Server,
        services: Iterable[str],
        posts: Mapping[str, Handler],
    ) -> None:
        """Listen on the HTTP port, and let `server` listen on a private socket.

        Args:
            settings: With an `http_port`.
            tokens: Those of gRPC.
            server: Serves the RPCs.
            services: Full names of its services.
            posts: Further paths and what answers a POST there.

        Raises:
            SystemExit: The port is taken.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="extra-rl-http-"))
        self._target = f"unix:{self._folder / 'grpc'}"
        server.add_insecure_port(self._target)
        listening = _listen(settings)
        self.address = _address(listening)
        self._stopping = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._channel: grpc.aio.Channel | None = None
        self._tokens = tokens
        self._posts = posts
        self._services = list(services)
        self._limit = settings.max_message_bytes
        self._config = _Config(settings, listening)

    async def start(self) -> None:
        """Serve from now on."""
        self._channel = grpc.aio.insecure_channel(
            self._target,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_retries", 0),
            ],
        )
        methods = _methods(self._services)
        described = openapi(methods.values(), self._posts)

        async def description(_request: Request) -> Response:
            return JSONResponse(described)

        routes: list[BaseRoute] = [Route("/openapi.json", description)]
        routes += [
            Route(path, self._post(handler), methods=["POST"]) for path, handler in self._posts.items()
        ]
        routes.append(Mount("/", app=_Application(methods, self._call, self._limit)))
        app = _Authenticated(Starlette(routes=routes), self._tokens)
        self._serving = asyncio.create_task(serve(app, self._config, shutdown_trigger=self._stopping.wait))

    async def stop(self) -> None:
        """Take no more calls, and let those that run finish within the drain's seconds."""
        self._stopping.set()
        if self._serving is not None:
            await self._serving
        if self._channel is not None:
            await self._channel.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _call(
        self, method: str, request: Message, headers: Mapping[str, str], timeout: float | None = None
    ) -> Any:
        assert self._channel is not None
        output = GetMessageClass(_descriptor(method).output_type)
        rpc = self._channel.unary_unary(
            method, request_serializer=_bytes, response_deserializer=output.FromString
        )
        return await rpc(request, timeout=timeout, metadata=tuple(headers.items()))

    def _post(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            headers = _forwarded(request.headers)
            try:
                body = await _json(request, self._limit)
                return JSONResponse(
                    await handler(body, request.query_params, self._call, headers),
                    headers={REQUEST_ID: headers[REQUEST_ID]},
                )
            except ServiceError as error:
                status = status_of(error)
                return _failed(_CODES[status.code], status.message, headers)
            except grpc.aio.AioRpcError as error:
                failed = _connect_error(error)
                return _failed(failed.code, failed.message, headers)
            except Exception as error:
                failed = _bug(error, request.url.path, headers)
                return _failed(failed.code, failed.message, headers)

        return answer


class _Application(ConnectASGIApplication[None]):
    """Connect's application for all services of a server."""

    path = "/"

    def __init__(self, methods: Mapping[str, Any], call: Callable[..., Awaitable[Any]], limit: int) -> None:
        endpoints = {
            path: Endpoint.unary(_info(method), _forward(path, call)) for path, method in methods.items()
        }
        super().__init__(
            service=None,
            endpoints=lambda _: endpoints,
            read_max_bytes=limit,
            # A misspelled field is an error, not left out.
            codecs=[google_protobuf_binary_codec(), google_protobuf_json_codec(ignore_unknown_fields=False)],
        )


class _Authenticated:
    """Refuses a request without a known token before its body is read; gRPC's guard does all other checks."""

    def __init__(self, app: Any, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and self._tokens.required:
            headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]]
            try:
                self._tokens.identify(headers)
            except ServiceError as error:
                response = _failed(Code.UNAUTHENTICATED, error.message, {})
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Config(Config):  # type: ignore[misc]
    """Hypercorn's settings; the TLS certificate follows its files, as that of gRPC does."""

    def __init__(self, settings: ServerSettings, listening: socket.socket) -> None:
        super().__init__()
        self.bind = [f"fd://{listening.detach()}"]
        self.graceful_timeout = settings.drain_seconds
        self.accesslog = None
        # Its errors alone: they go to standard error by Python's own default.
        self.errorlog = logging.getLogger("hypercorn.error")
        self.include_server_header = False
        # Connect's calls, not connections, are limited: by gRPC.
        self.h2_max_concurrent_streams = min(settings.max_concurrent_rpcs, 2**16)
        self._files: Certificates | None = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            self.certfile, self.keyfile = str(settings.tls_certificate), str(settings.tls_key)
            self._files = Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)

    def create_ssl_context(self) -> ssl.SSLContext | None:
        """Return the context of new connections, which takes up new files."""
        return None if self._files is None else self._files.ssl_context(["h2", "http/1.1"])


def _forward(path: str, call: Callable[..., Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def forward(request: Any, context: Any) -> Any:
        headers = _forwarded(context.request_headers)
        context.response_headers[REQUEST_ID] = headers[REQUEST_ID]
        timeout = None if context.timeout_ms is None else max(0.0, context.timeout_ms / 1000)
        try:
            return await call(path, request, headers, timeout)
        except grpc.aio.AioRpcError as error:
            raise _connect_error(error) from error
        except Exception as error:
            raise _bug(error, path, headers) from error

    return forward


def _forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a call, with a request id."""
    found = {name: headers[name] for name in FORWARDED if name in headers}
    return {REQUEST_ID: uuid.uuid4().hex} | found


def _connect_error(error: grpc.aio.AioRpcError) -> ConnectError:
    details: list[ErrorDetail] = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            details = [
                ErrorDetail(AnyDetail(type_url=each.type_url, value=each.value)) for each in status.details
            ]
    return ConnectError(_CODES[error.code().value[0]], error.details() or "", details)


def _bug(error: Exception, path: str, headers: Mapping[str, str]) -> ConnectError:
    """Log an exception that nobody foresaw, as gRPC's interceptor does, and return what the caller gets."""
    request_id = headers[REQUEST_ID]
    log.error("call failed", method=path, request_id=request_id, exc_info=error)
    return ConnectError(
        Code.INTERNAL, f"internal error; the server's log has it under request id {request_id}"
    )


def _failed(code: Code, message: str, headers: Mapping[str, str]) -> Response:
    """Return a failure in the form of Connect's."""
    told = {REQUEST_ID: headers[REQUEST_ID]} if REQUEST_ID in headers else {}
    return JSONResponse({"code": code.value, "message": message}, _HTTP_STATUS.get(code, 500), told)


#: As Connect's specification has them.
_HTTP_STATUS = {
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


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()


async def _json(request: Request, limit: int) -> Any:
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
        return json.loads(body)
    except ValueError as error:
        raise InvalidInput("request", f"is no JSON: {error}") from error


def _methods(services: Iterable[str]) -> dict[str, Any]:
    """Return the descriptors of the unary RPCs by their paths."""
    pool = descriptor_pool.Default()
    return {
        f"/{service}/{method.name}": method
        for service in services
        for method in pool.FindServiceByName(service).methods
        if not method.client_streaming and not method.server_streaming
    }


def _descriptor(path: str) -> Any:
    _, service, name = path.split("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]


def _info(method: Any) -> MethodInfo[Any, Any]:
    return MethodInfo(
        name=method.name,
        service_name=method.containing_service.full_name,
        input=GetMessageClass(method.input_type),
        output=GetMessageClass(method.output_type),
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.UNARY,
    )


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    host, port = settings.host.strip("[]"), settings.http_port
    assert isinstance(port, int)
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        text = f"cannot serve HTTP on {settings.host}:{port}: {error.strerror}"
        raise SystemExit(f"{text}; set http_port to another port, 0 (a free one), or off") from error


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
