"""The exploration metrics of a step, under stable names (trainer/README.md describes each)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extra_client import Verdict
from extra_client.integrations import component_means
from extra_rl.final_answer import characters_behind_answer
from extra_trainer.exploration.advantage import StepAdvantages
from extra_trainer.exploration.results import GroupNovelty
from extra_trainer.rollouts.collector import Group


def step_metrics(groups: Sequence[Group], novelty: Sequence[GroupNovelty]) -> dict[str, float]:
    """Return name -> value over the groups of a step.

    Args:
        groups: The groups of the batch.
        novelty: The novelty of each of them.
    """
    outcomes = [group.outcome for group in groups]
    decided = sum(outcome.decided for outcome in outcomes)
    undecided = sum(verdict.correct is None for group in groups for verdict in group.verdicts)
    raw = np.stack([group.raw for group in novelty])
    correct = np.stack([group.correct for group in groups])
    guided = [group for group in groups if group.request.guided]
    suspicious = np.stack([_suspicious(group) for group in novelty])
    behind = [
        characters_behind_answer(rollout.text)
        for group in groups
        for rollout, right in zip(group.rollouts, group.correct, strict=True)
        if right
    ]
    entropies = np.concatenate([r.entropies for g in groups for r in g.rollouts])
    return {
        "reward": float(correct.sum() / max(decided, 1)),
        "groups_all_right": float(np.mean([outcome.all_right for outcome in outcomes])),
        "groups_all_wrong": float(np.mean([outcome.all_wrong for outcome in outcomes])),
        "groups_mixed": float(np.mean([outcome.mixed for outcome in outcomes])),
        "novelty": float(raw[correct].mean()) if correct.any() else 0.0,
        "novelty_std": float(raw[correct].std()) if correct.any() else 0.0,
        "suspicious": float(suspicious[correct].mean()) if correct.any() else 0.0,
        "behind_answer": float(np.mean(behind)) if behind else 0.0,
        "guided_groups": float(len(guided)),
        "guided_rescued": float(sum(group.outcome.correct > 0 for group in guided)),
        "entropy": float(entropies.mean()),
        "undecided": float(undecided),
        "cut_off": float(np.mean([group.cut_off for group in groups])),
        **_masked(groups),
        "response_tokens": float(np.mean([len(r.token_ids) for g in groups for r in g.rollouts])),
        **_scores([verdict for group in groups for verdict in group.verdicts]),
    }


def _masked(groups: Sequence[Group]) -> dict[str, float]:
    """Return the number of masked rollouts, if the run masks any."""
    masks = any(group.mask_cut_off for group in groups)
    return {"masked": float(sum(group.masked.sum() for group in groups))} if masks else {}


def version_metrics(groups: Sequence[Group], version: int) -> dict[str, float]:
    """Return name -> value of how far the rollouts of a step are behind the policy that they update.

    Args:
        groups: The groups of the step.
        version: The version of that policy.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    versions = np.array([rollout.policy_version for rollout in rollouts])
    return {
        "policy_version": float(versions.min()),
        "staleness": float(version - versions.mean()),
        "staleness_max": float(version - versions.min()),
        "weights_changed": float(np.mean([bool(rollout.policy_changes) for rollout in rollouts])),
    }


def advantage_metrics(advantages: StepAdvantages) -> dict[str, float]:
    """Return name -> value of a step's advantages, over all samples."""
    return {
        "advantage": float(advantages.advantages.mean()),
        "novelty_bonus": float(advantages.bonus.mean()),
        "samples_with_gradient": float((advantages.advantages != 0).mean()),
    }


def _scores(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return the mean `score`, and those of named components as `score/NAME`."""
    means = component_means(verdicts)
    return {name if name == "score" else f"score/{name}": mean for name, mean in means.items()}


def _suspicious(group: GroupNovelty) -> NDArray[np.bool_]:
    """Return whether the novelty service found each rollout suspicious, bool [n]."""
    if not group.suspicious:
        return np.zeros(len(group.raw), dtype=np.bool_)
    return np.array([bool(reason) for reason in group.suspicious])


def outcome_metrics(novelty: Sequence[GroupNovelty], advantages: StepAdvantages) -> dict[str, float]:
    """Return name -> value of what outcome novelty did in a step.

    Args:
        novelty: The novelty of each group.
        advantages: The advantages of the step.
    """
    acted = [group.outcome for group in novelty if group.outcome is not None]
    scored = np.array(
        [
            np.zeros(len(group.raw), np.bool_) if group.outcome is None else group.outcome.scored
            for group in novelty
        ]
    )
    paid = np.abs(advantages.outcome_bonus[scored])
    return {
        "outcome_groups": len(acted) / len(novelty),
        "outcome_answers": float(np.mean([group.distinct for group in acted])) if acted else 0.0,
        "outcome_bonus": float(paid.mean()) if paid.size else 0.0,
    }
