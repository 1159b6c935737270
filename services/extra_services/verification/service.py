"""The verification servicer: it translates between the API and the domain and never blocks the event loop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from concurrent.futures import Future
from enum import StrEnum
from importlib.metadata import version
from typing import Any, Literal, TypeVar

from extra_rl import wire
from extra_rl.v1 import common_pb2, verification_pb2_grpc
from extra_rl.v1 import verification_pb2 as pb
from extra_rl.vocabulary import BoxChoice, Method, References, UnparseableSide, VerdictStatus
from extra_services.errors import InvalidInput, Overloaded, ServiceError
from extra_services.verification import custom, instruments
from extra_services.verification.code import CodeExecution
from extra_services.verification.pool import TaskOutcome
from extra_services.verification.quick import SHOWN
from extra_services.verification.verdict import ComparisonOptions, Verdict
from extra_services.verification.verifier import DecidedItem, PendingItem, VerificationCall, Verifier

_DEFAULTS = ComparisonOptions()

#: An item with its method and options, and the side that an invalid one lacks.
_CheckedItem = tuple[pb.VerifyItem, Method, ComparisonOptions, UnparseableSide | None]

#: Items of one stream that may have been read while their answers are not fetched yet.
_UNANSWERED = 8192
#: Items of a batch after which other calls get their turn.
_ITEMS_PER_TURN = 16


class VerificationServicer(verification_pb2_grpc.VerificationServiceServicer):
    """Serve `verifier`."""

    def __init__(
        self, verifier: Verifier, server: common_pb2.ServerInfo, workers: int, max_queue: int
    ) -> None:
        self._verifier = verifier
        self._server = server
        self._workers = workers
        self._max_queue = max_queue

    async def Verify(self, request: pb.VerifyRequest, context: Any) -> pb.VerifyResponse:
        """Answer a batch in its order.

        A method or an option that is not possible fails the whole call before any work starts. An item whose
        texts are not possible gets a verdict like all others.
        """
        timeout = self._verifier.timeout(_optional_timeout(request))
        items = [self._item(item, f"items[{n}].") async for n, item in _in_turns(request.items)]
        decided: list[DecidedItem] = []
        pending: list[PendingItem] = []
        async for _, item in _in_turns(items):
            decided.append(entry := self._decide(item))
            if entry.pending:
                pending += entry.pending
                # At once: under overload a refused call must cost little.
                self._verifier.require_room(len(pending))
        with self._verifier.call() as call:
            futures = call.submit(pending, timeout)
            outcomes = await asyncio.gather(*map(asyncio.wrap_future, futures))
        finished = (
            self._verifier.finish(part, outcome, timeout)
            for part, outcome in zip(pending, outcomes, strict=True)
        )
        answered = [entry.verdict(finished) async for _, entry in _in_turns(decided)]
        routes = (_route(*pair) for pair in zip(decided, answered, strict=True))
        instruments.count(zip((verdict.status for verdict in answered), routes, strict=True))
        return pb.VerifyResponse(verdicts=[_to_proto(verdict) async for _, verdict in _in_turns(answered)])

    async def VerifyStream(
        self, requests: AsyncIterator[pb.VerifyStreamRequest], context: Any
    ) -> AsyncGenerator[pb.VerifyStreamResponse]:
        """Answer each item as soon as it is decided.

        Reading stops while the workers' queue is full or too many answers have not been fetched.
        """
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
            code_execution=self._verifier.code_execution is not CodeExecution.OFF,
        )

    async def _read(
        self,
        requests: AsyncIterator[pb.VerifyStreamRequest],
        call: VerificationCall,
        answers: "asyncio.Queue[pb.VerifyStreamResponse | Exception | None]",
        room: asyncio.Semaphore,
    ) -> None:
        try:
            async with asyncio.TaskGroup() as running:
                async for request in requests:
                    await room.acquire()
                    decided = await self._start(request, call)
                    finishing = self._finish(request.id, *decided, answers)
                    if decided[1]:
                        running.create_task(finishing)
                    else:
                        await finishing
            answers.put_nowait(None)
        except Exception as error:
            answers.put_nowait(error)

    async def _start(
        self, request: pb.VerifyStreamRequest, call: VerificationCall
    ) -> "tuple[DecidedItem, list[Future[TaskOutcome]], float]":
        try:
            timeout = self._verifier.timeout(_optional_timeout(request))
            item = self._item(request.item, "item.")
        except ServiceError as error:
            field = f"{error.field}: " if isinstance(error, InvalidInput) else ""
            refused = Verdict(VerdictStatus.ERROR, "invalid", detail=f"{field}{error.message}")
            return DecidedItem([refused]), [], 0.0
        decided = self._decide(item)
        while True:
            try:
                return decided, call.submit(decided.pending, timeout), timeout
            except Overloaded as full:
                # A stream is not refused: while nothing is read, gRPC's flow control slows the sender.
                await asyncio.sleep(min(full.retry_after_seconds, 0.1))

    def _item(self, message: pb.VerifyItem, path: str) -> _CheckedItem:
        method = _requested(Method, message.method, f"{path}method")
        options = _options(message.options, path) if message.HasField("options") else _DEFAULTS
        self._verifier.check(method, options, path)
        side = _member(UnparseableSide, message.invalid.unparseable_side, f"{path}invalid.unparseable_side")
        return message, method, options, side

    def _decide(self, item: _CheckedItem) -> DecidedItem:
        message, method, options, side = item
        if message.HasField("invalid"):
            status = VerdictStatus.UNPARSEABLE if side else VerdictStatus.ERROR
            rule = "reference" if side is UnparseableSide.ANSWER else "invalid"
            return DecidedItem([Verdict(status, rule, side, detail=message.invalid.detail[:SHOWN])])
        answers = [message.answer, *message.other_answers]
        return self._verifier.decide(message.response, answers, method, options)

    async def _finish(
        self,
        name: int,
        decided: DecidedItem,
        futures: "list[Future[TaskOutcome]]",
        timeout: float,
        answers: "asyncio.Queue[pb.VerifyStreamResponse | Exception | None]",
    ) -> None:
        outcomes = [await asyncio.wrap_future(future) for future in futures]
        finished = (
            self._verifier.finish(part, outcome, timeout)
            for part, outcome in zip(decided.pending, outcomes, strict=True)
        )
        verdict = decided.verdict(finished)
        instruments.count([(verdict.status, _route(decided, verdict))])
        answers.put_nowait(pb.VerifyStreamResponse(id=name, verdict=_to_proto(verdict)))


def _route(decided: DecidedItem, verdict: Verdict) -> str:
    """Return the metrics' name of the part that decides an item."""
    if decided.pending:
        return instruments.WORKER
    return instruments.CACHE if verdict.cached else instruments.FAST


