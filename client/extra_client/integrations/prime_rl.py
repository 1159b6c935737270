"""Both bonuses after normalization in prime-rl, and verification in its environments, those of `verifiers`.

prime-rl's algorithms assign the advantages of a finished group in `score_group`, and a new way of doing that
is, by its own documentation, a subclass of one of them that one registers. `novelty_algorithm` makes it.
`verification` makes a function for a reward of a task. Nothing of prime-rl or verifiers is imported: their
episodes and traces are plain models. Tested: docs/plugins/prime-rl.md.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from extra_client import FailedPreconditionError, Method, VerifyOptions, aio
from extra_client.integrations import (
    FINAL_ANSWER,
    BonusScorer,
    NoveltyScoring,
    content_text,
    final_answers,
    prompt_id,
)


def verification(
    target: str,
    *,
    method: Method | str = Method.MATH,
    options: VerifyOptions | None = None,
    deadline: float = 120.0,
) -> Callable[[Any, Any], Coroutine[Any, Any, float]]:
    """Make a coroutine function of a trace and a reference answer: 1.0 if the reply is correct, else 0.0.

    Await it in a task's `@vf.reward`. It writes final_answer into the trace's info. For an undecided reply
    (timeout, error, unreadable answer), and while the service is unavailable, it raises, so that verifiers
    marks the trace as failed, and prime-rl leaves it out.

    Args:
        target: host:port of a verification server.
        method: How answers are compared.
        options: Conventions of the comparison, and the name of a custom verifier; None: the defaults.
        deadline: Seconds a call may take.
    """
    client: aio.VerificationClient | None = None

    async def correct(trace: Any, answer: Any) -> float:
        nonlocal client
        # Made where it is used: an asyncio client belongs to one event loop.
        client = client or aio.VerificationClient(target, deadline=deadline)
        (verdict,) = await client.verify([trace.last_reply], [answer], method=method, options=options)
        trace.info[FINAL_ANSWER] = verdict.final_answer
        if verdict.correct is None:
            raise FailedPreconditionError(f"a reply could not be verified: {verdict.detail}")
        return float(verdict.correct)

    return correct


def novelty_algorithm(
    base: type,
    scoring: NoveltyScoring,
    *,
    correct_by: str | None = None,
    reference: str = "answer",
    answers: Callable[[str], str | None] | None = None,
) -> type:
    """Make a subclass of one of prime-rl's algorithms that adds both bonuses to its advantages.

    They are added to every sampled token of a trace to which the algorithm assigns advantages. Each trace's
    info gets novelty_bonus, None during a tolerated outage. With alpha and beta 0 nothing is called, and the
    advantages are prime-rl's own. A group repeated after a crash, in the same step, counts once.

    Args:
        base: GRPOAlgorithm, MaxRLAlgorithm, or another one of prime_rl.orchestrator.algo.
        scoring: Where and how novelty is scored.
        correct_by: Name of the reward that gives a correct trace more than 0; None: the sum of all.
        reference: Field of a task's data with the reference answer, for the metric derivation.
        answers: Returns the final answer of a response, for beta; None: the info's, which `verification`
            writes.
    """

    class NoveltyAlgorithm(base):  # type: ignore[misc]
        """prime-rl's own, plus the bonuses."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._scorer = BonusScorer(scoring)

        async def score_group(self, episodes: list[Any]) -> None:
            await super().score_group(episodes)
            traces = list(_assigned(episodes)) if scoring.active else []
            if not traces:
                return
            texts = [_text(trace) for trace in traces]
            prompts = [_prompt(trace.task.data) for trace in traces]
            bonus = await asyncio.to_thread(
                self._scorer.bonus,
                [
                    prompt_id(trace.task.key if prompt is None else prompt)
                    for trace, prompt in zip(traces, prompts, strict=True)
                ],
                texts,
                [_correct(trace, correct_by) for trace in traces],
                _final_answers(traces, texts, answers) if scoring.beta else None,
                step=_step(episodes),
                token_ids=[_tokens(trace) for trace in traces],
                problems=prompts,
                reference_answers=[getattr(trace.task.data, reference, None) for trace in traces],
            )
            for place, trace in enumerate(traces):
                trace.info["novelty_bonus"] = None if bonus is None else float(bonus[place])
                if bonus is not None:
                    _add(trace, float(bonus[place]))

    return NoveltyAlgorithm


def _assigned(episodes: Sequence[Any]) -> Iterator[Any]:
    """Yield the traces to which an algorithm has assigned advantages."""
    for episode in episodes:
        for trace in episode.traces:
            if any(node.advantages for node in trace.nodes):
                yield trace


def _add(trace: Any, bonus: float) -> None:
    for node in trace.nodes:
        if node.advantages:
            node.advantages = [advantage + bonus for advantage in node.advantages]


def _prompt(data: Any) -> Any:
    """Return a task's prompt, a text or messages; None if its user opens the conversation."""
    if data.prompt is None or (isinstance(data.prompt, str) and not data.system_prompt):
        return data.prompt
    asked = data.prompt
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else [_plain(m) for m in asked]
    before = [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []
    return before + messages


def _plain(message: Any) -> dict[str, Any]:
    plain: dict[str, Any] = message.model_dump(mode="json", exclude_none=True)
    return plain


def _text(trace: Any) -> str:
    """Return what the policy has written: its messages in a row."""
    return "\n".join(content_text(_plain(node.message)) for node in trace.nodes if node.sampled)


def _tokens(trace: Any) -> list[int]:
    return [
        token
        for node in trace.nodes
        for token, sampled in zip(node.token_ids, node.mask, strict=True)
        if sampled
    ]


def _correct(trace: Any, name: str | None) -> bool | None:
    if name is None:
        return bool(trace.reward > 0)
    if name not in trace.rewards:
        raise ValueError(f"correct_by: {name!r} is none of the rewards {', '.join(trace.rewards)}")
    reward = trace.rewards[name]
    return None if reward is None else bool(reward.score > 0)


def _final_answers(
    traces: Sequence[Any], texts: Sequence[str], answers: Callable[[str], str | None] | None
) -> list[str | None]:
    recorded = [trace.info for trace in traces]
    return final_answers(recorded, texts, answers, place="traces have no info", writer="`verification`")


def _step(episodes: Sequence[Any]) -> int | None:
    """Return the training step for which a group was made, None if it does not say so."""
    work = getattr(episodes[0].run, "work", None)
    return None if work is None else int(work.step)
