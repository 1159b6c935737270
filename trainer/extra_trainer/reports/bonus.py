"""The bonus summary: which rollouts of a run received the novelty bonus.

The bonus is proportional to the novelty of a correct rollout; these figures say which rollouts had it. They
are of novelty as measured, before an experiment's control shuffles or levels it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from extra_trainer.runs.schema import RolloutRecord, group_outcome

#: Up to this novelty a solution counts as a repetition: float32 similarities are no more exact.
REPEAT = 1e-5


@dataclass(frozen=True)
class _CorrectRollout:
    record: RolloutRecord
    novelty: float
    tokens: int
    group_all_right: bool
    #: Whether no earlier rollout of its prompt had the same text.
    first_seen: bool


def bonus_summary(steps: Iterable[Sequence[RolloutRecord]]) -> dict[str, float]:
    """Summarize which rollouts received the bonus.

    Args:
        steps: The rollouts of each step, in order, group by group.

    Returns:
        Nothing if no correct rollout was novel, else

        - correct_new: share of correct rollouts with any novelty;
        - new_mean: mean novelty of these (1 - cosine similarity);
        - to_all_right, to_guided, to_first_seen: share of all novelty in groups that are all right, in guided
          groups, and in texts that were new for their prompt;
        - longer: tokens of a correct rollout, weighted by novelty, over their plain mean;
        - distinct_first, distinct_last: distinct texts per correct rollout, in the first and in the last
          tenth of the steps.
    """
    all_steps = list(steps)
    correct = _correct(all_steps)
    novelty = sum(rollout.novelty for rollout in correct)
    if novelty <= 0:
        return {}

    def share(chosen: Iterable[_CorrectRollout]) -> float:
        return float(sum(rollout.novelty for rollout in chosen) / novelty)

    new = [rollout.novelty for rollout in correct if rollout.novelty > REPEAT]
    tenth = max(1, len(all_steps) // 10)
    tokens = sum(rollout.tokens for rollout in correct)
    weighted = sum(rollout.novelty * rollout.tokens for rollout in correct) / novelty
    return {
        "correct_new": len(new) / len(correct),
        "new_mean": sum(new) / max(1, len(new)),
        "to_all_right": share(rollout for rollout in correct if rollout.group_all_right),
        "to_guided": share(rollout for rollout in correct if rollout.record.guided),
        "to_first_seen": share(rollout for rollout in correct if rollout.first_seen),
        "longer": float(weighted * len(correct) / tokens),
        "distinct_first": _distinct(_correct(all_steps[:tenth])),
        "distinct_last": _distinct(_correct(all_steps[-tenth:])),
    }


def _correct(steps: Iterable[Sequence[RolloutRecord]]) -> list[_CorrectRollout]:
    seen: set[tuple[str, str]] = set()
    found = []
    for records in steps:
        for _, members in groupby(records, key=lambda record: record.group):
            group = list(members)
            all_right = group_outcome(group).all_right
            for record in group:
                if record.correct:
                    text = (record.prompt_id, record.text)
                    novelty, tokens = record.novelty or 0.0, record.tokens or 0
                    found.append(_CorrectRollout(record, novelty, tokens, all_right, text not in seen))
                    seen.add(text)
    return found


def _distinct(correct: Sequence[_CorrectRollout]) -> float:
    texts = {(rollout.record.prompt_id, rollout.record.text) for rollout in correct}
    return len(texts) / max(1, len(correct))
