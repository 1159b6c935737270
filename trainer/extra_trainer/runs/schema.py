"""The records of a run folder as classes, with their JSON form: the only place that knows its keys.

`RolloutRecord` is a line of `rollouts/step-N.jsonl` (in the contract: the generation server writes it too),
`PrefixChoiceRecord` a line of `prefixes/step-N.jsonl`, `StepMetrics` a line of `metrics.jsonl`. The trainer
builds them (`exploration.recording`); reports, evidence and inspector read them. Token ids and entropies are
compressed and stored as base64, a few bytes a token; the text of each token is stored once a run
(`RunFolder.vocabulary`). A candidate prefix is identified by a digest of its text: the text itself is part of
a rollout that was split earlier.

The version of the records is in the run folder (`RunFolder.format`). A reader ignores keys that it does not
know, which a later minor version may add, and refuses another major version. A folder without that file has
version 1.0, which lacks `unparseable_side` and `groups_mixed`; there an unparseable verdict is taken to be
one of an unreadable response. Versions before 1.2 lack `times_given` and `outcome_bonus`, those before 1.3
`score`, `components`, `suspicious`, `new_steps` and `behind_answer`; from 1.3 on `answer` may be a list.
Versions before 1.4 lack `masked`: there a rollout that `rollout.overlong: mask` left out counts as verified.
Runs of other trainers, which `extra-rl inspect` imports, have null where nothing is known, and `logged`.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from extra_rl.groups import GroupOutcome
from extra_rl.rollout_record import (
    NearestRecord,
    RecordError,
    RolloutRecord,
    missing_key,
    pack_array,
    unpack_array,
)

__all__ = [
    "FORMAT",
    "PHASE_PREFIX",
    "CandidateRecord",
    "NearestRecord",
    "PrefixChoiceRecord",
    "RecordError",
    "RolloutRecord",
    "StepMetrics",
    "check_format",
    "format_text",
    "group_outcome",
    "pack_array",
    "text_digest",
    "unpack_array",
]

#: Major and minor version of the records that this release writes.
FORMAT = (1, 4)
#: What the names of a step's phases begin with, in its line of metrics.
PHASE_PREFIX = "seconds/"


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
            raise missing_key("a candidate prefix", error) from error


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
            raise missing_key("a prefix choice", error) from error


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
            raise missing_key("the metrics of a step", error) from error
        return cls(**known, seconds=seconds, others=others)


_METRIC_FIELDS = tuple(name for name in StepMetrics.__dataclass_fields__ if name not in ("seconds", "others"))


def group_outcome(rollouts: Iterable[RolloutRecord]) -> GroupOutcome:
    """Count the correct and the decided rollouts of one group."""
    return GroupOutcome.of(record.correct if record.decided else None for record in rollouts)


def text_digest(text: str) -> str:
    """Return the digest that identifies the text of a prefix."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


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
