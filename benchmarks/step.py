"""The cost of novelty, prefixes and verification in a training step: `extra-rl bench step --json`.

- `overhead_rehearsal`: the wall time of a rehearsal step with ExTra divided by that of a step with plain
  GRPO on the same services, minus 1. These are real training runs (OpenRLHF, Ray, DeepSpeed, services), in
  turn, with the same seeds. A step is everything between one batch of prompts and the next; the medians of
  all steps except the first of each run are compared. The steps are not corrected for their number of
  tokens: the two policies become different, and a guided group's samples are shorter but include their
  prefix. `tokens_per_rollout` reports how many tokens were generated.
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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

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


def rehearsal(
    runs: int, problems: int, cache: Path, figures: dict[str, Any], ratios: dict[str, float]
) -> None:
    """Measure training runs in turn, with and without ExTra."""
    seconds: dict[str, list[float]] = {"grpo": [], "extra": []}
    tokens: dict[str, list[float]] = {"grpo": [], "extra": []}
    waits: list[float] = []
    for seed in range(runs):
        for arm in seconds if seed % 2 else reversed(seconds):
            with tempfile.TemporaryDirectory() as folder:
                records = _train(Path(folder) / "run", arm, seed, problems, cache)
            # The first step also loads models and compiles.
            seconds[arm] += [_step_seconds(record) for record in records[1:]]
            tokens[arm] += [record["response_tokens"] for record in records[1:]]
            if arm == "extra":
                names = ("verification_wait", "novelty_wait", "prefix_wait")
                waits += [sum(record[f"seconds/{name}"] for name in names) for record in records[1:]]
    medians = {arm: statistics.median(values) for arm, values in seconds.items()}
    ratios["overhead_rehearsal"] = medians["extra"] / medians["grpo"] - 1
    figures["rehearsal"] = {
        "step_seconds": medians,
        "steps": {arm: len(values) for arm, values in seconds.items()},
        "tokens_per_rollout": {arm: statistics.mean(values) for arm, values in tokens.items()},
        "waited_for_services_seconds": statistics.median(waits),
    }


def _train(run: Path, arm: str, seed: int, problems: int, cache: Path) -> list[dict[str, float]]:
    settings = [
        f"seed={seed}",
        f"data.train_problems={problems}",
        "optimization.epochs=1",
        "evaluation.problems=1",
    ]
    settings += ["checkpoint.every_steps=1000", "prefix.warmup_steps=0"]
    settings += ["preset=grpo", "novelty.enabled=false", "prefix.enabled=false"] if arm == "grpo" else []
    command = [sys.executable, "-m", "extra_cli", "train", str(ROOT / "trainer/configs/rehearsal.yaml")]
    command += ["--run", str(run), "--cache", str(cache)]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the {arm} run failed:\n{done.stdout}\n{done.stderr}")
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _step_seconds(record: dict[str, float]) -> float:
    return sum(value for name, value in record.items() if name.startswith("seconds/"))


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


def paper_size(prompts: int, rate: float, figures: dict[str, Any], ratios: dict[str, float]) -> None:
    """Measure one step of the paper's size with the real services."""
    tokenizer = make_tokenizer()
    requests = [RolloutRequest(f"problem {p}", f"p{p}", (1,), str(p)) for p in range(prompts)]
    simulated = SimulatedGeneration(tokenizer, rate, TOKENS)
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded.start("novelty", data_folder=folder) as memory,
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
    parser.add_argument("--runs", type=int, default=2, help="runs of each arm of the rehearsal")
    parser.add_argument("--problems", type=int, default=256, help="training problems of such a run")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="prompts of the simulated step")
    parser.add_argument(
        "--rate", type=float, default=RATE, help="tokens a second of the simulated generation"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache/extra-rl"), help="where the start model is"
    )
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: the output is JSON")
    chosen = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    if chosen.part in (None, "rehearsal"):
        rehearsal(chosen.runs, chosen.problems, chosen.cache, figures, ratios)
    if chosen.part in (None, "paper_size"):
        paper_size(chosen.prompts, chosen.rate, figures, ratios)
    print(json.dumps({"ratios": ratios, "figures": figures}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
