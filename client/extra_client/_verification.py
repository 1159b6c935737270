"""VerificationService without the connection: requests and responses as dataclasses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, Generic, TypeVar

from extra_client import _server_info, _wire
from extra_client._server_info import ServerInfo
from extra_client._transport import VERIFICATION, Batch, Call
from extra_client.errors import InternalError, InvalidArgumentError
from extra_rl.groups import is_decided
from extra_rl.references import MAX_ITEM_CHARACTERS, InvalidReference, invalid_text, reference_texts
from extra_rl.v1 import verification_pb2 as pb
from extra_rl.vocabulary import BoxChoice, Method, References, UnparseableSide, VerdictStatus

Id = TypeVar("Id")

#: One answer that a response may be compared with; a number is sent as its exact text.
OneReference = str | int | float | Decimal | Fraction
#: A reference answer, several, or the tests of a program.
Reference = OneReference | Sequence[OneReference] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VerificationInfo:
    """Version, verifiers and limits of the service."""

    server: ServerInfo
    math_verify_version: str
    #: Longest execution of one item, in seconds.
    max_timeout_seconds: float
    #: Worker processes, and items that may wait for one.
    workers: int
    max_queue: int
    #: Names that VerifyOptions.verifier may have.
    custom_verifiers: tuple[str, ...]
    #: Whether Method.CODE is on.
    code_execution: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """Conventions of comparison; the defaults follow the graders of the common benchmarks."""

    boxes: BoxChoice = BoxChoice.LAST
    #: If only one side has a percent sign, 10% is 10 or 0.1 (False), or 0.1 alone (True).
    strict_percent: bool = False
    #: If only one side has a degree sign, 180 degrees are 180 or pi (False), or pi alone (True).
    strict_degrees: bool = False
    #: NUMERIC: the larger of both tolerances counts, the first as a fraction of the reference answer.
    #: None: 1e-4 and 0.
    relative_tolerance: float | None = None
    absolute_tolerance: float | None = None
    #: CUSTOM: name of an entry point in the server's group "extra_rl.verifiers".
    verifier: str = ""
    #: Of several reference answers, whether the response must match any or all.
    references: References | str = References.ANY


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about one response, with its reasons."""

    status: VerdictStatus
    #: Set when status is UNPARSEABLE.
    unparseable_side: UnparseableSide | None
    #: The final answer found in the response, as written; empty if none.
    extracted: str
    #: Both sides as compared.
    normalized_response: str
    normalized_answer: str
    #: Name of the rule that decided, for example "integer" or "math_verify".
    rule: str
    #: Explanation for a person.
    detail: str
    #: Seconds waiting, and seconds of execution; the time limit counts the latter alone.
    queue_seconds: float
    execution_seconds: float
    #: Whether it comes from the cache: the same question was asked before.
    cached: bool
    #: In [0, 1], from CODE and from custom verifiers that return one; CORRECT only if it is 1. Else None.
    score: float | None = None
    #: Parts of the score by name, from the same methods.
    components: Mapping[str, float] = field(default_factory=dict)

    @property
    def correct(self) -> bool | None:
        """True or False if decided; None if undecided (timeout, error, unreadable reference answer).

        A response without a readable answer is decided: False.
        """
        if not is_decided(self.status, self.unparseable_side):
            return None
        return self.status is VerdictStatus.CORRECT

    @property
    def final_answer(self) -> str | None:
        """The final answer as it was compared, for Metric.OUTCOME; None if the response has none."""
        return self.normalized_response or self.extracted or None


def verify(
    responses: Sequence[str],
    answers: Sequence[Reference],
    method: Method | str,
    options: VerifyOptions | None,
    timeout_seconds: float | None,
) -> Call[list[Verdict]]:
    """Return the call Verify."""
    if isinstance(responses, str) or isinstance(answers, str):
        raise InvalidArgumentError("responses and answers must be lists of texts, not one text")
    if len(responses) != len(answers):
        raise InvalidArgumentError(f"answers: {len(answers)} for {len(responses)} responses", field="answers")
    shared = _shared(method, options)
    items = [
        _item(response, answer, shared, f"[{index}]")
        for index, (response, answer) in enumerate(zip(responses, answers, strict=True))
    ]
    return _verify(pb.VerifyRequest(items=items, timeout_seconds=timeout_seconds))


def _verify(request: pb.VerifyRequest) -> Call[list[Verdict]]:
    def parse(response: pb.VerifyResponse) -> list[Verdict]:
        got, wanted = len(response.verdicts), len(request.items)
        if got != wanted:
            raise InternalError(f"the server sent {got} verdicts for {wanted} items")
        return [_verdict(verdict) for verdict in response.verdicts]

    return Call(VERIFICATION, "Verify", request, parse, deadline=600, batch=Batch("items", _verify))


