"""Scoring groups of rollouts against the memory of their prompts: the domain of the novelty service.

A request goes through four steps. `preparing` checks each group and makes vectors of what counts; with the
prompts locked, an `Attempt` scores the whole batch, by one search of the rings (`ring_scoring`) where the
metric compares vectors, and says what is to be remembered; one durable write remembers it together with the
answer. Groups of a prompt that appears more than once are taken in order, in rounds.
"""

import hashlib
from collections import Counter
from dataclasses import astuple, replace

import numpy as np

from extra_services.errors import InvalidInput
from extra_services.memory import instruments
from extra_services.memory.index import RingIndex
from extra_services.memory.memory import Change, Computed, Key, Memory, check_space
from extra_services.memory.records import Namespace, NewSolutions, PromptWrite, Write
from extra_services.novelty import answers as stored_answers
from extra_services.novelty import metrics
from extra_services.novelty.preparing import Batch, Item, check_rollout, prepare
from extra_services.novelty.request import (
    VECTOR_METRICS,
    GroupAnswer,
    GroupScores,
    Limits,
    Metric,
    Nearest,
    Options,
    RolloutGroup,
    Vectors,
)
from extra_services.novelty.ring_scoring import Neighbours, RingScorer

#: A group whose largest novelty is not above this is not scaled to 1.
LEAST_GROUP_MAX = 1e-8


class NoveltyScorer:
    """Scores and remembers groups. Thread-safe; blocks while it embeds and commits."""

    def __init__(self, memory: Memory, limits: Limits | None = None) -> None:
        self._memory = memory
        self._limits = limits or Limits()

    def score(
        self, namespace: str, groups: list[RolloutGroup], options: Options | None = None, key: str = ""
    ) -> tuple[list[GroupAnswer], bool]:
        """An answer per group, in order, and whether it is the replay of an earlier one.

        NotFound for an unknown namespace; InvalidInput for a request that is too large, asks for what its
        metric has not, or reuses the key of another; FailedPrecondition if texts are sent to a namespace of
        another embedding model.
        """
        options = options or Options()
        return self.score_named(
            namespace, groups, options, Key("score_groups", key, _fingerprint(groups, options) if key else "")
        )

    def score_named(
        self, namespace: str, groups: list[RolloutGroup], options: Options, key: Key
    ) -> tuple[list[GroupAnswer], bool]:
        """As `score`, for a caller that names the write itself."""
        self._check(groups, options)
        found = self._memory.store.namespace(namespace)
        answered = self._memory.replay(found, key)
        if answered is not None:
            return stored_answers.decode(answered), True
        batch = prepare(self._memory, found, groups, options.metric, self._limits)
        instruments.ROLLOUTS.inc(sum(len(item.group.correct) for item in batch.items))
        result = self._memory.change(
            namespace,
            dict.fromkeys(item.group.prompt_id for item in batch.items),
            key,
            lambda change: Attempt(change, options, batch).run(),
            stored_answers.encode,
        )
        return (stored_answers.decode(result), True) if isinstance(result, str) else (result, False)

    def check_rollout(self, namespace: Namespace, rollout: RolloutGroup, metric: Metric) -> None:
        """InvalidInput or FailedPrecondition for what would fail the group that this rollout is to be of."""
        check_rollout(self._memory, namespace, rollout, metric, self._limits)

    def _check(self, groups: list[RolloutGroup], options: Options) -> None:
        rollouts = sum(len(group.correct) for group in groups)
        limit = self._limits.rollouts_per_request
        if rollouts > limit:
            raise InvalidInput("groups", f"{rollouts} rollouts in one request; send at most {limit}")
        if options.metric not in VECTOR_METRICS and (options.explain or options.vendi):
            field = "explain" if options.explain else "vendi"
            raise InvalidInput(field, f"metric {options.metric} compares no embeddings; leave {field} out")


