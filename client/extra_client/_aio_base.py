"""The connection of an asyncio client: one channel, calls sent again where that is safe, streams.

Written by hand, as `_sync_base` is for the blocking clients. A client belongs to the event loop that first
uses it; "embedded" starts the service then, in a thread.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, BinaryIO, Self, TypeVar, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from extra_client import _sync_base, _transport, embedded, errors
from extra_client._transport import Call, Service
from extra_client.credentials import Credentials

Result = TypeVar("Result")


class Client:
    """A connection to one service; closes with `close` or as an async context manager."""

    _service: Service

    def __init__(
        self,
        target: str,
        *,
        deadline: float | None = None,
        patience: float | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Make a client. Nothing is connected or started before first use.

        Args:
            target: host:port (the port may be left out), unix:path, dns:///name (round robin over its
                addresses), or "embedded": a child process shared by all embedded clients of this process.
            deadline: Seconds a call may take; None: each method's default.
            patience: Seconds for which a call that may safely be repeated is sent again while no server
                answers; default 3.5.
            credentials: Token and TLS files; None: those of the environment.
        """
        self.target = target if target == "embedded" else _transport.address(target, self._service)
        self._deadline = deadline
        self._patience = patience
        self._credentials = credentials or Credentials.from_environment()
        self._embedded: embedded.EmbeddedService | None = None
        self._open: Any = None
        self._opening = asyncio.Lock()

    async def wait_for_ready(self, timeout: float = 60.0) -> None:
        """Return once the server reports that it serves.

        Raises:
            UnavailableError: It did not within `timeout` seconds.
        """
        until = time.monotonic() + timeout
        health = health_pb2_grpc.HealthStub(await self._channel())
        request = health_pb2.HealthCheckRequest(service=self._service.full_name)
        connected = False
        while (left := until - time.monotonic()) > 0:
            watch = health.Watch(request, timeout=left, wait_for_ready=True)
            try:
                async for response in watch:
                    connected = True
                    if response.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.RpcError:
                # The deadline ends the loop; a connection that broke is made again.
                await asyncio.sleep(min(0.1, max(0.0, until - time.monotonic())))
            finally:
                watch.cancel()
        raise _transport.not_ready(self._service, self.target, timeout, connected)

    async def close(self) -> None:
        """End the connection and the calls still running; an embedded service ends with its last client."""
        if self._open is not None:
            await self._open.close()
        if self._embedded:
            await asyncio.to_thread(embedded.release, self._embedded)
            self._embedded = None

    async def __aenter__(self) -> Self:
        await self._channel()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _channel(self) -> Any:
        async with self._opening:
            if self._open is None:
                if self.target == "embedded":
                    self._embedded = await asyncio.to_thread(embedded.acquire, self._service.server)
                    self.target = self._embedded.target
                self._open = _transport.open_channel(grpc.aio, self.target, self._service, self._credentials)
            return self._open

    async def _run(self, call: Call[Result], deadline: float | None) -> Result:
        method, attempt = await self._prepare(call, deadline)
        while True:
            try:
                return call.parse(await attempt.send(method))
            except grpc.RpcError as failure:
                if parts := attempt.parts(failure):
                    break
                pause = attempt.pause(failure)
            await asyncio.sleep(pause)
        results: Any = [each for part in parts for each in await self._run(part, attempt.left)]
        return cast(Result, results)

    async def _stream(self, call: Call[Result], deadline: float | None) -> AsyncIterator[Result]:
        """Send `call` with the first iteration; yield its parsed responses."""
        method, attempt = await self._prepare(call, deadline)
        async for event in _events(attempt, method, attempt.send(method)):
            yield event

    async def _exchange(
        self,
        messages: AsyncIterator[Any],
        make: Callable[[Any], Call[Result]],
        check: Callable[[bool], None],
        deadline: float | None,
    ) -> AsyncGenerator[Result]:
        """Send `messages` by the call that `make` makes of them, from a task, with the first iteration.

        Yields the parsed responses; `check` then gets whether all messages were read.
        """
        source = _Source(messages)
        method, attempt = await self._prepare(make(aiter(source)), deadline)
        source.call = attempt.send(method)
        try:
            async for event in _events(attempt, method, source.call):
                yield event
        except (asyncio.CancelledError, errors.ExtraError):
            if source.failure:
                raise source.failure from None
            raise
        check(source.exhausted)

    async def _send(
        self, messages: Iterator[Any], make: Callable[[Any], Call[Result]], deadline: float | None
    ) -> Result:
        """Send `messages` by the call that `make` makes of them, from a thread; return its one response.

        The thread uses a connection of the blocking client's: where a message is being sent when the server
        ends the call, grpc.aio reports "Internal error from Core" in the place of the server's error
        (grpc/grpc issue 36066).
        """
        # An embedded service has an address once it is started.
        await self._channel()
        with _Blocking(self._service, self.target, self._deadline, self._credentials) as blocking:
            return await asyncio.to_thread(blocking._send, messages, make, deadline)

    async def _write(self, file: BinaryIO, data: bytes) -> None:
        await asyncio.to_thread(file.write, data)

    async def _prepare(self, call: Call[Any], deadline: float | None) -> tuple[Any, _transport.Attempt]:
        method = getattr(call.service.stub(await self._channel()), call.rpc)
        deadline = self._deadline if deadline is None else deadline
        token = self._credentials.token
        return method, _transport.attempt(call, self.target, deadline, self._patience, token)


async def _events(attempt: _transport.Attempt, method: Any, responses: Any) -> AsyncIterator[Any]:
    try:
        while True:
            try:
                async for response in responses:
                    attempt.begun = True
                    yield attempt.call.parse(response)
                return
            except grpc.RpcError as failure:
                pause = attempt.pause(failure)
            await asyncio.sleep(pause)
            responses = attempt.send(method)
    finally:
        responses.cancel()


class _Source:
    """The messages of a call; keeps their exception, and whether all were read."""

    def __init__(self, messages: AsyncIterator[Any]) -> None:
        self._messages = messages
        #: The call that sends them; set before it first reads them.
        self.call: Any = None
        self.failure: Exception | None = None
        self.exhausted = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for message in self._messages:
                yield message
        except Exception as failure:
            self.failure = failure
            self.call.cancel()
            return
        self.exhausted = True


class _Blocking(_sync_base.Client):
    """A blocking connection to one service."""

    def __init__(
        self, service: Service, target: str, deadline: float | None, credentials: Credentials
    ) -> None:
        self._service = service
        super().__init__(target, deadline=deadline, credentials=credentials)
