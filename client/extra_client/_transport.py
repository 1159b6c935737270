"""Targets, channel options, calls and their errors: shared by the connections of both kinds of client.

A `Call` is one RPC as data: what to send, how to read the answer, how long it may take. The modules of pure
functions (`_generation`, `_namespace`, `_novelty`, `_prefix`, `_verification`) make Calls; the two bases run
them. After UNAVAILABLE a call is sent again, with backoff, if it reads, or if it is a write that carries an
idempotency key or is idempotent by itself. gRPC's own retries are off: with them on (grpcio 1.85.1, a retry
policy or its transparent retries alone), a call that was running when its server stopped can hang forever.
"""

import json
import random
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import grpc
from google.rpc import status_pb2

from extra_client import embedded, errors
from extra_client.credentials import Credentials, stays_here
from extra_rl.v1 import (
    generation_pb2_grpc,
    namespace_pb2_grpc,
    novelty_pb2_grpc,
    prefix_pb2_grpc,
    verification_pb2_grpc,
)

Result = TypeVar("Result")

#: Metadata key under which the request id travels.
REQUEST_ID = "x-request-id"
_scope: ContextVar[str] = ContextVar("extra_client_request_scope", default="")

#: Seconds before a call is sent again, doubled each time up to the longest.
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 2.0
#: What gRPC says of a request above the server's limit, with the limit.
_OVER_LIMIT = re.compile(r"Received message larger than max \(\d+ vs\. (\d+)\)")
#: What gRPC says of a call that was cancelled on this side.
_CANCELLED_HERE = re.compile("Channel closed|Locally cancelled")
#: Seconds for which a call is sent again in all, unless its client has another patience.
PATIENCE = 3.5


@dataclass(frozen=True)
class Service:
    """One service of the API."""

    #: The server that serves it, as in `extra-rl serve NAME`.
    server: str
    full_name: str
    default_port: int
    stub: Callable[[Any], Any]
    #: RPCs that are sent again: it is safe, and what they send is at hand.
    retried: tuple[str, ...]


GENERATION = Service(
    "generation",
    "extra_rl.v1.GenerationService",
    50051,
    generation_pb2_grpc.GenerationServiceStub,
    # Updates are idempotent by their policy version; Generate is retried only until its first rollout. Not
    # StreamWeights: the tensors it has sent are gone.
    ("Generate", "UpdateWeights", "GetInfo"),
)
NAMESPACE = Service(
    "novelty",
    "extra_rl.v1.NamespaceService",
    50052,
    namespace_pb2_grpc.NamespaceServiceStub,
    # Not CopyNamespace: a copy repeated later is another snapshot. Not ImportNamespace: repeated, it finds
    # that the namespace exists.
    (
        "CreateNamespace",
        "DescribeNamespace",
        "ListNamespaces",
        "DeleteNamespace",
        "ExportNamespace",
        "ListPrompts",
        "DeletePrompts",
        "GetInfo",
    ),
)
NOVELTY = Service(
    "novelty",
    "extra_rl.v1.NoveltyService",
    50052,
    novelty_pb2_grpc.NoveltyServiceStub,
    # CollectSample is idempotent by group and index.
    ("ScoreGroups", "CollectSample", "QueryNeighbors", "Embed", "GetInfo"),
)
PREFIX = Service(
    "novelty",
    "extra_rl.v1.PrefixService",
    50052,
    prefix_pb2_grpc.PrefixServiceStub,
    ("AddRollouts", "SelectPrefixes", "ReportOutcomes", "ListPrefixes", "ForgetPrefixes", "GetInfo"),
)
VERIFICATION = Service(
    "verification",
    "extra_rl.v1.VerificationService",
    50053,
    verification_pb2_grpc.VerificationServiceStub,
    # Not VerifyStream: the items it has sent are gone.
    ("Verify", "GetInfo"),
)
SERVICES = (GENERATION, NAMESPACE, NOVELTY, PREFIX, VERIFICATION)


@dataclass(frozen=True)
class Call(Generic[Result]):
    """One RPC as data; for a stream `parse` reads each message."""

    service: Service
    rpc: str
    request: Any
    parse: Callable[[Any], Result]
    #: Seconds the call may take unless the client or the caller says otherwise.
    deadline: float
    #: How a request above the server's message limit is sent in parts, if its result is a list.
    batch: "Batch[Result] | None" = None


@dataclass(frozen=True)
class Batch(Generic[Result]):
    """A call whose request has a list of items that may travel in several requests."""

    #: The request's field with the items.
    field: str
    #: Makes the call of a request with some of them.
    call: Callable[[Any], Call[Result]]


