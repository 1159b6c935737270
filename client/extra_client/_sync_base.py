"""The connection of a blocking client: one channel, calls sent again where that is safe, streams.

Written by hand, as `_aio_base` is for asyncio; the clients themselves are generated (`_sync`). Both bases
have the same methods, so that the clients' code differs in nothing but `async` and `await`. A client is safe
to use from several threads.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO, Self, TypeVar, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from extra_client import _transport, embedded, errors
from extra_client._transport import Call, Service
from extra_client.credentials import Credentials

Result = TypeVar("Result")


class Client:
    """A connection to one service; closes with `close` or as a context manager."""

    _service: Service

    def __init__(
        self,
        target: str,
        *,
        deadline: float | None = None,
        patience: float | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Make a client. It connects when first used; "embedded" starts the service now.

        Args:
            target: host:port (the port may be left out), unix:path, dns:///name (round robin over its
                addresses), or "embedded": a child process shared by all embedded clients of this process.
            deadline: Seconds a call may take; None: each method's default.
            patience: Seconds for which a call that may safely be repeated is sent again while no server
                answers; default 3.5.
            credentials: Token and TLS files; None: those of the environment.
        """
        self._credentials = credentials or Credentials.from_environment()
        self._embedded = embedded.acquire(self._service.server) if target == "embedded" else None
        self.target = self._embedded.target if self._embedded else _transport.address(target, self._service)
        self._deadline = deadline
        self._patience = patience
        self._channel = _transport.open_channel(grpc, self.target, self._service, self._credentials)
        self._closed = False

    def wait_for_ready(self, timeout: float = 60.0) -> None:
        """Return once the server reports that it serves.

        Raises:
            UnavailableError: It did not within `timeout` seconds.
        """
        until = time.monotonic() + timeout
        health = health_pb2_grpc.HealthStub(self._channel)
        request = health_pb2.HealthCheckRequest(service=self._service.full_name)
        connected = False
        while (left := until - time.monotonic()) > 0:
            watch = health.Watch(request, timeout=left, wait_for_ready=True)
            try:
                for response in watch:
                    connected = True
                    if response.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.RpcError:
                # The deadline ends the loop; a connection that broke is made again.
                time.sleep(min(0.1, max(0.0, until - time.monotonic())))
            finally:
                watch.cancel()
        raise _transport.not_ready(self._service, self.target, timeout, connected)

    def close(self) -> None:
        """End the connection and the calls still running; an embedded service ends with its last client."""
        self._closed = True
        self._channel.close()
        if self._embedded:
            embedded.release(self._embedded)
            self._embedded = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, call: Call[Result], deadline: float | None) -> Result:
        attempt, method = self._attempt(call, deadline), self._method(call)
        while True:
            try:
                return call.parse(attempt.send(method))
            except grpc.RpcError as failure:
                if parts := attempt.parts(failure):
                    break
                pause = attempt.pause(failure)
            time.sleep(pause)
        results: Any = [each for part in parts for each in self._run(part, attempt.left)]
        return cast(Result, results)

    def _stream(self, call: Call[Result], deadline: float | None) -> Iterator[Result]:
        """Send `call` now; yield its parsed responses."""
        attempt, method = self._attempt(call, deadline), self._method(call)
        return _events(attempt, method, attempt.send(method))

    def _exchange(
        self,
        messages: Iterator[Any],
        make: Callable[[Any], Call[Result]],
        check: Callable[[bool], None],
        deadline: float | None,
    ) -> Generator[Result]:
        """Send `messages` by the call that `make` makes of them, from a thread, starting now.

        Yields the parsed responses; `check` then gets whether all messages were read.
        """
        source = _Source(messages)
        attempt = self._attempt(make(iter(source)), deadline)
        method = self._method(attempt.call)
        source.call = attempt.send(method)
        return _responses(source, _events(attempt, method, source.call), check)

    def _send(
        self, messages: Iterator[Any], make: Callable[[Any], Call[Result]], deadline: float | None
    ) -> Result:
        """Send `messages` from a thread by the call that `make` makes of them; return its one response."""
        source = _Source(messages)
        call = make(iter(source))
        attempt = self._attempt(call, deadline)
        source.call = attempt.send(self._method(call).future)
        try:
            response = source.call.result()
        except grpc.RpcError as failure:
            raise source.failure or attempt.error(failure) from None
        except grpc.FutureCancelledError:
            raise source.failure or attempt.cancelled() from None
        return call.parse(response)

    def _write(self, file: BinaryIO, data: bytes) -> None:
        file.write(data)

    def _attempt(self, call: Call[Any], deadline: float | None) -> _transport.Attempt:
        if self._closed:
            # grpc would crash the interpreter.
            raise errors.FailedPreconditionError(f"the client of {self.target} is closed: make another one")
        seconds = self._deadline if deadline is None else deadline
        return _transport.attempt(call, self.target, seconds, self._patience, self._credentials.token)

    def _method(self, call: Call[Any]) -> Any:
        return getattr(call.service.stub(self._channel), call.rpc)


def _events(attempt: _transport.Attempt, method: Any, responses: Any) -> Iterator[Any]:
    try:
        while True:
            try:
                for response in responses:
                    attempt.begun = True
                    yield attempt.call.parse(response)
                return
            except grpc.RpcError as failure:
                pause = attempt.pause(failure)
            time.sleep(pause)
            responses = attempt.send(method)
    finally:
        responses.cancel()


def _responses(
    source: "_Source", responses: Iterator[Result], check: Callable[[bool], None]
) -> Generator[Result]:
    try:
        yield from responses
    except errors.ExtraError as error:
        raise source.failure or error from None
    check(source.exhausted)


class _Source:
    """The messages of a call, read by a thread of gRPC's; keeps their exception, and whether all were read.

    gRPC would log such an exception and raise an unknown error; the caller gets it as it is.
    """

    def __init__(self, messages: Iterator[Any]) -> None:
        self._messages = messages
        self._started = threading.Event()
        self._call: Any = None
        self.failure: Exception | None = None
        self.exhausted = False

    @property
    def call(self) -> Any:
        """The call that sends the messages; set once it exists."""
        return self._call

    @call.setter
    def call(self, call: Any) -> None:
        self._call = call
        self._started.set()

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._messages
        except Exception as failure:
            self.failure = failure
            self._started.wait()
            self._call.cancel()
            return
        self.exhausted = True
