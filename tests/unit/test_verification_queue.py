"""The queue between calls and workers: bounded, and fair by time used."""

import pytest

from extra_services.errors import InvalidInput, Overloaded
from extra_services.verification.fair_queue import CallQueue, FairQueue, Task


def _tasks(*names: str) -> list[Task]:
    return [Task(str, name, 1.0) for name in names]


def test_a_batch_that_does_not_fit_is_refused_whole_with_a_time_to_retry() -> None:
    queue = FairQueue(capacity=3, lanes=1, slow_places=0)
    queue.put(CallQueue(), _tasks("a", "b"))
    with pytest.raises(Overloaded) as refused:
        queue.put(CallQueue(), _tasks("c", "d"))
    assert refused.value.retry_after_seconds > 0
    queue.put(CallQueue(), _tasks("c"))


def test_a_batch_that_can_never_fit_is_invalid() -> None:
    with pytest.raises(InvalidInput, match="smaller batches"):
        FairQueue(capacity=1, lanes=1, slow_places=0).put(CallQueue(), _tasks("a", "b"))


def test_cancelled_tasks_make_room() -> None:
    queue = FairQueue(capacity=2, lanes=1, slow_places=0)
    tasks = _tasks("a", "b")
    queue.put(CallQueue(), tasks)
    for task in tasks:
        task.future.cancel()
    queue.put(CallQueue(), _tasks("c", "d"))


def test_a_call_that_uses_much_time_waits_for_one_that_uses_little() -> None:
    queue = FairQueue(capacity=10, lanes=1, slow_places=0)
    heavy, light = CallQueue(), CallQueue()
    queue.put(heavy, _tasks("h1", "h2", "h3"))
    taken = queue.take(0.0)
    assert taken is not None
    queue.done(*taken)
    heavy.used_seconds += 5.0
    queue.put(light, _tasks("l1", "l2"))
    order = []
    for _ in range(4):
        taken = queue.take(0.0)
        assert taken is not None
        queue.done(*taken)
        order.append(taken[1].argument)
    assert order == ["l1", "l2", "h2", "h3"]


def test_a_call_that_was_idle_does_not_save_up_time() -> None:
    queue = FairQueue(capacity=10, lanes=1, slow_places=0)
    busy = CallQueue(used_seconds=100.0)
    queue.put(busy, _tasks("b1"))
    assert queue.take(0.0) is not None
    late = CallQueue()
    queue.put(late, _tasks("l1"))
    assert late.used_seconds >= 100.0
