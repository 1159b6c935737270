"""Run folders like the trainer's, made from a seed without training, for tests of code that reads them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from extra_trainer.evaluation.result import ProblemResult, summarize
from extra_trainer.runs.folder import RunFolder

STEPS, PROMPTS, SAMPLES = 24, 6, 4


def write_run(
    path: Path,
    *,
    seed: int = 0,
    name: str = "made",
    alpha: float = 0.1,
    evaluated: bool = True,
    steps: int = STEPS,
) -> Path:
    """Write the folder of a run whose rewards improve a little."""
    path.mkdir(parents=True)
    folder = RunFolder(path)
    config = {"name": name, "seed": seed, "novelty": {"alpha": alpha}, "services": {"where": str(path)}}
    folder.config.write_text(yaml.safe_dump(config))
    random = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        rollouts = _rollouts(random, step)
        folder.append_metrics(_metrics(step, rollouts, random))
        (path / "rollouts").mkdir(exist_ok=True)
        lines = "".join(json.dumps(record) + "\n" for record in rollouts)
        (path / "rollouts" / f"step-{step:06d}.jsonl").write_text(lines)
    if evaluated:
        for when, rate in (("before", 0.3), ("after", 0.5)):
            _evaluation(random, rate).save(folder.evaluation(when))
    return path


def _rollouts(random: np.random.Generator, step: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt_id": f"prompt-{(step * PROMPTS + prompt) % 30}",
            "prompt": f"{prompt}+{step}=?",
            "answer": str(prompt + step),
            "guided": prompt == PROMPTS - 1 and step > 2,
            "prefix_id": "",
            "prefix_tokens": 0,
            "sample": sample,
            "text": f"{prompt}+{step}\n\\boxed{{{prompt + step}}}",
            "status": "correct" if random.random() < 0.2 + 0.02 * step else "wrong",
            "extracted": str(prompt + step),
            "novelty": float(random.choice([0, 0, 0.03, 0.1, 0.3])),
            "policy_version": step,
            "tokens": 12,
            "mean_entropy": 0.2,
        }
        for prompt in range(PROMPTS)
        for sample in range(SAMPLES)
    ]


def _metrics(step: int, rollouts: list[dict[str, Any]], random: np.random.Generator) -> dict[str, float]:
    correct = np.array([record["status"] == "correct" for record in rollouts]).reshape(PROMPTS, SAMPLES)
    guided = float(step > 2)
    return {
        "step": step,
        "reward": float(correct.mean()),
        "groups_all_right": float(correct.all(axis=1).mean()),
        "groups_all_wrong": float((~correct).all(axis=1).mean()),
        "novelty": float(random.uniform(0, 0.02)),
        "novelty_bonus": float(random.uniform(0, 0.01)),
        "entropy": float(0.3 - 0.005 * step),
        "response_tokens": 12.0,
        "kl": 0.001 * step,
        "guided_groups": guided,
        "guided_rescued": guided * float(correct[-1].any()),
        "undecided": 0.0,
        "seconds/generation": 0.5,
        "seconds/update": 0.25,
        "seconds/novelty_wait": 0.01,
    }


def _evaluation(random: np.random.Generator, rate: float) -> Any:
    problems = [
        ProblemResult(
            set="made", index=place, id=str(place), correct=int(random.binomial(8, rate)), tokens=80
        )
        for place in range(40)
    ]
    request = {"samples_per_prompt": 8, "seed": 0, "sets": ["made"], "policy_version": 0}
    return summarize(problems, request, [1, 8], 1.0)
