"""Metrics, dashboards, alerts, traces and request ids of the real services, with traffic and Prometheus."""

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client.parser import text_string_to_metric_families

from extra_client import ExtraError, Group, NamespaceClient, NoveltyClient, request_scope
from extra_trainer.rollouts.collector import RolloutCollector, RolloutRequest, Sampling
from extra_trainer.rollouts.generation_pool import GenerationPool
from support.observed_suite import (
    DEPLOYED,
    Collector,
    Span,
    Suite,
    dashboard_queries,
    observed_suite,
    prometheus,
    traffic,
)
from support.processes import wait_for
from support.verification_server import HANGING

ROOT = Path(__file__).resolve().parent.parent.parent
SERVERS = ("generation", "novelty", "verification")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Suite]:
    with observed_suite(tmp_path_factory.mktemp("suite"), collector) as running:
        yield running


def test_every_query_of_every_dashboard_finds_data_and_every_alert_can_be_evaluated(
    suite: Suite, tmp_path: Path
) -> None:
    queries = dict(dashboard_queries())
    with prometheus(tmp_path, suite) as watching, traffic(suite):
        empty = dict(queries)

        def all_found() -> bool:
            for name, query in list(empty.items()):
                if watching.values(query):
                    del empty[name]
            return not empty

        wait_for(all_found, f"no data for {empty}", 60)
        groups = watching.get("rules")["groups"]
        up = watching.values('up{job=~"generation|novelty|verification"}')
    assert len(queries) > 60
    assert up == [1.0, 1.0, 1.0]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 15
    assert {rule["health"] for rule in rules} == {"ok"}, rules
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_the_dashboards_are_those_of_their_script() -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "make_dashboards.py", "--check"], check=True)


