"""Evaluation: pass@k of the policy that a generation service serves, on problems with known answers.

`extra-rl eval` and the evaluations before and after training use this module. Each problem is one call, whose
seed is made of the evaluation's seed, the problem and its place. Its samples depend on nothing else, so
problems may be evaluated at the same time, in any order, in several launches or in part, with the same
result. A finished problem is appended to a journal at once, and a later launch evaluates the problems that
are not in it. Prompts are sent as text: the tokenizer is the service's own.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extra_client import (
    CancelledError,
    GenerationClient,
    GenerationInfo,
    OverloadedError,
    Rollout,
    Verdict,
    VerificationClient,
    VerifyOptions,
)
from extra_rl.vocabulary import Method
from extra_trainer.config import EvaluationConfig
from extra_trainer.data.problems import Problem, prompt_identity
from extra_trainer.evaluation.journal import Journal
from extra_trainer.evaluation.result import Evaluation, ProblemResult, summarize
from extra_trainer.rollouts.collector import (
    Group,
    Increments,
    RolloutCollector,
    RolloutPromptError,
    RolloutRequest,
    Sampling,
)
from extra_trainer.rollouts.generation_pool import GenerationPool

#: Name of a set -> its problems.
ProblemSets = Mapping[str, Sequence[Problem]]
#: Seconds to wait for a service with a full queue.
OVERLOAD_PATIENCE = 600.0
#: Bytes at each end of a weights file that its identity is made of.
_HASHED_BYTES = 2**20


def request(
    info: GenerationInfo,
    sets: ProblemSets,
    config: EvaluationConfig,
    *,
    max_tokens: int,
    chat: bool,
    method: Method,
    options: VerifyOptions,
    weights: str,
) -> dict[str, Any]:
    """Return everything that determines the samples of an evaluation, as JSON.

    A journal may only be continued with the same request.

    Args:
        info: The generation service's description of itself.
        sets: The problems.
        config: Settings of the evaluation.
        max_tokens: Most tokens of a sample.
        chat: Whether prompts are sent as messages.
        method: Comparison of samples with reference answers.
        options: Conventions of that comparison.
        weights: Identity of the weights (`weights_identity`); "" if their files cannot be read here.
    """
    return {
        "model": info.model,
        "policy_version": info.policy_version,
        "weights": weights,
        "vocab_hash": info.vocab_hash,
        "engine": info.engine,
        "max_model_len": info.max_model_len,
        "samples_per_prompt": config.samples_per_prompt,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": max_tokens,
        "seed": config.seed,
        "chat": chat,
        "method": str(method),
        "references": str(options.references),
        "verifier": options.verifier,
        "sets": {name: digest([[p.id, p.prompt, p.answer] for p in sets[name]]) for name in sets},
    }


def weights_identity(folder: Path) -> str:
    """Return a hash of the weights in a model's folder: of size, first and last MiB of each file."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{path.name} {size}\n".encode())
            digest.update(file.read(_HASHED_BYTES))
            file.seek(max(0, size - _HASHED_BYTES))
            digest.update(file.read(_HASHED_BYTES))
    return digest.hexdigest()[:32]


