"""Each service killed, stopped, cut off, slowed, restarted, out of disk, damaged, at another time of day.

`support.fault_table`, from which docs/faults.md is made, contains what a client sees. These tests assert it,
and assert that nothing acknowledged is lost by asking for all of it again. The processes are real; tests
that cut a network use a network namespace. One test of each kind runs in CI, the others with `make faults`.
"""

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from extra_client import GenerationClient
from support.fault_table import SERVICES, expected
from support.faulty_services import (
    PATIENCE,
    Calls,
    FaultyService,
    Generation,
    Novelty,
    NoveltyCalls,
    NoveltyWithoutModel,
    Verification,
    fill,
    jumping_clock,
    load,
    small_disk,
)
from support.generation_models import make_model
from support.hosts import Host, host
from support.memory_stores import redis_server
from support.processes import wait_for
from support.slow_network import slow_network

#: Seconds that a call is given which cannot be answered.
SHORT = 1.5
slow = pytest.mark.slow


def each(*names: str, in_ci: str = "") -> pytest.MarkDecorator:
    """The services of these names, all slow but the one that CI runs."""
    marks = [pytest.param(name, marks=() if name == in_ci else slow) for name in names]
    return pytest.mark.parametrize("name", marks)


KINDS: dict[str, type[FaultyService]] = {
    "generation": Generation,
    "verification": Verification,
    "novelty on SQLite": Novelty,
    "novelty on Redis": Novelty,
    "novelty without a model": NoveltyWithoutModel,
}


@contextmanager
def served(
    name: str, folder: Path, on: Host | None = None, environment: dict[str, str] | None = None
) -> Iterator[FaultyService]:
    """The service of that name in the table, with a Redis if it needs one."""
    with ExitStack() as stack:
        flags = []
        if name == "novelty on Redis":
            (folder / "redis").mkdir()
            flags = [f"--redis-url={stack.enter_context(redis_server(folder / 'redis')).url}"]
        subject = KINDS[name](folder, on, flags, environment)
        stack.callback(subject.close)
        yield subject


@contextmanager
def opened(subject: FaultyService, target: str = "", patience: float | None = None) -> Iterator[Calls]:
    """A client of it that has been answered once."""
    calls = subject.open(target or subject.target, patience)
    try:
        calls.work(PATIENCE)
        yield calls
    finally:
        calls.close()


@each(*SERVICES)
def test_killed(name: str, tmp_path: Path) -> None:
    with served(name, tmp_path) as subject, opened(subject) as calls:
        with load(calls) as under_way:
            under_way.wait_for_more()
            subject.kill()
            wait_for(lambda: bool(under_way.seen), "no call failed")
            assert isinstance(under_way.seen[0], expected("killed -9", name))
            assert f"no {subject.server} service answers at {subject.target}" in str(under_way.seen[0])
        subject.start()
        with opened(subject, patience=PATIENCE):
            calls.check()


@each(*SERVICES, in_ci="verification")
def test_stopped(name: str, tmp_path: Path) -> None:
    with served(name, tmp_path) as subject, opened(subject) as calls:
        subject.freeze(signal.SIGSTOP)
        with pytest.raises(expected("stopped", name), match="took longer than its deadline"):
            calls.work(SHORT)
        subject.freeze(signal.SIGCONT)
        calls.check()
        calls.work(PATIENCE)


@each(*SERVICES)
def test_partitioned(name: str, tmp_path: Path) -> None:
    with host() as remote, served(name, tmp_path, remote) as subject, opened(subject) as calls:
        with load(calls, SHORT) as under_way:
            under_way.wait_for_more()
            remote.pull_cable()
            wait_for(lambda: len(under_way.seen) > 1, "no call failed")
            assert isinstance(under_way.seen[-1], expected("partitioned", name))
            remote.plug_cable()
        # TCP finds out by itself, in its own time; nothing needs a restart.
        calls.check()
        calls.work(PATIENCE)


@each(*SERVICES)
def test_slowed(name: str, tmp_path: Path) -> None:
    with (
        served(name, tmp_path) as subject,
        slow_network(subject.address, subject.port) as network,
        opened(subject, network.address) as calls,
    ):
        calls.work()
        with pytest.raises(expected("slowed", name), match="took longer than its deadline"):
            calls.work(0.3)
        calls.check()


@each(*SERVICES)
def test_restarted(name: str, tmp_path: Path) -> None:
    with served(name, tmp_path) as subject, opened(subject, patience=PATIENCE) as calls:
        with load(calls) as under_way:
            under_way.wait_for_more()
            subject.end()
            subject.start()
            under_way.wait_for_more()
        assert under_way.seen == []
        calls.check()


