"""The memory that the novelty and prefix services share: store, embedder, indexes, and how to change them.

A request looks up its namespace (`Memory.namespace`) and asks whether its idempotency key has been answered
(`Memory.replay`), prepares its data without a lock, and then calls `Memory.change` with a function from the
stored state of some prompts to a `Write`. `change` runs it with the prompts locked in this process and
commits the write. The store refuses a write if another replica changed a prompt, or answered the key,
meanwhile; then `change` looks up both again and replays the answer or computes the change again.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import TextWindow
from extra_services.errors import FailedPrecondition, InvalidInput, Unavailable
from extra_services.memory import instruments
from extra_services.memory.index import RingIndex
from extra_services.memory.locks import PromptLocks
from extra_services.memory.records import (
    AnswerCounts,
    Conflict,
    EmbeddingSpace,
    Header,
    IdempotentAnswer,
    Namespace,
    NamespaceSettings,
    Sizes,
    StoredPrefix,
    Write,
)
from extra_services.memory.store import Store

Result = TypeVar("Result")

NAMESPACE_NAME = re.compile(r"[A-Za-z0-9._\-/:@]{1,200}")
MAX_PROMPT_BYTES = 512
MAX_KEY_CHARACTERS = 512
#: Times a change is computed again because another replica was faster.
MAX_ATTEMPTS = 20
#: Name of the space of vectors that callers send.
SENT_BY_CALLER = "sent by the caller"


class TextEmbedder(Protocol):
    """The embedder as the domain uses it."""

    name: str
    dimension: int
    #: Texts embedded so far, and texts whose vectors were known.
    embedded: int
    cached: int

    def embed(self, texts: list[str], window: TextWindow = TextWindow.REFERENCE) -> NDArray[np.float32]:
        """Return unit vectors, float32 [len(texts), dimension]."""

    def embed_counted(self, texts: list[str], window: TextWindow) -> "Embedded":
        """Return the vectors of `embed`, and how many of them were computed."""

    def embed_prefixes(
        self, texts: list[str], ends: list[list[int]], window: TextWindow = TextWindow.REFERENCE
    ) -> list[NDArray[np.float32]]:
        """Return about the vectors that `embed` makes of prefixes, which end after so many characters."""

    def unreadable(self, texts: list[str]) -> list[bool]:
        """Return for each text whether the model knows no letter or digit in it: its vector says nothing."""

    def close(self) -> None:
        """Release the model."""


@dataclass(frozen=True)
class Embedded:
    """Unit vectors float32 [n, dimension] of n texts, and the texts embedded and found in the cache for them.

    Under TextWindow.WHOLE each window of a text counts as one.
    """

    vectors: NDArray[np.float32]
    embedded: int
    cached: int


@dataclass(frozen=True)
class IdempotencyKey:
    """The idempotency key of a request (empty: none); `fingerprint` identifies the request."""

    operation: str
    key: str
    fingerprint: str


#: For requests that carry no key.
NO_KEY = IdempotencyKey("", "", "")


@dataclass(frozen=True)
class Computed(Generic[Result]):
    """Result of a change, and its write; `write` None writes nothing, not even the key."""

    result: Result
    write: Write | None


class Change:
    """Stored state that one attempt at a change may read. The prompts are locked in this process."""

    def __init__(
        self, namespace: Namespace, prompts: Collection[str], store: Store, indexes: "Indexes"
    ) -> None:
        self.namespace = namespace
        self.prompts = prompts
        self._store = store
        self._indexes = indexes
        self._index: RingIndex | None = None

    def headers(self) -> dict[str, Header]:
        """Return the header of each prompt."""
        return self._store.headers(self.namespace, self.prompts)

    def prefixes(self) -> dict[str, list[StoredPrefix]]:
        """Return the prefixes of each prompt, in order of arrival."""
        return self._store.prefixes(self.namespace, self.prompts)

    def ngram_counts(self, wanted: Mapping[str, Collection[bytes]]) -> dict[str, dict[bytes, int]]:
        """Return, by prompt, the counts of those of the `wanted` n-grams that were ever counted."""
        return self._store.ngram_counts(self.namespace, wanted)

    def answer_counts(self) -> dict[str, AnswerCounts]:
        """Return the counts of the answers of each prompt, least recently given first."""
        return self._store.answer_counts(self.namespace, self.prompts)

    def excerpts(self, wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """Return excerpts of stored solutions, by prompt and sequence number."""
        return self._store.excerpts(self.namespace, wanted) if wanted else {}

    def rings(self, dimension: int) -> RingIndex:
        """Return the index with all the prompts loaded as they are stored.

        Everything appended to it must be in the write.

        Raises:
            Conflict: The namespace has got vectors of another dimension since it was looked up.
        """
        index = self._index = self._indexes.of(self.namespace, dimension)
        stale = index.check_out(self.prompts)
        if self._store.shared:
            current = self._store.headers(self.namespace, self.prompts)
            versions = index.versions(self.prompts)
            stale = [prompt for prompt in self.prompts if versions[prompt] != current[prompt].version]
        for prompt, (header, solutions) in self._store.solutions(self.namespace, stale).items():
            if solutions is not None and solutions.vectors.shape[1] != dimension:
                raise Conflict(f"namespace {self.namespace.name!r} was given vectors of another dimension")
            index.load(prompt, header, solutions)
        instruments.PROMPTS_FROM_STORE.inc(len(stale))
        instruments.PROMPTS_IN_INDEX.inc(len(self.prompts) - len(stale))
        return index

    def rings_added(self, prompt: str) -> int:
        """Return the number of solutions ever added to a prompt, with those this change has appended."""
        assert self._index is not None, "rings() comes first"
        return self._index.added(prompt)

    def committed(self, write: Write, versions: dict[str, int]) -> None:
        """Mark what is in the index as what is stored."""
        renewed = {prompt: (write.prompts[prompt].version, version) for prompt, version in versions.items()}
        index = self._index or self._indexes.existing(self.namespace)
        if index is not None:
            index.renew(renewed)

    def end(self, failed: bool) -> None:
        """Release the prompts; after a failure nothing of them stays in the index."""
        if self._index is not None:
            if failed:
                self._index.empty(self.prompts)
            self._index.check_in(self.prompts)
            self._indexes.trim()


class Indexes:
    """Indexes of the namespaces in use; the least recently used are dropped when memory is full."""

    def __init__(self, max_bytes: int, threads: int) -> None:
        self._max_bytes = max_bytes
        self._threads = threads
        self._by_id: OrderedDict[int, tuple[str, RingIndex]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, namespace: Namespace, dimension: int) -> RingIndex:
        """Return the namespace's index; make it if there is none.

        Until the namespace holds vectors it has no dimension, and requests may differ in theirs.
        """
        with self._lock:
            known = self._by_id.get(namespace.id)
            if known is None or known[1].dimension != dimension:
                settings = namespace.settings
                index = RingIndex(
                    dimension, settings.memory_capacity, self._max_bytes, settings.storage, self._threads
                )
                self._by_id[namespace.id] = (namespace.name, index)
            self._by_id.move_to_end(namespace.id)
            return self._by_id[namespace.id][1]

    def existing(self, namespace: Namespace) -> RingIndex | None:
        """Return the namespace's index, if there is one."""
        with self._lock:
            return self._by_id[namespace.id][1] if namespace.id in self._by_id else None

    def bytes(self) -> int:
        """Return the memory of all indexes."""
        with self._lock:
            return sum(index.bytes() for _, index in self._by_id.values())

    def drop(self, name: str) -> None:
        """Drop the indexes of a namespace that was deleted or replaced."""
        with self._lock:
            for id_ in [id_ for id_, (of, _) in self._by_id.items() if of == name]:
                del self._by_id[id_]

    def trim(self) -> None:
        """Drop indexes that are not in use until the rest fits in the memory allowed."""
        with self._lock:
            while len(self._by_id) > 1 and sum(i.bytes() for _, i in self._by_id.values()) > self._max_bytes:
                oldest = next(iter(self._by_id))
                if self._by_id[oldest][1].in_use():
                    return
                del self._by_id[oldest]


