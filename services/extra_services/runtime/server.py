"""Starts, serves and drains a server: the same for every service.

A service passes a `ServerSpec`: the names and servicers to register, and a function to close the domain. The
server listens only after the spec is built, so an open port means a loaded model. In the health service, ""
is liveness and the full name of a service is its readiness. SIGTERM or SIGINT (or the end of standard input,
if the parent process asked for that) turns readiness to NOT_SERVING, gives running calls `drain_seconds` to
finish, and closes the domain.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from extra_services.runtime import environment, logs, metrics, tracing
from extra_services.runtime.guard import Guard
from extra_services.runtime.interceptor import CallInterceptor
from extra_services.runtime.settings import ServerSettings, stays_here
from extra_services.runtime.tls import Certificates
from extra_services.runtime.tokens import Tokens

log = structlog.get_logger()


@dataclass(frozen=True)
class ServerSpec:
    """The services of one server, and how to close them."""

    #: Full service name ("extra_rl.v1.NoveltyService") -> function that adds its servicer to the server.
    services: dict[str, Callable[[grpc.aio.Server], None]]
    #: Called after the last call has ended.
    close: Callable[[], Awaitable[None]]
    #: Whether the services can serve, now and whenever that changes; None: always.
    readiness: Callable[[], AsyncIterator[bool]] | None = None
    #: Paths of the HTTP port besides the RPCs -> what answers a POST there (gateway.http.Handler).
    http_posts: Mapping[str, Callable[..., Awaitable[Any]]] = field(default_factory=dict)
    #: Makes further routes of the HTTP port (a gateway.http.Api), if there is one.
    http_api: Callable[[], Any] | None = None


def run(settings: ServerSettings, build: Callable[[], Awaitable[ServerSpec]]) -> None:
    """Serve what `build` makes until a signal stops it; return after the drain."""
    environment.prepare()
    logs.configure(settings.log_level)
    asyncio.run(serve(settings, build))


async def serve(settings: ServerSettings, build: Callable[[], Awaitable[ServerSpec]]) -> None:
    """Do as `run`, inside an event loop."""
    stopping = asyncio.Event()
    _stop_on_signals(stopping, settings.stop_with_stdin)
    tracing.configure(settings.section)
    # Before the model loads, so that a port that is taken, or a bad file of tokens, is reported at once.
    tokens = Tokens(settings.tokens, settings.tokens_file)
    port = settings.metrics_port
    page = None if port == "off" else metrics.serve(settings.metrics_host, port)
    spec = await build()
    server = _server(settings, tokens)
    checks = _add_standard_services(server, list(spec.services))
    for add in spec.services.values():
        add(server)
    try:
        address = _listen(server, settings)
        gateway = _gateway(server, settings, spec, tokens)
    except SystemExit:
        # The domain's threads and processes would keep this process alive.
        await spec.close()
        raise
    # What was imported and loaded stays. Without this a call that makes many objects waits, now and then, for
    # the collector to look through all of it: 60 ms with torch.
    gc.collect()
    gc.freeze()
    await server.start()
    if gateway:
        await gateway.start()
    for name in ("", *spec.services):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    following = asyncio.create_task(_follow(spec, checks)) if spec.readiness else None
    if settings.http_address_file and gateway:
        _write_atomically(settings.http_address_file, gateway.address)
    # The last: who waits for this file finds the other.
    if settings.address_file:
        _write_atomically(settings.address_file, address)
    metrics.SERVING.set(1)
    log.info(
        "serving",
        address=address,
        services=list(spec.services),
        http=gateway.address if gateway else "off",
        metrics=page.address if page else "off",
    )
    await stopping.wait()
    metrics.SERVING.set(0)
    log.info("draining", seconds=settings.drain_seconds)
    if following:
        following.cancel()
    for name in spec.services:
        await checks.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    # Together: what HTTP's calls still wait for are calls of gRPC.
    await asyncio.gather(server.stop(settings.drain_seconds), *([gateway.stop()] if gateway else []))
    await spec.close()
    if page:
        await asyncio.to_thread(page.close)
    await asyncio.to_thread(tracing.close)


async def _follow(spec: ServerSpec, checks: Any) -> None:
    """Keep the health service up to date with the readiness that the domain reports."""
    assert spec.readiness is not None
    async for ready in spec.readiness():
        status = health_pb2.HealthCheckResponse
        metrics.SERVING.set(int(ready))
        for name in spec.services:
            await checks.set(name, status.SERVING if ready else status.NOT_SERVING)


def _server(settings: ServerSettings, tokens: Tokens) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=[CallInterceptor(), Guard(tokens)],
        maximum_concurrent_rpcs=settings.max_concurrent_rpcs,
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            # A second server on the same port is a mistake to report, not a way to share load.
            ("grpc.so_reuseport", 0),
            # Clients ping while a long call is silent, or to keep an idle connection: ours once a minute,
            # others every 10 s. gRPC's defaults (5 minutes, 2 hours without a call) take that for abuse.
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )


def _gateway(server: grpc.aio.Server, settings: ServerSettings, spec: ServerSpec, tokens: Tokens) -> Any:
    """Return the HTTP port, None if it is off; its packages are imported only for it."""
    if settings.http_port == "off":
        return None
    try:
        from extra_services.gateway.http import Gateway
    except ModuleNotFoundError as error:
        raise SystemExit(f"http_port is set: pip install 'extra-rl[http]' ({error})") from error
    api = spec.http_api() if spec.http_api else None
    return Gateway(settings, tokens, server, spec.services, spec.http_posts, api)


def _add_standard_services(server: grpc.aio.Server, names: list[str]) -> Any:
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    channelz.add_channelz_servicer(server)
    channelz_name = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name
    reflection.enable_server_reflection(
        [*names, health.SERVICE_NAME, channelz_name, reflection.SERVICE_NAME], server
    )
    return checks


def _listen(server: grpc.aio.Server, settings: ServerSettings) -> str:
    unix = settings.host.startswith("unix:")
    wanted = settings.host if unix else f"{settings.host}:{settings.port}"
    if settings.tls_certificate is None and not stays_here(settings.host):
        log.warning("serving other machines without TLS, as allow_plaintext_network says", host=settings.host)
    try:
        if settings.tls_certificate is not None and settings.tls_key is not None:
            files = Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
            port = server.add_secure_port(wanted, files.server_credentials())
        else:
            port = server.add_insecure_port(wanted)
    except RuntimeError as error:
        other = "host to another socket" if unix else "port to another port, or 0 (a free one)"
        raise SystemExit(
            f"cannot listen on {wanted}: is another server running there? Set {other}"
        ) from error
    return wanted if unix else f"{settings.host}:{port}"


def _stop_on_signals(stopping: asyncio.Event, with_stdin: bool) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if with_stdin:
        # A thread, not the event loop's reader: it must see the end also while the model loads.
        threading.Thread(target=_watch_stdin, args=(loop, stopping), daemon=True).start()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    # Not sys.stdin.read: its lock, held by a thread that waits, makes the interpreter abort when it ends.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    # A closed loop is that of a server which failed to start: there is nothing left to stop.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(stopping.set)


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
