"""The verification servicer: translates between the API and the domain, and never blocks the event loop."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any

from extra_rl.v1 import verification_pb2 as pb
from extra_rl.v1 import verification_pb2_grpc
from extra_services.errors import InvalidInput, Overloaded, ServiceError
from extra_services.verification.pool import Outcome
from extra_services.verification.verdict import Item, Method, Side, Status, Verdict
from extra_services.verification.verifier import Call, Verifier, verdict

_STATUS = {
    Status.CORRECT: pb.VERDICT_STATUS_CORRECT,
    Status.WRONG: pb.VERDICT_STATUS_WRONG,
    Status.UNPARSEABLE: pb.VERDICT_STATUS_UNPARSEABLE,
    Status.TIMEOUT: pb.VERDICT_STATUS_TIMEOUT,
    Status.ERROR: pb.VERDICT_STATUS_ERROR,
}
_SIDE = {
    Side.NONE: pb.UNPARSEABLE_SIDE_UNSPECIFIED,
    Side.RESPONSE: pb.UNPARSEABLE_SIDE_RESPONSE,
    Side.ANSWER: pb.UNPARSEABLE_SIDE_ANSWER,
}
_METHOD = {pb.METHOD_UNSPECIFIED: Method.MATH, pb.METHOD_MATH: Method.MATH}

#: The fast path yields to other calls after this many items.
_ITEMS_PER_TURN = 32


class VerificationServicer(verification_pb2_grpc.VerificationServiceServicer):
    """Serves `verifier`."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    async def Verify(self, request: pb.VerifyRequest, context: Any) -> pb.VerifyResponse:
        """Verdicts in the order of the items; an invalid item refuses the batch before anything starts."""
        timeout = self._verifier.timeout(_optional_timeout(request))
        items = [self._item(item, f"items[{index}].") for index, item in enumerate(request.items)]
        verdicts: list[Verdict | None] = []
        for item in items:
            verdicts.append(self._verifier.quick(item))
            if len(verdicts) % _ITEMS_PER_TURN == 0:
                await asyncio.sleep(0)
        hard = [index for index, decided in enumerate(verdicts) if decided is None]
        with self._verifier.call() as call:
            futures = call.submit([items[index] for index in hard], timeout)
            outcomes = await asyncio.gather(*map(asyncio.wrap_future, futures))
        for index, outcome in zip(hard, outcomes, strict=True):
            verdicts[index] = verdict(outcome, timeout)
        return pb.VerifyResponse(verdicts=[_to_proto(decided) for decided in verdicts if decided])

    async def VerifyStream(
        self, requests: AsyncIterator[pb.VerifyStreamRequest], context: Any
    ) -> AsyncIterator[pb.VerifyStreamResponse]:
        """Each item is answered as soon as it is decided; while the queue is full, no more is read."""
        answers: asyncio.Queue[pb.VerifyStreamResponse | Exception | None] = asyncio.Queue()
        with self._verifier.call() as call:
            reader = asyncio.create_task(self._read(requests, call, answers))
            try:
                while (answer := await answers.get()) is not None:
                    if isinstance(answer, Exception):
                        raise answer
                    yield answer
            finally:
                reader.cancel()

    async def _read(
        self,
        requests: AsyncIterator[pb.VerifyStreamRequest],
        call: Call,
        answers: "asyncio.Queue[pb.VerifyStreamResponse | Exception | None]",
    ) -> None:
        try:
            async with asyncio.TaskGroup() as running:
                async for request in requests:
                    decided = await self._start(request, call)
                    if isinstance(decided, Verdict):
                        answers.put_nowait(pb.VerifyStreamResponse(id=request.id, verdict=_to_proto(decided)))
                    else:
                        running.create_task(_finish(request.id, *decided, answers))
            answers.put_nowait(None)
        except Exception as error:
            answers.put_nowait(error)

    async def _start(
        self, request: pb.VerifyStreamRequest, call: Call
    ) -> "Verdict | tuple[Future[Outcome], float]":
        try:
            timeout = self._verifier.timeout(_optional_timeout(request))
            item = self._item(request.item, "item.")
        except ServiceError as error:
            field = f"{error.field}: " if isinstance(error, InvalidInput) else ""
            return Verdict(Status.ERROR, "invalid", detail=f"{field}{error.message}")
        decided = self._verifier.quick(item)
        if decided:
            return decided
        while True:
            try:
                return call.submit([item], timeout)[0], timeout
            except Overloaded as full:
                # Not reading on is the refusal of a stream: gRPC's flow control slows the sender.
                await asyncio.sleep(min(full.retry_after_seconds, 0.1))

    def _item(self, message: pb.VerifyItem, path: str) -> Item:
        if message.method not in _METHOD:
            raise InvalidInput(f"{path}method", f"unknown method number {message.method}")
        item = Item(message.response, message.answer, _METHOD[message.method])
        self._verifier.check(item, path)
        return item


async def _finish(
    name: int,
    future: "Future[Outcome]",
    timeout: float,
    answers: "asyncio.Queue[pb.VerifyStreamResponse | Exception | None]",
) -> None:
    outcome = await asyncio.wrap_future(future)
    answers.put_nowait(pb.VerifyStreamResponse(id=name, verdict=_to_proto(verdict(outcome, timeout))))


def _optional_timeout(request: pb.VerifyRequest | pb.VerifyStreamRequest) -> float | None:
    return request.timeout_seconds if request.HasField("timeout_seconds") else None


def _to_proto(decided: Verdict) -> pb.Verdict:
    return pb.Verdict(
        status=_STATUS[decided.status],
        unparseable_side=_SIDE[decided.side],
        extracted=_sendable(decided.extracted),
        normalized_response=_sendable(decided.normalized_response),
        normalized_answer=_sendable(decided.normalized_answer),
        rule=decided.rule,
        detail=_sendable(decided.detail),
        queue_seconds=decided.queue_seconds,
        execution_seconds=decided.execution_seconds,
    )


def _sendable(text: str) -> str:
    """protobuf refuses lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