class Attempt:
    """One attempt at scoring a batch, inside a Change."""

    def __init__(self, change: Change, options: Options, batch: Batch) -> None:
        self._change = change
        self._options = options
        self._batch = batch
        self._settings = change.namespace.settings
        needs_headers = options.track_reward_variance or options.metric not in VECTOR_METRICS
        self._headers = change.headers() if needs_headers else {}
        self._writes: dict[str, PromptWrite] = {}
        #: By item: raw novelty of all its rollouts, and its answer so far.
        self._raw: dict[int, Vectors] = {}
        self._scores: dict[int, GroupScores] = {}

    def run(self) -> Computed[list[GroupAnswer]]:
        """Answers for all groups, and the write."""
        written_vectors = False
        if self._options.metric in VECTOR_METRICS:
            written_vectors = self._score_vectors()
        elif self._options.metric == "ngram_count":
            self._score_ngrams()
        else:
            for item in self._batch.items:
                logprobs = item.group.sequence_logprobs
                assert logprobs is not None, "preparing has checked it"
                self._answer(item, metrics.policy_surprise(logprobs, item.group.correct))
        positive = self._positive()
        self._scale(positive)
        if self._options.track_reward_variance:
            self._track_variance()
        answers = list(self._batch.answers)
        for item in self._batch.items:
            answers[item.index] = self._scores[item.index]
        write = Write(
            self._writes,
            solutions=self._batch.space if written_vectors else None,
            positive={self._options.metric: positive} if positive[1] else {},
        )
        done = [answer for answer in answers if answer is not None]
        return Computed(done, write if self._options.remembers else None)

    def _score_vectors(self) -> bool:
        """Scores and remembers in rounds; whether vectors were remembered."""
        if not self._batch.items:
            return False
        check_space(self._change.namespace.solutions, self._batch.space, self._change.namespace.name)
        index = self._change.rings(max(1, self._batch.space.dimension))
        starts = np.cumsum([0, *(len(item.rows) for item in self._batch.items)]).tolist()
        for positions in _rounds(self._batch.items):
            items = [self._batch.items[position] for position in positions]
            whole = len(items) == len(self._batch.items)
            parts = [self._batch.vectors[starts[i] : starts[i + 1]] for i in positions]
            self._score_round(index, items, self._batch.vectors if whole else np.concatenate(parts))
        return self._options.remembers and len(self._batch.vectors) > 0

    def _score_round(self, index: RingIndex, items: list[Item], vectors: Vectors) -> None:
        prompts = [item.group.prompt_id for item in items]
        counts = np.array([len(item.rows) for item in items], dtype=np.int64)
        before = index.sizes(prompts).tolist()
        rings = RingScorer(index, self._settings)
        novelty = np.zeros(len(vectors), dtype=np.float32)
        nearest: list[Nearest | None] = []
        if self._options.scores and len(vectors):
            explain = self._options.explain
            with instruments.STAGES("search"):
                novelty, found = rings.score(prompts, counts, vectors, self._options.metric, explain)
            if explain and found is not None:
                nearest = self._explain(items, found)
        vendi = metrics.vendi_scores(vectors, counts).tolist() if self._options.vendi else [None] * len(items)
        if self._options.remembers:
            self._remember(index, items, vectors)
            rings.remember(prompts, counts, vectors)
        after = index.sizes(prompts).tolist()
        start = 0
        for item, had, has, diversity in zip(items, before, after, vendi, strict=True):
            end = start + len(item.rows)
            values = novelty[start:end]
            if len(item.rows) < len(item.group.correct):
                values = np.zeros(len(item.group.correct), dtype=np.float32)
                values[item.rows] = novelty[start:end]
            self._answer(item, values, had, has, self._spread(item, nearest[start:end]), diversity)
            start = end

    def _explain(self, items: list[Item], found: Neighbours) -> list[Nearest | None]:
        """The nearest neighbour of each rollout that counts; of equals the stored one."""
        owners = [(item, row) for item in items for row in range(len(item.rows))]
        stored = (found.stored >= found.sibling) & (found.sequence >= 0)
        wanted = {
            (owners[i][0].group.prompt_id, int(found.sequence[i])) for i in stored.nonzero()[0].tolist()
        }
        excerpts = {**self._change.excerpts(wanted), **self._pending_excerpts(wanted)}
        nearest: list[Nearest | None] = []
        for i, (item, _) in enumerate(owners):
            if stored[i]:
                number = int(found.sequence[i])
                excerpt = excerpts.get((item.group.prompt_id, number), "")
                nearest.append(Nearest("solution", number, excerpt, float(found.stored[i])))
            elif np.isneginf(found.sibling[i]):
                nearest.append(None)
            else:
                row = int(item.rows[found.position[i]])
                nearest.append(Nearest("sibling", row, item.excerpt(row), float(found.sibling[i])))
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

    def _spread(self, item: Item, nearest: list[Nearest | None]) -> list[Nearest | None]:
        """Explanations of the rollouts that count, at their places among all."""
        if not self._options.explain:
            return []
        spread: list[Nearest | None] = [None] * len(item.group.correct)
        for row, neighbour in zip(item.rows.tolist(), nearest, strict=False):
            spread[row] = neighbour
        return spread

    def _remember(self, index: RingIndex, items: list[Item], vectors: Vectors) -> None:
        start = 0
        for item in items:
            count = len(item.rows)
            new = vectors[start : start + count]
            start += count
            if not count:
                continue
            prompt = item.group.prompt_id
            excerpts = [item.excerpt(row) for row in item.rows.tolist()] if item.group.texts else [""] * count
            earlier = self._writes.get(prompt)
            if earlier is None:
                self._writes[prompt] = PromptWrite(index.version(prompt), NewSolutions(new, excerpts))
                continue
            if earlier.solutions is not None:
                new = np.concatenate([earlier.solutions.vectors, new])
                excerpts = earlier.solutions.excerpts + excerpts
            self._writes[prompt] = replace(earlier, solutions=NewSolutions(new, excerpts))

    def _score_ngrams(self) -> None:
        size = self._settings.ngram_size
        found = {
            item.index: [metrics.ngrams(ids, size) for ids in item.group.token_ids or []]
            for item in self._batch.items
        }
        wanted: dict[str, set[bytes]] = {}
        for item in self._batch.items:
            wanted.setdefault(item.group.prompt_id, set()).update(*found[item.index])
        counts = {prompt: Counter(known) for prompt, known in self._change.ngram_counts(wanted).items()}
        for item in self._batch.items:
            prompt, responses = item.group.prompt_id, found[item.index]
            values = np.zeros(len(responses), dtype=np.float32)
            values[item.rows] = [
                metrics.ngram_novelty(responses[row], counts[prompt]) for row in item.rows.tolist()
            ]
            self._answer(item, values)
            if not self._options.remembers:
                continue
            new = Counter(ngram for row in np.flatnonzero(item.group.correct) for ngram in responses[row])
            counts[prompt] += new
            self._count_ngrams(prompt, new)

    def _count_ngrams(self, prompt: str, new: Counter[bytes]) -> None:
        earlier = self._writes.get(prompt) or PromptWrite(self._headers[prompt].version)
        self._writes[prompt] = replace(earlier, ngrams=Counter(earlier.ngrams) + new)

    def _answer(
        self,
        item: Item,
        values: Vectors,
        before: int | None = None,
        after: int | None = None,
        nearest: list[Nearest | None] | None = None,
        vendi: float | None = None,
    ) -> None:
        """Notes an item's raw novelty; metrics that use no solutions leave their number as it is."""
        if before is None or after is None:
            added = self._headers[item.group.prompt_id].solutions_added
            before = after = min(added, self._settings.memory_capacity)
        if not self._options.scores:
            values = np.zeros_like(values)
        self._raw[item.index] = values
        self._scores[item.index] = GroupScores(values, before, after, nearest or [], None, vendi)

    def _positive(self) -> tuple[float, int]:
        """Sum and number of the positive novelties of the batch."""
        if not self._raw:
            return 0.0, 0
        values = np.concatenate(list(self._raw.values()))
        positive = values[values > 0]
        return float(positive.sum(dtype=np.float64)), len(positive)

    def _scale(self, positive: tuple[float, int]) -> None:
        if self._options.scale == "raw":
            return
        total, count = self._change.namespace.positive.get(self._options.metric, (0.0, 0))
        total, count = total + positive[0], count + positive[1]
        mean = total / count if count else 1.0
        for index, values in self._raw.items():
            largest = float(values.max())
            divisor = mean if self._options.scale == "running_mean" else largest
            if divisor > LEAST_GROUP_MAX:
                scaled = (values / divisor).astype(np.float32)
                self._scores[index] = replace(self._scores[index], novelty=scaled, divisor=divisor)

    def _track_variance(self) -> None:
        """V <- (1 - rate) V + rate * population variance of the group's rewards, from V = 0."""
        rate = self._settings.variance_rate
        for item in self._batch.items:
            prompt = item.group.prompt_id
            earlier = self._writes.get(prompt)
            known = earlier.reward_variance if earlier is not None else None
            value = self._headers[prompt].reward_variance if known is None else known
            if self._options.remembers:
                value = (1 - rate) * value + rate * float(item.group.correct.astype(np.float64).var())
                base = earlier or PromptWrite(self._headers[prompt].version)
                self._writes[prompt] = replace(base, reward_variance=value)
            self._scores[item.index] = replace(self._scores[item.index], reward_variance=value)


def _rounds(items: list[Item]) -> list[list[int]]:
    """Positions in rounds, such that a prompt appears once in a round and its groups keep their order."""
    rounds: list[list[int]] = []
    seen: dict[str, int] = {}
    for position, item in enumerate(items):
        number = seen.get(item.group.prompt_id, 0)
        seen[item.group.prompt_id] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(position)
    return rounds


def _fingerprint(groups: list[RolloutGroup], options: Options) -> str:
    """Tells requests apart as far as needed to notice a key used twice by mistake."""
    digest = hashlib.blake2b(repr(astuple(options)).encode(), digest_size=8)
    for group in groups:
        digest.update(group.prompt_id.encode())
        digest.update(group.correct.tobytes())
    return digest.hexdigest()
