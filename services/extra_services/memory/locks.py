"""Exclusive use of prompts inside one process: a request holds its prompts from reading to commit.

A request takes all of its prompts at once or waits, so two requests cannot wait for each other; requests
about different prompts do not affect each other.
"""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from extra_services.memory.instruments import STAGES


class PromptLocks:
    """Locks by (namespace id, prompt). A lock that is not held takes no memory."""

    def __init__(self) -> None:
        self._held: set[tuple[int, str]] = set()
        self._released = threading.Condition()

    @contextmanager
    def hold(self, namespace: int, prompts: Collection[str]) -> Iterator[None]:
        """Wait until none of the prompts is held, and hold them."""
        wanted = {(namespace, prompt) for prompt in prompts}
        with self._released:
            with STAGES("lock"):
                self._released.wait_for(lambda: self._held.isdisjoint(wanted))
            self._held |= wanted
        try:
            yield
        finally:
            with self._released:
                self._held -= wanted
                self._released.notify_all()
