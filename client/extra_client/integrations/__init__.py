"""The services inside trainers that exist already, one module each; `contract` has the tests that all pass.

The shared parts are here, and a trainer without a module of its own needs no more: `prompt_id` identifies a
prompt by its content, so that it is the same in every epoch, worker and run; `novelty_bonus` scores rollouts
in any order of the batch, and `BonusScorer` does so with the settings of a run. There are two bonuses.
alpha x novelty is for correct rollouts. beta x outcome novelty is for the wrong rollouts of groups without a
correct one, from which GRPO learns nothing: beta (b_i - mean b), b_i = 1/sqrt(times that the final answer was
given to the prompt) (arXiv 2509.06941). A weight of 0 makes no call and changes nothing. `problem_statement`
is what the metric `derivation` reads of a prompt: its text and the reference answer, whose numbers are no
steps of a solution. `Outage` says what happens while a service is unavailable: the step fails (the default),
or goes on without the service's contribution, which is logged once and counted in the metrics of every step.
A request that is wrong fails in either case. Frameworks are imported late or not at all.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from extra_client import (
    CancelledError,
    DeadlineExceededError,
    ExtraError,
    Group,
    InternalError,
    InvalidArgumentError,
    Method,
    Metric,
    NamespaceSettings,
    NoveltyClient,
    OutcomeScope,
    OverloadedError,
    Scale,
    UnavailableError,
    Verdict,
    _wire,
    aio,
)
from extra_rl.groups import GroupOutcome
from extra_rl.references import InvalidReference, answer_of, reference_texts, shown_answer
from extra_rl.wire import on_cpu

__all__ = [
    "FINAL_ANSWER",
    "BonusScorer",
    "NoveltyScoring",
    "OnFailure",
    "Outage",
    "final_answers",
    "groups_of",
    "novelty_bonus",
    "problem_statement",
    "prompt_id",
    "write_key",
]

#: Errors of a service that cannot answer now; all others mean that the request is wrong.
UNAVAILABLE = (CancelledError, DeadlineExceededError, InternalError, OverloadedError, UnavailableError)

#: Where a plug-in's verification leaves the final answer of a rollout, as it was compared.
FINAL_ANSWER = "final_answer"

_log = logging.getLogger("extra_client")


class OnFailure(StrEnum):
    """Reaction of a training step to a service that cannot answer."""

    #: Fails, with the service's error.
    FAIL = "fail"
    #: Goes on without what the service would have added; logged once, and counted in the metrics.
    CONTINUE = "continue"


@dataclass
class Outage:
    """Follows `on_failure`, and logs once per outage what is missing."""

    service: str
    on_failure: OnFailure | str
    #: The service's contribution, without which the step goes on.
    missing: str
    _unavailable: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.on_failure = OnFailure(self.on_failure)

    def tolerate(self, failure: ExtraError) -> None:
        """Raise `failure`, unless the service is unavailable and the step is to go on without it."""
        if self.on_failure is OnFailure.FAIL or not isinstance(failure, UNAVAILABLE):
            raise failure
        if not self._unavailable:
            self._unavailable = True
            _log.warning("training goes on without %s until the service is back: %s", self.missing, failure)

    def ended(self) -> None:
        """Note that the service has answered."""
        if self._unavailable:
            self._unavailable = False
            _log.warning("the %s service is back", self.service)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoveltyScoring:
    """Settings of the scoring of novelty, for every integration. Plain data, so it can be pickled."""

    #: host:port of a novelty server, or "embedded" (for one process only: it is not shared).
    target: str
    #: Separates runs; the ranks and workers of one run use the same.
    namespace: str
    #: Weight of the novelty of correct rollouts; 0: it is neither scored nor remembered.
    alpha: float = 0.1
    #: Weight of the outcome novelty of wrong rollouts; 0: their final answers are neither scored nor counted.
    beta: float = 0.0
    #: `derivation` is for mathematics; for other texts take `embedding`.
    metric: Metric | str = Metric.DERIVATION
    scale: Scale | str = Scale.RAW
    on_failure: OnFailure | str = OnFailure.FAIL
    #: Of the namespace if it does not exist yet; None: the server's defaults, or the existing settings.
    settings: NamespaceSettings | None = None
    #: Seconds a call may take.
    deadline: float = 120.0

    @property
    def active(self) -> bool:
        """False if both weights are 0."""
        return self.alpha != 0 or self.beta != 0

    def client(self) -> NoveltyClient:
        """Return a client to score with."""
        return NoveltyClient(self.target, self.namespace, self.settings, deadline=self.deadline)

    def aio_client(self) -> aio.NoveltyClient:
        """Return an asyncio client to score with; it belongs to one event loop."""
        return aio.NoveltyClient(self.target, self.namespace, self.settings, deadline=self.deadline)

    def collect_arguments(self) -> dict[str, Any]:
        """Return the arguments of `collect_sample` by which a sample is scored with its group."""
        return {
            "metric": self.metric,
            "scale": self.scale,
            "wait_seconds": self.deadline,
            # The server answers when the wait is over, and then has to score.
            "deadline": self.deadline + 120,
        }

    def collect_outcome_arguments(self) -> dict[str, Any]:
        """Return the arguments of `collect_sample` by which a wrong sample's answer is scored."""
        scope = {"metric": Metric.OUTCOME, "scale": Scale.RAW, "outcome_scope": OutcomeScope.ALL_WRONG}
        return self.collect_arguments() | scope

    def step_key(self, step: Any, *content: Any) -> str | None:
        """Return a key by which a step, repeated after a crash with the same content, counts once.

        Args:
            step: What tells this step from others; None: nothing does, and there is no key.
            content: The rollouts.
        """
        return None if step is None else write_key(str(self.metric), str(self.scale), step, *content)

    def outage(self) -> Outage:
        """Return the handling of outages of the novelty service."""
        return Outage("novelty", self.on_failure, "the novelty bonus")


