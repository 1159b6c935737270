"""How many threads a worker of the policy computes with."""

import os
from collections.abc import Iterator

import pytest
import torch

from extra_trainer.openrlhf import threads


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)
    os.sched_setaffinity(0, cores)


def _threads_of_an_update(workers: int) -> int:
    update = threads.on_all_cores(lambda loss: (loss, torch.get_num_threads()), workers)
    result, within = update("loss")
    assert result == "loss"
    # As they were, for the log-probabilities of the next step.
    assert torch.get_num_threads() == 3
    return int(within)


def test_an_update_has_its_share_of_the_cores() -> None:
    cores = os.sched_getaffinity(0)
    assert _threads_of_an_update(workers=1) == min(len(cores), threads.MOST)
    assert _threads_of_an_update(workers=len(cores)) == 1
    assert _threads_of_an_update(workers=2 * len(cores)) == 1


def test_an_update_has_only_the_cores_that_its_process_may_use() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    assert _threads_of_an_update(workers=1) == 1


def test_a_failed_update_leaves_the_threads_as_they_were() -> None:
    def update() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        threads.on_all_cores(update, 1)()
    assert torch.get_num_threads() == 3
