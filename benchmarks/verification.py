"""Verification against math-verify in one process, on real and on hard answers, and easy items beside hangs.

`extra-rl bench verification --json`. One JSON object: `ratios`, each
the median of REPEATS measurements side by side in this run, and `figures`.

- real_responses: pairs per second of this service's domain (fast path and worker pool, empty caches each
  time) over those of math-verify's parse and verify in one process, used as in its README, on graded real
  responses.
- hard_mix: the same on the reference answers of the six benchmarks that are more than a number, against
  rewritten and perturbed predictions.
- p99_under_hangs: 99th percentile of the latency of easy items (equal, but written so that a worker has to
  read them) while every fiftieth item hangs, over that without hangs; through real gRPC, 2 workers.

`figures` also hold the quality of both graders on each file of labelled cases
(tests/data/verification_*.jsonl): how many cases each decides as they are labelled (`_right`), accepts
although they are not right (`_false_positives`), refuses although they are right (`_false_negatives`). Cases
that are a matter of convention are left out. `--part quality` measures this alone.

The data is read from EXTRA_RL_DATA (see tests/conftest.py).
"""

import argparse
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import grpc
import math_verify

from extra_rl.v1 import verification_pb2 as pb
from extra_rl.v1 import verification_pb2_grpc
from extra_rl.vocabulary import Method, VerdictStatus
from extra_services.runtime import memo
from extra_services.verification.pool import TaskOutcome, WorkerPool
from extra_services.verification.verdict import ComparisonOptions, Verdict
from extra_services.verification.verifier import PendingItem, Verifier

DATA = Path(
    os.environ.get("EXTRA_RL_DATA", Path(__file__).resolve().parents[1] / "tests" / "data" / "public")
)
CASES = {
    name: Path(__file__).resolve().parents[1] / "tests" / "data" / f"verification_{name}.jsonl"
    for name in ("cases", "families")
}
BENCHMARKS = ("aime24", "aime25", "amc23", "math500", "minerva_math", "olympiadbench")
REPEATS = 3
WORKERS = 2
#: A comparison with this answer exceeds every time limit.
HANGING = r"\boxed{((12!)!)!}"
#: Easy items sent per second, their number, and the time limit of the hanging ones in seconds.
RATE, EASY_ITEMS, HANG_LIMIT = 40, 400, 1.0

Pair = tuple[str, str]


def main() -> None:
    """Measure, and print the JSON object."""
    parser = argparse.ArgumentParser(prog="extra-rl bench verification", description=__doc__)
    parser.add_argument("--part", choices=("speed", "quality"), help="measure one part only")
    parser.add_argument("--json", action="store_true", help="accepted: the output is always JSON")
    part = parser.parse_args().part
    logging.disable(logging.ERROR)  # math-verify warns about its own timeouts
    ratios: dict[str, float] = {}
    figures: dict[str, float] = {}
    if part != "speed":
        figures |= quality()
    if part != "quality":
        _speed(ratios, figures)
    print(json.dumps({"ratios": _rounded(ratios), "figures": _rounded(figures)}))


def quality() -> dict[str, float]:
    """Return right, false positives and false negatives of both graders on the labelled cases."""
    figures: dict[str, float] = {}
    for name, file in CASES.items():
        lines = file.read_text("utf-8").splitlines()
        cases = [case for case in map(json.loads, lines) if not case["convention"]]
        figures[name] = len(cases)
        for grader, accepted in (
            ("ours", _accepted(cases)),
            ("math_verify", _accepted_by_math_verify(cases)),
        ):
            labelled = list(zip(accepted, (case["expected"] == "correct" for case in cases), strict=True))
            positive = sum(accepted and not right for accepted, right in labelled)
            negative = sum(right and not accepted for accepted, right in labelled)
            figures[f"{name}_{grader}_false_positives"] = positive
            figures[f"{name}_{grader}_false_negatives"] = negative
            figures[f"{name}_{grader}_right"] = len(cases) - positive - negative
    return figures


def _accepted(cases: list[dict[str, str]]) -> list[bool]:
    pool = WorkerPool(WORKERS, 2 * WORKERS, 2**30, len(cases))
    pool.start()
    try:
        verifier = Verifier(pool, timeout_seconds=5.0, cache_size=0)
        return [
            _verdicts(verifier, [(case["response"], case["answer"])], Method(case["method"]))[0].status
            is VerdictStatus.CORRECT
            for case in cases
        ]
    finally:
        pool.close()


def _accepted_by_math_verify(cases: list[dict[str, str]]) -> list[bool]:
    return [bool(_math_verify([(case["response"], case["answer"])])) for case in cases]


def _speed(ratios: dict[str, float], figures: dict[str, float]) -> None:
    for name in ("rollouts_math", "graded_gsm8k", *BENCHMARKS):
        if not (DATA / f"{name}.jsonl").is_file():
            sys.exit(f"no {name}.jsonl in {DATA}: set EXTRA_RL_DATA to the folder of graded responses")
    real, hard = real_responses(), hard_mix()
    figures |= {"workers": WORKERS, "repeats": REPEATS}
    for name, pairs in (("real_responses", real), ("hard_mix", hard)):
        theirs, ours = _side_by_side(pairs)
        ratios[name] = statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
        figures[f"{name}_pairs"] = len(pairs)
        figures[f"{name}_math_verify_pairs_per_second"] = len(pairs) / statistics.median(theirs)
        figures[f"{name}_pairs_per_second"] = len(pairs) / statistics.median(ours)
    quiet, hanging = zip(*[(_p99(hang=False), _p99(hang=True)) for _ in range(REPEATS)], strict=True)
    ratios["p99_under_hangs"] = statistics.median(h / q for q, h in zip(quiet, hanging, strict=True))
    figures["p99_easy_seconds"] = statistics.median(quiet)
    figures["p99_easy_seconds_under_hangs"] = statistics.median(hanging)


