"""NeMo-RL's GRPO estimator with our subclass: recorded, because NeMo-RL does not install here.

It needs Python 3.13 and CUDA, and PyPI has an empty release of it. Recorded from the sources of
NVIDIA-NeMo/RL at 7ea279abfbeb698b092856d0dab61e7cf39bc909: the signature of `compute_advantage`, and the
fields of the batch that it is given (nemo_rl/algorithms/grpo.py).
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from extra_client.integrations import NoveltyScoring
from extra_client.integrations.contract import RolloutGroup
from extra_client.integrations.nemo_rl import novelty_estimator
from support.trainers import modules


class GRPOAdvantageEstimator:
    """As in nemo_rl/algorithms/advantage_estimator.py: reward minus the mean of the others, by the spread."""

    def __init__(self, estimator_config: Any, loss_config: Any) -> None:
        self.normalize_rewards = estimator_config.normalize_rewards

    def compute_advantage(self, prompt_ids: Any, rewards: Any, mask: Any, **_: Any) -> Any:
        """Return [rollouts, tokens]."""
        advantages = torch.zeros_like(rewards)
        for prompt in torch.unique(prompt_ids, dim=0):
            group = (prompt_ids == prompt).all(1)
            others = (rewards[group].sum() - rewards[group]) / (group.sum() - 1)
            advantages[group] = rewards[group] - others
            spread = rewards[group].std()
            if self.normalize_rewards and spread > 0:
                advantages[group] /= spread + 1e-6
        return advantages.unsqueeze(-1).expand(mask.shape)


def install() -> None:
    """Let the modules that a launch file of NeMo-RL imports find what is recorded here."""
    modules("nemo_rl.algorithms.grpo", {"GRPOAdvantageEstimator": GRPOAdvantageEstimator})
    modules("run_grpo", {"main": lambda: None})


class NemoRL:
    """A batch as grpo_train gives it to the estimator."""

    cannot: ClassVar[Mapping[str, str]] = {
        "undecided": "NeMo-RL's environments return a number for each rollout",
        "twice": "NeMo-RL itself makes one group of all rollouts of a prompt in a batch",
        "images": "NeMo-RL's messages have no images, only tensors of a processor: such prompts are refused",
    }

    def step(
        self, scoring: NoveltyScoring | None, groups: Sequence[RolloutGroup], number: int
    ) -> list[list[float]]:
        """Return the advantage of each rollout's first token."""
        base: Any = GRPOAdvantageEstimator
        known = {
            text: answer for group in groups for text, answer in zip(group.texts, group.answers, strict=True)
        }
        if scoring is not None:
            base = novelty_estimator(base, scoring, answers=known.__getitem__)
        estimator = base(SimpleNamespace(normalize_rewards=True), SimpleNamespace())
        size = len(groups[0].texts)
        rows = [(group, row) for group in groups for row in range(size)]
        prompts = [list(map(ord, group.prompt)) for group, _ in rows]
        width = max(map(len, prompts))
        advantages = estimator.compute_advantage(
            prompt_ids=torch.tensor([ids + [0] * (width - len(ids)) for ids in prompts]),
            rewards=torch.tensor([float(group.correct[row] is True) for group, row in rows]),
            mask=torch.ones(len(rows), 4),
            repeated_batch={
                "message_log": [log(group, row) for group, row in rows],
                "length": torch.tensor([len(ids) for ids in prompts]),
                "extra_env_info": [{"ground_truth": group.reference} for group, _ in rows],
            },
            logprobs_policy=None,
            logprobs_reference=None,
        )
        assert torch.equal(advantages[:, 0], advantages[:, 3])
        return [row.tolist() for row in advantages[:, 0].reshape(-1, size)]


def log(group: RolloutGroup, row: int) -> list[dict[str, Any]]:
    """Return the messages of a rollout."""
    texts = {"user": group.prompt, "assistant": group.texts[row]}
    return [
        {"role": role, "content": text, "token_ids": torch.tensor(list(map(ord, text)), dtype=torch.int64)}
        for role, text in texts.items()
    ]
