"""Responses cut off at the limit on their length: counted, said at once, treated as the config chooses."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from extra_client import FinishReason, VerdictStatus
from extra_rl.config_file import ConfigError
from extra_trainer import config as configs
from extra_trainer.config import NoveltyConfig, OutcomeConfig, PrefixConfig, RolloutConfig
from extra_trainer.exploration.advantage import StepAdvantages, overlong_punishment, step_advantages
from extra_trainer.exploration.explorer import Explorer
from extra_trainer.exploration.recording import rollout_records
from extra_trainer.exploration.results import GroupNovelty
from extra_trainer.exploration.step_metrics import step_metrics
from extra_trainer.reports import report
from extra_trainer.reports.progress import TrainingProgress, step_table
from extra_trainer.rollouts.collector import Group, RolloutRequest
from extra_trainer.runs.folder import RunFolder
from extra_trainer.runs.schema import RolloutRecord
from support import run_folders
from support.rollouts import made_rollout, made_verdict

RIGHT, WRONG = VerdictStatus.CORRECT, VerdictStatus.WRONG
REQUEST = RolloutRequest("p", "id", (1,), "1")
LIMIT = 100


def group(statuses: list[VerdictStatus], lengths: list[int], *, mask: bool = False, prefix: int = 0) -> Group:
    """Return a group of rollouts of these lengths; those of LIMIT tokens were cut off."""
    rollouts = [
        made_rollout(
            sample,
            length - prefix,
            FinishReason.LENGTH if length == LIMIT else FinishReason.STOP,
        )
        for sample, length in enumerate(lengths)
    ]
    request = replace(REQUEST, prefix_tokens=(5,) * prefix)
    return Group(request, rollouts, [made_verdict(status) for status in statuses], mask)


def advantages(groups: list[Group], **rollout: Any) -> np.ndarray:
    novelty = [GroupNovelty.none(len(each.rollouts)) for each in groups]
    settings = RolloutConfig(response_max_tokens=LIMIT, **rollout)
    return step_advantages(
        groups,
        novelty,
        NoveltyConfig(),
        OutcomeConfig(),
        divide_by_std=False,
        seed=0,
        step=1,
        rollout=settings,
    ).advantages


@pytest.mark.parametrize("mask", [False, True])
def test_the_share_that_is_cut_off_is_a_metric_and_no_missing_verdict(mask: bool) -> None:
    groups = [group([RIGHT, WRONG], [10, LIMIT], mask=mask), group([WRONG, WRONG], [LIMIT, LIMIT], mask=mask)]
    metrics = step_metrics(groups, [GroupNovelty.none(2)] * 2)
    assert metrics["cut_off"] == 0.75
    assert metrics["undecided"] == 0
    assert metrics["reward"] == (1.0 if mask else 0.25)
    assert metrics["groups_all_wrong"] == (0.0 if mask else 0.5)


def test_by_default_they_count_as_verified_and_masked_for_nothing() -> None:
    lengths = [10, LIMIT, 20, LIMIT]
    statuses = [RIGHT, WRONG, WRONG, RIGHT]
    assert advantages([group(statuses, lengths)]).tolist() == [[0.5, -0.5, -0.5, 0.5]]
    assert advantages([group(statuses, lengths, mask=True)]).tolist() == [[0.5, 0.0, -0.5, 0.0]]


def test_masked_rollouts_are_counted_and_marked_in_the_records() -> None:
    for mask in (False, True):
        groups = [group([RIGHT, WRONG], [10, LIMIT], mask=mask), group([RIGHT, RIGHT], [LIMIT, 5], mask=mask)]
        novelty = [GroupNovelty.none(2)] * 2
        assert step_metrics(groups, novelty).get("masked") == (2.0 if mask else None)
        records = rollout_records(groups, novelty, StepAdvantages.zeros(groups))
        assert [record.masked for record in records] == [False, mask, mask, False]
        read = [RolloutRecord.from_json(record.to_json()) for record in records]
        assert [record.decided for record in read] == [True, not mask, not mask, True]
        assert [record.correct for record in read] == [True, False, not mask, True]


def test_the_table_of_steps_and_the_report_count_masked_rollouts(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    metrics = [run_folders.step_metrics(step, others={"masked": 3.0 * step}) for step in (1, 2)]
    console.print(step_table(metrics, 8))
    console.print(step_table([run_folders.step_metrics(1)], 8))
    assert isinstance(console.file, io.StringIO)
    with_mask, without = console.file.getvalue().split("tokens/s")[:2], console.file.getvalue()[-200:]
    assert "masked" in with_mask[0]
    assert "masked" not in without
    folder = RunFolder(run_folders.write_run(tmp_path / "run", steps=0))
    for each in metrics:
        folder.append_metrics(each)
    page = report.write_all([folder.path], None).read_text()
    assert "Masked rollouts" in page
    assert "rollouts masked (rollout.overlong)" in page
    assert "| rollouts masked (rollout.overlong) |  | 9 |" in (folder.path / "report.md").read_text()


def test_the_soft_punishment_falls_from_the_buffer_to_the_limit() -> None:
    settings = RolloutConfig(response_max_tokens=LIMIT, overlong="punish", overlong_buffer_tokens=40)
    # The last is longer than the limit, as a response may be after a prefix: it is punished no more.
    lengths = [1, 60, 61, 80, 99, LIMIT, LIMIT + 7]
    expected = [[0.0, 0.0, -1 / 40, -0.5, -39 / 40, -1.0, -1.0]]
    for prefix in (0, 1):
        found = overlong_punishment([group([WRONG] * 7, lengths, prefix=prefix)], settings)
        assert found is not None
        np.testing.assert_allclose(found, np.array(expected))
    assert overlong_punishment([group([WRONG] * 7, lengths)], RolloutConfig()) is None
    # It moves the reward before the normalisation: among equal rewards the shorter one is better.
    values = advantages([group([WRONG, WRONG], [10, LIMIT])], overlong="punish")
    assert values.tolist() == [[0.5, -0.5]]


@pytest.mark.parametrize("mask", [False, True])
def test_only_a_group_in_which_something_ended_by_itself_feeds_as_hard(mask: bool) -> None:
    nothing: Any = None  # without a prefix policy, feeding asks no service
    explorer = Explorer(
        NoveltyConfig(), PrefixConfig(policy="none", warmup_steps=0), nothing, nothing, nothing, "launch"
    )
    never = group([WRONG] * 4, [LIMIT] * 4, mask=mask)
    once = group([WRONG] * 4, [LIMIT, LIMIT, 10, LIMIT], mask=mask)
    easy = group([RIGHT] * 4, [10] * 4, mask=mask)
    assert explorer.feed([never, easy], step=1) == 0
    assert explorer.feed([never, once, easy], step=2) == 1
    assert [request.prompt_id for request in explorer.queue.waiting] == ["id"]


def test_a_run_whose_rollouts_never_end_says_so_in_the_first_step_and_once() -> None:
    for terminal in (True, False):
        for share, said in ((1.0, 1), (0.5, 1), (0.4, 0)):
            console = Console(file=io.StringIO(), force_terminal=terminal, width=300, legacy_windows=False)
            with TrainingProgress(console, 20, 128) as progress:
                for steps in (1, 2, 3):
                    metrics = [
                        run_folders.step_metrics(step, others={"cut_off": share})
                        for step in range(1, steps + 1)
                    ]
                    progress.update(metrics)
            assert isinstance(console.file, io.StringIO)
            shown = console.file.getvalue()
            assert shown.count(f"{share:.0%} of the rollouts of step 1 were cut off") == said


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rollout: {overlong_buffer_tokens: 5}\n", "is for overlong: punish"),
        (
            "rollout: {overlong: punish, response_max_tokens: 10, overlong_buffer_tokens: 11}\n",
            r"at most .*\(10\)",
        ),
        ("rollout: {overlong: drop}\n", "rollout.overlong"),
    ],
)
def test_a_choice_that_cannot_work_is_refused(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("name: x\nmodel: {path: m}\ndata: {train: a, evaluation: b}\n" + text)
    with pytest.raises(ConfigError, match=named):
        configs.load(path)
