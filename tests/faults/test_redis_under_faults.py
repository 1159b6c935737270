"""The Redis under novelty killed, stopped, cut off, slowed, out of disk, failed over to a replica.

Like test_services_under_faults, with the faults in Redis: the novelty server stays up, reports the cause, and
continues when Redis is back; nothing that it acknowledged is lost.
"""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.fault_table import THE_REDIS, expected
from support.faulty_services import PATIENCE, Calls, Novelty, fill, load, small_disk
from support.hosts import host
from support.processes import wait_for
from support.redis_processes import RedisProcess, SentinelProcess
from support.slow_network import slow_network

pytestmark = pytest.mark.slow
#: Redis has to answer within so many seconds, so that a test needs no minutes; 120 unless the URL says so.
IMPATIENT = "?socket_timeout=1&socket_connect_timeout=1"


@contextmanager
def memory_on(redis: RedisProcess, folder: Path, url: str = "", *flags: str) -> Iterator[Calls]:
    """Calls, answered once, to a novelty server that keeps its memory there."""
    (folder / "server").mkdir()
    subject = Novelty(folder / "server", None, [f"--redis-url={url or redis.url(IMPATIENT)}", *flags])
    calls = subject.open(subject.target)
    try:
        calls.work(PATIENCE)
        yield calls
    finally:
        calls.close()
        subject.close()


@contextmanager
def running(redis: RedisProcess) -> Iterator[RedisProcess]:
    """Ends it, whatever its state."""
    try:
        yield redis
    finally:
        redis.process.send_signal(signal.SIGCONT)
        redis.kill()


def test_killed(tmp_path: Path) -> None:
    with running(RedisProcess(tmp_path / "redis")) as redis, memory_on(redis, tmp_path) as calls:
        for _ in range(3):
            with load(calls) as under_way:
                under_way.wait_for_more(10)
                redis.kill()
                wait_for(lambda: bool(under_way.seen), "no call failed")
                assert isinstance(under_way.seen[0], expected("killed -9", THE_REDIS))
                assert "the memory's Redis does not serve" in str(under_way.seen[0])
            redis.start()
            calls.check()


def test_stopped(tmp_path: Path) -> None:
    with running(RedisProcess(tmp_path / "redis")) as redis, memory_on(redis, tmp_path) as calls:
        redis.process.send_signal(signal.SIGSTOP)
        with pytest.raises(expected("stopped", THE_REDIS), match="the memory's Redis does not serve"):
            calls.work(PATIENCE)
        redis.process.send_signal(signal.SIGCONT)
        calls.check()


def test_partitioned(tmp_path: Path) -> None:
    with (
        host() as remote,
        running(RedisProcess(tmp_path / "redis", remote)) as redis,
        memory_on(redis, tmp_path) as calls,
    ):
        with load(calls) as under_way:
            under_way.wait_for_more()
            remote.pull_cable()
            wait_for(lambda: bool(under_way.seen), "no call failed")
            assert isinstance(under_way.seen[0], expected("partitioned", THE_REDIS))
            remote.plug_cable()
        calls.check()


def test_slowed(tmp_path: Path) -> None:
    with (
        running(RedisProcess(tmp_path / "redis")) as redis,
        slow_network(redis.address, redis.port) as network,
        memory_on(redis, tmp_path, f"redis://{network.address}") as calls,
    ):
        with pytest.raises(expected("slowed", THE_REDIS), match="took longer than its deadline"):
            calls.work(0.3)
        calls.check()


def test_restarted(tmp_path: Path) -> None:
    with running(RedisProcess(tmp_path / "redis")) as redis, memory_on(redis, tmp_path) as calls:
        with load(calls) as under_way:
            under_way.wait_for_more()
            redis.end()
            redis.start()
            under_way.wait_for_more()
        assert under_way.seen == []
        calls.check()


