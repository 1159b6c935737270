"""Judge the recorded responses of a run anew, and count what would change.

A change is from the recorded status and rule to the new ones. Whether it changes the reward follows from the
statuses alone: a correct response has the reward 1, a wrong one or one without a readable answer 0, and an
undecided one has none.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from extra_client import Verdict, VerificationClient, VerifyOptions
from extra_rl.groups import is_decided
from extra_rl.references import shown_answer
from extra_rl.vocabulary import Method, UnparseableSide, VerdictStatus
from extra_trainer.runs.folder import RunFolder
from extra_trainer.runs.schema import RolloutRecord

#: Characters of a prompt and of the end of a response in an example.
_SHOWN = 200


@dataclass(frozen=True)
class Judgement:
    """What a verdict says, as far as it counts."""

    status: VerdictStatus
    side: UnparseableSide | None
    rule: str

    @property
    def reward(self) -> float | None:
        """The reward; None if the response is undecided."""
        if not is_decided(self.status, self.side):
            return None
        return float(self.status is VerdictStatus.CORRECT)

    def __str__(self) -> str:
        side = f" ({self.side})" if self.side else ""
        return f"{self.status}{side} by {self.rule}" if self.rule else f"{self.status}{side}"


@dataclass(frozen=True)
class Change:
    """The judgement of a response before and after."""

    before: Judgement
    after: Judgement

    @property
    def of_reward(self) -> bool:
        """Whether the reward differs, not only the status or the rule."""
        return self.before.reward != self.after.reward


@dataclass(frozen=True)
class Example:
    """One response that changes."""

    step: int
    group: int
    sample: int
    prompt: str
    answer: str
    extracted_before: str
    extracted_after: str
    detail: str
    #: The end of the response.
    text: str


@dataclass
class Changed:
    """The responses with one change."""

    responses: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class Reverification:
    """The outcome of judging a run anew."""

    responses: int = 0
    correct_before: int = 0
    correct_after: int = 0
    changes: dict[Change, Changed] = field(default_factory=dict)

    @property
    def rewards_changed(self) -> int:
        """Responses whose reward would be another."""
        return sum(found.responses for change, found in self.changes.items() if change.of_reward)

    def ordered(self) -> list[tuple[Change, Changed]]:
        """Return the changes: those of the reward first, frequent ones first."""
        return sorted(self.changes.items(), key=lambda item: (not item[0].of_reward, -item[1].responses))

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON."""
        return {
            "responses": self.responses,
            "correct_before": self.correct_before,
            "correct_after": self.correct_after,
            "rewards_changed": self.rewards_changed,
            "changes": [
                {
                    "before": _judgement(change.before),
                    "after": _judgement(change.after),
                    "responses": found.responses,
                    "examples": [vars(example) for example in found.examples],
                }
                for change, found in self.ordered()
            ],
        }


def reverify(
    folder: RunFolder,
    verification: VerificationClient,
    method: Method,
    options: VerifyOptions,
    *,
    examples: int = 3,
    progress: Callable[[int], None] = lambda responses: None,
) -> Reverification:
    """Judge all recorded responses of a run that have a verdict.

    Args:
        folder: The run's folder; nothing in it changes.
        verification: The service that judges.
        method: Comparison with the reference answers.
        options: Conventions of that comparison.
        examples: Responses that are kept of each change.
        progress: Called with the number of new responses.

    Raises:
        RecordError: The records cannot be read.
        ExtraError: The service fails.
    """
    outcome = Reverification()
    for step, records in folder.read_rollouts():
        items = (
            (index, record.text, record.answer)
            for index, record in enumerate(records)
            if record.status is not None
        )
        for index, verdict in verification.verify_stream(items, method=method, options=options):
            _count(outcome, step, records[index], verdict, examples)
            progress(1)
    return outcome


def _count(outcome: Reverification, step: int, record: RolloutRecord, verdict: Verdict, most: int) -> None:
    assert record.status is not None
    before = Judgement(record.status, record.unparseable_side, record.rule)
    after = Judgement(verdict.status, verdict.unparseable_side, verdict.rule)
    outcome.responses += 1
    outcome.correct_before += before.status is VerdictStatus.CORRECT
    outcome.correct_after += after.status is VerdictStatus.CORRECT
    if before == after:
        return
    changed = outcome.changes.setdefault(Change(before, after), Changed())
    changed.responses += 1
    if len(changed.examples) < most:
        changed.examples.append(
            Example(
                step=step,
                group=record.group,
                sample=record.sample,
                prompt=record.prompt[:_SHOWN],
                answer=shown_answer(record.answer),
                extracted_before=record.extracted,
                extracted_after=verdict.extracted,
                detail=verdict.detail,
                text=record.text[-_SHOWN:],
            )
        )


def _judgement(judgement: Judgement) -> dict[str, Any]:
    return {
        "status": str(judgement.status),
        "unparseable_side": str(judgement.side) if judgement.side else None,
        "rule": judgement.rule,
        "reward": judgement.reward,
    }
