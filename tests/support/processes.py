"""Processes that a test starts, told from all others by a word in their environment."""

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator

import psutil

#: Runs the services, which may live in another environment than what is tested with them.
SERVICES_PYTHON = os.environ.get("EXTRA_RL_SERVICES_PYTHON", sys.executable)
#: Name of the variable that holds the word.
MARK = "EXTRA_RL_TEST_MARK"
#: Seconds that anything may take on a busy machine; nothing is asserted about time.
PATIENCE = 280


@contextlib.contextmanager
def nothing_left_running(patience: float = PATIENCE) -> Iterator[str]:
    """The word for what a test starts; none of it may outlive the block."""
    word = uuid.uuid4().hex
    yield word
    wait_for(lambda: not marked(word), "processes were left running", patience)


def marked(word: str) -> list[psutil.Process]:
    """The processes with `word` in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == word and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_for(condition: Callable[[], bool], otherwise: str, patience: float = PATIENCE) -> None:
    """Returns once `condition` holds; fails with `otherwise` if it does not within `patience` seconds."""
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, otherwise
        time.sleep(0.01)
