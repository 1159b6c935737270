"""The records of a run folder as classes, with their JSON form: the only place that knows its keys.

`RolloutRecord` is a line of `rollouts/step-N.jsonl`, `PrefixChoiceRecord` a line of `prefixes/step-N.jsonl`,
`StepMetrics` a line of `metrics.jsonl`. The trainer builds them (`exploration.recording`); reports, evidence
and inspector read them. Token ids and entropies are compressed and stored as base64, a few bytes a token; the
text of each token is stored once a run (`RunFolder.vocabulary`). A candidate prefix is identified by a digest
of its text: the text itself is part of a rollout that was split earlier.

The version of the records is in the run folder (`RunFolder.format`). A reader ignores keys that it does not
know, which a later minor version may add, and refuses another major version. A folder without that file has
version 1.0, which lacks `unparseable_side` and `groups_mixed`; there an unparseable verdict is taken to be
one of an unreadable response. Versions before 1.2 lack `times_given` and `outcome_bonus`, those before 1.3
`score`, `components`, `suspicious`, `new_steps` and `behind_answer`; from 1.3 on `answer` may be a list.
Versions before 1.4 lack `masked`: there a rollout that `rollout.overlong: mask` left out counts as verified.
Runs of other trainers, which `extra-rl inspect` imports, have null where nothing is known, and `logged`.
"""

import base64
import hashlib
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_rl.config_file import ConfigError
from extra_rl.groups import GroupOutcome, is_decided
from extra_rl.references import Answer, answer_of
from extra_rl.vocabulary import FinishReason, UnparseableSide, VerdictStatus

#: Major and minor version of the records that this release writes.
FORMAT = (1, 4)
#: What the names of a step's phases begin with, in its line of metrics.
PHASE_PREFIX = "seconds/"


class RecordError(ConfigError):
    """A record or run folder that this release cannot read; the message says why."""


