"""Ten minutes of mixed traffic over all services at once: `extra-rl bench soak --json [--minutes 10]`.

The traffic is generation with resumed prefixes and weight updates; novelty scored and stored; prefixes
added, selected, reported; verification of easy, hard and hostile responses. Every SAMPLE_SECONDS the
resident memory and the open files of each server and its children are recorded. The result is one JSON
object: `ratios` are, by service, the memory in the last tenth of the time divided by that in the tenth after
the warm-up (medians), and the same for open files; `figures` are the numbers behind them, the calls of each
kind, and the share of failed calls. The settings make caches small, so that the warm-up fills them.

The exit code is 1 if memory grew by 5 % or more, files by more than 2, or a call failed.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from extra_client import (
    EntropyRollout,
    ExtraError,
    GenerationClient,
    HardPrompt,
    NoveltyClient,
    Outcome,
    PrefixClient,
    VerificationClient,
    embedded,
)
from support.generation_models import make_model
from support.verification_attacks import attacks

SAMPLE_SECONDS = 5.0
#: Growth of memory, and additional files, from which there is a leak.
MEMORY_GROWTH, FILES_GROWTH = 1.05, 2
HOSTILE = list(attacks("/nonexistent/never").values())
WORDS = "so we add the two numbers and carry one then subtract half of what is left"


def main() -> None:
    """Run the traffic, print the JSON object, and exit with 0 or 1."""
    arguments = argparse.ArgumentParser(prog="extra-rl bench soak")
    arguments.add_argument("--json", action="store_true", help="accepted for all benchmarks; always JSON")
    arguments.add_argument("--minutes", type=float, default=10.0, help="how long, warm-up included")
    seconds = 60 * arguments.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = _start(Path(folder), stack)
        traffic = Traffic(Path(folder), servers)
        samples = _watch(servers, traffic, seconds)
        traffic.end()
    result = _result(samples, traffic, seconds)
    print(json.dumps(result))
    grown = [ratio for name, ratio in result["ratios"].items() if name.startswith("memory")]
    files = [figure for name, figure in result["figures"].items() if name.startswith("files_more")]
    sys.exit(int(max(grown) >= MEMORY_GROWTH or max(files) > FILES_GROWTH or bool(traffic.failures)))


def _start(folder: Path, stack: ExitStack) -> dict[str, embedded.EmbeddedService]:
    model = make_model(folder / "model")
    for number in range(2):
        make_model(folder / "weights" / f"policy-{number}", seed=number + 1)
    common: dict[str, Any] = {"metrics_port": "off", "log_level": "error"}
    settings: dict[str, dict[str, Any]] = {
        "generation": {
            "model": model,
            "weights_root": folder / "weights",
            "threads": 1,
            "prefix_cache_gib": 0.01,
        },
        "novelty": {"data_folder": folder / "memory", "threads": 1, "embedding_cache_texts": 500},
        "verification": {"workers": 1, "slow_workers": 2, "timeout_seconds": 3, "cache_size": 500},
    }
    return {
        name: stack.enter_context(embedded.start(name, folder / f"{name}.log", **own, **common))
        for name, own in settings.items()
    }


class Traffic:
    """One thread for each kind of call, with pauses so that the machine is not fully loaded."""

    def __init__(self, folder: Path, servers: dict[str, embedded.EmbeddedService]) -> None:
        self.calls: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._folder = folder
        self._generation = GenerationClient(servers["generation"].target)
        self._novelty = NoveltyClient(servers["novelty"].target, "soak")
        self._prefix = PrefixClient(servers["novelty"].target, "soak")
        self._verification = VerificationClient(servers["verification"].target)
        self._ended = threading.Event()
        kinds: list[tuple[str, Callable[[int], None], float]] = [
            ("generate", self._generate, 0.05),
            ("update_weights", self._update, 5.0),
            ("score", self._score, 0.1),
            ("prefixes", self._prefixes, 0.2),
            ("verify", self._verify, 0.02),
        ]
        self._threads = [threading.Thread(target=self._run, args=kind) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop, and wait for the last calls."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        for client in (self._generation, self._novelty, self._prefix, self._verification):
            client.close()

    def _run(self, name: str, call: Callable[[int], None], pause: float) -> None:
        for number in itertools.count():
            try:
                call(number)
                self.calls[name] += 1
            except (ExtraError, AssertionError) as error:
                self.failures[f"{name}: {type(error).__name__}: {str(error)[:200]}"] += 1
            if self._ended.wait(pause):
                return

    def _generate(self, number: int) -> None:
        prefix = [2 + number % 7, 3, 4, 5]
        groups = self._generation.generate(
            [[2, 3 + number % 11], [5, 6, 7]], n=4, max_tokens=24, prefixes=[None, prefix], seed=number
        )
        assert [len(group) for group in groups] == [4, 4]

    def _update(self, number: int) -> None:
        update = self._generation.update_weights(f"policy-{number % 2}", number + 1)
        assert update.policy_version == number + 1

    def _score(self, number: int) -> None:
        texts = [_text(number * 2 + rollout) for rollout in range(2)]
        self._novelty.score(f"prompt-{number % 40}", texts=texts, correct=[True, True])

    def _prefixes(self, number: int) -> None:
        prompt = f"hard-{number % 20}"
        text = "\n".join(_text(number * 3 + line) for line in range(3))
        rollout = EntropyRollout(
            token_ids=[ord(letter) for letter in text],
            entropies=[0.1 + (number + place) % 9 / 10 for place in range(len(text))],
            text=text,
            token_ends=range(1, len(text) + 1),
        )
        (added,) = self._prefix.add_rollouts([HardPrompt(prompt, [rollout])], newline_token_ids=[10])
        assert added.error is None
        (chosen,) = self._prefix.select([prompt], "outcome_aware")
        assert chosen.error is None
        assert self._prefix.report_outcomes([Outcome(prompt, chosen.prefix_id, 8, number % 3)]) == [None]

    def _verify(self, number: int) -> None:
        responses = [r"\boxed{4}", rf"\boxed{{x+{number}}}", rf"\boxed{{x+{number}}}"]
        answers = ["4", f"{number}+x", f"{number + 1}+x"]
        if number % 10 == 0:
            responses, answers = [*responses, HOSTILE[number // 10 % len(HOSTILE)]], [*answers, "42"]
        verdicts = self._verification.verify(responses, answers)
        found = [str(verdict.status) for verdict in verdicts[:3]]
        assert found == ["correct", "correct", "wrong"], found
        # A hostile response may get several verdicts, but never "correct", and the worker must survive it.
        assert all(str(v.status) != "correct" and v.rule != "worker" for v in verdicts[3:]), verdicts[3:]


def _text(number: int) -> str:
    words = WORDS.split()
    return (
        " ".join(words[(number * step + step) % len(words)] for step in range(1, 13)) + f" {number % 3000}."
    )


def _watch(
    servers: dict[str, embedded.EmbeddedService], traffic: Traffic, seconds: float
) -> dict[str, list[tuple[int, int, int]]]:
    """Return by service, for every sample: bytes of memory, open files, processes of its tree."""
    samples: dict[str, list[tuple[int, int, int]]] = {name: [] for name in servers}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(SAMPLE_SECONDS)
        for name, server in servers.items():
            samples[name].append(_measured(server.process.pid))
        failed = sum(traffic.failures.values())
        memory = {name: f"{taken[-1][0] / 2**20:.0f} MiB" for name, taken in samples.items()}
        print(memory, dict(traffic.calls), f"{failed} failed", file=sys.stderr)
    return samples


def _measured(pid: int) -> tuple[int, int, int]:
    memory = files = processes = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with suppress(psutil.Error):  # a worker that has just been replaced
            memory, files = memory + process.memory_info().rss, files + process.num_fds()
            processes += 1
    return memory, files, processes


def _result(
    samples: dict[str, list[tuple[int, int, int]]], traffic: Traffic, seconds: float
) -> dict[str, dict[str, Any]]:
    ratios: dict[str, Any] = {}
    figures: dict[str, Any] = {"minutes": round(seconds / 60, 2)}
    for name, taken in samples.items():
        window = max(1, len(taken) // 10)
        # The first fifth is the warm-up.
        first, last = taken[2 * window : 3 * window], taken[-window:]
        for place, what, unit in ((0, "memory", 2**20), (1, "files", 1)):
            before, after = (statistics.median(entry[place] for entry in part) for part in (first, last))
            ratios[f"{what}_{name}"] = round(after / before, 4)
            figures[f"{what}_{name}_after_warm_up"] = round(before / unit, 1)
            figures[f"{what}_{name}_at_the_end"] = round(after / unit, 1)
            if what == "files":
                figures[f"files_more_{name}"] = after - before
    figures["calls"] = dict(traffic.calls)
    figures["failures"] = dict(traffic.failures)
    done, failed = sum(traffic.calls.values()), sum(traffic.failures.values())
    figures["error_rate"] = failed / max(1, done + failed)
    return {"ratios": ratios, "figures": figures}


if __name__ == "__main__":
    main()
