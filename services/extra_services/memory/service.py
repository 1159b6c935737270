"""NamespaceService over gRPC: translates messages to the domain and back."""

import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

from extra_rl import wire
from extra_rl.v1 import common_pb2, namespace_pb2, namespace_pb2_grpc
from extra_rl.vocabulary import MemoryPolicy, Metric, TextWindow, VectorStorage
from extra_services.errors import InvalidInput
from extra_services.memory.instruments import REQUESTS_WAITING, STAGES
from extra_services.memory.namespaces import Namespaces
from extra_services.memory.records import Header, NamespaceSettings
from extra_services.runtime import arrays
from extra_services.runtime.threads import Threads, in_thread

Result = TypeVar("Result")

#: Settings that are plain numbers, in the message and the domain.
NUMBERS = (
    "memory_capacity",
    "min_history",
    "prefix_capacity",
    "ngram_size",
    "cluster_similarity",
    "variance_rate",
    "outcome_capacity",
    "outcome_decay",
)
#: Bytes of an exported file in one message; well below the 4 MiB that gRPC clients accept by default.
CHUNK_BYTES = 2**20


class NamespaceServicer(namespace_pb2_grpc.NamespaceServiceServicer):
    """Runs the domain's blocking calls in `threads`."""

    def __init__(self, namespaces: Namespaces, threads: Threads, server: common_pb2.ServerInfo) -> None:
        self._namespaces = namespaces
        self._threads = threads
        self._server = server

    async def CreateNamespace(
        self, request: namespace_pb2.CreateNamespaceRequest, context: object
    ) -> namespace_pb2.CreateNamespaceResponse:
        settings = _settings(request.settings)
        namespace, created = await self._run(lambda: self._namespaces.create(request.namespace, settings))
        return namespace_pb2.CreateNamespaceResponse(
            settings=_settings_message(namespace.settings), created=created
        )

    async def DescribeNamespace(
        self, request: namespace_pb2.DescribeNamespaceRequest, context: object
    ) -> namespace_pb2.DescribeNamespaceResponse:
        found = await self._run(lambda: self._namespaces.describe(request.namespace))
        space = found.namespace.solutions
        return namespace_pb2.DescribeNamespaceResponse(
            settings=_settings_message(found.namespace.settings),
            prompts=found.sizes.prompts,
            solutions=found.sizes.solutions,
            prefixes=found.sizes.prefixes,
            embedding_model=space.model,
            dimension=space.dimension,
            positive=[
                _positive_message(metric, total, count)
                for metric, (total, count) in sorted(found.namespace.positive.items())
            ],
            index_hits=found.index_hits,
            index_loads=found.index_loads,
            texts_embedded=found.texts_embedded,
            texts_cached=found.texts_cached,
            answers=found.sizes.answers,
        )

    async def ListNamespaces(
        self, request: namespace_pb2.ListNamespacesRequest, context: object
    ) -> namespace_pb2.ListNamespacesResponse:
        return namespace_pb2.ListNamespacesResponse(namespaces=await self._run(self._namespaces.names))

    async def CopyNamespace(
        self, request: namespace_pb2.CopyNamespaceRequest, context: object
    ) -> namespace_pb2.CopyNamespaceResponse:
        sizes = await self._run(
            lambda: self._namespaces.copy(request.source, request.destination, request.replace)
        )
        return namespace_pb2.CopyNamespaceResponse(
            solutions=sizes.solutions, prefixes=sizes.prefixes, answers=sizes.answers
        )

    async def DeleteNamespace(
        self, request: namespace_pb2.DeleteNamespaceRequest, context: object
    ) -> namespace_pb2.DeleteNamespaceResponse:
        existed = await self._run(lambda: self._namespaces.delete(request.namespace))
        return namespace_pb2.DeleteNamespaceResponse(existed=existed)

    async def ExportNamespace(
        self, request: namespace_pb2.ExportNamespaceRequest, context: object
    ) -> AsyncIterator[namespace_pb2.ExportNamespaceResponse]:
        pieces = self._namespaces.export(request.namespace)
        while (piece := await self._run(lambda: next(pieces, None))) is not None:
            for start in range(0, len(piece), CHUNK_BYTES):
                yield namespace_pb2.ExportNamespaceResponse(chunk=piece[start : start + CHUNK_BYTES])

    async def ImportNamespace(
        self, requests: AsyncIterator[namespace_pb2.ImportNamespaceRequest], context: object
    ) -> namespace_pb2.ImportNamespaceResponse:
        first: namespace_pb2.ImportNamespaceRequest | None = None
        received, limit = 0, self._namespaces.limits.import_bytes
        with tempfile.NamedTemporaryFile(prefix="extra-rl-import-") as file:
            async for request in requests:
                first = first or request
                received += len(request.chunk)
                if received > limit:
                    raise InvalidInput("chunk", f"the file is larger than {limit} bytes")
                file.write(request.chunk)
            file.flush()
            if first is None:
                raise InvalidInput("namespace", "no message was sent")
            name, replaces = first.namespace, first.replace
            namespace, sizes = await self._run(
                lambda: self._namespaces.import_file(name, Path(file.name), replaces)
            )
        return namespace_pb2.ImportNamespaceResponse(
            settings=_settings_message(namespace.settings),
            prompts=sizes.prompts,
            solutions=sizes.solutions,
            prefixes=sizes.prefixes,
            answers=sizes.answers,
        )

    async def ListPrompts(
        self, request: namespace_pb2.ListPromptsRequest, context: object
    ) -> namespace_pb2.ListPromptsResponse:
        page = await self._run(
            lambda: self._namespaces.prompts(request.namespace, request.page_token, request.page_size)
        )
        capacity = page.namespace.settings.memory_capacity
        return namespace_pb2.ListPromptsResponse(
            prompts=[_summary(prompt, header, capacity) for prompt, header in page.prompts],
            next_page_token=page.next_page_token,
        )

    async def DeletePrompts(
        self, request: namespace_pb2.DeletePromptsRequest, context: object
    ) -> namespace_pb2.DeletePromptsResponse:
        prompts = list(request.prompt_ids)
        existed = await self._run(lambda: self._namespaces.delete_prompts(request.namespace, prompts))
        return namespace_pb2.DeletePromptsResponse(existed=existed)

    async def GetInfo(
        self, request: namespace_pb2.NamespaceServiceGetInfoRequest, context: object
    ) -> namespace_pb2.NamespaceServiceGetInfoResponse:
        limits = self._namespaces.limits
        return namespace_pb2.NamespaceServiceGetInfoResponse(
            server=self._server,
            store=self._namespaces.store_kind,
            max_import_bytes=limits.import_bytes,
            max_page_size=limits.page_size,
            max_prompts=limits.prompts_per_request,
        )

    async def _run(self, call: Callable[[], Result]) -> Result:
        return await in_thread(self._threads, call, STAGES, REQUESTS_WAITING)


