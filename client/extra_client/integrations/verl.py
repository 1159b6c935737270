"""Novelty and verification for verl's reward loop, from its own command line.

`verification_score` makes a custom reward function. `reward_manager` makes a reward manager around the
configured reward function. verl rewards one rollout at a time, those of a group in any of its reward workers.
Each rollout comes with the group's id and its place in the group, so it is sent to the novelty server, which
scores the group once it is complete.

The bonus can be added before verl's normalization, as part of the reward, with any of verl's estimators; or
after it, with the estimator that `reward_manager` registers, `extra_grpo`: verl's GRPO plus the bonus. verl's
trainer gives an estimator rewards, mask, group ids and settings, and no other column of the batch, so the
bonus travels in the reward: a correct rollout has 1 + bonus, others 0 or less, and the estimator separates
them again. verl is imported when these are made. They need verl's v1 trainer (`trainer.use_v1`, its default).
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any

from extra_client import ExtraError, FailedPreconditionError, Method, UnavailableError, aio
from extra_client.integrations import NoveltyScoring, OnFailure, prompt_id

#: Name of the advantage estimator: algorithm.adv_estimator=extra_grpo.
ESTIMATOR = "extra_grpo"


def verification_score(
    target: str,
    *,
    method: Method | str = Method.MATH,
    undecided_score: float | None = None,
    deadline: float = 120.0,
) -> Callable[..., Awaitable[dict[str, float]]]:
    """Make a reward function for reward.custom_reward_function: 1 for a correct response, 0 for a wrong one.

    Logged: score, undecided.

    Args:
        target: host:port of a verification server.
        method: How answers are compared.
        undecided_score: Score of an undecided response (timeout, error, unreadable answer). None: that
            rollout fails, as it does while the service is unavailable: verl has no rollouts without a reward.
        deadline: Seconds a call may take.
    """
    client: aio.VerificationClient | None = None

    async def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **_: Any
    ) -> dict[str, float]:
        nonlocal client
        # Made where it is used: verl imports this file in other processes too.
        client = client or aio.VerificationClient(target, deadline=deadline)
        (verdict,) = await client.verify([solution_str], [ground_truth], method=method)
        if verdict.correct is not None:
            return {"score": float(verdict.correct), "undecided": 0.0}
        if undecided_score is None:
            raise FailedPreconditionError(
                f"a response could not be verified ({verdict.detail}): set undecided_score, or correct the "
                "data"
            )
        return {"score": undecided_score, "undecided": 1.0}

    return compute_score


def reward_manager(novelty: NoveltyScoring) -> type:
    """Make a reward manager class for verl's reward.reward_manager; register the estimator `extra_grpo`.

    A rollout is correct where the reward function returns more than 0; with `extra_grpo` correct ones must
    have 1. Rows whose extra_info has a split other than "train" are evaluation: they get no bonus and are not
    remembered. While the service is unavailable and on_failure is "continue", rollouts go without the bonus.
    With "fail", `extra_grpo` fails the step; with another estimator the group fails, which verl logs and then
    pads or refills (trainer.v1.sync_refill_failed_groups). Logged: novelty, novelty_missing.
    """
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

    _register()

    class NoveltyRewardManager(NaiveRewardManager):  # type: ignore[misc]
        """verl's own, plus the bonus."""

        def __init__(
            self, config: Any, tokenizer: Any, compute_score: Any, *args: Any, **options: Any
        ) -> None:
            super().__init__(config, tokenizer, compute_score, *args, **options)
            self._group_size = int(config.actor_rollout_ref.rollout.n)
            self._after = config.algorithm.adv_estimator == ESTIMATOR
            if self._after and novelty.scale == "share":
                raise ValueError(f"{ESTIMATOR} cannot carry bonuses below 0, which scale share gives")
            self._outage = novelty.outage()
            self._client = novelty.aio_client()

        async def run_single(self, data: Any) -> dict[str, Any]:
            result: dict[str, Any] = await super().run_single(data)
            item = data[-1:][0]
            reward = float(result["reward_score"])
            score, missing = 0.0, 0.0
            if (item.non_tensor_batch.get("extra_info") or {}).get("split", "train") == "train":
                try:
                    score = await self._score(item, reward > 0)
                except ExtraError as failure:
                    if self._after and self._outage.on_failure is OnFailure.FAIL:
                        # Raised here it would fail only this rollout. The estimator fails the step.
                        score = math.nan
                    else:
                        self._outage.tolerate(failure)
                    missing = 1.0
                else:
                    self._outage.ended()
            result["reward_extra_info"] |= {"novelty": score, "novelty_missing": missing}
            bonus = novelty.alpha * score
            return result | {"reward_score": packed(reward, bonus) if self._after else reward + bonus}

        async def _score(self, item: Any, correct: bool) -> float:
            columns = item.non_tensor_batch
            if "uid" not in columns or "session_id" not in columns:
                raise FailedPreconditionError(
                    "verl reports neither the group of a rollout nor its place in it: the plug-in needs "
                    "verl's trainer v1 (trainer.use_v1=True), with rewards computed while it generates"
                )
            responses = item.batch["responses"]
            length = int(item.batch["attention_mask"][-responses.shape[-1] :].sum())
            tokens = responses[:length]
            score = await self._client.collect_sample(
                prompt_id(columns["raw_prompt"]),
                str(columns["uid"]),
                self._group_size,
                int(columns["session_id"]),
                correct,
                text=self.tokenizer.decode(tokens, skip_special_tokens=True),
                token_ids=tokens.numpy(),
                **novelty.collect_arguments(),
            )
            return score.novelty

    return NoveltyRewardManager


