"""`extra-rl reverify`: what another verification service would say about a run's recorded responses."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from extra_client import ExtraError
from extra_rl.config_file import ConfigError, explain, read_yaml
from extra_trainer.commands.check_data import verification_client
from extra_trainer.commands.measurement import WIDTH
from extra_trainer.commands.run_command import run_command
from extra_trainer.config import PromptConfig
from extra_trainer.evaluation.reverification import Change, Changed, Judgement, Reverification, reverify
from extra_trainer.reports.progress import EvaluationProgress
from extra_trainer.runs.folder import RunFolder

#: The settings of a run that decide its verdicts.
_SETTINGS = ("verification_method", "references", "verifier")


@dataclass(frozen=True)
class ReverifyOptions:
    """The command's options, as given."""

    run: Path
    #: Address of a verification service; None: one is started.
    verification: str | None
    #: Responses that are shown of each change.
    examples: int
    json: bool


def run_reverify(options: ReverifyOptions) -> int:
    """Judge a run's recorded responses anew, and print what would change.

    Returns:
        0, or 1 after an error that is reported, 130 after Ctrl-C.
    """
    # The outcome goes to standard output, everything else to standard error.
    console = Console(stderr=True)
    output = Console()
    if not output.is_terminal:
        output.width = WIDTH

    def work() -> int:
        folder = RunFolder(options.run)
        total = _responses(folder)
        config = _config(folder)
        with (
            verification_client(options.verification, config.verification_method) as client,
            EvaluationProgress(console, "Responses judged anew", total) as shown,
        ):
            outcome = reverify(
                folder,
                client,
                config.verification_method,
                config.verify_options,
                examples=options.examples,
                progress=shown.advance,
            )
        if options.json:
            print(json.dumps({"run": str(options.run), **outcome.to_json()}, ensure_ascii=False, indent=1))
        else:
            show(outcome, output)
        steps = len(folder.read_metrics())
        if missing := folder.unrecorded_steps(steps):
            console.print(
                f"{steps - missing} of {steps} steps: the others have no records (`recording` in the config)."
            )
        return 0

    return run_command(work, console, (ConfigError, ExtraError), "Stopped; the run is unchanged.")


def show(outcome: Reverification, console: Console) -> None:
    """Print the changes as a table, then examples of each."""
    console.print(
        f"{outcome.responses:,} responses; correct {outcome.correct_before:,} before,"
        f" {outcome.correct_after:,} now; {outcome.rewards_changed:,} rewards would change.",
        highlight=False,
    )
    if not outcome.changes:
        console.print("Every verdict is the same, by the same rule.")
        return
    table = Table("before", "now", "reward")
    table.add_column("responses", justify="right")
    for change, found in outcome.ordered():
        table.add_row(str(change.before), str(change.after), _reward(change), f"{found.responses:,}")
    console.print(table)
    for change, found in outcome.ordered():
        _show_examples(change, found, console)


def _show_examples(change: Change, found: Changed, console: Console) -> None:
    if not found.examples:
        return
    console.print(f"\n[bold]{change.before} -> {change.after}[/]", highlight=False)
    for example in found.examples:
        extracted = dict.fromkeys((example.extracted_before, example.extracted_after))
        final = " / ".join(map(repr, extracted))
        lines = [
            f"step {example.step}, group {example.group}, sample {example.sample}: {example.prompt!r}",
            f"    reference {example.answer!r}, final answer {final} {example.detail}".rstrip(),
        ]
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _reward(change: Change) -> str:
    def shown(judgement: Judgement) -> str:
        return "none" if judgement.reward is None else f"{judgement.reward:.0f}"

    if not change.of_reward:
        return f"{shown(change.before)} as before"
    return f"{shown(change.before)} -> {shown(change.after)}"


def _responses(folder: RunFolder) -> int:
    """Return the number of recorded responses."""
    count = 0
    for _, path in folder.step_files("rollouts"):
        # A run that goes on may have deleted the file meanwhile.
        with suppress(FileNotFoundError), path.open("rb") as file:
            count += sum(1 for _ in file)
    if not count:
        raise ConfigError(f"{folder.path} is no run folder with recorded rollouts")
    return count


def _config(folder: RunFolder) -> PromptConfig:
    """Return the run's settings that decide verdicts; the defaults for a run without a config."""
    if not folder.config.is_file():
        return PromptConfig()
    # Not the whole config: the rest of an older one may no longer be valid.
    data = read_yaml(folder.config).get("data", {})
    try:
        return PromptConfig.model_validate({name: data[name] for name in _SETTINGS if name in data})
    except ValidationError as error:
        raise ConfigError(f"{folder.config}: data: {explain(error, PromptConfig)}") from error
