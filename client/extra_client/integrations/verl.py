"""Novelty and verification for verl's reward loop, from its own command line.

`verification_score` makes a custom reward function. `reward_manager` makes a reward manager around the
configured reward function. verl rewards one rollout at a time, those of a group in any of its reward workers.
Each rollout comes with the group's id and its place in the group, so it is sent to the novelty server, which
scores the group once it is complete.

alpha x novelty can be added before verl's normalization, as part of the reward, with any of verl's
estimators; or after it, with the estimator that `reward_manager` registers, `extra_grpo`: verl's GRPO plus
the bonuses. beta x outcome novelty needs `extra_grpo`. verl's trainer gives an estimator rewards, mask, group
ids and settings, and no other column of the batch, so the bonuses travel in the reward: a correct rollout has
1 + bonus, others 0 or less, with beta their outcome bonus; and the estimator separates them again. verl is
imported when these are made. They need verl's v1 trainer (`trainer.use_v1`, its default).
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from extra_client import ExtraError, FailedPreconditionError, Method, UnavailableError, VerifyOptions, aio
from extra_client.integrations import NoveltyScoring, OnFailure, problem_statement, prompt_id, scored_parts

#: Name of the advantage estimator: algorithm.adv_estimator=extra_grpo.
ESTIMATOR = "extra_grpo"
#: extra_info["split"] of the rows that are trained on.
TRAIN = "train"

_log = logging.getLogger("extra_client")


def verification_score(
    target: str,
    *,
    method: Method | str = Method.MATH,
    options: VerifyOptions | None = None,
    undecided_score: float | None = None,
    deadline: float = 120.0,
) -> Callable[..., Coroutine[Any, Any, dict[str, float | str]]]:
    """Make a reward function for reward.custom_reward_function: 1 for a correct response, 0 for a wrong one.

    Logged: score; undecided; pred, the final answer as it was compared ("" if there is none), of which verl
    makes maj@n; verified/score and verified/NAME, the score and the components called NAME that a custom
    verifier returns.

    Args:
        target: host:port of a verification server.
        method: How answers are compared.
        options: Conventions of the comparison, and the name of a custom verifier; None: the defaults.
        undecided_score: Score of an undecided response (timeout, error, unreadable answer). None: that
            rollout fails, as it does while the service is unavailable: verl has no rollouts without a reward.
        deadline: Seconds a call may take.
    """
    client: aio.VerificationClient | None = None

    async def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **_: Any
    ) -> dict[str, float | str]:
        nonlocal client
        # Made where it is used: verl imports this file in other processes too.
        client = client or aio.VerificationClient(target, deadline=deadline)
        (verdict,) = await client.verify([solution_str], [ground_truth], method=method, options=options)
        score = undecided_score if verdict.correct is None else float(verdict.correct)
        if score is None:
            detail = _of_row(verdict.detail, data_source, extra_info)
            raise FailedPreconditionError(
                f"a response could not be verified ({detail}): set undecided_score, or correct the data"
            )
        logged: dict[str, float | str] = {"score": score, "undecided": float(verdict.correct is None)}
        logged["pred"] = verdict.final_answer or ""
        return logged | {f"verified/{name}": value for name, value in scored_parts(verdict).items()}

    return compute_score


def _of_row(detail: str, data_source: str, extra_info: Mapping[str, Any] | None) -> str:
    """Return a verdict's detail with the row of the data: verl verifies every response in its own call."""
    row = (extra_info or {}).get("index")
    name = data_source if row is None else f"{data_source}[{row}]"
    for side in ("answer", "response"):
        detail = detail.replace(f"{side}s[0]", f"the {side} of {name}")
    return detail if name in detail else f"{name}: {detail}"


