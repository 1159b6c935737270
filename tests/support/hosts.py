"""Separate hosts for processes of a test: Linux network namespaces on a virtual cable that can be cut."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

_numbers = itertools.count()


@dataclass(frozen=True)
class Host:
    """A network namespace, reachable at `address` over its own virtual cable."""

    name: str
    address: str

    @property
    def inside(self) -> list[str]:
        """The words to put before a command so that it runs in the namespace."""
        return ["ip", "netns", "exec", self.name]

    def pull_cable(self) -> None:
        """Drop all packets in both directions, without any error to either side."""
        _ip("-n", self.name, "link", "set", "cable", "down")

    def plug_cable(self) -> None:
        """Connect the host again."""
        _ip("-n", self.name, "link", "set", "cable", "up")


@contextmanager
def host() -> Iterator[Host]:
    """Yield a host; skip if creating one is not allowed."""
    if shutil.which("ip") is None or os.getuid() != 0:
        pytest.skip("network namespaces need root and iproute2: apt-get install iproute2")
    # Each cable has a network of four addresses; tests in other processes use other networks.
    number = (os.getpid() * 7 + next(_numbers)) % 2**14
    name, network = f"xf-{number}", f"10.213.{number // 64}."
    here, there = (f"{network}{number % 64 * 4 + place}" for place in (1, 2))
    _ip("netns", "add", name)
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "cable", "netns", name)
        _ip("address", "add", f"{here}/30", "dev", name)
        _ip("link", "set", name, "up")
        _ip("-n", name, "address", "add", f"{there}/30", "dev", "cable")
        _ip("-n", name, "link", "set", "cable", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield Host(name, there)
    finally:
        _ip("netns", "delete", name)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr.decode()}"
