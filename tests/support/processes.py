"""Processes that a test starts, identified by a mark in their environment."""

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

#: The interpreter for the services, which may be in another environment than the tested code.
SERVICES_PYTHON = os.environ.get("EXTRA_RL_SERVICES_PYTHON", sys.executable)
#: Name of the variable that contains the mark.
MARK = "EXTRA_RL_TEST_MARK"
#: Seconds that anything may take on a busy machine; no test asserts a duration.
PATIENCE = 280


def python_path(*folders: Path) -> str:
    """Return PYTHONPATH with folders before those that are in it."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextlib.contextmanager
def no_process_survives(patience: float = PATIENCE) -> Iterator[str]:
    """Yield a mark for the processes that a test starts; none of them may survive the block."""
    mark = uuid.uuid4().hex
    yield mark
    wait_for(lambda: not marked_processes(mark), "processes were left running", patience)


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the processes with `mark` in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_for(condition: Callable[[], bool], otherwise: str, patience: float = PATIENCE) -> None:
    """Wait until `condition` holds; fail with `otherwise` if it does not within `patience` seconds."""
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, otherwise
        time.sleep(0.01)
