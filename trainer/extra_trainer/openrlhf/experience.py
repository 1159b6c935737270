"""OpenRLHF's experience maker with ExTra's advantages.

OpenRLHF computes log-probabilities, KL and its bookkeeping; the advantages are then replaced by those of
`advantage.py`, computed from the same rewards and the novelty that travelled with the samples. With the
bonus switched off they equal OpenRLHF's own `group_norm` but for the epsilon (1e-6, GRPO's, for 1e-9).
"""

from typing import Any

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

from extra_trainer.config import Config
from extra_trainer.exploration.advantage import advantages, controlled
from extra_trainer.openrlhf.by_length import cut_by_length


class ExTraExperienceMaker(RemoteExperienceMaker):  # type: ignore[misc]
    """Makes experiences whose advantages carry the novelty bonus."""

    def __init__(self, base: RemoteExperienceMaker, config: Config) -> None:
        super().__init__(
            base.actor_model_group,
            base.critic_model_group,
            base.reward_model_group,
            base.initial_model_group,
            base.kl_ctl,
            base.strategy,
            base.tokenizer,
        )
        self._config = config

    def split_rollout_samples(self, rollout_samples: list[Experience]) -> list[Experience]:
        """OpenRLHF's micro-batches, of samples of like length; `index` says where each was sampled."""
        if self.args.train.dynamic_batch_enable:
            return list(super().split_rollout_samples(rollout_samples))
        for place, sample in enumerate(rollout_samples):
            sample.index = [place]
        ds = self.args.ds
        workers = len(self.actor_model_group._actor_handlers) // (ds.ring_attn_size * ds.tensor_parallel_size)
        lengths = [int(sample.total_length) for sample in rollout_samples]
        batches = cut_by_length(lengths, self.args.rollout.micro_batch_size, workers)
        padding = self.tokenizer.pad_token_id
        return [
            Experience.concat_experiences([rollout_samples[place] for place in batch], padding)
            for batch in batches
        ]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def compute_advantages_and_returns(self, experiences: list[Experience]) -> list[Experience]:
        """OpenRLHF's, then per-sample advantages of section 3, constant over the action tokens."""
        experiences = super().compute_advantages_and_returns(experiences)
        order = np.concatenate([experience.index for experience in experiences])
        rewards = self._in_groups([experience.rewards for experience in experiences], order)
        decided = self._in_groups([experience.info["decided"] for experience in experiences], order) > 0
        bonus = self._bonus(experiences, order)
        control = self._config.novelty.control
        if control is not None:
            bonus = controlled(bonus, decided & (rewards > 0), control, self._config.seed)
        result = advantages(
            rewards,
            bonus,
            decided,
            placement=self._config.novelty.placement,
            divide_by_std=self._config.optimization.divide_by_std,
        ).ravel()
        flat_bonus = np.where(decided & (rewards > 0), bonus, 0.0).ravel()
        for experience in experiences:
            own = torch.tensor(result[experience.index], dtype=torch.float32)
            experience.advantages = own[:, None] * experience.action_mask.float()
            experience.returns = experience.advantages.clone()
            experience.info["advantage"] = own
            experience.info["novelty_bonus"] = torch.tensor(flat_bonus[experience.index], dtype=torch.float32)
        return experiences

    def _bonus(self, experiences: list[Experience], order: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        settings = self._config.novelty
        novelty = self._in_groups([experience.info["novelty"] for experience in experiences], order)
        if settings.placement == "after_normalization":
            return settings.alpha * novelty
        variance = self._in_groups([experience.info["reward_variance"] for experience in experiences], order)
        return settings.alpha * novelty * np.exp(-settings.variance_decay * variance)

    def _in_groups(self, parts: list[torch.Tensor], order: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Per-sample values of all experiences, in order of sampling, as float64 [groups, n]."""
        values = torch.cat([part.reshape(-1).double() for part in parts]).numpy()
        sorted_values = np.empty_like(values)
        sorted_values[order] = values
        grouped: np.ndarray[Any, Any] = sorted_values.reshape(-1, self.args.rollout.n_samples_per_prompt)
        return grouped