class Memory:
    """Namespaces, and atomic changes of prompts in them. Thread-safe."""

    def __init__(
        self, store: Store, embedder: TextEmbedder | None, index_bytes: int = 4 * 2**30, threads: int = 0
    ) -> None:
        """Open a memory.

        Args:
            store: Where namespaces are kept; closed with the memory.
            embedder: Makes vectors of texts; None if callers send embeddings only.
            index_bytes: Memory for vectors in the indexes.
            threads: Threads for one search; 0 takes all CPUs.
        """
        self.store = store
        self._embedder = embedder
        self._locks = PromptLocks()
        self._indexes = Indexes(index_bytes, threads)

    def namespace(self, name: str) -> Namespace:
        """Return the namespace as it is stored now.

        Raises:
            NotFound: There is no such namespace.
        """
        return self.store.namespace(name)

    def create_namespace(self, name: str, settings: NamespaceSettings) -> tuple[Namespace, bool]:
        """Return the namespace, and whether this call created it.

        Raises:
            InvalidInput: The name or a setting is out of range.
            FailedPrecondition: The namespace exists with other settings.
        """
        check_name(name)
        settings.check()
        namespace, created = self.store.create_namespace(name, settings)
        if namespace.settings != settings:
            raise FailedPrecondition(
                f"namespace {name!r} exists with {namespace.settings}; settings cannot be changed:"
                " use the same, another name, or delete it first"
            )
        return namespace, created

    def delete_namespace(self, name: str) -> bool:
        """Delete the namespace with all its entries; return False if there was none."""
        existed = self.store.delete_namespace(name)
        self._indexes.drop(name)
        return existed

    def copy_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        """Copy everything as of one moment; see Store.copy_namespace."""
        check_name(destination, "destination")
        sizes = self.store.copy_namespace(source, destination, replace)
        if source != destination:
            self._indexes.drop(destination)
        return sizes

    def rename_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        """Rename the namespace atomically; see Store.rename_namespace."""
        sizes = self.store.rename_namespace(source, destination, replace)
        self._indexes.drop(destination)
        self._indexes.drop(source)
        return sizes

    def delete_prompts(self, name: str, prompts: list[str]) -> list[str]:
        """Delete everything stored for prompts; return the prompts that existed."""
        for number, prompt in enumerate(prompts):
            check_prompt_id(prompt, f"prompt_ids[{number}]")
        prompts = list(dict.fromkeys(prompts))
        namespace = self.store.namespace(name)
        with self._locks.hold(namespace.id, prompts):
            existed = self.store.delete_prompts(namespace, prompts)
            index = self._indexes.existing(namespace)
            if index is not None:
                index.forget(prompts)
        return existed

    def index_figures(self, namespace: Namespace) -> tuple[int, int]:
        """Return the numbers of prompts found in the index, and read from the store, since the start."""
        index = self._indexes.existing(namespace)
        return (index.hits, index.loads) if index is not None else (0, 0)

    def embedding_figures(self) -> tuple[int, int]:
        """Return how many texts this process embedded, and found in its cache, since it started."""
        return (self._embedder.embedded, self._embedder.cached) if self._embedder is not None else (0, 0)

    def index_bytes(self) -> int:
        """Return the memory of the vectors in the indexes."""
        return self._indexes.bytes()

    def store_entries(self) -> dict[str, float]:
        """Return the number of namespaces in the store, and of the entries of each kind in them."""
        sizes = [self.store.sizes(self.store.namespace(name)) for name in self.store.namespaces()]
        return {
            "namespaces": len(sizes),
            "prompts": sum(each.prompts for each in sizes),
            "solutions": sum(each.solutions for each in sizes),
            "prefixes": sum(each.prefixes for each in sizes),
            "answers": sum(each.answers for each in sizes),
        }

    @property
    def embedder(self) -> TextEmbedder:
        """The embedder.

        Raises:
            FailedPrecondition: The server has none.
        """
        if self._embedder is None:
            raise FailedPrecondition("this server has no embedding model: send embeddings instead of texts")
        return self._embedder

    def space_of_texts(self) -> EmbeddingSpace:
        """Return the space of the vectors that this server makes of texts.

        Raises:
            FailedPrecondition: The server has no embedding model.
        """
        return EmbeddingSpace(self.embedder.name, self.embedder.dimension)

    def embedding_model(self) -> EmbeddingSpace:
        """Return name and dimension of the embedding model, empty if there is none."""
        return EmbeddingSpace() if self._embedder is None else self.space_of_texts()

    def replay(self, namespace: Namespace, key: IdempotencyKey) -> str | None:
        """Return the first answer to this key, if there was one.

        Raises:
            InvalidInput: The key is too long, or was used for another request.
        """
        if not key.key:
            return None
        if len(key.key) > MAX_KEY_CHARACTERS:
            raise InvalidInput("idempotency_key", f"longer than {MAX_KEY_CHARACTERS} characters")
        stored = self.store.answer(namespace, key.operation, key.key)
        if stored is None:
            return None
        if stored.fingerprint != key.fingerprint:
            raise InvalidInput("idempotency_key", f"{key.key!r} was used before, for another request")
        instruments.REPLAYS.inc()
        return stored.answer

    def change(
        self,
        namespace: Namespace,
        prompts: Collection[str],
        key: IdempotencyKey,
        compute: Callable[[Change], Computed[Result]],
        encode: Callable[[Result], str],
    ) -> Result | str:
        """Run `compute` with the prompts locked and commit its write. If anything raises, nothing is changed.

        Args:
            namespace: As looked up at the start of the request; its key had no answer then.
            prompts: Prompts to lock: all that `compute` reads or writes.
            key: Idempotency key of the request.
            compute: Computes result and write. It runs again after a conflict, so it must take everything it
                knows of the prompts from the Change.
            encode: Encodes a result to be kept under the key.

        Returns:
            The result, or the encoded answer if another request has answered the key meanwhile.

        Raises:
            NotFound: The namespace has been deleted meanwhile.
            Unavailable: Other replicas kept changing the same prompts.
        """
        for _ in range(MAX_ATTEMPTS):
            try:
                with self._locks.hold(namespace.id, prompts):
                    change = Change(namespace, prompts, self.store, self._indexes)
                    return self._attempt(change, key, compute, encode)
            except Conflict:
                instruments.CONFLICTS.inc()
            namespace = self.store.namespace(namespace.name)
            answered = self.replay(namespace, key)
            if answered is not None:
                return answered
        raise Unavailable(f"other replicas kept changing the same prompts of {namespace.name!r}; try again")

    def _attempt(
        self,
        change: Change,
        key: IdempotencyKey,
        compute: Callable[[Change], Computed[Result]],
        encode: Callable[[Result], str],
    ) -> Result:
        failed = True
        try:
            computed = compute(change)
            if computed.write is not None:
                write = computed.write
                if key.key:
                    answer = IdempotentAnswer(
                        key.operation, key.key, key.fingerprint, encode(computed.result)
                    )
                    write = replace(write, answer=answer)
                with instruments.STAGES("commit"):
                    versions = self.store.commit(change.namespace, write)
                change.committed(write, versions)
            failed = False
            return computed.result
        finally:
            change.end(failed)

    def close(self) -> None:
        """Close store and embedder."""
        self.store.close()
        if self._embedder is not None:
            self._embedder.close()


