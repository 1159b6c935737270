"""The store of a run's own novelty server, read as a file.

Reading the tables directly is deliberate. The server of a finished run is gone, and a running one locks its
data folder; to start another would need the services' dependencies and the embedding model, and it would
write. The inspector reads one table and checks the version of the store's schema, so a store of a later
version is refused, not misread. Nothing of `extra_services` is imported.
"""

import contextlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: The newest schema of the store that is read here; `extra_services.memory.sqlite_migrations` defines it.
SCHEMA_VERSION = 4
#: The first schema with blocks of solutions; those before have a row for each.
_WITH_BLOCKS = 4


class MemoryUnavailable(RuntimeError):
    """There is no memory to show; the message says why."""


@dataclass(frozen=True)
class StoredSolution:
    """A solution in the store."""

    #: Its number among all solutions ever stored for the prompt.
    number: int
    #: Its embedding, float32 or float16 [dimension].
    vector: NDArray[np.floating]
    #: The first characters of its text.
    excerpt: str


def read_solutions(path: Path, namespace: str, prompt_id: str) -> list[StoredSolution]:
    """Return the stored solutions of a prompt, oldest first; writes nothing.

    Args:
        path: The SQLite file.
        namespace: The run's namespace in it.
        prompt_id: The prompt.

    Raises:
        MemoryUnavailable: The store has a later schema version.
    """
    # Without a write-ahead log no server is writing; "immutable" then keeps SQLite from creating files.
    written = path.with_name(path.name + "-wal").exists()
    address = f"{path.resolve().as_uri()}?{'mode=ro' if written else 'immutable=1'}"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise MemoryUnavailable(
                f"The run's memory has schema version {version}, and this release reads versions up to "
                f"{SCHEMA_VERSION}: use the release that made it."
            )
        blocks = (
            "SELECT prompt, first, count, vectors, excerpts FROM solution_blocks"
            if version >= _WITH_BLOCKS
            else "SELECT prompt, sequence AS first, 1 AS count, vector AS vectors,"
            " json_array(excerpt) AS excerpts FROM solutions"
        )
        rows = connection.execute(
            "SELECT b.first, b.count, b.vectors, b.excerpts, n.solutions_dimension,"
            " p.solutions_added - json_extract(n.settings, '$.memory_capacity')"
            f" FROM ({blocks}) b JOIN prompts p ON p.id = b.prompt JOIN namespaces n ON n.id = p.namespace"
            " WHERE n.name = ? AND p.prompt = ? ORDER BY b.first",
            [namespace, prompt_id],
        ).fetchall()
    found = [(solution, oldest) for *block, oldest in rows for solution in _solutions(*block)]
    return [solution for solution, oldest in found if solution.number >= oldest]


def _solutions(
    first: int, count: int, blob: bytes, excerpts: str | None, dimension: int
) -> list[StoredSolution]:
    vectors = np.frombuffer(blob, "<f4" if len(blob) == 4 * dimension * count else "<f2")
    texts = [""] * count if excerpts is None else json.loads(excerpts)
    rows = zip(vectors.reshape(count, dimension), texts, strict=True)
    return [StoredSolution(first + i, vector, text) for i, (vector, text) in enumerate(rows)]
