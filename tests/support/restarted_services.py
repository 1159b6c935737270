"""Services at fixed addresses that a test restarts like an operator: SIGTERM, then the same command again."""

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from extra_client import embedded


class Restarted:
    """A service that keeps its address when another process serves it."""

    def __init__(self, name: str, folder: Path, **settings: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.name = name
        self.target = f"127.0.0.1:{port}"
        self._log = folder / f"{name}.log"
        self._settings = {"host": "127.0.0.1", "port": port, **settings}
        self._running = embedded.start(name, self._log, **self._settings)

    def end(self) -> None:
        """Send SIGTERM and wait for the end of the process."""
        self._running.process.send_signal(signal.SIGTERM)
        assert self._running.process.wait(60) == 0
        self._running.stop()

    def begin(self) -> None:
        """Start the service again and wait until it serves."""
        self._running = embedded.start(self.name, self._log, **self._settings)

    def restart(self) -> None:
        """End the service and start it again."""
        self.end()
        self.begin()

    def stop(self) -> None:
        self._running.stop()


@contextmanager
def restarted_services(folder: Path, **settings: dict[str, Any]) -> Iterator[dict[str, Restarted]]:
    """Run the named services, each with its settings."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack, ThreadPoolExecutor(len(settings)) as threads:
        starting = [threads.submit(Restarted, name, folder, **own) for name, own in settings.items()]
        services = [each.result() for each in starting]
        for service in services:
            stack.callback(service.stop)
        yield {service.name: service for service in services}