Entry = TypeVar("Entry")


async def _in_turns(entries: Iterable[Entry]) -> AsyncIterator[tuple[int, Entry]]:
    """Yield `entries` with their indices, and let other calls run now and then."""
    for index, entry in enumerate(entries):
        if index % _ITEMS_PER_TURN == _ITEMS_PER_TURN - 1:
            await asyncio.sleep(0)
        yield index, entry


Member = TypeVar("Member", bound=StrEnum)


def _requested(kind: type[Member], value: int, field: str) -> Member:
    try:
        return wire.requested(kind, value)
    except ValueError as error:
        raise InvalidInput(field, str(error)) from error


def _member(kind: type[Member], value: int, field: str) -> Member | None:
    try:
        return wire.member(kind, value)
    except ValueError as error:
        raise InvalidInput(field, str(error)) from error


def _options(message: pb.VerifyOptions, path: str) -> ComparisonOptions:
    return ComparisonOptions(
        boxes=_requested(BoxChoice, message.boxes, f"{path}options.boxes"),
        strict_percent=message.strict_percent,
        strict_degrees=message.strict_degrees,
        relative_tolerance=_given(message, "relative_tolerance"),
        absolute_tolerance=_given(message, "absolute_tolerance"),
        verifier=message.verifier,
        references=_requested(References, message.references, f"{path}options.references"),
    )


def _given(message: pb.VerifyOptions, name: Literal["relative_tolerance", "absolute_tolerance"]) -> float:
    value: float = getattr(message if message.HasField(name) else _DEFAULTS, name)
    return value


def _optional_timeout(request: pb.VerifyRequest | pb.VerifyStreamRequest) -> float | None:
    return request.timeout_seconds if request.HasField("timeout_seconds") else None


def _to_proto(decided: Verdict) -> pb.Verdict:
    # Enum numbers are plain ints to mypy.
    enums: dict[str, Any] = {
        "status": wire.number(decided.status),
        "unparseable_side": wire.number(decided.side) if decided.side else 0,
    }
    return pb.Verdict(
        **enums,
        extracted=_sendable(decided.extracted),
        normalized_response=_sendable(decided.normalized_response),
        normalized_answer=_sendable(decided.normalized_answer),
        rule=decided.rule,
        detail=_sendable(decided.detail),
        queue_seconds=decided.queue_seconds,
        execution_seconds=decided.execution_seconds,
        cached=decided.cached,
        score=decided.score,
        components=decided.components,
    )


def _sendable(text: str) -> str:
    """Return `text` without lone surrogates, which protobuf refuses."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
