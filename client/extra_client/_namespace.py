"""NamespaceService without the connection: requests and responses as dataclasses."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from extra_client import _server_info, _wire
from extra_client._server_info import ServerInfo
from extra_client._transport import NAMESPACE, Call
from extra_rl.v1 import namespace_pb2 as pb
from extra_rl.vocabulary import MemoryPolicy, Metric, TextWindow, VectorStorage

#: Bytes of a file in one message.
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceSettings:
    """Settings of a namespace, stored with it; None takes the server's default."""

    #: Solutions kept per prompt, oldest out first (16).
    memory_capacity: int | None = None
    #: Novelty is 0 while the prompt's memory held fewer entries than this before the group (8).
    min_history: int | None = None
    memory_policy: MemoryPolicy | None = None
    #: Prefixes kept per prompt, oldest out first (128).
    prefix_capacity: int | None = None
    #: Part of a text that is embedded (REFERENCE).
    text_window: TextWindow | None = None
    #: Number format of solutions' vectors (FLOAT32).
    storage: VectorStorage | None = None
    #: Tokens per n-gram of Metric.NGRAM_COUNT (2).
    ngram_size: int | None = None
    #: Cosine similarity from which two solutions are in one cluster, for Metric.CLUSTER_SIZE (0.95).
    cluster_similarity: float | None = None
    #: Weight of a group's reward variance in its prompt's moving average (0.1).
    variance_rate: float | None = None
    #: Distinct answers whose counts Metric.OUTCOME keeps per prompt, least recently given out first (256).
    outcome_capacity: int | None = None
    #: Factor, in (0, 1], by which each remembered group with a rollout in the scope multiplies its prompt's
    #: earlier counts (1).
    outcome_decay: float | None = None


@dataclass(frozen=True, slots=True)
class PositiveNovelty:
    """Positive novelties of one metric so far; Scale.RUNNING_MEAN divides by their mean."""

    metric: Metric
    count: int
    mean: float


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace as it is now."""

    settings: NamespaceSettings
    #: Prompts with at least one stored solution.
    prompts: int
    #: Solutions and prefixes stored.
    solutions: int
    prefixes: int
    #: Embedding model and dimension of its vectors; empty and 0 until the first.
    embedding_model: str
    dimension: int
    positive: tuple[PositiveNovelty, ...]
    #: Times this server, since it started, found a prompt's memory in its index, or had to read it.
    index_hits: int
    index_loads: int
    #: Texts this server, since it started, embedded, or found in its cache; in all namespaces.
    texts_embedded: int
    texts_cached: int
    #: Distinct answers counted, over all prompts.
    answers: int


@dataclass(frozen=True, slots=True)
class NamespaceCopy:
    """Sizes of a copy."""

    solutions: int
    prefixes: int
    answers: int


@dataclass(frozen=True, slots=True)
class ImportedNamespace:
    """A namespace made from a file."""

    settings: NamespaceSettings
    prompts: int
    solutions: int
    prefixes: int
    answers: int


@dataclass(frozen=True, slots=True)
class PromptSummary:
    """Sizes of one prompt's memory."""

    prompt_id: str
    #: Solutions stored, and ever stored.
    solutions: int
    solutions_added: int
    prefixes: int
    #: Moving average of the variance of its rewards; 0 if never tracked.
    reward_variance: float
    #: Distinct answers counted.
    answers: int


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """Version and limits of the service."""

    server: ServerInfo
    #: Where namespaces are stored: "sqlite" or "redis".
    store: str
    #: Largest file that `import_from` may send, in bytes.
    max_import_bytes: int
    #: Largest page of `list_prompts`.
    max_page_size: int
    #: Most prompts in one `delete_prompts`.
    max_prompts: int


def create_namespace(namespace: str, settings: NamespaceSettings | None) -> Call[NamespaceSettings]:
    """Return the call CreateNamespace."""
    request = pb.CreateNamespaceRequest(namespace=namespace, settings=_settings_out(settings))
    return Call(
        NAMESPACE, "CreateNamespace", request, lambda response: _settings_in(response.settings), deadline=30
    )


def describe_namespace(namespace: str) -> Call[Namespace]:
    """Return the call DescribeNamespace."""
    return Call(
        NAMESPACE,
        "DescribeNamespace",
        pb.DescribeNamespaceRequest(namespace=namespace),
        _namespace,
        deadline=30,
    )


def copy_namespace(source: str, destination: str, replace: bool) -> Call[NamespaceCopy]:
    """Return the call CopyNamespace."""
    request = pb.CopyNamespaceRequest(source=source, destination=destination, replace=replace)
    return Call(
        NAMESPACE,
        "CopyNamespace",
        request,
        lambda response: NamespaceCopy(response.solutions, response.prefixes, response.answers),
        deadline=600,
    )


def delete_namespace(namespace: str) -> Call[bool]:
    """Return the call DeleteNamespace."""
    request = pb.DeleteNamespaceRequest(namespace=namespace)
    return Call(NAMESPACE, "DeleteNamespace", request, lambda response: bool(response.existed), deadline=120)


def list_namespaces() -> Call[list[str]]:
    """Return the call ListNamespaces."""
    return Call(
        NAMESPACE,
        "ListNamespaces",
        pb.ListNamespacesRequest(),
        lambda response: list(response.namespaces),
        deadline=30,
    )


