"""The cost of novelty, prefixes and verification in a training step: `extra-rl bench step --json`.

- `overhead_rehearsal`: the wall time of a rehearsal step with ExTra divided by that of a step with plain
  GRPO on the same services, minus 1. These are real training runs (OpenRLHF, Ray, DeepSpeed, services), in
  turn, with the same seeds. A step is everything between one batch of prompts and the next; the medians of
  all steps except the first of each run are compared. The steps are not corrected for their number of
  tokens: the two policies become different, and a guided group's samples are shorter but include their
  prefix. `tokens_per_rollout` reports how many tokens were generated. `overhead_rehearsal_cpu` is the same
  of the CPU seconds of all processes, which other work on the machine disturbs less.
- `overhead_services`: the same for the arm `services`, which calls every service as ExTra does and uses
  nothing of it: the bonus has the weight 0, and no prompt is guided. Its rollouts are those of GRPO, so that
  this is what the services cost. What `overhead_rehearsal` has beyond it is the cost of other rollouts.
- `grpo_over_trl`, `extra_over_trl`: the wall time of a step of TRL's GRPOTrainer over that of ours, with
  GRPO and with ExTra: same start model, problems, batch, lengths, updates and precision (trl_training.py).
  `rewards` shows that both learn. The names with `_cpu` compare CPU seconds.
- `overhead_paper_size`: the same for a step of the paper's size, 512 x 8 rollouts of 2,000 tokens. Only the
  generation is simulated: rollouts of made-up solutions finish at a given rate of tokens per second, in
  random order within the groups in progress, and go through the real verification, novelty and prefix
  services of this machine as in training. The overhead is the time that the step waits for these three after
  the last rollout, divided by the time of the generation alone. A real step is longer, because the policy is
  updated too. The prefix memory is filled during that update; `prefix_seconds` reports this time, and it
  counts only as far as it exceeds the assumed time of the update.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from benchmarks.processes import CpuSeconds
from extra_client import (
    FinishReason,
    NamespaceClient,
    NamespaceSettings,
    NoveltyClient,
    PrefixClient,
    Rollout,
    Timings,
    VerificationClient,
    embedded,
)
from extra_rl.tokens import TokenTexts
from extra_trainer.config import NoveltyConfig, PrefixConfig
from extra_trainer.exploration.explorer import Explorer
from extra_trainer.exploration.step_novelty import StepNovelty
from extra_trainer.rehearsal.tokenizer import make_tokenizer
from extra_trainer.rollouts.collector import RolloutCollector, RolloutRequest, Sampling

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "trainer/configs/rehearsal.yaml"
PROMPTS, ROLLOUTS, TOKENS = 512, 8, 2000
#: Tokens per second of all generation replicas together: 25,000, as one GPU reaches with a small model.
RATE = 25_000.0
#: Assumed time of the update, as a share of the generation's: log-probabilities of two models, and a forward
#: and a backward pass, of the same tokens.
UPDATE_SHARE = 0.5
#: Groups that are generated at the same time: the batch of a replica.
AT_ONCE = 32
#: One of HARD_EVERY prompts is hard; of the rollouts of the others, CORRECT_SHARE are correct.
HARD_EVERY, CORRECT_SHARE = 5, 0.5


#: What `--set` gives each run: what is not measured is left out.
SETTINGS = ("evaluation.problems=1", "checkpoint.every_steps=1000", "prefix.warmup_steps=0")
ARMS: dict[str, tuple[str, ...]] = {
    "grpo": ("preset=grpo", "novelty.enabled=false", "prefix.enabled=false"),
    "extra": (),
    "services": ("novelty.alpha=0", "prefix.regen_batch_size=0"),
    "trl": (),
}


@dataclass
class Measured:
    """The steps of the runs of an arm, without the first of each, which also loads models and compiles."""

    #: By run: seconds by the clock and rewards of each step.
    seconds: list[list[float]] = field(default_factory=list)
    rewards: list[list[float]] = field(default_factory=list)
    #: Tokens of a rollout, by step.
    tokens: list[float] = field(default_factory=list)
    #: By run: CPU seconds a step, by process.
    cpu: list[dict[str, float]] = field(default_factory=list)
    #: Seconds of the phases of each step.
    phases: list[dict[str, float]] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return medians of the steps, and means of rewards over eight steps each."""
        roles = sorted({role for run in self.cpu for role in run})
        cpu = {role: statistics.median(run.get(role, 0.0) for run in self.cpu) for role in roles}
        phases = sorted({name for step in self.phases for name in step})
        return {
            "steps": sum(map(len, self.seconds)),
            "step_seconds": statistics.median(chain.from_iterable(self.seconds)),
            "cpu_seconds": self.cpu_seconds(),
            "cpu_seconds_by_process": cpu,
            "seconds_by_phase": {
                name: statistics.median(step.get(name, 0.0) for step in self.phases) for name in phases
            },
            "tokens_per_rollout": statistics.mean(self.tokens),
            "rewards": [
                [statistics.mean(run[start : start + 8]) for start in range(0, len(run), 8)]
                for run in self.rewards
            ],
        }

    def cpu_seconds(self) -> float:
        """Return the CPU seconds a step, the median of the runs."""
        return statistics.median(sum(run.values()) for run in self.cpu)

    def keep(self, runs: int) -> None:
        """Forget the runs after the first `runs`."""
        steps = sum(map(len, self.seconds[:runs]))
        for by_run in (self.seconds, self.rewards, self.cpu):
            del by_run[runs:]
        for by_step in (self.tokens, self.phases):
            del by_step[steps:]

    def over(self, base: "Measured") -> list[float]:
        """Return by run the seconds of a step over those of `base`'s run of that number, medians of steps."""
        pairs = zip(self.seconds, base.seconds, strict=True)
        return [statistics.median(own) / statistics.median(others) for own, others in pairs]


