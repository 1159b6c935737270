"""What novelty and prefix services share: the store, the embedder, the indexes, and the way to change them.

A change is a function from what is stored of some prompts to a `Write`. `Memory.change` runs it with the
prompts locked in this process, commits its write, and runs it again if another replica changed a prompt
meanwhile. Idempotency lives here too, once: a key that has been answered is replayed instead.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from extra_services.errors import FailedPrecondition, InvalidInput, Unavailable
from extra_services.memory import instruments
from extra_services.memory.index import RingIndex
from extra_services.memory.locks import PromptLocks
from extra_services.memory.records import (
    Conflict,
    EmbeddingSpace,
    Header,
    IdempotentAnswer,
    Namespace,
    NamespaceSettings,
    Sizes,
    StoredPrefix,
    TextWindow,
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
    """What the domain needs of an embedder."""

    name: str
    dimension: int
    #: Texts embedded so far, and texts whose vectors were known.
    embedded: int
    cached: int

    def embed(self, texts: list[str], window: TextWindow = "reference") -> NDArray[np.float32]:
        """float32 [len(texts), dimension], unit vectors."""

    def close(self) -> None:
        """Lets go of the model."""


@dataclass(frozen=True)
class Key:
    """An idempotency key as it came with a request (empty: none); `fingerprint` identifies the request."""

    operation: str
    key: str
    fingerprint: str


@dataclass(frozen=True)
class Computed(Generic[Result]):
    """What a change found, and what it wants written; `write` None writes nothing, not even the key."""

    result: Result
    write: Write | None


class Change:
    """One attempt at a change: what its function may read. The prompts are locked in this process."""

    def __init__(
        self, namespace: Namespace, prompts: Collection[str], store: Store, indexes: "Indexes"
    ) -> None:
        self.namespace = namespace
        self.prompts = prompts
        self._store = store
        self._indexes = indexes
        self._index: RingIndex | None = None

    def headers(self) -> dict[str, Header]:
        """Header of each prompt."""
        return self._store.headers(self.namespace, self.prompts)

    def prefixes(self) -> dict[str, list[StoredPrefix]]:
        """Prefixes of each prompt, in order of arrival."""
        return self._store.prefixes(self.namespace, self.prompts)

    def ngram_counts(self, wanted: Mapping[str, Collection[bytes]]) -> dict[str, dict[bytes, int]]:
        """Of the n-grams asked for, by prompt, the counts of those ever counted."""
        return self._store.ngram_counts(self.namespace, wanted)

    def excerpts(self, wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """Excerpts of stored solutions, by prompt and sequence number."""
        return self._store.excerpts(self.namespace, wanted) if wanted else {}

    def rings(self, dimension: int) -> RingIndex:
        """The index with all the prompts in it, as they are stored. What is appended must be in the write."""
        index = self._index = self._indexes.of(self.namespace, dimension)
        stale = index.check_out(self.prompts)
        if self._store.shared:
            current = self._store.headers(self.namespace, self.prompts)
            versions = index.versions(self.prompts)
            stale = [prompt for prompt in self.prompts if versions[prompt] != current[prompt].version]
        for prompt, (header, solutions) in self._store.solutions(self.namespace, stale).items():
            index.load(prompt, header, solutions)
        instruments.PROMPTS_FROM_STORE.inc(len(stale))
        instruments.PROMPTS_IN_INDEX.inc(len(self.prompts) - len(stale))
        return index

    def rings_added(self, prompt: str) -> int:
        """Solutions ever added to a prompt, those this change has appended included."""
        assert self._index is not None, "rings() comes first"
        return self._index.added(prompt)

    def committed(self, write: Write, versions: dict[str, int]) -> None:
        """What is in the index is now what is stored."""
        renewed = {prompt: (write.prompts[prompt].version, version) for prompt, version in versions.items()}
        index = self._index or self._indexes.existing(self.namespace)
        if index is not None:
            index.renew(renewed)

    def end(self, failed: bool) -> None:
        """Lets go of the prompts; after a failure nothing of them stays in the index."""
        if self._index is not None:
            if failed:
                self._index.empty(self.prompts)
            self._index.check_in(self.prompts)
            self._indexes.trim()


class Indexes:
    """The indexes of the namespaces in use, the least recently used dropped when memory is full."""

    def __init__(self, max_bytes: int, threads: int) -> None:
        self._max_bytes = max_bytes
        self._threads = threads
        self._by_id: OrderedDict[int, tuple[str, RingIndex]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, namespace: Namespace, dimension: int) -> RingIndex:
        """The namespace's index, made if there is none.

        Until the namespace holds vectors it has no dimension, and one request may differ from the next.
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
        """The namespace's index, if there is one."""
        with self._lock:
            return self._by_id[namespace.id][1] if namespace.id in self._by_id else None

    def bytes(self) -> int:
        """Memory of them all."""
        with self._lock:
            return sum(index.bytes() for _, index in self._by_id.values())

    def drop(self, name: str) -> None:
        """Forgets the indexes of a namespace that was deleted or replaced."""
        with self._lock:
            for id_ in [id_ for id_, (of, _) in self._by_id.items() if of == name]:
                del self._by_id[id_]

    def trim(self) -> None:
        """Keeps within the memory allowed, as far as that means whole namespaces that are not in use."""
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
        """`embedder` None: callers send embeddings, never texts. `threads` for one search; 0: all CPUs."""
        self.store = store
        self._embedder = embedder
        self._locks = PromptLocks()
        self._indexes = Indexes(index_bytes, threads)

    def create_namespace(self, name: str, settings: NamespaceSettings) -> tuple[Namespace, bool]:
        """The namespace, and whether this call created it.

        InvalidInput for a name or setting out of range, FailedPrecondition if it has other settings.
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
        """Deletes it with all it holds; False if there was none."""
        existed = self.store.delete_namespace(name)
        self._indexes.drop(name)
        return existed

    def copy_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        """Copies everything as of one moment; see Store.copy_namespace."""
        check_name(destination, "destination")
        sizes = self.store.copy_namespace(source, destination, replace)
        if source != destination:
            self._indexes.drop(destination)
        return sizes

    def rename_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        """Gives a namespace another name, at once; see Store.rename_namespace."""
        sizes = self.store.rename_namespace(source, destination, replace)
        self._indexes.drop(destination)
        self._indexes.drop(source)
        return sizes

    def delete_prompts(self, name: str, prompts: list[str]) -> list[str]:
        """Deletes all that is stored of prompts; those that existed."""
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
        """Prompts found in this process's index, and prompts it read from the store, since it started."""
        index = self._indexes.existing(namespace)
        return (index.hits, index.loads) if index is not None else (0, 0)

    def embedding_figures(self) -> tuple[int, int]:
        """Texts this process embedded since it started, and texts whose vectors it knew."""
        return (self._embedder.embedded, self._embedder.cached) if self._embedder is not None else (0, 0)

    def index_bytes(self) -> int:
        """Memory of the vectors in the indexes."""
        return self._indexes.bytes()

    def store_entries(self) -> dict[str, float]:
        """How many namespaces, and prompts, solutions and prefixes in them, the store holds."""
        sizes = [self.store.sizes(self.store.namespace(name)) for name in self.store.namespaces()]
        return {
            "namespaces": len(sizes),
            "prompts": sum(each.prompts for each in sizes),
            "solutions": sum(each.solutions for each in sizes),
            "prefixes": sum(each.prefixes for each in sizes),
        }

    @property
    def embedder(self) -> TextEmbedder:
        """The embedder; FailedPrecondition if there is none."""
        if self._embedder is None:
            raise FailedPrecondition("this server has no embedding model: send embeddings instead of texts")
        return self._embedder

    def space_of_texts(self) -> EmbeddingSpace:
        """The space of vectors this server makes of texts."""
        return EmbeddingSpace(self.embedder.name, self.embedder.dimension)

    def replay(self, namespace: Namespace, key: Key) -> str | None:
        """The first answer to this key, if there was one; InvalidInput if it named another request."""
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
        name: str,
        prompts: Collection[str],
        key: Key,
        compute: Callable[[Change], Computed[Result]],
        encode: Callable[[Result], str],
    ) -> Result | str:
        """Runs `compute` with the prompts locked and commits its write; its result, or the answer to replay.

        `compute` runs again if another replica was faster, so it must take all it knows of the prompts from
        the Change. `encode` is how its result is kept under the key. Whatever raises, nothing is changed.
        """
        for _ in range(MAX_ATTEMPTS):
            namespace = self.store.namespace(name)
            with self._locks.hold(namespace.id, prompts):
                answered = self.replay(namespace, key)
                if answered is not None:
                    return answered
                try:
                    return self._attempt(
                        Change(namespace, prompts, self.store, self._indexes), key, compute, encode
                    )
                except Conflict:
                    instruments.CONFLICTS.inc()
        raise Unavailable(f"other replicas kept changing the same prompts of {name!r}; try again")

    def _attempt(
        self,
        change: Change,
        key: Key,
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
        """Closes store and embedder."""
        self.store.close()
        if self._embedder is not None:
            self._embedder.close()


def check_name(name: str, field: str = "namespace") -> None:
    """InvalidInput unless it can name a namespace."""
    if not NAMESPACE_NAME.fullmatch(name):
        raise InvalidInput(field, "a name has 1 to 200 characters of letters, digits, and . _ - / : @")


def check_prompt_id(prompt_id: str, field: str = "prompt_id") -> None:
    """InvalidInput unless it has 1 to 512 bytes, none of them NUL (where SQLite would end it)."""
    if not 1 <= len(prompt_id.encode()) <= MAX_PROMPT_BYTES:
        raise InvalidInput(field, f"must have 1 to {MAX_PROMPT_BYTES} bytes, has {len(prompt_id.encode())}")
    if "\0" in prompt_id:
        raise InvalidInput(field, "must not hold a NUL character")


def check_space(stored: EmbeddingSpace, given: EmbeddingSpace, namespace: str) -> None:
    """FailedPrecondition if vectors of `given` cannot be compared with those stored."""
    if stored.dimension and stored != given:
        raise FailedPrecondition(
            f"namespace {namespace!r} holds vectors of {stored.model!r} with {stored.dimension} dimensions;"
            f" those of {given.model!r} with {given.dimension} cannot be compared with them: use the model it"
            " was made with, or another namespace"
        )