class BonusScorer:
    """`novelty_bonus` with the settings of a run: its weights, its client, its reaction to an outage."""

    def __init__(self, scoring: NoveltyScoring) -> None:
        self._scoring = scoring
        self._outage = scoring.outage()

    @cached_property
    def _client(self) -> NoveltyClient:
        # Made where it is used: trainers import the file that names this in several processes.
        return self._scoring.client()

    def bonus(
        self,
        prompt_ids: Sequence[str],
        texts: Sequence[str | None],
        correct: Sequence[bool | None],
        answers: Sequence[str | None] | None = None,
        *,
        step: Any = None,
        **given: Any,
    ) -> NDArray[np.float32] | None:
        """Score rollouts.

        Args:
            prompt_ids: As in `novelty_bonus`, and so are texts, correct and answers.
            texts: The responses.
            correct: Whether each is correct.
            answers: The final answers, for beta.
            step: What tells this step from others, the same when it is repeated after a crash: then it
                counts once. None: nothing does.
            **given: group_ids, token_ids, problems and reference_answers of `novelty_bonus`.

        Returns:
            float32 [n], or None during a tolerated outage.

        Raises:
            ExtraError: As `novelty_bonus`, unless the outage is tolerated.
        """
        scoring = self._scoring
        key = scoring.step_key(step, prompt_ids, texts, correct, answers, given.get("group_ids"))
        try:
            bonus = novelty_bonus(
                prompt_ids,
                texts,
                correct,
                answers,
                client=self._client,
                alpha=scoring.alpha,
                beta=scoring.beta,
                metric=scoring.metric,
                scale=scoring.scale,
                idempotency_key=key,
                **given,
            )
        except ExtraError as failure:
            self._outage.tolerate(failure)
            return None
        self._outage.ended()
        return bonus


