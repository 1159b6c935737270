"""Metrics of the novelty server, for all its services; runtime/metrics.py has those of all servers."""

from prometheus_client import Counter, Gauge

from extra_services.runtime.metrics import Stages

STAGES = Stages(
    "extra_rl_novelty_stage_duration_seconds",
    "Seconds of a stage of a request: queue (for a thread), lock (for its prompts), embed, search, commit.",
    ("queue", "lock", "embed", "search", "commit"),
)
REQUESTS_WAITING = Gauge(
    "extra_rl_novelty_requests_waiting", "Requests that wait for one of the request_threads."
)
ROLLOUTS = Counter("extra_rl_novelty_rollouts", "Rollouts in the groups that were scored or remembered.")
SUSPICIOUS = Counter(
    "extra_rl_novelty_suspicious_rollouts",
    "Rollouts left out of their groups, by reason: blank, unknown_script, hardly_any_derivation, ...",
    ["reason"],
)
REPLAYS = Counter(
    "extra_rl_novelty_replays", "Writes sent again under a known idempotency key, and answered as before."
)
CONFLICTS = Counter(
    "extra_rl_novelty_commit_conflicts", "Commits refused because another server changed the same prompts."
)
TEXTS = Counter(
    "extra_rl_novelty_texts", "Texts whose vectors were needed, by where from: model or cache.", ["source"]
)
TEXTS_EMBEDDED, TEXTS_CACHED = TEXTS.labels("model"), TEXTS.labels("cache")
PROMPTS = Counter(
    "extra_rl_novelty_prompts",
    "Prompts whose solutions were needed, by where they were found: index (memory) or store.",
    ["source"],
)
PROMPTS_IN_INDEX, PROMPTS_FROM_STORE = PROMPTS.labels("index"), PROMPTS.labels("store")
INDEX_BYTES = Gauge("extra_rl_novelty_index_bytes", "Memory of the vectors in the indexes.")
INDEX_LIMIT_BYTES = Gauge("extra_rl_novelty_index_limit_bytes", "The setting index_bytes.")
STORE_ENTRIES = Gauge(
    "extra_rl_novelty_store_entries",
    "What the store holds, over all namespaces: namespaces, prompts, solutions, prefixes.",
    ["kind"],
)
