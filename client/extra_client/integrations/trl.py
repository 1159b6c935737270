"""Novelty and verification for TRL's GRPOTrainer: as reward functions, or as a bonus on the advantage.

`verification_reward` and `novelty_reward` make asynchronous reward functions of TRL's signature. TRL runs
them concurrently; the bonus is weighted by GRPOConfig.reward_weights and passes TRL's normalization. Both can
be pickled into another process, which connects when it first calls them. `trl_async` is for the trainer that
does so.
`NoveltyAdvantage` is a mixin before a trainer class instead, and adds alpha x novelty and beta x outcome
novelty to the advantages that TRL has computed, as in the papers. It reads the final answers from the column
that a reward function has logged with `log_extra`. Generation stays TRL's own. Nothing of TRL is imported:
the functions need only its signature; the class overrides two methods of the trainer, `_calculate_rewards`
and `_generate_and_score_completions`, which is why the releases of TRL are bounded.
"""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from extra_client import ExtraError, Method, NoveltyClient, Verdict, VerificationClient, VerifyOptions
from extra_client.integrations import (
    NoveltyScoring,
    OnFailure,
    Outage,
    as_groups,
    component_means,
    content_text,
    groups_of,
    in_order,
    outcome_novelty,
    problem_statement,
    prompt_id,
)

#: TRL calls it with lists prompts, completions, completion_ids, the data set's columns, and its hooks
#: log_metric and log_extra.
RewardFunction = Callable[..., Coroutine[Any, Any, list[float | None]]]

#: Column of TRL's table of completions, with their final answers.
FINAL_ANSWERS = "final_answer"


Client = TypeVar("Client")


def _ignore(_name: str, _value: Any) -> None:
    """Do nothing: for callers without metrics."""


class _Rollout(NamedTuple):
    prompt_id: str
    text: str
    #: None: undecided.
    correct: bool | None
    token_ids: list[int]
    answer: str | None
    #: As `problem_statement` returns it.
    statement: dict[str, Any]


class _Bonus(NamedTuple):
    """Of one rollout, both without their weights."""

    novelty: float
    outcome: float
    #: Whether outcome novelty acts on it.
    acted: bool


def verification_reward(
    target: str,
    *,
    answer: str = "answer",
    method: Method | str = Method.MATH,
    options: VerifyOptions | None = None,
    on_failure: OnFailure | str = OnFailure.FAIL,
    timeout_seconds: float | None = None,
    deadline: float = 120.0,
) -> RewardFunction:
    """Make a reward function: 1 for a correct completion, 0 for a wrong one, None for an undecided one.

    None (a timeout, an error, a missing or unreadable reference answer) makes TRL leave the completion out.
    Logged metrics: verification/undecided, the share of None; verification/score and verification/NAME, the
    means of the scores and of the components called NAME that a custom verifier returns. Logged column:
    final_answer, the final answers as they were compared.

    Args:
        target: host:port of a verification server.
        answer: Column of the reference answers.
        method: How answers are compared.
        options: Conventions of the comparison, and the name of a custom verifier; None: the defaults.
        on_failure: "continue": all rewards are None while the service is unavailable.
        timeout_seconds: Most seconds of execution of each completion; None: the server's limit.
        deadline: Seconds a call may take.
    """
    make = partial(VerificationClient, target, deadline=deadline)
    outage = Outage("verification", on_failure, "the verification's reward")
    return _Verification(_Lazy(make), outage, answer, method, options, timeout_seconds).verification_reward


class _Lazy(Generic[Client]):
    """A client that is made when it is first used, in each process that unpickles this.

    A blocking one, used in threads: every trainer has an event loop of its own, and an asyncio client belongs
    to one loop.
    """

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._client: Client | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "_client": None}

    def get(self) -> Client:
        """Return the client of this process."""
        if self._client is None:
            self._client = self._make()
        return self._client


@dataclass
class _Verification:
    """The arguments of `verification_reward`; a method of it is the reward, which can be pickled so."""

    client: _Lazy[VerificationClient]
    outage: Outage
    answer: str
    method: Method | str
    options: VerifyOptions | None
    timeout_seconds: float | None

    async def verification_reward(
        self,
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] = _ignore,
        log_extra: Callable[[str, list[Any]], None] = _ignore,
        **columns: Any,
    ) -> list[float | None]:
        if self.answer not in columns:
            name = self.answer
            raise ValueError(f"the data set has no column {name!r}: name that of the answers, answer=...")
        texts = [completion_text(each) for each in completions]
        verdicts: list[Verdict] = []
        try:
            verdicts = await asyncio.to_thread(
                self.client.get().verify,
                texts,
                columns[self.answer],
                method=self.method,
                options=self.options,
                timeout_seconds=self.timeout_seconds,
            )
        except ExtraError as failure:
            self.outage.tolerate(failure)
        else:
            self.outage.ended()
        unknown = [None] * (len(texts) - len(verdicts))
        rewards = [None if each.correct is None else float(each.correct) for each in verdicts] + unknown
        log_metric("verification/undecided", rewards.count(None) / max(1, len(rewards)))
        for name, mean in component_means(verdicts).items():
            log_metric(f"verification/{name}", mean)
        log_extra(FINAL_ANSWERS, [each.final_answer for each in verdicts] + unknown)
        return rewards


