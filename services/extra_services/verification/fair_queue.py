"""A bounded queue that shares worker time fairly between calls.

Every call (one RPC) has its own line. The next item comes from the call that has used the least worker
time so far, counting what it is using now, so a call whose items hang pays for them with its own waiting
and not with that of others. A call that was idle starts level with the one served last: it can neither
save up time nor be starved.

At most `lanes` tasks run at a time, and besides them `slow_places` that were found to be slow
(`move_aside`): a few items that hang therefore leave all lanes to the others. Beyond `capacity` waiting
items the queue refuses, saying when to come back.
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
    #: Of the request it belongs to.
    request_id: str = ""


@dataclass(eq=False)
class Line:
    """The waiting and running tasks of one call."""

    waiting: deque[Task] = field(default_factory=deque)
    used_seconds: float = 0.0
    running_since: dict[Task, float] = field(default_factory=dict)

    def charged(self, now: float) -> float:
        """Seconds of worker time used so far, with what runs now."""
        return self.used_seconds + sum(now - since for since in self.running_since.values())


class FairQueue:
    """Tasks of many calls; every method may be called from any thread."""

    def __init__(self, capacity: int, lanes: int, slow_places: int) -> None:
        self.capacity = capacity
        self._lanes = lanes
        self._slow_places = slow_places
        self._lines: set[Line] = set()  # those with waiting tasks
        self._size = 0
        self._running = 0
        self._aside: set[Task] = set()
        self._closed = False
        self._served_level = 0.0
        self._mean_seconds = 0.05
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """Tasks that wait."""
        return self._size

    @property
    def running(self) -> int:
        """Tasks that run, slow ones included."""
        return self._running + len(self._aside)

    def require_room(self, count: int) -> None:
        """Overloaded if there is no room for so many tasks now, InvalidInput if there never is."""
        if count > self.capacity:
            text = f"{count} items need a worker, the queue holds {self.capacity}: send smaller batches"
            raise InvalidInput("items", text)
        if self._size + count > self.capacity:
            text = f"the queue holds {self._size} of {self.capacity} items, no room for {count} more"
            raise Overloaded(text, self._retry_after())

    def put(self, line: Line, tasks: list[Task]) -> None:
        """Appends all of `tasks`, or none: Overloaded if there is no room now, InvalidInput if never."""
        with self._changed:
            self.require_room(len(tasks))
            if not line.waiting and not line.running_since:
                line.used_seconds = max(line.used_seconds, self._served_level)
            line.waiting.extend(tasks)
            self._size += len(tasks)
            if tasks:
                self._lines.add(line)
            self._changed.notify_all()
        for task in tasks:
            task.future.add_done_callback(self._forget_if_cancelled(line, task))

    def take(self, patience: float) -> tuple[Line, Task] | None:
        """Waits for a free lane and the next task, and marks it running; None if nothing came for `patience`
        seconds, or the queue is closed."""
        with self._changed:
            self._changed.wait_for(self._can_run_one, patience)
            if self._closed or not self._can_run_one():
                return None
            now = time.monotonic()
            line = min(self._lines, key=lambda candidate: candidate.charged(now))
            self._served_level = max(self._served_level, line.charged(now))
            task = line.waiting.popleft()
            self._removed(line)
            line.running_since[task] = now
            self._running += 1
            return line, task

    def move_aside(self, task: Task) -> bool:
        """Takes a running task out of its lane, if a place for slow ones is free; then True."""
        with self._changed:
            if task in self._aside:  # its worker died there, and another has it now
                return True
            if len(self._aside) >= self._slow_places:
                return False
            self._aside.add(task)
            self._running -= 1
            self._changed.notify()
            return True

    def done(self, line: Line, task: Task) -> None:
        """Ends the running of `task`."""
        with self._changed:
            seconds = time.monotonic() - line.running_since.pop(task)
            line.used_seconds += seconds
            self._mean_seconds += 0.05 * (seconds - self._mean_seconds)
            if task in self._aside:
                self._aside.discard(task)
            else:
                self._running -= 1
            self._changed.notify()

    def close(self) -> None:
        """Cancels what waits and lets every `take` return None."""
        with self._changed:
            self._closed = True
            waiting = [task for line in self._lines for task in line.waiting]
            self._changed.notify_all()
        for task in waiting:
            task.future.cancel()

    def _can_run_one(self) -> bool:
        return self._closed or (bool(self._lines) and self._running < self._lanes)

    def _removed(self, line: Line) -> None:
        self._size -= 1
        if not line.waiting:
            self._lines.discard(line)

    def _forget_if_cancelled(self, line: Line, task: Task) -> Callable[["Future[Any]"], None]:
        def forget(future: "Future[Any]") -> None:
            if future.cancelled():
                with self._changed:
                    if task in line.waiting:
                        line.waiting.remove(task)
                        self._removed(line)

        return forget

    def _retry_after(self) -> float:
        return min(30.0, max(0.05, self._size * self._mean_seconds / self._lanes))
