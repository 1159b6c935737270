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

from extra_trainer.advantage import NoveltyScale, RewardVariance, advantages
from extra_trainer.config import Config
from extra_trainer.data import prompt_identity


class ExTraExperienceMaker(RemoteExperienceMaker):
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
        self._scale = NoveltyScale(config.novelty.scale)
        self._variance = RewardVariance()

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences: list[Experience]) -> list[Experience]:
        """OpenRLHF's, then per-sample advantages of section 3.3, constant over the action tokens."""
        experiences = super().compute_advantages_and_returns(experiences)
        order = np.concatenate([experience.index for experience in experiences])
        rewards = self._in_groups([experience.rewards for experience in experiences], order)
        novelty = self._in_groups([experience.info["novelty"] for experience in experiences], order)
        decided = self._in_groups([experience.info["decided"] for experience in experiences], order) > 0
        prompts = [prompt for experience in experiences for prompt in experience.prompts]
        n = rewards.shape[1]
        identities = [prompt_identity(prompts[place]) for place in np.argsort(order)[::n]]
        bonus = self._bonus(novelty, rewards, decided, identities)
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

    def state(self) -> dict[str, Any]:
        """What `restore` takes: the running mean of novelty and the variance of each prompt."""
        return {
            "total": self._scale.total,
            "count": self._scale.count,
            "variance": dict(self._variance.values),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._scale = NoveltyScale(self._config.novelty.scale, state["total"], state["count"])
        self._variance = RewardVariance(values=dict(state["variance"]))

    def _bonus(
        self,
        novelty: np.ndarray[Any, Any],
        rewards: np.ndarray[Any, Any],
        decided: np.ndarray[Any, Any],
        identities: list[str],
    ) -> np.ndarray[Any, Any]:
        settings = self._config.novelty
        if not settings.enabled:
            return np.zeros_like(rewards)
        bonus = settings.alpha * self._scale.apply(novelty)
        if settings.placement == "before_normalization":
            bonus = bonus * np.exp(
                -settings.variance_decay * self._variance.update(identities, rewards, decided)
            )
        return bonus

    def _in_groups(self, parts: list[torch.Tensor], order: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Per-sample values of all experiences, in order of sampling, as float64 [groups, n]."""
        values = torch.cat([part.reshape(-1).double() for part in parts]).numpy()
        sorted_values = np.empty_like(values)
        sorted_values[order] = values
        return sorted_values.reshape(-1, self.args.rollout.n_samples_per_prompt)
