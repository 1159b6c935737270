"""The `extra-rl` command.

Sub-commands import the code they need only when they run, so that the client-only installation stays light
and `--help` is instant.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Reward and rollout microservices for reinforcement learning of reasoning models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=PASS_ON, add_help_option=False)
def serve(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="generation, novelty, verification, or all")],
) -> None:
    """Serve one service, or all; `extra-rl serve novelty --help` lists its settings."""
    from extra_cli import serving

    serving.serve(service, context.args)


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="Who gets it; appears in the servers' logs")],
    scopes: Annotated[
        list[str] | None,
        typer.Option("--scope", help="PATTERN=read, write or admin, such as run-1*=write; may be repeated"),
    ] = None,
) -> None:
    """Make a token: the secret for the caller, and its hash for the servers' config."""
    from extra_cli import tokens

    tokens.mint(name, scopes or ["*=admin"])


@app.command()
def health(
    service: Annotated[str, typer.Argument(help="generation, novelty, or verification")],
    target: Annotated[str, typer.Option(help="Address of the server; default: its port on this machine")] = (
        "localhost"
    ),
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer")] = 5.0,
) -> None:
    """Exit with 0 if the service is ready; for probes, over TLS too (EXTRA_RL_TLS_CA and so on)."""
    from extra_cli import probing

    sys.exit(probing.probe(service, target, timeout))


@app.command()
def train(
    config: Annotated[
        Path, typer.Argument(help="YAML file of the run, such as trainer/configs/rehearsal.yaml")
    ],
    run: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME-seedSEED")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the run folder's last checkpoint")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Replace one setting, such as seed=3 or novelty.alpha=0")
    ] = None,
    cache: Annotated[Path, typer.Option(help="Folder of the start models that the project makes")] = Path(
        ".cache/extra-rl"
    ),
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the resolved plan and its problems; start nothing"),
    ] = False,
) -> None:
    """Train with GRPO and ExTra: services, OpenRLHF, evaluation before and after, report."""
    from extra_trainer.commands import train as command

    sys.exit(command.train(config, run, resume, settings or [], cache, dry_run))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are shown side by side")],
    output: Annotated[
        Path | None,
        typer.Option(help="The page's path; default: report.html in the run's folder, of several runs here"),
    ] = None,
) -> None:
    """Write one self-contained page of runs: curves, pass@k, groups, novelty, guided groups, time, config."""
    from extra_trainer.commands import report as command

    sys.exit(command.report(runs, output))


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(help="Run folder; the run may still be in progress")],
    novelty: Annotated[
        str | None,
        typer.Option(help="Address of the novelty and prefix services, to show their current content"),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Namespace of the run there; default: as in the run folder")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to serve on; any but loopback needs a token")] = (
        "127.0.0.1"
    ),
    port: int = 8765,
    token_sha256: Annotated[
        str,
        typer.Option(
            envvar="EXTRA_RL_INSPECT_TOKEN_SHA256",
            help="SHA-256, in hex, of the token that readers need",
        ),
    ] = "",
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the index; default ~/.cache/extra-rl/inspect")
    ] = None,
) -> None:
    """Inspect a run in the browser: prompts, rollouts, tokens, prefixes, solutions. Changes nothing."""
    try:
        from extra_inspector import main as inspector
    except ModuleNotFoundError as error:
        sys.exit(f"cannot import {error.name!r}: pip install 'extra-rl[inspect]'")
    sys.exit(inspector.inspect(run, novelty, namespace, host, port, token_sha256, cache))


