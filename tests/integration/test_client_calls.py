"""Errors, retries, deadlines and readiness, against a real gRPC server that fails on purpose.

A healthy service cannot be made to fail in all these ways, so the server here is the test's own: the real
stubs on a real socket, answering from a script. Its statuses are made by the services' own error table.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from extra_client import (
    CancelledError,
    DeadlineExceededError,
    ExtraError,
    FailedPreconditionError,
    GenerationClient,
    Group,
    InternalError,
    InvalidArgumentError,
    NamespaceClient,
    NamespaceSettings,
    NotFoundError,
    NoveltyClient,
    OverloadedError,
    UnavailableError,
    UnimplementedError,
    VerificationClient,
    aio,
    request_scope,
)
from extra_rl.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    namespace_pb2,
    namespace_pb2_grpc,
    novelty_pb2,
    novelty_pb2_grpc,
    verification_pb2,
    verification_pb2_grpc,
)
from extra_services.errors import FailedPrecondition, InvalidInput, NotFound, Overloaded, ServiceError
from extra_services.runtime.errors import item_error, status_of

Answer = Callable[[Any, grpc.ServicerContext], Any]


@dataclass
class Scripted:
    """A server whose next answers are given; keeps what it was asked."""

    port: int
    answers: list[Answer] = field(default_factory=list)
    asked: list[tuple[str, Any, dict[str, Any]]] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answer(self, rpc: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.asked.append((rpc, request, dict(context.invocation_metadata())))
        return self.answers.pop(0)(request, context)


class Namespaces(namespace_pb2_grpc.NamespaceServiceServicer):
    def __init__(self, script: Scripted) -> None:
        self.script = script

    def CreateNamespace(self, request: Any, context: Any) -> Any:
        return self.script.answer("CreateNamespace", request, context)

    def CopyNamespace(self, request: Any, context: Any) -> Any:
        return self.script.answer("CopyNamespace", request, context)

    def ListNamespaces(self, request: Any, context: Any) -> Any:
        return self.script.answer("ListNamespaces", request, context)


class Novelty(novelty_pb2_grpc.NoveltyServiceServicer):
    def __init__(self, script: Scripted) -> None:
        self.script = script

    def ScoreGroups(self, request: Any, context: Any) -> Any:
        return self.script.answer("ScoreGroups", request, context)


class Generation(generation_pb2_grpc.GenerationServiceServicer):
    def __init__(self, script: Scripted) -> None:
        self.script = script

    def Generate(self, request: Any, context: Any) -> Any:
        yield from self.script.answer("Generate", request, context)

    def StreamWeights(self, request_iterator: Any, context: Any) -> Any:
        return self.script.answer("StreamWeights", request_iterator, context)


class Verification(verification_pb2_grpc.VerificationServiceServicer):
    def __init__(self, script: Scripted) -> None:
        self.script = script

    def VerifyStream(self, request_iterator: Any, context: Any) -> Any:
        yield from self.script.answer("VerifyStream", request_iterator, context)


def start(script: Scripted, readiness: health.HealthServicer | None = None) -> Any:
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    namespace_pb2_grpc.add_NamespaceServiceServicer_to_server(Namespaces(script), server)  # type: ignore[abstract]
    novelty_pb2_grpc.add_NoveltyServiceServicer_to_server(Novelty(script), server)  # type: ignore[abstract]
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(Generation(script), server)  # type: ignore[abstract]
    verification_pb2_grpc.add_VerificationServiceServicer_to_server(Verification(script), server)  # type: ignore[abstract]
    if readiness:
        health_pb2_grpc.add_HealthServicer_to_server(readiness, server)
    script.port = server.add_insecure_port(script.target)
    server.start()
    return server


@pytest.fixture
def script() -> Iterator[Scripted]:
    script = Scripted(0)
    server = start(script)
    yield script
    server.stop(None).wait()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def fails(error: ServiceError) -> Answer:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        context.abort_with_status(rpc_status.to_status(status_of(error)))

    return answer


def aborts(code: grpc.StatusCode, details: str = "") -> Answer:
    return lambda request, context: context.abort(code, details)


def gives(response: Any) -> Answer:
    return lambda request, context: response


CREATED = gives(namespace_pb2.CreateNamespaceResponse(created=True))
SCORED = gives(novelty_pb2.ScoreGroupsResponse(groups=[novelty_pb2.GroupScores(novelty=b"\0\0\0\0")]))


def novelty_error(script: Scripted, answer: Answer) -> ExtraError:
    script.answers = [answer] * 5
    with NamespaceClient(script.target, "n") as client, pytest.raises(ExtraError) as caught:
        client.list_namespaces()
    return caught.value


def test_an_invalid_argument_names_field_method_and_target(script: Scripted) -> None:
    error = novelty_error(
        script, fails(InvalidInput("groups[2].texts", "is empty; give texts or embeddings"))
    )
    assert isinstance(error, InvalidArgumentError)
    assert error.field == "groups[2].texts"
    where = f"NamespaceService.ListNamespaces at {script.target}"
    assert error.message == f"{where}: groups[2].texts: is empty; give texts or embeddings"


def test_an_overloaded_server_says_when_to_try_again(script: Scripted) -> None:
    error = novelty_error(script, fails(Overloaded("queue is full", 1.5)))
    assert isinstance(error, OverloadedError)
    assert error.retry_after == 1.5
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [(NotFound("no x"), NotFoundError), (FailedPrecondition("not y"), FailedPreconditionError)],
)
def test_each_kind_of_error_is_a_class(script: Scripted, error: ServiceError, kind: type[ExtraError]) -> None:
    assert type(novelty_error(script, fails(error))) is kind


def test_an_internal_error_carries_the_request_id_under_which_the_server_logged_it(script: Scripted) -> None:
    error = novelty_error(script, aborts(grpc.StatusCode.INTERNAL, "internal error"))
    assert isinstance(error, InternalError)
    assert error.request_id == script.asked[0][2]["x-request-id"]


def test_a_method_the_server_lacks_is_told_as_a_wrong_or_old_server(script: Scripted) -> None:
    with (
        NamespaceClient(script.target, "n") as client,
        pytest.raises(UnimplementedError, match="novelty server"),
    ):
        client.delete()


def test_no_server_is_told_with_the_command_that_starts_one(free_port: int) -> None:
    with VerificationClient(f"localhost:{free_port}") as client, pytest.raises(UnavailableError) as caught:
        client.verify(["1"], ["1"])
    assert f"no verification service answers at localhost:{free_port}" in caught.value.message
    assert "`extra-rl serve verification`" in caught.value.message


def test_a_message_over_the_limit_is_the_callers_to_change_not_to_repeat(script: Scripted) -> None:
    group = Group(prompt_id="p", texts=["x" * 5_000_000], correct=[True])
    script.answers = [CREATED]
    with (
        NoveltyClient(script.target, "n") as client,
        pytest.raises(InvalidArgumentError, match="fewer items"),
    ):
        client.score_groups([group])


def test_a_deadline_of_call_or_client_is_kept_and_explained(script: Scripted) -> None:
    ended = threading.Event()

    def hang(request: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(ended.set)
        ended.wait(30)
        context.abort(grpc.StatusCode.CANCELLED, "")

    script.answers = [hang, hang]
    with NamespaceClient(script.target, "n", deadline=0.2) as client:
        with pytest.raises(DeadlineExceededError, match=r"deadline of 0\.2 s"):
            client.list_namespaces()
        assert ended.wait(30), "the server was not told that the call is over"
        ended.clear()
        with pytest.raises(DeadlineExceededError, match=r"deadline of 0\.1 s"):
            client.list_namespaces(deadline=0.1)


# A server that stops without waiting may end its calls as if they were cancelled.
@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_a_write_is_retried_under_one_key_and_one_request_id(script: Scripted, code: grpc.StatusCode) -> None:
    away = aborts(code)
    script.answers = [CREATED, away, away, SCORED]
    with NoveltyClient(script.target, "n") as client:
        assert client.score("p", texts=["a"], correct=[True]).tolist() == [0]
    attempts = [(request.idempotency_key, data["x-request-id"]) for _, request, data in script.asked[1:]]
    assert len(attempts) == 3
    assert len(set(attempts)) == 1


def test_the_request_ids_of_a_scope_begin_with_its_name_and_differ(script: Scripted) -> None:
    script.answers = [CREATED, SCORED, SCORED]
    with NoveltyClient(script.target, "n") as client:
        with request_scope("run-1/step-12"):
            client.score("p", texts=["a"], correct=[True])
        client.score("p", texts=["a"], correct=[True])
    created, inside, outside = (data["x-request-id"] for _, _, data in script.asked)
    assert created.startswith("run-1/step-12/")
    assert inside.startswith("run-1/step-12/")
    assert created != inside
    assert "/" not in outside
    with pytest.raises(ValueError, match="printable ASCII"), request_scope("step\n12"):
        pass


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_the_asyncio_client_retries_alike(script: Scripted, code: grpc.StatusCode) -> None:
    script.answers = [CREATED, aborts(code), SCORED]
    async with aio.NoveltyClient(script.target, "n") as client:
        assert (await client.score("p", texts=["a"], correct=[True])).tolist() == [0]
    assert len(script.asked) == 3


def test_a_call_that_is_cancelled_by_closing_the_client_is_not_sent_again(script: Scripted) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def wait(request: Any, context: Any) -> Any:
        asked.set()
        go_on.wait(30)

    script.answers = [wait]
    client = NamespaceClient(script.target, "n")
    with ThreadPoolExecutor(1) as thread:
        listing = thread.submit(client.list_namespaces)
        assert asked.wait(30)
        client.close()
        with pytest.raises(CancelledError):
            listing.result(30)
    go_on.set()
    assert len(script.asked) == 1


def test_a_closed_client_says_so(script: Scripted) -> None:
    with NamespaceClient(script.target, "n") as client:
        prompts = client.list_prompts()
    with pytest.raises(FailedPreconditionError, match="is closed"):
        next(prompts)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_a_copy_is_not_sent_twice(script: Scripted, code: grpc.StatusCode) -> None:
    script.answers = [aborts(code)]
    with NamespaceClient(script.target, "n") as client, pytest.raises(UnavailableError):
        client.copy_to("m")
    assert len(script.asked) == 1


def test_an_existing_namespace_is_used_as_it_is_unless_settings_are_asked_for(script: Scripted) -> None:
    other = fails(FailedPrecondition("exists with other settings"))
    script.answers = [other, SCORED, SCORED, other]
    with NoveltyClient(script.target, "n") as client:
        client.score("p", texts=["a"], correct=[True])
        client.score("p", texts=["a"], correct=[True])
    with (
        NoveltyClient(script.target, "n", NamespaceSettings(min_history=1)) as client,
        pytest.raises(FailedPreconditionError),
    ):
        client.score("p", texts=["a"], correct=[True])


def test_one_refused_group_is_returned_by_score_groups_and_raised_by_score(script: Scripted) -> None:
    refused = novelty_pb2.GroupScores(error=item_error(InvalidInput("texts", "are missing")))
    scored = novelty_pb2.GroupScores(novelty=np.array([0.5], np.float32).tobytes())
    script.answers = [
        CREATED,
        gives(novelty_pb2.ScoreGroupsResponse(groups=[refused, scored])),
        gives(novelty_pb2.ScoreGroupsResponse(groups=[refused])),
    ]
    with NoveltyClient(script.target, "n") as client:
        bad, good = client.score_groups([Group(prompt_id="p", correct=[True])] * 2)
        assert isinstance(bad.error, InvalidArgumentError)
        assert good.error is None
        assert good.novelty.tolist() == [0.5]
        with pytest.raises(InvalidArgumentError, match="texts: are missing"):
            client.score("p", correct=[True])


def events(*items: Any) -> Answer:
    return gives([generation_pb2.GenerateResponse(**item) for item in items])


REFUSED = {
    "prompt_error": generation_pb2.PromptError(
        prompt_index=1, error=item_error(InvalidInput("text", "is too long"))
    )
}
FINISHED: dict[str, Any] = {
    "rollout": generation_pb2.Rollout(finish_reason=generation_pb2.FINISH_REASON_STOP)
}


def test_a_refused_prompt_raises_in_generate_and_is_an_event_of_the_stream(script: Scripted) -> None:
    script.answers = [events(REFUSED, FINISHED)] * 2
    with GenerationClient(script.target) as client:
        with pytest.raises(InvalidArgumentError, match=r"prompts\[1\]: text: is too long"):
            client.generate(["a", "b"], 1, 1)
        refused, rollout = client.generate_stream(["a", "b"], 1, 1)
    assert refused.prompt_index == 1
    assert rollout.prompt_index == 0


async def test_a_stream_of_rollouts_that_ends_early_is_an_error_not_a_short_answer(script: Scripted) -> None:
    script.answers = [events(FINISHED)] * 2
    with GenerationClient(script.target) as client, pytest.raises(InternalError, match="0 of 1 rollouts"):
        list(client.generate_stream(["a", "b"], 1, 1))
    async with aio.GenerationClient(script.target) as other:
        with pytest.raises(InternalError, match="0 of 1 rollouts"):
            await other.generate(["a", "b"], 1, 1)


def test_dropping_a_stream_stops_the_work_in_the_server(script: Scripted) -> None:
    ended = threading.Event()

    def forever(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(ended.set)
        yield generation_pb2.GenerateResponse(**FINISHED)
        ended.wait(30)

    script.answers = [forever]
    with GenerationClient(script.target) as client:
        for _ in client.generate_stream(["a"], 2, 1):
            break
        assert ended.wait(30)


def take_all(requests: Iterator[Any], context: Any) -> Any:
    data = b"".join(request.chunk.data for request in requests)
    return generation_pb2.StreamWeightsResponse(policy_version=len(data))


def refuse_at_once(requests: Iterator[Any], context: Any) -> Any:
    next(requests)
    return fails(FailedPrecondition("version 3 is served"))(requests, context)


def tensors(count: int, broken: bool) -> Iterator[tuple[str, Any]]:
    for index in range(count):
        yield f"layer.{index}", np.zeros(1_000_000, np.float32)
    if broken:
        raise ZeroDivisionError("no such layer")


async def test_tensors_are_streamed_and_what_fails_on_either_side_is_told(script: Scripted) -> None:
    script.answers = [take_all, take_all, refuse_at_once] * 2
    with GenerationClient(script.target) as client:
        assert client.stream_weights(tensors(3, broken=False), 4).policy_version == 12_000_000
        with pytest.raises(ZeroDivisionError, match="no such layer"):
            client.stream_weights(tensors(3, broken=True), 4)
        with pytest.raises(FailedPreconditionError, match="version 3 is served"):
            client.stream_weights(tensors(50, broken=False), 3)
    async with aio.GenerationClient(script.target) as other:
        assert (await other.stream_weights(tensors(3, broken=False), 4)).policy_version == 12_000_000
        with pytest.raises(ZeroDivisionError, match="no such layer"):
            await other.stream_weights(tensors(3, broken=True), 4)
        with pytest.raises(FailedPreconditionError, match="version 3 is served"):
            await other.stream_weights(tensors(50, broken=False), 3)


def decide(requests: Iterator[Any], context: Any) -> Iterator[Any]:
    for request in requests:
        verdict = verification_pb2.Verdict(status=verification_pb2.VERDICT_STATUS_CORRECT)
        yield verification_pb2.VerifyStreamResponse(id=request.id, verdict=verdict)


def test_an_exception_of_the_items_reaches_the_reader_of_the_verdicts(script: Scripted) -> None:
    def items(before: int) -> Iterator[tuple[str, str, str]]:
        yield from [("first", "1", "1")] * before
        raise ZeroDivisionError("generation failed")

    script.answers = [decide, decide]
    with VerificationClient(script.target) as client:
        for before in (0, 1):
            with pytest.raises(ZeroDivisionError, match="generation failed"):
                list(client.verify_stream(items(before)))


async def test_an_exception_of_the_items_reaches_the_reader_of_the_verdicts_in_asyncio(
    script: Scripted,
) -> None:
    async def items() -> Any:
        yield "first", "1", "1"
        raise ZeroDivisionError("generation failed")

    script.answers = [decide]
    async with aio.VerificationClient(script.target) as client:
        with pytest.raises(ZeroDivisionError, match="generation failed"):
            _ = [verdict async for verdict in client.verify_stream(items())]


def test_a_stream_of_verdicts_that_ends_early_is_an_error(script: Scripted) -> None:
    script.answers = [lambda requests, context: iter([next(decide(requests, context))])]
    items = [(name, "1", "1") for name in "abc"]
    with VerificationClient(script.target) as client, pytest.raises(InternalError, match="early"):
        list(client.verify_stream(items))


def test_requests_go_round_the_replicas_that_are_ready() -> None:
    scripts = [Scripted(0) for _ in range(3)]
    readiness = [health.HealthServicer() for _ in scripts]
    for index, checks in enumerate(readiness):
        ready = (
            health_pb2.HealthCheckResponse.NOT_SERVING
            if index == 2
            else health_pb2.HealthCheckResponse.SERVING
        )
        checks.set("extra_rl.v1.NamespaceService", ready)
    servers = [start(*pair) for pair in zip(scripts, readiness, strict=True)]
    for script in scripts:
        script.answers = [gives(namespace_pb2.ListNamespacesResponse())] * 50
    with NamespaceClient("ipv4:" + ",".join(script.target for script in scripts), "n") as client:
        while not (scripts[0].asked and scripts[1].asked):
            client.list_namespaces()
    assert not scripts[2].asked
    for server in servers:
        server.stop(None).wait()


def test_waiting_for_readiness_ends_when_a_server_comes_up_and_says_so(free_port: int) -> None:
    script, name = Scripted(free_port), "extra_rl.v1.NoveltyService"
    # Two of them: grpcio's servicer for threads can lock itself up when one watch ends as another is told.
    loading, loaded = health.HealthServicer(), health.HealthServicer()
    for checks in (loading, loaded):
        checks.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    with NoveltyClient(script.target, "n") as client, ThreadPoolExecutor(1) as pool:
        with pytest.raises(UnavailableError, match="no novelty service answers"):
            client.wait_for_ready(0.1)
        server = start(script, loading)
        with pytest.raises(UnavailableError, match="not ready"):
            client.wait_for_ready(1)
        server.stop(None).wait()
        waiting = pool.submit(client.wait_for_ready, 60)
        server = start(script, loaded)
        assert not waiting.done()
        loaded.set(name, health_pb2.HealthCheckResponse.SERVING)
        waiting.result()
        server.stop(None).wait()


async def test_waiting_for_readiness_in_asyncio(free_port: int) -> None:
    script, checks = Scripted(free_port), health.HealthServicer()
    checks.set("extra_rl.v1.NoveltyService", health_pb2.HealthCheckResponse.SERVING)
    async with aio.NoveltyClient(script.target, "n") as client:
        with pytest.raises(UnavailableError, match="no novelty service answers"):
            await client.wait_for_ready(0.1)
        waiting = asyncio.create_task(client.wait_for_ready(60))
        server = start(script, checks)
        await waiting
        server.stop(None).wait()
