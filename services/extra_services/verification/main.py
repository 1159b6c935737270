"""`extra-rl serve verification`: the settings, and the server built from them."""

import asyncio
import os
from typing import ClassVar

from pydantic import Field

from extra_rl.v1 import verification_pb2_grpc
from extra_services.runtime.info import server_info
from extra_services.runtime.server import ServerSpec, run
from extra_services.runtime.settings import MetricsPort, ServerSettings, load
from extra_services.verification.pool import WorkerPool
from extra_services.verification.service import VerificationServicer
from extra_services.verification.verifier import Verifier


class VerificationSettings(ServerSettings):
    """Settings of the verification server."""

    section: ClassVar[str] = "verification"

    port: int = Field(50053, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    metrics_port: MetricsPort = Field(
        9093, description="Port that Prometheus reads /metrics from; 0 takes a free one, off has none."
    )
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="Worker processes; by default one per core.",
    )
    slow_workers: int = Field(
        default_factory=lambda: 2 * (os.cpu_count() or 1),
        ge=0,
        description="More processes, at low priority, for items that run long and would block the workers.",
    )
    timeout_seconds: float = Field(
        5.0, gt=0, description="Longest execution of one item; then its worker is killed."
    )
    max_queue: int = Field(
        8192, gt=0, description="Items that may wait for a worker; more get RESOURCE_EXHAUSTED."
    )
    cache_size: int = Field(
        65536, gt=0, description="Verdicts in the cache, by method, options and both answers."
    )
    worker_memory_bytes: int = Field(
        2**30, ge=2**28, description="Memory limit of each worker process (heap and private mappings)."
    )


def main(arguments: list[str]) -> None:
    """Serve with the settings in `arguments`, the environment and the config file, until stopped."""
    settings = load(VerificationSettings, arguments)

    async def build() -> ServerSpec:
        pool = WorkerPool(
            settings.workers,
            settings.slow_workers,
            settings.worker_memory_bytes,
            settings.max_queue,
            settings.log_level,
        )
        await asyncio.to_thread(pool.start)
        verifier = Verifier(pool, settings.timeout_seconds, settings.cache_size)
        verifier.watch()
        servicer = VerificationServicer(
            verifier, server_info(settings), settings.workers + settings.slow_workers, settings.max_queue
        )

        async def close() -> None:
            await asyncio.to_thread(pool.close)

        name = "extra_rl.v1.VerificationService"
        return ServerSpec(
            {
                name: lambda server: verification_pb2_grpc.add_VerificationServiceServicer_to_server(
                    servicer, server
                )
            },
            close,
        )

    run(settings, build)
