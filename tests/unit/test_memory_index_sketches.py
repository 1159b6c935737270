"""Sketches and vectors in the index equal a plain ring, for random requests, with room for few prompts."""

from collections import deque
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from extra_rl.vocabulary import VectorStorage
from extra_services.memory import index as index_module
from extra_services.memory.index import RingIndex
from extra_services.memory.records import SKETCH_BYTES, Header, StoredSolutions

DIMENSION = 3
#: Sequence number, vector and sketch; zeros for none.
Entry = tuple[int, NDArray[np.float32], NDArray[np.uint8]]

request = st.tuples(
    st.dictionaries(st.integers(0, 7), st.integers(0, 9), min_size=1, max_size=4),  # prompt: entries
    st.booleans(),  # with sketches
    st.integers(0, 2**31),  # seed
)


@given(
    capacity=st.integers(1, 6),
    half=st.booleans(),
    lists=st.integers(4, 9),
    requests=st.lists(request, min_size=1, max_size=12),
)
@settings(max_examples=150, deadline=None)
def test_any_requests_leave_the_last_entries_with_their_sketches(
    capacity: int, half: bool, lists: int, requests: list[tuple[dict[int, int], bool, int]]
) -> None:
    rings: dict[str, deque[Entry]] = {str(prompt): deque(maxlen=capacity) for prompt in range(8)}
    added = dict.fromkeys(rings, 0)
    storage = VectorStorage.FLOAT16 if half else VectorStorage.FLOAT32
    entry_bytes = DIMENSION * (2 if half else 4) + 8 + SKETCH_BYTES
    with patch.object(index_module, "FIRST_LISTS", 1):
        index = RingIndex(DIMENSION, capacity, lists * capacity * entry_bytes, storage, 1)
        for counts, sketched, seed in requests:
            random = np.random.default_rng(seed)
            prompts = [str(prompt) for prompt in counts]
            numbers = np.array(list(counts.values()), dtype=np.int64)
            for prompt in index.check_out(prompts):
                index.load(prompt, Header(1, added[prompt]), _stored(rings[prompt], capacity))
            _check(index, prompts, rings, capacity)
            vectors = random.integers(0, 8, (numbers.sum(), DIMENSION)).astype(np.float32)
            sketches = random.integers(0, 256, (numbers.sum(), SKETCH_BYTES), dtype=np.uint8)
            index.append(prompts, numbers, vectors, sketches if sketched else None)
            row = 0
            for prompt, count in zip(prompts, numbers.tolist(), strict=True):
                for _ in range(count):
                    sketch = sketches[row] if sketched else np.zeros(SKETCH_BYTES, np.uint8)
                    rings[prompt].append((added[prompt], vectors[row], sketch))
                    added[prompt] += 1
                    row += 1
            _check(index, prompts, rings, capacity)
            index.check_in(prompts)


def _stored(ring: deque[Entry], capacity: int) -> StoredSolutions | None:
    if not ring:
        return None
    by_slot = sorted(ring, key=lambda entry: entry[0] % capacity)
    sketches = np.stack([sketch for _, _, sketch in by_slot])
    return StoredSolutions(
        np.array([number for number, _, _ in by_slot], dtype=np.int64),
        np.stack([vector for _, vector, _ in by_slot]),
        [""] * len(by_slot),
        sketches if sketches.any() else None,
    )


def _check(index: RingIndex, prompts: list[str], rings: dict[str, deque[Entry]], capacity: int) -> None:
    found = index.sketches(prompts)
    for row, prompt in enumerate(prompts):
        expected = np.zeros((capacity, SKETCH_BYTES), dtype=np.uint8)
        for number, _, sketch in rings[prompt]:
            expected[number % capacity] = sketch
        np.testing.assert_array_equal(found[row], expected)
        sequences, vectors = index.solutions(prompt)
        assert sequences.tolist() == [number for number, _, _ in rings[prompt]]
        known = [vector for _, vector, _ in rings[prompt]]
        np.testing.assert_array_equal(vectors, np.array(known, np.float32).reshape(-1, DIMENSION))
