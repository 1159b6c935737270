"""What became of a hard group: where its rollout was split, which prefixes competed, and what grew from them.

The trainer keeps a candidate's figures and a digest of its text. The text itself is that of a rollout split
earlier, of which the index knows where it lies; a candidate that nothing here explains (its split was in a
step whose files are gone) is shown without.
"""

from dataclasses import dataclass
from typing import Any

from extra_inspector.index import Index, Visit
from extra_trainer.runs.record import text_digest


@dataclass(frozen=True)
class Candidate:
    """A prefix that competed; figures as in the prefix service."""

    prefix_id: str
    length: int
    mean_entropy: float
    smoothed_entropy: float
    rollouts: int
    successes: int
    dropped: bool
    selected: bool
    #: Empty if the rollout it is of is not there; and of which step and sample that is.
    text: str
    step: int | None
    sample: int | None


@dataclass(frozen=True)
class Choice:
    """A hard group's split and what was chosen for its prompt."""

    #: The sample that was split, and after how many of its tokens.
    sample: int | None
    lengths: list[int]
    candidates: list[Candidate]
    #: Groups that went on from the prefix chosen here, in later steps.
    continuations: list[Visit]

    @property
    def selected(self) -> Candidate | None:
        """The candidate that was chosen."""
        return next((candidate for candidate in self.candidates if candidate.selected), None)


@dataclass(frozen=True)
class Origin:
    """Where a guided group's prefix came from: chosen in a step, of a sample of a group."""

    chosen_in: int
    step: int | None
    place: int | None
    sample: int | None


def choice(index: Index, prompt_id: str, visit: Visit) -> Choice | None:
    """Of a group that was hard and was split; None of others."""
    made = index.choices(prompt_id, visit.step)
    record = next((r for r in made if (r["step"], r["group"]) == (visit.step, visit.place)), None)
    if record is None:
        return None
    texts = _texts(index, made)
    chosen = record["selected"]
    later = [v for v in index.visits(prompt_id) if v.step > visit.step and v.guided and v.prefix_id == chosen]
    return Choice(
        record["sample"],
        record["lengths"],
        [_candidate(each, chosen, texts) for each in record["candidates"] or []],
        later if chosen is not None else [],
    )


def origin(index: Index, prompt_id: str, visit: Visit) -> Origin | None:
    """Where the prefix of a guided group came from; None if it is not known."""
    if not (visit.guided and visit.prefix_id):
        return None
    made = index.choices(prompt_id, visit.step - 1)
    record = next((r for r in reversed(made) if r["selected"] == visit.prefix_id), None)
    if record is None:
        return None
    digest = next(
        (c["text_digest"] for c in record["candidates"] or [] if c["prefix_id"] == visit.prefix_id), None
    )
    _, step, place, sample = _texts(index, made).get(digest, ("", None, None, None))
    return Origin(record["step"], step, place, sample)


Found = tuple[str, int | None, int | None, int | None]


def _texts(index: Index, choices: list[dict[str, Any]]) -> dict[str | None, Found]:
    """Digest -> text of a prefix, and step, place and sample of the rollout it is of; the first of equals."""
    found: dict[str | None, Found] = {}
    for record in choices:
        if record["sample"] is None:
            continue
        group = index.group(record["step"], record["group"])
        split = next((r for r in group if r["sample"] == record["sample"]), None)
        if split is None:
            continue
        for characters in record["characters"]:
            text = split["text"][:characters]
            found.setdefault(text_digest(text), (text, record["step"], record["group"], record["sample"]))
    return found


def _candidate(told: dict[str, Any], chosen: str | None, texts: dict[str | None, Found]) -> Candidate:
    text, step, _, sample = texts.get(told["text_digest"], ("", None, None, None))
    return Candidate(
        told["prefix_id"],
        told["length"],
        told["mean_entropy"],
        told["smoothed_entropy"],
        told["rollouts"],
        told["successes"],
        told["dropped"],
        told["prefix_id"] == chosen,
        text,
        step,
        sample,
    )
