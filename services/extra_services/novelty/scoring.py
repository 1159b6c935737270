"""Scores groups of rollouts against the memory of their prompts: the domain of the novelty service.

A request takes four steps. Its namespace and the answer to its idempotency key are looked up. `preparing`
checks each group and makes vectors of the rollouts that count. With the prompts locked, an `Attempt` scores
the whole batch, by one search of the rings (`ring_scoring`) where the metric compares vectors, and collects
what is to be remembered. One durable write stores that together with the answer. Groups of a prompt that
appears more than once are taken in order, in rounds.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import Metric, NearestKind, Scale
from extra_services.errors import InvalidInput
from extra_services.memory import instruments
from extra_services.memory.index import RingIndex
from extra_services.memory.memory import Change, Computed, IdempotencyKey, Memory, check_space
from extra_services.memory.records import AnswerCounts, Namespace, NewSolutions, PromptWrite, Write
from extra_services.novelty import answers as stored_answers
from extra_services.novelty import metrics, outcome_scoring
from extra_services.novelty.derivation_scoring import DerivationScorer, Stored, reaches_of
from extra_services.novelty.metrics import Counts
from extra_services.novelty.preparing import CheckedGroup, PreparedGroups, check_rollout, prepare
from extra_services.novelty.request import (
    VECTOR_METRICS,
    GroupAnswer,
    GroupScores,
    Nearest,
    NoveltyLimits,
    RolloutGroup,
    ScoringOptions,
    Vectors,
)
from extra_services.novelty.ring_scoring import Neighbours, RingScorer

#: A group whose largest novelty is not above this is not scaled to 1.
LEAST_GROUP_MAX = 1e-8


class NoveltyScorer:
    """Scores and remembers groups. Thread-safe; blocks while it embeds and commits."""

    def __init__(self, memory: Memory, limits: NoveltyLimits | None = None) -> None:
        self._memory = memory
        self._limits = limits or NoveltyLimits()

    def score(
        self, namespace: str, groups: list[RolloutGroup], options: ScoringOptions | None = None, key: str = ""
    ) -> tuple[list[GroupAnswer], bool]:
        """Score groups and remember them, as `options` say.

        Args:
            namespace: Name of the namespace.
            groups: Groups; a prompt may appear more than once.
            options: How to score; None for the defaults.
            key: Idempotency key; empty for none.

        Returns:
            An answer per group, in order, and whether they are the replay of an earlier call's.

        Raises:
            NotFound: There is no such namespace.
            InvalidInput: The request is too large, wants something its metric does not have, or reuses the
                key of another request.
            FailedPrecondition: Texts are sent to a namespace of another embedding model.
        """
        options = options or ScoringOptions()
        fingerprint = _fingerprint(groups, options) if key else ""
        return self.score_as(namespace, groups, options, IdempotencyKey("score_groups", key, fingerprint))

    def score_as(
        self, namespace: str, groups: list[RolloutGroup], options: ScoringOptions, key: IdempotencyKey
    ) -> tuple[list[GroupAnswer], bool]:
        """Do as `score`, under an idempotency key with the caller's own operation and fingerprint."""
        self._check(groups, options)
        found = self._memory.namespace(namespace)
        answered = self._memory.replay(found, key)
        if answered is not None:
            return stored_answers.decode(answered), True
        prepared = prepare(self._memory, found, groups, options.metric, self._limits)
        instruments.ROLLOUTS.inc(sum(len(checked.group.correct) for checked in prepared.groups))
        result = self._memory.change(
            found,
            prepared.prompts(),
            key,
            lambda change: Attempt(change, options, prepared).run(),
            stored_answers.encode,
        )
        return (stored_answers.decode(result), True) if isinstance(result, str) else (result, False)

    def check_rollout(self, namespace: Namespace, rollout: RolloutGroup, metric: Metric) -> None:
        """Check a rollout of a group that is not complete yet.

        Raises:
            InvalidInput: The group would be refused because of it.
            FailedPrecondition: It has a text, and the namespace holds vectors of another model.
        """
        check_rollout(self._memory, namespace, rollout, metric, self._limits)

    def _check(self, groups: list[RolloutGroup], options: ScoringOptions) -> None:
        rollouts = sum(len(group.correct) for group in groups)
        limit = self._limits.rollouts_per_request
        if rollouts > limit:
            raise InvalidInput("groups", f"{rollouts} rollouts in one request; send at most {limit}")
        explains = options.metric in (*VECTOR_METRICS, Metric.OUTCOME)
        if options.explain and not explains:
            raise InvalidInput("explain", f"metric {options.metric} explains nothing; leave explain out")
        if options.vendi and options.metric not in VECTOR_METRICS:
            raise InvalidInput("vendi", f"metric {options.metric} compares no embeddings; leave vendi out")
        if options.scale is Scale.SHARE and options.metric is not Metric.DERIVATION:
            raise InvalidInput("scale", f"share is the share of a way: it needs metric {Metric.DERIVATION}")