def real_responses() -> list[Pair]:
    """Return (response, reference answer) of both graded data files."""
    rows = [row for name in ("rollouts_math", "graded_gsm8k") for row in _rows(name)]
    return [(row["response"], row["answer"]) for row in rows]


def hard_mix() -> list[Pair]:
    """Return the reference answers of the six benchmarks that are no numbers, with four predictions each."""
    chance = random.Random(0)
    answers = [row["answer"] for name in BENCHMARKS for row in _rows(name)]
    answers = [answer.strip("$") for answer in answers if not answer.strip("$-").replace(".", "").isdigit()]
    pairs = [
        (rf"The answer is $\boxed{{{prediction}}}$", answer)
        for answer in answers
        for prediction in _predictions(answer, chance)
    ]
    return chance.sample(pairs, min(len(pairs), 600))


def _predictions(answer: str, chance: random.Random) -> Iterator[str]:
    """Yield rewritten (equal) and perturbed (different) forms, and an answer of another kind."""
    yield answer.replace(r"\frac", r"\dfrac").replace(" ", "  ")
    yield f"{answer} + 0" if "," not in answer and "=" not in answer else answer
    digits = [index for index, character in enumerate(answer) if character.isdigit()]
    at = chance.choice(digits) if digits else len(answer)
    yield answer[:at] + str(chance.randrange(10)) + answer[at + 1 :]
    top, bottom, root = chance.randrange(1, 99), chance.randrange(2, 99), chance.randrange(2, 9)
    yield rf"\frac{{{top}}}{{{bottom}}} \sqrt{{{root}}}"


def _side_by_side(pairs: list[Pair]) -> tuple[list[float], list[float]]:
    """Return the seconds of math-verify and of this service, per repeat."""
    pool = WorkerPool(WORKERS, 2 * WORKERS, 2**30, len(pairs))
    pool.start()
    theirs, ours = [], []
    try:
        for _ in range(REPEATS):
            theirs.append(_seconds(lambda: _math_verify(pairs)))
            verifier = Verifier(pool, timeout_seconds=5.0, cache_size=65536)
            memo.forget()
            ours.append(_seconds(lambda verifier=verifier: _verdicts(verifier, pairs)))  # type: ignore[misc]
    finally:
        pool.close()
    return theirs, ours


def _math_verify(pairs: list[Pair]) -> int:
    return sum(
        math_verify.verify(math_verify.parse(rf"\boxed{{{answer}}}"), math_verify.parse(response))
        for response, answer in pairs
    )


def _verdicts(verifier: Verifier, pairs: list[Pair], method: Method = Method.MATH) -> list[Verdict]:
    options = ComparisonOptions()
    with verifier.call() as call:
        decided = []
        waiting: list[tuple[PendingItem, Future[TaskOutcome]]] = []
        for response, answer in pairs:  # items go to the workers as they are found, like those of a stream
            decided.append(item := verifier.decide(response, [answer], method, options))
            waiting += zip(item.pending, call.submit(item.pending, 5.0), strict=True)
        finished = (verifier.finish(part, future.result(), 5.0) for part, future in waiting)
        return [item.verdict(finished) for item in decided]


def _p99(hang: bool) -> float:
    """Return the 99th percentile in seconds of the latency of easy items sent at RATE per second."""
    with _server() as stub:
        latencies = [0.0] * EASY_ITEMS
        done = threading.Semaphore(0)
        hanging = []
        started = time.perf_counter()
        for index in range(EASY_ITEMS):
            time.sleep(max(0.0, started + index / RATE - time.perf_counter()))
            if hang and index % 50 == 0:
                hanging.append(stub.Verify.future(_request(HANGING, "6", HANG_LIMIT)))
            sent = time.perf_counter()

            def finish(call: grpc.Future, index: int = index, sent: float = sent) -> None:
                latencies[index] = time.perf_counter() - sent
                assert call.result().verdicts[0].status == pb.VERDICT_STATUS_CORRECT
                done.release()

            call = stub.Verify.future(_request(rf"\boxed{{x+{index}}}", f"{index}+x", 5.0))
            call.add_done_callback(finish)
        for _ in range(EASY_ITEMS):
            done.acquire()
        for call in hanging:
            assert call.result().verdicts[0].status == pb.VERDICT_STATUS_TIMEOUT
    return statistics.quantiles(latencies, n=100)[98]


def _request(response: str, answer: str, seconds: float) -> pb.VerifyRequest:
    return pb.VerifyRequest(items=[pb.VerifyItem(response=response, answer=answer)], timeout_seconds=seconds)


class _server:
    """A real server process; entering returns its stub."""

    def __enter__(self) -> verification_pb2_grpc.VerificationServiceStub:
        self._folder = tempfile.TemporaryDirectory()
        address = Path(self._folder.name) / "address"
        command = [
            sys.executable,
            "-m",
            "extra_cli",
            "serve",
            "verification",
            "--port=0",
            f"--workers={WORKERS}",
        ]
        command += [f"--address-file={address}", "--stop-with-stdin", "--log-level=error"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)
        while not address.exists():
            assert self._process.poll() is None, "the server did not start"
            time.sleep(0.05)
        self._channel = grpc.insecure_channel(address.read_text())
        return verification_pb2_grpc.VerificationServiceStub(self._channel)

    def __exit__(self, *error: object) -> None:
        self._channel.close()
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()


def _rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _rounded(numbers: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in numbers.items()}


if __name__ == "__main__":
    main()
