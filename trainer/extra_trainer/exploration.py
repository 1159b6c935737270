"""ExTra around a step: guided prompts in, novelty and prefixes out. Knows no OpenRLHF and no torch.

Before a step the queue's guided prompts take the last places of the batch, each with the answer of its own
prompt. After it, the groups' novelty is scored in one call (in batch order, so that a run is
reproducible), the outcomes of guided groups are reported, and the hard prompts among the others feed the
prefix memory, which hands out the prefix to continue from in the next step. Guided groups keep their
prompt's identity in the novelty memory, but do not feed prefixes: their first tokens were not sampled now.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_client import EntropyRollout, HardPrompt, NoveltyClient, Outcome, PrefixClient
from extra_client import Group as NoveltyGroup
from extra_trainer.config import NoveltyConfig, PrefixConfig
from extra_trainer.rollout import Group, RolloutRequest


@dataclass
class GuidedQueue:
    """Guided prompts waiting for a place in a batch; when it is full the oldest leave."""

    capacity: int
    waiting: deque[RolloutRequest] = field(default_factory=deque)

    def add(self, request: RolloutRequest) -> None:
        """Appends one."""
        self.waiting.append(request)
        while len(self.waiting) > self.capacity:
            self.waiting.popleft()

    def take_places(self, batch: list[RolloutRequest], most: int) -> list[RolloutRequest]:
        """The batch with up to `most` of its last prompts replaced by the oldest waiting ones."""
        count = min(most, len(self.waiting), len(batch))
        guided = [self.waiting.popleft() for _ in range(count)]
        return batch[: len(batch) - count] + guided

    def state(self) -> list[dict[str, Any]]:
        """What `restore` takes."""
        return [asdict(request) for request in self.waiting]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Replaces the waiting ones."""
        self.waiting = deque(
            RolloutRequest(**{**item, **{k: tuple(item[k]) for k in ("prompt_tokens", "prefix_tokens")}})
            for item in state
        )


@dataclass
class Tokens:
    """What exploration must know of the tokenizer."""

    tokenizer: Any
    newline_ids: list[int] = field(init=False)

    def __post_init__(self) -> None:
        size = len(self.tokenizer)
        texts = self.tokenizer.batch_decode([[i] for i in range(size)])
        self.newline_ids = [i for i, text in enumerate(texts) if "\n" in text]

    def ends(self, token_ids: NDArray[np.int32], text: str) -> NDArray[np.int32]:
        """[length]: characters of `text` up to and including each token."""
        pieces = self.tokenizer.batch_decode([[int(i)] for i in token_ids], skip_special_tokens=True)
        if "".join(pieces) == text:
            return np.cumsum([len(piece) for piece in pieces]).astype(np.int32)
        # A character may be spread over tokens (byte-level BPE): then only whole openings decode right.
        ids = [int(i) for i in token_ids]
        openings = (self.tokenizer.decode(ids[: i + 1], skip_special_tokens=True) for i in range(len(ids)))
        return np.array([min(len(opening), len(text)) for opening in openings], dtype=np.int32)


