"""The `extra-rl` command.

Commands import the code they need only when they run, so that the client-only installation stays light and
`--help` is instant; the parser is argparse for the same reason. `serve` and `bench` hand their arguments on,
because services and benchmarks have flags of their own.
"""

import os
import sys
from argparse import REMAINDER, Action, ArgumentParser, Namespace
from argparse import HelpFormatter as PlainHelpFormatter
from pathlib import Path
from typing import Any

from extra_cli.extras import needs
from extra_rl import __version__

#: Folder of the start models that the project makes.
CACHE = Path(".cache/extra-rl")


class HelpFormatter(PlainHelpFormatter):
    """Append the default to an option's help, unless it is empty."""

    def _get_help_string(self, action: Action) -> str | None:
        if action.required or action.default in (None, False, "", "==SUPPRESS=="):
            return action.help
        return f"{action.help} (default: %(default)s)"


def _serve(options: Namespace) -> None:
    from extra_cli import serving

    serving.serve(options.service, options.arguments)


def _token(options: Namespace) -> None:
    with needs("server"):
        from extra_cli import tokens
    tokens.mint(options.name, options.scope or ["*=admin"])


def _health(options: Namespace) -> int:
    from extra_cli import probing

    return probing.probe(options.service, options.target, options.timeout)


def _train(options: Namespace) -> int:
    with needs("trainer", "openrlhf", "torch", "transformers", "plotly", "jinja2"):
        from extra_trainer.commands import train
    return train.train(
        options.config, options.run, options.resume, options.set or [], options.cache, options.dry_run
    )


def _report(options: Namespace) -> int:
    with needs("trainer", "plotly", "jinja2", "scipy", "rich"):
        from extra_trainer.commands import report
    return report.report(options.runs, options.output)


def _inspect(options: Namespace) -> int:
    with needs("inspect"):
        from extra_inspector import main as inspector
    return inspector.inspect(
        options.run,
        options.novelty,
        options.namespace,
        options.host,
        options.port,
        options.token_sha256,
        options.cache,
        inspector.ImportOptions(
            options.format, options.verification, options.method, options.generation, options.tokenizer
        ),
    )


def _experiment(options: Namespace) -> int:
    with needs("trainer", "openrlhf", "torch", "transformers", "plotly", "jinja2", "scipy"):
        from extra_trainer.commands import experiment
    return experiment.experiment(
        options.config,
        options.output,
        options.runs,
        options.seeds,
        options.arm or [],
        options.minutes,
        options.cache,
    )


def _evaluate(options: Namespace) -> int:
    with needs("eval", "datasets"):
        from extra_trainer.commands import evaluate
    fields = ("samples_per_prompt", "temperature", "top_p", "max_tokens", "seed", "problems")
    given = evaluate.EvaluateOptions(
        output=options.output,
        data=options.data,
        model=options.model,
        generation=options.generation or [],
        verification=options.verification,
        evaluation={
            **{name: getattr(options, name) for name in fields},
            "k": options.k.split(","),
            "problems_at_once": options.problems_at_once,
        },
        prompts=_prompts(options),
    )
    return evaluate.evaluate(given)


def _rescue(options: Namespace) -> int:
    with needs("eval,generation,novelty,verification", "datasets", "transformers", "faiss", "math_verify"):
        from extra_trainer.commands import rescue
        from extra_trainer.rollouts.collector import Sampling
    given = rescue.RescueOptions(
        output=options.output,
        data=options.data,
        model=options.model,
        passes=options.passes,
        problems=options.problems,
        min_segment_tokens=options.min_segment_tokens,
        sampling=Sampling(
            options.samples_per_prompt, options.max_tokens, options.temperature, seed=options.seed
        ),
        prompts=_prompts(options),
    )
    return rescue.rescue(given)


def _check_data(options: Namespace) -> int:
    with needs("eval,verification", "datasets", "math_verify"):
        from extra_trainer.commands import check_data
    given = check_data.CheckDataOptions(
        data=options.data,
        model=options.model,
        max_tokens=options.max_tokens,
        verification=options.verification,
        json=options.json,
        prompts=_prompts(options),
    )
    return check_data.check(given)


def _reverify(options: Namespace) -> int:
    with needs("eval,verification", "math_verify"):
        from extra_trainer.commands import reverify
    given = reverify.ReverifyOptions(options.run, options.verification, options.examples, options.json)
    return reverify.run_reverify(given)


def _bench(options: Namespace) -> None:
    from extra_cli import benchmarks

    benchmarks.run(options.name, options.arguments)