def test_each_alert_fires_and_is_silent_as_its_unit_tests_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([promtool, *command], cwd=DEPLOYED, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts", (DEPLOYED / "alerts_test.yml").read_text()))
    assert tested == set(re.findall(r"alert: (\w+)", (DEPLOYED / "alerts.yml").read_text()))


def test_the_documentation_lists_every_metric_with_its_type_and_labels(suite: Suite) -> None:
    suite.make_calls()
    exposed = {}
    for server in SERVERS:
        for family in text_string_to_metric_families(suite.metrics(server)):
            if family.name.startswith("extra_rl_") and not family.name.endswith("_created"):
                labels = {label for sample in family.samples for label in sample.labels} - {"le"}
                name = family.name + ("_total" if family.type == "counter" else "")
                exposed[name] = (family.type, labels)
    documented = {}
    for line in (ROOT / "docs" / "observability.md").read_text().splitlines():
        if match := re.match(r"\| `(extra_rl_\w+)` \| (\w+) \| ([^|]*) \| \S.* \|$", line):
            documented[match[1]] = (match[2], set(re.findall(r"`(\w+)`", match[3])))
    assert documented == exposed


def test_one_request_id_is_found_in_the_logs_and_spans_of_all_services_down_to_the_worker(
    suite: Suite, collector: Collector
) -> None:
    with request_scope("run-7/step-3"):
        (rollouts,) = suite.generation.generate(["1+2="], n=2, max_tokens=8, seed=1)
        suite.verification.verify([r"\boxed{z+41}"], ["41+z"])
        suite.novelty.score_groups(
            [Group(prompt_id="step-3", texts=[f"{r.text}!" for r in rollouts], correct=[True, True])]
        )

    def lines(server: str) -> dict[str, dict[str, object]]:
        mine = [e for e in suite.log(server) if str(e.get("request_id", "")).startswith("run-7/step-3/")]
        assert len({line["request_id"] for line in mine}) <= 1, "one call, one id"
        return {str(line["event"]): line for line in mine}

    expected = {
        "generation": {"samples ended", "call"},
        "novelty": {"call"},
        "verification": {"item judged", "call"},
    }
    for server, events in expected.items():
        wait_for(lambda: events <= set(lines(server)), f"{events} in the log of {server}", 30)  # noqa: B023
    assert lines("verification")["item judged"]["worker"] != suite.services["verification"].process.pid
    for server in SERVERS:
        request_id = lines(server)["call"]["request_id"]
        wait_for(
            lambda: any(s.attributes.get("extra_rl.request_id") == request_id for s in collector.spans),  # noqa: B023
            f"spans of {server}",
            30,
        )


def test_all_that_a_collection_of_the_trainer_asks_for_has_its_steps_id(suite: Suite) -> None:
    # In its threads, too.
    requests = [RolloutRequest("1+2=", "p", (), "x+1"), RolloutRequest("a", "q", (), "2")]
    target = suite.services["generation"].target
    with GenerationPool([target]) as generation, request_scope("launch/step-9"):
        version = generation.policy_version()
        sampling = Sampling(2, 8, seed=5)
        RolloutCollector(generation, suite.verification).collect(requests, sampling, version)

    def methods(server: str) -> set[str]:
        lines = [e for e in suite.log(server) if str(e.get("request_id")).startswith("launch/step-9/")]
        return {str(line["method"]).rpartition("/")[2] for line in lines if line["event"] == "call"}

    wait_for(lambda: methods("generation") == {"GetInfo", "Generate"}, "the calls of generation", 30)
    wait_for(lambda: methods("verification") == {"VerifyStream"}, "the call of verification", 30)


def test_a_trace_goes_on_from_the_caller_through_the_stages_of_each_service(
    suite: Suite, collector: Collector
) -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("step") as step:
        trace_id = step.get_span_context().trace_id.to_bytes(16)
        (rollouts,) = suite.generation.generate(["2+2="], n=2, max_tokens=8, seed=2)
        suite.verification.verify([r"\boxed{q+77}"], ["77+q"])
        groups = [Group(prompt_id="traced", texts=[f"{r.text}?" for r in rollouts], correct=[True, True])]
        suite.novelty.score_groups(groups)
    assert trace.get_current_span() is trace.INVALID_SPAN

    def tree() -> dict[tuple[str, str], set[str]]:
        mine = [span for span in collector.spans if span.trace_id == trace_id]
        roots = [span for span in mine if span.parent_id == step.get_span_context().span_id.to_bytes(8)]
        return {(root.service, root.name): _children(root, mine) for root in roots}

    expected = {
        ("extra-rl-generation", "GenerationService/Generate"): {"queue", "prefill", "decode"},
        ("extra-rl-verification", "VerificationService/Verify"): {"queue", "execute", "parse", "compare"},
        ("extra-rl-novelty", "NoveltyService/ScoreGroups"): {"queue", "lock", "embed", "search", "commit"},
    }
    wait_for(lambda: tree() == expected, "the whole trace", 30)
    for span in (span for span in collector.spans if span.trace_id == trace_id):
        assert span.attributes["extra_rl.request_id"]
        assert span.started <= span.ended


def _children(root: Span, spans: list[Span]) -> set[str]:
    children = [span for span in spans if span.parent_id == root.span_id]
    # A stage timed elsewhere is placed by clocks that may differ by a little.
    slack = 50_000_000
    assert all(root.started - slack <= c.started and c.ended <= root.ended + slack for c in children)
    return {child.name for child in children}


def test_items_stopped_at_their_limit_and_their_workers_are_counted(suite: Suite) -> None:
    def counted() -> tuple[float, float]:
        page = suite.metrics("verification")
        return (
            _value(page, 'extra_rl_verification_items_total{route="worker",status="timeout"}'),
            _value(page, 'extra_rl_verification_worker_restarts_total{reason="timeout"}'),
        )

    items, restarts = counted()
    suite.verification.verify([HANGING], ["6"], timeout_seconds=0.2)
    wait_for(lambda: counted() == (items + 1, restarts + 1), "counted", 30)


def test_a_caller_that_goes_away_is_counted_and_leaves_nothing_under_way(suite: Suite) -> None:
    of = 'method="Generate",service="GenerationService"'
    before = _value(suite.metrics("generation"), f'extra_rl_rpcs_total{{code="CANCELLED",{of}}}')
    stream = suite.generation.generate_stream(
        ["1+"], n=64, max_tokens=200, min_tokens=200, stream_tokens=True
    )
    next(stream)
    stream.close()

    def ended() -> bool:
        page = suite.metrics("generation")
        return (
            _value(page, f"extra_rl_rpcs_in_flight{{{of}}}") == 0
            and _value(page, f'extra_rl_rpcs_total{{code="CANCELLED",{of}}}') == before + 1
            and _value(page, "extra_rl_generation_samples_running") == 0
        )

    wait_for(ended, "the call's end", 30)


def _value(page: str, series: str) -> float:
    match = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
    return float(match[1]) if match else 0.0


def test_a_metrics_port_that_is_taken_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "extra_cli", "serve", "verification", "--port=0"]
        done = subprocess.run(
            [*command, f"--metrics-port={port}"], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert f"cannot serve metrics on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "set metrics_port to another port, 0 (a free one), or off" in done.stderr


def test_without_being_asked_for_traces_a_server_does_not_even_import_opentelemetry() -> None:
    program = (
        "import sys; from extra_services.runtime import tracing; import extra_services.verification.main;"
        "tracing.configure('verification'); print('opentelemetry' in sys.modules)"
    )
    clean = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert clean.stdout.strip() == "False"


def test_grpc_codes_of_failed_calls_are_counted(suite: Suite) -> None:
    of = 'method="ListPrompts",service="NamespaceService"'
    before = _value(suite.metrics("novelty"), f'extra_rl_rpcs_total{{code="NOT_FOUND",{of}}}')
    with grpc.insecure_channel(suite.services["novelty"].target) as channel:
        from extra_rl.v1 import namespace_pb2, namespace_pb2_grpc

        stub = namespace_pb2_grpc.NamespaceServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.ListPrompts(namespace_pb2.ListPromptsRequest(namespace="nowhere"))
    assert _value(suite.metrics("novelty"), f'extra_rl_rpcs_total{{code="NOT_FOUND",{of}}}') == before + 1


def test_no_name_that_a_caller_chooses_becomes_a_label(suite: Suite) -> None:
    def series() -> set[tuple[str, str, tuple[tuple[str, str], ...]]]:
        return {
            (server, sample.name, tuple(sorted(sample.labels.items())))
            for server in SERVERS
            for family in text_string_to_metric_families(suite.metrics(server))
            for sample in family.samples
        }

    target = suite.services["novelty"].target

    def call(name: str) -> None:
        """Make calls whose namespace, prompt, idempotency key, texts, request id and method are `name`."""
        with request_scope(name), NoveltyClient(target, f"run-{name}") as client:
            client.score_groups([Group(prompt_id=name, texts=[name], correct=[True])], idempotency_key=name)
        with NamespaceClient(target, f"none-{name}") as absent, pytest.raises(ExtraError):
            absent.describe()
        suite.verification.verify([name], [name])
        with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(f"/extra_rl.v1.NoveltyService/M{name}")(b"")

    suite.make_calls()
    call("first")
    before = series()
    for number in range(40):
        call(f"name{number}")
    assert series() == before
