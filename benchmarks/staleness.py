"""Seconds a step with rollouts of earlier policy versions: `extra-rl bench staleness --json`.

A real generation server, slowed by a pause after each step of the batch (slow_generation.py), and the
trainer's own schedule (`StepsAhead`), pool and delivery of weights: WAIT up to a bound of 1, KEEP above. Only
the update is simulated, by a wait of half the time of a step's generation, the ratio of the paper's size. The
weights that are delivered are those of the start model again, so all bounds sample from one distribution.

`staleness_K` is the median seconds of a step with the bound K over those with 0. Experiment
trainer/experiments/staleness.yaml trains.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from extra_client import GenerationClient, InFlight, PromptError, Rollout
from extra_trainer.rehearsal.problems import problems
from extra_trainer.rollouts.generation_pool import GenerationPool
from extra_trainer.rollouts.steps_ahead import BegunStep, StepsAhead

#: The rehearsal's start model.
MODEL = Path(__file__).parents[1] / "trainer/start-models/start-model-f4f3074ac22e69de"
#: Prompts and samples of a step; together the batch of the server.
PROMPTS, SAMPLES, TOKENS = 16, 8, 128
#: Time of the update, as a share of the generation's.
UPDATE_SHARE = 0.5
#: Steps that are not measured: the queue fills, and the server has computed nothing yet.
WARM = 3

Begun = BegunStep[Future[list[Rollout]], None]


@contextmanager
def server(model: Path, pause: float) -> Iterator[str]:
    """Start a slowed generation server; yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        target = f"unix:{folder}/socket"
        command = [sys.executable, "-m", "benchmarks.slow_generation", f"--pause={pause}", f"--host={target}"]
        command += [f"--model={model}", f"--weights-root={model.parent}", "--threads=1", "--metrics-port=off"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            with GenerationClient(target) as client:
                client.wait_for_ready(600)
            yield target
        finally:
            process.terminate()
            process.wait()


class Steps:
    """Steps of one bound, with simulated updates."""

    def __init__(self, pool: GenerationPool, model: Path, bound: int, update: float) -> None:
        self._pool, self._model, self._bound, self._update = pool, model, bound, update
        self._threads = ThreadPoolExecutor(bound + 1)
        self._version = pool.policy_version()
        tokenizer = AutoTokenizer.from_pretrained(model)
        asked = problems("train", PROMPTS, seed=0)
        self._prompts = [tuple(tokenizer(problem.prompt)["input_ids"]) for problem in asked]

    def run(self, steps: int) -> dict[str, Any]:
        """Return the seconds of each step, and how old the rollouts are."""
        ahead: StepsAhead[Future[list[Rollout]], None] = StepsAhead(self._bound)
        seconds, ages, changed, tokens = [], [], [], 0
        for step in range(1, steps + 1):
            started = time.monotonic()
            ahead.fill(step, lambda number: self._begin(number, steps))
            taken = ahead.take(self._version).work
            assert taken is not None
            rollouts = taken.result()
            ages += [self._version - rollout.policy_version for rollout in rollouts]
            changed += [bool(rollout.policy_changes) for rollout in rollouts]
            tokens += sum(len(rollout.token_ids) for rollout in rollouts)
            time.sleep(self._update)
            self._deliver([each.work for each in ahead.begun if each.work is not None])
            seconds.append(time.monotonic() - started)
        self._threads.shutdown()
        return {
            "step_seconds": statistics.median(seconds[WARM:]) if len(seconds) > WARM else seconds[-1],
            "seconds": [round(each, 2) for each in seconds],
            "staleness": statistics.mean(ages),
            "staleness_max": max(ages),
            "weights_changed": statistics.mean(changed),
            "tokens_a_rollout": tokens / len(ages),
        }

    def _begin(self, step: int, last: int) -> Begun:
        work = None if step > last else self._threads.submit(self._generate, step, self._version)
        return BegunStep(step, self._version, {}, (), work)

    def _generate(self, step: int, version: int) -> list[Rollout]:
        events = self._pool.generate_stream(
            self._prompts,
            n=SAMPLES,
            max_tokens=TOKENS,
            prefixes=[()] * PROMPTS,
            seed=step,
            temperature=1.0,
            top_p=1.0,
            min_policy_version=version,
        )
        rollouts = []
        for event in events:
            if isinstance(event, PromptError):
                raise event.error
            rollouts.append(event)
        return rollouts

    def _deliver(self, in_progress: list[Future[list[Rollout]]]) -> None:
        in_flight = InFlight.KEEP if self._bound > 1 else InFlight.WAIT
        if in_flight is InFlight.WAIT:
            wait(in_progress)
        folder = self._model.parent
        self._version = self._pool.deliver(
            folder, self._model.name, self._version + 1, in_flight
        ).policy_version


def main() -> None:
    """Print the measurements as JSON."""
    parser = argparse.ArgumentParser(prog="extra-rl bench staleness", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--bounds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--steps", type=int, default=15, help=f"steps of each bound, {WARM} of them to warm up"
    )
    parser.add_argument("--pause", type=float, default=0.02, help="seconds after each step of the batch")
    parser.add_argument("--model", type=Path, default=MODEL)
    options = parser.parse_args()
    model = options.model.resolve()
    found: dict[str, Any] = {}
    with server(model, options.pause) as target, GenerationPool([target]) as pool:
        generation = Steps(pool, model, 0, 0.0).run(3)["step_seconds"]
        for bound in options.bounds:
            found[str(bound)] = Steps(pool, model, bound, UPDATE_SHARE * generation).run(options.steps)
            if not options.json:
                print(bound, json.dumps(found[str(bound)]), file=sys.stderr)
    first = found[str(options.bounds[0])]["step_seconds"]
    ratios = {f"staleness_{bound}": each["step_seconds"] / first for bound, each in found.items()}
    print(json.dumps({"ratios": ratios, "generation_seconds": generation, "bounds": found}, indent=1))


if __name__ == "__main__":
    main()
