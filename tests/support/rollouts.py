"""Made rollouts and verdicts, for tests of what the trainer computes from them."""

from typing import Any

import numpy as np

from extra_client import FinishReason, Rollout, Timings, UnparseableSide, Verdict, VerdictStatus


def made_verdict(status: VerdictStatus) -> Verdict:
    """Return a verdict with this status and nothing else."""
    side = UnparseableSide.RESPONSE if status is VerdictStatus.UNPARSEABLE else None
    fields: dict[str, Any] = dict.fromkeys(Verdict.__dataclass_fields__, "")
    known: dict[str, Any] = {"status": status, "unparseable_side": side, "score": None, "components": {}}
    return Verdict(**{**fields, **known})


def made_rollout(sample: int, tokens: int = 3, finish_reason: FinishReason = FinishReason.STOP) -> Rollout:
    """Return a rollout of so many tokens, at place `sample` of its group."""
    numbers = np.full(tokens, 0.5, dtype=np.float32)
    return Rollout(
        prompt_index=0,
        sample_index=sample,
        token_ids=np.arange(tokens, dtype=np.int32),
        logprobs=-numbers,
        entropies=numbers,
        text="x",
        finish_reason=finish_reason,
        policy_version=0,
        prompt_tokens=1,
        cached_prompt_tokens=0,
        timings=Timings(0.0, 0.0, 0.0),
        raw_entropies=numbers[:0],
        segments=(),
        policy_changes=(),
    )
