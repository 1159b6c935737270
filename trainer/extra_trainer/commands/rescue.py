"""`extra-rl rescue`: whether prefixes rescue a model's hard prompts, studied by `evaluation.rescue`.

The three services are started for the time of the command. The output folder holds rescue.json (every retry
with its outcome), memory/ (the prefix memories) and the services' logs.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from extra_client import VerificationClient
from extra_trainer.commands.measurement import run_measurement, validated
from extra_trainer.config import PrefixConfig, PromptConfig
from extra_trainer.data.made import is_made, make_problems
from extra_trainer.data.problems import Problem, read_problems
from extra_trainer.evaluation.evaluator import weights_identity
from extra_trainer.evaluation.rescue import POLICIES, PolicyResult, RescueStudy
from extra_trainer.launch.services import start_here
from extra_trainer.reports.progress import EvaluationProgress
from extra_trainer.rollouts.collector import Sampling
from extra_trainer.rollouts.generation_pool import GenerationPool


@dataclass(frozen=True)
class RescueOptions:
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


def rescue(options: RescueOptions) -> int:
    """Run the study and return the exit code, see `run_measurement`."""
    return run_measurement(
        lambda console: _show(_study(options, console), console), "Stopped; finished passes are kept."
    )


def _study(options: RescueOptions, console: Console) -> list[PolicyResult]:
    from transformers import AutoTokenizer

    prefix = validated(PrefixConfig, {"min_segment_tokens": options.min_segment_tokens})
    prompts = validated(PromptConfig, options.prompts)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    problems = _distinct(_problems(options, prompts, tokenizer))
    options.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        generation, novelty, verification = _start_services(options, stack)
        pool = stack.enter_context(GenerationPool([generation]))
        verifier = stack.enter_context(VerificationClient(verification))
        # An upper bound: the number of hard prompts is a result.
        most = options.passes * len(problems) * options.sampling.n * (1 + len(POLICIES))
        shown = stack.enter_context(EvaluationProgress(console, "Samples, at most", most))
        study = RescueStudy(
            pool,
            verifier,
            novelty,
            tokenizer,
            options.sampling,
            prefix,
            method=prompts.verification_method,
            options=prompts.verify_options,
            templated=prompts.apply_chat_template,
            progress=shown.advance,
        )
        weights = weights_identity(options.model)
        return study.run(problems, options.passes, options.output / "rescue.json", weights)


def _problems(options: RescueOptions, prompts: PromptConfig, tokenizer: Any) -> list[Problem]:
    if is_made(options.data):
        return make_problems(options.data, "train", options.problems, 0, prompts, tokenizer)
    return read_problems(options.data, prompts, tokenizer, options.problems)


def _distinct(problems: list[Problem]) -> list[Problem]:
    """Keep one problem of each prompt: the prefix memory identifies prompts by their text."""
    return list({problem.prompt: problem for problem in problems}.values())


def _start_services(options: RescueOptions, stack: ExitStack) -> tuple[str, ...]:
    logs = options.output / "logs"
    logs.mkdir(exist_ok=True)
    settings: dict[str, dict[str, Any]] = {
        "generation": {"model": options.model.resolve()},
        "novelty": {"data_folder": (options.output / "memory").resolve()},
        "verification": {},
    }

    def start(name: str) -> str:
        return start_here(name, logs / f"{name}.log", stack, **settings[name])

    # At the same time: each loads its own packages and models.
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(start, settings))


def _show(rows: list[PolicyResult], console: Console) -> None:
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
