"""What a run's novelty bonus was paid for, from the rollouts it left.

A bonus is proportional to a correct rollout's novelty; these figures say to whom it went. They are of novelty
as measured, before an experiment's control shuffles or levels it.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

#: Below this a solution repeats a known one, as far as float32 similarity tells.
REPEAT = 1e-5


def what_was_paid(steps: Iterable[list[dict[str, Any]]]) -> dict[str, float]:
    """Figures of the rollouts of all steps, in order (records of RunFolder.write_rollouts).

    - correct_new: share of correct rollouts with any novelty;
    - new_mean: mean novelty of these (1 - cosine);
    - to_all_right, to_guided, to_first_seen: share of all novelty that went to groups without a wrong one,
      to guided groups, and to texts that were not seen before for their prompt;
    - longer: tokens of a correct rollout, weighted by novelty, over their plain mean;
    - distinct_first, distinct_last: distinct texts a correct rollout, in the first and in the last tenth of
      the steps.

    Empty if no correct rollout was novel.
    """
    all_steps = list(steps)
    correct = _correct(all_steps)
    novelty = sum(record["novelty"] for record in correct)
    if novelty <= 0:
        return {}

    def share(which: str) -> float:
        return float(sum(record["novelty"] for record in correct if record[which]) / novelty)

    new = [record["novelty"] for record in correct if record["novelty"] > REPEAT]
    tenth = max(1, len(all_steps) // 10)
    weighted = sum(record["novelty"] * record["tokens"] for record in correct) / novelty
    return {
        "correct_new": len(new) / len(correct),
        "new_mean": sum(new) / max(1, len(new)),
        "to_all_right": share("all_right"),
        "to_guided": share("guided"),
        "to_first_seen": share("first_seen"),
        "longer": float(weighted * len(correct) / sum(record["tokens"] for record in correct)),
        "distinct_first": _distinct(_correct(all_steps[:tenth])),
        "distinct_last": _distinct(_correct(all_steps[-tenth:])),
    }


def _correct(steps: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Correct rollouts, each with whether its group was all right and its text new to its prompt."""
    seen: set[tuple[str, str]] = set()
    found = []
    for records in steps:
        for _, members in groupby(records, key=lambda record: record["group"]):
            group = list(members)
            right = [record for record in group if record["status"] == "correct"]
            for record in right:
                text = (record["prompt_id"], record["text"])
                found.append(
                    {**record, "all_right": len(right) == len(group), "first_seen": text not in seen}
                )
                seen.add(text)
    return found


def _distinct(correct: list[dict[str, Any]]) -> float:
    return len({(record["prompt_id"], record["text"]) for record in correct}) / max(1, len(correct))