def rehearsal(
    arms: Sequence[str],
    runs: int,
    settings: Sequence[str],
    cache: Path,
    figures: dict[str, Any],
    ratios: dict[str, float],
) -> None:
    """Measure training runs in turn, with and without ExTra, and of TRL."""
    measured = {arm: Measured() for arm in arms}
    try:
        _train_in_turn(measured, runs, settings, cache)
    except KeyboardInterrupt:
        whole = min(len(found.seconds) for found in measured.values())
        if not whole:
            raise
        print(f"interrupted: the first {whole} runs of each arm count", file=sys.stderr)
        for found in measured.values():
            found.keep(whole)
    figures["rehearsal"] = {arm: found.figures() for arm, found in measured.items()}
    for name, arm, base in (
        ("overhead_rehearsal", "extra", "grpo"),
        ("overhead_services", "services", "grpo"),
        ("grpo_over_trl", "trl", "grpo"),
        ("extra_over_trl", "trl", "extra"),
    ):
        if arm in measured and base in measured:
            less = 1 if name.startswith("overhead") else 0
            pairs = [pair - less for pair in measured[arm].over(measured[base])]
            figures[f"{name}_pairs"] = pairs
            ratios[name] = statistics.median(pairs)
            ratios[f"{name}_cpu"] = measured[arm].cpu_seconds() / measured[base].cpu_seconds() - less


def _train_in_turn(measured: dict[str, Measured], runs: int, settings: Sequence[str], cache: Path) -> None:
    for seed in range(runs):
        for arm in measured if seed % 2 else reversed(measured):
            train = _train_trl if arm == "trl" else _train
            train(measured[arm], (*SETTINGS, *ARMS[arm], *settings, f"seed={seed}"), cache)
            seconds = statistics.median(measured[arm].seconds[-1])
            print(f"run {seed + 1} of {runs}, {arm}: {seconds:.2f} s a step", file=sys.stderr, flush=True)


