"""Groups of verified rollouts from the services: generation and verification, overlapped.

Rollouts arrive from the generation service as they finish and go straight to the verification service on
one bidirectional stream, so that verdicts come in while other samples are still being generated; a group that
is complete may be handed on meanwhile, which is how training overlaps novelty. Knows nothing of OpenRLHF:
training and evaluation both use it. A service that fails stops the collection with its error; a rollout is
never given a reward it did not earn.
"""

import contextvars
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extra_client import (
    ExtraError,
    GenerationClient,
    Prompt,
    PromptError,
    Rollout,
    UnparseableSide,
    Verdict,
    VerdictStatus,
    VerificationClient,
)
from extra_trainer.rollouts.generation_pool import GenerationPool
from extra_trainer.rollouts.outages import outlasting

#: Statuses after which nothing is known about the response.
UNDECIDED = (VerdictStatus.TIMEOUT, VerdictStatus.ERROR)


class RolloutError(RuntimeError):
    """A step that cannot be completed; the message says which prompt or service, and why."""


class PromptRefusedError(RolloutError):
    """The generation service did not take a prompt; `reason` is what it said."""

    def __init__(self, prompt: str, reason: str) -> None:
        super().__init__(f"the generation service refused a prompt: {reason} (prompt: {prompt[:200]!r})")
        self.reason = reason


@dataclass(frozen=True)
class RolloutRequest:
    """One group to sample: a prompt, possibly with a prefix to continue from, and its own answer."""

    prompt: str
    prompt_id: str
    #: Empty: the generation service makes them, of the text or (with `chat`) of a user's message.
    prompt_tokens: tuple[int, ...]
    answer: str
    guided: bool = False
    prefix_tokens: tuple[int, ...] = ()
    prefix_id: str = ""
    #: Mean entropy of the prefix's tokens, in nats.
    prefix_entropy: float = 0.0
    chat: bool = False

    @property
    def sent(self) -> Prompt:
        """What the generation service is sent as the prompt."""
        if self.prompt_tokens:
            return self.prompt_tokens
        return [{"role": "user", "content": self.prompt}] if self.chat else self.prompt


@dataclass
class Group:
    """The n rollouts of one request with their verdicts, in order of sample."""

    request: RolloutRequest
    rollouts: list[Rollout]
    verdicts: list[Verdict]

    @property
    def decided(self) -> NDArray[np.bool_]:
        """[n]: whether there is a verdict on the response (an unreadable reference answer is none)."""
        return np.array([is_decided(verdict) for verdict in self.verdicts])

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
    #: How long `on_group` went on after the last verdict.
    on_group_wait_seconds: float


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
    #: Seconds to wait for a verification service that is away.
    patience: float = 0.0

    def collect(
        self,
        requests: list[RolloutRequest],
        sampling: Sampling,
        policy_version: int,
        on_group: Callable[[int, Group], None] | None = None,
        on_verdict: Callable[[RolloutRequest, Rollout, Verdict], None] | None = None,
    ) -> Collected:
        """Samples and verifies; every rollout is of exactly `policy_version`, or RolloutError.

        `on_group` is called with each complete group and its place, in order of the requests, in a thread of
        its own, while others are still being generated. `on_verdict` is called with each rollout as soon as
        its verdict is there, and must not block. An error of either stops the collection.
        """
        started = time.monotonic()
        handing_on = _HandingOn(on_group or (lambda place, group: None))
        verifying = _Verifying(
            self.verification,
            self.patience,
            requests,
            sampling.n,
            handing_on.put,
            on_verdict or (lambda *_: None),
        )
        arrived = 0
        try:
            for rollout in self._generate(requests, sampling, policy_version):
                verifying.put(rollout)
                arrived += 1
                self.progress(arrived)
                verifying.raise_if_failed()
                handing_on.raise_if_failed()
            generated = time.monotonic()
            verifying.finish()
            verified = time.monotonic()
            handing_on.finish()
        finally:
            verifying.close()
            handing_on.close()
        groups = [verifying.groups[place] for place in range(len(requests))]
        return Collected(groups, generated - started, verified - generated, time.monotonic() - verified)

    def _generate(
        self, requests: list[RolloutRequest], sampling: Sampling, version: int
    ) -> Iterator[Rollout]:
        events = self.generation.generate_stream(
            [request.sent for request in requests],
            prefixes=[request.prefix_tokens for request in requests],
            n=sampling.n,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            min_policy_version=version,
            # A response that begins with a prefix is no longer than others (but has a token of its own).
            max_tokens_per_prompt=[
                max(1, sampling.max_tokens - len(request.prefix_tokens)) for request in requests
            ],
        )
        for event in events:
            if isinstance(event, PromptError):
                raise PromptRefusedError(requests[event.prompt_index].prompt, str(event.error))
            if event.policy_version != version:
                raise RolloutError(
                    f"a rollout is of policy version {event.policy_version}, not {version}: does another run "
                    "update the weights of this generation service?"
                )
            yield event


