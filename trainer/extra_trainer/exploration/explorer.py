"""Exploration around a training step: guided prompts in, novelty and prefixes out.

Before a step, guided prompts from the queue take the last places of the batch, each with the answer of its
own prompt. During the step, groups are scored for novelty (`step_novelty` decides when): solutions by their
distance to known ones, wrong rollouts by how often their final answer was given before (outcome novelty).
After the step, the outcomes of guided groups are reported, and hard prompts feed the prefix memory, which
selects the prefix that a later step continues from. Guided groups keep their prompt's identity in the
memories.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from extra_client import (
    EntropyRollout,
    ExtraError,
    GroupScores,
    HardPrompt,
    Nearest,
    NotFoundError,
    NoveltyClient,
    Outcome,
    PrefixCandidate,
    PrefixClient,
    SelectedPrefix,
    Verdict,
)
from extra_client import Group as NoveltyGroup
from extra_rl.references import shown_answer
from extra_rl.tokens import TokenTexts
from extra_rl.vocabulary import Metric, OutcomeScope, Scale
from extra_trainer.config import NoveltyConfig, OutcomeConfig, PrefixConfig
from extra_trainer.exploration.guided_queue import GuidedQueue
from extra_trainer.exploration.rescues import Rescues
from extra_trainer.exploration.results import GroupNovelty, OutcomeNovelty, PrefixChoice
from extra_trainer.rollouts.collector import Group, RolloutRequest

Value = TypeVar("Value")

#: Metrics that compare the texts of rollouts, and name what they compared with.
TEXT_METRICS = (Metric.EMBEDDING, Metric.MEAN_COSINE, Metric.CLUSTER_SIZE, Metric.DERIVATION)
#: Prompts per call that asks for candidate prefixes, which come with their texts.
PROMPTS_PER_CANDIDATES_CALL = 16


@dataclass(frozen=True)
class TextToEmbed:
    """A response to embed ahead of scoring; problem and reference answer where the metric reads them."""

    text: str
    problem: str = ""
    answer: str = ""


@dataclass
class Explorer:
    """The exploration of one training run, through its novelty and prefix memories."""

    novelty_config: NoveltyConfig
    prefix_config: PrefixConfig
    novelty: NoveltyClient
    prefixes: PrefixClient
    tokens: TokenTexts
    #: Part of every idempotency key: a resumed run repeats steps, and these are new writes.
    launch_id: str
    outcome_config: OutcomeConfig = field(default_factory=OutcomeConfig)
    queue: GuidedQueue = field(init=False)
    #: Prompts that outcome novelty acted on and that have no success since.
    rescues: Rescues = field(init=False, default_factory=Rescues)
    #: The split and selected prefix of each hard prompt in the last `feed`.
    choices: list[PrefixChoice] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.queue = GuidedQueue(self.prefix_config.queue_capacity)

    def plan(self, batch: list[RolloutRequest]) -> list[RolloutRequest]:
        """Return the batch with guided prompts in its last places."""
        if not self.prefix_config.enabled:
            return batch
        return self.queue.take_places(batch, self.prefix_config.regen_batch_size)

    def score(self, groups: Sequence[Group], step: int, place: int) -> list[GroupNovelty]:
        """Score the novelty of groups, and remember their solutions and wrong answers as configured.

        Several groups of one prompt are scored as one group, so that their order does not matter.

        Args:
            groups: Groups of the batch.
            step: The training step.
            place: Place of the first group in the batch, which names the call.

        Returns:
            The novelty of each group, in order.

        Raises:
            ExtraError: If the novelty service fails for any group.
        """
        novelty = self._score_solutions(groups, step, place)
        outcomes = self._score_outcomes(groups, step, place)
        return [replace(scores, outcome=outcome) for scores, outcome in zip(novelty, outcomes, strict=True)]

    def _score_solutions(self, groups: Sequence[Group], step: int, place: int) -> list[GroupNovelty]:
        """Score the solutions by their distance to known ones."""
        novelty = [GroupNovelty.none(len(group.rollouts)) for group in groups]
        scored = [
            index
            for index, group in enumerate(groups)
            if self._is_scored(group.request) and group.outcome.decided
        ]
        if not scored:
            return novelty
        settings = self.novelty_config
        prompts = _by_prompt(groups, scored)
        answers = self.novelty.score_groups(
            [_together([_novelty_group(groups[i], settings.metric) for i in each]) for each in prompts],
            metric=settings.metric,
            scale=settings.scale,
            track_reward_variance=settings.placement == "before_normalization",
            idempotency_key=f"{self.launch_id}/novelty/{step}/{place}",
            explain=settings.metric in TEXT_METRICS,
        )
        for index, scores in _apart(groups, prompts, answers):
            decided = groups[index].decided
            scaled = np.zeros(len(decided))
            scaled[decided] = scores.novelty
            raw = scaled * scores.divisor
            if settings.scale is Scale.SHARE:
                raw[decided] = scores.raw_novelty
            novelty[index] = GroupNovelty(
                scaled,
                raw,
                scores.reward_variance or 0.0,
                _at_samples(scores.nearest, decided),
                _spread(scores.suspicious, decided, ""),
                _spread(scores.new_steps, decided, ()),
            )
        return novelty

    def _score_outcomes(self, groups: Sequence[Group], step: int, place: int) -> list[OutcomeNovelty | None]:
        """Score the rollouts by how often their final answers were given, in the groups that it acts on."""
        settings = self.outcome_config
        outcomes: list[OutcomeNovelty | None] = [None] * len(groups)
        acted = [index for index, group in enumerate(groups) if self._acts_on(group)]
        if not acted:
            return outcomes
        prompts = _by_prompt(groups, acted)
        answers = self.novelty.score_groups(
            [_together([_answer_group(groups[i]) for i in each]) for each in prompts],
            metric=Metric.OUTCOME,
            outcome_scope=OutcomeScope.ALL if settings.groups == "all" else OutcomeScope.WRONG,
            ignore_history=not settings.history,
            idempotency_key=f"{self.launch_id}/outcome/{step}/{place}",
            explain=True,
        )
        for index, scores in _apart(groups, prompts, answers):
            outcomes[index] = self._outcome_novelty(groups[index], scores)
        return outcomes

    def _acts_on(self, group: Group) -> bool:
        settings, outcome = self.outcome_config, group.outcome
        if not settings.enabled or not outcome.decided:
            return False
        if settings.groups == "all_wrong":
            return outcome.all_wrong
        return settings.groups == "all" or not outcome.all_right

    def _outcome_novelty(self, group: Group, scores: GroupScores) -> OutcomeNovelty:
        decided = group.decided
        scored = decided if self.outcome_config.groups == "all" else decided & ~group.correct
        values, times = np.zeros(len(decided)), np.zeros(len(decided))
        values[decided] = scores.novelty
        times[decided] = [
            0.0 if count is None else count.earlier + count.in_group for count in scores.answer_counts
        ]
        given = {group.verdicts[sample].final_answer for sample in np.flatnonzero(scored)}
        return OutcomeNovelty(scored, values, times, len(given - {None}))

    def needs_embedding(self, request: RolloutRequest, verdict: Verdict) -> bool:
        """Return whether scoring will embed a rollout with this verdict."""
        if not self._is_scored(request) or self.novelty_config.metric not in TEXT_METRICS:
            return False
        remembers_all = self.novelty_config.memory_policy == "all"
        return verdict.correct is not None if remembers_all else verdict.correct is True

    def to_embed(self, request: RolloutRequest, text: str) -> TextToEmbed:
        """Return a response with what scoring will send of its problem."""
        if self.novelty_config.metric is not Metric.DERIVATION:
            return TextToEmbed(text)
        return TextToEmbed(text, request.prompt, shown_answer(request.answer))

    def embed(self, texts: Sequence[TextToEmbed]) -> None:
        """Have the service embed texts ahead of scoring; it keeps their vectors.

        Raises:
            ExtraError: If the novelty service fails.
        """
        metric = self.novelty_config.metric
        problems = [each.problem for each in texts] if metric is Metric.DERIVATION else []
        answers = [each.answer for each in texts] if metric is Metric.DERIVATION else []
        self.novelty.embed(
            [each.text for each in texts], metric=metric, problems=problems, reference_answers=answers
        )

    def _is_scored(self, request: RolloutRequest) -> bool:
        settings = self.novelty_config
        return settings.enabled and (settings.guided_groups or not request.guided)

    def feed(self, groups: Sequence[Group], step: int) -> int:
        """Report guided groups, store prefixes of hard prompts, and queue the prompts to continue.

        Args:
            groups: All groups of the step, in order of the batch.
            step: The training step.

        Returns:
            The number of prompts queued.

        Raises:
            ExtraError: If the prefix service fails.
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
        selected = self._select(hard, places, step)
        # A rollout without a newline has no prefix to continue from: that prompt is not guided.
        return self._enqueue([pair for pair in zip(hard, selected, strict=True) if pair[1].error is None])

    def _may_feed(self, group: Group) -> bool:
        # If none ended by itself, the limit was too low: nothing is known of how hard the prompt is.
        return not group.cut_off[group.decided].all() and self._is_source(group)

    def _is_source(self, group: Group) -> bool:
        return group.outcome.hard and (self.prefix_config.sources == "all" or not group.request.guided)

    def _report(self, guided: Sequence[Group], step: int) -> None:
        # Only the policy "outcome_aware" can use the outcome of a group without a prefix: there the empty
        # prefix is a candidate.
        outcomes = [
            Outcome(
                prompt_id=group.request.prompt_id,
                prefix_id=group.request.prefix_id,
                rollouts=group.outcome.decided,
                successes=group.outcome.correct,
            )
            for group in guided
            if group.outcome.decided
            and (group.request.prefix_id or self.prefix_config.policy == "outcome_aware")
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
        for prefix in selected:
            if prefix.error is not None and not isinstance(prefix.error, NotFoundError):
                raise prefix.error
        self.choices = [
            PrefixChoice(
                place,
                group.request.prompt_id,
                self._source_samples(group)[split.rollout_index],
                split.lengths,
                [int(prompt.rollouts[split.rollout_index].token_ends[n - 1]) for n in split.lengths],
                prefix if prefix.error is None else None,
                candidates,
            )
            for place, group, prompt, split, prefix, candidates in zip(
                places, hard, prompts, added, selected, self._candidates(prompt_ids), strict=True
            )
        ]
        return selected

    def _candidates(self, prompt_ids: list[str]) -> list[tuple[PrefixCandidate, ...] | None]:
        """Return all candidate prefixes of each prompt; None if the service fails: they are only displayed.

        They are requested separately from the selection, a few prompts at a time, as they come with texts.
        """
        settings = self.prefix_config
        candidates: list[tuple[PrefixCandidate, ...] | None] = []
        for start in range(0, len(prompt_ids), PROMPTS_PER_CANDIDATES_CALL):
            some = prompt_ids[start : start + PROMPTS_PER_CANDIDATES_CALL]
            try:
                answers = self.prefixes.select(some, policy=settings.policy, tau=settings.tau, explain=True)
            except ExtraError:
                return [*candidates, *[None] * (len(prompt_ids) - start)]
            candidates += [answer.ranking for answer in answers]
        return candidates

    def _source_samples(self, group: Group) -> list[int]:
        """Return the samples of a hard group whose rollouts may be split into prefixes."""
        if self.prefix_config.sources == "wrong":
            return np.flatnonzero(group.decided & ~group.correct).tolist()
        return list(range(len(group.rollouts)))

    def _hard_prompt(self, group: Group) -> HardPrompt:
        request = group.request
        # The rollouts of a guided group begin with its prefix, whose tokens count with their mean entropy.
        prefix = np.array(request.prefix_tokens, dtype=np.int32)
        prefix_entropies = np.full(len(prefix), request.prefix_entropy, dtype=np.float32)
        rollouts = []
        for rollout in (group.rollouts[sample] for sample in self._source_samples(group)):
            tokens = np.concatenate([prefix, rollout.token_ids])
            rollouts.append(
                EntropyRollout(
                    token_ids=tokens,
                    entropies=np.concatenate([prefix_entropies, rollout.entropies]),
                    text=rollout.text,
                    token_ends=self.tokens.ends(tokens, rollout.text),
                )
            )
        return HardPrompt(prompt_id=request.prompt_id, rollouts=rollouts)

    def _enqueue(self, chosen: Sequence[tuple[Group, SelectedPrefix | None]]) -> int:
        for group, prefix in chosen:
            request = replace(group.request, guided=True, prefix_tokens=(), prefix_id="", prefix_entropy=0.0)
            if prefix is not None:
                request = replace(
                    request,
                    prefix_tokens=tuple(int(i) for i in prefix.token_ids),
                    prefix_id=prefix.prefix_id,
                    prefix_entropy=float(prefix.mean_entropy),
                )
            self.queue.add(request)
        return len(chosen)


def _novelty_group(group: Group, metric: Metric) -> NoveltyGroup:
    """Return the decided rollouts of a group, as the novelty service takes them for a metric."""
    request = group.request
    rollouts = [rollout for rollout, known in zip(group.rollouts, group.decided, strict=True) if known]
    correct = group.correct[group.decided].tolist()
    if metric is Metric.NGRAM_COUNT:
        prefix = np.array(request.prefix_tokens, dtype=np.int32)
        tokens = [np.concatenate([prefix, rollout.token_ids]) for rollout in rollouts]
        return NoveltyGroup(prompt_id=request.prompt_id, token_ids=tokens, correct=correct)
    if metric is Metric.POLICY_SURPRISE:
        logprobs = [float(rollout.logprobs.sum(dtype=np.float64)) for rollout in rollouts]
        return NoveltyGroup(prompt_id=request.prompt_id, sequence_logprobs=logprobs, correct=correct)
    return NoveltyGroup(
        prompt_id=request.prompt_id,
        texts=[rollout.text for rollout in rollouts],
        correct=correct,
        problem=request.prompt if metric is Metric.DERIVATION else "",
        reference_answer=shown_answer(request.answer) if metric is Metric.DERIVATION else "",
    )


def _answer_group(group: Group) -> NoveltyGroup:
    """Return the final answers of a group's decided rollouts, as the novelty service takes them."""
    decided = np.flatnonzero(group.decided)
    return NoveltyGroup(
        prompt_id=group.request.prompt_id,
        answers=[group.verdicts[sample].final_answer for sample in decided],
        correct=group.correct[decided].tolist(),
    )


def _by_prompt(groups: Sequence[Group], chosen: Sequence[int]) -> list[list[int]]:
    """Return the indices in `chosen` of the groups of each prompt."""
    prompts: dict[str, list[int]] = {}
    for index in chosen:
        prompts.setdefault(groups[index].request.prompt_id, []).append(index)
    return list(prompts.values())


def _together(parts: Sequence[NoveltyGroup]) -> NoveltyGroup:
    """Return the groups of one prompt as one group."""
    names = ("correct", "texts", "token_ids", "sequence_logprobs", "answers")
    joined: dict[str, Any] = {
        name: list(itertools.chain.from_iterable(getattr(part, name) for part in parts))
        for name in names
        if getattr(parts[0], name) is not None
    }
    return replace(parts[0], **joined)


def _apart(
    groups: Sequence[Group], prompts: Sequence[Sequence[int]], answers: Sequence[GroupScores]
) -> Iterator[tuple[int, GroupScores]]:
    """Yield the index of each group with its part of the scores of `_together`.

    Raises:
        ExtraError: A group was refused.
    """
    for indices, scores in zip(prompts, answers, strict=True):
        if scores.error is not None:
            raise scores.error
        start = 0
        for index in indices:
            end = start + int(groups[index].decided.sum())
            yield index, _part(scores, start, end) if len(indices) > 1 else scores
            start = end


def _part(scores: GroupScores, start: int, end: int) -> GroupScores:
    """Return the scores of the rollouts `start` .. `end` - 1; a sibling in another group has no index."""
    siblings: dict[int | None, int] = {sibling: sibling - start for sibling in range(start, end)}
    return replace(
        scores,
        novelty=scores.novelty[start:end],
        raw_novelty=scores.raw_novelty[start:end],
        nearest=tuple(
            None if each is None else replace(each, sibling=siblings.get(each.sibling))
            for each in scores.nearest[start:end]
        ),
        answer_counts=scores.answer_counts[start:end],
        suspicious=scores.suspicious[start:end],
        new_steps=scores.new_steps[start:end],
    )


def _spread(values: Sequence[Value], decided: NDArray[np.bool_], missing: Value) -> tuple[Value, ...]:
    """Return values of the decided rollouts at the samples of the whole group; nothing if there are none."""
    if not values:
        return ()
    spread = [missing] * len(decided)
    for sample, value in zip(np.flatnonzero(decided).tolist(), values, strict=True):
        spread[sample] = value
    return tuple(spread)


def _at_samples(nearest: Sequence[Nearest | None], decided: NDArray[np.bool_]) -> tuple[Nearest | None, ...]:
    """Map the nearest neighbours of the decided rollouts to the samples of the whole group."""
    samples = np.flatnonzero(decided).tolist()
    mapped: list[Nearest | None] = [None] * len(decided)
    # The answer for a group in which nothing is scored holds no neighbours.
    for sample, found in zip(samples, nearest, strict=False):
        sibling = None if found is None or found.sibling is None else samples[found.sibling]
        mapped[sample] = None if found is None else replace(found, sibling=sibling)
    return tuple(mapped)