def list_prompts(namespace: str, page_size: int, page_token: str) -> Call[tuple[list[PromptSummary], str]]:
    """Return the call ListPrompts: one page, and the token of the next one, empty after the last."""
    request = pb.ListPromptsRequest(namespace=namespace, page_size=page_size, page_token=page_token)
    return Call(
        NAMESPACE,
        "ListPrompts",
        request,
        lambda response: ([_summary(prompt) for prompt in response.prompts], response.next_page_token),
        deadline=60,
    )


def delete_prompts(namespace: str, prompt_ids: Sequence[str]) -> Call[list[bool]]:
    """Return the call DeletePrompts."""
    request = pb.DeletePromptsRequest(namespace=namespace, prompt_ids=prompt_ids)
    return Call(NAMESPACE, "DeletePrompts", request, lambda response: list(response.existed), deadline=120)


def export_namespace(namespace: str) -> Call[bytes]:
    """Return the call ExportNamespace; each message is the next piece of the file."""
    request = pb.ExportNamespaceRequest(namespace=namespace)
    return Call(NAMESPACE, "ExportNamespace", request, lambda response: bytes(response.chunk), deadline=3600)


def import_namespace(messages: Any) -> Call[ImportedNamespace]:
    """Return the call ImportNamespace, which sends what `import_messages` makes."""
    return Call(NAMESPACE, "ImportNamespace", messages, _imported, deadline=3600)


def import_messages(namespace: str, path: Path, replace: bool) -> Iterator[pb.ImportNamespaceRequest]:
    """Yield the messages that send the file at `path`."""
    with path.open("rb") as file:
        yield pb.ImportNamespaceRequest(namespace=namespace, replace=replace)
        while chunk := file.read(_CHUNK_BYTES):
            yield pb.ImportNamespaceRequest(chunk=chunk)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` when it is complete."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def get_info() -> Call[NamespaceInfo]:
    """Return the call GetInfo."""
    return Call(NAMESPACE, "GetInfo", pb.NamespaceServiceGetInfoRequest(), _info, deadline=30)


def _settings_out(settings: NamespaceSettings | None) -> pb.NamespaceSettings:
    if settings is None:
        return pb.NamespaceSettings()
    return pb.NamespaceSettings(
        memory_capacity=settings.memory_capacity,
        min_history=settings.min_history,
        memory_policy=_wire.number(MemoryPolicy, settings.memory_policy, "settings.memory_policy"),
        prefix_capacity=settings.prefix_capacity,
        text_window=_wire.number(TextWindow, settings.text_window, "settings.text_window"),
        storage=_wire.number(VectorStorage, settings.storage, "settings.storage"),
        ngram_size=settings.ngram_size,
        cluster_similarity=settings.cluster_similarity,
        variance_rate=settings.variance_rate,
        outcome_capacity=settings.outcome_capacity,
        outcome_decay=settings.outcome_decay,
    )


def _settings_in(settings: pb.NamespaceSettings) -> NamespaceSettings:
    return NamespaceSettings(
        memory_capacity=settings.memory_capacity,
        min_history=settings.min_history,
        memory_policy=_wire.optional_member(MemoryPolicy, settings.memory_policy),
        prefix_capacity=settings.prefix_capacity,
        text_window=_wire.optional_member(TextWindow, settings.text_window),
        storage=_wire.optional_member(VectorStorage, settings.storage),
        ngram_size=settings.ngram_size,
        cluster_similarity=settings.cluster_similarity,
        variance_rate=settings.variance_rate,
        outcome_capacity=settings.outcome_capacity,
        outcome_decay=settings.outcome_decay,
    )


def _namespace(response: pb.DescribeNamespaceResponse) -> Namespace:
    return Namespace(
        settings=_settings_in(response.settings),
        prompts=response.prompts,
        solutions=response.solutions,
        prefixes=response.prefixes,
        embedding_model=response.embedding_model,
        dimension=response.dimension,
        positive=tuple(
            PositiveNovelty(_wire.member(Metric, positive.metric), positive.count, positive.mean)
            for positive in response.positive
        ),
        index_hits=response.index_hits,
        index_loads=response.index_loads,
        texts_embedded=response.texts_embedded,
        texts_cached=response.texts_cached,
        answers=response.answers,
    )


def _imported(response: pb.ImportNamespaceResponse) -> ImportedNamespace:
    return ImportedNamespace(
        _settings_in(response.settings),
        response.prompts,
        response.solutions,
        response.prefixes,
        response.answers,
    )


def _summary(prompt: pb.PromptSummary) -> PromptSummary:
    return PromptSummary(
        prompt_id=prompt.prompt_id,
        solutions=prompt.solutions,
        solutions_added=prompt.solutions_added,
        prefixes=prompt.prefixes,
        reward_variance=prompt.reward_variance,
        answers=prompt.answers,
    )


def _info(response: pb.NamespaceServiceGetInfoResponse) -> NamespaceInfo:
    return NamespaceInfo(
        server=_server_info.parse(response.server),
        store=response.store,
        max_import_bytes=response.max_import_bytes,
        max_page_size=response.max_page_size,
        max_prompts=response.max_prompts,
    )
