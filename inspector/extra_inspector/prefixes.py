"""Prefix choices for display: where a hard group's rollout was split, the candidates, and what followed.

The trainer records the figures of a candidate and a digest of its text. The text itself is part of a rollout
that was split earlier and that the index finds; a candidate whose rollout is no longer in the run folder is
shown without text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from extra_inspector.index import GroupSummary, Index, RecordedChoice
from extra_trainer.runs.schema import CandidateRecord, text_digest


@dataclass(frozen=True)
class PrefixSource:
    """The rollout that a prefix is part of, and the prefix's text."""

    text: str
    step: int
    #: Place of the rollout's group in the step.
    place: int
    sample: int


@dataclass(frozen=True)
class Candidate:
    """A prefix that could be chosen for a hard prompt."""

    record: CandidateRecord
    selected: bool
    #: None if the rollout is not in the run folder, and for the empty prefix.
    source: PrefixSource | None

    @property
    def text(self) -> str:
        """Its text, empty if that is unknown."""
        return self.source.text if self.source else ""


@dataclass(frozen=True)
class Choice:
    """The split of a hard group, and the prefix that was chosen for its prompt."""

    #: The sample that was split, and the lengths of its prefixes in tokens.
    sample: int
    lengths: Sequence[int]
    candidates: Sequence[Candidate]
    #: Groups of later steps that continued from the chosen prefix.
    continuations: Sequence[GroupSummary]

    @property
    def selected(self) -> Candidate | None:
        """The chosen candidate."""
        return next((candidate for candidate in self.candidates if candidate.selected), None)


@dataclass(frozen=True)
class Origin:
    """The step in which a guided group's prefix was chosen, and the rollout that it is part of."""

    chosen_in: int
    #: None if the rollout is not in the run folder.
    source: PrefixSource | None


def choice(index: Index, prompt_id: str, group: GroupSummary) -> Choice | None:
    """Return the choice made after a hard group, None if the group was not split."""
    made = index.prefix_choices(prompt_id, group.step)
    here = next((c for c in made if (c.step, c.record.group) == (group.step, group.place)), None)
    if here is None:
        return None
    sources = _sources(index, made)
    selected = here.record.selected
    later = [g for g in index.groups(prompt_id) if g.step > group.step and g.guided]
    return Choice(
        here.record.sample,
        here.record.lengths,
        [
            Candidate(record, record.prefix_id == selected, sources.get(record.text_digest))
            for record in here.record.candidates or ()
        ],
        [g for g in later if g.prefix_id == selected],
    )


def origin(index: Index, prompt_id: str, group: GroupSummary) -> Origin | None:
    """Return the origin of a guided group's prefix, None if it has none or its choice is not recorded."""
    if not (group.guided and group.prefix_id):
        return None
    made = index.prefix_choices(prompt_id, group.step - 1)
    last = next((c for c in reversed(made) if c.record.selected == group.prefix_id), None)
    if last is None:
        return None
    digests = [c.text_digest for c in last.record.candidates or () if c.prefix_id == group.prefix_id]
    sources = _sources(index, made)
    return Origin(last.step, next((sources.get(digest) for digest in digests), None))


def _sources(index: Index, choices: Sequence[RecordedChoice]) -> Mapping[str, PrefixSource]:
    """Return digest -> source of the prefixes that were stored; of equal texts the first."""
    found: dict[str, PrefixSource] = {}
    for made in choices:
        record = made.record
        group = index.group(made.step, record.group)
        split = next((rollout for rollout in group if rollout.sample == record.sample), None)
        if split is None:
            continue
        for characters in record.characters:
            text = split.text[:characters]
            source = PrefixSource(text, made.step, record.group, record.sample)
            found.setdefault(text_digest(text), source)
    return found
