"""Advantages computed from groups equal those computed from OpenRLHF's batches, in any order of samples.

`batch_advantages` is the computation on OpenRLHF's side: per-sample values in float32 tensors, spread over
micro-batches in any order, sorted back by their place and reshaped into groups.
"""

import random
import subprocess
import sys
import textwrap
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from extra_client import VerdictStatus
from extra_trainer.config import NoveltyConfig, OutcomeConfig
from extra_trainer.exploration.advantage import (
    StepAdvantages,
    advantages,
    controlled,
    outcome_bonuses,
    step_advantages,
)
from extra_trainer.exploration.results import GroupNovelty, OutcomeNovelty
from extra_trainer.rollouts.collector import Group, RolloutRequest
from support.rollouts import made_rollout, made_verdict

GROUPS, SAMPLES = 7, 4
SEED = 3


def batch_advantages(
    groups: list[Group],
    novelty: list[GroupNovelty],
    micro_batches: list[list[int]],
    settings: NoveltyConfig,
    divide_by_std: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 advantages and bonuses [samples] of samples that are split into micro-batches."""
    samples: list[dict[str, float]] = []
    for group, scores in zip(groups, novelty, strict=True):
        for sample in range(SAMPLES):
            known, correct = bool(group.decided[sample]), bool(group.correct[sample])
            rate = group.correct.sum() / group.decided.sum() if group.decided.any() else float("nan")
            samples.append(
                {
                    "reward": float(correct) if known else float(np.nan_to_num(rate)),
                    "novelty": float(scores.scaled[sample]),
                    "reward_variance": scores.reward_variance,
                    "decided": float(known),
                }
            )
    order = np.concatenate(micro_batches)

    def in_groups(name: str) -> np.ndarray:
        parts = [torch.tensor([samples[place][name] for place in batch]) for batch in micro_batches]
        values = torch.cat([part.double() for part in parts]).numpy()
        placed = np.empty_like(values)
        placed[order] = values
        grouped: np.ndarray = placed.reshape(-1, SAMPLES)
        return grouped

    rewards, decided = in_groups("reward"), in_groups("decided") > 0
    bonus = settings.alpha * in_groups("novelty")
    if settings.placement == "before_normalization":
        bonus = bonus * np.exp(-settings.variance_decay * in_groups("reward_variance"))
    if settings.control is not None:
        bonus = controlled(bonus, decided & (rewards > 0), settings.control, SEED)
    values = advantages(
        rewards, bonus, decided, placement=settings.placement, divide_by_std=divide_by_std
    ).ravel()
    paid = np.where(decided & (rewards > 0), bonus, 0.0).ravel()
    return values.astype(np.float32), paid.astype(np.float32)


def _step(seed: int, undecided: bool) -> tuple[list[Group], list[GroupNovelty]]:
    """Groups of every kind: mixed, all right, all wrong, undecided in part and as a whole."""
    draw = np.random.default_rng(seed)
    statuses = [VerdictStatus.CORRECT, VerdictStatus.WRONG, VerdictStatus.UNPARSEABLE]
    statuses += [VerdictStatus.TIMEOUT, VerdictStatus.ERROR] if undecided else []
    drawn = [[statuses[i] for i in draw.integers(0, len(statuses), SAMPLES)] for _ in range(GROUPS - 4)]
    drawn += [[VerdictStatus.CORRECT, *[VerdictStatus.WRONG] * (SAMPLES - 1)]]
    drawn += [[VerdictStatus.CORRECT] * SAMPLES, [VerdictStatus.WRONG] * SAMPLES]
    drawn += [[VerdictStatus.TIMEOUT if undecided else VerdictStatus.WRONG] * SAMPLES]
    groups, novelty = [], []
    for number, row in enumerate(drawn):
        request = RolloutRequest(f"p{number}", f"id{number}", (1,), "1")
        rollouts = [made_rollout(sample) for sample in range(SAMPLES)]
        groups.append(Group(request, rollouts, [made_verdict(status) for status in row]))
        # The service returns novelty as float32 and the variance as float64.
        scaled = draw.random(SAMPLES, dtype=np.float32).astype(np.float64) * groups[-1].decided
        novelty.append(GroupNovelty(scaled, scaled, float(draw.random())))
    return groups, novelty


def _micro_batches(seed: int) -> list[list[int]]:
    """All places in random order and random sizes, as dynamic batches are."""
    places = list(range(GROUPS * SAMPLES))
    shuffle = random.Random(seed)
    shuffle.shuffle(places)
    cuts = sorted(shuffle.sample(range(1, len(places)), 5))
    return [places[a:b] for a, b in zip([0, *cuts], [*cuts, len(places)], strict=True)]


@pytest.mark.parametrize(
    ("placement", "control", "divide_by_std", "undecided"),
    # A list: an iterator would be empty when the file is collected again in one process, as mutmut does.
    list(
        product(
            ["after_normalization", "before_normalization"],
            [None, "shuffled", "constant"],
            [True, False],
            [False, True],
        )
    ),
)
def test_advantages_of_groups_equal_those_of_batches_in_any_order(
    placement: str, control: str | None, divide_by_std: bool, undecided: bool
) -> None:
    settings = NoveltyConfig.model_validate(
        {"placement": placement, "control": control, "alpha": 0.3, "variance_decay": 0.7}
    )
    for seed in range(10):
        groups, novelty = _step(seed, undecided)
        found = step_advantages(
            groups, novelty, settings, OutcomeConfig(), divide_by_std=divide_by_std, seed=SEED, step=1
        )
        for order in (_micro_batches(seed), [[place] for place in range(GROUPS * SAMPLES)]):
            values, bonus = batch_advantages(groups, novelty, order, settings, divide_by_std)
            assert found.advantages.astype(np.float32).ravel().tolist() == values.tolist()
            assert found.bonus.astype(np.float32).ravel().tolist() == bonus.tolist()
        assert np.abs(values).sum() > 0


def test_undecided_rollouts_and_evaluation_have_no_advantage() -> None:
    groups, novelty = _step(0, undecided=True)
    found = step_advantages(
        groups, novelty, NoveltyConfig(), OutcomeConfig(), divide_by_std=True, seed=SEED, step=1
    )
    for place, group in enumerate(groups):
        assert (found.advantages[place][~group.decided] == 0).all()
        assert (found.bonus[place][~group.correct] == 0).all()
    zeros = StepAdvantages.zeros(groups)
    assert zeros.advantages.shape == zeros.bonus.shape == (GROUPS, SAMPLES)
    assert not zeros.advantages.any()


def _outcome(times: list[int], wrong: list[bool]) -> OutcomeNovelty:
    scored = np.array(wrong)
    counts = np.where(scored, times, 0).astype(np.float64)
    values = np.where(scored, 1 / np.sqrt(np.maximum(counts, 1)), 0.0)
    return OutcomeNovelty(scored, values, counts, len(set(counts[scored])))


def test_outcome_bonuses_are_centred_over_the_wrong_rollouts_alone() -> None:
    groups = [None, _outcome([1, 4, 9, 0], [True, True, False, False])]
    bonus = outcome_bonuses(groups, 4, OutcomeConfig(beta=0.3), seed=0, step=1)
    assert bonus[0].tolist() == [0] * 4
    assert bonus[1].tolist() == pytest.approx([0.075, -0.075, 0, 0])
    plain = outcome_bonuses(groups, 4, OutcomeConfig(beta=0.3, center=False), seed=0, step=1)
    assert plain[1].tolist() == pytest.approx([0.3, 0.15, 0, 0])


def test_shuffled_outcome_bonuses_are_the_same_ones_and_a_repeated_step_repeats_them() -> None:
    groups = [_outcome([1, 2, 3, 4, 5, 6, 7, 8], [True] * 7 + [False])] * 4
    plain = outcome_bonuses(groups, 8, OutcomeConfig(), seed=0, step=7)
    settings = OutcomeConfig(control="shuffled")
    shuffled = outcome_bonuses(groups, 8, settings, seed=0, step=7)
    assert np.sort(shuffled[:, :7]).tolist() == np.sort(plain[:, :7]).tolist()
    assert not shuffled[:, 7].any()
    assert len({tuple(row) for row in shuffled}) > 1, "each group has an order of its own"
    assert shuffled.tolist() == outcome_bonuses(groups, 8, settings, seed=0, step=7).tolist()
    assert shuffled.tolist() != outcome_bonuses(groups, 8, settings, seed=0, step=8).tolist()


def test_a_step_s_outcome_bonuses_are_added_and_their_shuffle_depends_on_seed_and_step() -> None:
    groups, novelty = _step(0, undecided=False)
    outcome = [_outcome([1, 2, 3, 4], (~group.correct).tolist()) for group in groups]
    novelty = [replace(each, outcome=its) for each, its in zip(novelty, outcome, strict=True)]

    def step(settings: OutcomeConfig, seed: int, step: int) -> StepAdvantages:
        return step_advantages(
            groups, novelty, NoveltyConfig(), settings, divide_by_std=True, seed=seed, step=step
        )

    without = step_advantages(
        groups,
        _step(0, undecided=False)[1],
        NoveltyConfig(),
        OutcomeConfig(),
        divide_by_std=True,
        seed=1,
        step=2,
    )
    found = {
        (seed, number): step(OutcomeConfig(control="shuffled"), seed, number)
        for seed, number in ((1, 2), (1, 3), (4, 2))
    }
    for (seed, number), each in found.items():
        wanted = outcome_bonuses(outcome, SAMPLES, OutcomeConfig(control="shuffled"), seed=seed, step=number)
        assert each.outcome_bonus.tolist() == wanted.tolist()
        assert each.bonus.tolist() == without.bonus.tolist()
        assert each.advantages.tolist() == (without.advantages + wanted).tolist()
    assert len({each.outcome_bonus.tobytes() for each in found.values()}) == len(found)


def test_openrlhf_s_experiences_get_each_sample_s_own_advantage_at_its_action_tokens() -> None:
    # In a process of its own: OpenRLHF is imported with CUDA calls replaced.
    code = textwrap.dedent(
        """
        from extra_trainer.openrlhf import replacements
        replacements.install()
        from types import SimpleNamespace as N
        import torch
        from openrlhf.trainer.ppo_utils.experience import Experience
        from extra_trainer.openrlhf.experience import ExTraExperienceMaker

        advantage = N(estimator="group_norm", gamma=1.0, lambd=1.0)
        args = N(
            algo=N(advantage=advantage), reward=N(clip_range=None), rollout=N(n_samples_per_prompt=2),
            train=N(dynamic_batch_enable=False),
        )
        base = N(
            actor_model_group=None, critic_model_group=None, reward_model_group=None,
            initial_model_group=None, kl_ctl=N(value=0.0), strategy=N(args=args), tokenizer=None,
        )
        maker = ExTraExperienceMaker(base)
        own = [0.5, -0.25, 1.5, -2.0]
        def batch(places):
            mask = torch.tensor([[0, 1, 1, int(place % 2)] for place in places])
            one = torch.ones(len(places))
            return Experience(
                index=list(places), action_mask=mask, kl=torch.zeros(mask.shape),
                rewards=one * (places[0] % 2),
                info={"reward": one, "advantage": torch.tensor([own[place] for place in places])},
            )
        for order in ([[0, 1], [2, 3]], [[3, 0], [1], [2]]):
            for experience in maker.compute_advantages_and_returns([batch(places) for places in order]):
                expected = torch.tensor([[own[place]] for place in experience.index]) * experience.action_mask
                assert torch.equal(experience.advantages, expected), experience.advantages
                assert torch.equal(experience.returns, expected)
        print("equal")
        """
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split()[-1] == "equal"
