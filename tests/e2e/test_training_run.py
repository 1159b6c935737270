"""Whole training runs: real OpenRLHF, Ray, DeepSpeed and services, with a model too small to be good."""

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extra_client import NamespaceClient, embedded
from extra_trainer.runs.schema import unpack_array
from support.processes import marked_processes, no_process_survives, wait_for
from support.redis_processes import RedisProcess
from support.training_runs import metrics_of, output_of, rollouts_of, start, tiny_config, without_durations

#: Twelve steps: a run that is killed in the middle goes on for a second until its driver ends, too.
FOUR_PASSES = ("--set", "optimization.epochs=4")
#: One worker fewer to start.
WITHOUT_REFERENCE = ("--set", "optimization.kl_coefficient=0")


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_config(tmp_path_factory.mktemp("run"), tiny_model)


@pytest.fixture
def mark() -> Iterator[str]:
    with no_process_survives() as word:
        yield word


@dataclass(frozen=True)
class TwoRuns:
    """Two finished runs of one config."""

    folders: list[Path]
    outputs: list[str]
    #: Address of the novelty server that the first used.
    novelty: str
    #: Prompts in the memory of each.
    remembered: list[int]


@pytest.fixture(scope="module")
def two_runs(config: Path, tmp_path_factory: pytest.TempPathFactory) -> TwoRuns:
    """Train two runs at once, and refuse a second launcher of the first.

    They have one name and seed, two folders, and memories in one Redis. The first uses a novelty server
    that runs already, the second starts one of its own.
    """
    path = tmp_path_factory.mktemp("two")
    redis = RedisProcess(path / "redis")
    try:
        with (
            no_process_survives() as mark,
            embedded.start("novelty", redis_url=redis.url(), threads=1) as novelty,
        ):
            folders = [path / "first", path / "second"]
            running, own = (
                (*FOUR_PASSES, "--set", f"services.novelty.target={novelty.target}"),
                (
                    *FOUR_PASSES,
                    "--set",
                    f"services.novelty.settings={{threads: 1, redis_url: '{redis.url()}'}}",
                ),
            )
            runs = [start(mark, config, *each) for each in ((folders[0], *running), (folders[1], *own))]
            wait_for(
                lambda: (folders[0] / "config.yaml").is_file() or runs[0].poll() is not None,
                "the first run never began",
            )
            third = start(mark, config, folders[0], "--resume", *running)
            assert "is going on" in " ".join(output_of(third).split())
            assert third.returncode == 1
            outputs = [output_of(run) for run in runs]
            assert [run.returncode for run in runs] == [0, 0], outputs
            names = [(folder / "identity").read_text() for folder in folders]
            memories = [NamespaceClient(novelty.target, name).describe() for name in names]
    finally:
        redis.end()
    return TwoRuns(folders, outputs, novelty.target, [memory.prompts for memory in memories])


def _check_finished(run: Path, output: str) -> None:
    metrics = metrics_of(run)
    assert [record["step"] for record in metrics] == list(range(1, 13))
    own_answers = {}
    for line in (run / "data" / "train.jsonl").open():
        problem = json.loads(line)
        (own_answers[problem["prompt"]],) = json.loads(problem["label"])
    guided = 0
    for record in metrics:
        rows = rollouts_of(run, int(record["step"]))
        assert len(rows) == 16
        # Each step samples with the weights that the step before delivered.
        assert {row["policy_version"] for row in rows} == {record["policy_version"]}
        assert all(row["answer"] == own_answers[row["prompt"]] for row in rows)
        assert all(str(row["status"]) in ("correct", "wrong", "unparseable") for row in rows)
        guided += sum(bool(row["guided"]) for row in rows)
        _check_recorded(run, rows)
    # The last two steps are of one launch, whatever the checkpoint was: one update lies between them.
    assert metrics[-1]["policy_version"] == metrics[-2]["policy_version"] + 1
    assert guided > 0
    for name in ("report.html", "report.md", "evaluation-before.json", "evaluation-after.json"):
        assert (run / name).stat().st_size > 0
    assert (run / "weights" / "policy" / "model.safetensors").stat().st_size > 0
    assert "pass@1" in output
    assert "pass@4" in output
    assert str(run / "report.html") in "".join(output.split("\n"))


def _check_equal(one: Path, other: Path) -> None:
    """Check that two runs have the same metrics and rollouts."""
    for expected, found in zip(metrics_of(one), metrics_of(other), strict=True):
        assert without_durations(found) == pytest.approx(without_durations(expected), rel=1e-4, abs=1e-6)
    for step in range(1, 13):
        texts = [[row["text"] for row in rollouts_of(folder, step)] for folder in (one, other)]
        assert texts[0] == texts[1]


def _check_recorded(run: Path, rows: list[dict[str, Any]]) -> None:
    """Tokens decode to the text, entropies have the recorded mean, guided groups continue their prefix."""
    pieces = json.loads((run / "vocabulary.json").read_text())
    chosen = {
        (choice["prompt_id"], choice["selected"])
        for path in (run / "prefixes").iterdir()
        for choice in map(json.loads, path.open())
    }
    for row in rows:
        ids = unpack_array(row["token_ids"], "<i4")
        entropies = unpack_array(row["entropies"], "<f2").astype(np.float64)
        assert (len(ids), len(entropies)) == (row["prefix_tokens"] + row["tokens"], row["tokens"])
        assert "".join(pieces[i] for i in ids) == row["text"]
        assert entropies.mean() == pytest.approx(row["mean_entropy"], abs=2e-3)
        if row["guided"]:
            assert (row["prompt_id"], row["prefix_id"]) in chosen