def _prompts(options: Namespace) -> dict[str, object]:
    """Return the fields of the trainer's PromptConfig."""
    names = ("template", "apply_chat_template", "problem_key", "answer_key", "references", "verifier")
    return {**{name: getattr(options, name) for name in names}, "verification_method": options.method}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "extra-rl",
        description="Reward and rollout microservices for reinforcement learning of reasoning models.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Any, description: str, **settings: Any) -> ArgumentParser:
        command = commands.add_parser(
            name,
            help=description.partition(";")[0].rstrip("."),
            description=description,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
            **settings,
        )
        command.set_defaults(run_command=run)
        return command

    # No help of their own: --help belongs to the service, or the benchmark.
    command = add("serve", _serve, "Serve one service, or all; SERVICE --help lists its settings.")
    command.add_argument("service", help="generation, novelty, verification, or all")
    command.add_argument("arguments", nargs=REMAINDER, help="settings of the service")

    command = add("health", _health, "Exit with 0 if a service is ready; for probes, over TLS too.")
    command.add_argument("service", help="generation, novelty, or verification")
    command.add_argument("--target", default="localhost", help="address; without a port, the service's own")
    command.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for the answer")

    command = add("token", _token, "Make a token: the secret for its caller, the hash for the servers.")
    command.add_argument("name", help="who gets it; appears in the servers' logs")
    command.add_argument(
        "--scope", action="append", help="PATTERN=read, write or admin, such as run-1*=write; may be repeated"
    )

    command = add("train", _train, "Train with GRPO and ExTra; evaluates before and after, writes a report.")
    command.add_argument("config", type=Path, help="YAML file, such as trainer/configs/rehearsal.yaml")
    command.add_argument("--run", type=Path, help="run folder; default runs/NAME-seedSEED")
    command.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    command.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="replace a setting, such as seed=3; may be repeated",
    )
    command.add_argument("--cache", type=Path, default=CACHE, help="folder of start models")
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved plan and its problems, and check the data; train nothing",
    )

    command = add("report", _report, "Write one self-contained page of runs, side by side if several.")
    command.add_argument("runs", type=Path, nargs="+", help="run folders")
    command.add_argument(
        "--output", type=Path, help="the page; default: report.html in the run's folder, of several runs here"
    )

    command = add("inspect", _inspect, "Inspect a run in the browser; changes nothing.")
    command.add_argument(
        "run", type=Path, help="run folder, or logs of another trainer; the run may still be in progress"
    )
    command.add_argument("--novelty", help="address of the novelty server, to show its current content")
    command.add_argument("--namespace", help="namespace of the run there; default: as in the run folder")
    command.add_argument("--host", default="127.0.0.1", help="to serve on; any but loopback needs a token")
    command.add_argument("--port", type=int, default=8765, help="to serve on")
    command.add_argument(
        "--token-sha256",
        default=os.environ.get("EXTRA_RL_INSPECT_TOKEN_SHA256", ""),
        help="SHA-256, in hex, of the token that readers need; default $EXTRA_RL_INSPECT_TOKEN_SHA256",
    )
    command.add_argument("--cache", type=Path, help="folder of the index; default ~/.cache/extra-rl/inspect")
    logs = command.add_argument_group("logs of other trainers")
    logs.add_argument(
        "--format", choices=("trl", "verl", "openrlhf", "slime"), help="default: by the files that are there"
    )
    logs.add_argument("--verification", help="address of the verification server, to get verdicts from")
    logs.add_argument("--method", default="math", help="its comparison of responses with answers")
    logs.add_argument("--generation", help="address of the generation server, to get entropies from")
    logs.add_argument("--tokenizer", type=Path, help="the model's tokenizer folder, if logs lack token ids")

    command = add("experiment", _experiment, "Train the arms and seeds that are missing; writes the table.")
    command.add_argument("config", type=Path, help="YAML file, such as trainer/experiments/rehearsal.yaml")
    command.add_argument("--output", type=Path, default=Path("docs/evidence"), help="folder of the results")
    command.add_argument("--runs", type=Path, default=Path("runs/experiment"), help="folder of run folders")
    command.add_argument("--seeds", type=int, help="runs of each arm; default: as in the file")
    command.add_argument("--arm", action="append", help="only this arm; may be repeated")
    command.add_argument("--minutes", type=float, help="start no run after this many minutes")
    command.add_argument("--cache", type=Path, default=CACHE, help="folder of start models")

    _add_eval(add)
    _add_rescue(add)
    _add_check_data(add)
    _add_reverify(add)

    command = add("bench", _bench, "Run a benchmark and print one JSON object; needs a checkout.")
    command.add_argument("name", help="generation, inspect, novelty, ...")
    command.add_argument("arguments", nargs=REMAINDER, help="options of the benchmark")
    return parser


