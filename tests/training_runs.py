"""Starts small training runs, real OpenRLHF, Ray, DeepSpeed and services, and looks at what they did."""

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
import yaml

from extra_trainer.rehearsal.problems import problems
from extra_trainer.rehearsal.start_model import FitSettings, start_model

#: What a run may take on a busy machine; nothing is asserted about time.
PATIENCE = 280


def tiny_config(folder: Path) -> Path:
    """Six steps of four prompts with four samples; a checkpoint every second step.

    The model is far too small to solve anything, so the "answers" are digits, which it ends on now and then.
    """
    settings = FitSettings(
        hidden_size=32, layers=1, head_size=16, steps=30, tokens_per_step=512, warmup_steps=3
    )
    model = start_model(folder / "cache", seed=0, settings=settings)
    for split, count in (("train", 12), ("evaluation", 4)):
        rows = (
            {"id": problem.id, "problem": problem.prompt, "answer": str(place % 9 + 1)}
            for place, problem in enumerate(problems(split, count, seed=0))
        )
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
        "novelty": {"min_history": 0, "scale": "running_mean"},
        "prefix": {"warmup_steps": 1, "regen_batch_size": 1, "min_segment_tokens": 2},
        "evaluation": {"samples_per_prompt": 4, "k": [1, 4]},
        "checkpoint": {"every_steps": 2},
        # So that every step has a gradient, whatever the rewards.
        "openrlhf": {"actor.entropy_coef": 0.01},
        "services": {
            "generation": {"settings": {"threads": 1}},
            "novelty": {"settings": {"threads": 1}},
            "verification": {"settings": {"workers": 1}},
        },
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@contextlib.contextmanager
def nothing_left_running() -> Iterator[str]:
    """A word in the environment of all that a run starts; none of it may outlive the run."""
    word = uuid.uuid4().hex
    yield word
    wait_for(lambda: not marked(word), "processes were left running")


def marked(word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.environ().get("EXTRA_RL_TEST_MARK") == word
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, otherwise
        time.sleep(0.1)


def start(mark: str, config: Path, run: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "extra_cli", "train", str(config), "--run", str(run), *flags]
    environment = {**os.environ, "EXTRA_RL_TEST_MARK": mark}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        # As from a terminal: what a shell starts in the background ignores Ctrl-C, and so would the run.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def metrics_of(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rollouts_of(run: Path, step: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "rollouts" / f"step-{step:06d}.jsonl").open()]


def output_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=PATIENCE)
    return output


def what_happened(record: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if not name.startswith("seconds/")}
