"""pass@k of the policy that a generation service serves, on problems with known answers.

Unbiased estimate of Chen et al. (arXiv 2107.03374, section 2.1): with c of n samples correct,
pass@k = 1 - C(n - c, k) / C(n, k), averaged over problems. A sample without a verdict counts as not
correct, and the number of such samples is reported beside the result.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path

import numpy as np

from extra_trainer.config import EvaluationConfig
from extra_trainer.rollout import Group, RolloutCollector, RolloutRequest, Sampling


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation."""

    policy_version: int
    problems: int
    samples_per_prompt: int
    temperature: float
    #: k -> pass@k, in [0, 1].
    pass_at: dict[int, float]
    #: Correct samples of each problem, in order.
    correct: list[int]
    undecided: int
    mean_tokens: float
    seconds: float

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """What `save` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**content, "pass_at": {int(k): v for k, v in content["pass_at"].items()}})


def pass_at_k(correct: Sequence[int], n: int, k: int) -> float:
    """Unbiased pass@k over problems with `correct` of n samples right; k at most n."""
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and n ({n}), not {k}")
    return float(np.mean([1 - comb(n - c, k) / comb(n, k) for c in correct]))


def evaluate(
    collector: RolloutCollector,
    requests: Sequence[RolloutRequest],
    config: EvaluationConfig,
    *,
    max_tokens: int,
    seed: int,
    policy_version: int,
    clock: Callable[[], float],
) -> Evaluation:
    """Samples and verifies all requests, in calls of `config.problems_per_call`."""
    clock()
    groups: list[Group] = []
    for start in range(0, len(requests), config.problems_per_call):
        sampling = Sampling(config.samples_per_prompt, max_tokens, config.temperature, seed=seed + start)
        part = list(requests[start : start + config.problems_per_call])
        groups += collector.collect(part, sampling, policy_version).groups
    correct = [int(group.correct.sum()) for group in groups]
    n = config.samples_per_prompt
    return Evaluation(
        policy_version=policy_version,
        problems=len(groups),
        samples_per_prompt=n,
        temperature=config.temperature,
        pass_at={k: pass_at_k(correct, n, k) for k in config.k},
        correct=correct,
        undecided=sum(int((~group.decided).sum()) for group in groups),
        mean_tokens=float(np.mean([len(r.token_ids) for g in groups for r in g.rollouts])),
        seconds=clock(),
    )
