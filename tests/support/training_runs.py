"""Start small training runs with real OpenRLHF, Ray, DeepSpeed and services, and read their results."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from extra_trainer.rehearsal.problems import problems
from extra_trainer.rehearsal.splits import Split
from support.processes import MARK

#: Seconds that a run of a few steps may take on a busy machine.
RUN_PATIENCE = 900


def tiny_config(folder: Path, model: Path) -> Path:
    """Write a config for `model`: six steps of four prompts with four samples, a checkpoint every two steps.

    The tiny model solves nothing, so the "answers" are single digits, which it sometimes writes last.
    """
    sizes: dict[Split, int] = {"train": 12, "evaluation": 4}
    for split, count in sizes.items():
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
        "novelty": {"metric": "embedding", "min_history": 0, "scale": "running_mean"},
        "outcome": {"enabled": True},
        "prefix": {"warmup_steps": 1, "regen_batch_size": 1, "min_segment_tokens": 2},
        "evaluation": {"samples_per_prompt": 4, "k": [1, 4]},
        "checkpoint": {"every_steps": 2},
        # Gives every step a gradient, whatever the rewards.
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


def start(mark: str, config: Path, run: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "extra_cli", "train", str(config), "--run", str(run), *flags]
    environment = {**os.environ, MARK: mark}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        # As from a terminal: a shell makes background processes ignore Ctrl-C, which the run would inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def metrics_of(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rollouts_of(run: Path, step: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "rollouts" / f"step-{step:06d}.jsonl").open()]


def output_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=RUN_PATIENCE)
    return output


def without_durations(record: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if not name.startswith("seconds/")}
