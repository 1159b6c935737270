"""Whole training runs: real OpenRLHF, Ray, DeepSpeed and services, with a model too small to be good."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from extra_client import embedded
from extra_trainer.rehearsal.problems import problems
from extra_trainer.rehearsal.start_model import FitSettings, start_model

#: What a run may take on a busy machine; nothing is asserted about time.
PATIENCE = 280


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of four prompts with four samples; a checkpoint every second step."""
    folder = tmp_path_factory.mktemp("run")
    settings = FitSettings(
        hidden_size=32, layers=1, head_size=16, steps=30, tokens_per_step=512, warmup_steps=3
    )
    model = start_model(folder / "cache", seed=0, settings=settings)
    for split, count in (("train", 12), ("evaluation", 4)):
        rows = ({"id": p.id, "problem": p.prompt, "answer": p.answer} for p in problems(split, count, seed=0))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "name": "tiny",
        "model": {"path": str(model)},
        "data": {name: str(folder / f"{name}.jsonl") for name in ("train", "evaluation")},
        "rollout": {
            "prompts_per_step": 4,
            "samples_per_prompt": 4,
            "prompt_max_tokens": 64,
            "response_max_tokens": 24,
        },
        "optimization": {
            "epochs": 2,
            "minibatch_prompts": 4,
            "micro_batch_samples": 8,
            "learning_rate": 1e-3,
        },
        "prefix": {"warmup_steps": 1, "regen_batch_size": 1, "min_segment_tokens": 2},
        "evaluation": {"samples_per_prompt": 4, "k": [1, 4]},
        "checkpoint": {"every_steps": 2},
        "services": {
            "generation": {"settings": {"threads": 1}},
            "novelty": {"settings": {"threads": 1}},
            "verification": {"settings": {"workers": 1}},
        },
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def mark() -> Iterator[str]:
    """A word in the environment of all that a run starts; none of it may outlive the run."""
    word = uuid.uuid4().hex
    yield word
    _wait_for(lambda: not _marked(word), "processes were left running")


def _marked(word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.environ().get("EXTRA_RL_TEST_MARK") == word
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def _wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, otherwise
        time.sleep(0.1)


def _start(mark: str, config: Path, run: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "extra_cli", "train", str(config), "--run", str(run), *flags]
    environment = {**os.environ, "EXTRA_RL_TEST_MARK": mark}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def _metrics(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _rollouts(run: Path, step: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "rollouts" / f"step-{step:06d}.jsonl").open()]


def _end(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=PATIENCE)
    return output


@pytest.mark.timeout(600)
def test_a_run_whose_verifier_dies_says_so_and_goes_on_from_its_checkpoint(
    mark: str, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with embedded.start("verification", workers=1) as verifier:
        process = _start(mark, config, run, "--set", f"services.verification.target={verifier.target}")
        _wait_for(lambda: len(_metrics(run)) >= 3 or process.poll() is not None, "three steps never came")
        verifier.process.kill()
        output = _end(process)
    assert process.returncode == 1, output
    flat = " ".join(output.split())
    assert "no verification service answers at" in flat or "verification service ended" in flat, output
    assert "--resume goes on from step 2" in flat or "--resume goes on from step 4" in flat, output

    with embedded.start("verification", workers=1) as verifier:
        process = _start(
            mark, config, run, "--resume", "--set", f"services.verification.target={verifier.target}"
        )
        output = _end(process)
    assert process.returncode == 0, output
    _check_finished(run, output)


def _check_finished(run: Path, output: str) -> None:
    metrics = _metrics(run)
    assert [record["step"] for record in metrics] == [1, 2, 3, 4, 5, 6]
    own_answers = {}
    for line in (run / "data" / "train.jsonl").open():
        problem = json.loads(line)
        own_answers[problem["prompt"]] = problem["answer"]
    guided = 0
    for record in metrics:
        rows = _rollouts(run, int(record["step"]))
        assert len(rows) == 16
        # Each step samples with the weights that the step before delivered.
        assert {row["policy_version"] for row in rows} == {record["policy_version"]}
        assert all(row["answer"] == own_answers[row["prompt"]] for row in rows)
        assert all(str(row["status"]) in ("correct", "wrong", "unparseable") for row in rows)
        guided += sum(bool(row["guided"]) for row in rows)
    # The last two steps are of one launch, whatever the checkpoint was: one update lies between them.
    assert metrics[-1]["policy_version"] == metrics[-2]["policy_version"] + 1
    assert guided > 0
    for name in ("report.html", "report.md", "evaluation-before.json", "evaluation-after.json"):
        assert (run / name).stat().st_size > 0
    assert (run / "weights" / "policy" / "model.safetensors").stat().st_size > 0
    assert "pass@1" in output
    assert "pass@4" in output
    assert str(run / "report.html") in "".join(output.split("\n"))


@pytest.mark.timeout(900)
def test_a_run_that_was_killed_and_resumed_equals_one_that_was_not(
    mark: str, config: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert _start(mark, config, whole).wait(PATIENCE) == 0
    process = _start(mark, config, killed)
    _wait_for(lambda: len(_metrics(killed)) >= 3 or process.poll() is not None, "three steps never came")
    process.kill()
    process.wait()
    _wait_for(lambda: not _marked(mark), "processes outlived the launcher")
    resumed = _start(mark, config, killed, "--resume")
    output = _end(resumed)
    assert resumed.returncode == 0, output
    assert "from step 2" in output or "from step 4" in output
    for expected, found in zip(_metrics(whole), _metrics(killed), strict=True):
        assert _what_happened(found) == pytest.approx(_what_happened(expected), rel=1e-4, abs=1e-6)
    for step in range(1, 7):
        assert [row["text"] for row in _rollouts(killed, step)] == [r["text"] for r in _rollouts(whole, step)]


def _what_happened(record: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if not name.startswith("seconds/")}


@pytest.mark.timeout(600)
def test_rollouts_generated_during_the_update_are_one_step_off_policy(
    mark: str, config: Path, tmp_path: Path
) -> None:
    process = _start(mark, config, tmp_path / "run", "--set", "rollout.overlap_update=true")
    output = _end(process)
    assert process.returncode == 0, output
    # A pass has three steps; nothing is generated ahead over its end.
    assert [record["policy_version"] for record in _metrics(tmp_path / "run")] == [1, 1, 2, 4, 4, 5]


@pytest.mark.timeout(600)
def test_ctrl_c_stops_everything_that_was_started(mark: str, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = _start(mark, config, run)
    _wait_for(lambda: len(_metrics(run)) >= 1 or process.poll() is not None, "the first step never came")
    os.kill(process.pid, signal.SIGINT)
    output = _end(process)
    assert process.returncode == 130, output
    assert "--resume" in output


def test_a_run_folder_is_not_overwritten_and_an_unknown_setting_is_named(
    mark: str, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    refused = _start(mark, config, tmp_path)
    assert "holds a run already" in " ".join(_end(refused).split())
    assert refused.returncode == 1
    unknown = _start(mark, config, tmp_path / "new", "--set", "novelty.alhpa=1")
    assert "did you mean 'alpha'" in _end(unknown)
    assert unknown.returncode == 1
