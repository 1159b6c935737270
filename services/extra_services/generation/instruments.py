"""The metrics of the generation server; runtime/metrics.py has those of all servers.

With the vLLM engine, the page also has the metrics of vLLM (vllm:...).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

from extra_rl.vocabulary import FinishReason
from extra_services.generation.engines.protocol import Engine
from extra_services.generation.rollouts import Rollout
from extra_services.runtime import tracing
from extra_services.runtime.metrics import BUCKETS, Stages

STAGES = Stages(
    "extra_rl_generation_stage_duration_seconds",
    "Seconds of a stage of a sample: queue (for a place in the batch), prefill (of its prompt), decode.",
    ("queue", "prefill", "decode"),
)
SAMPLES = Counter(
    "extra_rl_generation_samples", "Finished samples, by the reason of their end.", ["finish_reason"]
)
_SAMPLES = {reason: SAMPLES.labels(reason.value) for reason in FinishReason}
TOKENS = Counter("extra_rl_generation_tokens", "Tokens of finished samples.")
PROMPT_TOKENS = Counter(
    "extra_rl_generation_prompt_tokens",
    "Tokens of prompts and prefixes, each prompt of a request once: computed, or from the cache.",
    ["source"],
)
_COMPUTED, _CACHED = PROMPT_TOKENS.labels("computed"), PROMPT_TOKENS.labels("cached")
SAMPLES_WAITING = Gauge("extra_rl_generation_samples_waiting", "Samples that wait for a place in the batch.")
SAMPLES_RUNNING = Gauge("extra_rl_generation_samples_running", "Samples in the batch.")
SLOTS = Gauge("extra_rl_generation_slots", "Places in the batch: the setting max_batch.")
KV_TOKENS = Gauge(
    "extra_rl_generation_kv_tokens", "Tokens whose keys and values the samples in the batch hold."
)
KV_LIMIT_TOKENS = Gauge(
    "extra_rl_generation_kv_limit_tokens",
    "Tokens that the memory for keys and values holds; NaN with vLLM, which has a metric of its own.",
)
PREFIX_CACHE_BYTES = Gauge(
    "extra_rl_generation_prefix_cache_bytes", "Memory of prompts kept for later requests; NaN with vLLM."
)
POLICY_VERSION = Gauge("extra_rl_generation_policy_version", "Version of the weights that are served.")
WEIGHT_UPDATES = Counter(
    "extra_rl_generation_weight_updates", "Deliveries of weights: done or failed.", ["outcome"]
)
UPDATES_DONE, UPDATES_FAILED = WEIGHT_UPDATES.labels("done"), WEIGHT_UPDATES.labels("failed")
UPDATE_SECONDS = Histogram(
    "extra_rl_generation_weight_update_duration_seconds",
    "Seconds until delivered weights were served, waiting for samples in flight included.",
    buckets=BUCKETS,
)


def watch(engine: Engine) -> None:
    """Connect the gauges to `engine`; they are read when the page is."""
    SAMPLES_WAITING.set_function(lambda: engine.load().waiting)
    SAMPLES_RUNNING.set_function(lambda: engine.load().running)
    SLOTS.set_function(lambda: engine.load().slots)
    KV_TOKENS.set_function(lambda: engine.load().kv_tokens)
    KV_LIMIT_TOKENS.set_function(lambda: engine.load().kv_limit_tokens)
    PREFIX_CACHE_BYTES.set_function(lambda: engine.load().prefix_cache_bytes)
    POLICY_VERSION.set_function(lambda: engine.policy_version)


@contextmanager
def updating() -> Iterator[None]:
    """Count and time the delivery of weights in a block."""
    started = time.perf_counter()
    try:
        yield
    except BaseException:
        UPDATES_FAILED.inc()
        raise
    UPDATES_DONE.inc()
    UPDATE_SECONDS.observe(time.perf_counter() - started)


@dataclass
class _PromptTimes:
    """The unfinished samples of one prompt; times are those of the monotonic clock, in seconds."""

    left: int
    began: float = float("inf")
    prefill: float = float("inf")
    decode: float = float("inf")
    tokens: int = 0


class RequestMetrics:
    """Metrics and spans of one request with `n` samples per prompt."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._prompts: dict[int, _PromptTimes] = {}

    def sample(self, rollout: Rollout) -> None:
        """Record a sample that has just ended; the last one of a prompt completes the spans of the prompt."""
        now = time.monotonic()
        prompt = self._prompts.get(rollout.prompt_index)
        if prompt is None:
            prompt = self._prompts[rollout.prompt_index] = _PromptTimes(self._n)
            _CACHED.inc(rollout.cached_prompt_tokens)
            _COMPUTED.inc(rollout.prompt_tokens - rollout.cached_prompt_tokens)
        _SAMPLES[rollout.finish_reason].inc()
        TOKENS.inc(len(rollout.token_ids))
        STAGES.observe("queue", rollout.queue_seconds)
        STAGES.observe("prefill", rollout.prefill_seconds)
        STAGES.observe("decode", rollout.decode_seconds)
        decode = now - rollout.decode_seconds
        prompt.decode = min(prompt.decode, decode)
        prompt.prefill = min(prompt.prefill, decode - rollout.prefill_seconds)
        prompt.began = min(prompt.began, decode - rollout.prefill_seconds - rollout.queue_seconds)
        prompt.tokens += len(rollout.token_ids)
        prompt.left -= 1
        if prompt.left == 0:
            self._spans(rollout.prompt_index, prompt, now)

    def _spans(self, index: int, prompt: _PromptTimes, now: float) -> None:
        about = {"prompt_index": index, "samples": self._n}
        tracing.record("queue", prompt.prefill - prompt.began, now - prompt.prefill, **about)
        tracing.record("prefill", prompt.decode - prompt.prefill, now - prompt.decode, **about)
        tracing.record("decode", now - prompt.decode, 0.0, tokens=prompt.tokens, **about)
