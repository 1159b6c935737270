"""The verification servicer: translates between the API and the domain, and never blocks the event loop."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Future
from importlib.metadata import version
from typing import Any, Literal, TypeVar

from extra_rl.v1 import common_pb2, verification_pb2_grpc
from extra_rl.v1 import verification_pb2 as pb
from extra_services.errors import InvalidInput, Overloaded, ServiceError
from extra_services.verification import custom, instruments
from extra_services.verification.pool import Outcome
from extra_services.verification.verdict import Boxes, Item, Method, Options, Side, Status, Verdict
from extra_services.verification.verifier import Call, Hard, Verifier

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
_METHOD = {
    pb.METHOD_UNSPECIFIED: Method.MATH,
    pb.METHOD_MATH: Method.MATH,
    pb.METHOD_CHOICE: Method.CHOICE,
    pb.METHOD_EXACT: Method.EXACT,
    pb.METHOD_NUMERIC: Method.NUMERIC,
    pb.METHOD_AUTO: Method.AUTO,
    pb.METHOD_CUSTOM: Method.CUSTOM,
}
_BOXES = {
    pb.BOX_CHOICE_UNSPECIFIED: Boxes.LAST,
    pb.BOX_CHOICE_LAST: Boxes.LAST,
    pb.BOX_CHOICE_FIRST: Boxes.FIRST,
    pb.BOX_CHOICE_ALL: Boxes.ALL,
}
_DEFAULTS = Options()

#: Items of one stream that are read and whose answers were not fetched yet, at most.
_UNANSWERED = 8192
#: A batch yields to other calls after this many items.
_ITEMS_PER_TURN = 16


class VerificationServicer(verification_pb2_grpc.VerificationServiceServicer):
    """Serves `verifier`."""

    def __init__(
        self, verifier: Verifier, server: common_pb2.ServerInfo, workers: int, max_queue: int
    ) -> None:
        self._verifier = verifier
        self._server = server
        self._workers = workers
        self._max_queue = max_queue

    async def Verify(self, request: pb.VerifyRequest, context: Any) -> pb.VerifyResponse:
        """Verdicts in the order of the items; an invalid item refuses the batch before anything starts."""
        timeout = self._verifier.timeout(_optional_timeout(request))
        items = [self._item(item, f"items[{n}].") async for n, item in _in_turns(request.items)]
        decided: list[Verdict | Hard] = []
        hard: list[Hard] = []
        async for _, item in _in_turns(items):
            decided.append(entry := self._verifier.decide(item))
            if isinstance(entry, Hard):
                hard.append(entry)
                # At once: under overload, what is refused must cost little, or nothing else gets done.
                self._verifier.require_room(len(hard))
        with self._verifier.call() as call:
            futures = call.submit(hard, timeout)
            outcomes = iter(await asyncio.gather(*map(asyncio.wrap_future, futures)))
        verdicts = (
            entry if isinstance(entry, Verdict) else self._verifier.finish(entry, next(outcomes), timeout)
            for entry in decided
        )
        answered = [verdict async for _, verdict in _in_turns(verdicts)]
        routes = (_route(entry) for entry in decided)
        instruments.count(zip((verdict.status for verdict in answered), routes, strict=True))
        return pb.VerifyResponse(verdicts=[_to_proto(verdict) async for _, verdict in _in_turns(answered)])

    async def VerifyStream(
        self, requests: AsyncIterator[pb.VerifyStreamRequest], context: Any
    ) -> AsyncIterator[pb.VerifyStreamResponse]:
        """Each item is answered as soon as it is decided; while the workers' queue is full, or too many
        answers have not been fetched, no more is read."""
        answers: asyncio.Queue[pb.VerifyStreamResponse | Exception | None] = asyncio.Queue()
        room = asyncio.Semaphore(_UNANSWERED)
        with self._verifier.call() as call:
            reader = asyncio.create_task(self._read(requests, call, answers, room))
            try:
                while (answer := await answers.get()) is not None:
                    if isinstance(answer, Exception):
                        raise answer
                    yield answer
                    room.release()
            finally:
                reader.cancel()

    async def GetInfo(
        self, request: pb.VerificationServiceGetInfoRequest, context: Any
    ) -> pb.VerificationServiceGetInfoResponse:
        """See the proto."""
        return pb.VerificationServiceGetInfoResponse(
            server=self._server,
            math_verify_version=version("math-verify"),
            max_timeout_seconds=self._verifier.timeout(None),
            workers=self._workers,
            max_queue=self._max_queue,
            custom_verifiers=sorted(custom.known()),
        )

    async def _read(
        self,
        requests: AsyncIterator[pb.VerifyStreamRequest],
        call: Call,
        answers: "asyncio.Queue[pb.VerifyStreamResponse | Exception | None]",
        room: asyncio.Semaphore,
    ) -> None:
        try:
            async with asyncio.TaskGroup() as running:
                async for request in requests:
                    await room.acquire()
                    decided = await self._start(request, call)
                    if isinstance(decided, Verdict):
                        instruments.count([(decided.status, _route(decided))])
                        answers.put_nowait(pb.VerifyStreamResponse(id=request.id, verdict=_to_proto(decided)))
                    else:
                        running.create_task(self._finish(request.id, *decided, answers))
            answers.put_nowait(None)
        except Exception as error:
            answers.put_nowait(error)

    async def _start(
        self, request: pb.VerifyStreamRequest, call: Call
    ) -> "Verdict | tuple[Hard, Future[Outcome], float]":
        try:
            timeout = self._verifier.timeout(_optional_timeout(request))
            item = self._item(request.item, "item.")
        except ServiceError as error:
            field = f"{error.field}: " if isinstance(error, InvalidInput) else ""
            return Verdict(Status.ERROR, "invalid", detail=f"{field}{error.message}")
        decided = self._verifier.decide(item)
        if isinstance(decided, Verdict):
            return decided
        while True:
            try:
                return decided, call.submit([decided], timeout)[0], timeout
            except Overloaded as full:
                # Not reading on is the refusal of a stream: gRPC's flow control slows the sender.
                await asyncio.sleep(min(full.retry_after_seconds, 0.1))

    def _item(self, message: pb.VerifyItem, path: str) -> Item:
        if message.method not in _METHOD:
            raise InvalidInput(f"{path}method", f"unknown method number {message.method}")
        options = _options(message.options, path) if message.HasField("options") else _DEFAULTS
        item = Item(message.response, message.answer, _METHOD[message.method], options)
        self._verifier.check(item, path)
        return item

    async def _finish(
        self,
        name: int,
        hard: Hard,
        future: "Future[Outcome]",
        timeout: float,
        answers: "asyncio.Queue[pb.VerifyStreamResponse | Exception | None]",
    ) -> None:
        verdict = self._verifier.finish(hard, await asyncio.wrap_future(future), timeout)
        instruments.count([(verdict.status, instruments.WORKER)])
        answers.put_nowait(pb.VerifyStreamResponse(id=name, verdict=_to_proto(verdict)))


def _route(decided: Verdict | Hard) -> str:
    """What decides an item, by the metrics' names."""
    if isinstance(decided, Hard):
        return instruments.WORKER
    return instruments.CACHE if decided.cached else instruments.FAST


Entry = TypeVar("Entry")


async def _in_turns(entries: Iterable[Entry]) -> AsyncIterator[tuple[int, Entry]]:
    """`entries` with their indices, letting other calls have a turn now and then."""
    for index, entry in enumerate(entries):
        if index % _ITEMS_PER_TURN == _ITEMS_PER_TURN - 1:
            await asyncio.sleep(0)
        yield index, entry


def _options(message: pb.VerifyOptions, path: str) -> Options:
    if message.boxes not in _BOXES:
        raise InvalidInput(f"{path}options.boxes", f"unknown number {message.boxes}")
    return Options(
        boxes=_BOXES[message.boxes],
        strict_percent=message.strict_percent,
        strict_degrees=message.strict_degrees,
        relative_tolerance=_given(message, "relative_tolerance"),
        absolute_tolerance=_given(message, "absolute_tolerance"),
        verifier=message.verifier,
    )


def _given(message: pb.VerifyOptions, name: Literal["relative_tolerance", "absolute_tolerance"]) -> float:
    value: float = getattr(message if message.HasField(name) else _DEFAULTS, name)
    return value


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
        cached=decided.cached,
    )


def _sendable(text: str) -> str:
    """protobuf refuses lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
