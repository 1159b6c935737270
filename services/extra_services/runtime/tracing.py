"""OpenTelemetry spans of requests: a server span for every RPC, and one for each stage inside.

Configured by OpenTelemetry's own environment variables: OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_TRACES_EXPORTER)
turns it on, and endpoint, headers, sampler, resource and batching are read from theirs by its SDK. While it
is off, OpenTelemetry is not even imported. A call continues the trace that its `traceparent` names.

Not opentelemetry-instrumentation-grpc: its asyncio interceptor would open the same one span for each RPC, and
knows neither the request id nor the google.rpc status that this project's interceptor has at hand.
"""

import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

#: Set once, by `configure`; None: off.
_tracer: Any = None
_provider: Any = None

#: Attribute of every span of a request.
REQUEST_ID = "extra_rl.request_id"


def wanted(environment: Mapping[str, str]) -> bool:
    """Return whether the environment asks for traces."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "")
    if exporter:
        return exporter != "none"
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return any(environment.get(name) for name in endpoints)


def configure(service: str) -> None:
    """Turn tracing on if the environment asks for it; `service` is the server's name in the traces."""
    global _tracer, _provider
    if not wanted(os.environ):
        return
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        raise SystemExit("OTEL_... asks for traces: pip install 'extra-rl[tracing]'")
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": f"extra-rl-{service}"}
    _provider = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(_exporter()))
    _tracer = _provider.get_tracer("extra_services")


def _exporter() -> Any:
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if exporter == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if exporter != "otlp":
        raise SystemExit(f"OTEL_TRACES_EXPORTER is {exporter!r}; this server knows otlp, console and none")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    if protocol != "http/protobuf":
        raise SystemExit(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; this server sends http/protobuf")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def close() -> None:
    """Send all pending spans; blocks."""
    if _provider is not None:
        _provider.shutdown()


def begin(name: str) -> Any:
    """Start a span of the current request, current until its `__exit__`; return None without a request."""
    if _tracer is None or not _in_request():
        return None
    scope = _tracer.start_as_current_span(name, attributes=_request_attributes())
    scope.__enter__()
    return scope


def record(name: str, seconds: float, ago: float = 0.0, **attributes: str | int) -> None:
    """Add a span of the current request that took `seconds` and ended `ago` seconds ago."""
    if _tracer is None or not _in_request():
        return
    end = time.time_ns() - int(ago * 1e9)
    start = end - int(seconds * 1e9)
    span = _tracer.start_span(name, start_time=start, attributes={**_request_attributes(), **attributes})
    span.end(end)


class RpcSpan:
    """The span of one RPC, from its construction to `end`; it stays current in the task that made it.

    Every RPC has a task, and so a context, of its own: nothing has to be put back.
    """

    def __init__(self, service: str, method: str, request_id: str, metadata: Mapping[str, Any]) -> None:
        self._span: Any = None
        if _tracer is None:
            return
        from opentelemetry import context, propagate, trace

        carrier = {key: value for key, value in metadata.items() if isinstance(value, str)}
        self._span = _tracer.start_span(
            f"{service}/{method}",
            context=propagate.extract(carrier),
            kind=trace.SpanKind.SERVER,
            attributes={
                "rpc.system.name": "grpc",
                "rpc.method": f"{service}/{method}",
                REQUEST_ID: request_id,
            },
        )
        context.attach(trace.set_span_in_context(self._span))

    def end(self, code: str) -> None:
        """End it with the name of a gRPC code."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("rpc.response.status_code", code)
        # By OpenTelemetry's conventions for gRPC, only these codes are the server's fault.
        if code in ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"):
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _in_request() -> bool:
    from opentelemetry import trace

    return bool(trace.get_current_span().is_recording())


def _request_attributes() -> dict[str, str]:
    from extra_services.runtime import logs

    return {REQUEST_ID: logs.request_id()}
