"""Builds the records of a step from its groups, their novelty and the prefixes chosen for them."""

from collections.abc import Sequence

import numpy as np

from extra_client import Nearest, PrefixCandidate
from extra_rl.final_answer import characters_behind_answer
from extra_trainer.exploration.advantage import StepAdvantages
from extra_trainer.exploration.results import GroupNovelty, PrefixChoice
from extra_trainer.rollouts.collector import Group
from extra_trainer.runs.schema import (
    CandidateRecord,
    NearestRecord,
    PrefixChoiceRecord,
    RolloutRecord,
    pack_array,
    text_digest,
)

#: Characters of a verdict's explanation that are kept.
DETAIL_CHARACTERS = 500


def rollout_records(
    groups: Sequence[Group], novelty: Sequence[GroupNovelty], advantages: StepAdvantages
) -> list[RolloutRecord]:
    """Return a record of each rollout of a step, group by group.

    Args:
        groups: The groups of the step, in order.
        novelty: Their novelty, in the same order.
        advantages: Their advantages.
    """
    return [
        _rollout(place, group, sample, scores, float(advantages.outcome_bonus[place, sample]))
        for place, (group, scores) in enumerate(zip(groups, novelty, strict=True))
        for sample in range(len(group.rollouts))
    ]


def _rollout(
    place: int, group: Group, sample: int, scores: GroupNovelty, outcome_bonus: float
) -> RolloutRecord:
    request, rollout, verdict = group.request, group.rollouts[sample], group.verdicts[sample]
    tokens = np.concatenate([np.array(request.prefix_tokens, np.int32), rollout.token_ids])
    return RolloutRecord(
        prompt_id=request.prompt_id,
        prompt=request.prompt,
        answer=request.answer,
        guided=request.guided,
        prefix_id=request.prefix_id,
        prefix_tokens=len(request.prefix_tokens),
        group=place,
        sample=sample,
        text=rollout.text,
        finish_reason=rollout.finish_reason,
        status=verdict.status,
        unparseable_side=verdict.unparseable_side,
        extracted=verdict.extracted,
        rule=verdict.rule,
        detail=verdict.detail[:DETAIL_CHARACTERS],
        normalized_response=verdict.normalized_response,
        normalized_answer=verdict.normalized_answer,
        novelty=round(float(scores.raw[sample]), 6),
        nearest=_nearest(scores.nearest[sample]) if scores.nearest else None,
        suspicious=scores.suspicious[sample] if scores.suspicious else "",
        new_steps=scores.new_steps[sample] if scores.new_steps else (),
        behind_answer=characters_behind_answer(rollout.text),
        times_given=_times_given(scores, sample),
        outcome_bonus=round(outcome_bonus, 6),
        policy_version=rollout.policy_version,
        tokens=len(rollout.token_ids),
        mean_entropy=round(float(rollout.entropies.mean()), 5),
        packed_token_ids=pack_array(tokens),
        packed_entropies=pack_array(rollout.entropies.astype(np.float16)),
        score=verdict.score,
        components=verdict.components,
        masked=bool(group.masked[sample]),
    )


def _times_given(scores: GroupNovelty, sample: int) -> float | None:
    if scores.outcome is None or not scores.outcome.scored[sample]:
        return None
    return round(float(scores.outcome.times[sample]), 3)


def _nearest(nearest: Nearest | None) -> NearestRecord | None:
    if nearest is None:
        return None
    solution = nearest.solution_id if nearest.sibling is None else None
    return NearestRecord(round(nearest.similarity, 6), nearest.sibling, solution)


def prefix_choice_records(choices: Sequence[PrefixChoice]) -> list[PrefixChoiceRecord]:
    """Return a record of each hard group of a step that was split."""
    return [
        PrefixChoiceRecord(
            group=choice.place,
            prompt_id=choice.prompt_id,
            sample=choice.sample,
            lengths=list(choice.lengths),
            characters=list(choice.characters),
            selected=choice.selected.prefix_id if choice.selected else None,
            candidates=None if choice.candidates is None else [_candidate(c) for c in choice.candidates],
        )
        for choice in choices
    ]


def _candidate(candidate: PrefixCandidate) -> CandidateRecord:
    return CandidateRecord(
        prefix_id=candidate.prefix_id,
        text_digest=text_digest(candidate.text),
        length=candidate.length,
        mean_entropy=round(candidate.mean_entropy, 6),
        smoothed_entropy=round(candidate.smoothed_entropy, 6),
        rollouts=candidate.rollouts,
        successes=candidate.successes,
        score=round(candidate.score, 6),
        dropped=candidate.dropped,
    )