@pytest.mark.timeout(900)
def test_a_run_that_lost_its_verifier_and_then_was_killed_equals_one_that_was_not(
    mark: str, config: Path, two_runs: TwoRuns, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", two_runs.folders[0]
    with embedded.start("verification", workers=1) as verifier:
        target = f"services.verification.target={verifier.target}"
        # It would wait minutes for the verifier to come back.
        patience = ("--set", "services.patience_seconds=2")
        process = start(mark, config, run, *FOUR_PASSES, "--set", target, *patience)
        wait_for(lambda: len(metrics_of(run)) >= 3 or process.poll() is not None, "three steps never came")
        verifier.process.kill()
        output = output_of(process)
    assert process.returncode == 1, output
    flat = " ".join(output.split())
    assert "no verification service answers at" in flat or "verification service ended" in flat, output
    assert "--resume goes on from step 2" in flat or "--resume goes on from step 4" in flat, output

    process = start(mark, config, run, "--resume", *FOUR_PASSES)
    wait_for(lambda: len(metrics_of(run)) >= 5 or process.poll() is not None, "five steps never came")
    process.kill()
    process.wait()
    wait_for(lambda: not marked_processes(mark), "processes outlived the launcher")

    process = start(mark, config, run, "--resume", *FOUR_PASSES)
    output = output_of(process)
    assert process.returncode == 0, output
    assert re.search(r"from step (4|6|8|10) ", " ".join(output.split())), output
    _check_finished(run, output)
    # Otherwise there would be nothing to lose.
    assert all(record["actor_grad_norm"] for record in metrics_of(whole))
    _check_equal(whole, run)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rollouts_generated_one_step_ahead_are_one_version_old_in_every_run_of_a_seed(
    mark: str, config: Path, tmp_path: Path
) -> None:
    # The older name of max_staleness: 1, and the newer.
    first, second = tmp_path / "first", tmp_path / "second"
    for run, setting in ((first, "rollout.overlap_update=true"), (second, "rollout.max_staleness=1")):
        process = start(mark, config, run, "--set", setting, *WITHOUT_REFERENCE)
        output = output_of(process)
        assert process.returncode == 0, output
    metrics = metrics_of(first)
    # A pass has three steps; nothing is generated ahead over its end.
    assert [record["policy_version"] for record in metrics] == [1, 1, 2, 4, 4, 5]
    assert [record["staleness"] for record in metrics] == [0, 1, 1, 0, 1, 1]
    assert all("weights_truncated" in record for record in metrics)
    assert all(record["weights_changed"] == 0 for record in metrics)
    for step in range(1, 7):
        assert [row["text"] for row in rollouts_of(first, step)] == [
            row["text"] for row in rollouts_of(second, step)
        ]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("staleness", [1, 2])
def test_a_run_with_rollouts_ahead_that_was_killed_goes_on_without_losing_or_repeating_a_prompt(
    mark: str, config: Path, tmp_path: Path, staleness: int
) -> None:
    run, setting = tmp_path / "run", ("--set", f"rollout.max_staleness={staleness}")
    process = start(mark, config, run, *setting)
    wait_for(lambda: len(metrics_of(run)) >= 3 or process.poll() is not None, "three steps never came")
    process.kill()
    process.wait()
    wait_for(lambda: not marked_processes(mark), "processes outlived the launcher")
    resumed = start(mark, config, run, "--resume", *setting)
    output = output_of(resumed)
    assert resumed.returncode == 0, output
    metrics = metrics_of(run)
    assert [record["step"] for record in metrics] == [1, 2, 3, 4, 5, 6]
    assert all(0 <= record["staleness_max"] <= staleness for record in metrics)
    assert max(record["staleness_max"] for record in metrics) > 0
    assert all(record["rollouts_refused"] == 0 for record in metrics)
    # Two passes of three steps; guided prompts take the place of the last prompt of a step.
    for steps in ((1, 2, 3), (4, 5, 6)):
        rows = [row for step in steps for row in rollouts_of(run, step)]
        assert len(rows) == 3 * 16
        own = [row["prompt"] for row in rows if not row["guided"]]
        assert all(own.count(prompt) == 4 for prompt in own)


@pytest.mark.timeout(600)
def test_ctrl_c_stops_everything_that_was_started(mark: str, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(mark, config, run, *WITHOUT_REFERENCE)
    wait_for(lambda: len(metrics_of(run)) >= 1 or process.poll() is not None, "the first step never came")
    os.kill(process.pid, signal.SIGINT)
    output = output_of(process)
    assert process.returncode == 130, output
    assert "--resume" in output


def test_a_run_folder_is_not_overwritten_and_an_unknown_setting_is_named(
    mark: str, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    refused = start(mark, config, tmp_path)
    assert "holds a run already" in " ".join(output_of(refused).split())
    assert refused.returncode == 1
    unknown = start(mark, config, tmp_path / "new", "--set", "novelty.alhpa=1")
    assert "did you mean 'alpha'" in output_of(unknown)
    assert unknown.returncode == 1


@pytest.mark.timeout(900)
def test_two_runs_at_once_of_one_config_share_nothing_but_what_they_are_told_to(two_runs: TwoRuns) -> None:
    assert len({(folder / "identity").read_text() for folder in two_runs.folders}) == 2
    first, second = two_runs.outputs
    assert f"Shared with other runs: novelty at {two_runs.novelty}" in first
    assert "Shared with other runs: novelty in Redis (redis_url)" in second
    assert two_runs.remembered[0] == two_runs.remembered[1] > 0
    # The same seed: each run is what it would be alone.
    _check_equal(*two_runs.folders)
