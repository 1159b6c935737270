"""The report of which rollouts a bonus was paid for."""

from typing import Any

import pytest

from extra_rl.vocabulary import UnparseableSide, VerdictStatus
from extra_trainer.reports.bonus import bonus_summary
from extra_trainer.runs.schema import RolloutRecord
from support.run_folders import rollout_record

EASY, HARD, HARD_GUIDED = range(3)


def rollout(group: int, text: str, status: str, novelty: float, **more: Any) -> RolloutRecord:
    values = {"prompt_id": "easy" if group == EASY else "hard", "guided": group == HARD_GUIDED, "tokens": 10}
    verdict = VerdictStatus(status)
    return rollout_record(group=group, text=text, status=verdict, novelty=novelty, **{**values, **more})


def test_the_bonus_is_summed_by_kind_of_group_and_by_text() -> None:
    first = [
        rollout(EASY, "a", "correct", 0.0),
        rollout(EASY, "b", "correct", 0.3, tokens=30),
        rollout(HARD, "c", "wrong", 0.0),
        rollout(HARD, "d", "correct", 0.1),
        # The same prompt from a prefix is a group of its own.
        rollout(HARD_GUIDED, "e", "correct", 0.4),
    ]
    second = [rollout(EASY, "b", "correct", 0.2), rollout(EASY, "f", "wrong", 0.0)]
    summary = bonus_summary([first, second])
    assert summary["correct_new"] == pytest.approx(4 / 5)
    assert summary["new_mean"] == pytest.approx(0.25)
    assert summary["to_all_right"] == pytest.approx(0.7)
    assert summary["to_guided"] == pytest.approx(0.4)
    assert summary["to_first_seen"] == pytest.approx(0.8)
    assert summary["longer"] == pytest.approx((0.7 * 10 + 0.3 * 30) / 14)
    assert (summary["distinct_first"], summary["distinct_last"]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("status", "side", "all_right"),
    [
        ("timeout", None, True),
        ("error", None, True),
        ("unparseable", UnparseableSide.ANSWER, True),
        ("unparseable", UnparseableSide.RESPONSE, False),
        ("wrong", None, False),
    ],
)
def test_a_group_is_all_right_by_its_decided_rollouts(
    status: str, side: UnparseableSide | None, all_right: bool
) -> None:
    group = [rollout(EASY, "a", "correct", 0.1), rollout(EASY, "b", status, 0.0, unparseable_side=side)]
    assert bonus_summary([group])["to_all_right"] == float(all_right)


def test_without_novelty_the_summary_is_empty() -> None:
    assert bonus_summary([[rollout(EASY, "a", "correct", 0.0)], []]) == {}
