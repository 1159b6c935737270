"""The verification service when workers die, calls are cancelled, or there is too much load."""

import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from extra_rl.v1 import verification_pb2 as pb
from support.verification_server import (
    HANGING,
    VerificationServer,
    needs_a_worker,
    verification_server,
    wait_until,
)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VerificationServer]:
    folder = tmp_path_factory.mktemp("verification")
    with verification_server(folder, workers=2, slow_workers=0, timeout_seconds=10, max_queue=8) as running:
        yield running


def _hang(server: VerificationServer, count: int) -> "grpc.Future":
    items = [pb.VerifyItem(response=HANGING, answer="6")] * count
    return server.stub.Verify.future(pb.VerifyRequest(items=items))


def _busy(worker: psutil.Process) -> bool:
    try:
        return bool(worker.cpu_times().user > 0.2)
    except psutil.NoSuchProcess:  # Killed for taking too long, between two looks.
        return False


def test_killed_workers_are_replaced_and_their_items_decided(server: VerificationServer) -> None:
    for worker in server.workers():
        worker.kill()
    verdicts = server.verify(*needs_a_worker(7))
    assert [verdict.status for verdict in verdicts] == [pb.VERDICT_STATUS_CORRECT] * 7
    wait_until(lambda: len(server.workers()) == 2)


def test_an_item_that_kills_its_workers_is_an_error_not_a_wrong(server: VerificationServer) -> None:
    call = _hang(server, 1)
    killed: set[int] = set()

    def kill_busy_worker() -> bool:
        for worker in server.workers():
            if worker.pid not in killed and _busy(worker):
                worker.kill()
                killed.add(worker.pid)
        return bool(call.done())

    wait_until(kill_busy_worker)
    verdict = call.result().verdicts[0]
    assert verdict.status == pb.VERDICT_STATUS_ERROR
    assert "died 3 times" in verdict.detail
    assert len(killed) == 3


def test_beyond_the_queue_a_call_is_refused_with_a_time_to_retry(server: VerificationServer) -> None:
    blocking = _hang(server, 8)
    wait_until(lambda: any(_busy(worker) for worker in server.workers()))
    with pytest.raises(grpc.RpcError) as refused:
        server.verify(*needs_a_worker(8))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = error_details_pb2.RetryInfo()
    assert rpc_status.from_call(refused.value).details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() > 0
    # What needs no worker is still answered.
    assert server.verify((r"\boxed{4}", "4"))[0].status == pb.VERDICT_STATUS_CORRECT
    blocking.cancel()


def test_cancelling_a_call_stops_its_work_and_frees_the_workers(server: VerificationServer) -> None:
    call = _hang(server, 8)
    wait_until(lambda: sum(_busy(worker) for worker in server.workers()) == 2)
    hanging = server.workers()
    call.cancel()
    wait_until(lambda: not any(worker.is_running() for worker in hanging))
    verdict = server.verify(*needs_a_worker(1))[0]
    assert verdict.status == pb.VERDICT_STATUS_CORRECT


def test_the_end_of_a_deadline_stops_the_work_too(server: VerificationServer) -> None:
    request = pb.VerifyRequest(items=[pb.VerifyItem(response=HANGING, answer="6")])
    before = {worker.pid for worker in server.workers()}
    with pytest.raises(grpc.RpcError) as late:
        server.stub.Verify(request, timeout=0.5)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: {worker.pid for worker in server.workers()} != before)


def test_cancelling_a_stream_stops_its_work(server: VerificationServer) -> None:
    wait_until(lambda: len(server.workers()) == 2)
    item = pb.VerifyItem(response=HANGING, answer="6")
    never = threading.Event()

    def requests() -> Iterator[pb.VerifyStreamRequest]:
        yield pb.VerifyStreamRequest(id=1, item=item)
        never.wait(30)

    call = server.stub.VerifyStream(requests())
    wait_until(lambda: any(_busy(worker) for worker in server.workers()))
    hanging = [worker for worker in server.workers() if _busy(worker)]
    call.cancel()
    never.set()
    wait_until(lambda: not any(worker.is_running() for worker in hanging))


def test_a_call_full_of_hangs_delays_others_by_no_more_than_a_turn(server: VerificationServer) -> None:
    wait_until(lambda: len(server.workers()) == 2)
    items = [pb.VerifyItem(response=HANGING, answer="6")] * 8
    hanging = server.stub.Verify.future(pb.VerifyRequest(items=items, timeout_seconds=3))
    wait_until(lambda: sum(_busy(worker) for worker in server.workers()) == 2)
    verdicts = server.verify(*needs_a_worker(2))
    assert [verdict.status for verdict in verdicts] == [pb.VERDICT_STATUS_CORRECT] * 2
    # Eight hangs of three seconds on two workers take twelve: the other call did not stand behind them all.
    assert not hanging.done()
    hanging.cancel()


def test_an_item_that_runs_long_is_moved_aside_and_leaves_its_worker_to_others(tmp_path: Path) -> None:
    with verification_server(tmp_path, workers=1, slow_workers=1, timeout_seconds=30) as server:
        hanging = _hang(server, 1)
        wait_until(lambda: any(_busy(worker) for worker in server.workers()))
        verdict = server.verify(*needs_a_worker(1))[0]
        assert verdict.status == pb.VERDICT_STATUS_CORRECT
        assert not hanging.done()
        hanging.cancel()


@pytest.mark.parametrize("wanted", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_random_kills_under_load_lose_nothing_and_change_no_verdict(
    server: VerificationServer, wanted: int
) -> None:
    stop, answered = threading.Event(), threading.Event()
    kills: list[int] = []

    def kill_at_random() -> None:
        chance = random.Random(0)
        # One for each answered call: on a slow machine more would hit one item until it is given up.
        while answered.wait() and not stop.wait(chance.uniform(0, 0.3)):
            answered.clear()
            for worker in chance.sample(workers := server.workers(), min(1, len(workers))):
                worker.kill()
                kills.append(worker.pid)

    killer = threading.Thread(target=kill_at_random)
    killer.start()
    verified = 0
    try:
        while len(kills) < wanted and killer.is_alive():
            # Unlike any pair before, so that the workers are asked; every third is equal.
            numbers = [next(_numbers) for _ in range(8)]
            pairs = [(rf"\boxed{{\sin^2 x+{n}}}", rf"{n + (n % 3 == 0)}-\cos^2 x") for n in numbers]
            expected = [pb.VERDICT_STATUS_CORRECT if n % 3 == 0 else pb.VERDICT_STATUS_WRONG for n in numbers]
            assert [verdict.status for verdict in server.verify(*pairs)] == expected
            verified += len(pairs)
            answered.set()
    finally:
        stop.set()
        answered.set()
        killer.join()
    assert len(kills) >= wanted
    assert verified
    wait_until(lambda: len(server.workers()) == 2)


def test_workers_are_replaced_even_when_what_forks_them_is_killed(tmp_path: Path) -> None:
    with verification_server(tmp_path, workers=2, slow_workers=0) as server:
        parents = {worker.ppid() for worker in server.workers()}
        for parent in parents:
            psutil.Process(parent).kill()
        assert server.verify(*needs_a_worker(4))[3].status == pb.VERDICT_STATUS_CORRECT
        wait_until(lambda: len(server.workers()) == 2 and not parents & {w.ppid() for w in server.workers()})


def test_a_server_that_is_killed_leaves_no_worker_behind(tmp_path: Path) -> None:
    with verification_server(tmp_path, workers=1, slow_workers=0) as server:
        processes = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        wait_until(lambda: not any(process.is_running() for process in processes))
