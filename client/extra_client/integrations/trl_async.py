"""Both bonuses after normalization in TRL's AsyncGRPOTrainer, whose rewards run in a process of their own.

`add_novelty` gives the trainer's rollout worker another loop class: TRL's own, whose groups get the bonus
added to their advantages once they are scored. TRL's `AsyncRolloutWorker` names that class for subclasses; it
is experimental and may change with any release. Tested: TRL 1.16.0.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trl.experimental.async_grpo.async_rollout_worker import AsyncRolloutWorker, _AsyncRolloutLoop

from extra_client.integrations import BonusScorer, NoveltyScoring, prompt_id
from extra_client.integrations.trl import FINAL_ANSWERS, completion_text


def add_novelty(
    trainer: Any,
    novelty: NoveltyScoring,
    *,
    correct_by: str | None = None,
    answers: str = FINAL_ANSWERS,
    reference: str = "answer",
) -> None:
    """Add both bonuses to the advantages of an AsyncGRPOTrainer; call it before `train`.

    Its reward functions get `log_metric` and `log_extra` as in GRPOTrainer. With alpha and beta 0 nothing
    changes. With `on_failure="fail"` the worker ends, and the trainer fails with the service's error. Logged
    metrics: novelty/missing (0 or 1) and, for alpha, novelty/mean over correct completions.

    Args:
        trainer: On ranks without a rollout worker nothing is done.
        novelty: Where and how novelty is scored.
        correct_by: Name of the reward function that gives correct completions more than 0; None: the first.
        answers: Column of the final answers that a reward function logs with `log_extra`, for beta.
        reference: Column of the reference answers, if the data set has it, for the metric derivation.

    Raises:
        TypeError: The trainer has a rollout worker of another kind.
    """
    worker = trainer.rollout_worker
    if worker is None or not novelty.active:
        return
    if not isinstance(worker, AsyncRolloutWorker) or worker._loop_cls is not _AsyncRolloutLoop:
        raise TypeError(f"add_novelty is for TRL's own rollout worker, not {type(worker).__name__}")
    worker._loop_cls = NoveltyRolloutLoop
    worker.stop = partial(_stop, worker)
    worker._loop_kwargs["novelty"] = {
        "scoring": novelty,
        "correct_by": correct_by,
        "answers": answers,
        "reference": reference,
    }


def _stop(worker: AsyncRolloutWorker) -> None:
    """Stop a worker as TRL does, and one that has failed too.

    TRL sets an event, and waits until the worker's process has noticed it. One that ended by itself never
    does, so that the trainer would hang instead of failing with the worker's error.
    """
    if not worker._failed_event.is_set():
        AsyncRolloutWorker.stop(worker)
        return
    process, worker._process = worker._process, None
    if process is not None:
        process.join(timeout=15)
        process.kill()


class NoveltyRolloutLoop(_AsyncRolloutLoop):  # type: ignore[misc]
    """TRL's loop of generation and rewards, with both bonuses; it lives in the worker's process."""

    def __init__(self, *, novelty: Mapping[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._scoring: NoveltyScoring = novelty["scoring"]
        self._answers: str = novelty["answers"]
        self._reference: str = novelty["reference"]
        self._correct_by = novelty["correct_by"] or self.reward_func_names[0]
        if self._correct_by not in self.reward_func_names:
            names = ", ".join(self.reward_func_names)
            raise ValueError(f"correct_by: {self._correct_by!r} is none of the reward functions {names}")
        self._scorer = BonusScorer(self._scoring)

    async def _score_group(self, group: Any) -> Any:
        extra: dict[str, Sequence[Any]] = {}
        hooks = {
            "log_metric": lambda name, value: self._push_metrics({name: float(value)}),
            "log_extra": extra.__setitem__,
        }
        samples = await super()._score_group(replace(group, reward_kwargs=group.reward_kwargs | hooks))
        # A conversation has several samples, the rows it is trained in, or none.
        owners = [place for place, rows in enumerate(group.completions_sequences) for _ in rows]
        correct: list[bool | None] = [None] * len(group.completions)
        for place, sample in zip(owners, samples, strict=True):
            reward = sample.metrics[f"rewards/{self._correct_by}"]
            correct[place] = None if isnan(reward) else reward > 0
        bonus = await self._bonus(group, correct, extra.get(self._answers))
        return [
            replace(sample, advantage=sample.advantage + float(bonus[place]))
            for place, sample in zip(owners, samples, strict=True)
        ]

    async def _bonus(
        self, group: Any, correct: list[bool | None], answers: Sequence[Any] | None
    ) -> NDArray[np.float32]:
        """Return float32 [conversations]; zeros, counted as missing, during a tolerated outage."""
        bonus = await asyncio.to_thread(
            self._scorer.bonus,
            [prompt_id(prompt) for prompt in group.prompts],
            [completion_text(each) for each in group.completions],
            correct,
            answers,
            token_ids=group.completions_ids,
            problems=group.prompts,
            reference_answers=group.reward_kwargs.get(self._reference),
        )
        if bonus is None:
            self._push_metrics({"novelty/missing": 1.0})
            return np.zeros(len(group.completions), np.float32)
        metrics: dict[str, float | tuple[float, float]] = {"novelty/missing": 0.0}
        if self._scoring.alpha:
            right = [each is True for each in correct]
            metrics["novelty/mean"] = float(bonus[right].sum()) / self._scoring.alpha / max(1, sum(right))
        self._push_metrics(metrics)
        return bonus
