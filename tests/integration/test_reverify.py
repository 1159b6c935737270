"""`extra-rl reverify`: what would change in the verdicts on a run's recorded responses."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from extra_client import VerificationClient, VerifyOptions, embedded
from extra_rl.vocabulary import Method, References, UnparseableSide, VerdictStatus
from extra_trainer.evaluation.reverification import Change, Judgement, reverify
from extra_trainer.runs.folder import RunFolder
from support.run_folders import rollout_record, step_metrics

DEMO = Path(__file__).parents[1] / "data" / "demo_run"
RIGHT = Judgement(VerdictStatus.CORRECT, None, "integer")
WRONG = Judgement(VerdictStatus.WRONG, None, "integer")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with embedded.start("verification", workers=1, slow_workers=1) as service:
        yield service.target


@pytest.fixture(scope="module")
def verification(target: str) -> Iterator[VerificationClient]:
    with VerificationClient(target) as client:
        yield client


def _run(folder: Path) -> RunFolder:
    """Write a run in which some verdicts were others than they are now."""
    folder.mkdir()
    run = RunFolder(folder)
    right = rollout_record(
        answer="7", text=r"\boxed{7}", extracted="7", status=VerdictStatus.CORRECT, rule="integer"
    )
    wrong = replace(right, text=r"\boxed{8}", extracted="8", status=VerdictStatus.WRONG)
    run.write_rollouts(1, [right, wrong, replace(wrong, status=VerdictStatus.CORRECT, sample=2)])
    unreadable = replace(
        right,
        status=VerdictStatus.UNPARSEABLE,
        unparseable_side=UnparseableSide.ANSWER,
        rule="math_verify",
    )
    run.write_rollouts(2, [replace(right, rule="string"), unreadable, replace(right, answer=("6", "7"))])
    return run


def test_changes_are_counted_by_status_and_rule_with_examples(
    tmp_path: Path, verification: VerificationClient
) -> None:
    reported: list[int] = []
    outcome = reverify(
        _run(tmp_path / "run"), verification, Method.MATH, VerifyOptions(), progress=reported.append
    )
    unreadable = Judgement(VerdictStatus.UNPARSEABLE, UnparseableSide.ANSWER, "math_verify")
    assert {change: found.responses for change, found in outcome.changes.items()} == {
        Change(RIGHT, WRONG): 1,
        Change(unreadable, RIGHT): 1,
        Change(replace(RIGHT, rule="string"), RIGHT): 1,
    }
    assert (outcome.responses, outcome.correct_before, outcome.correct_after) == (6, 4, 4)
    assert (outcome.rewards_changed, sum(reported)) == (2, 6)
    (example,) = outcome.changes[Change(RIGHT, WRONG)].examples
    assert (example.step, example.sample, example.answer, example.extracted_after) == (1, 2, "7", "8")
    assert [change.of_reward for change, _ in outcome.ordered()] == [True, True, False]


def test_the_options_of_the_run_decide(tmp_path: Path, verification: VerificationClient) -> None:
    every = VerifyOptions(references=References.ALL)
    outcome = reverify(_run(tmp_path / "run"), verification, Method.MATH, every)
    # The response with two reference answers gives only one of them.
    assert outcome.correct_after == 3


def test_the_command_prints_a_table_or_json_and_changes_nothing(tmp_path: Path, target: str) -> None:
    run = _run(tmp_path / "run")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    def command(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "extra_cli", "reverify", str(folder), "--verification", target]
        return subprocess.run([*words, *options], capture_output=True, text=True, check=False)

    shown = command(run.path)
    assert shown.returncode == 0, shown.stderr
    assert "6 responses; correct 4 before, 4 now; 2 rewards would change." in shown.stdout
    assert "correct by integer -> wrong by integer" in shown.stdout
    assert "reference '7', final answer '8'" in shown.stdout
    assert "Responses judged anew: 6/6" in shown.stderr
    content = json.loads(command(run.path, "--json", "--examples", "0").stdout)
    assert (content["responses"], content["rewards_changed"], len(content["changes"])) == (6, 2, 3)
    assert all(change["examples"] == [] for change in content["changes"])
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert "no records" not in shown.stderr
    for step in (1, 2):
        run.append_metrics(step_metrics(step))
    run.keep_records(1)
    thinned = command(run.path)
    assert "3 responses" in thinned.stdout
    assert "1 of 2 steps: the others have no records" in thinned.stderr
    nothing = command(tmp_path / "none")
    assert nothing.returncode == 1
    assert "no run folder with recorded rollouts" in nothing.stderr


def test_a_run_of_an_earlier_release_is_judged_the_same(
    tmp_path: Path, verification: VerificationClient
) -> None:
    shutil.copytree(DEMO, tmp_path / "demo")
    outcome = reverify(RunFolder(tmp_path / "demo"), verification, Method.MATH, VerifyOptions())
    assert outcome.responses > 100
    assert outcome.rewards_changed == 0
