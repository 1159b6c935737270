"""Advantages: plain GRPO without a bonus, the bonus only for correct rollouts, undecided ones left out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from extra_trainer.exploration.advantage import Placement, advantages, normalise

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8)
REWARDS = SHAPES.flatmap(lambda shape: hnp.arrays(float, shape, elements=st.sampled_from([0.0, 1.0])))
BOTH: list[Placement] = ["after_normalization", "before_normalization"]


def _all(values: np.ndarray) -> np.ndarray:
    return np.ones_like(values, dtype=bool)


@pytest.mark.parametrize("placement", BOTH)
@given(rewards=REWARDS)
def test_without_a_bonus_advantages_are_grpo_s(placement: Placement, rewards: np.ndarray) -> None:
    found = advantages(rewards, np.zeros_like(rewards), _all(rewards), placement=placement)
    if rewards.shape[1] > 1:
        std = rewards.std(axis=1, ddof=1, keepdims=True)
        expected = (rewards - rewards.mean(axis=1, keepdims=True)) / (std + 1e-6)
        assert np.allclose(found, expected)
    else:
        assert np.allclose(found, rewards, atol=1e-5)


@given(rewards=REWARDS, data=st.data())
def test_after_normalization_only_correct_rollouts_gain_and_by_their_own_bonus(
    rewards: np.ndarray, data: st.DataObject
) -> None:
    bonus = data.draw(hnp.arrays(float, rewards.shape, elements=st.floats(0, 2)))
    plain = advantages(rewards, 0 * bonus, _all(rewards), placement="after_normalization")
    found = advantages(rewards, bonus, _all(rewards), placement="after_normalization")
    assert np.allclose(found - plain, np.where(rewards > 0, bonus, 0))


@pytest.mark.parametrize("placement", BOTH)
@given(rewards=REWARDS, data=st.data())
def test_an_undecided_rollout_has_no_advantage_and_changes_nobody_else_s(
    placement: Placement, rewards: np.ndarray, data: st.DataObject
) -> None:
    counted = data.draw(hnp.arrays(bool, rewards.shape))
    bonus = data.draw(hnp.arrays(float, rewards.shape, elements=st.floats(0, 2)))
    found = advantages(rewards, bonus, counted, placement=placement)
    assert (found[~counted] == 0).all()
    for row in range(len(rewards)):
        kept = counted[row]
        if kept.any():
            alone = [part[row][kept][None] for part in (rewards, bonus, counted)]
            assert np.allclose(found[row][kept], advantages(*alone, placement=placement)[0])


def test_an_all_correct_group_has_a_gradient_toward_the_rarer_solution() -> None:
    rewards, bonus = np.ones((1, 4)), np.array([[0.0, 0.0, 0.0, 0.1]])
    found = advantages(rewards, bonus, _all(rewards), placement="after_normalization")
    assert found.tolist() == [[0, 0, 0, 0.1]]


def test_without_division_the_spread_of_rewards_is_kept() -> None:
    rewards = np.array([[1.0, 0.0, 0.0, 0.0]])
    assert normalise(rewards, _all(rewards), divide_by_std=False).tolist() == [[0.75, -0.25, -0.25, -0.25]]
