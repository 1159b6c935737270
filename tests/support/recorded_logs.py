"""Make tests/data/logs: logs of other trainers, written by their own code.

`python tests/support/recorded_logs.py trl|openrlhf` in the tests' environment, `verl` in that of
`make test-plugins`, and `slime FOLDER` with a checkout of slime, whose modules for samples need torch alone.
"""

import sys
import tempfile
import types
from pathlib import Path
from typing import Any

LOGS = Path(__file__).parents[1] / "data" / "logs"
PROMPT = "2 + 2 = "


def log_completions(output: Path, model: Path, steps: int, **options: Any) -> None:
    """Train with TRL's GRPOTrainer, which logs its completions below `output`.

    Args:
        output: TRL's output_dir.
        model: The policy to begin with.
        steps: Number of steps, each of two groups of four.
        **options: Further settings of GRPOConfig.
    """
    import trl
    from datasets import Dataset

    def says_four(completions: list[str], log_extra: Any, answer: list[str], **_: Any) -> list[float | None]:
        log_extra("answer", answer)
        # TRL writes NaN for None.
        return [None if not text else float("4" in text) for text in completions]

    def short(completions: list[str], **_: Any) -> list[float]:
        return [-len(text) / 10 for text in completions]

    arguments = trl.GRPOConfig(
        output_dir=str(output),
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        max_steps=steps,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
        log_completions=True,
        num_completions_to_print=0,
        seed=1,
        **options,
    )
    rows = [{"prompt": PROMPT, "answer": "4"}, {"prompt": "2 + 3 = ", "answer": "5"}]
    trainer = trl.GRPOTrainer(
        str(model), [says_four, short], args=arguments, train_dataset=Dataset.from_list(rows * 8)
    )
    trainer.train()


def log_samples(folder: Path) -> None:
    """Write two steps' samples with OpenRLHF's TensorboardLogger."""
    from openrlhf.utils.logging_utils import TensorboardLogger

    wandb = types.SimpleNamespace(run_name="run")
    logger = types.SimpleNamespace(tensorboard_dir=str(folder), wandb=wandb)
    writer = TensorboardLogger(types.SimpleNamespace(logger=logger))
    for step, text, reward in ((1, f"{PROMPT}it is\n\\boxed{{4}}", 1.0), (2, "2 + 3 = 6", 0.0)):
        writer.log_train(step, {"reward": reward, "generated_samples": [text, reward]})
    writer.close()


def dump_generations(folder: Path) -> None:
    """Write two steps' rollouts with verl's code: with a grader's acc, and with a plain score."""
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    inputs = [f"user\n{PROMPT}\nassistant\n"] * 2 + ["user\n2 + 3 = \nassistant\n"] * 2
    outputs = ["it is \\boxed{4}", "so 5", "thus \\boxed{5}", "no idea"]
    graded = {
        "acc": [True, False, True, False],
        "pred": ["4", "5", "5", None],
        "format": [1.0, 0.0, 1.0, 0.0],
    }
    uids = {"uid": ["0_0_0", "0_1_0", "1_0_0", "1_1_0"]}
    answers = ["4", "4", "5", "5"]
    scores = [1.0, -1.0, 1.0, -1.0]
    write = RayPPOTrainer._write_generations
    write(inputs, outputs, answers, scores, graded, str(folder), 1)
    write(inputs, outputs, [*answers[:3], None], scores, uids, str(folder), 2)


def save_samples(folder: Path, checkout: Path) -> None:
    """Write a rollout's samples with the code of slime's --save-debug-rollout-data."""
    sys.path.insert(0, str(checkout))
    from slime.observability.rollout_data_utils import save_debug_rollout_data
    from slime.utils.types import Sample

    status = Sample.Status
    samples = []
    for number, (response, reward, end) in enumerate(
        (("4", 1.0, status.COMPLETED), ("44", None, status.TRUNCATED), ("5", 0.0, status.COMPLETED))
    ):
        # Ids of generation_models.ALPHABET; EOS ends what completed.
        ids = [2 + int(digit) for digit in response] + ([1] if end is status.COMPLETED else [])
        prompt = [4, 38 + 10, 12, 48, 4, 48, 17, 48]
        samples.append(
            Sample(
                group_index=0,
                index=number,
                prompt=[{"role": "user", "content": PROMPT}],
                tokens=[*prompt, *ids],
                response=response,
                response_length=len(ids),
                label="4",
                reward=reward,
                weight_versions=["3"],
                rollout_log_probs=[-0.5] * len(ids),
                status=end,
            )
        )
    path = str(folder / "rollout_{rollout_id}.pt")
    save_debug_rollout_data(path, samples, rollout_id=7, evaluation=False)


def assert_as_recorded(trainer: str, logs: Path, cache: Path) -> None:
    """Check that logs hold what was recorded for the tests of their importer.

    Args:
        trainer: The name of the logs' format.
        logs: What the installed release of the trainer has written.
        cache: Folder of imported runs.
    """
    from extra_inspector.imports.run import ImportedRun, Services

    read = []
    for source in (logs, LOGS / trainer):
        run = ImportedRun(source, trainer, cache, Services())
        assert run.update()
        read.append(dict(run.folder.read_rollouts()))
    assert read[0] == read[1]


def main(trainer: str, *arguments: str) -> None:
    """Write the logs of one trainer."""
    target = LOGS / trainer
    if trainer == "trl":
        from support.generation_models import make_model

        with tempfile.TemporaryDirectory() as folder:
            model = make_model(Path(folder) / "model")
            # Each batch is sampled once and used in two steps: TRL logs it twice.
            log_completions(target, model, 4, steps_per_generation=2)
    elif trainer == "openrlhf":
        log_samples(target)
        # The file's own name holds the machine's.
        for number, path in enumerate(sorted(target.rglob("events.out.tfevents.*"))):
            path.rename(target / f"events.out.tfevents.{number}")
            path.parent.rmdir()
    elif trainer == "verl":
        dump_generations(target)
    else:
        save_samples(target, Path(arguments[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