def _settings(message: namespace_pb2.NamespaceSettings) -> NamespaceSettings:
    given: dict[str, Any] = {name: getattr(message, name) for name in NUMBERS if message.HasField(name)}  # type: ignore[arg-type]
    return NamespaceSettings(
        memory_policy=arrays.requested(MemoryPolicy, message.memory_policy, "settings.memory_policy"),
        text_window=arrays.requested(TextWindow, message.text_window, "settings.text_window"),
        storage=arrays.requested(VectorStorage, message.storage, "settings.storage"),
        **given,
    )


def _settings_message(settings: NamespaceSettings) -> namespace_pb2.NamespaceSettings:
    message = namespace_pb2.NamespaceSettings(
        memory_policy=wire.number(settings.memory_policy),  # type: ignore[arg-type]
        text_window=wire.number(settings.text_window),  # type: ignore[arg-type]
        storage=wire.number(settings.storage),  # type: ignore[arg-type]
    )
    for name in NUMBERS:
        setattr(message, name, getattr(settings, name))
    return message


def _positive_message(metric: str, total: float, count: int) -> namespace_pb2.PositiveNovelty:
    number = wire.number(Metric(metric))
    return namespace_pb2.PositiveNovelty(metric=number, count=count, mean=total / count)  # type: ignore[arg-type]


def _summary(prompt: str, header: Header, capacity: int) -> namespace_pb2.PromptSummary:
    return namespace_pb2.PromptSummary(
        prompt_id=prompt,
        solutions=min(header.solutions_added, capacity),
        solutions_added=header.solutions_added,
        prefixes=header.prefixes_stored,
        reward_variance=header.reward_variance,
        answers=header.answers_stored,
    )
