"""The metrics of the verification server; runtime/metrics.py has those of all servers."""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from extra_rl.vocabulary import VerdictStatus
from extra_services.runtime.metrics import Stages

STAGES = Stages(
    "extra_rl_verification_stage_duration_seconds",
    "Seconds of a stage of an item that needed a worker: queue, parse, compare, execute (all in the worker).",
    ("queue", "parse", "compare", "execute"),
)
#: What decides an item.
FAST, CACHE, WORKER = "fast", "cache", "worker"
ITEMS = Counter(
    "extra_rl_verification_items",
    "Items answered, by verdict and by what decided: fast (proof without a worker), cache, worker.",
    ["status", "route"],
)
_ITEMS = {
    (status, route): ITEMS.labels(status.value, route)
    for status in VerdictStatus
    for route in (FAST, CACHE, WORKER)
}
ITEMS_WAITING = Gauge("extra_rl_verification_items_waiting", "Items that wait for a worker.")
ITEMS_RUNNING = Gauge("extra_rl_verification_items_running", "Items that a worker has.")
QUEUE_LIMIT = Gauge("extra_rl_verification_queue_limit", "The setting max_queue.")
WORKERS = Gauge("extra_rl_verification_workers", "Worker processes that are alive.")
WORKER_RESTARTS = Counter(
    "extra_rl_verification_worker_restarts",
    "Workers replaced: timeout (killed at an item's time limit), cancelled (its caller had gone), died (by"
    " itself), priority (could not be raised again after a long item).",
    ["reason"],
)
RESTARTS = {r: WORKER_RESTARTS.labels(r) for r in ("timeout", "cancelled", "died", "priority")}
CACHED_VERDICTS = Gauge("extra_rl_verification_cached_verdicts", "Verdicts in the cache.")


def count(items: Iterable[tuple[VerdictStatus, str]]) -> None:
    """Count items by (status, route)."""
    for key, number in Tally(items).items():
        _ITEMS[key].inc(number)
