"""Leaves suspicious rollouts out of a group, each with the reason for which somebody should look at it.

A suspicious rollout has nothing that could be compared: its text is blank, or the embedding model knows no
character of it, so that all such texts have one and the same vector. The metric `derivation` knows more
reasons. The rollout gets novelty 0, is compared with nothing and is not stored; its group is scored without
it, so one bad completion never fails a group.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import Metric
from extra_services.memory import instruments
from extra_services.novelty.derivation import ASTRAY, LEAST_STEPS, UNRELATED, Derivation, derivation, related
from extra_services.novelty.own_text import BLANK, UNKNOWN_SCRIPT
from extra_services.novelty.problem import statement
from extra_services.novelty.request import RolloutGroup

#: A part of a reason -> its label in the metrics: reasons may hold numbers, and labels must be few.
LABELS = {
    "blank": "blank",
    "script": "unknown_script",
    "hardly any derivation": "hardly_any_derivation",
    "hardly any relation": "hardly_any_relation",
    "behind the final answer": "behind_the_answer",
    "grammar": "no_grammar",
    "list of numbers": "list_of_numbers",
    "repeated": "repeated",
    "false equations": "false_equations",
}
# From the start, so that their first increase is seen as one.
for _label in (*LABELS.values(), "other"):
    instruments.SUSPICIOUS.labels(_label)
#: A letter or digit that every embedding model knows.
_KNOWN = re.compile(r"[A-Za-z0-9]")


@dataclass(frozen=True)
class JudgedGroup:
    """What is left of a group's rollouts."""

    #: Positions of the rollouts that are not suspicious, int64 [m].
    rows: NDArray[np.int64]
    #: Position -> reason, of the others.
    suspicious: dict[int, str] = field(default_factory=dict)
    #: Metric derivation: the derivations of `rows`.
    derivations: list[Derivation] = field(default_factory=list)


def judge(
    group: RolloutGroup,
    rows: NDArray[np.int64],
    metric: Metric,
    unreadable: Callable[[list[str]], list[bool]],
) -> JudgedGroup:
    """Judge the rollouts of a checked group that would count.

    Args:
        group: The group; one with embeddings in the place of texts is not judged.
        rows: Positions of the rollouts to judge.
        metric: A metric on embeddings.
        unreadable: Returns for each text whether the embedding model knows none of its characters.
    """
    if group.texts is None:
        return JudgedGroup(rows)
    texts = [group.texts[row] for row in rows.tolist()]
    found: list[Derivation] = []
    if metric is Metric.DERIVATION:
        stated = statement(group.problem, group.reference_answer)
        found = [derivation(text, stated) for text in texts]
        reasons = [reason_against(each) for each in found]
    else:
        reasons = [BLANK if not text.strip() else "" for text in texts]
    # Few texts have no such character, and only those are given to the tokenizer.
    doubtful = [i for i, text in enumerate(texts) if text.strip() and not _KNOWN.search(text)]
    unknown = unreadable([texts[i] for i in doubtful]) if doubtful else []
    for i in (i for i, none in zip(doubtful, unknown, strict=True) if none):
        reasons[i] = UNKNOWN_SCRIPT
    count_suspicious(filter(None, reasons))
    return JudgedGroup(
        rows[[not reason for reason in reasons]] if any(reasons) else rows,
        {row: reason for row, reason in zip(rows.tolist(), reasons, strict=True) if reason},
        [each for each, reason in zip(found, reasons, strict=False) if not reason],
    )


def without_unrelated(
    judged: JudgedGroup, vectors: NDArray[np.float32], problem: NDArray[np.float32]
) -> tuple[JudgedGroup, NDArray[np.float32], NDArray[np.float32]]:
    """Leave out what has hardly any relation to the problem: rollouts, and parts of them.

    Args:
        judged: A judged group.
        vectors: Unit vectors of its derivations' texts `to_embed`, one after the other, float32 [texts, d].
        problem: Unit vector of the problem, float32 [d]; NaN if it is not known.

    Returns:
        The group, unit vectors of its rollouts, float32 [m, d], and their similarities to the problem [m].
    """
    derivations, joined, kept, similarities = [], [vectors[:0]], [], []
    reasons: dict[int, str] = {}
    start = 0
    for place, whole in enumerate(judged.derivations):
        end = start + len(whole.to_embed)
        found, vector, similarity = related(whole, vectors[start:end], problem)
        start = end
        if reason := reason_against_related(found, similarity):
            reasons[int(judged.rows[place])] = reason
            continue
        kept.append(place)
        derivations.append(found)
        joined.append(vector[None])
        similarities.append(similarity)
    count_suspicious(reasons.values())
    left = JudgedGroup(judged.rows[kept], judged.suspicious | reasons, derivations)
    return left, np.concatenate(joined), np.array(similarities, dtype=np.float32)


def count_suspicious(reasons: Iterable[str]) -> None:
    """Count rollouts that are left out, by the kind of the reason."""
    for reason in reasons:
        label = next((LABELS[part] for part in LABELS if part in reason), "other")
        instruments.SUSPICIOUS.labels(label).inc()


def reason_against_related(found: Derivation, similarity: float) -> str:
    """Return why a rollout is left out now that its similarity to the problem is known, or ""."""
    if similarity < UNRELATED:
        needed = UNRELATED + ASTRAY * found.astray
        why = " by steps that do not lead to the answer, or are hardly its own" if found.astray else ""
        return (
            f"hardly any relation to the problem: similarity {similarity + needed - UNRELATED:.2f},"
            f" {needed:g} is needed{why}"
        )
    return reason_against(found)


def reason_against(found: Derivation) -> str:
    """Return why a rollout with this derivation is left out, or ""."""
    if found.suspicious or not found.empty:
        return found.suspicious
    return f"hardly any derivation: {found.steps} numbers and relations, {LEAST_STEPS} are needed"