def novelty_reward(
    scoring: NoveltyScoring, *, correct: Callable[..., Any], reference: str = "answer"
) -> RewardFunction:
    """Make a reward function: alpha x novelty of a correct completion, 0 of others; before normalization.

    The completions of one prompt in a call are a group: give each process whole groups. While the service is
    unavailable and on_failure is "continue" all are None, which TRL adds to no reward. With alpha 0 all are 0
    and nothing is called. Logged metrics: novelty/mean over correct completions, novelty/missing (0 or 1).

    Args:
        scoring: Where and how novelty is scored.
        correct: A reward function, asynchronous or not, for example `verification_reward(...)`. A completion
            is correct where it returns more than 0.
        reference: Column of the reference answers, if the data set has it, for the metric derivation.

    Raises:
        ValueError: beta is not 0: TRL would normalize the outcome novelty of an all-wrong group to size 1,
            whatever beta is.
    """
    if scoring.beta:
        raise ValueError(
            "beta is for NoveltyAdvantage: a reward function is normalized, outcome novelty is not"
        )
    reward = _Novelty(_Lazy(scoring.client), scoring.outage(), scoring, correct, reference)
    return reward.novelty_reward


@dataclass
class _Novelty:
    """The arguments of `novelty_reward`; a method of it is the reward, which can be pickled so."""

    client: _Lazy[NoveltyClient]
    outage: Outage
    scoring: NoveltyScoring
    correct: Callable[..., Any]
    reference: str

    async def novelty_reward(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[ArrayLike] | None = None,
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] = _ignore,
        log_extra: Callable[[str, list[Any]], None] = _ignore,  # `correct` logs its own
        **columns: Any,
    ) -> list[float | None]:
        scoring = self.scoring
        if not scoring.active:
            return [0.0] * len(completions)
        rewards = await _called(
            self.correct,
            prompts=prompts,
            completions=completions,
            completion_ids=completion_ids,
            trainer_state=trainer_state,
            log_metric=_ignore,
            log_extra=_ignore,
            **columns,
        )
        right = [reward is not None and reward > 0 for reward in rewards]
        names = [prompt_id(prompt) for prompt in prompts]
        texts = [completion_text(each) for each in completions]
        places = groups_of(names)
        references = columns.get(self.reference, [None] * len(texts))
        statements = [
            problem_statement(scoring.metric, prompt, answer)
            for prompt, answer in zip(prompts, references, strict=True)
        ]
        step = None if trainer_state is None else trainer_state.global_step
        key = scoring.step_key(step, names, texts, right, statements)
        try:
            scores = await asyncio.to_thread(
                self.client.get().score_groups,
                as_groups(places, names, texts, right, completion_ids, statements),
                metric=scoring.metric,
                scale=scoring.scale,
                idempotency_key=key,
            )
            novelty = in_order(places, scores, len(texts))
        except ExtraError as failure:
            self.outage.tolerate(failure)
            log_metric("novelty/missing", 1.0)
            return [None] * len(texts)
        self.outage.ended()
        log_metric("novelty/missing", 0.0)
        log_metric("novelty/mean", _mean(novelty, right))
        return [scoring.alpha * float(each) for each in novelty]


