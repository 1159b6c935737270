"""A prompt's memory of correct solutions, as a map: from the run's own store, or from a live novelty service.

All a map needs are the cosine similarities between the solutions. Their vectors have unit length, so that the
matrix of similarities is the Gram matrix, and the principal components of the vectors are its eigenvectors
once it is centred. The run's store is read as it lies there, without a server and without writing; a live
service is asked for the neighbours of the solutions' texts, which changes nothing either.
"""

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extra_client import NeighborQuery, NoveltyClient, PrefixCandidate, PrefixClient
from extra_trainer.runs.folder import RunFolder

#: Of the store that is read here.
SCHEMA_VERSION = 2
#: Texts that a live service is asked about: more than any ring holds that a page can show.
MOST = 128


@dataclass(frozen=True)
class Map:
    """The stored solutions of a prompt."""

    #: [m]: their numbers among all ever stored for the prompt.
    numbers: list[int]
    #: [m, 2]: the first two principal components of their vectors.
    places: NDArray[np.float64]
    #: Shares of the variance that the two account for.
    explained: tuple[float, float]
    #: [m]: row of the nearest other solution, and the similarity to it; -1 where there is no other.
    nearest: list[int]
    similarity: list[float]
    #: [m]: the first characters of each solution's text.
    excerpts: list[str]


class MemoryUnavailable(RuntimeError):
    """There is no memory to show; the message says why."""


def map_of(numbers: Sequence[int], similarities: NDArray[np.float64], excerpts: Sequence[str]) -> Map:
    """The map of solutions from their cosine similarities [m, m]."""
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
    return Map(
        list(numbers),
        places,
        (shares[0], shares[1]),
        nearest,
        [float(similarities[row, other]) if other >= 0 else 0.0 for row, other in enumerate(nearest)],
        list(excerpts),
    )


@dataclass
class StoredMemories:
    """The store that a run keeps in its folder."""

    folder: RunFolder

    #: Said beside the map.
    source = "the run's own memory"

    def map(self, prompt_id: str, texts: dict[int, str]) -> Map:
        """MemoryUnavailable if there is no store, another release made it, or it knows no such prompt."""
        path = self.folder.memory / "memory.sqlite"
        if not path.is_file():
            raise MemoryUnavailable(
                "The run folder holds no memory: its novelty service was another's. "
                "Give its address with --novelty."
            )
        identity = self.folder.path / "identity"
        namespace = identity.read_text(encoding="utf-8") if identity.is_file() else ""
        rows = _read(path, namespace, prompt_id)
        if not rows:
            raise MemoryUnavailable("No solution of this prompt is stored.")
        vectors = np.stack([vector for _, vector, _ in rows]).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return map_of(
            [number for number, _, _ in rows], vectors @ vectors.T, [excerpt for *_, excerpt in rows]
        )


def _read(path: Path, namespace: str, prompt_id: str) -> list[tuple[int, NDArray[np.float32], str]]:
    # Without a log beside it nobody writes; then it is read as it lies there, and no file is made.
    written = path.with_name(path.name + "-wal").exists()
    address = f"{path.resolve().as_uri()}?{'mode=ro' if written else 'immutable=1'}"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise MemoryUnavailable(
                f"The run's memory has schema {version}: read it with the release that made it."
            )
        rows = connection.execute(
            "SELECT s.sequence, s.vector, s.excerpt, n.solutions_dimension FROM solutions s"
            " JOIN prompts p ON p.id = s.prompt JOIN namespaces n ON n.id = p.namespace"
            " WHERE n.name = ? AND p.prompt = ? ORDER BY s.sequence",
            [namespace, prompt_id],
        ).fetchall()
    return [
        (sequence, np.frombuffer(blob, "<f4" if len(blob) == 4 * dimension else "<f2"), excerpt)
        for sequence, blob, excerpt, dimension in rows
    ]


@dataclass
class LiveMemories:
    """A novelty service, which serves prefixes too."""

    address: str
    namespace: str
    source: str = field(init=False)

    def __post_init__(self) -> None:
        self.source = f"the novelty service at {self.address}"
        self._novelty = NoveltyClient(self.address, self.namespace)
        self._prefixes = PrefixClient(self.address, self.namespace)

    def map(self, prompt_id: str, texts: dict[int, str]) -> Map:
        """`texts`: solution number -> text, of the prompt's solutions; the latest are asked about."""
        asked = dict(sorted(texts.items())[-MOST:])
        found: dict[int, dict[int, float]] = {}
        excerpts: dict[int, str] = {}
        queries = [NeighborQuery(prompt_id=prompt_id, text=text) for text in asked.values()]
        if not queries:
            raise MemoryUnavailable("No solution of this prompt is stored.")
        for number, told in zip(asked, self._novelty.query_neighbors(queries, k=MOST), strict=True):
            if told.error is not None:
                raise told.error
            near = {n.solution_id: n for n in told.neighbors if n.solution_id is not None}
            found[number] = {solution: neighbour.similarity for solution, neighbour in near.items()}
            excerpts |= {solution: neighbour.excerpt for solution, neighbour in near.items()}
        # Of those that were asked about, the ones that are stored.
        numbers = [number for number in found if number in found[number]]
        if not numbers:
            raise MemoryUnavailable(
                "The service stores no solution of this prompt that the run folder knows."
            )
        matrix = np.array([[found[row].get(column, 0.0) for column in numbers] for row in numbers])
        np.fill_diagonal(matrix, 1.0)
        return map_of(numbers, (matrix + matrix.T) / 2, [excerpts[number] for number in numbers])

    def prefixes(self, prompt_id: str) -> tuple[PrefixCandidate, ...]:
        """The prefixes stored now, oldest first, with what came of them."""
        (found,) = self._prefixes.list_prefixes([prompt_id])
        if found.error is not None:
            raise found.error
        return found.prefixes
