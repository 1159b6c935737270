"""Faults around the generation service: too little memory, clients and parents that disappear."""

import os
import resource
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from extra_client import CancelledError, GenerationClient, UnavailableError
from extra_rl.v1 import generation_pb2 as pb
from extra_rl.v1 import generation_pb2_grpc
from support.generation_models import make_model
from support.generation_server import Served, prompt, request, rollouts, served


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
    with GenerationClient(server.address) as client:
        begun = client.generate_stream([[2]], 100, 8000, min_tokens=8000, stream_tokens=True)
        next(begun)  # it generates now
        starting = client.generate_stream([[2]], 100, 8000, min_tokens=8000)
        assert server.process.stdin
        server.process.stdin.close()
        for call in (begun, starting):
            with pytest.raises((UnavailableError, CancelledError)):
                list(call)
    assert server.process.wait() == 0


def silent(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
    """Answer a call with nothing, once it is cancelled."""
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait()
    return iter(())


def start_as_the_server_stops(address: str, seconds: float) -> None:
    """A call that starts about when its server stops, `seconds` later: it ends, as it must."""
    server = grpc.server(ThreadPoolExecutor(2))
    method = grpc.unary_stream_rpc_method_handler(
        silent, pb.GenerateRequest.FromString, pb.GenerateResponse.SerializeToString
    )
    name = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, {"Generate": method})])
    server.add_insecure_port(address)
    server.start()
    with GenerationClient(address) as client:
        call = client.generate_stream([[2]], n=1, max_tokens=1, deadline=60)
        threading.Event().wait(seconds)
        server.stop(None)
        with pytest.raises((UnavailableError, CancelledError)):
            list(call)


def test_a_call_that_starts_as_its_server_stops_ends(tmp_path: Path) -> None:
    """With gRPC's own retries, most of these hung until their deadlines."""
    rounds = [(f"unix:{tmp_path}/{index}", index / 10_000) for index in range(24)]
    with ThreadPoolExecutor(len(rounds)) as pool:
        list(pool.map(start_as_the_server_stops, *zip(*rounds, strict=True)))


def test_calls_to_a_killed_server_fail_as_unavailable(server: Served) -> None:
    call = server.stub.Generate(request([prompt("1")], n=100, max_tokens=8000, min_tokens=8000))
    server.process.send_signal(signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as killed:
        list(call)
    assert killed.value.code() == grpc.StatusCode.UNAVAILABLE
