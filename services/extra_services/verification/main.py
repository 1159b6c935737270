"""`extra-rl serve verification`: the settings, and the server built from them."""

import asyncio
import os
from typing import ClassVar

import structlog
from pydantic import Field

from extra_rl.config_file import ConfigError
from extra_rl.v1 import verification_pb2_grpc
from extra_services.runtime.info import server_info
from extra_services.runtime.server import ServerSpec, run
from extra_services.runtime.settings import MetricsPort, ServerSettings, load
from extra_services.verification.code import CodeExecution, probe
from extra_services.verification.fair_queue import CallQueue
from extra_services.verification.pool import TaskFinished, WorkerPool
from extra_services.verification.rewards import POSTS
from extra_services.verification.service import VerificationServicer
from extra_services.verification.verifier import Verifier

log = structlog.get_logger()


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
        description="More processes, at low priority, for items that run long and would block the workers; by"
        " default two per core.",
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
    code_execution: CodeExecution = Field(
        CodeExecution.OFF,
        description="Whether METHOD_CODE runs the programs in responses. sandbox: without network and with"
        " their own file system; the server does not start where the kernel has no such sandbox. unsandboxed:"
        " UNTRUSTED PROGRAMS RUN WITH THE RIGHTS OF THIS SERVER: they can read and change its files.",
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
        if settings.code_execution is not CodeExecution.OFF:
            await _check_code_execution(pool, settings.code_execution)
        verifier = Verifier(pool, settings.timeout_seconds, settings.cache_size, settings.code_execution)
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
            http_posts=POSTS,
        )

    run(settings, build)


async def _check_code_execution(pool: WorkerPool, code_execution: CodeExecution) -> None:
    """Run a program in a worker.

    Raises:
        ConfigError: This system does not allow it.
    """
    sandboxed = code_execution is CodeExecution.SANDBOX
    (future,) = pool.submit(CallQueue(), [(probe, sandboxed)], timeout=30.0)
    end = (await asyncio.wrap_future(future)).end
    problem = end.value if isinstance(end, TaskFinished) else str(end)
    if problem:
        await asyncio.to_thread(pool.close)
        remedy = (
            "Allow user namespaces (docs/security.md), or, if you trust every program that a model may write,"
            " run them without a sandbox: --code-execution=unsandboxed"
            if sandboxed
            else ""
        )
        raise ConfigError(f"code_execution: {problem}. {remedy}".rstrip())
    if not sandboxed:
        log.warning("programs in responses run WITHOUT a sandbox: they have all rights of this server")
