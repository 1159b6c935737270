"""Novelty and verification for TRL's GRPOTrainer: as reward functions, or as a bonus on the advantage.

`verification_reward` and `novelty_reward` make asynchronous reward functions of TRL's signature. TRL runs
them concurrently; the bonus is weighted by GRPOConfig.reward_weights and passes TRL's normalization.
`NoveltyAdvantage` is a mixin before a trainer class instead, and adds alpha x novelty to the advantages that
TRL has computed, as in the paper. Generation stays TRL's own. Nothing of TRL is imported: the functions need
only its signature; the class overrides two methods of the trainer, `_calculate_rewards` and
`_generate_and_score_completions`, which is why the releases of TRL are bounded.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from extra_client import ExtraError, Method, VerificationClient
from extra_client.integrations import (
    NoveltyScoring,
    OnFailure,
    Outage,
    as_groups,
    groups_of,
    in_order,
    prompt_id,
    write_key,
)

#: TRL calls it with lists prompts, completions, completion_ids, the data set's columns, and log_metric.
RewardFunction = Callable[..., Awaitable[list[float | None]]]

#: Identity of the prompt, text, whether it is correct, token ids.
_Rollout = tuple[str, str, bool, list[int]]


def verification_reward(
    target: str,
    *,
    answer: str = "answer",
    method: Method | str = Method.MATH,
    on_failure: OnFailure | str = OnFailure.FAIL,
    timeout_seconds: float | None = None,
    deadline: float = 120.0,
) -> RewardFunction:
    """Make a reward function: 1 for a correct completion, 0 for a wrong one, None for an undecided one.

    None (a timeout, an error, a missing or unreadable reference answer) makes TRL leave the completion out.
    Logged metrics: verification/undecided, the share of None.

    Args:
        target: host:port of a verification server.
        answer: Column of the reference answers.
        method: How answers are compared.
        on_failure: "continue": all rewards are None while the service is unavailable.
        timeout_seconds: Most seconds of execution of each completion; None: the server's limit.
        deadline: Seconds a call may take.
    """
    # Blocking clients in threads: every trainer has an event loop of its own, and an asyncio client belongs
    # to one loop.
    client = VerificationClient(target, deadline=deadline)
    outage = Outage("verification", on_failure, "the verification's reward")

    async def verification_reward(
        completions: Sequence[Any], log_metric: Callable[[str, float], None] = _ignore, **columns: Any
    ) -> list[float | None]:
        if answer not in columns:
            raise ValueError(f"the data set has no column {answer!r}: name that of the answers, answer=...")
        texts = [completion_text(each) for each in completions]
        rewards: list[float | None] = [None] * len(texts)
        try:
            verdicts = await asyncio.to_thread(
                client.verify, texts, columns[answer], method=method, timeout_seconds=timeout_seconds
            )
        except ExtraError as failure:
            outage.tolerate(failure)
        else:
            outage.ended()
            rewards = [None if each.correct is None else float(each.correct) for each in verdicts]
        log_metric("verification/undecided", rewards.count(None) / max(1, len(rewards)))
        return rewards

    return verification_reward


def novelty_reward(scoring: NoveltyScoring, *, correct: Callable[..., Any]) -> RewardFunction:
    """Make a reward function: alpha x novelty of a correct completion, 0 of others; before normalization.

    The completions of one prompt in a call are a group: give each process whole groups. While the service is
    unavailable and on_failure is "continue" all are None, which TRL adds to no reward. Logged metrics:
    novelty/mean over correct completions, novelty/missing (0 or 1).

    Args:
        scoring: Where and how novelty is scored.
        correct: A reward function, asynchronous or not, for example `verification_reward(...)`. A completion
            is correct where it returns more than 0.
    """
    client = scoring.client()
    outage = scoring.outage()

    async def novelty_reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[ArrayLike] | None = None,
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] = _ignore,
        **columns: Any,
    ) -> list[float | None]:
        rewards = await _called(
            correct,
            prompts=prompts,
            completions=completions,
            completion_ids=completion_ids,
            trainer_state=trainer_state,
            log_metric=_ignore,
            **columns,
        )
        right = [reward is not None and reward > 0 for reward in rewards]
        names = [prompt_id(prompt) for prompt in prompts]
        texts = [completion_text(each) for each in completions]
        places = groups_of(names)
        key = _key(scoring, None if trainer_state is None else trainer_state.global_step, names, texts, right)
        try:
            scores = await asyncio.to_thread(
                client.score_groups,
                as_groups(places, names, texts, right, completion_ids),
                metric=scoring.metric,
                scale=scoring.scale,
                idempotency_key=key,
            )
            novelty = in_order(places, scores, len(texts))
        except ExtraError as failure:
            outage.tolerate(failure)
            log_metric("novelty/missing", 1.0)
            return [None] * len(texts)
        outage.ended()
        log_metric("novelty/missing", 0.0)
        log_metric("novelty/mean", _mean(novelty, right))
        return [scoring.alpha * float(each) for each in novelty]

    return novelty_reward


class NoveltyAdvantage:
    """Mixin before GRPOTrainer: adds alpha x novelty to its advantages, after normalization, as in the paper.

        class Trainer(NoveltyAdvantage, GRPOTrainer): ...
        Trainer(..., novelty=NoveltyScoring(target="localhost:50052", namespace="run-1", alpha=0.1))

    A completion is correct where the reward function `correct_by` (a name; the first one by default) returns
    more than 0. Evaluation is neither scored nor remembered. A group that is spread over several processes is
    scored by one of them. Logged metrics: novelty/mean over correct completions, novelty/missing (0 or 1).
    """

    def __init__(
        self, *args: Any, novelty: NoveltyScoring, correct_by: str | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        trainer: Any = self
        if correct_by is not None and correct_by not in trainer.reward_func_names:
            names = ", ".join(trainer.reward_func_names)
            raise ValueError(f"correct_by: {correct_by!r} is none of the reward functions {names}")
        self._scoring = novelty
        self._correct_by = 0 if correct_by is None else trainer.reward_func_names.index(correct_by)
        self._client = novelty.client()
        self._outage = novelty.outage()
        self._rollouts: list[_Rollout] = []

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
        trainer: Any = super()
        own: Any = self
        rewards = trainer._calculate_rewards(inputs, prompts, completions, completion_ids)
        # TRL has gathered them from all processes.
        first = own.accelerator.process_index * len(prompts)
        right = (rewards[first : first + len(prompts), self._correct_by] > 0).tolist()
        self._rollouts = [
            (prompt_id(prompt), completion_text(completion), correct, ids)
            for prompt, completion, correct, ids in zip(
                prompts, completions, right, completion_ids, strict=True
            )
        ]
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        trainer: Any = super()
        own: Any = self
        output = trainer._generate_and_score_completions(inputs)
        if not own.model.training:
            return output
        novelty = self._novelty(own.num_generations)
        advantages = output["advantages"]
        bonus = advantages.new_tensor(self._scoring.alpha * novelty)
        output["advantages"] = advantages + bonus
        return output

    def _novelty(self, group_size: int) -> NDArray[np.float32]:
        """Return float32 [local rollouts]; zeros, counted as missing, during a tolerated outage."""
        own: Any = self
        accelerator, rollouts = own.accelerator, self._rollouts
        start, count = 0, len(rollouts)
        split = count % group_size != 0
        if split:
            from accelerate.utils import gather_object

            start, rollouts = accelerator.process_index * count, gather_object(rollouts)
        # A group belongs to the process that has its first rollout.
        mine = [
            list(range(first, first + group_size))
            for first in range(0, len(rollouts), group_size)
            if start <= first < start + count
        ]
        scored, failure = self._scored(mine, rollouts, own.state.global_step)
        if split:
            from accelerate.utils import gather_object

            everyone = gather_object([(scored, failure)])
            scored = {place: value for part, _ in everyone for place, value in part.items()}
            failure = next((each for _, each in everyone if each is not None), None)
        mode = own._metrics["train"]
        mode["novelty/missing"].append(float(failure is not None))
        novelty = np.array([scored.get(place, 0.0) for place in range(start, start + count)], np.float32)
        if failure is None:
            mode["novelty/mean"].append(_mean(novelty, [right for _, _, right, _ in self._rollouts]))
        return novelty

    def _scored(
        self, mine: list[list[int]], rollouts: list[_Rollout], step: int
    ) -> tuple[dict[int, float], str | None]:
        """Return the novelties by place, and the reason if there are none."""
        if not mine:
            return {}, None
        names, texts, right, ids = map(list, zip(*rollouts, strict=True))
        content = [rollouts[place] for group in mine for place in group]
        try:
            scores = self._client.score_groups(
                as_groups(mine, names, texts, right, ids),
                metric=self._scoring.metric,
                scale=self._scoring.scale,
                idempotency_key=_key(self._scoring, step, content),
            )
            novelty = in_order(mine, scores, len(rollouts))
        except ExtraError as failure:
            self._outage.tolerate(failure)
            return {}, failure.message
        self._outage.ended()
        return {place: float(novelty[place]) for group in mine for place in group}, None


def completion_text(completion: Any) -> str:
    """Return the text of a completion: a text as it is, of messages the contents in a row."""
    if isinstance(completion, str):
        return completion
    contents = (message.get("content") or "" for message in completion)
    return "\n".join(each if isinstance(each, str) else _text_of_parts(each) for each in contents)


def _text_of_parts(parts: Sequence[Any]) -> str:
    return "".join(part.get("text") or "" for part in parts)


def _key(scoring: NoveltyScoring, step: int | None, *content: Any) -> str | None:
    """Return a key by which a step, repeated after a crash with the same rollouts, counts once."""
    return None if step is None else write_key(str(scoring.metric), str(scoring.scale), step, *content)


def _mean(novelty: NDArray[np.float32], right: Sequence[bool]) -> float:
    return float(novelty.sum() / max(1, sum(right)))


async def _called(function: Callable[..., Any], **arguments: Any) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(**arguments)
    return await asyncio.to_thread(function, **arguments)


def _ignore(_name: str, _value: float) -> None:
    """Do nothing: for callers without metrics."""
