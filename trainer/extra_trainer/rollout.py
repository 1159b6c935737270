"""Groups of verified rollouts from the services: generation and verification, overlapped.

Rollouts arrive from the generation service as they finish and go straight to the verification service on
one bidirectional stream, so that verdicts come in while other samples are still being generated. Knows
nothing of OpenRLHF: training and evaluation both use it. A service that fails stops the collection with its
error; a rollout is never given a reward it did not earn.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extra_client import (
    GenerationClient,
    PromptFailure,
    Rollout,
    UnparseableSide,
    Verdict,
    VerdictStatus,
    VerificationClient,
)
from extra_trainer.generation_pool import GenerationPool

#: Statuses after which nothing is known about the response.
UNDECIDED = (VerdictStatus.TIMEOUT, VerdictStatus.ERROR)


class RolloutError(RuntimeError):
    """A step that cannot be completed; the message says which prompt or service, and why."""


@dataclass(frozen=True)
class RolloutRequest:
    """One group to sample: a prompt, possibly with a prefix to continue from, and its own answer."""

    prompt: str
    prompt_id: str
    prompt_tokens: tuple[int, ...]
    answer: str
    guided: bool = False
    prefix_tokens: tuple[int, ...] = ()
    prefix_id: str = ""


@dataclass
class Group:
    """The n rollouts of one request with their verdicts, in order of sample."""

    request: RolloutRequest
    rollouts: list[Rollout]
    verdicts: list[Verdict]

    @property
    def decided(self) -> NDArray[np.bool_]:
        """[n]: whether there is a verdict on the response (an unreadable reference answer is none)."""
        return np.array([_decided(verdict) for verdict in self.verdicts])

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[n]: whether the response was found correct."""
        return np.array([verdict.status is VerdictStatus.CORRECT for verdict in self.verdicts])

    @property
    def pass_rate(self) -> float:
        """Share of correct ones among the decided; NaN if none is decided."""
        decided = self.decided
        return float(self.correct.sum() / decided.sum()) if decided.any() else float("nan")


@dataclass
class Collected:
    """The groups of one collection, in order of the requests, and where the time went."""

    groups: list[Group]
    generation_seconds: float
    #: How long verification went on after the last rollout had arrived.
    verification_wait_seconds: float


@dataclass(frozen=True)
class Sampling:
    """How the rollouts of one collection are drawn."""

    n: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class RolloutCollector:
    """Collects groups through one or several generation services and a verification client."""

    generation: GenerationClient | GenerationPool
    verification: VerificationClient
    #: Called with the number of finished rollouts so far.
    progress: Callable[[int], None] = field(default=lambda finished: None)

    def collect(self, requests: list[RolloutRequest], sampling: Sampling, policy_version: int) -> Collected:
        """Samples and verifies; every rollout is of exactly `policy_version`, or RolloutError."""
        started = time.monotonic()
        verifying = _Verifying(self.verification, requests, sampling.n)
        rollouts: dict[tuple[int, int], Rollout] = {}
        try:
            for rollout in self._generate(requests, sampling, policy_version):
                rollouts[rollout.prompt_index, rollout.sample_index] = rollout
                verifying.put(rollout)
                self.progress(len(rollouts))
                verifying.raise_if_failed()
            generated = time.monotonic()
            verdicts = verifying.finish()
        finally:
            verifying.close()
        indices = range(sampling.n)
        groups = [
            Group(request, [rollouts[p, s] for s in indices], [verdicts[p, s] for s in indices])
            for p, request in enumerate(requests)
        ]
        return Collected(groups, generated - started, time.monotonic() - generated)

    def _generate(
        self, requests: list[RolloutRequest], sampling: Sampling, version: int
    ) -> Iterator[Rollout]:
        events = self.generation.generate_stream(
            [request.prompt_tokens for request in requests],
            prefixes=[request.prefix_tokens for request in requests],
            n=sampling.n,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            min_policy_version=version,
        )
        for event in events:
            if isinstance(event, PromptFailure):
                prompt = requests[event.prompt_index].prompt
                raise RolloutError(
                    f"the generation service refused a prompt: {event.error} (prompt: {prompt[:200]!r})"
                )
            if event.policy_version != version:
                raise RolloutError(
                    f"a rollout is of policy version {event.policy_version}, not {version}: does another run "
                    "update the weights of this generation service?"
                )
            yield event


class _Verifying:
    """A verification stream fed from one thread and read in another."""

    def __init__(self, client: VerificationClient, requests: list[RolloutRequest], n: int) -> None:
        self._client = client
        self._requests = requests
        self._n = n
        self._items: queue.SimpleQueue[tuple[int, str, str] | None] = queue.SimpleQueue()
        self._verdicts: dict[tuple[int, int], Verdict] = {}
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def put(self, rollout: Rollout) -> None:
        item = rollout.prompt_index * self._n + rollout.sample_index
        self._items.put((item, rollout.text, self._requests[rollout.prompt_index].answer))

    def finish(self) -> dict[tuple[int, int], Verdict]:
        self._items.put(None)
        self._thread.join()
        self.raise_if_failed()
        return self._verdicts

    def close(self) -> None:
        self._items.put(None)

    def raise_if_failed(self) -> None:
        if self._error:
            raise self._error

    def _read(self) -> None:
        try:
            for item, verdict in self._client.verify_stream(iter(self._items.get, None)):
                self._verdicts[divmod(item, self._n)] = verdict
        except Exception as error:  # handed to the thread that collects
            self._error = error


def _decided(verdict: Verdict) -> bool:
    return verdict.status not in UNDECIDED and verdict.unparseable_side is not UnparseableSide.ANSWER
