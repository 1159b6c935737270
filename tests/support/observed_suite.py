"""The services with metrics and traces, traffic for them, and Prometheus and a collector to observe them."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from extra_client import (
    EntropyRollout,
    GenerationClient,
    Group,
    HardPrompt,
    InvalidArgumentError,
    NamespaceClient,
    NoveltyClient,
    PrefixClient,
    VerificationClient,
    embedded,
)
from support.generation_models import make_model
from support.processes import wait_for

DEPLOYED = Path(__file__).resolve().parents[2] / "deploy" / "observability"


@dataclass(frozen=True)
class Span:
    """A span as the collector received it."""

    service: str
    name: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    attributes: dict[str, Any]
    #: Nanoseconds since 1970.
    started: int
    ended: int


class Collector:
    """Receive spans over OTLP, like a real collector."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = ExportTraceServiceRequest()
                message.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                collector.spans += _spans(message)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep the test's output clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _spans(message: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in message.resource_spans:
        about = {a.key: a.value.string_value for a in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                found = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
                yield Span(
                    about["service.name"],
                    span.name,
                    span.trace_id,
                    span.span_id,
                    span.parent_span_id,
                    found,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                )


class Suite:
    """The services, with their clients."""

    def __init__(self, services: dict[str, embedded.EmbeddedService]) -> None:
        self.services = services
        self.generation = GenerationClient(services["generation"].target)
        self.novelty = NoveltyClient(services["novelty"].target, "observed")
        self.namespace = NamespaceClient(services["novelty"].target, "observed")
        self.prefixes = PrefixClient(services["novelty"].target, "observed")
        self.verification = VerificationClient(services["verification"].target)
        self._rounds = 0

    def log(self, name: str) -> list[dict[str, Any]]:
        """Return the JSON lines in the log of service `name`."""
        lines = self.services[name].log_file.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def metrics_address(self, name: str) -> str:
        """Return HOST:PORT of the metrics of service `name`."""
        return next(str(line["metrics"]) for line in self.log(name) if line["event"] == "serving")

    def metrics(self, name: str) -> str:
        """Return the metrics page of service `name`."""
        with urllib.request.urlopen(f"http://{self.metrics_address(name)}/metrics") as page:
            return str(page.read().decode())

    def make_calls(self) -> None:
        """Make every kind of call that a training step makes, and one with an error."""
        self._rounds += 1
        number = self._rounds
        (rollouts,) = self.generation.generate([f"{number}+2="], n=2, max_tokens=8, seed=number)
        self.generation.generate(["what is (3*4)-5"], n=1, max_tokens=4, seed=number)
        texts = [f"{rollout.text} and so on" for rollout in rollouts]
        answers = ["3", rf"\boxed{{x+{number}}}", r"\boxed{2}", r"\boxed{2}"]
        self.verification.verify(answers, ["3", f"{number}+x", "5", "2"])
        list(self.verification.verify_stream([(0, rf"\boxed{{y+{number}}}", f"{number}+y")]))
        groups = [Group(prompt_id=f"p{number % 5}", texts=texts, correct=[True, True])]
        self.novelty.score_groups(groups, idempotency_key=f"round-{number}")
        self.novelty.score_groups(groups, idempotency_key=f"round-{number}")
        self.prefixes.add_rollouts(
            [_hard(f"p{number % 5}", number)], newline_token_ids=[7], min_segment_tokens=1
        )
        self.prefixes.select([f"p{number % 5}"])
        self.generation.update_weights("model", number)
        with pytest.raises(InvalidArgumentError):
            self.verification.verify(["3"], ["3"], timeout_seconds=1e6)

    def close(self) -> None:
        for client in (self.generation, self.novelty, self.prefixes, self.verification):
            client.close()


def _hard(prompt: str, number: int) -> HardPrompt:
    tokens = np.array([3, 4, 7, 5, number % 100, 7, 6], np.int32)
    text = "ab\nc" + "d" + "\ne"
    ends = np.array([1, 2, 3, 4, 5, 6, 7], np.int32)
    entropies = np.linspace(0.1, 1.0, len(tokens), dtype=np.float32)
    rollout = EntropyRollout(token_ids=tokens, entropies=entropies, text=text, token_ends=ends)
    return HardPrompt(prompt_id=prompt, rollouts=[rollout])


@contextlib.contextmanager
def observed_suite(folder: Path, collector: Collector) -> Iterator[Suite]:
    """Run small services with metrics on free ports, traces to `collector`, and log level debug."""
    model = make_model(folder / "model")
    (folder / "weights").mkdir()
    shutil.copytree(model, folder / "weights" / "model")
    common: dict[str, Any] = {"metrics_port": 0, "log_level": "debug"}
    settings: dict[str, dict[str, Any]] = {
        "generation": {"model": model, "weights_root": folder / "weights", "threads": 1},
        "novelty": {"threads": 1},
        "verification": {"workers": 1, "slow_workers": 1},
    }
    tracing = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    before = dict(os.environ)
    os.environ.update(tracing)
    try:
        with ThreadPoolExecutor(3) as threads:
            starting = {
                name: threads.submit(embedded.start, name, folder / f"{name}.log", **common, **own)
                for name, own in settings.items()
            }
        services = {name: each.result() for name, each in starting.items()}
    finally:
        os.environ.clear()
        os.environ.update(before)
    suite = Suite(services)
    suite.namespace.create()
    try:
        yield suite
    finally:
        suite.close()
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda service: service.stop(), services.values()))


@contextlib.contextmanager
def traffic(suite: Suite) -> Iterator[None]:
    """Make calls in a thread during the context; raise their errors at the end."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            suite.make_calls()

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run)
        try:
            yield
        finally:
            stop.set()
        running.result()


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: str) -> Any:
        """Return `data` of an API call that must succeed."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}") as answer:
            return json.loads(answer.read())["data"]

    def values(self, query: str) -> list[float]:
        """Return the current values of a query, without NaN."""
        found = [float(series["value"][1]) for series in self.get("query", query=query)["result"]]
        return [value for value in found if value == value]


@contextlib.contextmanager
def prometheus(folder: Path, suite: Suite) -> Iterator[Prometheus]:
    """Run Prometheus with the deployed configuration and alerts; it scrapes `suite` every second."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    config = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOYED / "alerts.yml")]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [suite.metrics_address(job["job_name"])]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [binary, *flags, f"--web.listen-address={address}"], stdout=log, stderr=log
        )
    try:
        wait_for(lambda: _ready(f"http://{address}/-/ready") or process.poll() is not None, "Prometheus")
        assert process.poll() is None, (folder / "log").read_text()
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Yield (dashboard and panel, query as Grafana would send it) for every line of every dashboard."""
    for path in sorted((DEPLOYED / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$__rate_interval", "20s").replace("$instance", ".*")
                assert not re.search(r"\$\w", query), f"a variable that Grafana does not know here: {query}"
                yield f"{path.stem}: {panel['title']} ({target['legendFormat']})", query