@dataclass
class Explorer:
    """The exploration side of a training run."""

    novelty_config: NoveltyConfig
    prefix_config: PrefixConfig
    novelty: NoveltyClient
    prefixes: PrefixClient
    tokens: Tokens
    #: Distinguishes this launch of the run: a resumed run repeats steps, and they are new writes.
    launch_id: str
    queue: GuidedQueue = field(init=False)

    def __post_init__(self) -> None:
        self.queue = GuidedQueue(self.prefix_config.queue_capacity)

    def plan(self, batch: list[RolloutRequest]) -> list[RolloutRequest]:
        """The batch with guided prompts in its last places."""
        if not self.prefix_config.enabled:
            return batch
        return self.queue.take_places(batch, self.prefix_config.regen_batch_size)

    def score(self, groups: Sequence[Group], step: int) -> NDArray[np.float64]:
        """Novelty [groups, n], after which the correct solutions are remembered; zeros if switched off."""
        shape = (len(groups), len(groups[0].rollouts))
        if not self.novelty_config.enabled:
            return np.zeros(shape)
        asked = [
            NoveltyGroup(
                prompt_id=group.request.prompt_id,
                texts=[rollout.text for rollout in group.rollouts],
                correct=group.correct.tolist(),
            )
            for group in groups
        ]
        key = f"{self.launch_id}/novelty/{step}"
        scores = self.novelty.score_groups(asked, idempotency_key=key)
        for score in scores:
            if score.error is not None:
                raise score.error
        return np.stack([score.novelty for score in scores]).astype(np.float64)

    def feed(self, groups: Sequence[Group], step: int) -> int:
        """Reports guided groups, stores prefixes of hard prompts, queues what to continue from.

        Returns the number of prompts queued.
        """
        if not self.prefix_config.enabled:
            return 0
        self._report([group for group in groups if group.request.guided], step)
        if step <= self.prefix_config.warmup_steps:
            return 0
        hard = [group for group in groups if not group.request.guided and _is_hard(group)]
        if not hard:
            return 0
        if self.prefix_config.policy == "none":
            return self._enqueue(hard, [((), "")] * len(hard))
        return self._enqueue(hard, self._select(hard, step))

    def _report(self, guided: Sequence[Group], step: int) -> None:
        outcomes = [
            Outcome(
                prompt_id=g.request.prompt_id,
                prefix_id=g.request.prefix_id,
                rollouts=int(g.decided.sum()),
                successes=int(g.correct.sum()),
            )
            for g in guided
            if g.request.prefix_id and g.decided.any()
        ]
        if outcomes:
            self.prefixes.report_outcomes(outcomes, idempotency_key=f"{self.launch_id}/outcomes/{step}")

    def _select(self, hard: Sequence[Group], step: int) -> list[tuple[tuple[int, ...], str] | None]:
        added = self.prefixes.add_rollouts(
            [self._hard_prompt(group) for group in hard],
            newline_token_ids=self.tokens.newline_ids,
            min_segment_tokens=self.prefix_config.min_segment_tokens,
            idempotency_key=f"{self.launch_id}/prefixes/{step}",
        )
        for result in added:
            if result.error is not None:
                raise result.error
        selected = self.prefixes.select(
            [group.request.prompt_id for group in hard],
            policy=self.prefix_config.policy,
            tau=self.prefix_config.tau,
            seed=step,
        )
        # A rollout without a newline leaves nothing to continue from: that prompt is not guided.
        return [None if p.error else (tuple(int(i) for i in p.token_ids), p.prefix_id) for p in selected]

    def _hard_prompt(self, group: Group) -> HardPrompt:
        rollouts = [
            EntropyRollout(
                token_ids=r.token_ids,
                entropies=r.entropies,
                text=r.text,
                token_ends=self.tokens.ends(r.token_ids, r.text),
            )
            for r in group.rollouts
        ]
        return HardPrompt(prompt_id=group.request.prompt_id, rollouts=rollouts)

    def _enqueue(self, hard: Sequence[Group], chosen: Sequence[tuple[tuple[int, ...], str] | None]) -> int:
        queued = 0
        for group, prefix in zip(hard, chosen, strict=True):
            if prefix is not None:
                tokens, prefix_id = prefix
                self.queue.add(replace(group.request, guided=True, prefix_tokens=tokens, prefix_id=prefix_id))
                queued += 1
        return queued


def _is_hard(group: Group) -> bool:
    """Pass rate at most 1/n; a group without any verdict (its rate is NaN) is not known to be hard."""
    return group.pass_rate <= 1 / len(group.rollouts)


def step_metrics(
    groups: Sequence[Group], novelty: NDArray[np.float64], queued: int, waiting: int
) -> dict[str, float]:
    """The exploration metrics of a step, under their stable names."""
    rates = np.array([group.pass_rate for group in groups])
    correct = np.stack([group.correct for group in groups])
    guided = [group for group in groups if group.request.guided]
    entropies = np.concatenate([r.entropies for g in groups for r in g.rollouts])
    undecided = sum(int((~group.decided).sum()) for group in groups)
    return {
        "reward": float(correct.sum() / max(correct.size - undecided, 1)),
        "groups_all_right": float(np.mean(rates == 1)),
        "groups_all_wrong": float(np.mean(rates == 0)),
        "novelty": float(novelty[correct].mean()) if correct.any() else 0.0,
        "novelty_std": float(novelty[correct].std()) if correct.any() else 0.0,
        "guided_groups": float(len(guided)),
        "guided_rescued": float(sum(bool(group.correct.any()) for group in guided)),
        "guided_queued": float(queued),
        "guided_waiting": float(waiting),
        "entropy": float(entropies.mean()),
        "undecided": float(undecided),
        "response_tokens": float(np.mean([len(r.token_ids) for g in groups for r in g.rollouts])),
    }
