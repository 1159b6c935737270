"""ExTra around a step: guided prompts in, novelty and prefixes out. Knows no OpenRLHF and no torch.

Before a step the queue's guided prompts take the last places of the batch, each with the answer of its own
prompt. As its groups are completed their novelty is scored, so many groups a call in batch order, so that a
run is reproducible however the rollouts came in. What takes the novelty service long is embedding; it is
therefore sent solutions as they are found, to embed while others are generated. After the step the outcomes
of guided groups are reported, and hard prompts feed the prefix memory, which hands out the prefix to continue
from in the next step. Guided groups keep their prompt's identity in the memories.
"""

import contextvars
import queue
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_client import (
    EntropyRollout,
    ExtraError,
    HardPrompt,
    Nearest,
    NotFoundError,
    NoveltyClient,
    Outcome,
    PrefixCandidate,
    PrefixClient,
    Rollout,
    SelectedPrefix,
    Verdict,
    VerdictStatus,
)
from extra_client import Group as NoveltyGroup
from extra_rl.tokens import TokenTexts
from extra_trainer.config import NoveltyConfig, PrefixConfig
from extra_trainer.exploration.results import GroupNovelty, PrefixChoice
from extra_trainer.rollouts.collector import Group, RolloutRequest, is_decided

#: Prompts whose candidates are asked for in one call, with their texts.
RANKED_A_CALL = 16
#: Groups scored in one call: a call and its durable write cost about as much for one as for so many.
GROUPS_A_CALL = 16


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

    def take(self, most: int) -> list[RolloutRequest]:
        """Up to `most` of the oldest waiting ones, which wait no longer."""
        return [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]

    def take_places(self, batch: list[RolloutRequest], most: int) -> list[RolloutRequest]:
        """The batch with up to `most` of its last prompts replaced by the oldest waiting ones."""
        guided = self.take(min(most, len(batch)))
        return batch[: len(batch) - len(guided)] + guided

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
class Explorer:
    """The exploration side of a training run."""

    novelty_config: NoveltyConfig
    prefix_config: PrefixConfig
    novelty: NoveltyClient
    prefixes: PrefixClient
    tokens: TokenTexts
    #: Distinguishes this launch of the run: a resumed run repeats steps, and they are new writes.
    launch_id: str
    queue: GuidedQueue = field(init=False)
    #: How the last `feed` split the hard prompts, and what it chose for them.
    choices: list[PrefixChoice] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.queue = GuidedQueue(self.prefix_config.queue_capacity)

    def plan(self, batch: list[RolloutRequest]) -> list[RolloutRequest]:
        """The batch with guided prompts in its last places."""
        if not self.prefix_config.enabled:
            return batch
        return self.queue.take_places(batch, self.prefix_config.regen_batch_size)

    def score(self, groups: Sequence[Group], step: int, place: int) -> list[GroupNovelty]:
        """Novelty of groups, the first at `place` of the batch; what counts of them is remembered."""
        novelty = [GroupNovelty.none(len(group.rollouts)) for group in groups]
        counted = [
            number
            for number, group in enumerate(groups)
            if self._counts(group.request) and group.decided.any()
        ]
        if not counted:
            return novelty
        settings = self.novelty_config
        answers = self.novelty.score_groups(
            [_asked(groups[number]) for number in counted],
            scale=settings.scale,
            track_reward_variance=settings.placement == "before_normalization",
            idempotency_key=f"{self.launch_id}/novelty/{step}/{place}",
            explain=True,
        )
        for number, scores in zip(counted, answers, strict=True):
            if scores.error is not None:
                raise scores.error
            scaled = np.zeros(len(groups[number].rollouts))
            scaled[groups[number].decided] = scores.novelty
            novelty[number] = GroupNovelty(
                scaled,
                scaled * scores.divisor,
                scores.reward_variance or 0.0,
                _spread(scores.nearest, groups[number].decided),
            )
        return novelty

    def will_be_embedded(self, request: RolloutRequest, verdict: Verdict) -> bool:
        """Whether scoring takes the embedding of a rollout with this verdict."""
        if not self._counts(request):
            return False
        remembers_all = self.novelty_config.memory_policy == "all"
        return is_decided(verdict) if remembers_all else verdict.status is VerdictStatus.CORRECT

    def _counts(self, request: RolloutRequest) -> bool:
        settings = self.novelty_config
        return settings.enabled and (settings.guided_groups or not request.guided)

    def feed(self, groups: Sequence[Group], step: int) -> int:
        """Reports guided groups, stores prefixes of hard prompts, queues what to continue from.

        Returns the number of prompts queued.
        """
        self.choices = []
        if not self.prefix_config.enabled:
            return 0
        self._report([group for group in groups if group.request.guided], step)
        if step <= self.prefix_config.warmup_steps:
            return 0
        places = [place for place, group in enumerate(groups) if self._may_feed(group)]
        hard = [groups[place] for place in places]
        if not hard:
            return 0
        if self.prefix_config.policy == "none":
            return self._enqueue([(group, None) for group in hard])
        chosen = self._select(hard, places, step)
        # A rollout without a newline leaves nothing to continue from: that prompt is not guided.
        return self._enqueue([pair for pair in zip(hard, chosen, strict=True) if pair[1].error is None])

    def _may_feed(self, group: Group) -> bool:
        return is_hard(group) and (self.prefix_config.sources == "all" or not group.request.guided)

    def _report(self, guided: Sequence[Group], step: int) -> None:
        # The outcome of going without a prefix is of use only where the empty prefix competes.
        outcomes = [
            Outcome(
                prompt_id=g.request.prompt_id,
                prefix_id=g.request.prefix_id,
                rollouts=int(g.decided.sum()),
                successes=int(g.correct.sum()),
            )
            for g in guided
            if g.decided.any() and (g.request.prefix_id or self.prefix_config.policy == "outcome_aware")
        ]
        if outcomes:
            self.prefixes.report_outcomes(outcomes, idempotency_key=f"{self.launch_id}/outcomes/{step}")

    def _select(self, hard: Sequence[Group], places: Sequence[int], step: int) -> list[SelectedPrefix]:
        prompts = [self._hard_prompt(group) for group in hard]
        added = self.prefixes.add_rollouts(
            prompts,
            newline_token_ids=self.tokens.newline_ids,
            min_segment_tokens=self.prefix_config.min_segment_tokens,
            idempotency_key=f"{self.launch_id}/prefixes/{step}",
        )
        for result in added:
            if result.error is not None:
                raise result.error
        prompt_ids = [group.request.prompt_id for group in hard]
        selected = self.prefixes.select(
            prompt_ids, policy=self.prefix_config.policy, tau=self.prefix_config.tau, seed=step
        )
        for one in selected:
            if one.error is not None and not isinstance(one.error, NotFoundError):
                raise one.error
        self.choices = [
            PrefixChoice(
                place,
                group.request.prompt_id,
                self._fed(group)[split.rollout_index],
                split.lengths,
                [int(prompt.rollouts[split.rollout_index].token_ends[n - 1]) for n in split.lengths],
                one if one.error is None else None,
                ranking,
            )
            for place, group, prompt, split, one, ranking in zip(
                places, hard, prompts, added, selected, self._rankings(prompt_ids), strict=True
            )
        ]
        return selected

    def _rankings(self, prompt_ids: list[str]) -> list[tuple[PrefixCandidate, ...] | None]:
        """All that competed for each prompt; None if the service fails, for this is only to be looked at.

        Asked for apart from the choice and a few prompts at a time: candidates come with their texts.
        """
        rankings: list[tuple[PrefixCandidate, ...] | None] = []
        for start in range(0, len(prompt_ids), RANKED_A_CALL):
            asked = prompt_ids[start : start + RANKED_A_CALL]
            settings = self.prefix_config
            try:
                told = self.prefixes.select(asked, policy=settings.policy, tau=settings.tau, explain=True)
            except ExtraError:
                return [*rankings, *[None] * (len(prompt_ids) - start)]
            rankings += [one.ranking for one in told]
        return rankings

    def _fed(self, group: Group) -> list[int]:
        """The samples of a hard group that may be split."""
        if self.prefix_config.sources == "wrong":
            return np.flatnonzero(group.decided & ~group.correct).tolist()
        return list(range(len(group.rollouts)))

    def _hard_prompt(self, group: Group) -> HardPrompt:
        request = group.request
        # Those of a guided group begin with its prefix, whose tokens count with their mean entropy.
        prefix = np.array(request.prefix_tokens, dtype=np.int32)
        known = np.full(len(prefix), request.prefix_entropy, dtype=np.float32)
        rollouts = []
        for rollout in (group.rollouts[sample] for sample in self._fed(group)):
            tokens = np.concatenate([prefix, rollout.token_ids])
            rollouts.append(
                EntropyRollout(
                    token_ids=tokens,
                    entropies=np.concatenate([known, rollout.entropies]),
                    text=rollout.text,
                    token_ends=self.tokens.ends(tokens, rollout.text),
                )
            )
        return HardPrompt(prompt_id=request.prompt_id, rollouts=rollouts)

    def _enqueue(self, chosen: Sequence[tuple[Group, SelectedPrefix | None]]) -> int:
        for group, prefix in chosen:
            plain = replace(group.request, guided=True, prefix_tokens=(), prefix_id="", prefix_entropy=0.0)
            if prefix is None:
                self.queue.add(plain)
                continue
            tokens = tuple(int(i) for i in prefix.token_ids)
            self.queue.add(
                replace(
                    plain,
                    prefix_tokens=tokens,
                    prefix_id=prefix.prefix_id,
                    prefix_entropy=float(prefix.mean_entropy),
                )
            )
        return len(chosen)