@app.command()
def experiment(
    config: Annotated[
        Path, typer.Argument(help="YAML file of the experiment, such as trainer/experiments/rehearsal.yaml")
    ],
    output: Annotated[Path, typer.Option(help="Folder of results, table, curves and page")] = Path(
        "docs/evidence"
    ),
    runs: Annotated[Path, typer.Option(help="Folder of the run folders")] = Path("runs/experiment"),
    seeds: Annotated[int | None, typer.Option(help="Runs of each arm; default: as in the file")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm; may be repeated")] = None,
    minutes: Annotated[float | None, typer.Option(help="Start no run after this many minutes")] = None,
    cache: Annotated[Path, typer.Option(help="Folder of the start models that the project makes")] = Path(
        ".cache/extra-rl"
    ),
) -> None:
    """Train the arms and seeds whose results are missing, and write the table of all; resumable."""
    from extra_trainer.commands import experiment as command

    sys.exit(command.experiment(config, output, runs, seeds, arm or [], minutes, cache))


# Options for making prompts of problems.
Template = Annotated[str, typer.Option(help="The prompt, with {problem} where its text goes")]
ApplyChatTemplate = Annotated[
    bool, typer.Option("--apply-chat-template", help="Send prompts as a user's messages")
]
ProblemKey = Annotated[str, typer.Option(help="Column of the problem's text")]
AnswerKey = Annotated[str, typer.Option(help="Column of the reference answer")]
VerificationMethod = Annotated[
    str, typer.Option("--method", help="Comparison with the reference answer: math, exact, choice, numeric")
]


def _prompts(
    template: str, apply_chat_template: bool, problem_key: str, answer_key: str, method: str
) -> dict[str, object]:
    """Return the fields of the trainer's PromptConfig."""
    return {
        "template": template,
        "apply_chat_template": apply_chat_template,
        "problem_key": problem_key,
        "answer_key": answer_key,
        "verification_method": method,
    }


@app.command("eval")
def evaluate(
    output: Annotated[
        Path, typer.Argument(help="Folder of samples and results; the same command continues in it")
    ],
    data: Annotated[
        list[str],
        typer.Option(
            help="PATH or NAME=PATH of a set: JSON Lines, Parquet, a dataset folder (FOLDER#SPLIT), a folder "
            "with files named like the paper's benchmarks, rehearsal, or rehearsal-operators; may be repeated"
        ),
    ],
    model: Annotated[
        Path | None, typer.Option(help="Model folder: a generation service is started for it")
    ] = None,
    generation: Annotated[
        list[str] | None,
        typer.Option(help="Address of a running one instead; repeat it for several replicas"),
    ] = None,
    verification: Annotated[
        str | None, typer.Option(help="Address of a verification service; default: one is started")
    ] = None,
    samples_per_prompt: Annotated[int, typer.Option(help="Samples of each problem, n")] = 16,
    k: Annotated[str, typer.Option(help="Each k of pass@k, at most n")] = "1,16",
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 1.0,
    top_p: float = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a sample")] = 4096,
    seed: Annotated[int, typer.Option(help="Of samples and bootstrap")] = 0,
    problems: Annotated[
        int | None, typer.Option(help="Use only the first ones of each set, this many")
    ] = None,
    problems_at_once: Annotated[
        int, typer.Option(help="Problems sampled at the same time; changes no result")
    ] = 32,
    template: Template = "{problem}",
    apply_chat_template: ApplyChatTemplate = False,
    problem_key: ProblemKey = "problem",
    answer_key: AnswerKey = "answer",
    method: VerificationMethod = "math",
) -> None:
    """Estimate pass@k, with intervals, on sets of problems; resumable."""
    try:
        from extra_trainer.commands import evaluate as eval_command
    except ModuleNotFoundError as error:
        sys.exit(f"cannot import {error.name!r}: pip install 'extra-rl[eval]'")
    options = eval_command.EvaluateOptions(
        output=output,
        data=data,
        model=model,
        generation=generation or [],
        verification=verification,
        evaluation={
            "samples_per_prompt": samples_per_prompt,
            "k": k.split(","),
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": max_tokens,
            "seed": seed,
            "problems": problems,
            "problems_at_once": problems_at_once,
        },
        prompts=_prompts(template, apply_chat_template, problem_key, answer_key, method),
    )
    sys.exit(eval_command.evaluate(options))


@app.command()
def rescue(
    output: Annotated[Path, typer.Argument(help="Folder of the results; the same command continues in it")],
    data: Annotated[
        str, typer.Option(help="Problems: JSON Lines, Parquet, or a dataset folder (FOLDER#SPLIT)")
    ],
    model: Annotated[Path, typer.Option(help="Model folder: a generation service is started for it")],
    passes: Annotated[int, typer.Option(help="Passes over the problems")] = 3,
    problems: Annotated[int | None, typer.Option(help="Use only the first ones, this many")] = None,
    samples_per_prompt: Annotated[int, typer.Option(help="Samples of a group, n")] = 8,
    temperature: float = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a sample, its prefix included")] = 4096,
    min_segment_tokens: Annotated[int, typer.Option(help="As in a config's section `prefix`")] = 32,
    seed: int = 0,
    template: Template = "{problem}",
    apply_chat_template: ApplyChatTemplate = False,
    problem_key: ProblemKey = "problem",
    answer_key: AnswerKey = "answer",
    method: VerificationMethod = "math",
) -> None:
    """Measure whether prefixes rescue a model's hard prompts, by selection policy; resumable."""
    try:
        from extra_trainer.commands import rescue as rescue_command
        from extra_trainer.rollouts.collector import Sampling
    except ModuleNotFoundError as error:
        sys.exit(
            f"cannot import {error.name!r}: pip install 'extra-rl[eval,generation,novelty,verification]'"
        )
    options = rescue_command.RescueOptions(
        output=output,
        data=data,
        model=model,
        passes=passes,
        problems=problems,
        min_segment_tokens=min_segment_tokens,
        sampling=Sampling(samples_per_prompt, max_tokens, temperature, seed=seed),
        prompts=_prompts(template, apply_chat_template, problem_key, answer_key, method),
    )
    sys.exit(rescue_command.rescue(options))


@app.command(context_settings=PASS_ON, add_help_option=False)
def bench(
    context: typer.Context, name: Annotated[str, typer.Argument(help="generation, inspect, novelty, ...")]
) -> None:
    """Measure ratios side by side and print one JSON object; needs a checkout of the source."""
    from extra_cli import benchmarks

    benchmarks.run(name, context.args)


def main() -> None:
    """Run the console command."""
    # OpenMP's threads (torch, FAISS) spin at barriers by default. Services and trainer share a machine, and
    # next to a busy process spinning made a small model's step up to a hundred times slower; sleeping has no
    # measurable cost. The variable is read when the library is loaded, and inherited by child processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
