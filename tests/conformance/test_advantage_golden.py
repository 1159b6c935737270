"""Advantages equal those of ExTra's reference implementation."""

import json
from pathlib import Path

import numpy as np
import pytest

from extra_trainer.exploration.advantage import Placement, advantages


def test_advantages_equal_the_reference(golden_folder: Path) -> None:
    cases = [json.loads(line) for line in (golden_folder / "advantage.jsonl").open()]
    assert cases
    for case in cases:
        shape = (-1, case["group_size"])
        rewards = np.array(case["rewards"]).reshape(shape)
        bonus = case["alpha"] * np.array(case["novelty"]).reshape(shape)
        placement: Placement = (
            "after_normalization" if case["novelty_after_normalization"] else "before_normalization"
        )
        found = advantages(
            rewards,
            bonus,
            np.ones_like(rewards, bool),
            placement=placement,
            divide_by_std=case["divide_by_std"],
        )
        assert found.ravel() == pytest.approx(case["expected_advantage"], abs=1e-5), case["scenario"]