@dataclass
class Attempt:
    """A call in progress: what is needed to send it again and to explain its failure."""

    call: Call[Any]
    target: str
    deadline: float
    request_id: str
    token: str = field(repr=False)
    #: When it must have ended, by the monotonic clock.
    until: float
    #: Seconds for which it is sent again while no server answers.
    patience: float = PATIENCE
    #: When it first failed so, by the monotonic clock.
    unavailable_since: float | None = None
    #: How often it was sent.
    sent: int = 0
    #: Whether a message of a stream has come back: the call has begun, and is not sent again.
    begun: bool = False

    def send(self, method: Any) -> Any:
        """Send it by the stub's `method`, with what is left of its deadline."""
        self.sent += 1
        metadata = [(REQUEST_ID, self.request_id), *_trace()]
        if self.token:
            metadata.append(("authorization", f"Bearer {self.token}"))
        return method(self.call.request, timeout=self.left, metadata=metadata)

    def pause(self, failure: Any) -> float:
        """Return the seconds to wait before it is sent again, after it ended with `failure`.

        Raises:
            ExtraError: It is not sent again; this is its failure for the caller.
        """
        # At random: all clients of a server that was away would come back at the same moment.
        doubled: float = FIRST_PAUSE * 2 ** (self.sent - 1)
        seconds = min(doubled, LONGEST_PAUSE) * random.uniform(0.8, 1.2)
        now = time.monotonic()
        self.unavailable_since = now if self.unavailable_since is None else self.unavailable_since
        last = min(self.until, self.unavailable_since + self.patience)
        if not self._is_sent_again(failure) or now + seconds >= last:
            raise self.error(failure) from None
        return seconds

    def parts(self, failure: Any) -> "list[Call[Any]]":
        """Return the calls that send this one's items in parts, if `failure` says that it is too large.

        None are returned if it has no items to share out, or one alone is too large.
        """
        limit = _OVER_LIMIT.search(failure.details() or "")
        if limit is None or self.call.batch is None:
            return []
        batch = self.call.batch
        return [batch.call(part) for part in split(self.call.request, batch.field, int(limit[1]))]

    @property
    def left(self) -> float:
        """Seconds until its deadline."""
        return max(0.0, self.until - time.monotonic())

    def _is_sent_again(self, failure: Any) -> bool:
        unavailable = _code(failure) is grpc.StatusCode.UNAVAILABLE
        retried = self.call.rpc in self.call.service.retried
        return unavailable and retried and not self.begun

    @property
    def method(self) -> str:
        """The RPC, such as "NoveltyService.ScoreGroups"."""
        return f"{self.call.service.full_name.rpartition('.')[2]}.{self.call.rpc}"

    def error(self, failure: Any) -> errors.ExtraError:
        """Return the exception for `failure`, a grpc.RpcError of the blocking or asyncio kind."""
        details = failure.details() or ""
        status, from_server = _status(failure)
        if from_server:
            message = f"{self.method} at {self.target}: {status.message}"
        else:
            status, message = self._explain(status, details)
        return errors.from_status(
            status, message, method=self.method, target=self.target, request_id=self.request_id
        )

    def cancelled(self) -> errors.ExtraError:
        """Return the exception for a call that was cancelled here."""
        message = f"{self.method} at {self.target} was cancelled here"
        return errors.CancelledError(
            message, method=self.method, target=self.target, request_id=self.request_id
        )

    def _explain(self, status: status_pb2.Status, details: str) -> tuple[status_pb2.Status, str]:
        where, server = f"{self.method} at {self.target}", self.call.service.server
        code = grpc.StatusCode
        if status.code == code.UNAVAILABLE.value[0] and re.search(
            "handshake|certificate|verification check", details, re.I
        ):
            return status, f"no TLS with the {server} server at {self.target}: {details}"
        if status.code == code.UNAVAILABLE.value[0]:
            return status, f"{absent(server, self.target)} ({self.method}: {details})"
        if status.code == code.DEADLINE_EXCEEDED.value[0]:
            advice = f"allow more with deadline=..., or find out what keeps the {server} server busy"
            return status, f"{where} took longer than its deadline of {self.deadline:g} s: {advice}"
        if status.code == code.UNIMPLEMENTED.value[0]:
            return status, f"{where} is unknown to the server there: is it a {server} server of this version?"
        if status.code == code.RESOURCE_EXHAUSTED.value[0] and "larger than max" in details:
            # gRPC's own code for a message over the limit; a later attempt would fail in the same way.
            advice = "send fewer items in a call, or raise the server's --max-message-bytes"
            changed = status_pb2.Status(code=code.INVALID_ARGUMENT.value[0])
            return changed, f"{where}: the message is too large ({details}): {advice}"
        return status, f"{where}: {details}"


def split(request: Any, field: str, limit: int) -> list[Any]:
    """Return requests of at most `limit` bytes that hold the items in `field` of `request`, in order.

    Each has the other fields, and of an idempotency key one of its own, named by the items it holds: the same
    request split again has the same keys. The list is empty if an item is too large by itself.
    """
    items = getattr(request, field)
    shared = type(request)()
    shared.CopyFrom(request)
    shared.ClearField(field)
    # Room for the end of the key, and for tag and length of each item.
    room, key = limit - shared.ByteSize() - 64, getattr(request, "idempotency_key", "")
    sizes = [item.ByteSize() + 12 for item in items]
    if not sizes or max(sizes) > room:
        return []
    starts, used = [0], 0
    for place, size in enumerate(sizes):
        if used + size > room:
            starts.append(place)
            used = 0
        used += size
    parts = []
    for start, stop in zip(starts, [*starts[1:], len(items)], strict=True):
        part = type(request)()
        part.CopyFrom(shared)
        getattr(part, field).extend(items[start:stop])
        if key:
            part.idempotency_key = f"{key}/{start}-{stop}"
        parts.append(part)
    return parts


