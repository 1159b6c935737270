"""Both stores for the tests: SQLite in a folder, and a real redis-server if one is installed."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from extra_services.memory.redis_store import RedisStore
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.memory.store import Store

STORES = ("sqlite", "redis")


class RedisServer:
    """A durable redis-server process on a Unix socket, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("no redis-server on this machine: apt-get install redis-server")
        self._folder = folder
        self.url = f"unix://{folder / 'redis.sock'}"
        self.start()

    def start(self) -> None:
        (self._folder / "redis.sock").unlink(missing_ok=True)
        flags = "--port 0 --appendonly yes --appendfsync always --unixsocket redis.sock --save ''"
        with (self._folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["redis-server", *flags.replace("''", "").split(), ""], cwd=self._folder, stdout=log
            )
        _wait_for(self._folder / "redis.sock", self.process)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def store(self, prefix: str) -> RedisStore:
        return RedisStore(self.url, prefix)


def _wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    while True:
        assert process.poll() is None, "redis-server ended"
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
            redis.Redis(unix_socket_path=str(path)).ping()
            return
        except (OSError, redis.RedisError):
            continue


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(folder)
    try:
        yield server
    finally:
        server.kill()


def open_store(kind: str, folder: Path, server: RedisServer | None, prefix: str) -> Store:
    """Open a store in `folder` or on the server, under `prefix`; a second open finds the same data."""
    if kind == "sqlite":
        return SqliteStore(folder / prefix)
    assert server is not None
    return server.store(prefix)
