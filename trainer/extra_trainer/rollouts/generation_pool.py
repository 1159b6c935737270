"""Several generation services that serve one policy, used as one.

The groups of a step wait in one queue. Each replica gets half an equal share of them at once, so that its
batch is full, and one more whenever one is finished: a fast replica takes more. A group stays on its
replica, so that its prompt is computed once. The tokens of a group do not depend on the replica: draws
depend on the seed and on the prompt's place in the step, which is sent along (`seed_indices`). A replica
that stops answering, or serves older weights than requested, is not used any more: its unfinished groups go
back into the queue, a warning is logged, and the next delivery of weights tries it again. With a single
replica, calls go straight to its client; if it stops answering, it is waited for, gets the last weights
again, and is asked for the missing samples. Samples of older weights than asked for are refused and drawn
again (`refused`).
"""

import asyncio
import contextlib
import contextvars
import dataclasses
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from extra_client import (
    CancelledError,
    ExtraError,
    FailedPreconditionError,
    GenerationClient,
    GenerationInfo,
    InFlight,
    InvalidArgumentError,
    Prompt,
    PromptError,
    Rollout,
    UnavailableError,
    WeightsUpdate,
    aio,
)
from extra_trainer.rollouts.outages import retried_call, retried_stream

logger = logging.getLogger(__name__)

#: Errors of a replica that is gone, draining, or serves older weights; other replicas may still serve.
LOSSES = (UnavailableError, CancelledError, FailedPreconditionError)

Result = TypeVar("Result")