def packed(reward: float, bonus: float) -> float:
    """Return reward and bonus in one number, for `extra_grpo`: 1 + bonus if correct, else the reward.

    NaN means that the bonus is missing.

    Raises:
        ValueError: The bonus could not be separated from this reward.
    """
    if reward > 0 and reward != 1:
        raise ValueError(
            f"{ESTIMATOR} needs a reward of 1 for a correct rollout, of 0 or less for others, not {reward}: "
            "correct the reward function, or use another estimator (the bonus is then part of the reward)"
        )
    return reward + bonus


def _register() -> None:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, register_adv_est

    if ESTIMATOR not in ADV_ESTIMATOR_REGISTRY:
        register_adv_est(ESTIMATOR)(extra_grpo)


def extra_grpo(
    token_level_rewards: Any, response_mask: Any, index: Any, config: Any = None, **_: Any
) -> tuple[Any, Any]:
    """Compute GRPO's advantages, as verl does, plus the bonus of correct rollouts.

    Args:
        token_level_rewards: [n, tokens]: what `packed` made, at one token of each rollout.
        response_mask: [n, tokens].
        index: Group of each rollout.
        config: verl's section `algorithm`.

    Returns:
        Advantages and returns, both [n, tokens] and equal.
    """
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    if config is not None and config.get("use_kl_in_reward", False):
        raise ValueError(f"{ESTIMATOR} cannot tell a bonus from a KL penalty: set use_kl_in_reward=False")
    missing = int(token_level_rewards.isnan().any(-1).sum())
    if missing:
        raise UnavailableError(
            f"{missing} of {len(token_level_rewards)} rollouts have no novelty, the service is unavailable: "
            "see the log of the reward workers; with on_failure='continue' training goes on without the bonus"
        )
    rewards = token_level_rewards.clamp(max=1.0)
    bonus = (token_level_rewards - rewards).sum(-1, keepdim=True)
    by_std = True if config is None else config.get("norm_adv_by_std_in_grpo", True)
    advantages, _returns = compute_grpo_outcome_advantage(
        rewards, response_mask, index, norm_adv_by_std_in_grpo=by_std
    )
    advantages = advantages + bonus * response_mask
    return advantages, advantages
