"""The report of runs: which runs are compared, and that its figures equal those of the folders."""

import re
from pathlib import Path

import numpy as np
import pytest

from extra_rl.config_file import ConfigError
from extra_rl.vocabulary import VerdictStatus
from extra_trainer.reports import arms, figures, report
from extra_trainer.reports.arms import TrainedRun
from extra_trainer.runs.folder import RunFolder
from support.run_folders import STEPS, rollout_record, step_metrics, write_run


def _read(*paths: Path) -> list[TrainedRun]:
    return [TrainedRun.read(path) for path in paths]


def test_runs_that_differ_in_seed_and_place_alone_are_one_arm(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", seed=0)
    second = write_run(tmp_path / "b", seed=1, name="elsewhere")
    other = write_run(tmp_path / "c", seed=0, alpha=0.0)
    made = arms.group_into_arms(_read(first, other, second))
    assert [arm.seeds for arm in made] == ["0, 1", "0"]
    assert [arm.name for arm in made] == ["made 1 (novelty.alpha=0.1)", "made 2 (novelty.alpha=0.0)"]
    assert arms.differences(made) == {"novelty.alpha": ["0.1", "0.0"]}


def test_a_curve_has_the_interval_of_its_seeds_and_one_seed_has_none(tmp_path: Path) -> None:
    runs = _read(*(write_run(tmp_path / str(seed), seed=seed) for seed in range(3)))
    (arm,) = arms.group_into_arms(runs)
    curve = arm.curve("reward")
    assert curve is not None
    assert curve.low is not None
    assert curve.high is not None
    rewards = np.array([[step.reward for step in run.metrics[:5]] for run in runs]).mean(axis=1)
    # Student's t with two degrees of freedom.
    half = 4.302653 * rewards.std(ddof=1) / np.sqrt(3)
    assert curve.steps[0] == 3
    assert (curve.mean[0], curve.high[0] - curve.low[0]) == pytest.approx((rewards.mean(), 2 * half))
    single = arms.Arm("one", runs[:1]).curve("reward")
    assert single is not None
    assert single.low is None


def test_shares_of_groups_add_up(tmp_path: Path) -> None:
    (arm,) = arms.group_into_arms(_read(write_run(tmp_path / "a")))
    figure = figures.group_shares(arm)
    assert figure is not None
    assert figure.head == ["steps", "all right", "mixed", "all wrong"]
    for row in figure.rows:
        assert sum(float(cell.rstrip("%")) for cell in row[1:]) == pytest.approx(100, abs=0.3)


def test_groups_without_a_verdict_are_neither_right_nor_mixed_nor_wrong(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", steps=0)
    folder = RunFolder(run)
    others = {"groups_mixed": 0.25}
    folder.append_metrics(step_metrics(1, groups_all_right=0.25, groups_all_wrong=0.25, others=others))
    (arm,) = arms.group_into_arms(_read(run))
    figure = figures.group_shares(arm)
    assert figure is not None
    assert figure.rows == [["1", "25.0%", "25.0%", "25.0%"]]
    assert "without any verdict" in figure.note


def test_novelties_are_counted_where_they_lie(tmp_path: Path) -> None:
    (arm,) = arms.group_into_arms(_read(write_run(tmp_path / "a")))
    figure = figures.novelty_bands(arm)
    assert figure is not None
    values = arm.runs[0].novelties[1]
    shares = dict(zip(figure.head[1:], figure.rows[0][1:], strict=True))
    assert float(shares["to 0.05"].rstrip("%")) == pytest.approx(100 * np.mean(values == 0.03), abs=0.1)
    assert float(shares["repeats"].rstrip("%")) == pytest.approx(100 * np.mean(values == 0), abs=0.1)


def test_the_report_says_of_how_many_steps_rollouts_are_recorded(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    (arm,) = arms.group_into_arms(_read(path))
    whole = figures.novelty_bands(arm)
    RunFolder(path).keep_records(4)
    (arm,) = arms.group_into_arms(_read(path))
    thin = figures.novelty_bands(arm)
    assert whole is not None
    assert thin is not None
    assert "run folder" not in whole.note
    assert f"Of the 4 of {STEPS} steps" in thin.note
    assert "Of the 4 of" in report.write_all([path], None).read_text()


def test_a_run_that_goes_on_has_a_report_of_what_there_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", evaluated=False, steps=3)
    html = report.write_all([run], None).read_text()
    assert "Reward" in html
    assert "pass@1" not in html


def test_a_run_that_has_not_begun_has_a_report_of_its_config(tmp_path: Path) -> None:
    assert (
        "novelty.alpha"
        in report.write_all([write_run(tmp_path / "a", evaluated=False, steps=0)], None).read_text()
    )


def test_what_a_config_says_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", name="</script><script>alert(1)</script>", steps=STEPS)
    html = report.write_all([run], tmp_path / "page.html").read_text()
    assert "<script>alert" not in html


def test_the_page_is_whole(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), seed=seed) for seed in range(2)]
    html = report.write_all(runs, tmp_path / "page.html").read_text()
    body = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", body)
    assert not re.search(r"@import|url\(", body)


def test_a_folder_of_records_of_another_version_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    RunFolder(run).format.write_text("2.0\n")
    with pytest.raises(ConfigError, match=r"a cannot be read: its records have version 2\.0"):
        report.write_all([run], None)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.yaml"):
        report.write_all([tmp_path], None)


def test_suspicious_rollouts_and_new_steps_are_tables(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", steps=1)
    (plain,) = arms.group_into_arms(_read(path))
    assert figures.suspicious(plain) is None
    assert figures.new_steps(plain) is None
    reason = "{} characters behind the final answer, 90 before it"
    records = [
        rollout_record(sample=0, suspicious=reason.format(700)),
        rollout_record(sample=1, suspicious=reason.format(800)),
        rollout_record(sample=2, suspicious="the text is blank", status=VerdictStatus.WRONG),
        rollout_record(sample=3, novelty=0.7, new_steps=("55-37", "55")),
        rollout_record(sample=4, novelty=0.8, new_steps=("2*g",)),
    ]
    RunFolder(path).write_rollouts(7, records)
    (arm,) = arms.group_into_arms(_read(path))
    reasons, steps = figures.suspicious(arm), figures.new_steps(arm)
    assert reasons is not None
    assert steps is not None
    ((text, count, _, first, last),) = reasons.rows
    assert (text, count, first, last) == ("characters behind the final answer, before it", "2", "7", "7")
    assert [row[1:] for row in steps.rows] == [
        ["7", "0, 4", "0.800", "2*g"],
        ["7", "0, 3", "0.700", "55-37, 55"],
    ]
