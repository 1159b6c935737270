"""Run folders like the trainer's, made from a seed without training, for tests of code that reads them."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from extra_rl.vocabulary import FinishReason, VerdictStatus
from extra_trainer.evaluation.result import ProblemResult, summarize
from extra_trainer.runs.folder import RunFolder
from extra_trainer.runs.schema import RolloutRecord, StepMetrics, group_outcome, pack_array

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
        folder.write_rollouts(step, rollouts)
    if evaluated:
        for when, rate in (("before", 0.3), ("after", 0.5)):
            _evaluation(random, rate).save(folder.evaluation(when))
    return path


def rollout_record(**changes: Any) -> RolloutRecord:
    """A rollout of 12 tokens, correct and without novelty but for `changes`."""
    values: dict[str, Any] = {
        "prompt_id": "prompt",
        "prompt": "1+1=?",
        "answer": "2",
        "guided": False,
        "prefix_id": "",
        "prefix_tokens": 0,
        "group": 0,
        "sample": 0,
        "text": "\\boxed{2}",
        "finish_reason": FinishReason.STOP,
        "status": VerdictStatus.CORRECT,
        "unparseable_side": None,
        "extracted": "2",
        "rule": "integer",
        "detail": "",
        "normalized_response": "2",
        "normalized_answer": "2",
        "novelty": 0.0,
        "nearest": None,
        "suspicious": "",
        "new_steps": (),
        "behind_answer": 0,
        "times_given": None,
        "outcome_bonus": 0.0,
        "policy_version": 1,
        "tokens": 12,
        "mean_entropy": 0.2,
        "packed_token_ids": pack_array(np.zeros(12, np.int32)),
        "packed_entropies": pack_array(np.full(12, 0.2, np.float16)),
    }
    return RolloutRecord(**{**values, **changes})


def step_metrics(step: int, **changes: Any) -> StepMetrics:
    """The metrics of a step, all 0 but for `changes`."""
    values: dict[str, Any] = {
        "reward": 0.0,
        "groups_all_right": 0.0,
        "groups_all_wrong": 0.0,
        "novelty": 0.0,
        "entropy": 0.0,
        "guided_groups": 0.0,
        "guided_rescued": 0.0,
        "undecided": 0.0,
        "response_tokens": 0.0,
    }
    return StepMetrics(step, **{**values, **changes})


def _rollouts(random: np.random.Generator, step: int) -> list[RolloutRecord]:
    return [
        rollout_record(
            prompt_id=f"prompt-{(step * PROMPTS + prompt) % 30}",
            prompt=f"{prompt}+{step}=?",
            answer=str(prompt + step),
            guided=prompt == PROMPTS - 1 and step > 2,
            group=prompt,
            sample=sample,
            text=f"{prompt}+{step}\n\\boxed{{{prompt + step}}}",
            status=VerdictStatus.CORRECT if random.random() < 0.2 + 0.02 * step else VerdictStatus.WRONG,
            extracted=str(prompt + step),
            novelty=float(random.choice([0, 0, 0.03, 0.1, 0.3])),
            policy_version=step,
        )
        for prompt in range(PROMPTS)
        for sample in range(SAMPLES)
    ]


def _metrics(step: int, rollouts: list[RolloutRecord], random: np.random.Generator) -> StepMetrics:
    groups = [rollouts[start : start + SAMPLES] for start in range(0, len(rollouts), SAMPLES)]
    outcomes = [group_outcome(group) for group in groups]
    guided = float(step > 2)
    return step_metrics(
        step,
        reward=float(np.mean([record.correct for record in rollouts])),
        groups_all_right=float(np.mean([outcome.all_right for outcome in outcomes])),
        groups_all_wrong=float(np.mean([outcome.all_wrong for outcome in outcomes])),
        novelty=float(random.uniform(0, 0.02)),
        entropy=float(0.3 - 0.005 * step),
        response_tokens=12.0,
        guided_groups=guided,
        guided_rescued=guided * float(outcomes[-1].correct > 0),
        seconds={"generation": 0.5, "update": 0.25, "novelty_wait": 0.01},
        others={"novelty_bonus": float(random.uniform(0, 0.01)), "kl": 0.001 * step},
    )


def _evaluation(random: np.random.Generator, rate: float) -> Any:
    problems = [
        ProblemResult(
            set="made", index=place, id=str(place), correct=int(random.binomial(8, rate)), tokens=80
        )
        for place in range(40)
    ]
    request = {"samples_per_prompt": 8, "seed": 0, "sets": ["made"], "policy_version": 0}
    return summarize(problems, request, [1, 8], 1.0)
