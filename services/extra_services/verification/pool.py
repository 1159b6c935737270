"""A pool of worker processes that can be killed at any moment without losing a task.

Each worker has a thread of the server that feeds it through a pipe of its own and watches the clock. At
the time limit the worker is killed and replaced; a worker that dies by itself (killed from outside, out
of memory) is replaced and its task given to a fresh one, `ATTEMPTS` times. Nothing is shared between
workers, so no death can leave a lock held or a channel torn. A task that runs long is moved aside (see
FairQueue), and its worker, if its priority cannot be raised again, is replaced afterwards. That is why
this is not pebble's ProcessPool: its workers share one locked pipe, and killing an idle worker (tried
with 5.2.3: within a second of random kills) puts that pool into an error state for good. What is used
instead is the standard library's forkserver, pipes and sentinels.
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
from extra_services.verification.fair_queue import FairQueue, Line, Task
from extra_services.verification.laps import Lap

log = structlog.get_logger()

#: A task whose worker dies is tried this often before it is held to be the cause.
ATTEMPTS = 3
#: Seconds between looks at whether a running task was cancelled.
_TICK = 0.05
#: Seconds between looks at whether an idle worker is alive.
_IDLE_CHECK = 1.0
#: A task that runs longer than this many seconds leaves its lane to others. Once it has taken that much
#: processor time too (on a busy machine every task is slow by the clock), it goes on at a lower priority.
_SLOW_SECONDS = 0.25
_NICER = 10
_NICENESS = os.getpriority(os.PRIO_PROCESS, 0)
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
#: Seconds a new worker may take until it is ready (a cold forkserver imports sympy first).
_START_SECONDS = 120.0
_STARTING = threading.Lock()


@dataclass(frozen=True)
class Finished:
    """The function returned `value`, with `laps` on the way."""

    value: Any
    laps: tuple[Lap, ...] = ()


@dataclass(frozen=True)
class TimedOut:
    """The worker was killed at the time limit."""


@dataclass(frozen=True)
class Failed:
    """The function raised, or its worker died; `reason` says how."""

    reason: str


@dataclass(frozen=True)
class Outcome:
    """How a task ended, and its seconds between arrival and start, and of execution."""

    end: Finished | TimedOut | Failed
    queue_seconds: float
    execution_seconds: float


class WorkerPool:
    """`workers` processes and `slow_workers` more for what runs long, behind one fair and bounded queue."""

    def __init__(
        self, workers: int, slow_workers: int, memory_bytes: int, max_queue: int, log_level: str = "info"
    ) -> None:
        self.queue = FairQueue(max_queue, workers, slow_workers)
        options = _Options(memory_bytes, log_level)
        self._slots = [_Slot(self.queue, options, index) for index in range(workers + slow_workers)]

    def start(self) -> None:
        """Returns once every worker is warm."""
        for slot in self._slots:
            slot.thread.start()
        for slot in self._slots:
            slot.ready.wait()
        if all(slot.without_network for slot in self._slots):
            log.info("workers have no network")
        else:
            log.warning("this system does not let workers give up the network; they keep it")

    def submit(
        self, line: Line, work: Sequence[tuple[Callable[[Any], Any], Any]], timeout: float
    ) -> list["Future[Outcome]"]:
        """Futures of what each function returns, in order; cancelling one stops it. Overloaded if no room."""
        request_id = logs.request_id()
        tasks = [Task(function, argument, timeout, request_id=request_id) for function, argument in work]
        self.queue.put(line, tasks)
        return [task.future for task in tasks]

    def worker_ids(self) -> list[int]:
        """Process ids of the workers alive now."""
        return [slot.process_id for slot in self._slots if slot.process_id]

    def close(self) -> None:
        """Cancels what waits, kills the workers, and returns when all are gone."""
        self.queue.close()
        for slot in self._slots:
            slot.closing.set()
        for slot in self._slots:
            slot.thread.join()


@dataclass(frozen=True)
class _Options:
    """What every worker is told."""

    memory_bytes: int
    log_level: str


class _Slot:
    """One place in the pool: a thread, and the worker process that it feeds, kills and replaces."""

    def __init__(self, queue: FairQueue, options: _Options, index: int) -> None:
        self._queue = queue
        self._options = options
        self._worker: _Worker | None = None
        self.without_network = False
        self.closing = threading.Event()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._serve, name=f"verification-{index}", daemon=True)

    @property
    def process_id(self) -> int | None:
        """Process id of the worker, or None while there is none."""
        current = self._worker
        return current.process.pid if current else None

    def _serve(self) -> None:
        while not self.closing.is_set():
            # Before a task is taken, so that waiting for a fresh worker counts as waiting.
            self._renew()
            taken = self._queue.take(_IDLE_CHECK)
            if taken is not None:
                self._run(*taken)
        self._drop()

    def _run(self, line: Line, task: Task) -> None:
        started = time.monotonic()
        end = self._execute(task)
        self._queue.done(line, task)
        if end is not None and task.future.set_running_or_notify_cancel():
            task.future.set_result(Outcome(end, started - task.arrived, time.monotonic() - started))

    def _execute(self, task: Task) -> Finished | TimedOut | Failed | None:
        reason = ""
        for _ in range(ATTEMPTS):
            self._renew()
            if self._worker is None:
                return Failed("the server is stopping")
            try:
                return self._worker.run(task, self.closing, self._queue)
            except _WorkerDied as death:
                reason = str(death)
                log.warning("a worker died", reason=reason, request_id=task.request_id)
        return Failed(f"its worker died {ATTEMPTS} times, last: {reason}")

    def _renew(self) -> None:
        """Sees to it that there is a live worker, however often that takes; gives up only when closing."""
        pause = 0.1
        while not self.closing.is_set() and not (self._worker and self._worker.alive):
            self._drop()
            try:
                self._worker = _Worker(self._options)
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
    """The process ended by itself; the message says how."""


class _Worker:
    """A worker process and this side of its pipe."""

    def __init__(self, options: _Options) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["extra_services.verification.warm", "extra_services.verification.worker"]
        )
        self._connection: Connection[Any, Any]
        self._connection, theirs = context.Pipe()
        self.process = context.Process(
            target=worker.serve, args=(theirs, options.memory_bytes, options.log_level), daemon=True
        )
        self._killed = False
        #: Why it was killed here, by the metrics' names; empty if it was not.
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
    ) -> Finished | TimedOut | Failed | None:
        """Runs `task`; None if it was cancelled or the pool closes. _WorkerDied leaves the task undecided."""
        deadline = time.monotonic() + task.timeout
        slow_at = time.monotonic() + _SLOW_SECONDS
        greedy_at = self._processor_seconds() + _SLOW_SECONDS
        aside = nice = False
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
                return TimedOut()
            aside = aside or (time.monotonic() >= slow_at and queue.move_aside(task))
            if aside and not nice and self._processor_seconds() >= greedy_at:
                nice = self._set_niceness(_NICENESS + _NICER)
        returned, value, laps = self._receive()
        if nice and not self._set_niceness(_NICENESS):
            self.kill("priority")
        return Finished(value, tuple(laps)) if returned else Failed(value)

    def _set_niceness(self, niceness: int) -> bool:
        """False if that is not allowed (to raise a priority takes privileges), or the process is gone."""
        try:
            os.setpriority(os.PRIO_PROCESS, self.process.pid or 0, niceness)
        except OSError:
            return False
        return True

    def _processor_seconds(self) -> float:
        """Processor time the worker has used; on systems without /proc, the time of the clock."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return time.monotonic()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / _CLOCK_TICKS

    @property
    def alive(self) -> bool:
        """Whether it can take a task."""
        return not self._killed and self.process.is_alive()

    def kill(self, reason: str = "") -> None:
        """Ends the process, whatever it does; returns before it is gone."""
        self._killed = True
        self.killed_for = self.killed_for or reason
        self.process.kill()

    def reap(self) -> None:
        """As `kill`, and returns when the process is gone."""
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