def attempt(
    call: Call[Any], target: str, deadline: float | None, patience: float | None, token: str
) -> Attempt:
    """Return an attempt at `call`, with a new request id; None for deadline and patience: the defaults."""
    seconds = call.deadline if deadline is None else deadline
    scope, unique = _scope.get(), uuid.uuid4().hex
    request_id = f"{scope}/{unique[:12]}" if scope else unique
    until = time.monotonic() + seconds
    patience = PATIENCE if patience is None else patience
    return Attempt(call, target, seconds, request_id, token, until, patience)


@contextmanager
def request_scope(name: str) -> Iterator[None]:
    """Let the request ids of all calls made inside begin with `name`.

    Every log line and span that the servers write about such a call, down to verification's workers, has its
    id: a search for "run-1/step-12" finds everything that step caused. It applies to this thread or asyncio
    task and, like all context variables, to threads that run in a copy of its context.

    Args:
        name: 1 to 150 printable ASCII characters.
    """
    if not (name.isascii() and name.isprintable() and 0 < len(name) <= 150):
        raise ValueError(f"a scope is 1 to 150 printable ASCII characters, not {name!r}")
    token = _scope.set(name)
    try:
        yield
    finally:
        _scope.reset(token)


def _trace() -> tuple[tuple[str, str], ...]:
    """Return the caller's OpenTelemetry context as metadata; nothing in a program without traces."""
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def new_key() -> str:
    """Return an idempotency key for one logical write, whose attempts then count once."""
    return uuid.uuid4().hex


def absent(server: str, target: str) -> str:
    """Return the message for a `target` where no server answers."""
    child = embedded.find(target)
    if child is not None and child.process.poll() is not None:
        return f"the embedded {server} service has ended: {child.exit_summary()}"
    return (
        f"no {server} service answers at {target}; start one with `extra-rl serve {server}`, "
        f"or correct the target"
    )


def address(target: str, service: Service) -> str:
    """Return `target`, with the service's default port if it is a host alone."""
    if target.startswith("unix:") or re.search(r":\d+$", target):
        return target
    return f"{target}:{service.default_port}"


def open_channel(kind: Any, target: str, service: Service, credentials: Credentials) -> Any:
    """Open a channel of the module `kind`, grpc or grpc.aio, to `target`."""
    options = channel_options(target, service)
    tls = credentials.channel_credentials(target)
    if tls is None:
        return kind.insecure_channel(target, options=options)
    return kind.secure_channel(target, tls, options=options)


def channel_options(target: str, service: Service) -> list[tuple[str, Any]]:
    """Return the options of a channel to `target`, load balancing included."""
    return [
        ("grpc.service_config", json.dumps(_service_config(target, service))),
        # A proxy from the environment (http_proxy) cannot reach this machine's loopback.
        ("grpc.enable_http_proxy", int(not stays_here(target))),
        # See the docstring of this module.
        ("grpc.enable_retries", 0),
        # The servers limit what they send and accept; one limit is enough.
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # A peer that vanished without closing the connection is noticed within 80 s, however long the call
        # has been silent; the servers allow these pings.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.max_pings_without_data", 0),
        # A server that comes back is found within seconds; gRPC's default waits up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]


def _service_config(target: str, service: Service) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if target.startswith(("dns:", "ipv4:", "ipv6:")):
        config["loadBalancingConfig"] = [{"round_robin": {}}]
        # Replicas that drain or load get no calls.
        config["healthCheckConfig"] = {"serviceName": service.full_name}
    return config


def _code(failure: Any) -> grpc.StatusCode:
    """Return its code; UNAVAILABLE if the other side cancelled the call, as a server that stops may do."""
    code: grpc.StatusCode = failure.code()
    if code is grpc.StatusCode.CANCELLED and not _CANCELLED_HERE.search(failure.details() or ""):
        return grpc.StatusCode.UNAVAILABLE
    return code


def _status(failure: Any) -> tuple[status_pb2.Status, bool]:
    for key, value in failure.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value), True
    return status_pb2.Status(code=_code(failure).value[0], message=failure.details() or ""), False


def not_ready(service: Service, target: str, seconds: float, connected: bool) -> errors.UnavailableError:
    """Return the error for a `service` that was not ready at `target` within `seconds`."""
    if not connected:
        return errors.UnavailableError(f"after {seconds:g} s {absent(service.server, target)}", target=target)
    return errors.UnavailableError(
        f"the server at {target} is not ready to serve {service.full_name} after {seconds:g} s: it is still "
        f"loading, draining, or another service",
        target=target,
    )
