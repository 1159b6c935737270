"""The verification domain: validate an item, decide it at once or by the cache, or hand it to a worker.

A response with several reference answers is as many items, whose verdicts `combined` joins.
A `VerificationCall` holds the items of one request that need a worker. Closing it cancels those that still
wait or run. Everything here belongs to one thread (the event loop's) and takes microseconds; slow work
happens in the workers.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NamedTuple

import structlog

from extra_rl.references import MAX_ITEM_CHARACTERS, is_missing
from extra_rl.vocabulary import Method, References, UnparseableSide, VerdictStatus
from extra_services.errors import InvalidInput
from extra_services.verification import custom, instruments, quick
from extra_services.verification.cache import VerdictCache
from extra_services.verification.code import CodeExecution, CodeItem, judge_code
from extra_services.verification.extraction import reference_answer
from extra_services.verification.fair_queue import CallQueue
from extra_services.verification.judge import judge, judge_question
from extra_services.verification.pool import TaskFinished, TaskOutcome, TaskTimedOut, WorkerPool
from extra_services.verification.quick import Question
from extra_services.verification.verdict import ComparisonOptions, Verdict, VerificationItem, combined

log = structlog.get_logger()

#: Reference answers of one response.
MAX_REFERENCES = 100
_LIST_METHODS = (Method.MATH, Method.AUTO)
_EACH_METHODS = (Method.CUSTOM, Method.CODE)
#: Largest relative difference between a number and its 32-bit form.
_FLOAT32 = 2.0**-23


class PendingItem(NamedTuple):
    """An item that needs a worker."""

    item: VerificationItem
    #: None if the worker must extract the answers too.
    asked: Question | None


class DecidedItem(NamedTuple):
    """A response as far as it is decided at once: one verdict or pending item for each reference answer."""

    parts: Sequence[Verdict | PendingItem]
    references: References = References.ANY

    @property
    def pending(self) -> list[PendingItem]:
        """Return the parts that need a worker, in order."""
        return [part for part in self.parts if isinstance(part, PendingItem)]

    def verdict(self, finished: Iterator[Verdict]) -> Verdict:
        """Return the verdict on the response; the verdicts on its pending parts are next in `finished`."""
        verdicts = [part if isinstance(part, Verdict) else next(finished) for part in self.parts]
        return verdicts[0] if len(verdicts) == 1 else combined(verdicts, self.references)


class Verifier:
    """Verify items on the fast path and in the workers of `pool`.

    Args:
        pool: Started workers.
        timeout_seconds: Longest execution of an item, and the default.
        cache_size: Verdicts that are kept.
        code_execution: Whether the method CODE is on, and how.
    """

    def __init__(
        self,
        pool: WorkerPool,
        timeout_seconds: float,
        cache_size: int,
        code_execution: CodeExecution = CodeExecution.OFF,
    ) -> None:
        self._pool = pool
        self._timeout_seconds = timeout_seconds
        self._cache = VerdictCache(cache_size)
        self.code_execution = code_execution

    def call(self) -> "VerificationCall":
        """Return a new call, for use in a `with` statement."""
        return VerificationCall(self._pool, self.code_execution)

    def timeout(self, wanted: float | None) -> float:
        """Return the time limit of an item in seconds.

        Raises:
            InvalidInput: `wanted` is out of range.
        """
        if wanted is None:
            return self._timeout_seconds
        # The message has 32 bits for it: the server's own limit may arrive a little larger.
        if not 0 < wanted <= self._timeout_seconds * (1 + _FLOAT32):
            text = f"must be above 0 and at most the server's {self._timeout_seconds:g} s, not {wanted:g}"
            raise InvalidInput("timeout_seconds", text)
        return min(wanted, self._timeout_seconds)

    def check(self, method: Method, options: ComparisonOptions, path: str) -> None:
        """Check the request's conventions for an item, which are the caller's choice and not data.

        Args:
            method: Of the item.
            options: Of the item.
            path: Its place in the request, for the error.

        Raises:
            InvalidInput: No item can be verified so.
        """
        for name in ("relative_tolerance", "absolute_tolerance"):
            tolerance = getattr(options, name)
            if not (math.isfinite(tolerance) and tolerance >= 0):
                raise InvalidInput(f"{path}options.{name}", f"must be at least 0 and finite, not {tolerance}")
        if options.references is References.ALL and method not in _LIST_METHODS + _EACH_METHODS:
            raise InvalidInput(f"{path}options.references", f"'all' is not possible with the method {method}")
        if method is Method.CUSTOM and options.verifier not in custom.known():
            names = ", ".join(sorted(custom.known())) or "none"
            text = f"no verifier {options.verifier!r} in group {custom.GROUP}; installed are: {names}"
            raise InvalidInput(f"{path}options.verifier", text)
        if method is Method.CODE and self.code_execution is CodeExecution.OFF:
            text = "this server executes no code: start it with --code-execution=sandbox"
            raise InvalidInput(f"{path}method", text)

    def decide(
        self, response: str, answers: Sequence[str], method: Method, options: ComparisonOptions
    ) -> DecidedItem:
        """Decide a response as far as the fast path and the cache can.

        An item that can never be verified gets its verdict here too.

        Args:
            response: What the model wrote.
            answers: One reference answer or more.
            method: Comparison; `check` has accepted it with these options.
            options: Conventions.
        """
        if refused := _refused(response, answers):
            return DecidedItem([refused])
        if options.references is References.ALL and method in _LIST_METHODS and len(answers) > 1:
            answers, method = [", ".join(map(reference_answer, answers))], Method.MATH
        parts = [self._decide(VerificationItem(response, each, method, options)) for each in answers]
        if len(parts) > 1 and options.references is References.ANY:
            verdicts = (part for part in parts if isinstance(part, Verdict))
            if right := next((each for each in verdicts if each.status is VerdictStatus.CORRECT), None):
                return DecidedItem([right])
        return DecidedItem(parts, options.references)

    def _decide(self, item: VerificationItem) -> Verdict | PendingItem:
        started = time.perf_counter()
        if item.method in _EACH_METHODS or len(item.response) + len(item.answer) > quick.MAX_LENGTH:
            return PendingItem(item, None)
        try:
            asked = quick.question(item)
            decided = quick.decide(asked)
        except Exception:
            # A text on which the fast path fails must not fail its neighbours: a worker may fail on it.
            log.exception("the fast path failed")
            return PendingItem(item, None)
        if decided:
            return decided.with_times(0.0, time.perf_counter() - started)
        known = self._cache.get(asked)
        return known._replace(cached=True).with_times(0.0, 0.0) if known else PendingItem(item, asked)

    def require_room(self, count: int) -> None:
        """Check that `count` more items may wait for a worker.

        Raises:
            Overloaded: There is no room now.
            InvalidInput: There is never room for so many.
        """
        self._pool.queue.require_room(count)

    def finish(self, pending: PendingItem, outcome: TaskOutcome, timeout: float) -> Verdict:
        """Return the verdict on an item from the outcome of its task; `timeout` is its limit in seconds."""
        self._observe(outcome)
        if isinstance(outcome.end, TaskFinished):
            decided: Verdict = outcome.end.value
            if pending.asked:
                self._cache.put(pending.asked, decided)
        elif isinstance(outcome.end, TaskTimedOut):
            text = f"undecided after {timeout:g} s of execution"
            decided = _undecided(pending, VerdictStatus.TIMEOUT, "time_limit", text)
        else:
            decided = _undecided(pending, VerdictStatus.ERROR, "worker", outcome.end.reason)
        return decided.with_times(outcome.queue_seconds, outcome.execution_seconds)

    def watch(self) -> None:
        """Connect the gauges of `instruments` to this verifier."""
        queue = self._pool.queue
        instruments.ITEMS_WAITING.set_function(lambda: queue.waiting)
        instruments.ITEMS_RUNNING.set_function(lambda: queue.running)
        instruments.QUEUE_LIMIT.set(queue.capacity)
        instruments.WORKERS.set_function(lambda: len(self._pool.worker_ids()))
        instruments.CACHED_VERDICTS.set_function(lambda: len(self._cache))

    def _observe(self, outcome: TaskOutcome) -> None:
        executed = outcome.execution_seconds
        stages = instruments.STAGES
        stages.ended("queue", outcome.queue_seconds, ago=executed)
        stages.ended("execute", executed)
        if isinstance(outcome.end, TaskFinished):
            for timing in outcome.end.timings:
                stages.ended(timing.stage, timing.seconds, ago=executed - timing.end)


def _refused(response: str, answers: Sequence[str]) -> Verdict | None:
    """Return the verdict on an item that can never be verified, None for others."""
    if any(map(is_missing, answers)):
        text = "there is no reference answer: it is blank, or stands for a missing value"
        return Verdict(VerdictStatus.UNPARSEABLE, "reference", UnparseableSide.ANSWER, detail=text)
    if len(answers) > MAX_REFERENCES:
        text = f"there are {len(answers)} reference answers, more than {MAX_REFERENCES}"
        return Verdict(VerdictStatus.ERROR, "invalid", detail=text)
    longest = max(map(len, (response, *answers)))
    if longest > MAX_ITEM_CHARACTERS:
        text = f"the response or an answer has {longest:,} characters, more than {MAX_ITEM_CHARACTERS:,}"
        return Verdict(VerdictStatus.ERROR, "invalid", detail=text)
    return None


def _undecided(pending: PendingItem, status: VerdictStatus, rule: str, detail: str) -> Verdict:
    """Return an undecided verdict, with both sides described if the fast path has read them."""
    if pending.asked is None:
        return Verdict(status, rule, detail=detail)
    return quick.described(pending.asked)._replace(status=status, rule=rule, detail=detail)


class VerificationCall:
    """The items of one request that need a worker; leaving its `with` block cancels the unfinished ones."""

    def __init__(self, pool: WorkerPool, code_execution: CodeExecution) -> None:
        self._pool = pool
        self._code_execution = code_execution
        self._queue = CallQueue()
        self._open: set[Future[TaskOutcome]] = set()

    def __enter__(self) -> "VerificationCall":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for future in list(self._open):
            future.cancel()

    def submit(self, items: Sequence[PendingItem], timeout: float) -> list["Future[TaskOutcome]"]:
        """Queue items for the workers.

        Args:
            items: Pending parts of `Verifier.decide`.
            timeout: Seconds of execution of each.

        Returns:
            A future for each item, in order, whose result goes to `Verifier.finish`.

        Raises:
            Overloaded: There is no room now; nothing was started.
        """
        if not items:  # as for most items of a stream
            return []
        futures = self._pool.submit(self._queue, [self._task(each, timeout) for each in items], timeout)
        for future in futures:
            self._open.add(future)
            future.add_done_callback(self._open.discard)
        return futures

    def _task(self, pending: PendingItem, timeout: float) -> tuple[Callable[[Any], Verdict], Any]:
        if pending.item.method is Method.CODE:
            sandboxed = self._code_execution is CodeExecution.SANDBOX
            return judge_code, CodeItem(pending.item.response, pending.item.answer, timeout, sandboxed)
        return (judge_question, pending.asked) if pending.asked else (judge, pending.item)