class GenerationPool:
    """Several generation services used as one; a context manager.

    Args:
        targets: Addresses of the services.
        weights: How `deliver` transfers weights: "folder", which the services read from a disk that they
            share with the caller, or "stream", which sends the tensors.
        patience: Seconds to wait for a single service that does not answer.

    Raises:
        ValueError: If `targets` is empty or names an address twice.
    """

    def __init__(
        self,
        targets: Sequence[str],
        weights: Literal["folder", "stream"] = "folder",
        patience: float = 0.0,
    ) -> None:
        if not targets or len(set(targets)) < len(targets):
            raise ValueError(f"targets must be different addresses, at least one, not {list(targets)}")
        # With other replicas to use, one that does not answer is not waited for.
        self._patience = patience if len(targets) == 1 else 0.0
        self._clients = {
            target: GenerationClient(target, patience=self._patience or None) for target in targets
        }
        #: Root, name and version of the weights delivered last; None while they are being replaced.
        self._delivered: tuple[Path, str, int] | None = None
        self._weights = weights
        # Numbers the calls, each of which starts with another replica.
        self._calls = itertools.count()
        # Calls in progress. Weights must not change during one: its groups would be of two policies.
        self._calls_in_progress = 0
        self._call_ended = threading.Condition()
        #: Address of each replica that is not used -> the reason.
        self.lost: dict[str, str] = {}
        #: Samples asked for again because a replica had older weights than allowed.
        self.refused = 0
        self._counting = threading.Lock()

    @property
    def serving(self) -> list[str]:
        """Addresses of the replicas in use."""
        return [target for target in self._clients if target not in self.lost]

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_for_ready(self, timeout: float = 60.0) -> None:
        """Wait until all replicas serve.

        Raises:
            UnavailableError: If one does not within `timeout` seconds; the message names it.
        """
        with ThreadPoolExecutor(len(self._clients)) as threads:
            list(threads.map(lambda client: client.wait_for_ready(timeout), self._clients.values()))

    def check_vocabulary(self, vocabulary: dict[str, int]) -> None:
        """Check that every replica that answers has this vocabulary.

        Raises:
            FailedPreconditionError: If one has another.
        """
        self._each(lambda client: client.check_vocabulary(vocabulary))

    def policy_version(self) -> int:
        """Return the newest policy version that a replica serves."""
        return max(info.policy_version for info in self._each(lambda client: client.get_info()).values())

    def get_info(self) -> GenerationInfo:
        """Return the description of the first replica that answers."""
        return next(iter(self._each(lambda client: client.get_info()).values()))

    def deliver(
        self, root: Path, name: str, policy_version: int, in_flight: InFlight = InFlight.WAIT
    ) -> WeightsUpdate:
        """Deliver new weights to all replicas, at the same time.

        A replica that does not answer is not used until a later delivery reaches it.

        Args:
            root: Folder of weights; with "folder" the services read `name` below their own weights root.
            name: Folder of safetensors files below `root`.
            policy_version: Version of these weights.
            in_flight: WAIT: calls in progress are waited for; KEEP: their samples go on with the new weights,
                and calls may begin meanwhile.

        Returns:
            The slowest update.

        Raises:
            ExtraError: Any other error of a replica, whose weights would differ from the others'.
        """

        def update(client: GenerationClient) -> WeightsUpdate:
            return retried_call(
                lambda: self._put(client, root, name, policy_version, in_flight),
                client.wait_for_ready,
                self._patience,
            )

        with self._no_calls() if in_flight is InFlight.WAIT else contextlib.nullcontext():
            try:
                updates = self._each(update)
            except (FailedPreconditionError, InvalidArgumentError) as error:
                error.message = (
                    f"the weights of version {policy_version}, in {root / name}, were refused, and older ones"
                    f" serve on: {error.message}. When the cause is mended, continue from the last checkpoint"
                    " with --resume."
                )
                error.args = (error.message,)
                raise
        for target in updates:
            if self.lost.pop(target, None):
                logger.warning("the generation service at %s serves again", target)
        self._delivered = (root, name, policy_version)
        return max(updates.values(), key=lambda update: update.seconds)

    @contextlib.contextmanager
    def _no_calls(self) -> Iterator[None]:
        """Wait until the calls in progress have ended, and let none begin inside the block."""
        with self._call_ended:
            self._call_ended.wait_for(lambda: not self._calls_in_progress)
            yield

    def begin_delivery(self) -> None:
        """Announce that the folder delivered last will be overwritten; it is not sent again."""
        self._delivered = None

    def _put(
        self,
        client: GenerationClient,
        root: Path,
        name: str,
        policy_version: int,
        in_flight: InFlight = InFlight.WAIT,
    ) -> WeightsUpdate:
        if self._weights == "folder":
            return client.update_weights(name, policy_version, in_flight)
        return client.stream_weights(_tensors(root / name), policy_version, in_flight)

    def _recover(self, client: GenerationClient, error: ExtraError) -> None:
        """Wait for the service, and deliver the last weights again if it was restarted without them."""
        if not self._patience:
            raise error
        client.wait_for_ready(self._patience)
        if self._delivered is not None and client.get_info().policy_version < self._delivered[2]:
            self._put(client, *self._delivered)
        elif isinstance(error, FailedPreconditionError):
            # The service was not restarted: the error has another cause.
            raise error

    def generate_stream(
        self,
        prompts: Sequence[Prompt],
        n: int,
        max_tokens: int,
        prefixes: Sequence[Sequence[int]],
        seed: int,
        temperature: float,
        *,
        top_p: float,
        min_policy_version: int,
        max_tokens_per_prompt: Sequence[int | None] | None = None,
    ) -> Generator[Rollout | PromptError]:
        """Generate as GenerationClient.generate_stream does, with the same tokens as a single replica.

        Raises:
            ExtraError: The error of the last replica when none is left; any error that is not in LOSSES.
        """
        options: dict[str, Any] = {
            "n": n,
            "max_tokens": max_tokens,
            "seed": seed,
            "temperature": temperature,
            "top_p": top_p,
            "min_policy_version": min_policy_version,
        }
        if len(self._clients) == 1:
            (client,) = self._clients.values()
            arrived: set[tuple[int, int]] = set()

            def missing() -> Iterator[Rollout | PromptError]:
                # The same request draws the same samples again.
                for event in client.generate_stream(
                    prompts, prefixes=prefixes, max_tokens_per_prompt=max_tokens_per_prompt, **options
                ):
                    if isinstance(event, Rollout):
                        check_version(event, min_policy_version)
                        place = (event.prompt_index, event.sample_index)
                        if place in arrived:
                            continue
                        arrived.add(place)
                    yield event

            def recover(error: ExtraError) -> None:
                self._count_refused(error, len(prompts) * n - len(arrived))
                self._recover(client, error)

            return retried_stream(missing, recover, LOSSES)
        limits = max_tokens_per_prompt or [None] * len(prompts)
        each = list(zip(prompts, prefixes, limits, strict=True))
        # Each call starts with another replica, so that simultaneous calls of one prompt are spread too.
        serving = self.serving
        first = next(self._calls) % max(1, len(serving))
        return self._distribute(
            _Distribution(each, options, serving[first:] + serving[:first], self._lose, self._count_refused)
        )

    def _distribute(self, distribution: "_Distribution") -> Generator[Rollout | PromptError]:
        with self._call_ended:
            self._calls_in_progress += 1
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(distribution.run,), name="generation-pool", daemon=True
        )
        thread.start()
        try:
            while (event := distribution.events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            distribution.stop()
            thread.join()
            with self._call_ended:
                self._calls_in_progress -= 1
                self._call_ended.notify_all()

    def _count_refused(self, error: ExtraError, samples: int) -> None:
        """Count the samples that an error leaves to be drawn again, if older weights are its cause."""
        if isinstance(error, FailedPreconditionError):
            with self._counting:
                self.refused += samples

    def _lose(self, target: str, error: Exception) -> None:
        if target not in self.lost:
            self.lost[target] = str(error)
            logger.warning(
                "the generation service at %s is passed over, %d of %d replicas serve: %s",
                target,
                len(self.serving),
                len(self._clients),
                error,
            )

    def _each(self, call: Callable[[GenerationClient], Result]) -> dict[str, Result]:
        """Call all replicas at the same time and return their answers by address.

        Replicas that do not answer are not used any more.

        Raises:
            UnavailableError: If none answers.
        """

        def attempt(client: GenerationClient) -> Result | UnavailableError:
            try:
                return call(client)
            except UnavailableError as error:
                return error

        with ThreadPoolExecutor(len(self._clients)) as threads:
            # A context for each: a context cannot be entered twice at the same time.
            running = {
                target: threads.submit(contextvars.copy_context().run, attempt, client)
                for target, client in self._clients.items()
            }
            answers = {target: answer.result() for target, answer in running.items()}
        absent = {t: answer for t, answer in answers.items() if isinstance(answer, UnavailableError)}
        if len(absent) == len(answers):
            raise next(iter(absent.values()))
        for target, error in absent.items():
            self._lose(target, error)
        return {t: answer for t, answer in answers.items() if not isinstance(answer, UnavailableError)}


class _Distribution:
    """The groups of one call, distributed over the replicas in an event loop on a thread of its own."""

    def __init__(
        self,
        groups: Sequence[tuple[Prompt, Sequence[int], int | None]],
        options: dict[str, Any],
        targets: list[str],
        lose: Callable[[str, Exception], None],
        count_refused: Callable[[ExtraError, int], None],
    ) -> None:
        #: Prompt, prefix and most new tokens of each group.
        self._groups = groups
        self._options = options
        self._left = list(targets)
        self._lose = lose
        self._count_refused = count_refused
        #: Events in order; None at the end, an exception if it ends early.
        self.events: queue.SimpleQueue[Rollout | PromptError | BaseException | None] = queue.SimpleQueue()
        #: Samples of each prompt that are in `events` already.
        self._delivered: list[set[int]] = [set() for _ in groups]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        """Generate all groups; the function of the thread."""
        try:
            asyncio.run(self._run())
            self.events.put(None)
        except BaseExceptionGroup as group:
            # The first error is the cause, the others follow from it.
            self.events.put(group.exceptions[0])
        except BaseException as error:  # raised by the thread that reads the events
            self.events.put(error)

    def stop(self) -> None:
        """Cancel the work in the replicas, from another thread; does nothing after the last event."""
        self._stopped.set()
        loop, task = self._loop, self._task
        if loop is not None and task is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:
                # The loop was closed in between: the work has ended.
                return

    async def _run(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._stopped.is_set():
            return
        if not self._left:
            raise UnavailableError("no generation service is left: all stopped answering in earlier steps")
        self._todo: asyncio.Queue[int] = asyncio.Queue()
        for index in range(len(self._groups)):
            self._todo.put_nowait(index)
        at_once = max(1, -(-len(self._groups) // (2 * len(self._left))))
        async with AsyncExitStack() as stack:
            replicas = [await stack.enter_async_context(aio.GenerationClient(t)) for t in self._left]
            async with asyncio.TaskGroup() as tasks:
                # Replicas take turns, so that the first groups are distributed evenly.
                workers = [
                    tasks.create_task(self._work(target, replica))
                    for _ in range(at_once)
                    for target, replica in zip(list(self._left), replicas, strict=True)
                ]
                await self._todo.join()
                for worker in workers:
                    worker.cancel()

    async def _work(self, target: str, replica: aio.GenerationClient) -> None:
        """Generate one group after the other on `replica`, until it fails."""
        while target in self._left:
            index = await self._todo.get()
            try:
                if target not in self._left:
                    self._todo.put_nowait(index)
                    return
                await self._serve(index, replica)
            except LOSSES as error:
                self._todo.put_nowait(index)
                self._count_refused(error, self._options["n"] - len(self._delivered[index]))
                self._give_up(target, error)
            finally:
                self._todo.task_done()

    def _give_up(self, target: str, error: ExtraError) -> None:
        if target in self._left:
            self._left.remove(target)
            self._lose(target, error)
            if not self._left:
                raise error

    async def _serve(self, index: int, replica: aio.GenerationClient) -> None:
        prompt, prefix, most = self._groups[index]
        events = replica.generate_stream(
            [prompt],
            prefixes=[prefix],
            max_tokens_per_prompt=[most],
            seed_indices=[index],
            **self._options,
        )
        async for event in events:
            if isinstance(event, Rollout):
                check_version(event, self._options["min_policy_version"])
                # Of a group that began on a failed replica, some samples arrived already: the same ones.
                if event.sample_index in self._delivered[index]:
                    continue
                self._delivered[index].add(event.sample_index)
            self.events.put(dataclasses.replace(event, prompt_index=index))


def check_version(rollout: Rollout, oldest: int) -> None:
    """Refuse a rollout of older weights than were asked for.

    Raises:
        FailedPreconditionError: It is older.
    """
    if rollout.policy_version < oldest:
        raise FailedPreconditionError(
            f"a rollout is of policy version {rollout.policy_version}, older than {oldest}"
        )


def _tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a folder's safetensors files, one at a time."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                yield name, file.get_tensor(name)