class NoveltyAdvantage:
    """Mixin before GRPOTrainer: adds both bonuses to its advantages, after normalization, as in the papers.

        class Trainer(NoveltyAdvantage, GRPOTrainer): ...
        Trainer(..., novelty=NoveltyScoring(target="localhost:50052", namespace="run-1", alpha=0.1, beta=0.3))

    alpha x novelty is for correct completions: those to which the reward function `correct_by` (a name; the
    first one by default) gives more than 0. beta x outcome novelty is for the wrong completions of groups
    without a correct one; None from `correct_by` is neither. It needs the final answers, which a reward
    function logs as the column `answers` with TRL's `log_extra`; `verification_reward` does. The metric
    derivation reads the prompt and, if the data set has it, the column `reference` of the reference answers.
    Evaluation is neither scored nor remembered. A group that is spread over several processes is scored by
    one of them. With alpha and beta 0 nothing is called.

    Logged metrics: novelty/missing (0 or 1), novelty/mean over correct completions, outcome/groups, the share
    of groups that outcome novelty acts on, and outcome/bonus, the mean size of its bonus there.
    """

    def __init__(
        self,
        *args: Any,
        novelty: NoveltyScoring,
        correct_by: str | None = None,
        answers: str = FINAL_ANSWERS,
        reference: str = "answer",
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        trainer: Any = self
        if correct_by is not None and correct_by not in trainer.reward_func_names:
            names = ", ".join(trainer.reward_func_names)
            raise ValueError(f"correct_by: {correct_by!r} is none of the reward functions {names}")
        self._scoring = novelty
        self._correct_by = 0 if correct_by is None else trainer.reward_func_names.index(correct_by)
        self._answers = answers
        self._reference = reference
        self._client = novelty.client()
        self._outage = novelty.outage()
        self._rollouts: list[_Rollout] = []

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
        trainer: Any = super()
        own: Any = self
        rewards = trainer._calculate_rewards(inputs, prompts, completions, completion_ids)
        if not self._scoring.active:
            return rewards
        # TRL has gathered them from all processes.
        first = own.accelerator.process_index * len(prompts)
        decisive = rewards[first : first + len(prompts), self._correct_by].tolist()
        correct = [None if isnan(reward) else reward > 0 for reward in decisive]
        answers = self._final_answers(len(prompts))
        statements = [
            problem_statement(self._scoring.metric, prompt, row.get(self._reference))
            for prompt, row in zip(prompts, inputs, strict=True)
        ]
        names, texts = map(prompt_id, prompts), map(completion_text, completions)
        parts = zip(names, texts, correct, completion_ids, answers, statements, strict=True)
        self._rollouts = [_Rollout(*each) for each in parts]
        return rewards

    def _final_answers(self, count: int) -> list[str | None]:
        """Return what the reward functions have logged for this process's completions."""
        if not self._scoring.beta:
            return [None] * count
        own: Any = self
        logged: list[str | None] = own._pending_extra_logs.get(self._answers, [])
        if len(logged) != count:
            raise ValueError(
                f"beta needs the final answers of {count} completions: one reward function must call "
                f"log_extra({self._answers!r}, answers), as verification_reward does; it has {len(logged)}"
            )
        return list(logged)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        trainer: Any = super()
        own: Any = self
        output = trainer._generate_and_score_completions(inputs)
        if not self._scoring.active or not own.model.training:
            return output
        advantages = output["advantages"]
        output["advantages"] = advantages + advantages.new_tensor(self._bonus(own.num_generations))
        return output

    def _bonus(self, group_size: int) -> NDArray[np.float32]:
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
        local = [scored.get(place, _Bonus(0.0, 0.0, False)) for place in range(start, start + count)]
        self._log(local, failure)
        novelty = np.array([each.novelty for each in local], np.float32)
        outcome = np.array([each.outcome for each in local])
        return self._scoring.alpha * novelty + (self._scoring.beta * outcome).astype(np.float32)

    def _scored(
        self, mine: list[list[int]], rollouts: list[_Rollout], step: int
    ) -> tuple[dict[int, _Bonus], str | None]:
        """Return the bonuses by place, and the reason if there are none."""
        if not mine:
            return {}, None
        names, texts, correct, ids, answers, statements = map(list, zip(*rollouts, strict=True))
        key = self._scoring.step_key(step, [rollouts[place] for group in mine for place in group])
        novelty, outcome, acted = np.zeros(len(rollouts)), np.zeros(len(rollouts)), set[int]()
        try:
            if self._scoring.alpha:
                scores = self._client.score_groups(
                    as_groups(mine, names, texts, correct, ids, statements),
                    metric=self._scoring.metric,
                    scale=self._scoring.scale,
                    idempotency_key=key,
                )
                novelty = in_order(mine, scores, len(rollouts)).astype(np.float64)
            if self._scoring.beta:
                outcome, wrong = outcome_novelty(
                    mine, names, correct, answers, self._client, f"{key}/outcome"
                )
                acted = {place for group in wrong for place in group}
        except ExtraError as failure:
            self._outage.tolerate(failure)
            return {}, failure.message
        self._outage.ended()
        places = (place for group in mine for place in group)
        return {at: _Bonus(float(novelty[at]), float(outcome[at]), at in acted) for at in places}, None

    def _log(self, bonuses: list[_Bonus], failure: str | None) -> None:
        own: Any = self
        train = own._metrics["train"]
        train["novelty/missing"].append(float(failure is not None))
        if failure is not None:
            return
        if self._scoring.alpha:
            right = sum(rollout.correct is True for rollout in self._rollouts)
            train["novelty/mean"].append(sum(each.novelty for each in bonuses) / max(1, right))
        if self._scoring.beta:
            acted = [abs(self._scoring.beta * each.outcome) for each in bonuses if each.acted]
            prompts = {rollout.prompt_id for rollout in self._rollouts}
            hopeless = {r.prompt_id for r, each in zip(self._rollouts, bonuses, strict=True) if each.acted}
            train["outcome/groups"].append(len(hopeless) / max(1, len(prompts)))
            train["outcome/bonus"].append(float(np.mean(acted)) if acted else 0.0)


def completion_text(completion: Any) -> str:
    """Return the text of a completion: a text as it is, of messages the contents in a row."""
    if isinstance(completion, str):
        return completion
    return "\n".join(map(content_text, completion))


def _mean(novelty: NDArray[np.float32], right: Sequence[bool]) -> float:
    return float(novelty.sum() / max(1, sum(right)))


async def _called(function: Callable[..., Any], **arguments: Any) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(**arguments)
    # An object whose __call__ is a coroutine function looks like a function that is not one.
    result = await asyncio.to_thread(function, **arguments)
    return await result if inspect.isawaitable(result) else result
