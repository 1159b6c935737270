"""TRL's GRPOTrainer with the novelty bonus after normalization: a small model, on the CPU.

    make example-trl

The novelty service runs as a child process here; for a server of your own, give its host:port.
"""

import re
import tempfile
from pathlib import Path

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from extra_client import NamespaceSettings, embedded
from extra_client.integrations import NoveltyScoring
from extra_client.integrations.trl import NoveltyAdvantage
from extra_trainer.rehearsal.problems import problems
from extra_trainer.rehearsal.recipes import SumsFit
from extra_trainer.rehearsal.start_model import start_model


class Trainer(NoveltyAdvantage, GRPOTrainer):
    """GRPO plus alpha x novelty of correct completions."""


def true_equation(completions: list[str], **_: object) -> list[float]:
    """Return 1 for a completion with a true a+b=c, which a model can learn in seconds."""
    sums = [re.findall(r"(\d+)\+(\d+)=(\d+)", text.replace(" ", "")) for text in completions]
    return [float(any(int(a) + int(b) == int(c) for a, b, c in found)) for found in sums]


def main() -> None:
    """Train twelve steps and print the metrics of the plug-in."""
    with tempfile.TemporaryDirectory() as folder:
        novelty = embedded.start("novelty", f"{folder}/novelty.log")
        model = start_model(Path(folder), 0, SumsFit(hidden_size=64, layers=2, steps=300))
        easy = [problem for problem in problems("train", 200, 0) if len(problem.terms) == 2][:4]
        rows = [{"prompt": problem.prompt, "answer": problem.answer} for problem in easy]
        trainer = Trainer(
            str(model),
            true_equation,  # on real problems: verification_reward("localhost:50053")
            args=GRPOConfig(
                output_dir=f"{folder}/out",
                use_cpu=True,
                bf16=False,
                max_steps=12,
                learning_rate=1e-4,
                per_device_train_batch_size=32,
                num_generations=8,
                max_completion_length=48,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=Dataset.from_list(rows),
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
            print(f"{step:4}  {entry['reward']:6.3f}  {entry['novelty/mean']:.4f}")


if __name__ == "__main__":
    main()