def test_out_of_disk(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "redis", "8m") as disk,
        running(RedisProcess(disk)) as redis,
        memory_on(redis, tmp_path) as calls,
    ):
        for _ in range(3):
            calls.work()
        filler = fill(disk)
        with pytest.raises(expected("out of disk", THE_REDIS), match="the memory's Redis does not serve"):
            calls.work()
        # It would rather end than forget: see Redis' log.
        redis.process.wait()
        filler.unlink()
        redis.start()
        calls.check()


def test_store_damaged_at_its_tail(tmp_path: Path) -> None:
    with running(RedisProcess(tmp_path / "redis")) as redis, memory_on(redis, tmp_path) as calls:
        for _ in range(3):
            calls.work()
        redis.kill()
        # A command that was being written when the power went.
        (log,) = (tmp_path / "redis").glob("appendonlydir/*.incr.aof")
        with log.open("ab") as file:
            file.write(b"*3\r\n$7\r\nEVALSHA\r\n$40\r\n0123")
        redis.start()
        calls.check()


@contextmanager
def replicated(
    folder: Path, replicas: int, sentinels: int
) -> Iterator[tuple[RedisProcess, list[RedisProcess], str]]:
    """A primary, its replicas, and the URL of the sentinels that watch them."""
    with ExitStack() as stack:
        primary = stack.enter_context(running(RedisProcess(folder / "primary")))
        followers = []
        for number in range(replicas):
            flags = ["--replicaof", "127.0.0.1", str(primary.port), "--repl-diskless-sync-delay", "0"]
            follower = RedisProcess(folder / f"replica-{number}", flags=flags)
            followers.append(stack.enter_context(running(follower)))
        wait_for(lambda: _replicas(primary) == replicas, "the replicas do not follow")
        watching = []
        for number in range(sentinels):
            sentinel = SentinelProcess(folder / f"sentinel-{number}", primary, sentinels // 2 + 1)
            watching.append(stack.enter_context(running(sentinel)))
        for each in watching:
            wait_for(lambda each=each: _knows(each, replicas, sentinels), "the sentinels do not meet")  # type: ignore[misc]
        yield (
            primary,
            followers,
            "sentinel://" + ",".join(f"127.0.0.1:{s.port}" for s in watching) + "/memory",
        )


def _replicas(primary: RedisProcess) -> int:
    return sum(
        1
        for name, value in primary.client().info("replication").items()
        if name.startswith("slave") and isinstance(value, dict) and value["state"] == "online"
    )


def _knows(sentinel: RedisProcess, replicas: int, sentinels: int) -> bool:
    primary = sentinel.client().sentinel_master("memory")
    assert isinstance(primary, dict)
    return bool(primary["num-slaves"] == replicas and primary["num-other-sentinels"] == sentinels - 1)


def test_failed_over_to_a_replica(tmp_path: Path) -> None:
    with (
        replicated(tmp_path, 2, 3) as (primary, _, url),
        memory_on(primary, tmp_path, url, "--redis-replicas=1") as calls,
    ):
        with load(calls) as under_way:
            under_way.wait_for_more(20)
            primary.kill()
            # If the failover is done within the client's patience, no call fails.
            under_way.wait_for_more(20)
        unavailable = expected("failed over to a replica", THE_REDIS)
        assert [error for error in under_way.seen if not isinstance(error, unavailable)] == []
        calls.check()
        # The old primary comes back, and follows the new one.
        primary.start()
        wait_for(lambda: primary.client().info("replication")["role"] == "slave", "it does not follow")
        calls.check()
        calls.work(PATIENCE)


def test_a_write_that_no_replica_has_is_not_acknowledged(tmp_path: Path) -> None:
    with (
        replicated(tmp_path, 1, 1) as (primary, (follower,), url),
        memory_on(primary, tmp_path, url, "--redis-replicas=1") as calls,
    ):
        follower.process.send_signal(signal.SIGSTOP)
        with pytest.raises(expected("replicas gone", THE_REDIS), match="of its replicas"):
            calls.work()
        # Nor is it when it is sent again, though Redis has it now.
        with pytest.raises(expected("replicas gone", THE_REDIS), match="of its replicas"):
            calls.check()
        follower.process.send_signal(signal.SIGCONT)
        calls.check()
