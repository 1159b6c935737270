"""Scores the derivations of groups against the rings of their prompts, and against their siblings.

`derivation` compares two solutions; this module gathers what there is to compare with, for a whole batch. A
solution without a sketch (another metric has stored it, or an earlier release), or with an empty one (all its
numbers are those of the problem), is compared by the embedding alone, as the metric `embedding` does. That
distance is mostly smaller than the probability of another way, so such solutions make the novelties smaller,
never larger, until the ring has turned over.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from extra_services.memory.index import RingIndex
from extra_services.memory.records import SKETCH_BYTES, NamespaceSettings
from extra_services.novelty import derivation
from extra_services.novelty.derivation import FAMILIES, THRESHOLD, WORDS, Derivation, Sketches
from extra_services.novelty.metrics import LEAST_DISTANCE, Counts, Vectors
from extra_services.novelty.ring_scoring import Neighbours
from extra_services.novelty.share import share_scores, ways

#: Sketches that are compared at once take about this many bytes.
CHUNK_BYTES = 2**25
#: A longer step (a number may have thousands of digits) is named by its beginning.
STEP_CHARACTERS = 60
#: Novelty from which two solutions take different ways (scale share): a probability of 1/2.
LEAST_DIFFERENT = (0.5 - THRESHOLD) / (1 - THRESHOLD)

#: Sketches as they are stored, uint8 [..., SKETCH_BYTES].
Stored = NDArray[np.uint8]


def sketches_of(derivations: list[Derivation]) -> Stored:
    """Return the sketches as they are stored, uint8 [n, SKETCH_BYTES]."""
    made = [_as_stored(derivation.sketch(each)) for each in derivations]
    return np.stack(made) if made else np.zeros((0, SKETCH_BYTES), dtype=np.uint8)


def reaches_of(derivations: list[Derivation], sketches: Stored) -> Stored:
    """Return `reach` of the derivations as it would be stored, uint8 [n, SKETCH_BYTES].

    Args:
        derivations: Of the solutions, [n].
        sketches: Of the same, uint8 [n, SKETCH_BYTES]; most solutions reach no further.
    """
    rescaled = [row for row, each in enumerate(derivations) if each.rescaled]
    if not rescaled:
        return sketches
    reaches = sketches.copy()
    for row in rescaled:
        reaches[row] = _as_stored(derivation.reach(derivations[row]))
    return reaches


class DerivationScorer:
    """Scores the groups of prompts that are checked out of `index`.

    Groups lie one after the other: the first `counts[0]` of the vectors, float32 [m, dimension], and of the
    sketches, uint8 [m, SKETCH_BYTES], belong to `prompts[0]`, and so on. A prompt appears once. `reaches` are
    what `reaches_of` returns. `problems` are the unit vectors of the problems, float32 [len(prompts),
    dimension], NaN where one is not known, and `related` the similarities of the whole texts to them, by
    which novelty is paid in part, float32 [m].
    """

    def __init__(
        self,
        index: RingIndex,
        settings: NamespaceSettings,
        prompts: list[str],
        counts: Counts,
        vectors: Vectors,
        sketches: Stored,
        reaches: Stored,
        problems: Vectors,
        related: Vectors,
    ) -> None:
        self._index = index
        self._settings = settings
        self._prompts = prompts
        self._counts = counts
        self._vectors = vectors
        self._sketches = _opened(sketches)
        self._reaches = _opened(reaches)
        self._problems = problems
        self._related = related
        self._to_problem = np.einsum("ij,ij->i", vectors, np.repeat(problems, counts, axis=0))
        self._history = index.sizes(prompts)

    def novelty(self) -> tuple[Vectors, Neighbours]:
        """Return the novelties, float32 [m], and the nearest neighbours: those likeliest to be its way."""
        novelty = np.zeros(len(self._vectors), dtype=np.float32)
        # One of the two is the nearest; the other stays as if there were none.
        stored = np.full(len(novelty), -np.inf, dtype=np.float32)
        sibling = stored.copy()
        sequence = np.full(len(novelty), -1, dtype=np.int64)
        position = np.zeros(len(novelty), dtype=np.int64)
        kept = int(self._history.max(initial=0))
        for groups, rows in self._chunks(kept):
            values, place, known = self._compare(groups, rows, kept)
            novelty[rows] = values
            similarity = known.similarity[np.arange(len(place)), place]
            of_ring, of_siblings = (place >= 0) & (place < kept), place >= kept
            stored[rows] = np.where(of_ring, similarity, -np.inf)
            sibling[rows] = np.where(of_siblings, similarity, -np.inf)
            if kept:
                sequence[rows] = np.where(of_ring, known.sequence[np.arange(len(place)), place % kept], -1)
            position[rows] = np.where(of_siblings, place - kept, 0)
        enough = np.repeat(self._history >= self._settings.min_history, self._counts)
        return np.where(enough, novelty, np.float32(0)), Neighbours(stored, sequence, sibling, position)

    def shares(self, correct: NDArray[np.bool_]) -> Vectors:
        """Return the scores of the scale `share`, float32 [m]; 0 for wrong rollouts.

        Solutions without steps of their own are left out: they are no way, and score 0.

        Args:
            correct: Whether each rollout is correct, bool [m].
        """
        scores = np.zeros(len(self._vectors), dtype=np.float32)
        ends = np.cumsum(self._counts)
        starts = (ends - self._counts).tolist()
        for prompt, problem, size, start, end in zip(
            self._prompts, self._problems, self._history.tolist(), starts, ends.tolist(), strict=True
        ):
            rows = np.flatnonzero(self._sketches[start:end].any(axis=(1, 2))) + start
            if size < self._settings.min_history or not len(rows):
                continue
            vectors, sketches = self._remembered(prompt)
            remembered = len(vectors)
            numbers = ways(
                _different(
                    np.concatenate([vectors, self._vectors[rows]]),
                    np.concatenate([sketches, self._sketches[rows]]),
                    np.concatenate([sketches, self._reaches[rows]]),
                    problem,
                ),
                LEAST_DIFFERENT,
            )
            scores[rows] = share_scores(numbers[:remembered], numbers[remembered:], correct[rows])
        return scores

    def new_steps(self, found: list[Derivation], novelty: Vectors) -> list[list[str]]:
        """Return the steps of each rollout that no remembered solution has; none where the novelty is 0."""
        owners = np.repeat(np.arange(len(self._prompts)), self._counts)
        steps: list[list[str]] = [[] for _ in found]
        novel = np.flatnonzero(novelty > 0).tolist()
        for owner in sorted({int(owners[row]) for row in novel}):
            known = _opened(self._index.sketches([self._prompts[owner]])[0])
            for row in (row for row in novel if owners[row] == owner):
                steps[row] = [_short(step) for step in derivation.new_steps(found[row], known)]
        return steps

    def _remembered(self, prompt: str) -> tuple[Vectors, Sketches]:
        """Vectors and sketches of the remembered solutions that have steps, oldest first."""
        sequences, vectors = self._index.solutions(prompt)
        sketches = _opened(self._index.sketches([prompt])[0])[sequences % self._settings.memory_capacity]
        stepped = sketches.any(axis=(1, 2))
        return vectors[stepped], sketches[stepped]

    def _chunks(self, kept: int) -> Iterator[tuple[slice, slice]]:
        """Yield groups, and their rows, whose comparisons fit into CHUNK_BYTES; at least one group."""
        first = start = row = widest = 0
        for number, count in enumerate(self._counts.tolist()):
            wider = max(widest, count)
            if number > first and (row + count - start) * (kept + wider) * SKETCH_BYTES > CHUNK_BYTES:
                yield slice(first, number), slice(start, row)
                first, start, wider = number, row, count
            row, widest = row + count, wider
        if row > start:
            yield slice(first, len(self._counts)), slice(start, row)

    def _compare(self, groups: slice, rows: slice, kept: int) -> tuple[Vectors, Counts, "_Known"]:
        """Return novelty and place of the nearest known solution, -1 for none, of the rows of some groups."""
        new = self._sketches[rows]
        known = self._known(groups, rows, kept)
        stepped = known.sketches.any(axis=(2, 3))
        novelty, place = derivation.derivation_novelty(
            known.apart,
            new,
            known.sketches,
            known.present & stepped,
            self._related[rows],
            self._reaches[rows],
        )
        distance = np.where(known.present & ~stepped, 1 - known.similarity, np.float32(np.inf))
        if distance.shape[1]:
            nearest = distance.argmin(axis=1)
            least = distance.min(axis=1)
            closer = least < novelty
            novelty = np.where(closer, np.where(least < LEAST_DISTANCE, 0, least), novelty)
            place = np.where(closer, nearest, place)
        return novelty, place, known

    def _known(self, groups: slice, rows: slice, kept: int) -> "_Known":
        """Gather the ring and the siblings of each row."""
        prompts, counts, vectors = self._prompts[groups], self._counts[groups], self._vectors[rows]
        owners = np.repeat(np.arange(len(prompts)), counts)
        if kept:
            similarity, sequence = self._index.nearest(prompts, counts, vectors, kept)
            rings = _opened(self._index.sketches(prompts))
            places = owners[:, None], sequence % self._settings.memory_capacity
            remembered = rings[places]
            to_problem = self._ring_to_problem(groups, kept)[places]
        else:
            similarity, sequence = (
                np.zeros((len(vectors), 0), np.float32),
                np.zeros((len(vectors), 0), np.int64),
            )
            to_problem = similarity
            remembered = np.zeros((len(vectors), 0, FAMILIES, WORDS), dtype=np.uint64)
        starts = (np.cumsum(counts) - counts)[owners]
        positions = np.arange(int(counts.max(initial=0)))
        siblings = np.minimum(starts[:, None] + positions, len(vectors) - 1)
        itself = starts[:, None] + positions == np.arange(len(vectors))[:, None]
        present = (positions < counts[owners][:, None]) & ~itself
        products = np.matmul(vectors[siblings], vectors[:, :, None])[..., 0]
        joined = np.concatenate([similarity, products], axis=1)
        joined[np.isneginf(joined)] = 0
        own = self._to_problem[rows]
        apart = derivation.apart_from_problem(
            joined, own[:, None], np.concatenate([to_problem, own[siblings]], axis=1)
        )
        return _Known(
            joined,
            apart,
            np.concatenate([remembered, self._sketches[rows][siblings]], axis=1),
            np.concatenate([sequence >= 0, present], axis=1),
            sequence,
        )

    def _ring_to_problem(self, groups: slice, kept: int) -> Vectors:
        """Similarity of remembered solutions to their problem, by place in the ring: [prompts, capacity]."""
        prompts, problems = self._prompts[groups], np.nan_to_num(self._problems[groups])
        found, sequence = self._index.nearest(prompts, np.ones(len(prompts), np.int64), problems, kept)
        placed = np.zeros((len(prompts), self._settings.memory_capacity), dtype=np.float32)
        owner, place = np.nonzero(sequence >= 0)
        placed[owner, sequence[owner, place] % self._settings.memory_capacity] = found[owner, place]
        return placed


class _Known:
    """What each of n rows is compared with: the ring first, then the places of its group."""

    def __init__(
        self,
        similarity: Vectors,
        apart: Vectors,
        sketches: Sketches,
        present: NDArray[np.bool_],
        sequence: Counts,
    ) -> None:
        #: float32 [n, k]; 0 where there is nothing.
        self.similarity = similarity.astype(np.float32, copy=False)
        #: The same, apart from the problem if it is known.
        self.apart = apart.astype(np.float32, copy=False)
        #: uint64 [n, k, FAMILIES, WORDS].
        self.sketches = sketches
        #: bool [n, k].
        self.present = present
        #: Of the ring, int64 [n, kept], -1 for none.
        self.sequence = sequence


def _short(step: str) -> str:
    return step if len(step) <= STEP_CHARACTERS else step[: STEP_CHARACTERS - 3] + "..."


def _as_stored(bitmaps: Sketches) -> Stored:
    """Return the bitmaps of one derivation as they are stored, uint8 [SKETCH_BYTES]."""
    return bitmaps.astype("<u8", copy=False).view(np.uint8).ravel()


def _opened(stored: Stored) -> Sketches:
    """View stored sketches, uint8 [..., SKETCH_BYTES], as `derivation` takes them."""
    opened: Sketches = np.ascontiguousarray(stored).view("<u8").reshape(*stored.shape[:-1], FAMILIES, WORDS)
    return opened


def _different(vectors: Vectors, sketches: Sketches, reaches: Sketches, problem: Vectors) -> Vectors:
    """Return the novelty of each solution beside each single other one, float32 [m, m].

    Args:
        vectors: Of the solutions, float32 [m, dimension].
        sketches: Of the solutions, uint64 [m, FAMILIES, WORDS].
        reaches: Of the solutions, likewise.
        problem: Vector of their problem, float32 [dimension]; NaN if it is not known. If it is, the solutions
            are about it: others were left out.
    """
    count = len(vectors)
    to_problem = vectors @ problem
    similarity = derivation.apart_from_problem(vectors @ vectors.T, to_problem[:, None], to_problem)
    stated = not np.isnan(problem).any()
    different = np.zeros((count, count), dtype=np.float32)
    size = max(1, CHUNK_BYTES // (count * SKETCH_BYTES))
    for start in range(0, count, size):
        rows = slice(start, start + size)
        pairs = similarity[rows].reshape(-1, 1)
        new, sought = (np.repeat(each[rows], count, axis=0) for each in (sketches, reaches))
        known = np.tile(sketches, (len(pairs) // count, 1, 1))[:, None]
        related = np.full(len(pairs), 1 if stated else np.nan, dtype=np.float32)
        present = np.ones(pairs.shape, dtype=np.bool_)
        novelty, _ = derivation.derivation_novelty(pairs, new, known, present, related, sought)
        different[rows] = novelty.reshape(-1, count)
    return different