def check_name(name: str, field: str = "namespace") -> None:
    """Raise InvalidInput unless `name` can name a namespace."""
    if not NAMESPACE_NAME.fullmatch(name):
        raise InvalidInput(field, "a name has 1 to 200 characters of letters, digits, and . _ - / : @")


def check_prompt_id(prompt_id: str, field: str = "prompt_id") -> None:
    """Raise InvalidInput unless the id has 1 to 512 bytes, none of them NUL (where SQLite would end it)."""
    size = len(prompt_id.encode())
    if not 1 <= size <= MAX_PROMPT_BYTES:
        raise InvalidInput(field, f"must have 1 to {MAX_PROMPT_BYTES} bytes, has {size}")
    if "\0" in prompt_id:
        raise InvalidInput(field, "must not hold a NUL character")


def check_space(stored: EmbeddingSpace, given: EmbeddingSpace, namespace: str) -> None:
    """Raise FailedPrecondition if vectors of `given` cannot be compared with those stored."""
    if stored.dimension and stored != given:
        raise FailedPrecondition(
            f"namespace {namespace!r} holds vectors of {stored.model!r} with {stored.dimension} dimensions;"
            f" those of {given.model!r} with {given.dimension} cannot be compared with them: use the model it"
            " was made with, or another namespace"
        )
