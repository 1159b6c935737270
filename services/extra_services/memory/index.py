"""The solutions of many prompts in one FAISS index, so that one call searches a whole batch.

An IndexIVF with one inverted list per prompt: `search_preassigned` scans, for each query, the list of its
prompt only, exactly. A list is the prompt's ring, in place: the entry with sequence number s lies at offset
s % capacity, and FAISS's id of it is s. Nothing is trained and nothing is approximate. Sketches of solutions
lie beside the lists in one array, at the same list numbers and offsets; it is made with the first sketch, so
that it takes no memory where no metric needs it.

The index is a cache of the durable store. A prompt is checked out for the time a request works on it, loaded
if need be, and checked in afterwards; among those checked in the least recently used make room when the
memory allowed is full. Prompts without solutions take no list.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import VectorStorage
from extra_services.errors import Overloaded
from extra_services.memory.records import SKETCH_BYTES, Header, StoredSolutions

#: Lists of a new index; an empty list takes about 150 bytes.
FIRST_LISTS = 4096
#: Lists grow by this factor. Entries are copied, so at most 1/8 of the new capacity is held twice.
GROWTH = 8
#: Multiplications from which a search is worth a second thread; below, waking it takes longer.
PARALLEL_WORK = 10**8

Vectors = NDArray[np.float32]
Sketches = NDArray[np.uint8]


@dataclass
class Ring:
    """Ring of one prompt in the index."""

    #: Its inverted list; None while it holds nothing.
    list_number: int | None = None
    #: Version of the prompt these entries are of.
    version: int = 0
    #: Entries ever added.
    added: int = 0


class RingIndex:
    """Rings of unit vectors [.., dimension] of prompts, about `max_bytes` at most. Thread-safe."""

    def __init__(
        self,
        dimension: int,
        capacity: int,
        max_bytes: int,
        storage: VectorStorage = VectorStorage.FLOAT32,
        threads: int = 0,
    ) -> None:
        """Make an empty index.

        Args:
            dimension: Of the vectors.
            capacity: Entries per prompt; the oldest leave.
            max_bytes: Memory above which prompts that are not in use leave.
            storage: Number format of the vectors.
            threads: Threads for one search at most; 0 takes all CPUs.
        """
        self.dimension = dimension
        self.capacity = capacity
        #: Rings found here, and rings that had to be read from the store.
        self.hits = self.loads = 0
        self._type = np.dtype(storage.value)
        self._threads = threads or os.cpu_count() or 1
        self._code_bytes = dimension * self._type.itemsize
        self._max_bytes = max_bytes
        #: uint8 [lists, capacity, SKETCH_BYTES], zeros for entries without a sketch; None before the first.
        self._sketches: Sketches | None = None
        self._quantizer = faiss.IndexFlatIP(dimension)
        self._make(FIRST_LISTS)
        self._free = list(range(FIRST_LISTS))
        self._idle: OrderedDict[str, Ring] = OrderedDict()
        self._in_use: dict[str, Ring] = {}
        self._lock = threading.Lock()

    def check_out(self, prompts: Collection[str]) -> list[str]:
        """Hold the prompts for one request; return those that are not in the index and must be loaded."""
        with self._lock:
            missing = []
            for prompt in prompts:
                ring = self._idle.pop(prompt, None)
                if ring is None:
                    missing.append(prompt)
                self._in_use[prompt] = ring or Ring()
            self.hits += len(prompts) - len(missing)
            self.loads += len(missing)
            return missing

    def versions(self, prompts: Collection[str]) -> dict[str, int]:
        """Return the version that each checked-out prompt has here."""
        return {prompt: self._in_use[prompt].version for prompt in prompts}

    def version(self, prompt: str) -> int:
        """Return the version that a checked-out prompt has here."""
        return self._in_use[prompt].version

    def load(self, prompt: str, header: Header, solutions: StoredSolutions | None) -> None:
        """Replace the entries of a checked-out prompt by those of the store."""
        with self._lock:
            ring = self._in_use[prompt]
            self._empty(ring)
            ring.version, ring.added = header.version, header.solutions_added
            if solutions is not None and len(solutions.sequences):
                vectors = solutions.vectors.astype(self._type, copy=False)
                number = self._list(ring)
                self._add(number, solutions.sequences, vectors)
                self._set_sketches(number, solutions.sequences, solutions.sketches)

    def check_in(self, prompts: Collection[str]) -> None:
        """Release prompts; they stay in the index while there is room."""
        with self._lock:
            for prompt in prompts:
                ring = self._in_use.pop(prompt)
                if ring.list_number is not None:
                    self._idle[prompt] = ring

    def empty(self, prompts: Collection[str]) -> None:
        """Remove the entries of checked-out prompts, because they differ from the stored ones."""
        with self._lock:
            for prompt in prompts:
                self._empty(self._in_use[prompt])

    def sizes(self, prompts: list[str]) -> NDArray[np.int64]:
        """Return the number of entries of each checked-out prompt, int64 [len(prompts)]."""
        return np.array(
            [min(self._in_use[prompt].added, self.capacity) for prompt in prompts], dtype=np.int64
        )

    def added(self, prompt: str) -> int:
        """Return the number of entries ever added to a checked-out prompt: the next sequence number."""
        return self._in_use[prompt].added

    def nearest(
        self, prompts: list[str], counts: NDArray[np.int64], queries: Vectors, k: int = 1
    ) -> tuple[Vectors, NDArray[np.int64]]:
        """Find the k nearest solutions of each query, in the memory of its prompt.

        Args:
            prompts: Checked-out prompts.
            counts: int64 [len(prompts)]; the first counts[0] queries belong to prompts[0], and so on.
            queries: Unit vectors, float32 [m, dimension].
            k: Neighbours of each query.

        Returns:
            Cosine similarities float32 [m, k], falling, and sequence numbers int64 [m, k]; -inf and -1 where
            the prompt holds fewer.
        """
        if not len(queries):
            return np.zeros((0, k), dtype=np.float32), np.zeros((0, k), dtype=np.int64)
        work = len(queries) * self.capacity * self.dimension
        with self._lock:
            # OpenMP applies this to the calling thread only.
            faiss.omp_set_num_threads(1 if work < PARALLEL_WORK else self._threads)
            # FAISS skips the list -1.
            numbers = [self._in_use[prompt].list_number for prompt in prompts]
            lists = np.array([-1 if number is None else number for number in numbers], dtype=np.int64)
            similarity, sequence = self._index.search_preassigned(
                queries, k, np.repeat(lists, counts)[:, None], np.zeros((len(queries), 1), dtype=np.float32)
            )
        similarity[sequence < 0] = -np.inf
        return similarity, sequence

    def sketches(self, prompts: list[str]) -> Sketches:
        """Return the sketches of checked-out prompts, uint8 [len(prompts), capacity, SKETCH_BYTES].

        The sketch of the solution with sequence number s is at place s % capacity. Zeros stand where there is
        no solution, or one without a sketch.
        """
        found = np.zeros((len(prompts), self.capacity, SKETCH_BYTES), dtype=np.uint8)
        with self._lock:
            if self._sketches is not None:
                numbers = [self._in_use[prompt].list_number for prompt in prompts]
                held = [row for row, number in enumerate(numbers) if number is not None]
                found[held] = self._sketches[[number for number in numbers if number is not None]]
        return found

    def solutions(self, prompt: str) -> tuple[NDArray[np.int64], Vectors]:
        """Return sequence numbers int64 [m] and vectors float32 [m, dimension] of a checked-out prompt.

        They are in order of arrival.
        """
        with self._lock:
            ring = self._in_use[prompt]
            size = 0 if ring.list_number is None else min(ring.added, self.capacity)
            sequences = np.arange(ring.added - size, ring.added, dtype=np.int64)
            if not size:
                return sequences, np.zeros((0, self.dimension), dtype=np.float32)
            codes = faiss.rev_swig_ptr(self._lists.get_codes(ring.list_number), size * self._code_bytes)
            vectors = codes.view(self._type).reshape(size, self.dimension).astype(np.float32)
        return sequences, vectors[sequences % self.capacity]

    def append(
        self,
        prompts: list[str],
        counts: NDArray[np.int64],
        vectors: NDArray[np.generic],
        sketches: Sketches | None = None,
    ) -> None:
        """Add solutions to checked-out prompts, oldest out first.

        Args:
            prompts: Checked-out prompts.
            counts: As in `nearest`.
            vectors: Unit vectors, float32 or as they are stored, [m, dimension].
            sketches: uint8 [m, SKETCH_BYTES]; None: they have none.
        """
        codes = np.ascontiguousarray(vectors, dtype=self._type)
        with self._lock:
            rings = [self._in_use[prompt] for prompt in prompts]
            self._append_vectors(rings, counts, codes)
            self._append_sketches(rings, counts, sketches)

    def _append_vectors(
        self, rings: list[Ring], counts: NDArray[np.int64], codes: NDArray[np.generic]
    ) -> None:
        added = np.array([ring.added for ring in rings], dtype=np.int64)
        starts = np.cumsum(counts) - counts
        sequences = np.arange(len(codes)) + np.repeat(added - starts, counts)
        first_code, first_id = codes.ctypes.data, sequences.ctypes.data
        for ring, start, count in zip(rings, starts.tolist(), counts.tolist(), strict=True):
            if ring.list_number is None or (ring.added % self.capacity) + count > self.capacity:
                self._append(ring, codes[start : start + count])
                continue
            # The usual case, without a copy: the entries are in order and fit before the ring's end.
            ids = faiss.cast_integer_to_idx_t_ptr(first_id + 8 * start)
            data = faiss.cast_integer_to_uint8_ptr(first_code + start * codes.strides[0])  # type: ignore[attr-defined]
            if ring.added < self.capacity:
                self._lists.add_entries(ring.list_number, count, ids, data)
            else:
                self._lists.update_entries(ring.list_number, ring.added % self.capacity, count, ids, data)
            ring.added += count

    def renew(self, versions: dict[str, tuple[int, int]]) -> None:
        """Set prompts that are here in the first version to the second, because they were written."""
        with self._lock:
            for prompt, (before, after) in versions.items():
                ring = self._in_use.get(prompt) or self._idle.get(prompt)
                if ring is not None and ring.version == before:
                    ring.version = after

    def in_use(self) -> bool:
        """True while a request works on it."""
        return bool(self._in_use)

    def bytes(self) -> int:
        """Return the memory that the lists take when full."""
        lists = int(self._lists.nlist)
        return (lists - len(self._free)) * self.capacity * self._entry_bytes() + lists * 150

    def forget(self, prompts: Collection[str]) -> None:
        """Drop prompts that were deleted; none of them may be checked out."""
        with self._lock:
            for prompt in prompts:
                ring = self._idle.pop(prompt, None)
                if ring is not None:
                    self._empty(ring)

    def _append(self, ring: Ring, vectors: NDArray[np.generic]) -> None:
        if not len(vectors):
            return
        size = min(ring.added, self.capacity)
        ring.added += len(vectors)
        kept = vectors[-self.capacity :]
        sequences = np.arange(ring.added - len(kept), ring.added, dtype=np.int64)
        number = self._list(ring)
        offset = int(sequences[0]) % self.capacity
        if len(kept) == self.capacity:
            self._lists.resize(number, 0)
            self._add(number, np.roll(sequences, offset), np.roll(kept, offset, axis=0))
            return
        until_wrap = min(self.capacity - offset, len(kept))
        for at, part in ((offset, slice(0, until_wrap)), (0, slice(until_wrap, None))):
            if at == size and size < self.capacity:
                self._add(number, sequences[part], kept[part])
            elif len(kept[part]):
                ids, codes = faiss.swig_ptr(sequences[part]), faiss.swig_ptr(_codes(kept[part]))
                self._lists.update_entries(number, at, len(kept[part]), ids, codes)

    def _append_sketches(
        self, rings: list[Ring], counts: NDArray[np.int64], sketches: Sketches | None
    ) -> None:
        """Set the sketches of the last `counts` entries of each ring; without any, zeros."""
        if sketches is None and self._sketches is None:
            return
        ends, added = np.cumsum(counts), np.array([ring.added for ring in rings], dtype=np.int64)
        sequences = np.arange(int(counts.sum())) + np.repeat(added - ends, counts)
        numbers = np.array([-1 if ring.list_number is None else ring.list_number for ring in rings])
        self._set_sketches(np.repeat(numbers, counts), sequences, sketches)

    def _set_sketches(
        self, numbers: "NDArray[np.int64] | int", sequences: NDArray[np.int64], sketches: Sketches | None
    ) -> None:
        if sketches is None and self._sketches is None:
            return
        if self._sketches is None:
            self._sketches = np.zeros((self._lists.nlist, self.capacity, SKETCH_BYTES), dtype=np.uint8)
        # Of more entries than fit, the last in a place remains.
        self._sketches[numbers, sequences % self.capacity] = 0 if sketches is None else sketches

    def _add(self, number: int, sequences: NDArray[np.int64], vectors: NDArray[np.generic]) -> None:
        codes = faiss.swig_ptr(_codes(vectors))
        self._lists.add_entries(number, len(sequences), faiss.swig_ptr(sequences), codes)

    def _list(self, ring: Ring) -> int:
        """The number of the ring's list; assigns one if it has none."""
        if ring.list_number is None:
            if not self._free and self._lists.nlist < self._max_lists():
                self._grow()
            while not self._free:
                self._evict()
            ring.list_number = self._free.pop()
        return ring.list_number

    def _entry_bytes(self) -> int:
        return self._code_bytes + 8 + (0 if self._sketches is None else SKETCH_BYTES)

    def _max_lists(self) -> int:
        return max(FIRST_LISTS, self._max_bytes // (self.capacity * self._entry_bytes()))

    def _evict(self) -> None:
        if not self._idle:
            raise Overloaded(
                "more prompts are in use at once than the index may hold; raise index_bytes", 1.0
            )
        self._empty(self._idle.popitem(last=False)[1])

    def _empty(self, ring: Ring) -> None:
        if ring.list_number is not None:
            self._lists.resize(ring.list_number, 0)
            if self._sketches is not None:
                self._sketches[ring.list_number] = 0
            self._free.append(ring.list_number)
            ring.list_number = None
        ring.version = ring.added = 0

    def _grow(self) -> None:
        # The old lists live as long as the old index, which owns them.
        owner, old, before = self._index, self._lists, self._lists.nlist
        self._make(min(before * GROWTH, self._max_lists()))
        if self._sketches is not None:
            kept = self._sketches
            # Memory is taken from the system where it is written to, not for all of the zeros.
            self._sketches = np.zeros((self._lists.nlist, *kept.shape[1:]), dtype=np.uint8)
            self._sketches[:before] = kept
        for number in range(before):
            size = old.list_size(number)
            self._lists.add_entries(number, size, old.get_ids(number), old.get_codes(number))
        self._free = list(range(before, self._lists.nlist))
        del owner

    def _make(self, lists: int) -> None:
        # FAISS requires a quantizer, but never uses it here: every query names its list.
        self._index = self._new_index(lists)
        self._index.is_trained = True
        # Parallel over queries; otherwise search_preassigned uses one thread for any number of queries.
        self._index.parallel_mode = 3
        self._lists: Any = faiss.downcast_InvertedLists(self._index.invlists)

    def _new_index(self, lists: int) -> Any:
        """Typed Any: FAISS adds Python methods at import that its type stubs lack."""
        if self._type == np.float32:
            return faiss.IndexIVFFlat(self._quantizer, self.dimension, lists, faiss.METRIC_INNER_PRODUCT)
        half, product = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        return faiss.IndexIVFScalarQuantizer(self._quantizer, self.dimension, lists, half, product, False)


def _codes(vectors: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The vectors as FAISS takes them: their bytes."""
    return np.ascontiguousarray(vectors).view(np.uint8).reshape(-1)