def prompt_id(prompt: Any) -> str:
    """Return the identity of a prompt: a hash of its content.

    The same content has the same identity in every epoch, process and run. The order of keys and the kind of
    sequence do not matter. Images of Pillow are known by their size and pixels.

    Args:
        prompt: A text, or messages as mappings, in any sequence (numpy arrays and torch tensors too).

    Returns:
        32 hexadecimal digits.

    Raises:
        InvalidArgumentError: It holds an object without content to identify it by.
    """
    text = (
        prompt if isinstance(prompt, str) else json.dumps(_plain(prompt), sort_keys=True, ensure_ascii=False)
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def problem_statement(metric: Metric | str, prompt: Any, reference: Any = None) -> dict[str, Any]:
    """Return what a metric reads of a prompt, as arguments of `Group` and `collect_sample`.

    Args:
        metric: How novelty is measured.
        prompt: A text, or messages, of which the last one of the user is the problem.
        reference: The reference answer, or several, as a data set holds them; None: unknown.

    Returns:
        For Metric.DERIVATION `problem` and `reference_answer`, the latter "" if it is missing or unreadable;
        nothing for other metrics.
    """
    if Metric(metric) is not Metric.DERIVATION:
        return {}
    return {"problem": _problem_text(prompt), "reference_answer": _reference_text(reference)}


def content_text(message: Mapping[str, Any]) -> str:
    """Return the text of a chat message, whose content is a text or parts of several kinds."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or "" for part in content)


def groups_of(names: Sequence[Hashable]) -> list[list[int]]:
    """Return the positions of each name's rollouts, in order of the names' first appearance."""
    positions: dict[Hashable, list[int]] = {}
    for position, name in enumerate(names):
        positions.setdefault(name, []).append(position)
    return list(positions.values())


def final_answers(
    recorded: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
    answers: Callable[[str], str | None] | None,
    *,
    place: str,
    writer: str,
) -> list[str | None]:
    """Return the final answers of responses, for beta: those of a function, else the recorded ones.

    Args:
        recorded: What each rollout carries; verification has written FINAL_ANSWER into it.
        texts: The responses.
        answers: Returns the final answer of a response; None: the recorded ones.
        place: What carries `recorded`, for the error: "samples have no metadata".
        writer: What writes it there, for the error.

    Raises:
        ValueError: There is no function, and answers are missing.
    """
    if answers is not None:
        return [answers(text) for text in texts]
    missing = sum(FINAL_ANSWER not in each for each in recorded)
    if missing:
        raise ValueError(
            f"beta needs the final answers: {missing} of {len(recorded)} {place}[{FINAL_ANSWER!r}], which "
            f"{writer} writes; or give answers, a function of the response"
        )
    return [each[FINAL_ANSWER] for each in recorded]


def write_key(*parts: Any) -> str:
    """Return an idempotency key made of the content of a write: repeated after a crash, it counts once."""
    return hashlib.sha256(json.dumps(_plain(parts)).encode("utf-8", "surrogatepass")).hexdigest()


def novelty_bonus(
    prompt_ids: Sequence[str],
    texts: Sequence[str | None],
    correct: Sequence[bool | None] | NDArray[np.bool_],
    answers: Sequence[str | None] | None = None,
    *,
    client: NoveltyClient,
    alpha: float = 0.1,
    beta: float = 0.0,
    group_ids: Sequence[Hashable] | None = None,
    token_ids: Sequence[ArrayLike] | None = None,
    problems: Sequence[Any] | None = None,
    reference_answers: Sequence[Any] | None = None,
    metric: Metric | str = Metric.DERIVATION,
    scale: Scale | str = Scale.RAW,
    idempotency_key: str | None = None,
    deadline: float | None = None,
) -> NDArray[np.float32]:
    """Return the bonus of n rollouts of one or many prompts; remember the solutions and the wrong answers.

    Rollouts with the same prompt id, and the same group id if there are any, are a group and are compared
    with each other: give whole groups. Add the bonus to the advantages, after their normalization.

    Args:
        prompt_ids: The prompt of each rollout.
        texts: The responses; None, as an empty one, has no novelty.
        correct: Whether each is correct; None: undecided. A reward is refused: give reward > 0.
        answers: The final answer of each, as Verdict.final_answer has it, None for a missing one; for beta.
        client: Of the novelty service.
        alpha: Weight of the novelty of correct rollouts; 0: they are neither scored nor remembered.
        beta: Weight of the outcome novelty of wrong rollouts; 0: no answers are scored or counted.
        group_ids: The group of each rollout, where a prompt may have several in a call; None: it has one.
        token_ids: Integers [length] for each response, for Metric.NGRAM_COUNT.
        problems: The prompt of each rollout, a text or messages, for Metric.DERIVATION: its numbers are no
            steps of a solution. Other metrics do not send it.
        reference_answers: The reference answer of each rollout, likewise; None for a missing one.
        metric: How the novelty of correct rollouts is measured. Metric.DERIVATION is for mathematics; give it
            `problems` and `reference_answers`. For other texts take Metric.EMBEDDING.
        scale: What these novelties are divided by.
        idempotency_key: As in NoveltyClient.score_groups.
        deadline: Seconds a call may take; None: the client's.

    Returns:
        float32 [n] in the order of the rollouts. alpha x novelty where `correct` is True, 0 until the prompt
        has `min_history` solutions. beta (b_i - mean b) for the wrong rollouts of a group without a correct
        one. 0 for all others.

    Raises:
        ExtraError: A call, or a single group of it, failed: a failure is never a 0.
        ValueError: The sequences have different lengths, beta has no answers, or an entry of correct is no
            decision.
    """
    stated = (("problems", problems), ("reference_answers", reference_answers), ("group_ids", group_ids))
    for name, given in stated:
        if given is not None and len(given) != len(texts):
            raise ValueError(f"{len(texts)} texts, {len(given)} {name}: must be as many of each")
    if not len(prompt_ids) == len(texts) == len(correct) == len(texts if answers is None else answers):
        lengths = f"{len(prompt_ids)} prompt_ids, {len(texts)} texts, {len(correct)} correct"
        more = "" if answers is None else f", {len(answers)} answers"
        raise ValueError(f"{lengths}{more}: must be as many of each")
    correct = _wire.decisions(correct, "correct")
    places = groups_of(prompt_ids if group_ids is None else list(zip(prompt_ids, group_ids, strict=True)))
    bonus = np.zeros(len(texts), np.float32)
    if alpha:
        nothing = [None] * len(texts)
        references = nothing if reference_answers is None else reference_answers
        asked = zip(nothing if problems is None else problems, references, strict=True)
        statements = [problem_statement(metric, problem, answer) for problem, answer in asked]
        groups = as_groups(places, prompt_ids, texts, correct, token_ids, statements)
        scores = client.score_groups(
            groups, metric=metric, scale=scale, idempotency_key=idempotency_key, deadline=deadline
        )
        bonus += alpha * in_order(places, scores, len(texts))
    if beta:
        if answers is None:
            raise ValueError("beta is for wrong final answers: give answers, the answer of each rollout")
        key = None if idempotency_key is None else f"{idempotency_key}/outcome"
        novelty, _ = outcome_novelty(places, prompt_ids, correct, answers, client, key, deadline)
        bonus += (beta * novelty).astype(np.float32)
    return bonus


def outcome_novelty(
    places: Iterable[Sequence[int]],
    prompt_ids: Sequence[str],
    correct: Sequence[bool | None] | NDArray[np.bool_],
    answers: Sequence[str | None],
    client: NoveltyClient,
    idempotency_key: str | None,
    deadline: float | None = None,
) -> tuple[NDArray[np.float64], list[list[int]]]:
    """Score the wrong rollouts of all-wrong groups by their final answers, and count the answers.

    Args:
        places: The positions of each group's rollouts.
        prompt_ids: The prompt of each rollout.
        correct: Whether each is correct; None: undecided.
        answers: The final answer of each, None or empty for a missing one.
        client: Of the novelty service; without an all-wrong group it is not called.
        idempotency_key: As in NoveltyClient.score_groups.
        deadline: Seconds the call may take; None: the client's.

    Returns:
        float64 [n]: b_i - mean b over the wrong rollouts of an all-wrong group, 0 for all others; and the
        positions of those rollouts, by group.
    """
    wrong = all_wrong(places, correct)
    scores = []
    if wrong:
        scores = client.score_groups(
            answer_groups(wrong, prompt_ids, answers),
            metric=Metric.OUTCOME,
            idempotency_key=idempotency_key,
            deadline=deadline,
        )
    return centered(wrong, scores, len(prompt_ids)), wrong


def all_wrong(
    places: Iterable[Sequence[int]], correct: Sequence[bool | None] | NDArray[np.bool_]
) -> list[list[int]]:
    """Return the positions of the wrong rollouts of groups without a correct one, by group."""
    known = _wire.decisions(correct, "correct")
    groups = [group for group in places if GroupOutcome.of(known[place] for place in group).all_wrong]
    return [[place for place in group if known[place] is not None] for group in groups]


def answer_groups(
    wrong: Iterable[Sequence[int]], prompt_ids: Sequence[str], answers: Sequence[str | None]
) -> list[Group]:
    """Return the groups of wrong rollouts at these positions, as Metric.OUTCOME takes them."""
    return [
        Group(
            prompt_id=prompt_ids[group[0]],
            correct=[False] * len(group),
            answers=[answers[place] for place in group],
        )
        for group in wrong
    ]


def centered(wrong: Sequence[Sequence[int]], scores: Iterable[Any], count: int) -> NDArray[np.float64]:
    """Return float64 [count]: each score minus its group's mean, at its rollout's place; else 0."""
    novelty = in_order(wrong, scores, count).astype(np.float64)
    for group in wrong:
        novelty[group] -= novelty[group].mean()
    return novelty


def as_groups(
    places: Iterable[Sequence[int]],
    prompt_ids: Sequence[str],
    texts: Sequence[str | None],
    correct: Sequence[bool | None] | NDArray[np.bool_],
    token_ids: Sequence[ArrayLike] | None,
    statements: Sequence[Mapping[str, Any]],
) -> list[Group]:
    """Return the groups whose rollouts are at `places`; `statements` has a `problem_statement` for each."""
    return [
        Group(
            prompt_id=prompt_ids[group[0]],
            texts=[texts[place] for place in group],
            correct=[correct[place] for place in group],
            token_ids=None if token_ids is None else [token_ids[place] for place in group],
            **statements[group[0]],
        )
        for group in places
    ]


def in_order(places: Iterable[Sequence[int]], scores: Iterable[Any], count: int) -> NDArray[np.float32]:
    """Return float32 [count]: the scores of groups, each at its rollout's place; raise a group's error."""
    novelty = np.zeros(count, np.float32)
    for group, scored in zip(places, scores, strict=True):
        if scored.error is not None:
            raise scored.error
        novelty[group] = scored.novelty
    return novelty


def component_means(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return the mean score, and that of each named component, over the verdicts that have them.

    The tests of a program are components too, one by one; a mean over different programs would mean nothing.
    """
    values: dict[str, list[float]] = {}
    for verdict in verdicts:
        for name, value in scored_parts(verdict).items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(each)) for name, each in values.items()}