@dataclass(frozen=True, slots=True)
class NearestRecord:
    """The nearest neighbour of a rollout: a sample of its group, or a stored solution of its prompt.

    `solution` counts the solutions ever stored of the prompt. If neither is set, it is a rollout of another
    group of the prompt in the same step.
    """

    similarity: float
    sample: int | None = None
    solution: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        where = {"solution": self.solution} if self.sample is None else {"sample": self.sample}
        return {**where, "similarity": self.similarity}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "NearestRecord":
        """Read the JSON form.

        Raises:
            RecordError: A key is missing.
        """
        try:
            return cls(content["similarity"], content.get("sample"), content.get("solution"))
        except KeyError as error:
            raise _missing("a nearest neighbour", error) from error


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """One rollout of a step, with its verdict and novelty."""

    prompt_id: str
    prompt: str
    answer: Answer
    #: Whether the rollout continues a hard prompt, from the prefix `prefix_id` ("": without a prefix).
    guided: bool
    prefix_id: str
    prefix_tokens: int
    #: Place of the group in its step, and of the rollout in its group, from 0.
    group: int
    sample: int
    #: Text of the prefix and the continuation.
    text: str
    #: None if an imported run does not say it.
    finish_reason: FinishReason | None
    #: None if nobody has verified an imported rollout.
    status: VerdictStatus | None
    #: Set if the status is "unparseable".
    unparseable_side: UnparseableSide | None
    #: The answer that was read from the response.
    extracted: str
    #: The verifier's rule that decided, and its explanation.
    rule: str
    detail: str
    #: The two answers as they were compared.
    normalized_response: str
    normalized_answer: str
    #: As measured, before scaling; 0 if the rollout was not scored, None in an imported run.
    novelty: float | None
    #: None if the rollout was not scored or there was nothing to compare with.
    nearest: NearestRecord | None
    #: Why the novelty service found the rollout suspicious; "" if it did not, or did not score it.
    suspicious: str
    #: Steps that no remembered solution had (metric derivation), the first few.
    new_steps: tuple[str, ...]
    #: Characters behind the final answer.
    behind_answer: int
    #: Times that the answer was given to the prompt in the groups that outcome novelty acted on, this one
    #: included; 0 if the answer is missing. None if outcome novelty did not score the rollout.
    times_given: float | None
    #: Part of the advantage that is from outcome novelty.
    outcome_bonus: float
    #: None if an imported run does not say it; likewise the next two.
    policy_version: int | None
    #: Length of the continuation.
    tokens: int | None
    #: In nats a token, over the continuation.
    mean_entropy: float | None
    #: `token_ids` and `entropies` as `pack_array` returns them.
    packed_token_ids: str
    packed_entropies: str
    #: From verifiers that give a score in [0, 1], and its parts by name.
    score: float | None = None
    components: Mapping[str, float] = field(default_factory=dict)
    #: Whether it was cut off and therefore left out (`rollout.overlong: mask`): it counts for nothing.
    masked: bool = False
    #: What another trainer logged about an imported rollout, by name: rewards, advantage, ...
    logged: Mapping[str, float] = field(default_factory=dict)

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """Tokens of the prefix and the continuation, int32 [prefix_tokens + tokens]."""
        return unpack_array(self.packed_token_ids, "<i4")

    @property
    def entropies(self) -> NDArray[np.float16]:
        """Entropies of the continuation's tokens in nats, float16 [tokens]."""
        return unpack_array(self.packed_entropies, "<f2")

    @property
    def correct(self) -> bool:
        """True if the response was found correct, and is not masked."""
        return self.status is VerdictStatus.CORRECT and not self.masked

    @property
    def decided(self) -> bool:
        """True if there is a verdict that says anything about the response, and it is not masked."""
        if self.masked or self.status is None:
            return False
        return is_decided(self.status, self.unparseable_side)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "prompt_id": self.prompt_id,
            "prompt": self.prompt,
            "answer": self.answer if isinstance(self.answer, str) else list(self.answer),
            "guided": self.guided,
            "prefix_id": self.prefix_id,
            "prefix_tokens": self.prefix_tokens,
            "group": self.group,
            "sample": self.sample,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "status": self.status,
            "unparseable_side": self.unparseable_side,
            "extracted": self.extracted,
            "rule": self.rule,
            "detail": self.detail,
            "compared": [self.normalized_response, self.normalized_answer],
            "novelty": self.novelty,
            "nearest": self.nearest.to_json() if self.nearest else None,
            "suspicious": self.suspicious,
            "new_steps": list(self.new_steps),
            "behind_answer": self.behind_answer,
            "times_given": self.times_given,
            "outcome_bonus": self.outcome_bonus,
            "policy_version": self.policy_version,
            "tokens": self.tokens,
            "mean_entropy": self.mean_entropy,
            "token_ids": self.packed_token_ids,
            "entropies": self.packed_entropies,
            **({} if self.score is None else {"score": self.score, "components": dict(self.components)}),
            "masked": self.masked,
            **({"logged": dict(self.logged)} if self.logged else {}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RolloutRecord":
        """Read the JSON form; unknown keys are ignored.

        Raises:
            RecordError: A key is missing, or the value of an enum is unknown.
        """
        try:
            status = None if content["status"] is None else VerdictStatus(content["status"])
            finish_reason = content["finish_reason"]
            normalized_response, normalized_answer = content["compared"]
            nearest = content["nearest"]
            return cls(
                prompt_id=content["prompt_id"],
                prompt=content["prompt"],
                answer=answer_of(content["answer"]),
                guided=content["guided"],
                prefix_id=content["prefix_id"],
                prefix_tokens=content["prefix_tokens"],
                group=content["group"],
                sample=content["sample"],
                text=content["text"],
                finish_reason=None if finish_reason is None else FinishReason(finish_reason),
                status=status,
                unparseable_side=_unparseable_side(status, content.get("unparseable_side")),
                extracted=content["extracted"],
                rule=content["rule"],
                detail=content["detail"],
                normalized_response=normalized_response,
                normalized_answer=normalized_answer,
                novelty=content["novelty"],
                nearest=None if nearest is None else NearestRecord.from_json(nearest),
                suspicious=content.get("suspicious", ""),
                new_steps=tuple(content.get("new_steps", ())),
                behind_answer=content.get("behind_answer", 0),
                times_given=content.get("times_given"),
                outcome_bonus=content.get("outcome_bonus", 0.0),
                policy_version=content["policy_version"],
                tokens=content["tokens"],
                mean_entropy=content["mean_entropy"],
                packed_token_ids=content["token_ids"],
                packed_entropies=content["entropies"],
                score=content.get("score"),
                components=content.get("components", {}),
                masked=content.get("masked", False),
                logged=content.get("logged", {}),
            )
        except KeyError as error:
            raise _missing("a rollout", error) from error
        except (TypeError, ValueError) as error:
            raise RecordError(f"a rollout cannot be read: {error}") from error


def _unparseable_side(status: VerdictStatus | None, side: str | None) -> UnparseableSide | None:
    if status is not VerdictStatus.UNPARSEABLE:
        return None
    # Version 1.0 stored the status alone; far more responses than reference answers cannot be read.
    return UnparseableSide(side) if side else UnparseableSide.RESPONSE


@dataclass(frozen=True, slots=True)
class CandidateRecord:
    """A prefix that could be chosen, with the figures of the prefix service at that time."""

    prefix_id: str
    text_digest: str
    #: In tokens.
    length: int
    #: In nats a token, before and after smoothing over similar prefixes.
    mean_entropy: float
    smoothed_entropy: float
    #: Reported outcomes of guided groups that continued from it.
    rollouts: int
    successes: int
    #: What the policy ranked it by, higher first.
    score: float
    #: Whether it had failed too often to be chosen again.
    dropped: bool

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "prefix_id": self.prefix_id,
            "text_digest": self.text_digest,
            "length": self.length,
            "mean_entropy": self.mean_entropy,
            "smoothed_entropy": self.smoothed_entropy,
            "rollouts": self.rollouts,
            "successes": self.successes,
            "score": self.score,
            "dropped": self.dropped,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "CandidateRecord":
        """Read the JSON form.

        Raises:
            RecordError: A key is missing.
        """
        try:
            return cls(
                prefix_id=content["prefix_id"],
                text_digest=content["text_digest"],
                length=content["length"],
                mean_entropy=content["mean_entropy"],
                smoothed_entropy=content["smoothed_entropy"],
                rollouts=content["rollouts"],
                successes=content["successes"],
                score=content["score"],
                dropped=content["dropped"],
            )
        except KeyError as error:
            raise _missing("a candidate prefix", error) from error


@dataclass(frozen=True, slots=True)
class PrefixChoiceRecord:
    """One hard group of a step: the rollout that was split, its prefixes, and the prefix that was chosen."""

    #: Place of the group in its step.
    group: int
    prompt_id: str
    #: The sample that was split, and the lengths of its stored prefixes in tokens and in characters.
    sample: int
    lengths: Sequence[int]
    characters: Sequence[int]
    #: Id of the chosen prefix; None if there was no prefix to choose.
    selected: str | None
    #: All prefixes that could be chosen, best first; None if the service did not return them.
    candidates: Sequence[CandidateRecord] | None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "group": self.group,
            "prompt_id": self.prompt_id,
            "sample": self.sample,
            "lengths": list(self.lengths),
            "characters": list(self.characters),
            "selected": self.selected,
            "candidates": None if self.candidates is None else [c.to_json() for c in self.candidates],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "PrefixChoiceRecord":
        """Read the JSON form.

        Raises:
            RecordError: A key is missing.
        """
        try:
            candidates = content["candidates"]
            return cls(
                group=content["group"],
                prompt_id=content["prompt_id"],
                sample=content["sample"],
                lengths=content["lengths"],
                characters=content["characters"],
                selected=content["selected"],
                candidates=None if candidates is None else [CandidateRecord.from_json(c) for c in candidates],
            )
        except KeyError as error:
            raise _missing("a prefix choice", error) from error


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """The metrics of one step; trainer/README.md says what each is.

    The JSON form is flat, under the stable names of the metrics: `others` lie beside the fields, and the
    seconds of a phase are `seconds/PHASE`.
    """

    step: int
    reward: float
    groups_all_right: float
    groups_all_wrong: float
    novelty: float
    entropy: float
    guided_groups: float
    guided_rescued: float
    undecided: float
    response_tokens: float
    #: Phase -> seconds.
    seconds: Mapping[str, float] = field(default_factory=dict)
    #: Further metrics by name: OpenRLHF's, and what not every run has.
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def groups_mixed(self) -> float:
        """Share of mixed groups.

        Version 1.0 did not record it; there every group that is neither all right nor all wrong counts as
        mixed, also one without a decided rollout.
        """
        return self.others.get("groups_mixed", 1 - self.groups_all_right - self.groups_all_wrong)

    @property
    def total_seconds(self) -> float:
        """Seconds of all phases."""
        return float(sum(self.seconds.values()))

    def value(self, name: str) -> float:
        """Return a metric by its name in the JSON form, NaN if the step has no such metric."""
        if name in _METRIC_FIELDS or name == "groups_mixed":
            return float(getattr(self, name))
        if name.startswith(PHASE_PREFIX):
            return self.seconds.get(name.removeprefix(PHASE_PREFIX), math.nan)
        return self.others.get(name, math.nan)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            **{name: getattr(self, name) for name in _METRIC_FIELDS},
            **self.others,
            **{PHASE_PREFIX + phase: seconds for phase, seconds in self.seconds.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "StepMetrics":
        """Read the JSON form.

        Raises:
            RecordError: A metric that every step has is missing.
        """
        seconds: dict[str, float] = {}
        others: dict[str, float] = {}
        for name, value in content.items():
            if name.startswith(PHASE_PREFIX):
                seconds[name.removeprefix(PHASE_PREFIX)] = value
            elif name not in _METRIC_FIELDS:
                others[name] = value
        try:
            known = {name: content[name] for name in _METRIC_FIELDS}
        except KeyError as error:
            raise _missing("the metrics of a step", error) from error
        return cls(**known, seconds=seconds, others=others)


_METRIC_FIELDS = tuple(name for name in StepMetrics.__dataclass_fields__ if name not in ("seconds", "others"))


def group_outcome(rollouts: Iterable[RolloutRecord]) -> GroupOutcome:
    """Count the correct and the decided rollouts of one group."""
    return GroupOutcome.of(record.correct if record.decided else None for record in rollouts)


def text_digest(text: str) -> str:
    """Return the digest that identifies the text of a prefix."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def pack_array(values: NDArray[Any]) -> str:
    """Encode an array as compressed little-endian bytes in base64."""
    data = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
    # Level 1: higher levels hardly shrink token ids and entropies, and the step waits for this.
    return base64.b64encode(zlib.compress(data, 1)).decode()


def unpack_array(text: str, dtype: str) -> NDArray[Any]:
    """Decode what `pack_array` returned.

    Args:
        text: The encoded array.
        dtype: NumPy's name of its type, with byte order: "<i4" for token ids, "<f2" for entropies.
    """
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=dtype)


def format_text() -> str:
    """Return the content of a run folder's file `format`."""
    return "{}.{}\n".format(*FORMAT)


def check_format(text: str) -> None:
    """Check that this release reads the records of a run folder.

    Args:
        text: Content of the folder's file `format`.

    Raises:
        RecordError: They are of another major version, or the text is no version.
    """
    major, _, minor = text.strip().partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise RecordError(f"{text.strip()!r} is no version of a run folder's records")
    if int(major) != FORMAT[0]:
        raise RecordError(
            f"its records have version {text.strip()}, and this release reads version {FORMAT[0]}.x: "
            "use the release that wrote them"
        )


def _missing(kind: str, error: KeyError) -> RecordError:
    return RecordError(f"{kind} cannot be read: the key {error} is missing in its record")
