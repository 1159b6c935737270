"""`extra-rl check-data`: whether a file of problems can be trained on, and `--dry-run`'s part of it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from extra_client import ExtraError, VerificationClient, embedded
from extra_rl.config_file import ConfigError
from extra_rl.vocabulary import Method
from extra_trainer.commands.measurement import WIDTH, validated
from extra_trainer.commands.run_command import run_command
from extra_trainer.config import Config, PromptConfig
from extra_trainer.data import problems
from extra_trainer.data.checking import DataReport, check_data, line_of
from extra_trainer.data.files import RowFault
from extra_trainer.data.made import is_made


@dataclass(frozen=True)
class CheckDataOptions:
    """The command's options, as given."""

    data: str
    #: Folder of the model whose tokenizer and window count.
    model: Path | None
    #: Most tokens of a prompt; None: the model's window.
    max_tokens: int | None
    #: Address of a verification service; None: one is started.
    verification: str | None
    json: bool
    #: Fields of PromptConfig.
    prompts: dict[str, Any]


def check(options: CheckDataOptions) -> int:
    """Check a file of problems and print what is wrong with it.

    Returns:
        0 if every row can be used, 1 if something must be mended or after an error that is reported, 130
        after Ctrl-C.
    """
    # The report goes to standard output, everything else to standard error.
    console = Console(stderr=True)
    output = Console()
    if not output.is_terminal:
        output.width = WIDTH

    def work() -> int:
        config = validated(PromptConfig, options.prompts)
        tokenizer, window = _model(options)
        with verification_client(options.verification, config.verification_method) as client:
            report = _check(options.data, config, tokenizer, window, client, console)
        if options.json:
            print(json.dumps(report.to_json(), ensure_ascii=False, indent=1))
        else:
            show(report, output)
        return 1 if report.to_mend else 0

    return run_command(work, console, (ConfigError, ExtraError), "Stopped.")


def check_run_data(config: Config, tokenizer: Any | None, console: Console) -> int:
    """Check the files of a config's problems, and show what is wrong with them.

    Args:
        config: The run's config.
        tokenizer: The model's; None: lengths are not checked.
        console: Where the reports are printed.

    Returns:
        Rows that must be mended.

    Raises:
        ExtraError: The verification service fails.
    """
    sources = [config.data.train]
    with suppress(ConfigError):  # the plan has this problem
        sources += problems.evaluation_sets(config.data.evaluation).values()
    files = [source for source in dict.fromkeys(sources) if not is_made(source)]
    if not files:
        return 0
    target = config.services.verification.target
    window = config.rollout.prompt_max_tokens
    to_mend = 0
    with ExitStack() as stack:
        reached = None
        if target or find_spec("math_verify"):
            client = stack.enter_context(verification_client(target, config.data.verification_method))
            with suppress(ExtraError):
                client.get_info()
                reached = client
        for source in files:
            with suppress(ConfigError):  # likewise
                report = _check(source, config.data, tokenizer, window, reached, console)
                show(report, console)
                to_mend += report.to_mend
    return to_mend


def show(report: DataReport, console: Console) -> None:
    """Print a table of the faults, then the first rows of each."""
    title = f"{report.source}: {report.rows:,} rows, {report.prompts:,} distinct prompts"
    end = "" if report.findings else ", no faults."
    console.print(f"{title}{end}", markup=False, highlight=False, soft_wrap=True)
    if report.findings:
        table = Table("fault", "rows", "must be mended", "first")
        for fault in RowFault:
            if finding := report.findings.get(fault):
                first = line_of(finding.examples[0][0])
                must = "no" if fault is RowFault.REPEATED else "yes"
                table.add_row(str(fault), f"{finding.rows:,}", must, first)
        console.print(table)
    for fault in RowFault:
        for place, detail in report.findings[fault].examples if fault in report.findings else ():
            console.print(f"{fault}: {place}: {detail}", markup=False, highlight=False, soft_wrap=True)
    for skipped in report.skipped:
        console.print(f"Not checked: {skipped}.", markup=False, highlight=False, soft_wrap=True)


def _check(
    source: str,
    config: PromptConfig,
    tokenizer: Any | None,
    window: int | None,
    client: VerificationClient | None,
    console: Console,
) -> DataReport:
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed:,.0f}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        tasks = {}

        def progress(what: str, done: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(f"{source}: {what}", total=None)
            shown.update(tasks[what], completed=done)

        return check_data(
            source, config, tokenizer=tokenizer, window=window, verification=client, progress=progress
        )


@contextmanager
def verification_client(target: str | None, method: Method) -> Iterator[VerificationClient]:
    """Yield a client of the service at `target`, or of one that runs meanwhile."""
    with ExitStack() as stack:
        if target is None:
            code = "sandbox" if method is Method.CODE else "off"
            service = embedded.start("verification", code_execution=code)
            stack.callback(service.stop)
            target = service.target
        yield stack.enter_context(VerificationClient(target))


def _model(options: CheckDataOptions) -> tuple[Any | None, int | None]:
    if options.model is None:
        if options.max_tokens is not None:
            raise ConfigError("--max-tokens needs --model, whose tokenizer counts them")
        return None, None
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        if options.max_tokens is not None:
            return tokenizer, options.max_tokens
        window = getattr(AutoConfig.from_pretrained(options.model), "max_position_embeddings", None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{options.model} is no folder of a model: {str(error).splitlines()[0]}") from error
    if window is None:
        raise ConfigError(f"the config in {options.model} has no max_position_embeddings: give --max-tokens")
    return tokenizer, int(window)