def scored_parts(verdict: Verdict) -> dict[str, float]:
    """Return score and components of a verdict, those of a custom verifier by their names."""
    parts = {} if verdict.score is None else {"score": verdict.score}
    return parts if verdict.rule == Method.CODE else parts | dict(verdict.components)


def _problem_text(prompt: Any) -> str:
    """Return the text of a prompt: of messages the last one of the user, or the last one of all."""
    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    messages = list(prompt)
    asked = [message for message in messages if message.get("role") == "user"] or messages
    return content_text(asked[-1]) if asked else ""


def _reference_text(reference: Any) -> str:
    """Return a reference answer as one text; "" if there is none, or none that can be read."""
    try:
        return shown_answer(answer_of(reference_texts(reference)))
    except InvalidReference:
        return ""


def _plain(value: Any) -> Any:
    """Return `value` in the types of JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, np.generic):
        return value.item()
    value = on_cpu(value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.tolist()
    if isinstance(value, Iterable):
        return [_plain(each) for each in value]
    if hasattr(value, "tobytes") and hasattr(value, "mode") and hasattr(value, "convert"):
        return _image(value)
    text = repr(value)
    if re.search(" at 0x[0-9a-fA-F]+>", text):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise InvalidArgumentError(
            f"a prompt holds an object of {kind}, which does not show its content, so the same prompt would "
            "be another one in each process: give texts, numbers, Pillow images or arrays"
        )
    return text


def _image(image: Any) -> dict[str, Any]:
    """Return an image of Pillow by its pixels; those of a palette as colours."""
    image = image.convert("RGBA") if image.mode == "P" else image
    return {
        "image": image.mode,
        "size": list(image.size),
        "pixels": hashlib.sha256(image.tobytes()).hexdigest(),
    }
