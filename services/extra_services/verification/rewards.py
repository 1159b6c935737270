"""The reward contracts of trainers over HTTP, as routes over Verify: OpenRLHF's, slime's and NeMo-Gym's.

A reward is 1 for a correct response and 0 for a wrong one. Everything else is a failure with a status of 400
or more, which all three take for one: a missing label, a request of another form, an undecided verdict unless
the URL says what it is worth (`?undecided=0`), an overloaded server. Further parameters of the URL: `method`
and `verifier`, as in Verify.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from extra_rl import wire
from extra_rl.groups import is_decided
from extra_rl.references import InvalidReference, reference_texts
from extra_rl.v1 import verification_pb2 as pb
from extra_rl.vocabulary import Method, UnparseableSide, VerdictStatus
from extra_services.errors import FailedPrecondition, InvalidInput, ServiceError
from extra_services.gateway.contracts import (
    check_parameters,
    listed,
    member,
    responses,
    sendable,
    text,
    value,
)

VERIFY = "/extra_rl.v1.VerificationService/Verify"


class _Reward(NamedTuple):
    value: float
    undecided: bool
    #: The final answer as it was compared; "" if there is none.
    answer: str


async def openrlhf(body: Any, query: Mapping[str, str], call: Any, headers: Mapping[str, str]) -> Any:
    """Answer OpenRLHF's --reward.remote_url: query, prompts and labels, a list each.

    Of one query, which is what OpenRLHF sends, rewards and scores are numbers, of several they are lists.
    """
    queries, prompts, labels = (listed(body, name) for name in ("query", "prompts", "labels"))
    if not len(queries) == len(prompts) == len(labels):
        lengths = f"{len(queries)} query, {len(prompts)} prompts, {len(labels)} labels"
        raise InvalidInput("request", f"{lengths}: must be as many of each")
    names = [f"labels[{index}]" for index in range(len(labels))]
    found = await _rewards(responses(queries, prompts), labels, names, query, call, headers)
    values: Any = [each.value for each in found]
    undecided: Any = [float(each.undecided) for each in found]
    if len(found) == 1:
        (values,), (undecided,) = values, undecided
    return {"rewards": values, "scores": values, "extra_logs": {"undecided": undecided}}


async def slime(body: Any, query: Mapping[str, str], call: Any, headers: Mapping[str, str]) -> Any:
    """Answer slime's --rm-url: prompt, response and label of a sample, whose reward is the whole answer."""
    response = text(value(body, "response"), "response")
    (found,) = await _rewards([response], [value(body, "label")], ["label"], query, call, headers)
    return found.value


async def nemo_gym(body: Any, query: Mapping[str, str], call: Any, headers: Mapping[str, str]) -> Any:
    """Answer NeMo-Gym's /verify: a response of OpenAI's Responses API, and expected_answer.

    The answer is the request with reward and extracted_answer, as a resources server of Gym returns it.
    """
    expected = value(body, "expected_answer")
    response = _output_text(value(body, "response"))
    (found,) = await _rewards([response], [expected], ["expected_answer"], query, call, headers)
    return body | {"reward": found.value, "extracted_answer": found.answer or None}


async def seed_session(body: Any, query: Mapping[str, str], call: Any, headers: Mapping[str, str]) -> Any:
    """Answer NeMo-Gym's /seed_session, which agents call before each rollout: nothing is to be seeded."""
    return {}


#: Paths of the HTTP port.
POSTS = {
    "/rewards/openrlhf": openrlhf,
    "/rewards/slime": slime,
    "/verify": nemo_gym,
    "/seed_session": seed_session,
}


async def _rewards(
    replies: Sequence[str],
    labels: Sequence[Any],
    names: Sequence[str],
    query: Mapping[str, str],
    call: Any,
    headers: Mapping[str, str],
) -> list[_Reward]:
    shared = _shared(query)
    undecided = _undecided(query)
    items = []
    for reply, label, name in zip(replies, labels, names, strict=True):
        try:
            first, *others = reference_texts(label)
        except InvalidReference as error:
            raise InvalidInput(name, str(error)) from error
        item = pb.VerifyItem(response=sendable(reply), answer=first, other_answers=others)
        item.MergeFrom(shared)
        items.append(item)
    answer = await call(VERIFY, pb.VerifyRequest(items=items), headers)
    return [_reward(verdict, undecided, name) for verdict, name in zip(answer.verdicts, names, strict=True)]


def _reward(verdict: pb.Verdict, undecided: float | None, name: str) -> _Reward:
    status = wire.member(VerdictStatus, verdict.status)
    assert status is not None
    answer = verdict.normalized_response or verdict.extracted
    if is_decided(status, wire.member(UnparseableSide, verdict.unparseable_side)):
        return _Reward(float(status is VerdictStatus.CORRECT), False, answer)
    if undecided is None:
        raise FailedPrecondition(
            f"the response to {name} could not be verified ({verdict.detail or status}): correct the data, "
            "or say in the URL what such a response is worth, for example ?undecided=0"
        )
    return _Reward(undecided, True, answer)


def _shared(query: Mapping[str, str]) -> pb.VerifyItem:
    check_parameters(query, ("method", "verifier", "undecided"))
    method: Any = wire.number(member(Method, query, "method", Method.MATH))
    return pb.VerifyItem(method=method, options=pb.VerifyOptions(verifier=query.get("verifier", "")))


def _undecided(query: Mapping[str, str]) -> float | None:
    if "undecided" not in query:
        return None
    try:
        worth = float(query["undecided"])
    except ValueError:
        worth = math.nan
    if not math.isfinite(worth):  # JSON has no infinity
        raise InvalidInput("undecided", f"must be a finite number, not {query['undecided']!r}")
    return worth


def _output_text(response: Any) -> str:
    """Return the text of a response of the Responses API: of its messages, in a row."""
    try:
        messages = [each for each in response["output"] if each["type"] == "message"]
        parts = [part for message in messages for part in message["content"] if part["type"] == "output_text"]
        return "".join(text(part["text"], "response.output") for part in parts)
    except ServiceError:
        raise
    except KeyError as error:
        raise InvalidInput("response", f"is no response of the Responses API: {error} is missing") from error
    except TypeError as error:
        raise InvalidInput("response", f"is no response of the Responses API: {error}") from error
