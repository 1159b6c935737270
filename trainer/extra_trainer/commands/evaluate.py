"""`extra-rl eval`: pass@k of a model on sets of problems, measured by `evaluation.evaluator`.

Services without a given address are started as child processes and end with the command. The output folder
holds samples.jsonl (the journal: all samples with their verdicts), results.json, and the logs of started
services. The same command continues where an earlier one was stopped.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from extra_client import VerificationClient
from extra_rl.config_file import ConfigError
from extra_trainer.commands.measurement import run_measurement, validated
from extra_trainer.config import EvaluationConfig, PromptConfig
from extra_trainer.data.made import is_made, make_problems
from extra_trainer.data.problems import SET_NAME, Problem, evaluation_sets, read_problems
from extra_trainer.evaluation.evaluator import Evaluator, weights_identity
from extra_trainer.evaluation.result import Evaluation, group_table, outcome_lines, result_table
from extra_trainer.launch.services import start_here
from extra_trainer.reports.progress import EvaluationProgress
from extra_trainer.rollouts.generation_pool import GenerationPool

#: Refused problems named in the terminal; results.json names all.
REFUSED_SHOWN = 10


@dataclass(frozen=True)
class EvaluateOptions:
    """The command's options, as given."""

    output: Path
    data: list[str]
    model: Path | None
    #: Addresses of all replicas; empty: one is started.
    generation: list[str]
    verification: str | None
    #: Fields of EvaluationConfig and PromptConfig.
    evaluation: dict[str, Any]
    prompts: dict[str, Any]


def evaluate(options: EvaluateOptions) -> int:
    """Evaluate and return the exit code, see `run_measurement`."""

    def measure(console: Console) -> None:
        evaluation = _evaluate(options, console)
        console.print(result_table(evaluation))
        for line in outcome_lines(evaluation):
            console.print(line, highlight=False)
        if (groups := group_table(evaluation)) is not None:
            console.print(groups)
        _print_refused(evaluation, console)
        console.print(f"{evaluation.seconds:.0f} s in all. Results: {options.output / 'results.json'}")

    return run_measurement(measure, "Stopped; what is finished is kept.")


def _evaluate(options: EvaluateOptions, console: Console) -> Evaluation:
    settings = validated(EvaluationConfig, options.evaluation)
    prompts = validated(PromptConfig, options.prompts)
    sets = _sets(options, settings, prompts)
    if (options.model is None) == (not options.generation):
        raise ConfigError("give either --model, to start a generation service, or --generation, its address")
    options.output.mkdir(parents=True, exist_ok=True)
    total = sum(len(problems) for problems in sets.values())
    console.print(f"{total} problems: " + ", ".join(f"{name} {len(sets[name])}" for name in sets))
    with ExitStack() as stack:
        targets = _start_services(options, stack)
        generation = stack.enter_context(GenerationPool(targets[0]))
        verification = stack.enter_context(VerificationClient(targets[1]))
        generation.wait_for_ready()
        verification.wait_for_ready()
        shown = stack.enter_context(
            EvaluationProgress(console, "Evaluation", total * settings.samples_per_prompt)
        )
        assert settings.max_tokens is not None
        evaluator = Evaluator(
            generation,
            verification,
            settings,
            settings.max_tokens,
            chat=bool(options.prompts["apply_chat_template"]),
            method=prompts.verification_method,
            options=prompts.verify_options,
            progress=shown.advance,
        )
        weights = "" if options.model is None else weights_identity(options.model)
        evaluation = evaluator.run(sets, options.output / "samples.jsonl", weights=weights)
    evaluation.save(options.output / "results.json")
    return evaluation


def _sets(
    options: EvaluateOptions, settings: EvaluationConfig, prompts: PromptConfig
) -> dict[str, list[Problem]]:
    sources: dict[str, str] = {}
    for given in options.data:
        own_name, equals, path = given.partition("=")
        named = bool(equals) and SET_NAME.fullmatch(own_name) is not None and not Path(given).exists()
        for name, source in evaluation_sets({own_name: path} if named else given).items():
            if name in sources:
                raise ConfigError(f"two sets are called {name}: name them, --data NAME=PATH")
            sources[name] = source
    # The chat template is the served model's: the service applies it.
    return {
        name: make_problems(source, "evaluation", settings.problems, 0, prompts, None)
        if is_made(source)
        else read_problems(source, prompts, None, settings.problems)
        for name, source in sources.items()
    }


def _start_services(options: EvaluateOptions, stack: ExitStack) -> tuple[list[str], str]:
    """Return addresses of generation and verification; services started here stop with `stack`."""
    logs = options.output / "logs"
    logs.mkdir(exist_ok=True)

    def start(name: str, **settings: Any) -> str:
        return start_here(name, logs / f"{name}.log", stack, **settings)

    # At the same time: each loads its own packages and models.
    with ThreadPoolExecutor() as pool:
        model = options.model and pool.submit(start, "generation", model=options.model.resolve())
        verifier = None if options.verification else pool.submit(start, "verification")
        generation = [model.result()] if model else options.generation
        return generation, verifier.result() if verifier else str(options.verification)


def _print_refused(evaluation: Evaluation, console: Console) -> None:
    refused = [(name, problem) for name, result in evaluation.sets.items() for problem in result.refused]
    if refused:
        console.print(
            f"[yellow]{len(refused)} problems were refused by the generation service "
            "and count as not solved:[/]"
        )
    for name, problem in refused[:REFUSED_SHOWN]:
        console.print(
            f"  {name} {problem.id}: {problem.reason}", markup=False, highlight=False, soft_wrap=True
        )
    if len(refused) > REFUSED_SHOWN:
        console.print(f"  and {len(refused) - REFUSED_SHOWN} more, in results.json")
