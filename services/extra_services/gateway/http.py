"""The unary RPCs over HTTP/1.1 and 2 beside gRPC, as JSON or binary: one more port, off by default.

The protocol is Connect, by its official package; Hypercorn speaks HTTP. Each call is sent on to this server's
own gRPC services over a private Unix socket. So tokens, scopes, limits, request ids, metrics, traces, errors
and drain are those of gRPC, and none of it is written twice. The price is one more hop inside the process.
"""

import asyncio
import logging
import shutil
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import grpc
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from hypercorn.asyncio import serve
from hypercorn.config import Config
from protobuf.wkt import Any as AnyDetail
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from extra_services.errors import ServiceError
from extra_services.gateway.openapi import openapi
from extra_services.gateway.upstream import (
    CODES,
    Call,
    Failure,
    Upstream,
    failure_of,
    forwarded,
    read_json,
    rich_status,
)
from extra_services.runtime.interceptor import REQUEST_ID
from extra_services.runtime.settings import ServerSettings
from extra_services.runtime.tls import Certificates
from extra_services.runtime.tokens import Tokens

#: Answers the JSON of a POST, and the parameters of its URL, with JSON; or an error like `Call`.
Handler = Callable[[Any, Mapping[str, str], Call, Mapping[str, str]], Awaitable[Any]]


class Api(Protocol):
    """Further routes of a service's HTTP port, under a path of their own."""

    #: What their paths begin with.
    prefix: str

    def routes(self, upstream: Upstream) -> list[BaseRoute]:
        """Return the routes, which answer with what `upstream` does."""

    def paths(self, schemas: dict[str, Any]) -> dict[str, Any]:
        """Return their description in OpenAPI; what its references name is added to `schemas`."""

    def failed(self, failure: Failure) -> Response:
        """Return an error in the form of these routes."""


class Gateway:
    """The HTTP port of a server. Make it before the gRPC server starts, `start` it after."""

    def __init__(
        self,
        settings: ServerSettings,
        tokens: Tokens,
        server: grpc.aio.Server,
        services: Iterable[str],
        posts: Mapping[str, Handler],
        api: Api | None = None,
    ) -> None:
        """Listen on the HTTP port, and let `server` listen on a private socket.

        Args:
            settings: With an `http_port`.
            tokens: Those of gRPC.
            server: Serves the RPCs.
            services: Full names of its services.
            posts: Further paths and what answers a POST there.
            api: Further routes.

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
        self._api = api
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
        upstream = Upstream(self._channel, self._tokens, self._limit)
        methods = _methods(self._services)
        described = openapi(methods.values(), self._posts)
        if self._api is not None:
            described["paths"] |= self._api.paths(described["components"]["schemas"])

        async def description(_request: Request) -> Response:
            return JSONResponse(described)

        routes: list[BaseRoute] = [Route("/openapi.json", description)]
        routes += [
            Route(path, _post(handler, upstream), methods=["POST"]) for path, handler in self._posts.items()
        ]
        if self._api is not None:
            routes += self._api.routes(upstream)
        connect = _Application(methods, upstream.call, self._limit)
        routes.append(Mount("/", app=_Guided(connect, set(methods), set(self._posts), self._api)))
        app = _Authenticated(Starlette(routes=routes), self._tokens, self._api)
        self._serving = asyncio.create_task(serve(app, self._config, shutdown_trigger=self._stopping.wait))

    async def stop(self) -> None:
        """Take no more calls, and let those that run finish within the drain's seconds."""
        self._stopping.set()
        if self._serving is not None:
            await self._serving
        if self._channel is not None:
            await self._channel.close()
        shutil.rmtree(self._folder, ignore_errors=True)


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


class _Guided:
    """Refuses with a sentence what Connect refuses without one: other paths, methods and content types."""

    def __init__(self, app: Any, methods: set[str], posts: set[str], api: Api | None) -> None:
        self._app = app
        self._methods = methods
        self._posts = posts
        self._api = api

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Any) -> Response | None:
        method, path = scope["method"], scope["path"]
        if path not in self._methods | self._posts:
            failure = Failure(
                Code.NOT_FOUND, f"there is no {method} {path} here; GET /openapi.json lists what there is"
            )
            ours = self._api is not None and path.startswith(self._api.prefix)
            return self._api.failed(failure) if self._api and ours else _failed(failure, {})
        if method != "POST":
            told = {"code": Code.UNIMPLEMENTED.value, "message": f"use POST for {path}, not {method}"}
            return JSONResponse(told, 405, {"allow": "POST"})
        kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("application/json", "application/proto") or kind.startswith("application/grpc"):
            return None
        text = f"the content-type is {kind or 'missing'}: send application/json, or application/proto"
        return JSONResponse({"code": Code.INVALID_ARGUMENT.value, "message": text}, 415)


class _Authenticated:
    """Refuses a request without a known token before its body is read; gRPC's guard does all other checks."""

    def __init__(self, app: Any, tokens: Tokens, api: Api | None) -> None:
        self._app = app
        self._tokens = tokens
        self._api = api

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and self._tokens.required:
            headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]]
            try:
                self._tokens.identify(headers)
            except ServiceError as error:
                failure = Failure(Code.UNAUTHENTICATED, error.message)
                ours = self._api is not None and scope["path"].startswith(self._api.prefix)
                response = self._api.failed(failure) if self._api and ours else _failed(failure, {})
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
        headers = forwarded(context.request_headers)
        context.response_headers[REQUEST_ID] = headers[REQUEST_ID]
        timeout = None if context.timeout_ms is None else max(0.0, context.timeout_ms / 1000)
        try:
            return await call(path, request, headers, timeout)
        except grpc.aio.AioRpcError as error:
            raise _connect_error(error) from error
        except Exception as error:
            failure = failure_of(error, path, headers)
            raise ConnectError(failure.code, failure.message) from error

    return forward


def _post(handler: Handler, upstream: Upstream) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        headers = forwarded(request.headers)
        try:
            body = await read_json(request, upstream.limit)
            return JSONResponse(
                await handler(body, request.query_params, upstream.call, headers),
                headers={REQUEST_ID: headers[REQUEST_ID]},
            )
        except Exception as error:
            return _failed(failure_of(error, request.url.path, headers), headers)

    return answer


def _connect_error(error: grpc.aio.AioRpcError) -> ConnectError:
    status = rich_status(error)
    details: list[ErrorDetail] = []
    if status is not None:
        details = [
            ErrorDetail(AnyDetail(type_url=each.type_url, value=each.value)) for each in status.details
        ]
    return ConnectError(CODES[error.code().value[0]], error.details() or "", details)


def _failed(failure: Failure, headers: Mapping[str, str]) -> Response:
    """Return a failure in the form of Connect's."""
    told = {REQUEST_ID: headers[REQUEST_ID]} if REQUEST_ID in headers else {}
    return JSONResponse({"code": failure.code.value, "message": failure.message}, failure.status, told)


def _methods(services: Iterable[str]) -> dict[str, Any]:
    """Return the descriptors of the unary RPCs by their paths."""
    pool = descriptor_pool.Default()
    return {
        f"/{service}/{method.name}": method
        for service in services
        for method in pool.FindServiceByName(service).methods
        if not method.client_streaming and not method.server_streaming
    }


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
