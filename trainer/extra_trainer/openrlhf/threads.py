"""Threads of Ray workers that compute on the CPU: one each, but all cores for what computes alone.

Policy and reference compute log-probabilities at the same time, beside the services: with several threads
each, a busy machine makes a small model's step ten times slower, because OpenMP waits at every barrier for a
thread that does not run. The policy's update is the longest part of a step and computes alone, and so does
the reference where the policy's log-probabilities are those of the update (old_log_probs.py): these take all
cores, and OpenMP's threads spin for a shorter time before they sleep.

Measured on two cores, an update of a model with 341,616 parameters: 0.43 s with one thread, and 0.63 s beside
two busy processes; with two threads 0.24 and 1.04 s; with two threads and SPINS 0.27 and 0.64 s.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

#: How long OpenMP's threads of GCC spin at a barrier before they sleep; its own value is 300,000.
SPINS = "10000"
#: Environment of the workers. Ray's own limit is set too late, after the setup hook has imported torch.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": SPINS}
#: Most threads of an update: a model that is trained on a CPU is small.
MOST = 8


def on_all_cores(update: Callable[..., Any], workers: int) -> Callable[..., Any]:
    """Return `update` with a worker's share of this machine's cores.

    Args:
        update: A function that trains the policy, or computes with a model while no other does.
        workers: Number of the model's workers on this machine.

    Returns:
        A function with the same result for each number of cores; sums in another order move it by rounding.
    """
    import torch

    if torch.cuda.is_available():
        return update
    threads = max(1, min(_cores() // workers, MOST))

    @functools.wraps(update)
    def with_threads(*arguments: Any, **named: Any) -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return update(*arguments, **named)
        finally:
            torch.set_num_threads(before)

    return with_threads


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
