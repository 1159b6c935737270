"""Novelty and verification for slime, and for miles, which has the same two hooks.

`reward_function` makes the function for --custom-rm-path: the verification service's reward, of one sample or
with --group-rm of several. `post_process` makes the function for --custom-reward-post-process-path. There the
trainer lets a function replace its normalization of the rewards of a whole batch, so this one calls the
trainer's own and adds both bonuses to what it returns. With GRPO's family of estimators that is the
advantage. The trainer's normalization is no public function of either. What was tested:
docs/plugins/slime.md.
"""

from collections.abc import Callable, Coroutine, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np

from extra_client import FailedPreconditionError, Method, Verdict, VerifyOptions, aio
from extra_client.integrations import (
    FINAL_ANSWER,
    BonusScorer,
    NoveltyScoring,
    final_answers,
    groups_of,
    prompt_id,
)

#: In a sample's metadata: what `reward_function` leaves there for `post_process`, beside FINAL_ANSWER.
UNDECIDED = "undecided"


def reward_function(
    target: str,
    *,
    method: Method | str = Method.MATH,
    options: VerifyOptions | None = None,
    undecided_reward: float | None = None,
    deadline: float = 120.0,
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Make the function for --custom-rm-path: 1 for a correct response, 0 for a wrong one.

    It writes final_answer and undecided into the metadata of a sample, which dumps of rollouts contain.

    Args:
        target: host:port of a verification server.
        method: How answers are compared.
        options: Conventions of the comparison, and the name of a custom verifier; None: the defaults.
        undecided_reward: Reward of an undecided response (timeout, error, unreadable label). None: it fails
            the rollout: a sample has a reward.
        deadline: Seconds a call may take.
    """
    client: aio.VerificationClient | None = None

    async def custom_rm(args: Any, samples: Any, **_: Any) -> Any:
        nonlocal client
        # Made where it is used: an asyncio client belongs to one event loop.
        client = client or aio.VerificationClient(target, deadline=deadline)
        batch = samples if isinstance(samples, list) else [samples]
        verdicts = await client.verify(
            [sample.response for sample in batch],
            [sample.label for sample in batch],
            method=method,
            options=options,
        )
        pairs = zip(batch, verdicts, strict=True)
        rewards = [_rewarded(sample, verdict, undecided_reward) for sample, verdict in pairs]
        return rewards if isinstance(samples, list) else rewards[0]

    return custom_rm


def _rewarded(sample: Any, verdict: Verdict, undecided_reward: float | None) -> float:
    """Return the reward of a sample, whose metadata gets what `post_process` reads."""
    undecided = verdict.correct is None
    sample.metadata |= {FINAL_ANSWER: verdict.final_answer, UNDECIDED: undecided}
    reward = undecided_reward if undecided else float(bool(verdict.correct))
    if reward is None:
        raise FailedPreconditionError(
            f"the response of sample {sample.index} could not be verified ({verdict.detail}): set "
            "undecided_reward, or correct the data"
        )
    return reward


def post_process(
    scoring: NoveltyScoring, *, answers: Callable[[str], str | None] | None = None
) -> Callable[[Any, Any], tuple[list[float], list[float]]]:
    """Make the function for --custom-reward-post-process-path: the trainer's own, plus both bonuses.

    A response is correct where its reward is more than 0, unless the metadata of its sample calls it
    undecided. The samples of one execution (those with one rollout_id) are one rollout. With alpha and beta 0
    nothing is called, and the rewards are the trainer's own. A batch repeated after a crash counts once.

    Args:
        scoring: Where and how novelty is scored.
        answers: Returns the final answer of a response, for beta; None: the metadata's, which
            `reward_function` writes.
    """
    scorer = BonusScorer(scoring)

    def post_processed(args: Any, samples: Any) -> tuple[list[float], list[float]]:
        raw, normalized = _normalized(args, samples)
        if not scoring.active:
            return raw, normalized
        if scoring.beta and getattr(args, "normalize_advantages", False):
            raise ValueError("beta is not normalized: remove --normalize-advantages, or set beta=0")
        rollouts = groups_of([_rollout_name(sample, place) for place, sample in enumerate(samples)])
        first = [samples[places[0]] for places in rollouts]
        correct = [_correct(sample, sample.get_reward_value(args)) for sample in first]
        texts = ["\n".join(samples[place].response for place in places) for places in rollouts]
        bonus = scorer.bonus(
            [prompt_id(_identity(sample)) for sample in first],
            texts,
            correct,
            _final_answers(first, texts, answers) if scoring.beta else None,
            step=[sample.index for sample in first],
            group_ids=[_group(args, samples[places[0]], places[0]) for places in rollouts],
            token_ids=[_response_tokens([samples[place] for place in places]) for places in rollouts],
            problems=[sample.prompt for sample in first],
            reference_answers=[sample.label for sample in first],
        )
        if bonus is None:
            return raw, normalized
        added = np.zeros(len(samples), np.float32)
        for number, places in enumerate(rollouts):
            added[places] = bonus[number]
        return raw, [value + more for value, more in zip(normalized, added.tolist(), strict=True)]

    return post_processed


def _normalized(args: Any, samples: Any) -> tuple[list[float], list[float]]:
    """Return raw and normalized rewards, by the trainer whose sample class this is."""
    package = type(samples[0]).__module__.partition(".")[0]
    own: Callable[..., tuple[list[float], list[float]]]
    if package == "miles":
        own = import_module("miles.ray.rollout.train_data_conversion")._post_process_rewards
        return own(args, samples, custom_reward_post_process_func=None)
    if package == "slime":
        manager = import_module("slime.ray.rollout").RolloutManager
        # Ray keeps the class that it has made an actor of.
        manager = getattr(manager, "__ray_metadata__", SimpleNamespace(modified_class=manager)).modified_class
        own = manager._post_process_rewards
        return own(SimpleNamespace(args=args, custom_reward_post_process_func=None), samples)
    kind = f"{type(samples[0]).__module__}.{type(samples[0]).__qualname__}"
    raise TypeError(f"post_process is for the samples of slime and miles, not for {kind}")


def _rollout_name(sample: Any, place: int) -> tuple[str, Any]:
    return ("sample", place) if sample.rollout_id is None else ("rollout", sample.rollout_id)


def _group(args: Any, sample: Any, place: int) -> int:
    return int(place // args.n_samples_per_prompt if sample.group_index is None else sample.group_index)


def _identity(sample: Any) -> Any:
    """Return what identifies a sample's prompt: with its images, if it has any."""
    return [sample.prompt, sample.multimodal_inputs] if sample.multimodal_inputs else sample.prompt


def _response_tokens(samples: Sequence[Any]) -> list[int]:
    return [int(token) for sample in samples for token in list(sample.tokens)[-sample.response_length :]]


def _correct(sample: Any, reward: float) -> bool | None:
    return None if sample.metadata.get(UNDECIDED) else bool(reward > 0)


def _final_answers(
    samples: Sequence[Any], texts: Sequence[str], answers: Callable[[str], str | None] | None
) -> list[str | None]:
    recorded = [sample.metadata for sample in samples]
    return final_answers(recorded, texts, answers, place="samples have no metadata", writer="reward_function")
