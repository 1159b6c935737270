"""The services inside trainers that people already run: trl, verl and openrlhf, one module each.

What they share is here, and is all that a trainer without a module of its own needs: `prompt_id` names a
prompt by its content, so that it is the same in every epoch, worker and run; `novelty_bonus` scores rollouts
in whatever order a batch holds them. `Absence` is what happens while a service is away: the step fails (the
default), or goes on without what the service would have added, which is said once in the log and in the
metrics of every step. A request that is wrong fails in either case. Frameworks are imported late or not at
all.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from extra_client import (
    CancelledError,
    DeadlineExceededError,
    ExtraError,
    Group,
    InternalError,
    Metric,
    NamespaceSettings,
    NoveltyClient,
    OverloadedError,
    Scale,
    UnavailableError,
    aio,
)

__all__ = ["Absence", "NoveltyScoring", "OnFailure", "groups_of", "novelty_bonus", "prompt_id", "write_key"]

#: What says that a service cannot answer now; all other errors say that the request is wrong.
AWAY = (CancelledError, DeadlineExceededError, InternalError, OverloadedError, UnavailableError)

_log = logging.getLogger("extra_client")


class OnFailure(StrEnum):
    """What a training step does when a service cannot answer."""

    #: Fails, with the service's error.
    FAIL = "fail"
    #: Goes on without what the service would have added; logged once, and counted in the metrics.
    CONTINUE = "continue"


@dataclass
class Absence:
    """Keeps to `on_failure`, and says once per absence what is missing."""

    service: str
    on_failure: OnFailure | str
    #: What the step goes on without.
    missing: str
    _away: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.on_failure = OnFailure(self.on_failure)

    def excuse(self, failure: ExtraError) -> None:
        """Raises `failure`, unless the service is away and the step is to go on without it."""
        if self.on_failure is OnFailure.FAIL or not isinstance(failure, AWAY):
            raise failure
        if not self._away:
            self._away = True
            _log.warning("training goes on without %s until the service is back: %s", self.missing, failure)

    def over(self) -> None:
        """The service has answered."""
        if self._away:
            self._away = False
            _log.warning("the %s service is back", self.service)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoveltyScoring:
    """Where and how novelty is scored: what every integration asks for. Plain data, so it can be pickled."""

    #: host:port of a novelty server, or "embedded" (one process only: it is not shared).
    target: str
    #: Separates runs; the ranks and workers of one run use the same.
    namespace: str
    #: Weight of the bonus.
    alpha: float = 0.1
    metric: Metric | str = Metric.EMBEDDING
    scale: Scale | str = Scale.RAW
    on_failure: OnFailure | str = OnFailure.FAIL
    #: Of the namespace, if it does not exist yet; None: the server's defaults, or what it has.
    settings: NamespaceSettings | None = None
    #: Seconds a call may take.
    deadline: float = 120.0

    def client(self) -> NoveltyClient:
        """A client to score with."""
        return NoveltyClient(self.target, self.namespace, self.settings, deadline=self.deadline)

    def aio_client(self) -> aio.NoveltyClient:
        """An asyncio client to score with; it belongs to one event loop."""
        return aio.NoveltyClient(self.target, self.namespace, self.settings, deadline=self.deadline)

    def collecting(self) -> dict[str, Any]:
        """How a sample is scored with its group: arguments of `collect_sample`."""
        return {
            "metric": self.metric,
            "scale": self.scale,
            "wait_seconds": self.deadline,
            # The server answers when the wait is over; scoring then takes its time too.
            "deadline": self.deadline + 120,
        }

    def absence(self) -> Absence:
        """What to do while the service is away."""
        return Absence("novelty", self.on_failure, "the novelty bonus")


def prompt_id(prompt: Any) -> str:
    """The identity of a prompt, 32 hexadecimal digits: a hash of its content.

    `prompt` is a text, or messages as mappings, in any sequence (numpy arrays too). The same content has the
    same identity in every epoch, process and run; what is not content (order of keys, kind of sequence) does
    not matter.
    """
    text = (
        prompt if isinstance(prompt, str) else json.dumps(_plain(prompt), sort_keys=True, ensure_ascii=False)
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def groups_of(prompt_ids: Sequence[str]) -> list[list[int]]:
    """The positions of each prompt's rollouts, in order of the prompts' first appearance."""
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(prompt_ids):
        positions.setdefault(name, []).append(position)
    return list(positions.values())


def write_key(*parts: Any) -> str:
    """An idempotency key that follows from the content of a write: repeated after a crash, it counts once."""
    return hashlib.sha256(json.dumps(_plain(parts)).encode("utf-8", "surrogatepass")).hexdigest()


def novelty_bonus(
    prompt_ids: Sequence[str],
    texts: Sequence[str],
    correct: Sequence[bool | None] | NDArray[np.bool_],
    *,
    client: NoveltyClient,
    token_ids: Sequence[ArrayLike] | None = None,
    metric: Metric | str = Metric.EMBEDDING,
    scale: Scale | str = Scale.RAW,
    idempotency_key: str | None = None,
    deadline: float | None = None,
) -> NDArray[np.float32]:
    """Novelty, float32 [n], of n rollouts of one or many prompts, in their order; remembers the correct ones.

    Rollouts with the same prompt id are a group and compared with each other: give whole groups. It is 0
    where `correct` is not True, and until the prompt has `min_history` solutions. Metric.NGRAM_COUNT needs
    `token_ids`. Multiply it by your alpha. Any failure, also of a single group, raises an ExtraError; where
    there is none to report, no 0 stands for one.
    """
    if not len(prompt_ids) == len(texts) == len(correct):
        lengths = f"{len(prompt_ids)} prompt_ids, {len(texts)} texts, {len(correct)} correct"
        raise ValueError(f"{lengths}: must be as many of each")
    places = groups_of(prompt_ids)
    groups = as_groups(places, prompt_ids, texts, correct, token_ids)
    scores = client.score_groups(
        groups, metric=metric, scale=scale, idempotency_key=idempotency_key, deadline=deadline
    )
    return in_order(places, scores, len(texts))


def as_groups(
    places: Iterable[Sequence[int]],
    prompt_ids: Sequence[str],
    texts: Sequence[str],
    correct: Sequence[bool | None] | NDArray[np.bool_],
    token_ids: Sequence[ArrayLike] | None = None,
) -> list[Group]:
    """The groups whose rollouts are at `places`."""
    return [
        Group(
            prompt_id=prompt_ids[group[0]],
            texts=[texts[place] for place in group],
            correct=[correct[place] for place in group],
            token_ids=None if token_ids is None else [token_ids[place] for place in group],
        )
        for group in places
    ]


def in_order(places: Iterable[Sequence[int]], scores: Iterable[Any], count: int) -> NDArray[np.float32]:
    """float32 [count]: the scores of groups, put back to where their rollouts are; raises a group's error."""
    novelty = np.zeros(count, np.float32)
    for group, scored in zip(places, scores, strict=True):
        if scored.error is not None:
            raise scored.error
        novelty[group] = scored.novelty
    return novelty


def _plain(value: Any) -> Any:
    """`value` as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Iterable):
        return [_plain(each) for each in value]
    return repr(value)
