"""Administration of namespaces and of the prompts in them: the domain of NamespaceService."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from extra_services.errors import InvalidInput
from extra_services.memory import transfer
from extra_services.memory.memory import Memory
from extra_services.memory.records import Header, Namespace, NamespaceSettings, Sizes

DEFAULT_PAGE_SIZE = 1000


@dataclass(frozen=True)
class NamespaceLimits:
    """Largest requests that are accepted."""

    import_bytes: int = 16 * 2**30
    page_size: int = 10_000
    prompts_per_request: int = 16384


@dataclass(frozen=True)
class NamespaceDescription:
    """A namespace, its sizes, and how this server has used its index and model since it started."""

    namespace: Namespace
    sizes: Sizes
    index_hits: int
    index_loads: int
    texts_embedded: int
    texts_cached: int


@dataclass(frozen=True)
class PromptPage:
    """Prompts with their headers, in order of id, and the `after` of the next page, empty after the last."""

    namespace: Namespace
    prompts: list[tuple[str, Header]]
    next_page_token: str


class Namespaces:
    """Creates, describes, copies, deletes, exports and imports namespaces. Thread-safe; blocks."""

    def __init__(self, memory: Memory, limits: NamespaceLimits | None = None) -> None:
        self._memory = memory
        self.limits = limits or NamespaceLimits()

    @property
    def store_kind(self) -> str:
        """Kind of the store: "sqlite" or "redis"."""
        return self._memory.store.kind

    def create(self, name: str, settings: NamespaceSettings) -> tuple[Namespace, bool]:
        """Return the namespace, and whether this call created it.

        Raises:
            InvalidInput: The name or a setting is out of range.
            FailedPrecondition: The namespace exists with other settings.
        """
        settings.check()
        # The formulas allow it, and the reference's cases have it; in a request it can only be a mistake.
        if settings.min_history > settings.memory_capacity:
            raise InvalidInput(
                "settings.min_history",
                f"{settings.min_history} is more than memory_capacity, {settings.memory_capacity}:"
                " novelty would always be 0",
            )
        return self._memory.create_namespace(name, settings)

    def describe(self, name: str) -> NamespaceDescription:
        """Return settings and sizes.

        Raises:
            NotFound: There is no such namespace.
        """
        namespace = self._memory.namespace(name)
        sizes = self._memory.store.sizes(namespace)
        index, texts = self._memory.index_figures(namespace), self._memory.embedding_figures()
        return NamespaceDescription(namespace, sizes, *index, *texts)

    def names(self) -> list[str]:
        """Return the names of all namespaces, sorted."""
        return self._memory.store.namespaces()

    def copy(self, source: str, destination: str, replace: bool) -> Sizes:
        """Copy a namespace as of one moment; return the sizes of the copy.

        Raises:
            NotFound: There is no source.
            AlreadyExists: The destination exists and `replace` is false.
        """
        return self._memory.copy_namespace(source, destination, replace)

    def delete(self, name: str) -> bool:
        """Delete a namespace with all its entries; return False if there was none."""
        return self._memory.delete_namespace(name)

    def prompts(self, name: str, after: str, size: int) -> PromptPage:
        """Return the first `size` prompts (0: 1000) whose id sorts after `after` as UTF-8 bytes.

        Raises:
            InvalidInput: The page is too large.
            NotFound: There is no such namespace.
        """
        size = size or DEFAULT_PAGE_SIZE
        if size > self.limits.page_size:
            raise InvalidInput("page_size", f"must be at most {self.limits.page_size}, is {size}")
        namespace = self._memory.namespace(name)
        page = self._memory.store.page(namespace, after, size)
        return PromptPage(namespace, page, page[-1][0] if len(page) == size else "")

    def delete_prompts(self, name: str, prompts: list[str]) -> list[bool]:
        """Delete everything stored for prompts; return for each whether anything was stored.

        Raises:
            InvalidInput: There are too many, or an id cannot be one of a prompt.
            NotFound: There is no such namespace.
        """
        limit = self.limits.prompts_per_request
        if len(prompts) > limit:
            raise InvalidInput("prompt_ids", f"{len(prompts)} in one request; send at most {limit}")
        existed = set(self._memory.delete_prompts(name, prompts))
        return [prompt in existed for prompt in prompts]

    def export(self, name: str) -> Iterator[bytes]:
        """Yield the namespace as a Parquet file, in pieces.

        Raises:
            NotFound: There is no such namespace.
        """
        return transfer.export(self._memory, name)

    def import_file(self, name: str, path: Path, replace: bool) -> tuple[Namespace, Sizes]:
        """Make a namespace from an exported file; return it and its sizes.

        Raises:
            InvalidInput: The file is damaged, or no exported file.
            AlreadyExists: The namespace exists and `replace` is false.
        """
        return transfer.import_file(self._memory, name, path, replace)