class Stream(Generic[Id]):
    """One VerifyStream: numbers the items on the way out, and returns each verdict with its caller's id."""

    def __init__(
        self, method: Method | str, options: VerifyOptions | None, timeout_seconds: float | None
    ) -> None:
        self._shared = _shared(method, options)
        self._timeout_seconds = timeout_seconds
        self._sent = 0
        self._waiting: dict[int, Id] = {}

    def call(self, requests: Any) -> Call[tuple[Id, Verdict]]:
        """Return the call that sends `requests`, an iterator of what `request` makes."""
        return Call(VERIFICATION, "VerifyStream", requests, self._parse, deadline=3600)

    def request(self, item: tuple[Id, str, Reference]) -> pb.VerifyStreamRequest:
        """Return the next message of the stream."""
        name, response, answer = item
        number = self._sent
        message = pb.VerifyStreamRequest(
            id=number,
            item=_item(response, answer, self._shared, f" of item {name!r}"),
            timeout_seconds=self._timeout_seconds,
        )
        self._sent += 1
        self._waiting[number] = name
        return message

    def check(self, all_sent: bool) -> None:
        """Raise an InternalError if the stream ended before all items were sent and decided."""
        if self._waiting or not all_sent:
            raise InternalError(
                f"the server ended the stream early: {len(self._waiting)} of {self._sent} items undecided"
            )

    def _parse(self, response: pb.VerifyStreamResponse) -> tuple[Id, Verdict]:
        return self._waiting.pop(response.id), _verdict(response.verdict)


def get_info() -> Call[VerificationInfo]:
    """Return the call GetInfo."""
    return Call(VERIFICATION, "GetInfo", pb.VerificationServiceGetInfoRequest(), _info, deadline=30)


def _info(response: pb.VerificationServiceGetInfoResponse) -> VerificationInfo:
    return VerificationInfo(
        server=_server_info.parse(response.server),
        math_verify_version=response.math_verify_version,
        max_timeout_seconds=response.max_timeout_seconds,
        workers=response.workers,
        max_queue=response.max_queue,
        custom_verifiers=tuple(response.custom_verifiers),
        code_execution=response.code_execution,
    )


def _shared(method: Method | str, options: VerifyOptions | None) -> pb.VerifyItem:
    """Return the part that the items of a call have in common."""
    number = _wire.number(Method, method, "method")
    return pb.VerifyItem(method=number, options=_options(options))


def _options(options: VerifyOptions | None) -> pb.VerifyOptions | None:
    if options is None:
        return None
    return pb.VerifyOptions(
        boxes=_wire.number(BoxChoice, options.boxes, "options.boxes"),
        strict_percent=options.strict_percent,
        strict_degrees=options.strict_degrees,
        relative_tolerance=options.relative_tolerance,
        absolute_tolerance=options.absolute_tolerance,
        verifier=options.verifier,
        references=_wire.number(References, options.references, "options.references"),
    )


def _item(response: str, answer: Reference, shared: pb.VerifyItem, place: str) -> pb.VerifyItem:
    """Return the message of an item; one that cannot be sent keeps its place and says why."""
    try:
        first, *others = reference_texts(answer)
    except InvalidReference as error:
        item = _invalid(UnparseableSide.ANSWER, f"answers{place} {error}")
    else:
        item = _invalid_response(response, place) or pb.VerifyItem(
            response=response, answer=first, other_answers=others
        )
    item.MergeFrom(shared)
    return item


def _invalid_response(response: Any, place: str) -> pb.VerifyItem | None:
    if not isinstance(response, str):
        return _invalid(None, f"responses{place} is {str(response)[:100]}, not a text")
    if len(response) > MAX_ITEM_CHARACTERS:
        text = f"responses{place} has {len(response):,} characters, more than {MAX_ITEM_CHARACTERS:,}"
        return _invalid(None, text)
    if reason := invalid_text(response):
        return _invalid(UnparseableSide.RESPONSE, f"responses{place} {reason}")
    return None


def _invalid(side: UnparseableSide | None, detail: str) -> pb.VerifyItem:
    number: Any = _wire.number(UnparseableSide, side, "side")
    text = detail.encode("utf-8", "backslashreplace").decode()
    return pb.VerifyItem(invalid=pb.InvalidItem(unparseable_side=number, detail=text))


def _verdict(verdict: pb.Verdict) -> Verdict:
    return Verdict(
        status=_wire.member(VerdictStatus, verdict.status),
        unparseable_side=_wire.optional_member(UnparseableSide, verdict.unparseable_side),
        extracted=verdict.extracted,
        normalized_response=verdict.normalized_response,
        normalized_answer=verdict.normalized_answer,
        rule=verdict.rule,
        detail=verdict.detail,
        queue_seconds=verdict.queue_seconds,
        execution_seconds=verdict.execution_seconds,
        cached=verdict.cached,
        score=verdict.score if verdict.HasField("score") else None,
        components=dict(verdict.components),
    )
