"""The durable store behind the memories: one small interface, so that SQLite and Redis are interchangeable.

A store has rings, versions and idempotency keys, and does not compare vectors: FAISS is rebuilt from it,
lazily by prompt. Writes are optimistic. A caller loads headers, computes, and commits against the versions it
read; the store raises Conflict if one has changed. When `commit` returns, the write would survive `kill -9`.
Reads see every write whose commit has returned.
"""

import time
import uuid
from collections.abc import Collection, Mapping
from typing import Protocol

from extra_services.memory.records import (
    AnswerCounts,
    Header,
    IdempotentAnswer,
    Namespace,
    NamespaceSettings,
    PromptRecord,
    Sizes,
    StoredPrefix,
    StoredSolutions,
    Write,
)

#: How long the answer to an idempotency key is kept.
ANSWER_SECONDS = 30 * 24 * 3600
#: Names that begin with this are namespaces being imported; no caller can choose such a name.
HIDDEN = "#"


def import_name() -> str:
    """Return a hidden name for a namespace that is being imported; it contains the time of its start."""
    return f"{HIDDEN}import/{int(time.time())}/{uuid.uuid4().hex}"


def import_began(name: str) -> float:
    """Return the start of the import with this hidden name, in seconds since 1970."""
    return float(name.split("/")[1])


class Store(Protocol):
    """Durable storage of namespaces. All methods block and may be called from any thread."""

    #: Kind of store: "sqlite" or "redis".
    kind: str

    #: Whether other processes write to it too; if not, data that was read stays valid until this one writes.
    shared: bool

    def create_namespace(self, name: str, settings: NamespaceSettings) -> tuple[Namespace, bool]:
        """Return the namespace, and whether this call created it. An existing one is returned as it is."""

    def namespace(self, name: str) -> Namespace:
        """Return the namespace.

        Raises:
            NotFound: There is none.
        """

    def namespaces(self) -> list[str]:
        """Return all names, sorted, without hidden ones."""

    def delete_namespace(self, name: str) -> bool:
        """Delete the namespace with all its entries; return False if there was none."""

    def copy_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        """Copy everything, idempotency keys too, as of one moment.

        Raises:
            NotFound: There is no source.
            AlreadyExists: The destination exists and `replace` is false.
        """

    def rename_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        """Rename the namespace atomically; raises as `copy_namespace`."""

    def sizes(self, namespace: Namespace) -> Sizes:
        """Return the number of its entries."""

    def answer(self, namespace: Namespace, operation: str, key: str) -> IdempotentAnswer | None:
        """Return the answer stored under this key, if there is one."""

    def headers(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, Header]:
        """Return the header of every prompt asked for."""

    def solutions(
        self, namespace: Namespace, prompts: Collection[str]
    ) -> dict[str, tuple[Header, StoredSolutions | None]]:
        """Return header and solutions, read together, of every prompt asked for."""

    def prefixes(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, list[StoredPrefix]]:
        """Return the prefixes of every prompt asked for, in order of arrival."""

    def ngram_counts(
        self, namespace: Namespace, wanted: Mapping[str, Collection[bytes]]
    ) -> dict[str, dict[bytes, int]]:
        """Return, by prompt, the counts of those of the `wanted` n-grams that were ever counted."""

    def answer_counts(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, AnswerCounts]:
        """Return the counts of the answers of every prompt asked for, least recently given first."""

    def excerpts(
        self, namespace: Namespace, wanted: Collection[tuple[str, int]]
    ) -> dict[tuple[str, int], str]:
        """Return excerpts of solutions, by prompt and sequence number, without those no longer stored."""

    def page(self, namespace: Namespace, after: str, limit: int) -> list[tuple[str, Header]]:
        """Return the first `limit` prompts whose id sorts after `after` (as UTF-8 bytes), in that order."""

    def records(self, namespace: Namespace, prompts: Collection[str]) -> list[PromptRecord]:
        """Return everything stored for those of the prompts that exist; each prompt as of one moment."""

    def put_records(self, namespace: Namespace, like: Namespace, records: list[PromptRecord]) -> None:
        """Add prompts that a namespace does not have, durably; it gets the spaces and sums of `like`."""

    def delete_prompts(self, namespace: Namespace, prompts: Collection[str]) -> list[str]:
        """Delete everything stored for the prompts; return those that existed."""

    def commit(self, namespace: Namespace, write: Write) -> dict[str, int]:
        """Make the write durable; return the new version of each prompt written.

        Raises:
            Conflict: A prompt's version has changed, the idempotency key has been answered, or the namespace
                holds vectors of another space.
            NotFound: The namespace has been deleted.
            Unavailable: The store cannot be written.
        """

    def close(self) -> None:
        """Finish what was submitted, and close files or connections."""
