"""The durable store behind the memories: one small interface, so that SQLite and Redis are interchangeable.

A store knows rings, versions and idempotency keys, and nothing of similarity: FAISS is rebuilt from it,
lazily by prompt. Writes are optimistic. A caller loads headers, computes, and commits against the versions
it saw; the store refuses with Conflict if one has changed. When `commit` returns, the write would survive
`kill -9`. Reads see every write whose commit has returned.
"""

import time
import uuid
from collections.abc import Collection, Mapping
from typing import Protocol

from extra_services.memory.records import (
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
    """A hidden name for a namespace while it is being imported; it tells when the import began."""
    return f"{HIDDEN}import/{int(time.time())}/{uuid.uuid4().hex}"


def import_began(name: str) -> float:
    """When the import with this hidden name began, in seconds since 1970."""
    return float(name.split("/")[1])


class Store(Protocol):
    """Where namespaces live. All methods block and may be called from any thread."""

    #: Whether other processes write to it too; if not, what a process has read stays valid until it writes.
    shared: bool

    def create_namespace(self, name: str, settings: NamespaceSettings) -> tuple[Namespace, bool]:
        """The namespace, and whether this call created it. An existing one is returned as it is."""

    def namespace(self, name: str) -> Namespace:
        """The namespace; NotFound if there is none."""

    def namespaces(self) -> list[str]:
        """All names, sorted, without hidden ones."""

    def delete_namespace(self, name: str) -> bool:
        """Deletes it with all it holds; False if there was none."""

    def copy_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        """Copies everything, idempotency keys too, as of one moment.

        NotFound if there is no source; AlreadyExists if the destination exists and `replace` is false.
        """

    def rename_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        """Gives the namespace another name, at once; errors as for copying."""

    def sizes(self, namespace: Namespace) -> Sizes:
        """How much it holds."""

    def answer(self, namespace: Namespace, operation: str, key: str) -> IdempotentAnswer | None:
        """What was answered to this key, if anything."""

    def headers(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, Header]:
        """The header of every prompt asked for."""

    def solutions(
        self, namespace: Namespace, prompts: Collection[str]
    ) -> dict[str, tuple[Header, StoredSolutions | None]]:
        """Header and solutions, read together, of every prompt asked for."""

    def prefixes(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, list[StoredPrefix]]:
        """The prefixes of every prompt asked for, in order of arrival."""

    def ngram_counts(
        self, namespace: Namespace, wanted: Mapping[str, Collection[bytes]]
    ) -> dict[str, dict[bytes, int]]:
        """Of the n-grams asked for, by prompt, the counts of those ever counted."""

    def excerpts(
        self, namespace: Namespace, wanted: Collection[tuple[str, int]]
    ) -> dict[tuple[str, int], str]:
        """Excerpts of solutions, by prompt and sequence number; those that have left are left out."""

    def page(self, namespace: Namespace, after: str, limit: int) -> list[tuple[str, Header]]:
        """The first `limit` prompts whose id sorts after `after` (as UTF-8 bytes), in that order."""

    def records(self, namespace: Namespace, prompts: Collection[str]) -> list[PromptRecord]:
        """All that is stored of those of the prompts that exist; of each, as of one moment."""

    def put_records(self, namespace: Namespace, like: Namespace, records: list[PromptRecord]) -> None:
        """Adds prompts that a namespace does not have, durably; it gets the spaces and sums of `like`."""

    def delete_prompts(self, namespace: Namespace, prompts: Collection[str]) -> list[str]:
        """Deletes all that is stored of them; those of the prompts that existed."""

    def commit(self, namespace: Namespace, write: Write) -> dict[str, int]:
        """Makes the write durable; the new version of each prompt written.

        Conflict if a prompt's version has changed, the idempotency key has been answered, or the namespace
        holds vectors of another space; NotFound if the namespace has been deleted; Unavailable if the store
        cannot be written.
        """

    def close(self) -> None:
        """Finishes what was submitted and lets go of the files or connections."""
