"""Groups of verified rollouts: generation and verification, overlapped. Used by training and evaluation.

Rollouts arrive from the generation service as they finish and go straight to the verification service on
one bidirectional stream, so verdicts come in while other samples are still generated. Complete groups are
passed to a callback meanwhile, which is how training overlaps novelty scoring. If a service fails, the
collection stops with its error; no rollout gets a reward in place of a missing verdict.
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
    FinishReason,
    GenerationClient,
    Prompt,
    PromptError,
    Rollout,
    Verdict,
    VerificationClient,
    VerifyOptions,
)
from extra_rl.groups import GroupOutcome
from extra_rl.references import Answer
from extra_rl.vocabulary import Method
from extra_trainer.rollouts.generation_pool import GenerationPool
from extra_trainer.rollouts.outages import retried_stream


class RolloutError(RuntimeError):
    """A step cannot be completed; the message names the prompt or service, and the cause."""


class RolloutPromptError(RolloutError):
    """The generation service refused a prompt.

    Attributes:
        reason: The service's error message.
    """

    def __init__(self, prompt: str, reason: str) -> None:
        super().__init__(f"the generation service refused a prompt: {reason} (prompt: {prompt[:200]!r})")
        self.reason = reason


@dataclass(frozen=True)
class RolloutRequest:
    """One group to sample: a prompt with its reference answer, possibly a prefix to continue from."""

    prompt: str
    prompt_id: str
    #: Empty: the generation service tokenizes the text or, with `chat`, a user's message of it.
    prompt_tokens: tuple[int, ...]
    answer: Answer
    guided: bool = False
    prefix_tokens: tuple[int, ...] = ()
    prefix_id: str = ""
    #: Mean entropy of the prefix's tokens, in nats.
    prefix_entropy: float = 0.0
    chat: bool = False

    @property
    def sent(self) -> Prompt:
        """The prompt as the generation service takes it: tokens, messages or text."""
        if self.prompt_tokens:
            return self.prompt_tokens
        return [{"role": "user", "content": self.prompt}] if self.chat else self.prompt


@dataclass
class Group:
    """The n rollouts of one request with their verdicts, in order of sample."""

    request: RolloutRequest
    rollouts: list[Rollout]
    verdicts: list[Verdict]
    #: Whether responses that were cut off count for nothing, as if they had no verdict.
    mask_cut_off: bool = False

    @property
    def cut_off(self) -> NDArray[np.bool_]:
        """[n]: whether the response ended at the limit on its length, and not by itself."""
        return np.array([rollout.finish_reason is FinishReason.LENGTH for rollout in self.rollouts])

    @property
    def masked(self) -> NDArray[np.bool_]:
        """[n]: whether the response counts for nothing because it was cut off."""
        return self.cut_off & self.mask_cut_off

    @property
    def results(self) -> list[bool | None]:
        """[n]: whether the response counts as correct; None: it counts for nothing."""
        return [
            None if masked else verdict.correct
            for verdict, masked in zip(self.verdicts, self.masked, strict=True)
        ]

    @property
    def outcome(self) -> GroupOutcome:
        """Counts of decided and correct rollouts, and what follows from them: all right, hard, ..."""
        return GroupOutcome.of(self.results)

    @property
    def decided(self) -> NDArray[np.bool_]:
        """[n]: whether the response counts as correct or wrong."""
        return np.array([result is not None for result in self.results])

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[n]: whether the response counts as correct."""
        return np.array([result is True for result in self.results])


@dataclass
class Collected:
    """The groups of one collection, in order of the requests, and the time that each phase took."""

    groups: list[Group]
    generation_seconds: float
    #: From the arrival of the last rollout to the last verdict.
    verification_wait_seconds: float
    #: From the last verdict to the return of the last `on_group` call.
    on_group_wait_seconds: float


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters of one collection: `n` rollouts per request."""

    n: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    #: Whether responses that are cut off at `max_tokens` count for nothing.
    mask_cut_off: bool = False


class Increments:
    """A `progress` callback of RolloutCollector that passes on the number of new rollouts, not the total."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report, self._before = report, 0

    def __call__(self, finished: int) -> None:
        self._report(finished - self._before)
        self._before = finished