def _train(into: Measured, settings: Sequence[str], cache: Path) -> None:
    """Train with this project, and note the steps."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "extra_cli", "train", str(CONFIG), "--run", str(run)]
        command += ["--cache", str(cache)]
        for setting in settings:
            command += ["--set", setting]

        def records() -> list[dict[str, float]]:
            path = run / "metrics.jsonl"
            return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        cpu = CpuSeconds(process, lambda: len(records()))
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"a run with {settings} failed:\n{said.decode()}")
        steps = records()[1:]
        into.cpu.append(cpu.per_step())
    into.phases += [
        {name.removeprefix("seconds/"): value for name, value in step.items() if name.startswith("seconds/")}
        for step in steps
    ]
    into.seconds.append([sum(phases.values()) for phases in into.phases[-len(steps) :]])
    into.tokens += [step["response_tokens"] for step in steps]
    into.rewards.append([step["reward"] for step in steps])


def _train_trl(into: Measured, settings: Sequence[str], cache: Path) -> None:
    """Train with TRL, and note the steps."""
    command = [sys.executable, "-m", "benchmarks.trl_training", str(CONFIG), "--cache", str(cache)]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"TRL's run failed:\n{done.stdout}\n{done.stderr}")
    steps = json.loads(done.stdout.splitlines()[-1])["steps"]
    into.seconds.append([step["seconds"] for step in steps])
    into.tokens += [step["tokens"] for step in steps]
    into.rewards.append([step["reward"] for step in steps])
    into.cpu.append({"trl": statistics.mean(step["cpu_seconds"] for step in steps)})


class SimulatedGeneration:
    """A replacement for the generation service that yields made-up rollouts at a given rate."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rate: float, tokens: int) -> None:
        self._rate = rate
        self._tokens = tokens
        self._tokenizer = tokenizer
        #: The time at which the last rollout was yielded.
        self.ended = 0.0

    def generate_stream(self, prompts: Sequence[Any], *, n: int, **_: Any) -> Iterator[Rollout]:
        """Yield all rollouts, those of AT_ONCE prompts mixed, each at the time when it would be complete."""
        random = np.random.default_rng(0)
        started, drawn = time.monotonic(), 0
        for first in range(0, len(prompts), AT_ONCE):
            places = [(p, s) for p in range(first, min(first + AT_ONCE, len(prompts))) for s in range(n)]
            for place in random.permutation(len(places)):
                prompt, sample = places[place]
                rollout = self._rollout(prompt, sample)
                drawn += self._tokens
                while (early := started + drawn / self._rate - time.monotonic()) > 0:
                    time.sleep(early)
                yield rollout
        self.ended = time.monotonic()

    def _rollout(self, prompt: int, sample: int) -> Rollout:
        random = np.random.default_rng((prompt, sample))
        hard = prompt % HARD_EVERY == 0
        right = not hard and random.random() < CORRECT_SHARE
        text = solution(random, self._tokens, answer=prompt if right else PROMPTS + sample)
        ids = np.array(self._tokenizer(text)["input_ids"], dtype=np.int32)
        entropies: NDArray[np.float32] = random.random(len(ids), dtype=np.float32)
        return Rollout(
            prompt_index=prompt,
            sample_index=sample,
            token_ids=ids,
            logprobs=-entropies,
            entropies=entropies,
            text=text,
            finish_reason=FinishReason.STOP,
            policy_version=0,
            prompt_tokens=1,
            cached_prompt_tokens=0,
            timings=Timings(0.0, 0.0, 0.0),
            raw_entropies=np.zeros(0, np.float32),
            segments=(),
            policy_changes=(),
        )


def solution(random: np.random.Generator, tokens: int, answer: int) -> str:
    """Return lines of arithmetic with about `tokens` characters (one token each), and an answer."""
    lines, written = [], 0
    while written < tokens - 20:
        a, b = random.integers(100, 999, 2).tolist()
        lines.append(f"{a}+{b}={a + b}")
        written += len(lines[-1]) + 1
    return "\n".join([*lines, f"\\boxed{{{answer}}}"])