class StepNovelty:
    """Scores a step's groups while it goes on: `prepare` and `add` are what RolloutCollector calls.

    Groups are scored GROUPS_A_CALL at a time, always the same ones together, since what a call finds depends
    on what earlier ones remembered.
    """

    def __init__(self, explorer: Explorer, step: int) -> None:
        self._explorer = explorer
        self._step = step
        self._scored: list[GroupNovelty] = []
        self._waiting: list[Group] = []
        self._found: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._embedding = False

    def prepare(self, request: RolloutRequest, rollout: Rollout, verdict: Verdict) -> None:
        """Has the service embed a rollout's text ahead of its group, if it will have to; does not block."""
        if self._explorer.will_be_embedded(request, verdict):
            self._found.put(rollout.text)
            if not self._embedding:
                self._embedding = True
                # A daemon: Ctrl-C must not wait for a service that does not answer.
                context = contextvars.copy_context()
                threading.Thread(target=context.run, args=(self._embed_ahead,), daemon=True).start()

    def add(self, place: int, group: Group) -> None:
        """Takes the group at the next place of the batch; scores those that wait if they are enough."""
        self._waiting.append(group)
        if len(self._waiting) == GROUPS_A_CALL:
            self._score(self._waiting)
            self._waiting = []

    def finish(self, groups: Sequence[Group]) -> list[GroupNovelty]:
        """Novelty of all groups of the batch, those that were not added included."""
        self._found.put(None)
        while rest := groups[len(self._scored) :]:
            self._score(rest[:GROUPS_A_CALL])
        return self._scored

    def _score(self, groups: Sequence[Group]) -> None:
        self._scored += self._explorer.score(groups, self._step, len(self._scored))

    def _embed_ahead(self) -> None:
        """Have the service embed new texts; it keeps their vectors."""
        known: set[str] = set()
        for first in iter(self._found.get, None):
            found, last = _rest_of(self._found, first)
            new = [text for text in dict.fromkeys(found) if text not in known]
            known.update(new)
            try:
                if new:
                    self._explorer.novelty.embed(new)
            except ExtraError:
                return  # The call that the step needs says what is wrong.
            if last:
                return


