"""Prometheus metrics of a server: every RPC, the stages of work inside, and the page that shows them.

Each service defines its own metrics in a module `instruments`; metrics that all servers share are here.
Labels have few values (services, methods, codes, stages), never a namespace, prompt or request. States, such
as the length of a queue or the memory of an index, are read when the page is read. A stage is timed once: for
its histogram, for its span where tracing is on, and for the timings in the answer where the request records
them.
"""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import TracebackType
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

#: Seconds by stage of the current request; None where nobody records them.
_RECORDED: ContextVar[defaultdict[str, float] | None] = ContextVar("recorded_stages", default=None)


def record_stages() -> defaultdict[str, float]:
    """Record the stages of the current request from here on, in this context and its copies in threads.

    Returns:
        Seconds by name of the stage, summed over its repeats; it fills while the request runs.
    """
    recorded: defaultdict[str, float] = defaultdict(float)
    _RECORDED.set(recorded)
    return recorded


class Stages:
    """Histogram of seconds by stage; `with stages("search"): ...` times one. Thread-safe."""

    def __init__(self, name: str, documentation: str, stages: Iterable[str]) -> None:
        self._histogram = Histogram(name, documentation, ["stage"], buckets=BUCKETS)
        # All labels exist from the start: a rate needs a first value, and any other name is a mistake.
        self._by_name = {stage: self._histogram.labels(stage) for stage in stages}

    def __call__(self, stage: str) -> "_Timed":
        """Return a context manager that times its block."""
        return _Timed(self, stage)

    def observe(self, stage: str, seconds: float) -> None:
        """Count a stage that has just ended and was timed elsewhere; it gets no span."""
        self._by_name[stage].observe(seconds)
        recorded = _RECORDED.get()
        if recorded is not None:
            recorded[stage] += seconds

    def ended(self, stage: str, seconds: float, ago: float = 0.0, **attributes: str | int) -> None:
        """Count as `observe` does, and add a span of the current request that ended `ago` seconds ago."""
        self.observe(stage, seconds)
        tracing.record(stage, seconds, ago, **attributes)


class _Timed:
    __slots__ = ("_span", "_stage", "_stages", "_started")

    def __init__(self, stages: Stages, stage: str) -> None:
        self._stages = stages
        self._stage = stage

    def __enter__(self) -> None:
        self._span = tracing.begin(self._stage)
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stages.observe(self._stage, time.perf_counter() - self._started)
        if self._span is not None:
            self._span.__exit__(kind, error, trace)


def throttled(seconds: float, read: Callable[[], dict[str, float]]) -> Callable[[str], float]:
    """Return a function from a name to its value in the result of `read`.

    `read` is called at most once every `seconds`: for figures that are expensive to read. Thread-safe. If
    reading fails, the last values stay, so that an unreachable store does not hide the other metrics.
    """
    lock = threading.Lock()
    values: dict[str, float] = {}
    until = float("-inf")

    def value(name: str) -> float:
        nonlocal values, until
        with lock:
            if time.monotonic() >= until:
                until = time.monotonic() + seconds
                with contextlib.suppress(Exception):  # The store may raise anything.
                    values = read()
            return values.get(name, float("nan"))

    return value


class Page:
    """The page at http://HOST:PORT/metrics. Call `close` at the end."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def address(self) -> str:
        """Address as HOST:PORT."""
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"

    def close(self) -> None:
        """Stop serving it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(host: str, port: int) -> Page:
    """Serve the page; port 0 takes a free one.

    Raises:
        SystemExit: The port is taken.
    """
    try:
        return Page(*start_http_server(port, host))
    except OSError as error:
        text = f"cannot serve metrics on {host}:{port}: {error.strerror}"
        raise SystemExit(f"{text}; set metrics_port to another port, 0 (a free one), or off") from error