@dataclass(frozen=True)
class RoundScores:
    """Scores of the rollouts that count in a round, one after the other: novelty float32 [m]."""

    novelty: Vectors
    found: Neighbours | None = None
    #: Scale share: float32 [m].
    shares: Vectors | None = None
    new_steps: list[list[str]] = field(default_factory=list)


class Attempt:
    """One attempt at scoring a batch, inside a Change."""

    def __init__(self, change: Change, options: ScoringOptions, prepared: PreparedGroups) -> None:
        self._change = change
        self._options = options
        self._prepared = prepared
        self._settings = change.namespace.settings
        needs_headers = options.track_reward_variance or options.metric not in VECTOR_METRICS
        self._headers = change.headers() if needs_headers else {}
        self._writes: dict[str, PromptWrite] = {}
        #: By index of the group: raw novelty of all its rollouts, and its answer so far.
        self._raw: dict[int, Vectors] = {}
        self._scores: dict[int, GroupScores] = {}
        #: Scale share: its scores by index of the group.
        self._shares: dict[int, Vectors] = {}

    def run(self) -> Computed[list[GroupAnswer]]:
        """Return the answers to all groups, and the write."""
        written_vectors = False
        if self._options.metric in VECTOR_METRICS:
            written_vectors = self._score_vectors()
        elif self._options.metric is Metric.NGRAM_COUNT:
            self._score_ngrams()
        elif self._options.metric is Metric.OUTCOME:
            self._score_outcomes()
        else:
            for checked in self._prepared.groups:
                logprobs = checked.group.sequence_logprobs
                assert logprobs is not None, "preparing has checked it"
                self._answer(checked, metrics.policy_surprise(logprobs, checked.group.correct))
        positive = self._positive()
        self._scale(positive)
        if self._options.track_reward_variance:
            self._track_variance()
        answers = list(self._prepared.answers)
        for checked in self._prepared.groups:
            answers[checked.index] = self._scores[checked.index]
        write = Write(
            self._writes,
            solutions=self._prepared.space if written_vectors else None,
            positive={self._options.metric: positive} if positive[1] else {},
        )
        done = [answer for answer in answers if answer is not None]
        return Computed(done, write if self._options.remembers else None)

    def _score_vectors(self) -> bool:
        """Score and remember in rounds; return whether vectors were remembered."""
        if not self._prepared.groups:
            return False
        check_space(self._change.namespace.solutions, self._prepared.space, self._change.namespace.name)
        index = self._change.rings(max(1, self._prepared.space.dimension))
        starts = np.cumsum([0, *(len(checked.rows) for checked in self._prepared.groups)]).tolist()
        for positions in _rounds(self._prepared.groups):
            groups = [self._prepared.groups[position] for position in positions]
            whole = len(groups) == len(self._prepared.groups)
            rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in positions])
            vectors, sketches = self._prepared.vectors, self._prepared.sketches
            if not whole:
                vectors = vectors[rows]
                sketches = None if sketches is None else sketches[rows]
            self._score_round(index, groups, vectors, sketches)
        return self._options.remembers and len(self._prepared.vectors) > 0

    def _score_round(
        self, index: RingIndex, groups: list[CheckedGroup], vectors: Vectors, sketches: Stored | None
    ) -> None:
        prompts = [checked.group.prompt_id for checked in groups]
        counts = np.array([len(checked.rows) for checked in groups], dtype=np.int64)
        before = index.sizes(prompts).tolist()
        scored = RoundScores(np.zeros(len(vectors), dtype=np.float32))
        if self._options.scores and len(vectors):
            with instruments.STAGES("search"):
                scored = self._scored(index, groups, counts, vectors, sketches)
        nearest: list[Nearest | None] = []
        if self._options.explain and scored.found is not None:
            nearest = self._explain(groups, scored.found)
        vendi = (
            metrics.vendi_scores(vectors, counts).tolist() if self._options.vendi else [None] * len(groups)
        )
        if self._options.remembers:
            # Once here, as index and store hold them, not for each prompt and in both.
            kept = self._change.namespace.as_stored(vectors)
            self._remember(index, groups, kept, sketches)
            RingScorer(index, self._settings).remember(prompts, counts, kept, sketches)
        after = index.sizes(prompts).tolist()
        start = 0
        for checked, had, has, diversity in zip(groups, before, after, vendi, strict=True):
            end = start + len(checked.rows)
            values = _at_places(checked, scored.novelty[start:end])
            self._answer(checked, values, had, has, self._spread(checked, nearest[start:end]), diversity)
            if scored.shares is not None:
                self._shares[checked.index] = _at_places(checked, scored.shares[start:end])
            if scored.new_steps:
                steps: list[list[str]] = [[] for _ in checked.group.correct]
                for row, new in zip(checked.rows.tolist(), scored.new_steps[start:end], strict=True):
                    steps[row] = new
                self._scores[checked.index] = replace(self._scores[checked.index], new_steps=steps)
            start = end

    def _scored(
        self,
        index: RingIndex,
        groups: list[CheckedGroup],
        counts: Counts,
        vectors: Vectors,
        sketches: Stored | None,
    ) -> "RoundScores":
        prompts, options = [checked.group.prompt_id for checked in groups], self._options
        if sketches is None:
            rings = RingScorer(index, self._settings)
            return RoundScores(*rings.score(prompts, counts, vectors, options.metric, options.explain))
        problems = np.stack([checked.problem for checked in groups if checked.problem is not None])
        related = np.concatenate([one.to_problem for one in groups if one.to_problem is not None])
        derivations = [each for checked in groups for each in checked.derivations]
        reaches = reaches_of(derivations, sketches)
        scorer = DerivationScorer(
            index, self._settings, prompts, counts, vectors, sketches, reaches, problems, related
        )
        novelty, found = scorer.novelty()
        scored = RoundScores(novelty, found)
        if options.explain:
            scored = replace(scored, new_steps=scorer.new_steps(derivations, novelty))
        if options.scale is Scale.SHARE:
            correct = np.concatenate([checked.group.correct[checked.rows] for checked in groups])
            scored = replace(scored, shares=scorer.shares(correct))
        return scored

    def _explain(self, groups: list[CheckedGroup], found: Neighbours) -> list[Nearest | None]:
        """Nearest neighbour of each rollout that counts; between equals, the stored one."""
        owners = [(checked, row) for checked in groups for row in range(len(checked.rows))]
        # Two vectors of one text may differ by a rounding.
        stored = (found.stored + metrics.LEAST_DISTANCE >= found.sibling) & (found.sequence >= 0)
        wanted = {
            (owners[i][0].group.prompt_id, int(found.sequence[i])) for i in stored.nonzero()[0].tolist()
        }
        excerpts = {**self._change.excerpts(wanted), **self._pending_excerpts(wanted)}
        nearest: list[Nearest | None] = []
        for i, (checked, _) in enumerate(owners):
            if stored[i]:
                number = int(found.sequence[i])
                excerpt = excerpts.get((checked.group.prompt_id, number), "")
                nearest.append(Nearest(NearestKind.SOLUTION, number, excerpt, float(found.stored[i])))
            elif np.isneginf(found.sibling[i]):
                nearest.append(None)
            else:
                row = int(checked.rows[found.position[i]])
                nearest.append(
                    Nearest(NearestKind.SIBLING, row, checked.excerpt(row), float(found.sibling[i]))
                )
        return nearest

    def _pending_excerpts(self, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """Excerpts of solutions of an earlier round, which are in the index and not yet in the store."""
        pending: dict[tuple[str, int], str] = {}
        for prompt, write in self._writes.items():
            if write.solutions is None:
                continue
            excerpts = write.solutions.excerpts
            first = self._change.rings_added(prompt) - len(excerpts)
            pending |= {(prompt, first + i): excerpt for i, excerpt in enumerate(excerpts)}
        return {key: pending[key] for key in wanted if key in pending}

    def _spread(self, checked: CheckedGroup, nearest: list[Nearest | None]) -> list[Nearest | None]:
        """Explanations of the rollouts that count, at their places among all."""
        if not self._options.explain:
            return []
        spread: list[Nearest | None] = [None] * len(checked.group.correct)
        for row, neighbour in zip(checked.rows.tolist(), nearest, strict=False):
            spread[row] = neighbour
        return spread

    def _remember(
        self,
        index: RingIndex,
        groups: list[CheckedGroup],
        vectors: NDArray[np.generic],
        sketches: Stored | None,
    ) -> None:
        start = 0
        for checked in groups:
            count = len(checked.rows)
            new = vectors[start : start + count]
            drawn = None if sketches is None else sketches[start : start + count]
            start += count
            if not count:
                continue
            prompt = checked.group.prompt_id
            excerpts = (
                [checked.excerpt(row) for row in checked.rows.tolist()]
                if checked.group.texts
                else [""] * count
            )
            earlier = self._writes.get(prompt)
            if earlier is None:
                self._writes[prompt] = PromptWrite(index.version(prompt), NewSolutions(new, excerpts, drawn))
                continue
            if earlier.solutions is not None:
                new = np.concatenate([earlier.solutions.vectors, new])
                excerpts = earlier.solutions.excerpts + excerpts
                if earlier.solutions.sketches is not None and drawn is not None:
                    drawn = np.concatenate([earlier.solutions.sketches, drawn])
            self._writes[prompt] = replace(earlier, solutions=NewSolutions(new, excerpts, drawn))

    def _score_ngrams(self) -> None:
        size = self._settings.ngram_size
        found = {
            checked.index: [metrics.ngrams(ids, size) for ids in checked.group.token_ids or []]
            for checked in self._prepared.groups
        }
        wanted: dict[str, set[bytes]] = {}
        for checked in self._prepared.groups:
            wanted.setdefault(checked.group.prompt_id, set()).update(*found[checked.index])
        counts = {prompt: Counter(known) for prompt, known in self._change.ngram_counts(wanted).items()}
        for checked in self._prepared.groups:
            prompt, responses = checked.group.prompt_id, found[checked.index]
            values = np.zeros(len(responses), dtype=np.float32)
            values[checked.rows] = [
                metrics.ngram_novelty(responses[row], counts[prompt]) for row in checked.rows.tolist()
            ]
            self._answer(checked, values)
            if not self._options.remembers:
                continue
            new = Counter(ngram for row in np.flatnonzero(checked.group.correct) for ngram in responses[row])
            counts[prompt] += new
            self._count_ngrams(prompt, new)

    def _count_ngrams(self, prompt: str, new: Counter[bytes]) -> None:
        earlier = self._writes.get(prompt) or PromptWrite(self._headers[prompt].version)
        self._writes[prompt] = replace(earlier, ngrams=Counter(earlier.ngrams) + new)

    def _score_outcomes(self) -> None:
        decay, capacity = self._settings.outcome_decay, self._settings.outcome_capacity
        options, stored = self._options, self._change.answer_counts()
        for checked in self._prepared.groups:
            prompt, group = checked.group.prompt_id, checked.group
            given, earlier = outcome_scoring.given_answers(group, options.outcome_scope), stored[prompt]
            changes = options.remembers and bool(given.rows) and bool(given.counts or decay < 1)
            if changes:
                stored[prompt] = outcome_scoring.counted(given, earlier, decay, capacity)
            values = outcome_scoring.outcome_novelty(given, earlier, decay, options.ignore_history)
            self._answer(checked, values, len(earlier), len(stored[prompt]))
            if options.explain:
                counts = outcome_scoring.explained(given, earlier, decay)
                self._scores[checked.index] = replace(
                    self._scores[checked.index],
                    answer_counts=counts,
                    correct=int(np.count_nonzero(group.correct)),
                )
            if changes:
                self._count_answers(prompt, stored[prompt])

    def _count_answers(self, prompt: str, counts: AnswerCounts) -> None:
        earlier = self._writes.get(prompt)
        self._writes[prompt] = (
            PromptWrite(self._headers[prompt].version, answer_counts=counts)
            if earlier is None
            else replace(earlier, answer_counts=counts)
        )

    def _answer(
        self,
        checked: CheckedGroup,
        values: Vectors,
        before: int | None = None,
        after: int | None = None,
        nearest: list[Nearest | None] | None = None,
        vendi: float | None = None,
    ) -> None:
        """Keep the raw novelty of a group; without sizes, the memory of solutions is left as it is."""
        if before is None or after is None:
            added = self._headers[checked.group.prompt_id].solutions_added
            before = after = min(added, self._settings.memory_capacity)
        if not self._options.scores:
            values = np.zeros_like(values)
        self._raw[checked.index] = values
        self._scores[checked.index] = GroupScores(
            values, before, after, nearest or [], None, vendi, suspicious=checked.reasons()
        )

    def _positive(self) -> tuple[float, int]:
        """Sum and number of the positive novelties of the batch."""
        if not self._raw:
            return 0.0, 0
        values = np.concatenate(list(self._raw.values()))
        positive = values[values > 0]
        return float(positive.sum(dtype=np.float64)), len(positive)

    def _scale(self, positive: tuple[float, int]) -> None:
        if self._options.scale is Scale.RAW:
            return
        if self._options.scale is Scale.SHARE:
            for index, values in self._raw.items():
                shares = self._shares.get(index, values)
                self._scores[index] = replace(self._scores[index], novelty=shares, raw=values)
            return
        total, count = self._change.namespace.positive.get(self._options.metric, (0.0, 0))
        total, count = total + positive[0], count + positive[1]
        mean = total / count if count else 1.0
        for index, values in self._raw.items():
            largest = float(values.max())
            divisor = mean if self._options.scale is Scale.RUNNING_MEAN else largest
            if divisor > LEAST_GROUP_MAX:
                scaled = (values / divisor).astype(np.float32)
                self._scores[index] = replace(self._scores[index], novelty=scaled, divisor=divisor)

    def _track_variance(self) -> None:
        """V <- (1 - rate) V + rate * population variance of the group's rewards, from V = 0."""
        rate = self._settings.variance_rate
        for checked in self._prepared.groups:
            prompt = checked.group.prompt_id
            earlier = self._writes.get(prompt)
            known = earlier.reward_variance if earlier is not None else None
            value = self._headers[prompt].reward_variance if known is None else known
            if self._options.remembers:
                value = (1 - rate) * value + rate * float(checked.group.correct.astype(np.float64).var())
                base = earlier or PromptWrite(self._headers[prompt].version)
                self._writes[prompt] = replace(base, reward_variance=value)
            self._scores[checked.index] = replace(self._scores[checked.index], reward_variance=value)


def _at_places(checked: CheckedGroup, values: Vectors) -> Vectors:
    """Put the values of the rollouts that count at their places among all; 0 for the others."""
    if len(checked.rows) == len(checked.group.correct):
        return values
    placed = np.zeros(len(checked.group.correct), dtype=np.float32)
    placed[checked.rows] = values
    return placed


def _rounds(groups: list[CheckedGroup]) -> list[list[int]]:
    """Positions in rounds, such that a prompt appears once in a round and its groups keep their order."""
    rounds: list[list[int]] = []
    seen: dict[str, int] = {}
    for position, checked in enumerate(groups):
        number = seen.get(checked.group.prompt_id, 0)
        seen[checked.group.prompt_id] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(position)
    return rounds


def _fingerprint(groups: list[RolloutGroup], options: ScoringOptions) -> str:
    """Distinguish requests well enough to notice a key that is used twice by mistake."""
    described = (
        str(options.metric),
        str(options.mode),
        str(options.scale),
        options.explain,
        options.track_reward_variance,
        options.vendi,
        str(options.outcome_scope),
        options.ignore_history,
    )
    digest = hashlib.blake2b(repr(described).encode(), digest_size=8)
    for group in groups:
        digest.update(group.prompt_id.encode())
        digest.update(group.correct.tobytes())
    return digest.hexdigest()
