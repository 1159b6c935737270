"""Cache of computed sequences for later requests; the least recently used go first.

A request may find its whole sequence, logits included, or the longest known start of it. Starts are found in
blocks of `BLOCK` tokens through a table of their hashes; then the tokens are compared, so a collision of
hashes does no harm. Everything here was computed with the weights served now: an update must clear the cache.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from extra_services.generation.engines.transformers.rows import ComputedSequence

BLOCK = 16


class PrefixCache:
    """A cache of at most `max_bytes`; 0 keeps nothing."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        #: By the tokens' bytes, least recently used first.
        self._sequences: OrderedDict[bytes, ComputedSequence] = OrderedDict()
        #: Hash of the first blocks of a sequence -> its tokens' bytes.
        self._starts: dict[bytes, bytes] = {}

    @property
    def bytes(self) -> int:
        """Memory of the sequences."""
        return self._bytes

    def whole(self, tokens: NDArray[np.int32]) -> ComputedSequence | None:
        """Return the computed sequence of `tokens` int32 [length], or None."""
        key = tokens.tobytes()
        if key in self._sequences:
            self._sequences.move_to_end(key)
        return self._sequences.get(key)

    def longest_start(self, tokens: NDArray[np.int32]) -> tuple[ComputedSequence, int] | None:
        """Return a known sequence and how many first tokens it shares with `tokens`, less than all."""
        for length, digest in reversed(list(_starts(tokens[:-1]))):
            key = self._starts.get(digest)
            found = self._sequences.get(key) if key is not None else None
            if (
                key is not None
                and found is not None
                and np.array_equal(found.tokens[:length], tokens[:length])
            ):
                self._sequences.move_to_end(key)
                return found, length
        return None

    def add(self, sequence: ComputedSequence) -> None:
        """Keep `sequence`, if it fits."""
        key = sequence.tokens.tobytes()
        if sequence.bytes > self._max_bytes or key in self._sequences:
            return
        self._sequences[key] = sequence
        self._bytes += sequence.bytes
        for _, digest in _starts(sequence.tokens):
            self._starts[digest] = key
        while self._bytes > self._max_bytes:
            self._evict()

    def clear(self) -> None:
        """Drop all sequences."""
        self._sequences.clear()
        self._starts.clear()
        self._bytes = 0

    def _evict(self) -> None:
        key, oldest = self._sequences.popitem(last=False)
        self._bytes -= oldest.bytes
        for _, digest in _starts(oldest.tokens):
            if self._starts.get(digest) == key:
                del self._starts[digest]


def _starts(tokens: NDArray[np.int32]) -> Iterator[tuple[int, bytes]]:
    """Yield (length, hash) of the first block, the first two blocks, and so on."""
    digest = hashlib.blake2b(digest_size=16)
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        digest.update(tokens[end - BLOCK : end].tobytes())
        yield end, digest.digest()