def reward_manager(novelty: NoveltyScoring, *, answers: str = "pred") -> type:
    """Make a reward manager class for verl's reward.reward_manager; register the estimator `extra_grpo`.

    A rollout is correct where the reward function returns more than 0; with `extra_grpo` correct ones must
    have 1, and with beta wrong ones 0. beta x outcome novelty is for the wrong rollouts of groups without a
    correct one; a rollout that the reward function calls `undecided` is neither. Rows whose extra_info has a
    split other than "train" are evaluation: they get no bonus and are not remembered, and the log says so
    once for each split. Rows without one are trained on. While the service is
    unavailable and on_failure is "continue", rollouts go without the bonus. With "fail", `extra_grpo` fails
    the step; with another estimator the group fails, which verl logs and then pads or refills
    (trainer.v1.sync_refill_failed_groups). With alpha and beta 0 nothing is called, and rewards and
    advantages are verl's own. Logged: novelty, novelty_missing; with beta outcome_novelty (b - mean b).

    Args:
        novelty: Where and how novelty is scored; beta at most 1.
        answers: What the reward function calls the final answer in its result, for beta; None or "" is a
            missing one.
    """
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

    if not 0 <= novelty.beta <= 1:
        raise ValueError(f"beta must be in [0, 1] here, is {novelty.beta}")
    _register(novelty)

    class NoveltyRewardManager(NaiveRewardManager):  # type: ignore[misc]
        """verl's own, plus the bonus."""

        def __init__(
            self, config: Any, tokenizer: Any, compute_score: Any, *args: Any, **options: Any
        ) -> None:
            super().__init__(config, tokenizer, compute_score, *args, **options)
            self._group_size = int(config.actor_rollout_ref.rollout.n)
            self._after = config.algorithm.adv_estimator == ESTIMATOR
            if novelty.beta and not self._after:
                raise ValueError(
                    f"beta needs algorithm.adv_estimator={ESTIMATOR}: others normalize rewards, and outcome "
                    "novelty is not normalized"
                )
            if self._after and novelty.scale == "share":
                raise ValueError(f"{ESTIMATOR} cannot carry bonuses below 0, which scale share gives")
            self._outage = novelty.outage()
            self._client = novelty.aio_client()
            #: Splits of which the log says that they get no bonus.
            self._told: set[str] = set()

        async def run_single(self, data: Any) -> dict[str, Any]:
            result: dict[str, Any] = await super().run_single(data)
            if not novelty.active:
                return result
            item, info = data[-1:][0], result["reward_extra_info"]
            reward = float(result["reward_score"])
            scored, missing = {"novelty": 0.0}, 0.0
            if self._is_train(item.non_tensor_batch.get("extra_info")):
                try:
                    scored = await self._score(item, reward, info)
                except ExtraError as failure:
                    if self._after and self._outage.on_failure is OnFailure.FAIL:
                        # Raised here it would fail only this rollout. The estimator fails the step.
                        scored = {"novelty": math.nan}
                    else:
                        self._outage.tolerate(failure)
                    missing = 1.0
                else:
                    self._outage.ended()
            info |= {**scored, "novelty_missing": missing}
            bonus = novelty.alpha * scored["novelty"]
            if not self._after:
                return result | {"reward_score": reward + bonus}
            outcome = novelty.beta * scored.get("outcome_novelty", 0.0)
            return result | {"reward_score": packed(reward, bonus, outcome, binary=bool(novelty.beta))}

        def _is_train(self, extra_info: Mapping[str, Any] | None) -> bool:
            split = split_of(extra_info)
            if split != TRAIN and split not in self._told:
                self._told.add(split)
                _log.warning(
                    "rows with extra_info['split'] = %r are evaluation: no novelty bonus, not remembered",
                    split,
                )
            return split == TRAIN

        async def _score(self, item: Any, reward: float, info: Mapping[str, Any]) -> dict[str, float]:
            """Return what the novelty service says of a rollout, each without its weight."""
            columns = item.non_tensor_batch
            if "uid" not in columns or "session_id" not in columns:
                raise FailedPreconditionError(
                    "verl reports neither the group of a rollout nor its place in it: the plug-in needs "
                    "verl's trainer v1 (trainer.use_v1=True), with rewards computed while it generates"
                )
            calls = []
            if novelty.alpha:
                calls.append(self._novelty(item, columns, reward > 0))
            if novelty.beta:
                calls.append(self._outcome_novelty(columns, reward > 0, info))
            found = await asyncio.gather(*calls)
            return {"novelty": 0.0} | {name: value for each in found for name, value in each.items()}

        async def _novelty(self, item: Any, columns: Mapping[str, Any], correct: bool) -> dict[str, float]:
            responses = item.batch["responses"]
            length = int(item.batch["attention_mask"][-responses.shape[-1] :].sum())
            tokens = responses[:length]
            ground_truth = columns["reward_model"]["ground_truth"]
            score = await self._client.collect_sample(
                prompt_id(columns["raw_prompt"]),
                str(columns["uid"]),
                self._group_size,
                int(columns["session_id"]),
                correct,
                text=self.tokenizer.decode(tokens, skip_special_tokens=True),
                token_ids=tokens.numpy(),
                **problem_statement(novelty.metric, columns["raw_prompt"], ground_truth),
                **novelty.collect_arguments(),
            )
            return {"novelty": score.novelty}

        async def _outcome_novelty(
            self, columns: Mapping[str, Any], correct: bool, info: Mapping[str, Any]
        ) -> dict[str, float]:
            if answers not in info:
                raise ValueError(
                    f"beta needs the final answers: the reward function must return {answers!r}, that of "
                    "the response, as verification_score does; or name it, reward_manager(answers=...)"
                )
            undecided = bool(info.get("undecided"))
            answer = info[answers]
            score = await self._client.collect_sample(
                prompt_id(columns["raw_prompt"]),
                f"{columns['uid']}/outcome",
                self._group_size,
                int(columns["session_id"]),
                None if undecided else correct,
                answer=None if answer is None else str(answer),
                **novelty.collect_outcome_arguments(),
            )
            acted = not undecided and not correct and not score.correct_samples
            return {"outcome_novelty": score.novelty - score.mean_novelty if acted else 0.0}

    return NoveltyRewardManager