def _rest_of(waiting: "queue.SimpleQueue[str | None]", first: str) -> tuple[list[str], bool]:
    """`first` and all that waits, and whether the end (None) was among it."""
    found = [first]
    while not waiting.empty():
        item = waiting.get()
        if item is None:
            return found, True
        found.append(item)
    return found, False


def _asked(group: Group) -> NoveltyGroup:
    decided = group.decided
    return NoveltyGroup(
        prompt_id=group.request.prompt_id,
        texts=[r.text for r, known in zip(group.rollouts, decided, strict=True) if known],
        correct=group.correct[decided].tolist(),
    )


def _spread(nearest: Sequence[Nearest | None], decided: NDArray[np.bool_]) -> tuple[Nearest | None, ...]:
    """Nearest neighbours of the decided rollouts, which the service was sent, at their places among all."""
    samples = np.flatnonzero(decided).tolist()
    spread: list[Nearest | None] = [None] * len(decided)
    # A group of which nothing counts comes without.
    for sample, found in zip(samples, nearest, strict=False):
        sibling = None if found is None or found.sibling is None else samples[found.sibling]
        spread[sample] = None if found is None else replace(found, sibling=sibling)
    return tuple(spread)


def is_hard(group: Group) -> bool:
    """Pass rate at most 1/n; a group without any verdict (its rate is NaN) is not known to be hard."""
    return group.pass_rate <= 1 / len(group.rollouts)


def step_metrics(groups: Sequence[Group], novelty: Sequence[GroupNovelty]) -> dict[str, float]:
    """The exploration metrics of a step, under their stable names (trainer/README.md)."""
    raw = np.stack([group.raw for group in novelty])
    rates = np.array([group.pass_rate for group in groups])
    correct = np.stack([group.correct for group in groups])
    guided = [group for group in groups if group.request.guided]
    entropies = np.concatenate([r.entropies for g in groups for r in g.rollouts])
    undecided = sum(int((~group.decided).sum()) for group in groups)
    return {
        "reward": float(correct.sum() / max(correct.size - undecided, 1)),
        "groups_all_right": float(np.mean(rates == 1)),
        "groups_all_wrong": float(np.mean(rates == 0)),
        "novelty": float(raw[correct].mean()) if correct.any() else 0.0,
        "novelty_std": float(raw[correct].std()) if correct.any() else 0.0,
        "guided_groups": float(len(guided)),
        "guided_rescued": float(sum(bool(group.correct.any()) for group in guided)),
        "entropy": float(entropies.mean()),
        "undecided": float(undecided),
        "response_tokens": float(np.mean([len(r.token_ids) for g in groups for r in g.rollouts])),
    }
