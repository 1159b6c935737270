"""Made rollouts, for tests of what the trainer computes from them."""

import numpy as np

from extra_client import FinishReason, Rollout, Timings


def made_rollout(sample: int) -> Rollout:
    """Return a rollout of three tokens, at place `sample` of its group."""
    numbers = np.full(3, 0.5, dtype=np.float32)
    return Rollout(
        prompt_index=0,
        sample_index=sample,
        token_ids=np.arange(3, dtype=np.int32),
        logprobs=-numbers,
        entropies=numbers,
        text="x",
        finish_reason=FinishReason.STOP,
        policy_version=0,
        prompt_tokens=1,
        cached_prompt_tokens=0,
        timings=Timings(0.0, 0.0, 0.0),
        raw_entropies=numbers[:0],
        segments=(),
        policy_changes=(),
    )