def split_of(extra_info: Mapping[str, Any] | None) -> str:
    """Return the split that a row's extra_info names, "train" if it names none.

    Parquet gives the rows without one, of several data sets in a file, None or NaN in its place.
    """
    split = (extra_info or {}).get("split")
    return TRAIN if split is None or split == "" or split != split else str(split)


def packed(reward: float, bonus: float, outcome: float = 0.0, *, binary: bool = False) -> float:
    """Return reward and bonuses in one number, for `extra_grpo`.

    NaN means that the bonus is missing.

    Args:
        reward: As the reward function returned it.
        bonus: Of a correct rollout, not negative.
        outcome: Of a wrong rollout, in (-1, 1).
        binary: Whether a wrong rollout must have 0, for its outcome bonus.

    Returns:
        1 + bonus if correct; else the reward, or for `binary` the outcome bonus in its place.

    Raises:
        ValueError: The bonuses could not be separated from this reward.
    """
    if reward > 0 and reward != 1:
        raise ValueError(
            f"{ESTIMATOR} needs a reward of 1 for a correct rollout, of 0 or less for others, not {reward}: "
            "correct the reward function, or use another estimator (the bonus is then part of the reward)"
        )
    if binary and reward < 0:
        raise ValueError(
            f"with beta {ESTIMATOR} needs a reward of 0 for a wrong rollout, not {reward}: correct the "
            "reward function (undecided_score=0 for undecided ones)"
        )
    return reward + bonus + outcome


def _register(novelty: NoveltyScoring) -> None:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    # Not by its decorator, which refuses another run's estimator in this process.
    ADV_ESTIMATOR_REGISTRY[ESTIMATOR] = partial(extra_grpo, active=novelty.active, binary=bool(novelty.beta))


def extra_grpo(
    token_level_rewards: Any,
    response_mask: Any,
    index: Any,
    config: Any = None,
    *,
    active: bool = True,
    binary: bool = False,
    **_: Any,
) -> tuple[Any, Any]:
    """Compute GRPO's advantages, as verl does, plus the bonuses.

    Args:
        token_level_rewards: [n, tokens]: what `packed` made, at one token of each rollout.
        response_mask: [n, tokens].
        index: Group of each rollout.
        config: verl's section `algorithm`.
        active: Whether there are bonuses; without them the rewards are verl's own.
        binary: As in `packed`.

    Returns:
        Advantages and returns, both [n, tokens] and equal.
    """
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    by_std = True if config is None else config.get("norm_adv_by_std_in_grpo", True)
    grpo = partial(
        compute_grpo_outcome_advantage,
        response_mask=response_mask,
        index=index,
        norm_adv_by_std_in_grpo=by_std,
    )
    if not active:
        plain: tuple[Any, Any] = grpo(token_level_rewards)
        return plain
    if config is not None and config.get("use_kl_in_reward", False):
        raise ValueError(f"{ESTIMATOR} cannot tell a bonus from a KL penalty: set use_kl_in_reward=False")
    missing = int(token_level_rewards.isnan().any(-1).sum())
    if missing:
        raise UnavailableError(
            f"{missing} of {len(token_level_rewards)} rollouts have no novelty, the service is unavailable: "
            "see the log of the reward workers; with on_failure='continue' training goes on without the bonus"
        )
    # With beta a wrong rollout has its outcome bonus, below 1, in the place of a reward of 0.
    rewards = (token_level_rewards >= 1.0).float() if binary else token_level_rewards.clamp(max=1.0)
    bonus = (token_level_rewards - rewards).sum(-1, keepdim=True)
    advantages, _returns = grpo(rewards)
    advantages = advantages + bonus * response_mask
    return advantages, advantages