@dataclass
class RolloutCollector:
    """Collects groups through one or several generation services and a verification service."""

    generation: GenerationClient | GenerationPool
    verification: VerificationClient
    #: Called with the number of rollouts generated so far.
    progress: Callable[[int], None] = field(default=lambda finished: None)
    #: Comparison of responses with reference answers.
    method: Method = Method.MATH
    #: Conventions of that comparison.
    options: VerifyOptions = field(default_factory=VerifyOptions)
    #: Seconds to wait for a verification service that does not answer; 0: fail at once.
    patience: float = 0.0

    def collect(
        self,
        requests: list[RolloutRequest],
        sampling: Sampling,
        policy_version: int,
        on_group: Callable[[int, Group], None] | None = None,
        on_verdict: Callable[[RolloutRequest, Rollout, Verdict], None] | None = None,
        *,
        weights_may_change: bool = False,
    ) -> Collected:
        """Sample and verify all requests.

        Args:
            requests: The groups to sample.
            sampling: Sampling parameters.
            policy_version: The version that every rollout must be sampled with, or the oldest one.
            on_group: Called with the place of each complete group and the group, in order of the requests, in
                a thread of its own, while others are still generated.
            on_verdict: Called with each rollout and its verdict as soon as it arrives; must not block.
            weights_may_change: Whether rollouts may be of later versions too, and begin with one version and
                end with another, because weights are delivered meanwhile.

        Returns:
            The groups, in order of the requests.

        Raises:
            RolloutPromptError: If the generation service refuses a prompt.
            RolloutError: If a rollout is of another policy version.
            ExtraError: If a service fails.
            Exception: Any error of `on_group` or `on_verdict`.
        """
        started = time.monotonic()
        handover = _Handover(on_group or (lambda place, group: None))
        verification = _Verification(
            self.verification,
            self.method,
            self.options,
            self.patience,
            requests,
            sampling,
            handover.put,
            on_verdict or (lambda *_: None),
        )
        arrived = 0
        try:
            for rollout in self._generate(requests, sampling, policy_version, weights_may_change):
                verification.put(rollout)
                arrived += 1
                self.progress(arrived)
                verification.raise_if_failed()
                handover.raise_if_failed()
            generated = time.monotonic()
            verification.finish()
            verified = time.monotonic()
            handover.finish()
        finally:
            verification.close()
            handover.close()
        groups = [verification.groups[place] for place in range(len(requests))]
        return Collected(groups, generated - started, verified - generated, time.monotonic() - verified)

    def _generate(
        self, requests: list[RolloutRequest], sampling: Sampling, version: int, weights_may_change: bool
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
            # With its prefix a response is no longer than others, but at least one token is sampled.
            max_tokens_per_prompt=[
                max(1, sampling.max_tokens - len(request.prefix_tokens)) for request in requests
            ],
        )
        for event in events:
            if isinstance(event, PromptError):
                raise RolloutPromptError(requests[event.prompt_index].prompt, str(event.error))
            if event.policy_version != version and not weights_may_change:
                raise RolloutError(
                    f"a rollout is of policy version {event.policy_version}, not {version}: does another run "
                    "update the weights of this generation service?"
                )
            yield event


class _Worker(threading.Thread):
    """A thread whose error is raised in the thread that waits for its work."""

    def __init__(self) -> None:
        # A daemon: Ctrl-C must not wait for a service that does not answer.
        super().__init__(daemon=True)
        self._error: Exception | None = None
        # Its calls belong to the same step as those of the thread that starts it
        # (extra_client.request_scope).
        self._context = contextvars.copy_context()

    def run(self) -> None:
        try:
            self._context.run(self._work)
        except Exception as error:  # raised by raise_if_failed, in the thread that collects
            self._error = error

    def _work(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Declare that nothing more will be put."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait until all that was put is done."""
        self.close()
        self.join()
        self.raise_if_failed()

    def raise_if_failed(self) -> None:
        if self._error:
            raise self._error


class _Verification(_Worker):
    """A verification stream that one thread feeds and another reads.

    If the service stops answering, a new stream is opened once it serves again, and begins with the rollouts
    that have no verdict yet.
    """

    def __init__(
        self,
        client: VerificationClient,
        method: Method,
        options: VerifyOptions,
        patience: float,
        requests: list[RolloutRequest],
        sampling: Sampling,
        on_group: Callable[[int, Group], None],
        on_verdict: Callable[[RolloutRequest, Rollout, Verdict], None],
    ) -> None:
        super().__init__()
        self._client = client
        self._method = method
        self._options = options
        self._patience = patience
        self._requests = requests
        self._n = sampling.n
        self._mask_cut_off = sampling.mask_cut_off
        self._on_group = on_group
        self._on_verdict = on_verdict
        self._lock = threading.Lock()
        #: Items that the current stream has yet to send; None is its end.
        self._items: queue.SimpleQueue[tuple[int, str, Answer] | None] = queue.SimpleQueue()
        #: Items without a verdict, by their number.
        self._pending: dict[int, tuple[int, str, Answer]] = {}
        self._closed = False
        self._rollouts: dict[int, Rollout] = {}
        self._verdicts: dict[int, dict[int, Verdict]] = defaultdict(dict)
        #: Place of the request -> its group, once all n verdicts are there.
        self.groups: dict[int, Group] = {}
        self.start()

    def put(self, rollout: Rollout) -> None:
        item = rollout.prompt_index * self._n + rollout.sample_index
        self._rollouts[item] = rollout
        with self._lock:
            self._pending[item] = (item, rollout.text, self._requests[rollout.prompt_index].answer)
            self._items.put(self._pending[item])

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._items.put(None)

    def _open_stream(self) -> Iterator[tuple[int, Verdict]]:
        """Return a stream of all pending items and those put later; end the previous stream's input."""
        with self._lock:
            self._items.put(None)
            self._items = queue.SimpleQueue()
            for waiting in self._pending.values():
                self._items.put(waiting)
            if self._closed:
                self._items.put(None)
            items = iter(self._items.get, None)
            return self._client.verify_stream(items, method=self._method, options=self._options)

    def _recover(self, error: ExtraError) -> None:
        if not self._patience:
            raise error
        self._client.wait_for_ready(self._patience)

    def _work(self) -> None:
        for item, verdict in retried_stream(self._open_stream, self._recover):
            with self._lock:
                del self._pending[item]
            place, sample = divmod(item, self._n)
            self._on_verdict(self._requests[place], self._rollouts[item], verdict)
            verdicts = self._verdicts[place]
            verdicts[sample] = verdict
            if len(verdicts) == self._n:
                self._complete(place, verdicts)

    def _complete(self, place: int, verdicts: dict[int, Verdict]) -> None:
        samples = range(self._n)
        rollouts = [self._rollouts.pop(place * self._n + sample) for sample in samples]
        found = [verdicts[sample] for sample in samples]
        group = Group(self._requests[place], rollouts, found, self._mask_cut_off)
        self.groups[place] = group
        self._on_group(place, group)


class _Handover(_Worker):
    """Calls `on_group` with complete groups in order of their places."""

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
        next_place = 0
        for place, group in iter(self._complete.get, None):
            waiting[place] = group
            while next_place in waiting:
                self._on_group(next_place, waiting.pop(next_place))
                next_place += 1
