"""The novelty server: NamespaceService, NoveltyService and PrefixService over one memory, in one process."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import grpc
from pydantic import Field

from extra_rl.v1 import namespace_pb2_grpc, novelty_pb2_grpc, prefix_pb2_grpc
from extra_services.errors import FailedPrecondition, ServiceError
from extra_services.memory import instruments
from extra_services.memory.embedding import Embedder
from extra_services.memory.memory import Memory
from extra_services.memory.namespaces import NamespaceLimits, Namespaces
from extra_services.memory.service import NamespaceServicer
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.memory.store import Store
from extra_services.novelty.collecting import SampleCollector
from extra_services.novelty.request import NoveltyLimits
from extra_services.novelty.rewards import POSTS
from extra_services.novelty.scoring import NoveltyScorer
from extra_services.novelty.service import NoveltyServicer
from extra_services.prefix.prefixes import PrefixLimits, PrefixMemory
from extra_services.prefix.service import PrefixServicer
from extra_services.runtime import server
from extra_services.runtime.info import server_info
from extra_services.runtime.metrics import throttled
from extra_services.runtime.server import ServerSpec
from extra_services.runtime.settings import MetricsPort, ServerSettings, load
from extra_services.runtime.threads import Threads

#: Least seconds between two reads of the store for the metrics: a read scans all prompts.
STORE_SECONDS = 10.0


class NoveltySettings(ServerSettings):
    """Settings of the novelty server."""

    section: ClassVar[str] = "novelty"

    port: int = Field(50052, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    metrics_port: MetricsPort = Field(
        9092, description="Port that Prometheus reads /metrics from; 0 takes a free one, off has none."
    )
    data_folder: Path = Field(
        Path("novelty-data"), description="Folder of the durable memory; made if it does not exist."
    )
    redis_url: str = Field(
        "",
        description="Redis to keep the memory in instead: servers share it. redis://, rediss://, unix://, or"
        " sentinel://HOST:PORT,HOST:PORT/NAME for the primary that Redis Sentinel names.",
    )
    redis_prefix: str = Field("extra-rl", min_length=1, description="What the keys in Redis begin with.")
    redis_allow_loss: bool = Field(
        False, description="Accept a Redis that may lose the last acknowledged writes when it is killed."
    )
    redis_replicas: int = Field(
        0, ge=0, description="Replicas of Redis that must have a write before it is acknowledged."
    )
    embedder: str = Field(
        "all-MiniLM-L6-v2",
        description="Embedding model: a sentence-transformers folder, the name of a packaged one, or none"
        " (callers send embeddings).",
    )
    embedding_backend: Literal["torch", "onnx_int8"] = Field(
        "torch",
        description="Runtime of the model. onnx_int8 is faster on a CPU and less exact; vectors of the two"
        " are not compared.",
    )
    prefix_embedding: Literal["exact", "one_pass"] = Field(
        "exact",
        description="How prefixes are embedded: each by itself, or all of a rollout in one pass over it,"
        " which gives about the same vectors in a fourth of the time.",
    )
    device: str | None = Field(
        None, description="Where to embed, such as cpu or cuda:0; a GPU if there is one."
    )
    threads: int = Field(
        0, ge=0, description="CPU threads for embedding and search; 0 leaves it to the libraries."
    )
    embedding_batch_size: int = Field(0, ge=0, description="Most texts in a batch; 0 suits the device.")
    embedding_cache_texts: int = Field(65536, ge=0, description="Texts whose embedding is kept in memory.")
    index_bytes: int = Field(
        4 * 2**30, gt=0, description="Memory for vectors in FAISS; others wait in the store."
    )
    request_threads: int = Field(32, gt=0, description="Requests worked on at once.")
    max_queue: int = Field(
        1024, gt=0, description="Requests that may wait for a thread; more get RESOURCE_EXHAUSTED."
    )
    max_rollouts_per_request: int = Field(16384, gt=0, description="Rollouts in one ScoreGroups request.")
    max_waiting_samples: int = Field(
        65536, gt=0, description="Samples that may wait for their groups at once."
    )
    max_import_bytes: int = Field(16 * 2**30, gt=0, description="Largest file that ImportNamespace takes.")
    max_prompts_per_request: int = Field(4096, gt=0, description="Prompts or outcomes in one prefix request.")
    max_text_characters: int = Field(1_000_000, gt=0, description="Characters of one text.")


def main(arguments: list[str]) -> None:
    """Serve until stopped."""
    settings = load(NoveltySettings, arguments)
    try:
        server.run(settings, lambda: build(settings))
    except ServiceError as error:
        raise SystemExit(f"extra-rl serve novelty: {error.message}") from error


async def build(settings: NoveltySettings) -> ServerSpec:
    """Open the store, load the model, and make the services that use them."""
    memory = await asyncio.to_thread(_memory, settings)
    _watch(memory, settings)
    threads = Threads(settings.request_threads, settings.max_queue, "novelty")
    characters = settings.max_text_characters
    limits = NoveltyLimits(settings.max_rollouts_per_request, characters)
    scorer = NoveltyScorer(memory, limits)
    collector = SampleCollector(memory, scorer, threads, settings.max_waiting_samples)
    prefixes = PrefixMemory(
        memory,
        PrefixLimits(settings.max_prompts_per_request, characters),
        one_pass=settings.prefix_embedding == "one_pass",
    )
    namespaces = Namespaces(
        memory,
        NamespaceLimits(
            import_bytes=settings.max_import_bytes, prompts_per_request=settings.max_rollouts_per_request
        ),
    )
    info = server_info(settings)

    async def close() -> None:
        threads.shutdown()
        await asyncio.to_thread(memory.close)

    return ServerSpec(
        services={
            "extra_rl.v1.NamespaceService": _adder(
                namespace_pb2_grpc.add_NamespaceServiceServicer_to_server,
                NamespaceServicer(namespaces, threads, info),
            ),
            "extra_rl.v1.NoveltyService": _adder(
                novelty_pb2_grpc.add_NoveltyServiceServicer_to_server,
                NoveltyServicer(memory, scorer, collector, threads, limits, info),
            ),
            "extra_rl.v1.PrefixService": _adder(
                prefix_pb2_grpc.add_PrefixServiceServicer_to_server,
                PrefixServicer(prefixes, threads, info),
            ),
        },
        close=close,
        http_posts=POSTS,
    )


def _watch(memory: Memory, settings: NoveltySettings) -> None:
    """Make the gauges read `memory` when the metrics are read."""
    entries = throttled(STORE_SECONDS, memory.store_entries)
    for kind in ("namespaces", "prompts", "solutions", "prefixes", "answers"):
        instruments.STORE_ENTRIES.labels(kind).set_function(partial(entries, kind))
    instruments.INDEX_BYTES.set_function(memory.index_bytes)
    instruments.INDEX_LIMIT_BYTES.set(settings.index_bytes)


def _memory(settings: NoveltySettings) -> Memory:
    store = _store(settings)
    if settings.threads:
        import torch

        torch.set_num_threads(settings.threads)
    if settings.embedder == "none":
        return Memory(store, None, settings.index_bytes, settings.threads)
    embedder = Embedder(
        settings.embedder,
        settings.device,
        settings.embedding_batch_size,
        settings.embedding_cache_texts,
        settings.data_folder / "onnx" if settings.embedding_backend == "onnx_int8" else None,
        settings.threads,
    )
    return Memory(store, embedder, settings.index_bytes, settings.threads)


def _store(settings: NoveltySettings) -> Store:
    if not settings.redis_url:
        return SqliteStore(settings.data_folder)
    try:
        from extra_services.memory.redis_store import RedisStore
    except ModuleNotFoundError as error:
        raise FailedPrecondition("redis_url is set: pip install 'extra-rl[redis]'") from error
    return RedisStore(
        settings.redis_url, settings.redis_prefix, settings.redis_allow_loss, settings.redis_replicas
    )


def _adder(add: Callable[..., None], servicer: object) -> Callable[[grpc.aio.Server], None]:
    return lambda to: add(servicer, to)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