class _Worker(threading.Thread):
    """A thread whose error is raised where its work is waited for."""

    def __init__(self) -> None:
        # A daemon: Ctrl-C must not wait for a service that does not answer.
        super().__init__(daemon=True)
        self._error: Exception | None = None
        # What it calls is of the same step as what its maker calls (see extra_client.request_scope).
        self._context = contextvars.copy_context()

    def run(self) -> None:
        try:
            self._context.run(self._work)
        except Exception as error:  # raised by raise_if_failed, in the thread that collects
            self._error = error

    def _work(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing more comes."""
        raise NotImplementedError

    def finish(self) -> None:
        """Returns when all that was put is done."""
        self.close()
        self.join()
        self.raise_if_failed()

    def raise_if_failed(self) -> None:
        if self._error:
            raise self._error


class _Verifying(_Worker):
    """A verification stream fed from one thread and read in another.

    If its service goes away, a new stream, once it is back, begins with what has no verdict yet.
    """

    def __init__(
        self,
        client: VerificationClient,
        patience: float,
        requests: list[RolloutRequest],
        n: int,
        on_group: Callable[[int, Group], None],
        on_verdict: Callable[[RolloutRequest, Rollout, Verdict], None],
    ) -> None:
        super().__init__()
        self._client = client
        self._patience = patience
        self._requests = requests
        self._n = n
        self._on_group = on_group
        self._on_verdict = on_verdict
        self._changing = threading.Lock()
        #: What the stream of now has yet to send; None is its end.
        self._items: queue.SimpleQueue[tuple[int, str, str] | None] = queue.SimpleQueue()
        #: What has no verdict yet, and whether more comes.
        self._undecided: dict[int, tuple[int, str, str]] = {}
        self._closed = False
        self._rollouts: dict[int, Rollout] = {}
        self._verdicts: dict[int, dict[int, Verdict]] = defaultdict(dict)
        #: Place of the request -> its group, once all n verdicts are there.
        self.groups: dict[int, Group] = {}
        self.start()

    def put(self, rollout: Rollout) -> None:
        item = rollout.prompt_index * self._n + rollout.sample_index
        self._rollouts[item] = rollout
        with self._changing:
            self._undecided[item] = (item, rollout.text, self._requests[rollout.prompt_index].answer)
            self._items.put(self._undecided[item])

    def close(self) -> None:
        with self._changing:
            self._closed = True
            self._items.put(None)

    def _again(self) -> Iterator[tuple[int, Verdict]]:
        """A stream of all that is undecided and all that is still put; the one before gets nothing more."""
        with self._changing:
            self._items.put(None)
            self._items = queue.SimpleQueue()
            for waiting in self._undecided.values():
                self._items.put(waiting)
            if self._closed:
                self._items.put(None)
            return self._client.verify_stream(iter(self._items.get, None))

    def _recover(self, error: ExtraError) -> None:
        if not self._patience:
            raise error
        self._client.wait_for_ready(self._patience)

    def _work(self) -> None:
        for item, verdict in outlasting(self._again, self._recover):
            with self._changing:
                del self._undecided[item]
            place, sample = divmod(item, self._n)
            self._on_verdict(self._requests[place], self._rollouts[item], verdict)
            verdicts = self._verdicts[place]
            verdicts[sample] = verdict
            if len(verdicts) == self._n:
                self._complete(place, verdicts)

    def _complete(self, place: int, verdicts: dict[int, Verdict]) -> None:
        samples = range(self._n)
        rollouts = [self._rollouts.pop(place * self._n + sample) for sample in samples]
        group = Group(self._requests[place], rollouts, [verdicts[sample] for sample in samples])
        self.groups[place] = group
        self._on_group(place, group)


class _HandingOn(_Worker):
    """Calls a function with complete groups in order of their places."""

    def __init__(self, on_group: Callable[[int, Group], None]) -> None:
        super().__init__()
        self._on_group = on_group
        self._complete: queue.SimpleQueue[tuple[int, Group] | None] = queue.SimpleQueue()
        self.start()

    def put(self, place: int, group: Group) -> None:
        self._complete.put((place, group))

    def close(self) -> None:
        self._complete.put(None)

    def _work(self) -> None:
        waiting: dict[int, Group] = {}
        following = 0
        for place, group in iter(self._complete.get, None):
            waiting[place] = group
            while following in waiting:
                self._on_group(following, waiting.pop(following))
                following += 1


def is_decided(verdict: Verdict) -> bool:
    """Whether anything is known about the response."""
    return verdict.status not in UNDECIDED and verdict.unparseable_side is not UnparseableSide.ANSWER
