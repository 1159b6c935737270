"""Novelty as a reward over HTTP: a route over ScoreGroups that takes rewards that are known already.

It is the second half of OpenRLHF's contract. The verification server answers query, prompts and labels with
rewards; these four, and what else that answer has, are the request here, and the answer has the same form,
with alpha x novelty in the rewards of correct rollouts. The two halves are two calls because they are two
servers, neither of which calls the other. Rollouts of one prompt are one group, so a caller sends whole
groups. What is refused is a failure of the whole call, never a 0.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from extra_rl import wire
from extra_rl.references import InvalidReference, answer_of, reference_texts, shown_answer
from extra_rl.v1 import novelty_pb2 as pb
from extra_rl.vocabulary import Metric, Scale
from extra_services.errors import FailedPrecondition, InvalidInput
from extra_services.gateway.contracts import check_parameters, listed, member, responses, sendable, value

SCORE_GROUPS = "/extra_rl.v1.NoveltyService/ScoreGroups"
_PARAMETERS = ("namespace", "alpha", "metric", "scale", "key")
#: Measures that read texts: the others need what this contract does not have.
_METRICS = (Metric.DERIVATION, Metric.EMBEDDING, Metric.MEAN_COSINE, Metric.CLUSTER_SIZE)


async def novelty(body: Any, query: Mapping[str, str], call: Any, headers: Mapping[str, str]) -> Any:
    """Answer query, prompts, labels and rewards with the rewards that include novelty.

    Of one query rewards may be a number, and is one in the answer.
    """
    check_parameters(query, _PARAMETERS)
    queries, prompts, labels = (listed(body, name) for name in ("query", "prompts", "labels"))
    rewards = _numbers(value(body, "rewards"), "rewards")
    logs = body.get("extra_logs") or {}
    if not isinstance(logs, dict):
        raise InvalidInput("extra_logs", f"must be a JSON object, not {type(logs).__name__}")
    undecided = _numbers(logs["undecided"], "undecided") if "undecided" in logs else [0.0] * len(rewards)
    lengths = {
        "query": len(queries),
        "prompts": len(prompts),
        "labels": len(labels),
        "rewards": len(rewards),
        "undecided": len(undecided),
    }
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise InvalidInput("request", f"{told}: must be as many of each")
    correct = [_correct(*each, index) for index, each in enumerate(zip(rewards, undecided, strict=True))]
    alpha = _alpha(query)
    texts = responses(queries, prompts)
    places = _places(prompts)
    metric = member(Metric, query, "metric", Metric.DERIVATION)
    if metric not in _METRICS:
        raise InvalidInput("metric", f"{metric} needs more than texts: use {', '.join(_METRICS)}")
    number: Any = wire.number
    request = pb.ScoreGroupsRequest(
        namespace=query.get("namespace", ""),
        metric=number(metric),
        scale=number(member(Scale, query, "scale", Scale.RAW)),
        idempotency_key=query.get("key", ""),
        groups=[
            pb.Group(
                prompt_id=_identity(prompts[group[0]]),
                texts=[sendable(texts[place]) for place in group],
                correct=[correct[place] for place in group],
                problem=sendable(prompts[group[0]]),
                reference_answer=_reference(labels[group[0]]),
            )
            for group in places
        ],
    )
    answer = await call(SCORE_GROUPS, request, headers)
    found = _scores(answer, places, len(texts))
    total: Any = [reward + alpha * each for reward, each in zip(rewards, found, strict=True)]
    single = not isinstance(body["rewards"], list)
    return {
        "rewards": total[0] if single else total,
        "scores": rewards[0] if single else rewards,
        "extra_logs": logs | {"novelty": found[0] if single else found},
    }


#: Paths of the HTTP port.
POSTS = {"/rewards/novelty": novelty}


def _places(prompts: Sequence[str]) -> list[list[int]]:
    """Return the positions of each prompt's rollouts, in order of the prompts' first appearance."""
    places: dict[str, list[int]] = {}
    for position, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(position)
    return list(places.values())


def _scores(answer: pb.ScoreGroupsResponse, places: list[list[int]], count: int) -> list[float]:
    """Return the novelty of each rollout in the order of the request.

    Raises:
        InvalidInput: A group was refused for what was sent.
        FailedPrecondition: It was refused for another reason.
    """
    found = [0.0] * count
    for group, scores in zip(places, answer.groups, strict=True):
        if scores.HasField("error"):
            told = scores.error
            if told.field:
                raise InvalidInput(f"prompts[{group[0]}]", f"{told.field}: {told.message}")
            raise FailedPrecondition(f"prompts[{group[0]}]: {told.message}")
        for place, each in zip(group, wire.floats(scores.novelty).tolist(), strict=True):
            found[place] = each
    return found


def _correct(reward: float, undecided: float, index: int) -> bool:
    if undecided:
        return False
    if reward not in (0, 1):
        text = (
            f"{reward:g} does not say whether the response is correct: send the rewards of "
            "/rewards/openrlhf, 1 or 0, with its extra_logs if some are undecided"
        )
        raise InvalidInput(f"rewards[{index}]", text)
    return bool(reward)


def _numbers(given: Any, name: str) -> list[float]:
    values = given if isinstance(given, list) else [given]
    for index, each in enumerate(values):
        if not isinstance(each, int | float) or not math.isfinite(each):
            raise InvalidInput(f"{name}[{index}]", f"must be a number, not {each!r}")
    return [float(each) for each in values]


def _alpha(query: Mapping[str, str]) -> float:
    try:
        alpha = float(query.get("alpha", "0.1"))
    except ValueError:
        alpha = math.nan
    if not math.isfinite(alpha):
        raise InvalidInput("alpha", f"must be a number, not {query['alpha']!r}")
    return alpha


def _identity(prompt: str) -> str:
    """Return the id that the plug-ins give to a prompt that is a text, so that both share its memory."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _reference(label: Any) -> str:
    try:
        return shown_answer(answer_of(reference_texts(label)))
    except InvalidReference:
        return ""
