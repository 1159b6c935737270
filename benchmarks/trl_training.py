"""One run of TRL's GRPOTrainer on the rehearsal: `extra-rl bench trl_training --json`.

It trains the start model of a config on the config's problems, with the same batch, lengths, updates, rates
and precision as `extra-rl train`, and all that TRL offers on a CPU at its defaults otherwise. Rewards compare
the text in the last box with the answer, in the training process: nothing that TRL waits for. `step` of
`extra-rl bench` runs it beside the project's own training.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from extra_trainer import config as configs
from extra_trainer.config import Config
from extra_trainer.data.made import make_problems
from extra_trainer.rehearsal.recipes import RECIPES
from extra_trainer.rehearsal.start_model import start_model

BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


class StepTimes(TrainerCallback):  # type: ignore[misc]
    """Notes the time at the end of each step."""

    def __init__(self) -> None:
        self.ended: list[tuple[float, float]] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note clock and CPU seconds."""
        self.ended.append((time.perf_counter(), time.process_time()))


def right_answers(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """Return 1 for a completion whose last box holds the answer, and 0 for others."""
    found = [BOXED.findall(text) for text in completions]
    return [float(bool(boxes) and boxes[-1] == right) for boxes, right in zip(found, answer, strict=True)]


def settings_of(config: Config, folder: str) -> GRPOConfig:
    """Return the config's settings of rollouts and updates as TRL has them."""
    rollout, update = config.rollout, config.optimization
    minibatch = update.minibatch_prompts * rollout.samples_per_prompt
    return GRPOConfig(
        output_dir=folder,
        seed=config.seed,
        use_cpu=True,
        bf16=False,
        # TRL's default trades time for memory; the project's rehearsal does not.
        gradient_checkpointing=False,
        per_device_train_batch_size=update.micro_batch_samples,
        gradient_accumulation_steps=minibatch // update.micro_batch_samples,
        generation_batch_size=rollout.prompts_per_step * rollout.samples_per_prompt,
        num_generations=rollout.samples_per_prompt,
        max_completion_length=rollout.response_max_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        num_train_epochs=update.epochs,
        num_iterations=update.updates_per_batch,
        learning_rate=update.learning_rate,
        lr_scheduler_type="constant",
        # As DeepSpeed's AdamW, with which OpenRLHF trains.
        adam_beta2=0.95,
        weight_decay=update.weight_decay,
        max_grad_norm=update.max_gradient_norm,
        beta=update.kl_coefficient,
        epsilon=update.clip_low,
        epsilon_high=update.clip_high,
        loss_type="dapo",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def train(config: Config, cache: Path) -> list[dict[str, float]]:
    """Train, and return seconds, CPU seconds, mean reward and tokens of each step but the first."""
    folder = start_model(cache, config.model.seed, RECIPES[config.model.path])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = config.data
    problems = make_problems(data.train, "train", data.train_problems, config.seed, data, tokenizer)
    times = StepTimes()
    with tempfile.TemporaryDirectory() as output:
        trainer = GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            right_answers,
            args=settings_of(config, output),
            train_dataset=Dataset.from_list([{"prompt": p.prompt, "answer": p.answer} for p in problems]),
            processing_class=tokenizer,
            callbacks=[times],
        )
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    return [
        {
            "seconds": after[0] - before[0],
            "cpu_seconds": after[1] - before[1],
            "reward": entry["reward"],
            "tokens": entry["completions/mean_length"],
        }
        for before, after, entry in zip(times.ended, times.ended[1:], logged[1:], strict=False)
    ]


def main(arguments: list[str]) -> None:
    """Print the steps as one JSON object."""
    parser = argparse.ArgumentParser(prog="extra-rl bench trl_training", description=__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=Path("trainer/configs/rehearsal.yaml"))
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE, as for `extra-rl train`")
    parser.add_argument("--cache", type=Path, default=Path("trainer/start-models"))
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: one per processor")
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: the output is JSON")
    chosen = parser.parse_args(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    settings = {
        name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in chosen.set)
    }
    steps = train(configs.load(chosen.config, settings), chosen.cache)
    print(json.dumps({"steps": steps}))


if __name__ == "__main__":
    main(sys.argv[1:])
