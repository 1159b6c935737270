"""What `extra-rl rescue` does: options in, exit code out; the work is that of `rescue.RescueStudy`.

The three services are started for the command's time. The output folder holds rescue.json (every retry and
what came of it), memory/ (the prefix memories) and the services' logs.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from extra_client import VerificationClient
from extra_trainer.commands import measuring
from extra_trainer.config import PrefixConfig, PromptConfig
from extra_trainer.data.problems import Problem, read_problems
from extra_trainer.evaluation.evaluator import weights_identity
from extra_trainer.evaluation.rescue import POLICIES, RescueStudy, Row
from extra_trainer.launch.services import start_here
from extra_trainer.reports.progress import EvaluationProgress
from extra_trainer.rollouts.collector import Sampling
from extra_trainer.rollouts.generation_pool import GenerationPool


@dataclass(frozen=True)
class Options:
    """The command's options, as given."""

    output: Path
    data: str
    model: Path
    passes: int
    problems: int | None
    min_segment_tokens: int
    sampling: Sampling
    #: Fields of PromptConfig.
    prompts: dict[str, Any]


def run(options: Options) -> int:
    """Studies; exit codes as `measuring.run`."""
    return measuring.run(
        lambda console: _show(_study(options, console), console), "Stopped; finished passes are kept."
    )


def _study(options: Options, console: Console) -> list[Row]:
    from transformers import AutoTokenizer

    prefix = measuring.validated(PrefixConfig, {"min_segment_tokens": options.min_segment_tokens})
    prompts = measuring.validated(PromptConfig, options.prompts)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    problems = _distinct(read_problems(options.data, prompts, tokenizer, options.problems))
    options.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        generation, novelty, verification = _start_services(options, stack)
        pool = stack.enter_context(GenerationPool([generation]))
        verifier = stack.enter_context(VerificationClient(verification))
        # Most that there can be: how many are hard is what comes out.
        most = options.passes * len(problems) * options.sampling.n * (1 + len(POLICIES))
        shown = stack.enter_context(EvaluationProgress(console, "Samples, at most", most))
        study = RescueStudy(
            pool, verifier, novelty, tokenizer, options.sampling, prefix, progress=shown.advance
        )
        weights = weights_identity(options.model)
        return study.run(problems, options.passes, options.output / "rescue.json", weights)


def _distinct(problems: list[Problem]) -> list[Problem]:
    """One of each prompt: the prefix memory knows prompts by their text."""
    return list({problem.prompt: problem for problem in problems}.values())


def _start_services(options: Options, stack: ExitStack) -> tuple[str, ...]:
    logs = options.output / "logs"
    logs.mkdir(exist_ok=True)
    settings: dict[str, dict[str, Any]] = {
        "generation": {"model": options.model.resolve()},
        "novelty": {"data_folder": (options.output / "memory").resolve()},
        "verification": {},
    }

    def start(name: str) -> str:
        return start_here(name, logs / f"{name}.log", stack, **settings[name])

    # Side by side: each loads what it needs.
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(start, settings))


def _show(rows: list[Row], console: Console) -> None:
    if not rows:
        console.print("No prompt was hard: there is nothing to rescue.")
        return
    table = Table(
        title=f"{rows[0].retries} retries of hard prompts; [95 % bootstrap interval over them]",
        title_justify="left",
    )
    for column in ("policy", "rescued", "- none", "correct", "- none", "prefix"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        shares = (row.rescued, row.rescued_difference, row.pass_rate, row.pass_rate_difference)
        shown = ["" if share is None else str(share) for share in shares]
        table.add_row(row.policy, *shown, f"{row.prefix_share:.0%}")
    console.print(table)
