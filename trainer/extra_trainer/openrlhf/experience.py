"""OpenRLHF's experience maker with ExTra's advantages and micro-batches of similar length.

OpenRLHF computes log-probabilities, KL and its statistics; the policy's log-probabilities are left to the
update where that computes them (old_log_probs.py). Its advantages are then replaced by those that were
computed when the step's groups were complete (`exploration.advantage`); each sample carries its own in
`info`. With the bonus switched off they equal OpenRLHF's `group_norm` except for the epsilon (GRPO's 1e-6
instead of 1e-9).
"""

from typing import Any

import ray
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from torch import Tensor

from extra_trainer.openrlhf.by_length import cut_by_length
from extra_trainer.openrlhf.old_log_probs import not_computed, single_update
from extra_trainer.openrlhf.replacements import workers_of


class ExTraExperienceMaker(RemoteExperienceMaker):  # type: ignore[misc]
    """Makes experiences with the advantages that travel with the samples."""

    def __init__(self, base: RemoteExperienceMaker) -> None:
        super().__init__(
            base.actor_model_group,
            base.critic_model_group,
            base.reward_model_group,
            base.initial_model_group,
            base.kl_ctl,
            base.strategy,
            base.tokenizer,
        )

    def split_rollout_samples(self, rollout_samples: list[Experience]) -> list[Experience]:
        """Return micro-batches of samples of similar length; dynamic batches are OpenRLHF's."""
        if self.args.train.dynamic_batch_enable:
            return list(super().split_rollout_samples(rollout_samples))
        for place, sample in enumerate(rollout_samples):
            # OpenRLHF needs the place of each sample in the batch.
            sample.index = [place]
        ds = self.args.ds
        workers = len(workers_of(self.actor_model_group)) // (ds.ring_attn_size * ds.tensor_parallel_size)
        lengths = [int(sample.total_length) for sample in rollout_samples]
        batches = cut_by_length(lengths, self.args.rollout.micro_batch_size, workers)
        padding = self.tokenizer.pad_token_id
        return [
            Experience.concat_experiences([rollout_samples[place] for place in batch], padding)
            for batch in batches
        ]

    def _dispatch_forward(self, group: Any, sync_condition: bool, **kwargs: Any) -> Any:
        """Return references to what the models compute; to NaN for what the update will compute."""
        samples = sum(len(sequences) for sequences in kwargs["sequences"])
        if group is self.actor_model_group and single_update(self.args, samples):
            return ray.put([not_computed(kwargs["action_mask"])])
        return super()._dispatch_forward(group, sync_condition, **kwargs)

    def get_cumulative_returns(self, rewards: Tensor, action_mask: Tensor, gamma: float) -> Tensor:
        """Return `rewards`: the returns are replaced, and adding them up token by token takes seconds."""
        return rewards

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def compute_advantages_and_returns(self, experiences: list[Experience]) -> list[Experience]:
        """Return OpenRLHF's experiences with each sample's own advantage at all of its action tokens."""
        experiences = super().compute_advantages_and_returns(experiences)
        for experience in experiences:
            advantage = experience.info["advantage"]
            experience.advantages = advantage[:, None] * experience.action_mask.float()
            experience.returns = experience.advantages.clone()
        return experiences
