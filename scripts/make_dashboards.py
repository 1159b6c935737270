"""Write the Grafana dashboards of deploy/observability/grafana/dashboards from the tables below.

Grafana's JSON of a dashboard has a thousand lines around a few dozen queries; this file contains the
queries. With --check it writes nothing, and fails if the committed files differ.
tests/integration/test_observability.py runs every query against a real Prometheus.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "observability" / "grafana" / "dashboards"
#: A query sums over the selected servers, in a window that Grafana derives from the scrape interval.
HERE, WINDOW = '{instance=~"$instance"}', "[$__rate_interval]"
#: Columns of the grid, and of a panel.
WIDTH, PANEL, HEIGHT = 24, 8, 8


@dataclass(frozen=True)
class Panel:
    """A graph: title, Grafana's unit, (query, legend) of each line, and how to read it."""

    title: str
    unit: str
    queries: list[tuple[str, str]]
    description: str = ""


@dataclass(frozen=True)
class Dashboard:
    """A page of panels; `variable` is the metric whose instances can be selected."""

    uid: str
    title: str
    variable: str
    panels: list[Panel] = field(default_factory=list)


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """Return the rate per second, summed over servers."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{_with(labels)}{WINDOW}))"


def quantile(q: float, histogram: str, by: str = "", labels: str = "") -> str:
    """Return a quantile of a histogram, over all servers."""
    group = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({group}) (rate({histogram}_bucket{_with(labels)}{WINDOW})))"


def share(part: str, whole: str) -> str:
    """Return `part` divided by `whole`; no value if `whole` is 0."""
    return f"({part}) / ({whole} > 0)"


def now(metric: str, by: str = "", labels: str = "", how: str = "sum") -> str:
    """Return the current value of a gauge."""
    return f"{how}{f' by ({by})' if by else ''} ({metric}{_with(labels)})"


def _with(labels: str) -> str:
    return HERE if not labels else HERE[:-1] + f", {labels}}}"


def quantiles(histogram: str, by: str, labels: str = "") -> list[tuple[str, str]]:
    """Return median and 95 % quantile of each `by`."""
    return [
        (quantile(0.5, histogram, by, labels), f"{{{{{by}}}}} median"),
        (quantile(0.95, histogram, by, labels), f"{{{{{by}}}}} 95 %"),
    ]


RPCS, RPC_SECONDS = "extra_rl_rpcs_total", "extra_rl_rpc_duration_seconds"
REFUSED = 'code="RESOURCE_EXHAUSTED"'


def calls(service: str) -> list[Panel]:
    """Return the panels with the calls of a service, for its dashboard."""
    of = f'service=~"{service}"'
    return [
        Panel("Calls", "reqps", [(rate(RPCS, "method, code", of), "{{method}} {{code}}")]),
        Panel("Time of a call", "s", quantiles(RPC_SECONDS, "method", of)),
        Panel("Calls in progress", "short", [(now("extra_rl_rpcs_in_flight", "method", of), "{{method}}")]),
    ]


G, N, V = "extra_rl_generation_", "extra_rl_novelty_", "extra_rl_verification_"

OVERVIEW = Dashboard(
    "extra-rl-overview",
    "ExTra: overview",
    "extra_rl_serving",
    [
        Panel(
            "Serving",
            "short",
            [(now("extra_rl_serving", "job, instance"), "{{job}} {{instance}}")],
            "1: serves calls; 0: loads, drains, or restarts vLLM. No line: the server has ended.",
        ),
        Panel("Calls", "reqps", [(rate(RPCS, "service, method"), "{{service}} {{method}}")]),
        Panel(
            "Calls that failed",
            "reqps",
            [(rate(RPCS, "service, method, code", 'code!="OK"'), "{{method}} {{code}}")],
            "INVALID_ARGUMENT: a caller's mistake; RESOURCE_EXHAUSTED: overload; INTERNAL: a bug.",
        ),
        Panel(
            "Time of a call, 95 %",
            "s",
            [(quantile(0.95, RPC_SECONDS, "service, method"), "{{service}} {{method}}")],
        ),
        Panel(
            "Share of calls refused",
            "percentunit",
            [(share(rate(RPCS, "", REFUSED) + " or vector(0)", rate(RPCS)), "refused")],
            "Above a few percent: a service is too small for its load.",
        ),
        Panel("Calls in progress", "short", [(now("extra_rl_rpcs_in_flight", "service"), "{{service}}")]),
        Panel(
            "Memory",
            "bytes",
            [(now("process_resident_memory_bytes", "job, instance"), "{{job}} {{instance}}")],
            "Of the server itself, without verification's workers. It should be constant after warm-up.",
        ),
        Panel(
            "Processors",
            "short",
            [(rate("process_cpu_seconds_total", "job, instance"), "{{job}} {{instance}}")],
        ),
        Panel("Open files", "short", [(now("process_open_fds", "job, instance"), "{{job}} {{instance}}")]),
    ],
)

GENERATION = Dashboard(
    "extra-rl-generation",
    "ExTra: generation",
    f"{G}slots",
    [
        Panel(
            "Tokens",
            "cps",
            [
                (rate(f"{G}tokens_total"), "generated"),
                (rate(f"{G}prompt_tokens_total", "source"), "prompt, {{source}}"),
            ],
            "Generated tokens are counted when their sample ends.",
        ),
        Panel(
            "Samples",
            "cps",
            [(rate(f"{G}samples_total", "finish_reason"), "{{finish_reason}}")],
            "length: max_tokens cut the rollout off. abort: the weights were replaced during the rollout.",
        ),
        Panel("Stages of a sample", "s", quantiles(f"{G}stage_duration_seconds", "stage")),
        Panel(
            "Batch",
            "short",
            [
                (now(f"{G}samples_running"), "running"),
                (now(f"{G}slots"), "places"),
                (now(f"{G}samples_waiting"), "waiting"),
            ],
            "Waiting samples and free places: there is not enough memory for keys and values.",
        ),
        Panel(
            "Memory for keys and values in use",
            "percentunit",
            [(f"{now(f'{G}kv_tokens')} / {now(f'{G}kv_limit_tokens')}", "in use")],
            "Of the transformers engine; for vLLM see vllm:kv_cache_usage_perc.",
        ),
        Panel(
            "Share of prompt tokens found in the prefix cache",
            "percentunit",
            [
                (
                    share(
                        rate(f"{G}prompt_tokens_total", "", 'source="cached"'),
                        rate(f"{G}prompt_tokens_total"),
                    ),
                    "cached",
                )
            ],
        ),
        Panel("Prefix cache", "bytes", [(now(f"{G}prefix_cache_bytes", "instance"), "{{instance}}")]),
        Panel(
            "Policy version",
            "short",
            [(now(f"{G}policy_version", "instance", how="max"), "{{instance}}")],
            "Replicas of one run must agree.",
        ),
        Panel(
            "Weight updates",
            "s",
            [
                (quantile(0.95, f"{G}weight_update_duration_seconds"), "95 %"),
                (rate(f"{G}weight_updates_total", "outcome"), "{{outcome}} per second"),
            ],
        ),
        *calls("GenerationService"),
    ],
)

NOVELTY = Dashboard(
    "extra-rl-novelty",
    "ExTra: novelty and prefixes",
    f"{N}requests_waiting",
    [
        Panel(
            "Stages of a request",
            "s",
            quantiles(f"{N}stage_duration_seconds", "stage"),
            "Causes: queue: few request_threads; lock: requests of the same prompts; commit: disk or Redis.",
        ),
        Panel(
            "Time spent, by stage",
            "short",
            [(rate(f"{N}stage_duration_seconds_sum", "stage"), "{{stage}}")],
            "Seconds per second: the average number of requests in each stage.",
        ),
        Panel(
            "Requests waiting for a thread",
            "short",
            [(now(f"{N}requests_waiting", "instance"), "{{instance}}")],
        ),
        Panel(
            "Rollouts",
            "cps",
            [
                (rate(f"{N}rollouts_total"), "scored or stored"),
                (rate(f"{N}suspicious_rollouts_total", "reason"), "left out: {{reason}}"),
            ],
        ),
        Panel(
            "Texts",
            "cps",
            [(rate(f"{N}texts_total", "source"), "{{source}}")],
            "model: embedded; cache: known from before. The trainer embeds early, and scores from the cache.",
        ),
        Panel(
            "Share of prompts found in the index",
            "percentunit",
            [(share(rate(f"{N}prompts_total", "", 'source="index"'), rate(f"{N}prompts_total")), "index")],
            "If it is low and the index is full, increase index_bytes.",
        ),
        Panel(
            "Index",
            "bytes",
            [
                (now(f"{N}index_bytes", "instance"), "{{instance}}"),
                (now(f"{N}index_limit_bytes", "instance"), "{{instance}} limit"),
            ],
        ),
        Panel(
            "Store",
            "short",
            [(now(f"{N}store_entries", "kind", how="max"), "{{kind}}")],
            "Servers on one Redis have the same store, so the largest value is shown.",
        ),
        Panel(
            "Repeated writes and conflicts",
            "cps",
            [
                (rate(f"{N}replays_total"), "answered as the first time"),
                (rate(f"{N}commit_conflicts_total"), "conflicts"),
            ],
            "Retries cause repeated writes; servers that write the same prompts cause conflicts.",
        ),
        *calls("NamespaceService|NoveltyService|PrefixService"),
    ],
)

UNDECIDED = 'status=~"timeout|error"'
VERIFICATION = Dashboard(
    "extra-rl-verification",
    "ExTra: verification",
    f"{V}workers",
    [
        Panel(
            "Items, by deciding part",
            "cps",
            [(rate(f"{V}items_total", "route"), "{{route}}")],
            "fast and cache take microseconds; only worker uses a process.",
        ),
        Panel("Items, by verdict", "cps", [(rate(f"{V}items_total", "status"), "{{status}}")]),
        Panel(
            "Share undecided",
            "percentunit",
            [(share(rate(f"{V}items_total", "", UNDECIDED), rate(f"{V}items_total")), "timeout or error")],
            "The trainer stops above services.max_undecided.",
        ),
        Panel("Stages of an item in a worker", "s", quantiles(f"{V}stage_duration_seconds", "stage")),
        Panel(
            "Queue",
            "short",
            [
                (now(f"{V}items_waiting", "instance"), "{{instance}} waiting"),
                (now(f"{V}items_running", "instance"), "{{instance}} running"),
                (now(f"{V}queue_limit", "instance"), "{{instance}} limit"),
            ],
        ),
        Panel("Workers", "short", [(now(f"{V}workers", "instance"), "{{instance}}")]),
        Panel(
            "Workers replaced",
            "cps",
            [(rate(f"{V}worker_restarts_total", "reason"), "{{reason}}")],
            "died: killed from outside, or exceeded worker_memory_bytes.",
        ),
        Panel("Verdicts in the cache", "short", [(now(f"{V}cached_verdicts", "instance"), "{{instance}}")]),
        *calls("VerificationService"),
    ],
)

STEP = 'method=~"Generate|VerifyStream|ScoreGroups|AddRollouts|SelectPrefixes|UpdateWeights"'
TRAINING = Dashboard(
    "extra-rl-training",
    "ExTra: a training run, seen from its services",
    "extra_rl_serving",
    [
        Panel(
            "Rollouts",
            "cps",
            [
                (rate(f"{G}samples_total"), "generated"),
                (rate(f"{V}items_total"), "verified"),
                (rate(f"{N}rollouts_total"), "scored or stored"),
            ],
            "Within a step the three follow one another; the one behind the others is the bottleneck.",
        ),
        Panel(
            "Share correct",
            "percentunit",
            [(share(rate(f"{V}items_total", "", 'status="correct"'), rate(f"{V}items_total")), "correct")],
            "The reward, including evaluations.",
        ),
        Panel("Tokens", "cps", [(rate(f"{G}tokens_total"), "generated")]),
        Panel(
            "Calls of a step, median",
            "s",
            [(quantile(0.5, RPC_SECONDS, "method", STEP), "{{method}}")],
            "Generate and VerifyStream overlap: a step takes about as long as the longer one.",
        ),
        Panel(
            "Where samples wait",
            "s",
            [
                (quantile(0.95, f"{G}stage_duration_seconds", "", 'stage="queue"'), "generation"),
                (quantile(0.95, f"{V}stage_duration_seconds", "", 'stage="queue"'), "verification"),
                (quantile(0.95, f"{N}stage_duration_seconds", "", 'stage="queue"'), "novelty"),
            ],
            "95 %. The service with the longest queue needs replicas.",
        ),
        Panel(
            "Policy version",
            "short",
            [(now(f"{G}policy_version", "instance", how="max"), "{{instance}}")],
            "Grows by one per step; a replica that stays behind is skipped.",
        ),
        Panel(
            "Weight updates",
            "s",
            [(quantile(0.5, f"{G}weight_update_duration_seconds"), "median")],
        ),
        Panel(
            "Memories",
            "short",
            [(now(f"{N}store_entries", "kind", 'kind=~"solutions|prefixes"', "max"), "{{kind}}")],
        ),
        Panel(
            "Failures and retries",
            "cps",
            [
                (rate(RPCS, "code", 'code!~"OK|CANCELLED"'), "{{code}}"),
                (rate(f"{V}items_total", "status", UNDECIDED), "verdict {{status}}"),
                (rate(f"{N}replays_total"), "repeated write"),
            ],
        ),
    ],
)

DASHBOARDS = (OVERVIEW, GENERATION, NOVELTY, VERIFICATION, TRAINING)


def as_json(dashboard: Dashboard) -> str:
    """Return the dashboard as Grafana's JSON."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    instances = f"label_values({dashboard.variable}, instance)"
    content = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["extra-rl"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                {
                    "name": "instance",
                    "type": "query",
                    "label": "Server",
                    "datasource": source,
                    "definition": instances,
                    "query": {"query": instances, "refId": "instances"},
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": [_panel(panel, number, source) for number, panel in enumerate(dashboard.panels)],
    }
    return json.dumps(content, indent=1) + "\n"


def _panel(panel: Panel, number: int, source: dict[str, str]) -> dict[str, Any]:
    across = WIDTH // PANEL
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": source,
        "gridPos": {
            "x": number % across * PANEL,
            "y": number // across * HEIGHT,
            "w": PANEL,
            "h": HEIGHT,
        },
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": expr, "legendFormat": legend}
            for place, (expr, legend) in enumerate(panel.queries)
        ],
    }


def main(arguments: list[str]) -> None:
    """Write all dashboards, or compare them with --check."""
    files = {FOLDER / f"{dashboard.uid}.json": as_json(dashboard) for dashboard in DASHBOARDS}
    if arguments == ["--check"]:
        stale = [path.name for path, text in files.items() if not path.exists() or path.read_text() != text]
        stale += [path.name for path in FOLDER.glob("*.json") if path not in files]
        if stale:
            sys.exit(f"dashboards are stale, run scripts/make_dashboards.py: {sorted(stale)}")
        return
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
