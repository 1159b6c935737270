"""Real Redis servers, replicas and sentinels on TCP, for the tests of faults and failover."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis

from support.faulty_services import free_port
from support.hosts import Host
from support.processes import wait_for


class RedisProcess:
    """A durable redis-server in `folder`, on `host` (None: this machine)."""

    def __init__(
        self,
        folder: Path,
        host: Host | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("no redis-server on this machine: apt-get install redis-server")
        self.folder, self.host = folder, host
        folder.mkdir(exist_ok=True)
        self._flags = list(flags)
        self.address = "127.0.0.1" if host is None else host.address
        self.port = free_port()
        self.start()

    def url(self, more: str = "") -> str:
        """Return the URL for a store, with `more` appended."""
        return f"redis://{self.address}:{self.port}/0{more}"

    def command(self) -> list[str]:
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        listening = ["--port", str(self.port), "--bind", self.address, "--protected-mode", "no"]
        return ["redis-server", *listening, *durable, *self._flags]

    def start(self) -> None:
        """Start the server and wait until it answers."""
        inside = [] if self.host is None else self.host.inside
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([*inside, *self.command()], cwd=self.folder, stdout=log)
        try:
            wait_for(
                lambda: self.process.poll() is not None or self._answers(), "redis-server does not start"
            )
        except BaseException:
            self.kill()
            raise
        assert self.process.poll() is None, (self.folder / "redis.log").read_text(errors="replace")[-2000:]

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        """Return a client of the server."""
        return redis.Redis(self.address, self.port, socket_timeout=5, socket_connect_timeout=5)

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Stop the server with SIGTERM."""
        self.process.terminate()
        self.process.wait()


class SentinelProcess(RedisProcess):
    """A sentinel that monitors `primary` as "memory"; `quorum` sentinels must agree that it is down."""

    def __init__(self, folder: Path, primary: RedisProcess, quorum: int) -> None:
        folder.mkdir()
        watched = f"sentinel monitor memory 127.0.0.1 {primary.port} {quorum}"
        patience = "sentinel down-after-milliseconds memory 1500\nsentinel failover-timeout memory 10000"
        (folder / "sentinel.conf").write_text(f"{watched}\n{patience}\n")
        super().__init__(folder)

    def command(self) -> list[str]:
        listening = ["--port", str(self.port), "--bind", self.address, "--protected-mode", "no"]
        return ["redis-server", str(self.folder / "sentinel.conf"), "--sentinel", *listening]
