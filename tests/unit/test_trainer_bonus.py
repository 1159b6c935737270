"""The report of which rollouts a bonus was paid for."""

from typing import Any

import pytest

from extra_trainer.reports.bonus import what_was_paid


def rollout(prompt: str, text: str, status: str, novelty: float, **more: Any) -> dict[str, Any]:
    record = {"prompt_id": prompt, "group": prompt, "guided": False, "tokens": 10}
    return {**record, "text": text, "status": status, "novelty": novelty, **more}


def test_the_bonus_is_told_by_kind_of_group_and_by_text() -> None:
    first = [
        rollout("easy", "a", "correct", 0.0),
        rollout("easy", "b", "correct", 0.3, tokens=30),
        rollout("hard", "c", "wrong", 0.0),
        rollout("hard", "d", "correct", 0.1),
        # The same prompt from a prefix is a group of its own.
        rollout("hard", "e", "correct", 0.4, group="hard, guided", guided=True),
    ]
    second = [rollout("easy", "b", "correct", 0.2), rollout("easy", "f", "wrong", 0.0)]
    paid = what_was_paid([first, second])
    assert paid["correct_new"] == pytest.approx(4 / 5)
    assert paid["new_mean"] == pytest.approx(0.25)
    assert paid["to_all_right"] == pytest.approx(0.7)
    assert paid["to_guided"] == pytest.approx(0.4)
    assert paid["to_first_seen"] == pytest.approx(0.8)
    assert paid["longer"] == pytest.approx((0.7 * 10 + 0.3 * 30) / 14)
    assert (paid["distinct_first"], paid["distinct_last"]) == (1.0, 1.0)


def test_without_novelty_there_is_nothing_to_tell() -> None:
    assert what_was_paid([[rollout("easy", "a", "correct", 0.0)], []]) == {}
