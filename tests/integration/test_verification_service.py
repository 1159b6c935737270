"""Both RPCs of the verification service, through real gRPC and real worker processes."""

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from extra_rl.v1 import common_pb2
from extra_rl.v1 import verification_pb2 as pb
from extra_services.verification.pool import WorkerPool
from extra_services.verification.service import VerificationServicer
from extra_services.verification.verifier import Verifier
from support.verification_server import (
    HANGING,
    VerificationServer,
    needs_a_worker,
    verification_server,
    wait_until,
)

CORRECT, WRONG = pb.VERDICT_STATUS_CORRECT, pb.VERDICT_STATUS_WRONG


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VerificationServer]:
    folder = tmp_path_factory.mktemp("verification")
    with verification_server(folder, workers=2, slow_workers=0, timeout_seconds=2.9) as running:
        yield running


def test_a_batch_is_answered_in_its_order_with_the_rule_that_decided(server: VerificationServer) -> None:
    verdicts = server.verify(
        (r"so \boxed{26}", "26"),
        (r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{x^2+2x+1}", "$(x+1)^2$"),
        (r"\boxed{\sqrt{3}}", r"\sqrt{2}"),
        (r"\boxed{27}", "26"),
    )
    assert [verdict.status for verdict in verdicts] == [CORRECT, CORRECT, CORRECT, WRONG, WRONG]
    assert [verdict.rule for verdict in verdicts] == [
        "integer",
        "math_verify",
        "math_verify",
        "arithmetic",
        "integer",
    ]
    assert verdicts[1].extracted == r"\frac{\sqrt{2}}{2}"
    assert all(verdict.execution_seconds > 0 for verdict in verdicts)


def test_an_empty_batch_gets_no_verdicts(server: VerificationServer) -> None:
    assert server.verify() == []


def test_unparseable_says_which_side(server: VerificationServer) -> None:
    no_answer, bad_gold = server.verify(("I do not know.", "26"), (r"\boxed{26}", r"@@@"))
    assert no_answer.status == bad_gold.status == pb.VERDICT_STATUS_UNPARSEABLE
    assert no_answer.unparseable_side == pb.UNPARSEABLE_SIDE_RESPONSE
    assert bad_gold.unparseable_side == pb.UNPARSEABLE_SIDE_ANSWER


def test_a_hang_is_killed_while_its_neighbours_are_answered(server: VerificationServer) -> None:
    before = {worker.pid for worker in server.workers()}
    verdicts = server.verify(
        (HANGING, "6"), *needs_a_worker(4),
        timeout_seconds=1,
    )  # fmt: skip
    assert verdicts[0].status == pb.VERDICT_STATUS_TIMEOUT
    assert (verdicts[0].extracted, verdicts[0].normalized_answer) == (HANGING[7:-1], "6")
    assert verdicts[0].normalized_response
    assert 1 <= verdicts[0].execution_seconds < 1.5
    assert [verdict.status for verdict in verdicts[1:]] == [CORRECT] * 4
    wait_until(lambda: {worker.pid for worker in server.workers()} != before)
    wait_until(lambda: len(server.workers()) == 2)


def test_time_in_the_queue_does_not_count_towards_the_limit(server: VerificationServer) -> None:
    # Six hangs on two workers: the last ones wait for two limits before they start.
    verdicts = server.verify(*[(HANGING, "6")] * 6, *needs_a_worker(1), timeout_seconds=0.5)
    assert [verdict.status for verdict in verdicts] == [pb.VERDICT_STATUS_TIMEOUT] * 6 + [CORRECT]
    assert max(verdict.queue_seconds for verdict in verdicts) > 0.9
    assert all(verdict.execution_seconds < 1 for verdict in verdicts)


@pytest.mark.parametrize(
    "missing", ["", " ", "None", "nan", "NaN", "null", "[]", r"\boxed{None}", r"\boxed{}"]
)
def test_a_missing_answer_is_undecided_and_its_neighbours_are_decided(
    server: VerificationServer, missing: str
) -> None:
    before, item, after = server.verify(
        (r"\boxed{1}", "1"), (rf"\boxed{{{missing}}}", missing), (r"\boxed{1}", "2")
    )
    assert (before.status, after.status) == (CORRECT, pb.VERDICT_STATUS_WRONG)
    assert item.status == pb.VERDICT_STATUS_UNPARSEABLE
    assert item.unparseable_side == pb.UNPARSEABLE_SIDE_ANSWER
    assert (item.rule, "no reference answer" in item.detail) == ("reference", True)


def test_the_word_none_is_an_answer(server: VerificationServer) -> None:
    assert server.verify((r"\boxed{none}", "none"))[0].status == CORRECT


def test_an_item_too_long_is_an_error_of_its_own(server: VerificationServer) -> None:
    long, short = server.verify(("1" * (2**22 + 1), "1"), (r"\boxed{1}", "1"))
    assert (long.status, long.rule, short.status) == (pb.VERDICT_STATUS_ERROR, "invalid", CORRECT)
    assert "4,194,305 characters, more than 4,194,304" in long.detail


@pytest.mark.parametrize(
    ("side", "status"),
    [
        (pb.UNPARSEABLE_SIDE_UNSPECIFIED, pb.VERDICT_STATUS_ERROR),
        (pb.UNPARSEABLE_SIDE_RESPONSE, pb.VERDICT_STATUS_UNPARSEABLE),
        (pb.UNPARSEABLE_SIDE_ANSWER, pb.VERDICT_STATUS_UNPARSEABLE),
    ],
)
def test_an_item_that_a_client_could_not_send_keeps_its_place(
    server: VerificationServer, side: Any, status: int
) -> None:
    invalid = pb.VerifyItem(
        response="1", answer="1", invalid=pb.InvalidItem(unparseable_side=side, detail="why")
    )
    items = [invalid, pb.VerifyItem(response="1", answer="1")]
    verdicts = server.stub.Verify(pb.VerifyRequest(items=items), timeout=60).verdicts
    assert [verdict.status for verdict in verdicts] == [status, CORRECT]
    assert (verdicts[0].detail, verdicts[0].unparseable_side) == ("why", side)


@pytest.mark.parametrize(
    ("response", "answers", "references", "status"),
    [
        (r"\boxed{2}", ["1", "2"], pb.REFERENCES_UNSPECIFIED, CORRECT),
        (r"\boxed{1+x}", ["1", "x+1"], pb.REFERENCES_ANY, CORRECT),
        (r"\boxed{3}", ["1", "2"], pb.REFERENCES_ANY, pb.VERDICT_STATUS_WRONG),
        (r"\boxed{3}", ["1", "@@@"], pb.REFERENCES_ANY, pb.VERDICT_STATUS_UNPARSEABLE),
        (r"\boxed{3}", ["1", "None"], pb.REFERENCES_ANY, pb.VERDICT_STATUS_UNPARSEABLE),
        (r"\boxed{2,1}", ["1", r"\boxed{2}"], pb.REFERENCES_ALL, CORRECT),
        (r"\boxed{1}", ["1", "2"], pb.REFERENCES_ALL, pb.VERDICT_STATUS_WRONG),
        (r"\boxed{1,2,3}", ["1", "2"], pb.REFERENCES_ALL, pb.VERDICT_STATUS_WRONG),
    ],
)
def test_any_of_several_answers_is_enough_or_all_are_needed(
    server: VerificationServer, response: str, answers: list[str], references: Any, status: int
) -> None:
    item = pb.VerifyItem(
        response=response,
        answer=answers[0],
        other_answers=answers[1:],
        options=pb.VerifyOptions(references=references),
    )
    assert server.stub.Verify(pb.VerifyRequest(items=[item]), timeout=60).verdicts[0].status == status
    (streamed,) = server.stub.VerifyStream(iter([pb.VerifyStreamRequest(id=3, item=item)]), timeout=60)
    assert (streamed.id, streamed.verdict.status) == (3, status)


def test_all_answers_are_refused_where_a_method_has_no_lists(server: VerificationServer) -> None:
    item = pb.VerifyItem(
        response="1",
        answer="1",
        method=pb.METHOD_NUMERIC,
        options=pb.VerifyOptions(references=pb.REFERENCES_ALL),
    )
    with pytest.raises(grpc.RpcError) as refused:
        server.stub.Verify(pb.VerifyRequest(items=[item]))
    assert _bad_field(refused.value) == "items[0].options.references"


@pytest.mark.parametrize("seconds", [0.0, -1.0, 4.0, float("nan"), float("inf")])
def test_a_time_limit_out_of_range_is_refused(server: VerificationServer, seconds: float) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        server.verify((r"\boxed{1}", "1"), timeout_seconds=seconds)
    assert _bad_field(refused.value) == "timeout_seconds"


def test_the_servers_own_time_limit_may_be_asked_for(server: VerificationServer) -> None:
    # The message holds 2.9 as 2.9000001.
    assert server.verify((r"\boxed{5}", "5"), timeout_seconds=2.9)[0].status == CORRECT


def test_an_unknown_method_is_refused(server: VerificationServer) -> None:
    item = pb.VerifyItem(response="1", answer="1", method=77)  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as refused:
        server.stub.Verify(pb.VerifyRequest(items=[item]))
    assert _bad_field(refused.value) == "items[0].method"


def test_a_stream_answers_each_item_as_soon_as_it_is_decided(server: VerificationServer) -> None:
    sent: queue.Queue[pb.VerifyStreamRequest | None] = queue.Queue()
    answers = server.stub.VerifyStream(iter(sent.get, None), timeout=60)
    sent.put(_stream_item(1, HANGING, "6", 2.0))
    sent.put(_stream_item(2, r"\boxed{26}", "26"))
    assert next(answers).id == 2
    sent.put(_stream_item(3, *needs_a_worker(1)[0]))
    assert next(answers).id == 3
    sent.put(None)
    last = next(answers)
    assert (last.id, last.verdict.status) == (1, pb.VERDICT_STATUS_TIMEOUT)
    assert list(answers) == []


async def test_a_stream_whose_answers_are_not_fetched_is_not_read_on() -> None:
    taken = 0

    async def items() -> AsyncIterator[pb.VerifyStreamRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield _stream_item(taken, r"\boxed{26}", "26")

    # None of these needs a worker, so the pool need not run.
    servicer = VerificationServicer(
        Verifier(WorkerPool(1, 0, 2**28, 8), 1.0, 8), common_pb2.ServerInfo(), workers=1, max_queue=8
    )
    answers = servicer.VerifyStream(items(), None)
    assert (await anext(answers)).id == 1
    for _ in range(20_000):
        await asyncio.sleep(0)
    assert 8192 <= taken <= 8194
    async for answer in answers:
        if answer.id > 20_000:
            break
    await answers.aclose()


def test_an_invalid_item_of_a_stream_is_an_error_of_its_own(server: VerificationServer) -> None:
    items = [_stream_item(1, "x", ""), _stream_item(2, r"\boxed{1}", "1")]
    verdicts = {answer.id: answer.verdict for answer in server.stub.VerifyStream(iter(items), timeout=60)}
    assert verdicts[1].status == pb.VERDICT_STATUS_UNPARSEABLE
    assert verdicts[1].unparseable_side == pb.UNPARSEABLE_SIDE_ANSWER
    assert "answer" in verdicts[1].detail
    assert verdicts[2].status == CORRECT


def _stream_item(
    name: int, response: str, answer: str, seconds: float | None = None
) -> pb.VerifyStreamRequest:
    item = pb.VerifyItem(response=response, answer=answer)
    return pb.VerifyStreamRequest(id=name, item=item, timeout_seconds=seconds)


def _bad_field(error: grpc.RpcError) -> str:
    status = rpc_status.from_call(error)
    request = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(request)
    return str(request.field_violations[0].field)