@dataclass
class Evaluator:
    """Evaluates problems through a generation and a verification client."""

    generation: GenerationClient | GenerationPool
    verification: VerificationClient
    config: EvaluationConfig
    #: Most tokens of a sample.
    max_tokens: int
    #: Whether to send prompts as messages to the served model's chat template, not as plain text.
    chat: bool = False
    #: Comparison of samples with reference answers.
    method: Method = Method.MATH
    #: Conventions of that comparison.
    options: VerifyOptions = field(default_factory=VerifyOptions)
    #: Called with the number of new samples, from several threads.
    progress: Callable[[int], None] = field(default=lambda samples: None)

    def run(
        self, sets: ProblemSets, journal_path: Path, *, weights: str = "", replace: bool = False
    ) -> Evaluation:
        """Evaluate the problems that the journal does not hold yet, and summarize all.

        Args:
            sets: The problems.
            journal_path: The journal; problems that are finished before an error are in it.
            weights: Identity of the weights, see `request`.
            replace: Whether to replace a journal of another request.

        Raises:
            ConfigError: If the journal is of another request and not to be replaced.
            ExtraError: If a service fails.
        """
        info = self.generation.get_info()
        asked = request(
            info,
            sets,
            self.config,
            max_tokens=self.max_tokens,
            chat=self.chat,
            method=self.method,
            options=self.options,
            weights=weights,
        )
        with Journal(journal_path, asked, replace=replace) as journal:
            left = [
                (name, index, problem)
                for name, problems in sets.items()
                for index, problem in enumerate(problems)
                if (name, index) not in journal.done
            ]
            self.progress(len(journal.done) * self.config.samples_per_prompt)
            self._evaluate(left, info.policy_version, journal)
            return summarize(journal.done.values(), asked, self.config.k, journal.seconds)

    def _evaluate(self, left: Iterable[tuple[str, int, Problem]], version: int, journal: Journal) -> None:
        """Evaluate `left`, several at a time; each is in the journal as soon as it is finished."""
        pool = ThreadPoolExecutor(self.config.problems_at_once, thread_name_prefix="evaluate")
        stopped = threading.Event()
        running: set[Future[tuple[ProblemResult, list[dict[str, Any]]]]] = set()
        try:
            for name, index, problem in left:
                if len(running) == self.config.problems_at_once:
                    running = _finish(running, journal)
                running.add(pool.submit(self._problem, name, index, problem, version, stopped))
            while running:
                running = _finish(running, journal)
        finally:
            # After an error the others are not waited for: they end when the clients are closed.
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _problem(
        self, name: str, index: int, problem: Problem, version: int, stopped: threading.Event
    ) -> tuple[ProblemResult, list[dict[str, Any]]]:
        wanted = RolloutRequest(
            problem.prompt, prompt_identity(problem.prompt), (), problem.answer, chat=self.chat
        )
        sampling = Sampling(
            n=self.config.samples_per_prompt,
            max_tokens=self.max_tokens,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            seed=int(digest([self.config.seed, index, problem.prompt])[:16], 16),
        )
        show = Increments(self.progress)

        def progress(finished: int) -> None:
            if stopped.is_set():
                raise CancelledError("the evaluation was stopped")
            show(finished)

        collector = RolloutCollector(
            self.generation,
            self.verification,
            progress=progress,
            method=self.method,
            options=self.options,
        )
        until = time.monotonic() + OVERLOAD_PATIENCE
        while True:
            try:
                (group,) = collector.collect([wanted], sampling, version).groups
                return _result(name, index, problem, group)
            except RolloutPromptError as error:
                progress(sampling.n)
                return ProblemResult(set=name, index=index, id=problem.id, refused=error.reason), []
            except OverloadedError as error:
                if time.monotonic() > until or stopped.wait(error.retry_after or 1.0):
                    raise
                progress(0)


def _finish(
    running: set[Future[tuple[ProblemResult, list[dict[str, Any]]]]], journal: Journal
) -> set[Future[tuple[ProblemResult, list[dict[str, Any]]]]]:
    """Wait until one is finished, record it, and return those still running."""
    finished, others = wait(running, return_when=FIRST_COMPLETED)
    # An error is raised after the other finished problems are recorded.
    for future in sorted(finished, key=lambda future: future.exception() is not None):
        journal.append(*future.result())
    return others


def _result(
    name: str, index: int, problem: Problem, group: Group
) -> tuple[ProblemResult, list[dict[str, Any]]]:
    result = ProblemResult(
        set=name,
        index=index,
        id=problem.id,
        group=problem.group,
        correct=group.outcome.correct,
        undecided=group.outcome.rollouts - group.outcome.decided,
        cut_off=int(group.cut_off.sum()),
        tokens=sum(len(rollout.token_ids) for rollout in group.rollouts),
    )
    return result, [_sample(*pair) for pair in zip(group.rollouts, group.verdicts, strict=True)]


def _sample(rollout: Rollout, verdict: Verdict) -> dict[str, Any]:
    """Return the journal's record of a sample, for a person to read."""
    return {
        "text": rollout.text,
        "correct": verdict.correct,
        "status": str(verdict.status),
        "extracted": verdict.extracted,
        "detail": verdict.detail,
        "tokens": len(rollout.token_ids),
        "finish_reason": str(rollout.finish_reason),
        **({} if verdict.score is None else {"score": verdict.score, "components": dict(verdict.components)}),
    }


def digest(content: Any) -> str:
    """Return the SHA-256 of JSON content, in hex."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