def _add_eval(add: Any) -> None:
    command = add("eval", _evaluate, "Estimate pass@k, with intervals, on sets of problems; resumable.")
    command.add_argument("output", type=Path, help="folder of samples and results")
    command.add_argument(
        "--data",
        action="append",
        required=True,
        help="PATH or NAME=PATH of a set: JSON Lines, Parquet, a dataset folder (FOLDER#SPLIT), or a folder "
        "with files named like the paper's benchmarks, rehearsal, or rehearsal-operators; may be repeated",
    )
    command.add_argument("--model", type=Path, help="model folder: a generation service is started for it")
    command.add_argument(
        "--generation",
        action="append",
        help="address of a running one; repeat it for several replicas",
    )
    command.add_argument("--verification", help="address of a verification service; default: one is started")
    command.add_argument("--samples-per-prompt", type=int, default=16, help="samples of each problem, n")
    command.add_argument("--k", default="1,16", help="each k of pass@k, at most n")
    command.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    command.add_argument("--top-p", type=float, default=1.0, help="nucleus of the sampling")
    command.add_argument("--max-tokens", type=int, default=4096, help="most tokens of a sample")
    command.add_argument("--seed", type=int, default=0, help="of samples and bootstrap")
    command.add_argument("--problems", type=int, help="use only the first ones of each set, this many")
    command.add_argument(
        "--problems-at-once",
        type=int,
        default=32,
        help="problems sampled at once; changes no result",
    )
    _add_prompt_options(command)


def _add_rescue(add: Any) -> None:
    command = add("rescue", _rescue, "Measure whether prefixes rescue a model's hard prompts; resumable.")
    command.add_argument("output", type=Path, help="folder of the results")
    command.add_argument(
        "--data", required=True, help="problems: JSON Lines, Parquet, or a dataset folder (FOLDER#SPLIT)"
    )
    command.add_argument("--model", type=Path, required=True, help="folder of the model")
    command.add_argument("--passes", type=int, default=3, help="passes over the problems")
    command.add_argument("--problems", type=int, help="use only the first ones, this many")
    command.add_argument("--samples-per-prompt", type=int, default=8, help="samples of a group, n")
    command.add_argument("--temperature", type=float, default=1.0, help="of the sampling")
    command.add_argument(
        "--max-tokens", type=int, default=4096, help="most tokens of a sample and its prefix"
    )
    command.add_argument("--min-segment-tokens", type=int, default=32, help="as in a config's `prefix`")
    command.add_argument("--seed", type=int, default=0, help="of the samples")
    _add_prompt_options(command)


def _add_check_data(add: Any) -> None:
    command = add(
        "check-data",
        _check_data,
        "Check a file of problems: missing, unreadable and conflicting answers, repeated prompts, bad rows; "
        "exits with 1 if something must be mended.",
    )
    command.add_argument("data", help="JSON Lines, Parquet, or a dataset folder (FOLDER#SPLIT)")
    command.add_argument("--model", type=Path, help="model folder, to check the length of prompts")
    command.add_argument(
        "--max-tokens", type=int, help="most tokens of a prompt; default: the model's window"
    )
    command.add_argument("--verification", help="address of a verification service; default: one is started")
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    _add_prompt_options(command)


def _add_reverify(add: Any) -> None:
    command = add(
        "reverify",
        _reverify,
        "Judge a run's recorded responses anew and show what would change, by rule; changes nothing.",
    )
    command.add_argument("run", type=Path, help="run folder")
    command.add_argument("--verification", help="address of a verification service; default: one is started")
    command.add_argument("--examples", type=int, default=3, help="responses to show of each change")
    command.add_argument("--json", action="store_true", help="print the outcome as JSON")


def _add_prompt_options(command: ArgumentParser) -> None:
    """Add the options for making prompts of problems."""
    command.add_argument("--template", default="{problem}", help="the prompt; {problem} is replaced")
    command.add_argument("--apply-chat-template", action="store_true", help="send prompts as user messages")
    command.add_argument("--problem-key", default="problem", help="column of the problem's text")
    command.add_argument("--answer-key", default="answer", help="column of the reference answer")
    command.add_argument(
        "--method",
        default="math",
        help="comparison with that answer: math, exact, choice, numeric, auto, code or custom",
    )
    command.add_argument(
        "--references", default="any", help="of several reference answers, any or all must be met"
    )
    command.add_argument("--verifier", default="", help="with --method custom: its name on the server")


def main() -> None:
    """Run the console command."""
    # OpenMP's threads (torch, FAISS) spin at barriers by default. Services and trainer share a machine, and
    # next to a busy process spinning made a small model's step up to a hundred times slower; sleeping has no
    # measurable cost. The variable is read when the library is loaded, and inherited by child processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = _parser()
    if len(sys.argv) == 1:
        parser.print_help()
        sys.exit(2)
    options = parser.parse_args()
    sys.exit(options.run_command(options))
