"""A pool of worker processes that can be killed at any moment without losing a task.

Each worker has a thread in the server that feeds it through a pipe of its own and watches the time. At the
time limit the worker is killed and replaced. A worker that dies by itself (killed from outside, out of
memory) is replaced, and its task is given to a fresh one, `ATTEMPTS` times in all. A task that runs long is
moved aside (see FairQueue); its worker is replaced afterwards if its priority cannot be raised again.

Workers share nothing, so the death of one can leave no lock held and no channel broken. That is the reason
not to use pebble's ProcessPool: its workers share one locked pipe, and killing an idle worker (tried with
5.2.3, within a second of random kills) puts the pool into a permanent error state. This pool uses the
forkserver, pipes and sentinels of the standard library.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import structlog

from extra_services.runtime import logs
from extra_services.verification import instruments, worker
from extra_services.verification.fair_queue import CallQueue, FairQueue, Task
from extra_services.verification.timings import StageTiming

log = structlog.get_logger()

#: Tries of a task whose worker dies; after that many the task itself is taken to be the cause.
ATTEMPTS = 3
#: Seconds between looks at whether a running task was cancelled.
_TICK = 0.05
#: Seconds between looks at whether an idle worker is alive.
_IDLE_CHECK = 1.0
#: A task that runs longer than this many seconds leaves its lane to others. Once it has also used that much
#: processor time (on a busy machine every task takes long), it continues at a lower priority. If other
#: programs leave it little at that priority, it has the usual one again in the second half of its time.
_SLOW_SECONDS = 0.25
_NICER = 10
_NICENESS = os.getpriority(os.PRIO_PROCESS, 0)
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
#: Seconds until a new worker must be ready; the first one waits until the forkserver has imported sympy.
_START_SECONDS = 120.0
_STARTING = threading.Lock()


@dataclass(frozen=True)
class TaskFinished:
    """The function returned `value`."""

    value: Any
    timings: tuple[StageTiming, ...] = ()


@dataclass(frozen=True)
class TaskTimedOut:
    """The worker was killed at the time limit."""


@dataclass(frozen=True)
class TaskFailed:
    """The function raised an exception, or its worker died."""

    reason: str


@dataclass(frozen=True)
class TaskOutcome:
    """The end of a task and its times."""

    end: TaskFinished | TaskTimedOut | TaskFailed
    #: From arrival to start.
    queue_seconds: float
    execution_seconds: float


class WorkerPool:
    """Worker processes behind one fair and bounded queue.

    Args:
        workers: Tasks that run at once.
        slow_workers: More processes, for tasks that run long.
        memory_bytes: Memory limit of each worker.
        max_queue: Tasks that may wait.
        log_level: Log level of the workers.
    """

    def __init__(
        self, workers: int, slow_workers: int, memory_bytes: int, max_queue: int, log_level: str = "info"
    ) -> None:
        self.queue = FairQueue(max_queue, workers, slow_workers)
        settings = _WorkerSettings(memory_bytes, log_level)
        self._slots = [_Slot(self.queue, settings, index) for index in range(workers + slow_workers)]

    def start(self) -> None:
        """Start the workers, and return when all are ready."""
        for slot in self._slots:
            slot.thread.start()
        for slot in self._slots:
            slot.ready.wait()
        if all(slot.without_network for slot in self._slots):
            log.info("workers have no network")
        else:
            log.warning("workers have network access: this system does not allow network namespaces")

    def submit(
        self, call: CallQueue, work: Sequence[tuple[Callable[[Any], Any], Any]], timeout: float
    ) -> list["Future[TaskOutcome]"]:
        """Queue (function, argument) pairs.

        Args:
            call: The queue of the RPC that the work belongs to.
            work: Picklable functions and arguments.
            timeout: Seconds of execution of each.

        Returns:
            A future for each pair, in order; cancelling a future stops its task.

        Raises:
            Overloaded: There is no room now.
            InvalidInput: There is never room for so many.
        """
        request_id = logs.request_id()
        tasks = [Task(function, argument, timeout, request_id=request_id) for function, argument in work]
        self.queue.put(call, tasks)
        return [task.future for task in tasks]

    def worker_ids(self) -> list[int]:
        """Return the process ids of the live workers."""
        return [slot.process_id for slot in self._slots if slot.process_id]

    def close(self) -> None:
        """Cancel the waiting tasks, kill the workers, and return when all have ended."""
        self.queue.close()
        for slot in self._slots:
            slot.closing.set()
        for slot in self._slots:
            slot.thread.join()


@dataclass(frozen=True)
class _WorkerSettings:
    """Settings of every worker."""

    memory_bytes: int
    log_level: str


class _Slot:
    """A thread, and the worker process that it feeds, kills and replaces."""

    def __init__(self, queue: FairQueue, settings: _WorkerSettings, index: int) -> None:
        self._queue = queue
        self._settings = settings
        self._worker: _Worker | None = None
        self.without_network = False
        self.closing = threading.Event()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._serve, name=f"verification-{index}", daemon=True)

    @property
    def process_id(self) -> int | None:
        """Return the process id of the worker, or None while there is none."""
        current = self._worker
        return current.process.pid if current else None

    def _serve(self) -> None:
        while not self.closing.is_set():
            # Before a task is taken, so that the wait for a fresh worker counts as queue time.
            self._renew()
            taken = self._queue.take(_IDLE_CHECK)
            if taken is not None:
                self._run(*taken)
        self._drop()

    def _run(self, call: CallQueue, task: Task) -> None:
        started = time.monotonic()
        end = self._execute(task)
        self._queue.done(call, task)
        if end is not None and task.future.set_running_or_notify_cancel():
            task.future.set_result(TaskOutcome(end, started - task.arrived, time.monotonic() - started))

    def _execute(self, task: Task) -> TaskFinished | TaskTimedOut | TaskFailed | None:
        reason = ""
        for _ in range(ATTEMPTS):
            self._renew()
            if self._worker is None:
                return TaskFailed("the server is stopping")
            try:
                return self._worker.run(task, self.closing, self._queue)
            except _WorkerDied as death:
                reason = str(death)
                log.warning("a worker died", reason=reason, request_id=task.request_id)
        return TaskFailed(f"its worker died {ATTEMPTS} times, last: {reason}")

    def _renew(self) -> None:
        """Start a worker unless one is alive, repeatedly until that succeeds or the pool closes."""
        pause = 0.1
        while not self.closing.is_set() and not (self._worker and self._worker.alive):
            self._drop()
            try:
                self._worker = _Worker(self._settings)
                self.without_network = self._worker.without_network
                self.ready.set()
            except (OSError, EOFError, _WorkerDied) as error:
                log.error("cannot start a worker", error=str(error), retry_seconds=pause)
                self.closing.wait(pause)
                pause = min(2 * pause, 5.0)

    def _drop(self) -> None:
        if self._worker:
            if not self.closing.is_set():
                instruments.RESTARTS[self._worker.killed_for or "died"].inc()
            self._worker.reap()
            self._worker = None


class _WorkerDied(Exception):
    """The process ended by itself."""


class _Worker:
    """A worker process and the server's end of its pipe."""

    def __init__(self, settings: _WorkerSettings) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["extra_services.verification.warm", "extra_services.verification.worker"]
        )
        self._connection: Connection[Any, Any]
        self._connection, theirs = context.Pipe()
        self.process = context.Process(
            target=worker.serve, args=(theirs, settings.memory_bytes, settings.log_level), daemon=True
        )
        self._killed = False
        #: Reason for which the pool killed it, as in the metrics; empty if it did not.
        self.killed_for = ""
        with _STARTING:  # multiprocessing's bookkeeping of children is not thread-safe
            self.process.start()
        theirs.close()
        if not self._wait(_START_SECONDS):
            self.reap()
            raise _WorkerDied(f"not ready after {_START_SECONDS:.0f} s")
        self.without_network: bool = self._receive()

    def run(
        self, task: Task, closing: threading.Event, queue: FairQueue
    ) -> TaskFinished | TaskTimedOut | TaskFailed | None:
        """Run `task`; return None if it was cancelled or the pool closes.

        Raises:
            _WorkerDied: The task is undecided.
        """
        started, used = time.monotonic(), self._processor_seconds()
        deadline = started + task.timeout
        slow_at, greedy_at = started + _SLOW_SECONDS, used + _SLOW_SECONDS
        aside = nice = starved = False
        try:
            self._connection.send((task.function, task.argument, task.timeout, task.request_id))
        except OSError as error:
            raise self._death() from error
        while not self._wait(min(_TICK, max(0.0, deadline - time.monotonic()))):
            if task.future.cancelled() or closing.is_set():
                self.kill("cancelled")
                return None
            if time.monotonic() >= deadline:
                self.kill("timeout")
                log.info("an item was stopped at its time limit", request_id=task.request_id)
                return TaskTimedOut()
            aside = aside or (time.monotonic() >= slow_at and queue.move_aside(task))
            if aside and not nice and not starved and self._processor_seconds() >= greedy_at:
                nice = self._set_niceness(_NICENESS + _NICER)
            elapsed = time.monotonic() - started
            if nice and elapsed > task.timeout / 2 and self._processor_seconds() - used < elapsed / 2:
                starved = self._set_niceness(_NICENESS)
                nice = not starved
        returned, value, timings = self._receive()
        if nice and not self._set_niceness(_NICENESS):
            self.kill("priority")
        return TaskFinished(value, tuple(timings)) if returned else TaskFailed(value)

    def _set_niceness(self, niceness: int) -> bool:
        """Return False if the process has ended or may not be raised again (that needs privileges)."""
        try:
            os.setpriority(os.PRIO_PROCESS, self.process.pid or 0, niceness)
        except OSError:
            return False
        return True

    def _processor_seconds(self) -> float:
        """Return the processor time that the worker has used; on systems without /proc, the clock time."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return time.monotonic()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / _CLOCK_TICKS

    @property
    def alive(self) -> bool:
        """Return whether it can take a task."""
        return not self._killed and self.process.is_alive()

    def kill(self, reason: str = "") -> None:
        """Kill the process, without waiting for its end."""
        self._killed = True
        self.killed_for = self.killed_for or reason
        self.process.kill()

    def reap(self) -> None:
        """Kill the process and wait for its end."""
        self.kill()
        self.process.join()
        self._connection.close()

    def _wait(self, seconds: float) -> bool:
        return bool(wait([self._connection, self.process.sentinel], seconds))

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error

    def _death(self) -> _WorkerDied:
        self.reap()
        return _WorkerDied(f"exit code {self.process.exitcode}")