@slow
def test_out_of_disk_generation(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", "8m") as folder,
        served("generation", folder) as subject,
        opened(subject) as calls,
        GenerationClient(subject.target) as client,
    ):
        new = make_model(tmp_path / "new", seed=1)
        filler = fill(folder)
        target = folder / "weights" / "step-1"
        target.mkdir()
        with pytest.raises(OSError, match="No space left"):
            shutil.copytree(new, target, dirs_exist_ok=True)
        with pytest.raises(expected("out of disk", "generation")):
            client.update_weights("step-1", 1)
        assert client.get_info().policy_version == 0
        calls.check()
        filler.unlink()
        shutil.copytree(new, target, dirs_exist_ok=True)
        assert client.update_weights("step-1", 1).policy_version == 1


@slow
def test_out_of_disk_verification(tmp_path: Path) -> None:
    # A short path: its processes keep sockets there.
    with tempfile.TemporaryDirectory(dir="/tmp") as short, small_disk(Path(short), "1m") as folder:
        limited = {"TMPDIR": short}
        with served("verification", folder, environment=limited) as subject, opened(subject) as calls:
            fill(folder)
            for child in subject.children():
                if child.ppid() != subject.process.pid:
                    child.kill()
            for _ in range(3):
                calls.check()


def test_out_of_disk_novelty(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", "16m") as folder,
        served("novelty without a model", folder) as subject,
        opened(subject) as calls,
    ):
        for _ in range(5):
            calls.work()
        filler = fill(folder)
        with pytest.raises(expected("out of disk", "novelty on SQLite"), match="is the disk full"):
            calls.work()
        assert isinstance(calls, NoveltyCalls)
        # It still answers what it can without writing.
        assert len(list(calls.namespace.list_prompts())) == 6
        filler.unlink()
        calls.check()
        subject.kill()
        subject.start()
        with opened(subject, patience=PATIENCE):
            calls.check()


def _torn(path: Path) -> None:
    """What a power cut leaves of a write: some of it, and some of what the disk held before."""
    with path.open("ab") as file:
        file.write(path.read_bytes()[:5000] + os.urandom(3000))


def test_store_damaged_at_its_tail(tmp_path: Path) -> None:
    database, journal = tmp_path / "data" / "memory.sqlite", tmp_path / "data" / "memory.sqlite-wal"
    kind = "novelty without a model"
    with served(kind, tmp_path) as subject, opened(subject, patience=PATIENCE) as calls:
        for _ in range(5):
            calls.work()
        subject.kill()
        assert journal.stat().st_size
        _torn(journal)
        subject.start()
        calls.check()
        subject.end()
        _torn(database)
        subject.start()
        calls.check()
        subject.end()
        whole = database.read_bytes()
        database.write_bytes(whole[: len(whole) // 2])
        # Half of what was acknowledged is gone from the disk: it says so, and serves nothing.
        subject.begin()
        assert subject.process.wait() != 0
        assert re.search("is damaged .* backup", subject.log.read_text())
        database.write_bytes(whole)
        subject.start()
        # The same under a server that runs.
        database.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(expected("store cut", "novelty on SQLite"), match="is damaged"):
            calls.check()
        subject.kill()
        journal.unlink(missing_ok=True)
        database.write_bytes(whole)
        subject.start()
        calls.check()


@slow
def test_weights_damaged_at_their_tail(tmp_path: Path) -> None:
    with served("generation", tmp_path) as subject, opened(subject) as calls:
        new = make_model(tmp_path / "weights" / "step-1", seed=1)
        file = new / "model.safetensors"
        whole = file.read_bytes()
        with GenerationClient(subject.target) as client:
            for damaged in (whole[:-1000], whole + bytes(1000), whole[:100], b""):
                file.write_bytes(damaged)
                with pytest.raises(expected("weights damaged", "generation")):
                    client.update_weights("step-1", 1)
            calls.check()
            file.write_bytes(whole)
            assert client.update_weights("step-1", 1).policy_version == 1


@each(*SERVICES)
def test_clock_jumped(name: str, tmp_path: Path) -> None:
    clock = jumping_clock(tmp_path)
    with served(name, tmp_path, environment=clock.environment) as subject, opened(subject) as calls:
        for jump in ("+1d", "-1d", "+0"):
            clock.jump(jump)
            calls.check()
            for _ in range(3):
                calls.work()
        calls.check()
