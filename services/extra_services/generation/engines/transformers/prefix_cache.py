"""Computed sequences, kept for later requests: the least recently used go first.

A request may find its whole sequence, logits included, or the longest known start of it. Starts are found in
blocks of `BLOCK` tokens through a table of their hashes; the tokens themselves are compared, so a hash never
decides. Everything here was computed with the weights now served: whoever replaces them clears the cache.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from extra_services.generation.engines.transformers.rows import Computed

BLOCK = 16


class PrefixCache:
    """At most `max_bytes` of computed sequences; 0 keeps none."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        #: By the tokens' bytes, least recently used first.
        self._sequences: OrderedDict[bytes, Computed] = OrderedDict()
        #: Hash of the first blocks of a sequence -> its tokens' bytes.
        self._starts: dict[bytes, bytes] = {}

    @property
    def bytes(self) -> int:
        """What the sequences take."""
        return self._bytes

    def whole(self, tokens: NDArray[np.int32]) -> Computed | None:
        """The sequence int32 [length], if it is known."""
        key = tokens.tobytes()
        if key in self._sequences:
            self._sequences.move_to_end(key)
        return self._sequences.get(key)

    def longest_start(self, tokens: NDArray[np.int32]) -> tuple[Computed, int] | None:
        """A known sequence and how many first tokens it shares with `tokens`, less than all of them."""
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

    def add(self, sequence: Computed) -> None:
        """Keeps `sequence`, if it fits."""
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
        """Forgets all."""
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
    """(length, hash) of the first block, the first two blocks, and so on."""
    digest = hashlib.blake2b(digest_size=16)
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        digest.update(tokens[end - BLOCK : end].tobytes())
        yield end, digest.digest()
