"""What goes wrong around the generation service: memory that runs out, clients and parents that vanish."""

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from generation_models import make_model
from generation_server import Served, prompt, request, rollouts, served

from extra_rl.v1 import generation_pb2_grpc


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    model = make_model(tmp_path / "model", max_position_embeddings=16384)
    with served(tmp_path, model, "--kv-cache-gib", "64", "--max-batch", "4096") as running:
        yield running


def address_space(process: int) -> int:
    pages = Path(f"/proc/{process}/statm").read_text().split()[0]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_a_request_too_large_for_the_memory_fails_alone(server: Served) -> None:
    small = request([prompt("1+2=")], n=4)
    expected = {place: rollout.token_ids for place, rollout in rollouts(server, small).items()}
    beside = server.stub.Generate(request([prompt("3*4=")], n=2, max_tokens=400, min_tokens=400))
    pid = server.process.pid
    room = address_space(pid) + 600 * 2**20
    resource.prlimit(pid, resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
    with pytest.raises(grpc.RpcError) as failed:
        list(server.stub.Generate(request([prompt("1" * 12000)], n=4000, max_tokens=2)))
    assert failed.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "out of memory" in failed.value.details()
    assert sum(1 for _ in beside) == 2
    assert {place: rollout.token_ids for place, rollout in rollouts(server, small).items()} == expected


def test_a_client_that_is_gone_leaves_no_work_behind(server: Served) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        next(stub.Generate(request([prompt("1")], n=4000, max_tokens=8000)))
    # Would take minutes if the 4000 samples of the closed channel still ran.
    assert len(rollouts(server, request([prompt("1+2=")], n=2, max_tokens=2000, min_tokens=2000))) == 2


def test_the_server_ends_with_its_parent_even_while_it_generates(server: Served) -> None:
    wanted = request([prompt("1")], n=100, max_tokens=8000, min_tokens=8000)
    wanted.stream_tokens = True
    call = server.stub.Generate(wanted)
    next(call)  # it generates now
    server.process.stdin.close()
    with pytest.raises(grpc.RpcError) as ended:
        list(call)
    assert ended.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert server.process.wait() == 0


def test_calls_to_a_killed_server_fail_as_unavailable(server: Served) -> None:
    call = server.stub.Generate(request([prompt("1")], n=100, max_tokens=8000, min_tokens=8000))
    server.process.send_signal(signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as killed:
        list(call)
    assert killed.value.code() == grpc.StatusCode.UNAVAILABLE
