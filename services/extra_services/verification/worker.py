"""The life of a worker process: limits first, then one task after another until the pipe closes.

Workers are forked from multiprocessing's forkserver, which has no threads and has imported `warm`, so a
worker is fast from its first task. Where the kernel allows it, a worker has no network: it enters a user and
network namespace of its own. Sandboxes of programs need this user namespace too. The memory limit is the
kernel's (RLIMIT_DATA: heap and private mappings). The limit of processor time matters only when the server
has died in the middle of a task and cannot kill its worker.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import structlog

from extra_services.runtime import logs
from extra_services.verification import sandbox, timings
from extra_services.verification.timings import StageTiming

log = structlog.get_logger()

#: Seconds of processor time beyond a task's time limit after which the kernel ends a worker without a server.
_CPU_MARGIN = 5


def serve(connection: "Connection[Any, Any]", memory_bytes: int, log_level: str) -> None:
    """Run tasks from `connection` until it closes.

    The first message sent is whether the network is cut off. Then each received (function, argument, timeout,
    request id) is answered by (whether the function returned, its value or the error's text, stage timings).

    Args:
        connection: This worker's end of the pipe.
        memory_bytes: Limit of heap and private mappings.
        log_level: As in the server's settings.
    """
    logs.configure(log_level)
    # Signals to the whole process group are for the server, which drains first and then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the life of the process)
    # Responses hold integers of any length; the pool's time limit bounds their conversion.
    sys.set_int_max_str_digits(0)
    connection.send(sandbox.enter_user_namespace(without_network=True))
    while True:
        try:
            function, argument, timeout, request_id = connection.recv()
        except EOFError:
            return
        _limit_processor_time(timeout)
        structlog.contextvars.bind_contextvars(request_id=request_id, worker=os.getpid())
        connection.send(_run(function, argument))


def _run(function: Callable[[Any], Any], argument: Any) -> tuple[bool, Any, list[StageTiming]]:
    stages, started = timings.start(), time.perf_counter()
    try:
        answer = True, function(argument), stages
        log.debug("item judged", seconds=round(time.perf_counter() - started, 6))
        return answer
    except Exception as error:
        text = f"{type(error).__name__}: {error}"[:500]
        log.info("item failed", error=text)
        return False, text, stages


def _limit_processor_time(timeout: float) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + timeout) + _CPU_MARGIN
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
