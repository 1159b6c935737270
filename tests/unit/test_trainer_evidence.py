"""The summary of an experiment: paired differences, comparable results, and controls."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console

from extra_rl.config_file import ConfigError
from extra_trainer.experiments import evidence
from extra_trainer.experiments.evidence import KEPT, Result
from extra_trainer.experiments.experiment import Experiment, PlannedRun
from extra_trainer.exploration.advantage import controlled

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = ROOT / "trainer/experiments/rehearsal.yaml"


def _result(arm: str, seed: int, first: float, sixteenth: float, start_model: str = "one") -> Result:
    steps = {name: [0.5] * 8 for name in KEPT} | {"groups_all_right": [0.0] * 4 + [0.2] * 4}
    # As in results that were made before it was recorded.
    del steps["groups_mixed"]
    after = {"pass@1": first, "pass@16": sixteenth}
    return Result(
        arm=arm,
        seed=seed,
        config={},
        start_model=start_model,
        before={"pass@1": 0.3, "pass@16": 0.7},
        after=after,
        correct=[1],
        steps=steps,
        paid={"correct_new": 0.25} if arm == "paper" else {},
        generated_tokens=1000,
        updates=8,
        seconds=1.0,
    )


def test_arms_are_compared_by_pairs_of_runs_of_one_seed() -> None:
    found = [_result("grpo", 0, 0.40, 0.80), _result("grpo", 1, 0.60, 0.90), _result("paper", 2, 0.99, 0.99)]
    found += [_result("paper", 0, 0.42, 0.85), _result("paper", 1, 0.64, 0.95)]
    summary = evidence.summarize(found, ["grpo"])
    assert summary["arms"]["paper"]["pass@1"] == [0.99, 0.42, 0.64]
    gain = summary["differences"]["paper"]["pass@1"]
    assert (gain["mean"], gain["seeds"]) == (pytest.approx(0.03), 2)
    # Student's t with one degree of freedom, 12.706, times 0.01414 / sqrt(2).
    assert gain["interval"] == pytest.approx([0.03 - 0.12706, 0.03 + 0.12706], abs=1e-4)
    assert summary["differences"]["paper"]["pass@16"]["interval"] == pytest.approx([0.05, 0.05])
    # Half of the groups all wrong, a tenth all right.
    assert summary["arms"]["grpo"]["groups_mixed"] == pytest.approx([0.4, 0.4])


def test_the_table_names_the_baselines() -> None:
    found = [_result(arm, 0, 0.4, 0.8) for arm in ("low", "requeue", "paper")]
    baselines = ["absent", "low", "requeue"]
    head, *rows = evidence.table(evidence.summarize(found, baselines), baselines)
    metrics = ("pass@1", "pass@16", "groups_mixed")
    compared = [f"{metric} - {baseline}" for baseline in ("low", "requeue") for metric in metrics]
    assert head[5:11] == compared
    assert all(len(row) == len(head) for row in rows)
    head, *rows = evidence.table(evidence.summarize(found, []), [])
    assert not any(" - " in name for name in head)
    assert all(len(row) == len(head) for row in rows)


def test_groups_without_a_verdict_are_not_mixed() -> None:
    result = _result("grpo", 0, 0.4, 0.8)
    assert result.figures()["groups_mixed"] == pytest.approx(0.4)
    steps = {**result.steps, "groups_mixed": [0.25] * 8}
    assert result.model_copy(update={"steps": steps}).figures()["groups_mixed"] == pytest.approx(0.25)


def test_one_pair_has_no_interval() -> None:
    assert evidence.paired([0.1]) == {"mean": 0.1, "interval": [None, None], "seeds": 1}


def test_what_is_there_makes_the_whole_evidence(tmp_path: Path) -> None:
    paper = _result("paper", 0, 0.4, 0.8)
    for result in (_result("grpo", 0, 0.4, 0.8), _result("requeue", 0, 0.5, 0.7), paper):
        result.save(tmp_path / "runs")
    evidence.write(tmp_path / "runs", tmp_path, ["grpo", "requeue"], "the command")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["differences"]["requeue"]["pass@16"]["mean"] == pytest.approx(-0.1)
    assert summary["differences_to_requeue"]["grpo"]["pass@16"]["mean"] == pytest.approx(0.1)
    assert "the command" in (tmp_path / "table.md").read_text()
    assert "| paper | 0.250 |" in (tmp_path / "table.md").read_text()
    assert "+10.0" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "curves.json").read_text())["grpo"]["reward"]["mean"] == [0.5] * 4


def test_results_of_other_settings_are_not_added_to(tmp_path: Path) -> None:
    this = Experiment(EXPERIMENT, tmp_path, tmp_path / "runs", tmp_path, Console(quiet=True))
    _result("grpo", 0, 0.4, 0.8).save(tmp_path / "runs")
    with pytest.raises(ConfigError, match="made with other settings"):
        this.train(seeds=1, arms=["grpo"], minutes=None)
    with pytest.raises(ConfigError, match="there is no arm 'gpro'"):
        this.train(seeds=1, arms=["gpro"], minutes=None)


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("rehearsal", "."),
        ("tuning", "tuning"),
        ("easy", "easy"),
        ("self-correcting", "self-correcting"),
        ("self-correcting-tuning", "self-correcting/tuning"),
        ("operators-tuning", "operators/tuning"),
    ],
)
def test_the_committed_evidence_is_whole_and_made_with_the_settings_of_its_file(
    file: str, folder: str, tmp_path: Path
) -> None:
    output = ROOT / "docs/evidence" / folder
    path = ROOT / f"trainer/experiments/{file}.yaml"
    this = Experiment(path, output, tmp_path, tmp_path, Console(quiet=True))
    asked = {(run.arm, run.seed): run for run in this.planned()}
    made = {(result.arm, result.seed): result for result in evidence.read(output / "runs")}
    assert asked.keys() == made.keys()
    assert all(run.made(made[key]) for key, run in asked.items())


@pytest.mark.parametrize("name", ["operators", "operators-parts", "sums-four"])
def test_evidence_that_is_still_collected_has_pairs_with_the_settings_of_its_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The results of the latter two are of machines without a GPU.
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    path, output = ROOT / f"trainer/experiments/{name}.yaml", ROOT / "docs/evidence" / name
    this = Experiment(path, output, tmp_path, tmp_path, Console(quiet=True))
    asked = {(run.arm, run.seed): run for run in this.planned()}
    made = {(result.arm, result.seed): result for result in evidence.read(output / "runs")}
    assert made.keys() <= asked.keys()
    assert all(asked[key].made(result) for key, result in made.items())
    # Differences are paired by seed: what has no partner says nothing.
    seeds = {arm: {seed for other, seed in made if other == arm} for arm, _ in made}
    paired = {"grpo", "grpo-entropy", "extra-plus"} & {arm for arm, _ in asked}
    assert all(seeds[arm] == seeds["grpo"] for arm in paired)


def test_results_from_another_start_model_are_not_added_to(tmp_path: Path) -> None:
    _result("grpo", 0, 0.4, 0.8).save(tmp_path)
    with pytest.raises(ConfigError, match="began with another start model"):
        _result("paper", 0, 0.4, 0.8, start_model="two").save(tmp_path)
    assert [result.arm for result in evidence.read(tmp_path)] == ["grpo"]


def test_every_arm_of_the_experiment_differs_from_grpo_in_exploration_only(tmp_path: Path) -> None:
    this = Experiment(EXPERIMENT, tmp_path, tmp_path, tmp_path, Console(quiet=True))

    def rest(run: PlannedRun) -> dict[str, object]:
        own = ("name", "preset", "novelty", "prefix")
        return {name: value for name, value in run.what_is_trained().items() if name not in own}

    runs = list(this.planned(seeds=1))
    assert len({json.dumps(run.what_is_trained(), sort_keys=True) for run in runs}) == len(runs) == 9
    assert all(rest(run) == rest(runs[0]) for run in runs)


bonuses = hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 2))


@given(bonuses, hnp.arrays(np.bool_, (3, 4)), st.integers(0, 9))
def test_controls_pay_the_same_in_all_to_the_same_rollouts(
    bonus: np.ndarray, paid: np.ndarray, seed: int
) -> None:
    shuffled = controlled(bonus, paid, "shuffled", seed)
    np.testing.assert_array_equal(np.sort(shuffled[paid]), np.sort(bonus[paid]))
    np.testing.assert_array_equal(shuffled, controlled(bonus, paid, "shuffled", seed))
    constant = controlled(bonus, paid, "constant", seed)
    assert constant.sum() == pytest.approx(bonus[paid].sum())
    assert len(np.unique(constant[paid])) <= 1
    assert not shuffled[~paid].any()
    assert not constant[~paid].any()
