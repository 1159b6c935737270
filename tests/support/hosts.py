"""Hosts of their own for processes of a test: Linux network namespaces on a cable that can be pulled."""

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
    """A network namespace, reached from here at `address` over a cable of its own."""

    name: str
    address: str

    @property
    def inside(self) -> list[str]:
        """What a command begins with to run there."""
        return ["ip", "netns", "exec", self.name]

    def pull_cable(self) -> None:
        """Nothing comes through in either direction, and nobody is told."""
        _ip("-n", self.name, "link", "set", "cable", "down")

    def plug_cable(self) -> None:
        """It is as before."""
        _ip("-n", self.name, "link", "set", "cable", "up")


@contextmanager
def host() -> Iterator[Host]:
    """A host; skips where that is not allowed."""
    if shutil.which("ip") is None or os.getuid() != 0:
        pytest.skip("network namespaces need root and iproute2: apt-get install iproute2")
    # A cable has a network of four addresses; tests of other processes take others.
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