def paper_size(
    prompts: int,
    rate: float,
    novelty_settings: dict[str, Any],
    figures: dict[str, Any],
    ratios: dict[str, float],
) -> None:
    """Measure one step of the paper's size with the real services."""
    tokenizer = make_tokenizer()
    requests = [RolloutRequest(f"problem {p}", f"p{p}", (1,), str(p)) for p in range(prompts)]
    simulated = SimulatedGeneration(tokenizer, rate, TOKENS)
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded.start("novelty", data_folder=folder, **novelty_settings) as memory,
        embedded.start("verification") as verifier,
        NoveltyClient(memory.target, "step", settings=NamespaceSettings(min_history=0)) as novelty,
        PrefixClient(memory.target, "step") as prefixes,
        VerificationClient(verifier.target) as verification,
    ):
        NamespaceClient(memory.target, "step").create(NamespaceSettings(min_history=0))
        explorer = Explorer(
            NoveltyConfig(), PrefixConfig(warmup_steps=0), novelty, prefixes, TokenTexts(tokenizer), "bench"
        )
        step = StepNovelty(explorer, 1, requests)
        started = time.monotonic()
        collector = RolloutCollector(simulated, verification)  # type: ignore[arg-type]
        sampling = Sampling(ROLLOUTS, TOKENS)
        groups = collector.collect(requests, sampling, 0, step.add, step.prepare).groups
        step.finish(groups)
        collected = time.monotonic()
        queued = explorer.feed(groups, 1)
        fed = time.monotonic() - collected
    generation = simulated.ended - started
    ideal = prompts * ROLLOUTS * TOKENS / rate
    waited = collected - simulated.ended + max(0.0, fed - UPDATE_SHARE * ideal)
    ratios["overhead_paper_size"] = (generation - ideal + waited) / ideal
    figures["paper_size"] = {
        "prompts": prompts,
        "novelty": novelty_settings,
        "tokens_per_second": rate,
        "generation_seconds": ideal,
        "generation_seconds_with_services": generation,
        "waited_seconds": collected - simulated.ended,
        "prefix_seconds": fed,
        "update_seconds": UPDATE_SHARE * ideal,
        "correct": int(sum(group.correct.sum() for group in groups)),
        "prompts_queued": queued,
    }


def main(arguments: list[str]) -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="extra-rl bench step", description=__doc__)
    parser.add_argument("--part", choices=["rehearsal", "paper_size"], help="measure one part only")
    parser.add_argument(
        "--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="arms of the rehearsal"
    )
    parser.add_argument("--runs", type=int, default=2, help="runs of each arm of the rehearsal")
    parser.add_argument("--problems", type=int, default=256, help="training problems of such a run")
    parser.add_argument("--epochs", type=int, default=1, help="passes over them")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="prompts of the simulated step")
    parser.add_argument(
        "--rate", type=float, default=RATE, help="tokens a second of the simulated generation"
    )
    parser.add_argument(
        "--novelty",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings of the simulated step's novelty server: embedding_backend=onnx_int8",
    )
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache/extra-rl"), help="where the start model is"
    )
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: the output is JSON")
    chosen = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    if chosen.part in (None, "rehearsal"):
        size = [f"data.train_problems={chosen.problems}", f"optimization.epochs={chosen.epochs}"]
        rehearsal(chosen.arms, chosen.runs, size, chosen.cache, figures, ratios)
    if chosen.part in (None, "paper_size"):
        settings: dict[str, Any] = dict(setting.split("=", 1) for setting in chosen.novelty)
        paper_size(chosen.prompts, chosen.rate, settings, figures, ratios)
    print(json.dumps({"ratios": ratios, "figures": figures}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
