"""Both bonuses after normalization in NeMo-RL, with its own environments or with those of NeMo-Gym.

NeMo-RL has no setting that names an estimator of one's own. `novelty_estimator` makes a subclass of the one
that it looks up in `nemo_rl.algorithms.grpo`; your launch file puts it there. NeMo-RL hands its estimators
the batch with all messages, so nothing travels in the rewards. NeMo-Gym has no hook for a whole group: its
servers see one rollout at a time, and the bonus is added here. Nothing of NeMo-RL is imported. What was
tested: docs/plugins/nemo-rl.md.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from extra_client import FailedPreconditionError
from extra_client.integrations import BonusScorer, NoveltyScoring, content_text, prompt_id


def novelty_estimator(
    base: type,
    scoring: NoveltyScoring,
    *,
    reference: str = "ground_truth",
    answers: Callable[[str], str | None] | None = None,
) -> type:
    """Make a subclass of NeMo-RL's GRPOAdvantageEstimator that adds both bonuses to its advantages.

    A response is correct where its reward, after NeMo-RL's scaling and shaping, is more than 0. With alpha
    and beta 0 nothing is called, and the advantages are NeMo-RL's own. A batch of exactly the same rollouts
    counts once, so that a step repeated after a crash does. Logged where NeMo-RL logs an estimator's
    last_metrics (asynchronous GRPO): novelty/missing (0 or 1), and novelty/bonus, the mean of the bonus.

    Args:
        base: nemo_rl.algorithms.grpo.GRPOAdvantageEstimator, or another one that returns advantages of
            [rollouts, tokens].
        scoring: Where and how novelty is scored.
        reference: What the environment's metadata (extra_env_info) calls the reference answer, for the
            metric derivation.
        answers: Returns the final answer of a response, for beta.

    Raises:
        ValueError: beta is not 0, and there is no way to final answers.
    """
    if scoring.beta and answers is None:
        raise ValueError("beta needs the final answers: give answers, a function of the response")

    class NoveltyEstimator(base):  # type: ignore[misc]
        """NeMo-RL's own, plus the bonuses."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.last_metrics: dict[str, float] = {}
            self._scorer = BonusScorer(scoring)

        def compute_advantage(
            self, prompt_ids: Any, rewards: Any, mask: Any, repeated_batch: Any = None, **more: Any
        ) -> Any:
            advantages = super().compute_advantage(
                prompt_ids=prompt_ids, rewards=rewards, mask=mask, repeated_batch=repeated_batch, **more
            )
            if not scoring.active:
                return advantages
            prompts, responses = _messages(repeated_batch)
            texts = ["\n".join(map(content_text, turns)) for turns in responses]
            bonus = self._scorer.bonus(
                [prompt_id(prompt) for prompt in prompts],
                texts,
                [reward > 0 for reward in rewards.tolist()],
                None if answers is None else [answers(text) for text in texts],
                step="batch",
                token_ids=[_tokens(turns) for turns in responses],
                problems=prompts,
                reference_answers=_references(repeated_batch, reference, len(texts)),
            )
            self.last_metrics = {"novelty/missing": float(bonus is None)}
            if bonus is None:
                return advantages
            self.last_metrics["novelty/bonus"] = float(bonus.mean())
            return advantages + advantages.new_tensor(bonus).unsqueeze(-1)

    return NoveltyEstimator


def _messages(batch: Mapping[str, Any] | None) -> tuple[list[list[dict[str, Any]]], list[list[Any]]]:
    """Return of each rollout the messages of its prompt, and those that the policy has generated."""
    if batch is None or "message_log" not in batch or "length" not in batch:
        raise FailedPreconditionError(
            "NeMo-RL gives its estimator no messages here: novelty_estimator needs the trainer of "
            "nemo_rl.algorithms.grpo (data_plane.enabled=false, and not the single controller)"
        )
    prompts, responses = [], []
    for log, length in zip(batch["message_log"], batch["length"], strict=True):
        if any("pixel_values" in message for message in log):
            raise FailedPreconditionError(
                "a prompt with images: NeMo-RL's messages have no images to identify it by, only tensors of "
                "the model's processor"
            )
        read, before = 0, 0
        while before < len(log) and read < int(length):
            read += len(log[before]["token_ids"])
            before += 1
        prompts.append([{"role": each["role"], "content": each["content"]} for each in log[:before]])
        responses.append([each for each in log[before:] if each["role"] == "assistant"])
    return prompts, responses


def _tokens(turns: Sequence[Mapping[str, Any]]) -> list[int]:
    return [int(token) for turn in turns for token in turn["token_ids"]]


def _references(batch: Mapping[str, Any], name: str, count: int) -> list[Any]:
    """Return the reference answers, None where the environment's metadata has none."""
    known = batch.get("extra_env_info") or [None] * count
    return [each.get(name) if isinstance(each, Mapping) else None for each in known]
