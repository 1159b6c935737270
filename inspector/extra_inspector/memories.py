"""A prompt's memory of correct solutions, as a map: from the run's own store, or from a live novelty service.

A map needs only the cosine similarities between the solutions. Their vectors have unit length, so the matrix
of similarities is the Gram matrix, and the principal components of the vectors are the eigenvectors of the
centred matrix. The run's own store is read as a file (`memory_file`); a live service is asked for the
neighbours of the solutions' texts. Neither changes anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extra_client import NeighborQuery, NoveltyClient, PrefixCandidate, PrefixClient
from extra_inspector.memory_file import MemoryUnavailable, read_solutions
from extra_trainer.runs.folder import RunFolder

#: Most texts that a live service is asked about; a page cannot show more solutions.
MOST_SOLUTIONS = 128


@dataclass(frozen=True)
class SolutionMap:
    """The stored solutions of a prompt, with their places on a map."""

    #: [m]: their numbers among all ever stored for the prompt.
    numbers: list[int]
    #: [m, 2]: the first two principal components of their vectors.
    places: NDArray[np.float64]
    #: Shares of the variance in the first and the second component.
    explained: tuple[float, float]
    #: [m]: row of the nearest other solution, and the similarity to it; -1 if there is no other.
    nearest: list[int]
    similarity: list[float]
    #: [m]: the first characters of each solution's text.
    excerpts: list[str]


def map_of(numbers: Sequence[int], similarities: NDArray[np.float64], excerpts: Sequence[str]) -> SolutionMap:
    """Return the map of solutions from their cosine similarities.

    Args:
        numbers: [m]: numbers of the solutions.
        similarities: [m, m].
        excerpts: [m]: beginnings of their texts.
    """
    m = len(numbers)
    centred = (
        similarities - similarities.mean(axis=0) - similarities.mean(axis=1)[:, None] + similarities.mean()
    )
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    values = np.clip(values[::-1][:2], 0, None)
    places = np.zeros((m, 2))
    places[:, : len(values)] = vectors[:, ::-1][:, :2] * np.sqrt(values)
    total = max(float(np.trace(centred)), 1e-12)
    shares = [float(value) / total for value in values] + [0.0, 0.0]
    others = similarities - 3 * np.eye(m)
    nearest = others.argmax(axis=1).tolist() if m > 1 else [-1] * m
    return SolutionMap(
        list(numbers),
        places,
        (shares[0], shares[1]),
        nearest,
        [float(similarities[row, other]) if other >= 0 else 0.0 for row, other in enumerate(nearest)],
        list(excerpts),
    )


@dataclass
class StoredMemories:
    """The memory that a run stores in its folder."""

    folder: RunFolder

    #: Name of the memory on the page.
    source = "the run's own memory"

    def map(self, prompt_id: str, texts: Mapping[int, str]) -> SolutionMap:
        """Return the map of a prompt's solutions; `texts` are not needed.

        Raises:
            MemoryUnavailable: There is no store that this release reads, or no solution of the prompt in it.
        """
        path = self.folder.memory / "memory.sqlite"
        if not path.is_file():
            raise MemoryUnavailable(
                "The run folder holds no memory: the run used a novelty service of its own. "
                "Give its address with --novelty."
            )
        stored = read_solutions(path, self.folder.existing_identity(), prompt_id)
        if not stored:
            raise MemoryUnavailable("No solution of this prompt is stored.")
        vectors = np.stack([solution.vector for solution in stored]).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        numbers = [solution.number for solution in stored]
        return map_of(numbers, vectors @ vectors.T, [solution.excerpt for solution in stored])


@dataclass
class LiveMemories:
    """A live novelty server, which serves the prefix memory too."""

    address: str
    namespace: str
    source: str = field(init=False)

    def __post_init__(self) -> None:
        self.source = f"the novelty service at {self.address}"
        self._novelty = NoveltyClient(self.address, self.namespace)
        self._prefixes = PrefixClient(self.address, self.namespace)

    def map(self, prompt_id: str, texts: Mapping[int, str]) -> SolutionMap:
        """Return the map of a prompt's solutions.

        Args:
            prompt_id: The prompt.
            texts: Solution number -> text; the service is asked about the latest MOST_SOLUTIONS.

        Raises:
            MemoryUnavailable: The service stores none of these solutions.
            ExtraError: The service cannot be reached or refused the request.
        """
        asked = dict(sorted(texts.items())[-MOST_SOLUTIONS:])
        found: dict[int, dict[int, float]] = {}
        excerpts: dict[int, str] = {}
        queries = [NeighborQuery(prompt_id=prompt_id, text=text) for text in asked.values()]
        if not queries:
            raise MemoryUnavailable("No solution of this prompt is stored.")
        answers = self._novelty.query_neighbors(queries, k=MOST_SOLUTIONS)
        for number, answer in zip(asked, answers, strict=True):
            if answer.error is not None:
                raise answer.error
            near = {n.solution_id: n for n in answer.neighbors if n.solution_id is not None}
            found[number] = {solution: neighbour.similarity for solution, neighbour in near.items()}
            excerpts |= {solution: neighbour.excerpt for solution, neighbour in near.items()}
        # A stored solution is among its own neighbours.
        numbers = [number for number in found if number in found[number]]
        if not numbers:
            raise MemoryUnavailable(
                "The service stores no solution of this prompt that is in the run folder."
            )
        matrix = np.array([[found[row].get(column, 0.0) for column in numbers] for row in numbers])
        np.fill_diagonal(matrix, 1.0)
        return map_of(numbers, (matrix + matrix.T) / 2, [excerpts[number] for number in numbers])

    def prefixes(self, prompt_id: str) -> tuple[PrefixCandidate, ...]:
        """Return the prefixes stored now, oldest first, with their outcomes.

        Raises:
            ExtraError: The service cannot be reached or refused the request.
        """
        (found,) = self._prefixes.list_prefixes([prompt_id])
        if found.error is not None:
            raise found.error
        return found.prefixes
