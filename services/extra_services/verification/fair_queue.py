"""A bounded queue that shares worker time fairly between calls.

Every call (one RPC) has a queue of its own. The next task comes from the call that has used the least worker
time so far, its running tasks included. So a call whose items hang delays itself and not the others. A call
that was idle starts with the used time of the call served last: it can neither save up time nor be starved.

At most `lanes` tasks run at once, and in addition up to `slow_places` tasks that were found to be slow
(`move_aside`), so that a few items that hang leave all lanes to the others. When `capacity` tasks wait, more
are refused, with a time to retry.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from extra_services.errors import InvalidInput, Overloaded


@dataclass(eq=False)
class Task:
    """A function to run in a worker on one argument, with at most `timeout` seconds of execution."""

    function: Callable[[Any], Any]
    argument: Any
    timeout: float
    future: "Future[Any]" = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    #: Id of the request it belongs to.
    request_id: str = ""


@dataclass(eq=False)
class CallQueue:
    """The waiting and running tasks of one call."""

    waiting: deque[Task] = field(default_factory=deque)
    used_seconds: float = 0.0
    running_since: dict[Task, float] = field(default_factory=dict)

    def charged(self, now: float) -> float:
        """Return the seconds of worker time used so far, running tasks included."""
        return self.used_seconds + sum(now - since for since in self.running_since.values())


class FairQueue:
    """Tasks of many calls; thread-safe.

    Args:
        capacity: Tasks that may wait.
        lanes: Tasks that run at once.
        slow_places: Slow tasks that may run besides those.
    """

    def __init__(self, capacity: int, lanes: int, slow_places: int) -> None:
        self.capacity = capacity
        self._lanes = lanes
        self._slow_places = slow_places
        self._calls: set[CallQueue] = set()  # those with waiting tasks
        self._size = 0
        self._running = 0
        self._aside: set[Task] = set()
        self._closed = False
        self._served_level = 0.0
        self._mean_seconds = 0.05
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """Number of waiting tasks."""
        return self._size

    @property
    def running(self) -> int:
        """Number of running tasks, slow ones included."""
        return self._running + len(self._aside)

    def require_room(self, count: int) -> None:
        """Check that `count` more tasks may wait.

        Raises:
            Overloaded: There is no room now.
            InvalidInput: There is never room for so many.
        """
        if count > self.capacity:
            text = f"{count} items need a worker, the queue holds {self.capacity}: send smaller batches"
            raise InvalidInput("items", text)
        if self._size + count > self.capacity:
            text = f"the queue holds {self._size} of {self.capacity} items, no room for {count} more"
            raise Overloaded(text, self._retry_after())

    def put(self, call: CallQueue, tasks: list[Task]) -> None:
        """Append all of `tasks`, or none.

        Raises:
            Overloaded: There is no room now.
            InvalidInput: There is never room for so many.
        """
        with self._changed:
            self.require_room(len(tasks))
            if not call.waiting and not call.running_since:
                call.used_seconds = max(call.used_seconds, self._served_level)
            call.waiting.extend(tasks)
            self._size += len(tasks)
            if tasks:
                self._calls.add(call)
            self._changed.notify_all()
        for task in tasks:
            task.future.add_done_callback(self._forget_if_cancelled(call, task))

    def take(self, patience: float) -> tuple[CallQueue, Task] | None:
        """Wait for a free lane and the next task, and mark it running.

        Args:
            patience: Seconds to wait at most.

        Returns:
            The task and its call's queue; None if there was none in time, or the queue is closed.
        """
        with self._changed:
            self._changed.wait_for(self._can_run_one, patience)
            if self._closed or not self._can_run_one():
                return None
            now = time.monotonic()
            call = min(self._calls, key=lambda candidate: candidate.charged(now))
            self._served_level = max(self._served_level, call.charged(now))
            task = call.waiting.popleft()
            self._removed(call)
            call.running_since[task] = now
            self._running += 1
            return call, task

    def move_aside(self, task: Task) -> bool:
        """Take a running task out of its lane; return False if no place for slow tasks is free."""
        with self._changed:
            if task in self._aside:  # its worker died there, and another runs it now
                return True
            if len(self._aside) >= self._slow_places:
                return False
            self._aside.add(task)
            self._running -= 1
            self._changed.notify()
            return True

    def done(self, call: CallQueue, task: Task) -> None:
        """Mark `task` as no longer running."""
        with self._changed:
            seconds = time.monotonic() - call.running_since.pop(task)
            call.used_seconds += seconds
            self._mean_seconds += 0.05 * (seconds - self._mean_seconds)
            if task in self._aside:
                self._aside.discard(task)
            else:
                self._running -= 1
            self._changed.notify()

    def close(self) -> None:
        """Cancel the waiting tasks and let every `take` return None."""
        with self._changed:
            self._closed = True
            waiting = [task for call in self._calls for task in call.waiting]
            self._changed.notify_all()
        for task in waiting:
            task.future.cancel()

    def _can_run_one(self) -> bool:
        return self._closed or (bool(self._calls) and self._running < self._lanes)

    def _removed(self, call: CallQueue) -> None:
        self._size -= 1
        if not call.waiting:
            self._calls.discard(call)

    def _forget_if_cancelled(self, call: CallQueue, task: Task) -> Callable[["Future[Any]"], None]:
        def forget(future: "Future[Any]") -> None:
            if future.cancelled():
                with self._changed:
                    if task in call.waiting:
                        call.waiting.remove(task)
                        self._removed(call)

        return forget

    def _retry_after(self) -> float:
        return min(30.0, max(0.05, self._size * self._mean_seconds / self._lanes))
