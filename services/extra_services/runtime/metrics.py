"""What a server says of itself to Prometheus: every RPC, the stages of work inside, and the page with both.

Each service names its own metrics in a module `instruments`, where its domain finds them; what all servers
share is here. Labels have few values: services, methods, codes, stages, never a namespace, prompt or request.
What is only a state (a queue's length, the memory of an index) is asked for when the page is read. A stage is
timed once, for its histogram here and, where tracing is on, for its span.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from extra_services.runtime import tracing

#: Seconds: from a search in memory to the generation of long rollouts.
BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip

RPCS = Counter("extra_rl_rpcs", "Calls that have ended, by gRPC code.", ["service", "method", "code"])
RPC_SECONDS = Histogram(
    "extra_rl_rpc_duration_seconds",
    "Seconds from a call's arrival in Python to its end; of a stream, to its last message.",
    ["service", "method"],
    buckets=BUCKETS,
)
RPCS_IN_FLIGHT = Gauge(
    "extra_rl_rpcs_in_flight", "Calls that have begun and not ended.", ["service", "method"]
)
SERVING = Gauge("extra_rl_serving", "1 while the server takes calls, 0 while it loads or drains.")


class Stages:
    """A histogram of seconds by stage; `with stages("search"): ...` times one. Thread-safe."""

    def __init__(self, name: str, documentation: str, stages: Iterable[str]) -> None:
        self._histogram = Histogram(name, documentation, ["stage"], buckets=BUCKETS)
        # All from the start: a rate needs a first value, and a name that is not among them is a mistake.
        self._by_name = {stage: self._histogram.labels(stage) for stage in stages}

    def __call__(self, stage: str) -> "_Timed":
        """A context manager that times its block."""
        return _Timed(self._by_name[stage], stage)

    def observe(self, stage: str, seconds: float) -> None:
        """Counts a stage that has just ended and was timed elsewhere; it gets no span."""
        self._by_name[stage].observe(seconds)

    def ended(self, stage: str, seconds: float, ago: float = 0.0, **attributes: str | int) -> None:
        """As `observe`, and a span of the current request that ended `ago` seconds before now."""
        self._by_name[stage].observe(seconds)
        tracing.record(stage, seconds, ago, **attributes)


class _Timed:
    __slots__ = ("_child", "_span", "_stage", "_started")

    def __init__(self, child: Any, stage: str) -> None:
        self._child = child
        self._stage = stage

    def __enter__(self) -> None:
        self._span = tracing.begin(self._stage)
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.observe(time.perf_counter() - self._started)
        if self._span is not None:
            self._span.__exit__(kind, error, trace)


def remembered(seconds: float, read: Callable[[], dict[str, float]]) -> Callable[[str], float]:
    """A function from a name to its value in what `read` returns, which is called at most every `seconds`.

    For figures whose reading costs something; any thread may ask. Where reading fails (a store that is away
    must not take the other figures with it) the last values stay.
    """
    lock = threading.Lock()
    values: dict[str, float] = {}
    until = float("-inf")

    def value(name: str) -> float:
        nonlocal values, until
        with lock:
            if time.monotonic() >= until:
                until = time.monotonic() + seconds
                with contextlib.suppress(Exception):  # whatever the store raises
                    values = read()
            return values.get(name, float("nan"))

    return value


class Page:
    """The page at http://HOST:PORT/metrics; `close` it."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def address(self) -> str:
        """HOST:PORT."""
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(host: str, port: int) -> Page:
    """Serves the page; port 0 takes a free one. SystemExit if the port is taken."""
    try:
        return Page(*start_http_server(port, host))
    except OSError as error:
        text = f"cannot serve metrics on {host}:{port}: {error.strerror}"
        raise SystemExit(f"{text}; set metrics_port to another port, 0 (a free one), or off") from error
