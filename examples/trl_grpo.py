"""TRL's GRPOTrainer with the novelty bonus after normalization: a small model, on a GPU or the CPU.

    make example-trl

With a model hub at hand it trains Qwen2.5-0.5B-Instruct on GSM8K; `--model` and `--data` take other names of
the hub, or folders. Without a hub, or with HF_HUB_OFFLINE=1, it trains the start model of this repository on
made sums. The two services run as child processes here; for servers of your own, give their host:port.
"""

import argparse
import random
import tempfile
from pathlib import Path

import httpx
import torch
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi
from trl import GRPOConfig, GRPOTrainer

from extra_client import NamespaceSettings, embedded
from extra_client.integrations import NoveltyScoring
from extra_client.integrations.trl import NoveltyAdvantage, verification_reward

MADE_MODEL = Path(__file__).parents[1] / "trainer/start-models/start-model-f4f3074ac22e69de"
ON_GPU = torch.cuda.is_available()


class Trainer(NoveltyAdvantage, GRPOTrainer):
    """GRPO plus alpha x novelty of correct completions."""


def is_at_hand(model: str) -> bool:
    """Return whether `model` is a folder, or the model hub answers."""
    if Path(model).is_dir():
        return True
    try:
        HfApi().model_info(model, timeout=5)
    except (OSError, httpx.HTTPError):
        return False
    return True


def gsm8k(name: str) -> Dataset:
    """Return 64 problems of GSM8K with the columns prompt (a conversation) and answer."""
    ask = "\nThink step by step. Put the final number in \\boxed{}."

    def row(example: dict[str, str]) -> dict[str, object]:
        prompt = [{"role": "user", "content": example["question"] + ask}]
        return {"prompt": prompt, "answer": example["answer"].rpartition("#### ")[2]}

    problems = load_dataset(name, "main", split="train[:64]")
    return problems.map(row, remove_columns=["question"])


def sums() -> Dataset:
    """Return 4 sums of three numbers, with the same columns."""
    rng = random.Random(0)
    rows = [[rng.randint(1, 99) for _ in range(3)] for _ in range(4)]
    return Dataset.from_list(
        [{"prompt": "+".join(map(str, terms)) + "=?\n", "answer": str(sum(terms))} for terms in rows]
    )


def main() -> None:
    """Train twelve steps and print the metrics of the plug-in."""
    parser = argparse.ArgumentParser(description="TRL's GRPOTrainer with the novelty bonus.")
    parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B-Instruct", help="an instruction-tuned model")
    parser.add_argument("--data", default="openai/gsm8k", help="problems in the form of GSM8K")
    wanted = parser.parse_args()
    at_hand = is_at_hand(wanted.model)
    model, data = (wanted.model, gsm8k(wanted.data)) if at_hand else (str(MADE_MODEL), sums())
    print(f"training {model} on {wanted.data if at_hand else 'made sums'}")
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded.start("novelty") as novelty,
        embedded.start("verification") as verification,
    ):
        trainer = Trainer(
            model,
            verification_reward(verification.target),
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=not ON_GPU,
                bf16=ON_GPU,
                max_steps=12,
                learning_rate=1e-6 if at_hand else 1e-4,
                per_device_train_batch_size=16,
                num_generations=8,
                max_completion_length=256 if at_hand else 64,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=data,
            novelty=NoveltyScoring(
                target=novelty.target,
                namespace="example",
                alpha=0.1,
                settings=NamespaceSettings(min_history=2),
            ),
        )
        trainer.train()
        print("step  reward  novelty of correct completions")
        for step, entry in enumerate(trainer.state.log_history[:-1], 1):
            print(f"{step:4}  {entry['reward']:6.3f}  {entry.get('novelty/mean', 0.0):.4f}")


if __name__ == "__main__":
    main()
