"""The content of the stores and exports in tests/data/stores, which every later release must read.

`python tests/support/stored_memory.py` wrote them with the release that was current at the time. They are
never written again: a release that changes the schema adds files of its own.
"""

import sys
from pathlib import Path

import numpy as np

from extra_services.memory import transfer
from extra_services.memory.memory import Memory
from extra_services.memory.records import (
    SKETCH_BYTES,
    EmbeddingSpace,
    IdempotentAnswer,
    NamespaceSettings,
    NewSolutions,
    PromptWrite,
    StoredPrefix,
    Write,
)
from extra_services.memory.sqlite_migrations import MIGRATIONS
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.memory.store import Store

STORES = Path(__file__).resolve().parents[1] / "data" / "stores"
NAMESPACE = "run-1"
SETTINGS = NamespaceSettings(memory_capacity=3, prefix_capacity=2, ngram_size=1)
SPACE = EmbeddingSpace("model", 4)
VECTORS = np.eye(4, dtype=np.float32)
#: The sketches of the four solutions; zeros: the second has none.
SKETCHES = np.outer([1, 0, 2, 3], np.ones(SKETCH_BYTES)).astype(np.uint8)
EXCERPTS = ["first solution", "second solution", "third: größer", "fourth solution"]
NGRAMS = {b"\x05\x00\x00\x00": 2}
POSITIVE = {"embedding_distance": (1.5, 3)}


def fill(store: Store) -> None:
    """Write what `check` expects."""
    namespace, _ = store.create_namespace(NAMESPACE, SETTINGS)
    prefix = StoredPrefix(0, np.array([5, 6, 7], dtype=np.int32), "a prefix", 0.5, VECTORS[1])
    # More solutions than the memory holds: the first is overwritten.
    version = 0
    for vector, excerpt, sketch in zip(VECTORS, EXCERPTS, SKETCHES, strict=True):
        new = NewSolutions(vector[None], [excerpt], sketch[None])
        write = Write({"q": PromptWrite(version, new)}, solutions=SPACE)
        version = store.commit(namespace, write)["q"]
    prompts = {"hard": PromptWrite(0, prefixes=[prefix], ngrams=NGRAMS)}
    answer = IdempotentAnswer("Score", "key", "fingerprint", "answer")
    store.commit(namespace, Write(prompts, answer, prefixes=SPACE, positive=POSITIVE))


def check(store: Store, sketches: bool = True) -> None:
    """Assert that the store holds what `fill` wrote, all but the answer, which may be forgotten by now.

    Args:
        store: The store.
        sketches: Whether solutions have sketches; those of earlier releases have none.
    """
    namespace = store.namespace(NAMESPACE)
    assert namespace.settings == SETTINGS
    assert (namespace.solutions, namespace.prefixes) == (SPACE, SPACE)
    header, ring = store.solutions(namespace, ["q"])["q"]
    assert ring is not None
    assert (header.solutions_added, ring.sequences.tolist()) == (4, [3, 1, 2])
    np.testing.assert_array_equal(ring.vectors, VECTORS[[3, 1, 2]])
    if sketches:
        np.testing.assert_array_equal(ring.sketches, SKETCHES[[3, 1, 2]])
    else:
        assert ring.sketches is None
    wanted = [("q", 1), ("q", 2), ("q", 3)]
    assert store.excerpts(namespace, wanted) == dict(zip(wanted, EXCERPTS[1:], strict=True))
    (prefix,) = store.prefixes(namespace, ["hard"])["hard"]
    assert (prefix.token_ids.tolist(), prefix.text, prefix.mean_entropy) == ([5, 6, 7], "a prefix", 0.5)
    np.testing.assert_array_equal(prefix.vector, VECTORS[1])
    assert store.ngram_counts(namespace, {"hard": list(NGRAMS)}) == {"hard": NGRAMS}
    assert namespace.positive == POSITIVE


def main() -> None:
    """Write the store and the export of this release."""
    folder = STORES / f"sqlite-{len(MIGRATIONS)}"
    export = STORES / f"export-{transfer.FORMAT}.parquet"
    if folder.exists():
        sys.exit(f"{folder} exists and must stay as it is")
    store = SqliteStore(folder)
    fill(store)
    export.write_bytes(b"".join(transfer.export(Memory(store, None), NAMESPACE)))
    store.close()
    (folder / "memory.lock").unlink()


if __name__ == "__main__":
    main()
