"""The transformers engine: continuous batching in a thread of the server's process.

The engine runs one loop: it admits waiting samples while rows are free, takes one step of the whole batch,
and retires the samples that ended. Samples join and leave between steps, so none waits for the longest. Each
distinct prompt + prefix of a request is computed once, and its keys and values are copied into the rows of
its n samples (see `rows`). The batch does not influence which tokens are drawn (see `sampling`): where two
candidates are so close that rounding might decide, the position is computed again for that sample alone.

Only the loop's thread uses the model and the batch. Other threads give it requests, cancellations and updates
under one lock, and receive events through each request's `deliver`. New weights are loaded and checked by the
thread that delivers them; the loop only swaps them between two steps and probes them. Then it drops
everything that was computed with older weights, and computes it again for the samples that continue.

Memory for keys and values is bounded before it is used: a sample joins only if all samples in the batch can
grow to their limits within `kv_cache_bytes`. If memory runs out nevertheless, the latest request fails and
the others continue.
"""

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
import transformers

from extra_rl.vocabulary import FinishReason, InFlight
from extra_services.errors import Overloaded, ServiceError, Unavailable
from extra_services.generation import weights
from extra_services.generation.engines.protocol import EngineLoad, WeightUpdate, check_version, until_complete
from extra_services.generation.engines.transformers.model_runner import (
    PREFILL_TOKENS,
    LoadedWeights,
    ModelRunner,
)
from extra_services.generation.engines.transformers.prefix_cache import PrefixCache
from extra_services.generation.engines.transformers.rows import Prefill, Rows
from extra_services.generation.engines.transformers.samples import Deliver, PromptGroup, Sample, Ticket
from extra_services.generation.engines.transformers.sampling import Drawn, RowParameters, draw, noise_keys
from extra_services.generation.requests import (
    EngineLimits,
    GenerationRequest,
    accept,
    check_min_version,
    check_request,
    check_room,
)
from extra_services.generation.rollouts import GenerationEvent
from extra_services.generation.weights import Delivery

log = structlog.get_logger()

#: A prompt costs about as much as a step of the whole batch. So waiting prompts are computed together: when
#: one row in so many is free, or after so many steps.
ADMISSION = 4


@dataclass(frozen=True)
class TransformersOptions:
    """Options of the engine; settings.py explains them."""

    model: Path
    max_batch: int = 128
    max_prompts: int = 1024
    max_queue: int = 16384
    #: None: the model's.
    max_model_len: int | None = None
    #: Memory for the keys and values of the batch.
    kv_cache_bytes: int = 4 * 2**30
    #: Memory for the keys and values of prompts kept for later requests.
    prefix_cache_bytes: int = 2**29
    #: None: float32 on the CPU, the saved one elsewhere.
    dtype: torch.dtype | None = None
    #: None: cuda where there is one.
    device: str | None = None
    #: CPU threads of torch; 0: torch's default.
    threads: int = 0
    #: Whether torch.compile is used.
    compiled: bool = False
    #: Seed of the seeds of requests that have none; None: from the system.
    seed: int | None = None
    #: Version of the weights in `model`.
    policy_version: int = 0


@dataclass(frozen=True)
class _PendingUpdate:
    """Loaded weights for the loop to swap in."""

    delivered: LoadedWeights
    policy_version: int
    in_flight: InFlight
    #: Receives the largest difference on the probe.
    done: Future[float]


class TransformersEngine:
    """An `Engine` that runs the model in `options.model`.

    Args:
        options: Options of the engine.
        decode: Converts token ids to the text in which stop strings are sought.

    Raises:
        FailedPrecondition: The folder does not hold a model that this engine can run.
    """

    name = "transformers"
    version = transformers.__version__

    def __init__(self, options: TransformersOptions, decode: Callable[[list[int]], str]) -> None:
        self._options = options
        self._decode = decode
        self._runner = ModelRunner(options.model, options.dtype, options.device, options.compiled)
        self._device = self._runner.device
        # Each parameter in float32, and tied ones twice.
        self.max_weight_bytes = 8 * self._runner.parameter_count
        self.eos_token_ids = weights.eos_token_ids(options.model, self._runner.config)
        self._changed = threading.Condition()
        self._waiting: deque[PromptGroup] = deque()
        self._queued = 0
        self._update: _PendingUpdate | None = None
        self._updating = threading.Lock()
        self.last_update = WeightUpdate(options.policy_version, options.policy_version, 0.0, 0.0)
        self._closed = False
        self._seeds = np.random.Generator(np.random.Philox(options.seed))
        self._rows = Rows(options.max_batch)
        self._samples: list[Sample] = []
        self._parameters: RowParameters | None = None
        #: Steps for which prompts have waited although a row was free.
        self._steps_waited = 0
        self._cache = PrefixCache(options.prefix_cache_bytes)
        #: Requests that the loop works on now: if memory runs out, one of them is the cause.
        self._working: list[Ticket] = []
        self._kv_tokens = options.kv_cache_bytes // self._runner.kv_bytes_per_token
        window = options.max_model_len or self._runner.config.max_position_embeddings
        max_model_len = min(window, self._kv_tokens)
        self.limits = EngineLimits(
            self._runner.vocab_size, max_model_len, options.max_prompts, options.max_queue
        )
        self._thread = threading.Thread(target=self._run, name="generation-engine", daemon=True)
        self._thread.start()

    # Called by any thread.

    @property
    def policy_version(self) -> int:
        """Version of the weights served now."""
        return self.last_update.policy_version

    def load(self) -> EngineLoad:
        """Return the current load."""
        samples = list(self._samples)
        return EngineLoad(
            waiting=self._queued,
            running=len(samples),
            slots=self._rows.max_rows,
            kv_tokens=sum(len(sample.prompt) + len(sample.tokens) for sample in samples),
            kv_limit_tokens=self._kv_tokens,
            prefix_cache_bytes=self._cache.bytes,
        )

    def submit(self, request: GenerationRequest, deliver: Deliver) -> Ticket:
        """Queue `request`.

        Args:
            request: The request.
            deliver: Called in the engine's thread with the events of every prompt and sample.

        Raises:
            InvalidInput: A parameter of the request is bad.
            FailedPrecondition: The weights are older than min_policy_version.
            Overloaded: The queue is full.
            Unavailable: The engine is shutting down.
        """
        check_request(request, len(request.prompts), self.limits)
        check_min_version(self.policy_version, request.min_policy_version)
        with self._changed:
            seed = request.seed if request.seed is not None else int(self._seeds.integers(2**63))
            ticket = Ticket(request, seed, deliver)
            groups, refused = self._groups(ticket)
            count = sum(len(group.waiting) for group in groups)
            if self._closed:
                raise Unavailable("the engine is shutting down")
            check_room(self._queued, count, self.limits)
            if refused:
                deliver(refused)
            self._waiting.extend(groups)
            self._queued += count
            self._changed.notify_all()
        return ticket

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[list[GenerationEvent], None]:
        """Yield events as they occur; closing the generator, at any time, ends the request's work."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[list[GenerationEvent] | Exception] = asyncio.Queue()
        ticket = self.submit(request, lambda entry: _call(loop, events.put_nowait, entry))
        try:
            async for entry in until_complete(request, events):
                yield entry
        finally:
            ticket.cancel()
            with self._changed:
                self._changed.notify_all()

    async def update_weights(
        self, delivery: Delivery, policy_version: int, in_flight: InFlight
    ) -> WeightUpdate:
        """Serve delivered weights; see `protocol.Engine`."""
        return await asyncio.shield(
            asyncio.to_thread(self._update_weights, delivery, policy_version, in_flight)
        )

    async def readiness(self) -> AsyncIterator[bool]:
        """Yield True once: the engine is ready from the start, and runs in the server's own process."""
        yield True

    async def close(self) -> None:
        """End the running requests with Unavailable, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        await asyncio.to_thread(self._thread.join)

    def _groups(self, ticket: Ticket) -> tuple[list[PromptGroup], list[GenerationEvent]]:
        request = ticket.request
        accepted, refused = accept(request, self.limits)
        # Equal prompts share a group, so that the prompt is computed once for all of their samples.
        groups: dict[tuple[bytes, int], PromptGroup] = {}
        for prompt in accepted:
            key = prompt.tokens.tobytes(), prompt.limit
            group = groups.setdefault(key, PromptGroup(ticket, prompt.tokens, deque(), prompt.limit))
            group.waiting.extend((prompt.index, sample) for sample in range(request.n))
        return list(groups.values()), refused

    # The loop: called by the engine's thread only.

    def _run(self) -> None:
        if self._options.threads:
            torch.set_num_threads(self._options.threads)
        with torch.inference_mode():
            while self._wait_for_work():
                try:
                    self._turn()
                except Exception as error:
                    self._fail(error)
        self._fail_all(Unavailable("the engine is shutting down"))

    def _turn(self) -> None:
        self._drop_cancelled()
        if self._update is not None and not (self._update.in_flight is InFlight.WAIT and self._samples):
            self._apply_update()
        if self._update is None and self._may_admit():
            self._admit()
        if self._samples:
            self._step()

    def _may_admit(self) -> bool:
        """Return whether enough rows are free or prompts have waited long enough; see `ADMISSION`."""
        free = self._rows.max_rows - len(self._samples)
        self._steps_waited = self._steps_waited + 1 if self._waiting and free else 0
        if free * ADMISSION < self._rows.max_rows and self._steps_waited < ADMISSION:
            return False
        self._steps_waited = 0
        return True

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._closed or self._waiting or self._samples or self._update):
                self._changed.wait()
            return not self._closed

    def _drop_cancelled(self) -> None:
        with self._changed:
            if any(group.ticket.cancelled for group in self._waiting):
                self._waiting = deque(group for group in self._waiting if not group.ticket.cancelled)
                self._queued = sum(len(group.waiting) for group in self._waiting)
        self._keep([not sample.ticket.cancelled for sample in self._samples])

    def _admit(self) -> None:
        """Compute the first waiting prompts for whose samples there is room, and let these join."""
        groups: list[PromptGroup] = []
        free, longest = self._rows.max_rows - len(self._samples), 0
        with self._changed:
            for group in itertools.islice(self._waiting, max(0, free)):
                longest = max(longest, len(group.tokens))
                if groups and (free <= 0 or longest * (len(groups) + 1) > PREFILL_TOKENS):
                    break
                if self._room(group) == 0:
                    break
                groups.append(group)
                free -= len(group.waiting)
        self._working = [group.ticket for group in groups]
        self._compute([group for group in groups if group.computed is None])
        for group in groups:
            self._join(group)

    def _room(self, group: PromptGroup) -> int:
        """Return how many samples of `group` may join so that all can grow to their limits."""
        longest = max((len(sample.prompt) + sample.limit for sample in self._samples), default=0)
        longest = max(longest, len(group.tokens) + group.limit)
        rows = min(self._rows.max_rows, self._kv_tokens // longest)
        return max(0, min(len(group.waiting), rows - len(self._samples)))

    def _compute(self, groups: list[PromptGroup]) -> None:
        """Find the prompts of the groups in the cache, and compute the others."""
        missing = []
        for group in groups:
            if group.ticket.request.prompt_scores:
                self._score(group)
                continue
            group.computed = self._cache.whole(group.tokens)
            group.cached_tokens = 0 if group.computed is None else len(group.tokens)
            start = None if group.computed else self._cache.longest_start(group.tokens)
            # Prompts with a known start are computed one by one: that is faster if most of the prompt is
            # known.
            if start is not None and 2 * start[1] >= len(group.tokens):
                started = time.monotonic()
                group.computed = self._runner.continue_sequence(group.tokens, *start)
                group.prefill_seconds = time.monotonic() - started
                group.cached_tokens = start[1]
            elif group.computed is None:
                missing.append(group)
        if missing:
            started = time.monotonic()
            computed = self._runner.prefill([group.tokens for group in missing])
            for group, sequence in zip(missing, computed, strict=True):
                group.computed, group.prefill_seconds = sequence, time.monotonic() - started
        for group in groups:
            assert group.computed is not None
            self._cache.add(group.computed)

    def _score(self, group: PromptGroup) -> None:
        """Compute a prompt with the log-probabilities of its tokens, which no cache has."""
        started = time.monotonic()
        group.computed, group.scores = self._runner.score(group.tokens)
        group.prefill_seconds = time.monotonic() - started

    def _join(self, group: PromptGroup) -> None:
        """Give rows to as many samples of the group as there is room for, and draw their first tokens."""
        assert group.computed is not None
        count = self._room(group)
        if count == 0:
            return
        self._working = [group.ticket]
        samples = [self._sample(group, *place) for place in itertools.islice(group.waiting, count)]
        self._rows.join(group.computed, count)
        self._samples += samples
        self._parameters = None
        with self._changed:
            for _ in samples:
                group.waiting.popleft()
            self._queued -= count
            if not group.waiting:
                self._waiting.remove(group)
        self._draw(group.computed.logits.expand(count, -1), samples, self._row_parameters(samples))
        self._retire()

    def _sample(self, group: PromptGroup, prompt_index: int, sample_index: int) -> Sample:
        now = time.monotonic()
        return Sample(
            ticket=group.ticket,
            prompt_index=prompt_index,
            sample_index=sample_index,
            prompt=group.tokens,
            limit=group.limit,
            stop_ids=frozenset((*self.eos_token_ids, *group.ticket.request.sampling.stop_token_ids)),
            keys=noise_keys(
                group.ticket.seed, group.ticket.request.seed_index(prompt_index), sample_index, group.limit
            ),
            policy_version=self.policy_version,
            cached_tokens=group.cached_tokens,
            queue_seconds=max(0.0, now - group.ticket.submitted - group.prefill_seconds),
            prefill_seconds=group.prefill_seconds,
            joined=now,
            prompt_scores=group.scores,
        )

    def _step(self) -> None:
        self._working = [sample.ticket for sample in self._samples]
        lengths = np.array([len(sample.prompt) + len(sample.tokens) - 1 for sample in self._samples])
        at = torch.from_numpy(lengths).to(self._device)
        ids = torch.tensor([[sample.tokens[-1]] for sample in self._samples], device=self._device)
        self._rows.prepare(at)
        logits = self._runner.forward(ids, at[:, None], self._rows, 1)[:, 0]
        if self._parameters is None:
            self._parameters = self._row_parameters(self._samples)
        self._draw(logits, self._samples, self._parameters)
        self._retire()

    def _draw(self, logits: torch.Tensor, samples: list[Sample], parameters: RowParameters) -> None:
        """Draw the next token of each sample from logits float32 [samples, vocabulary]."""
        keys = np.stack([sample.keys[len(sample.tokens)] for sample in samples])
        drawn = draw(logits, parameters, torch.from_numpy(keys).to(self._device), _banned(samples))
        if self._runner.dtype is torch.float32:
            self._break_ties(drawn, samples)
        columns = (drawn.tokens, drawn.logprobs, drawn.entropies, drawn.raw_entropies)
        by_ticket: dict[Ticket, list[GenerationEvent]] = {}
        if drawn.truncated is not None:
            for sample, numbers in zip(samples, drawn.truncated.tolist(), strict=True):
                if sample.ticket.request.truncated:
                    sample.truncated.append(numbers)
        for sample, *values in zip(samples, *(column.tolist() for column in columns), strict=True):
            sample.add(*values, self._decode)
            if sample.ticket.request.stream_tokens:
                by_ticket.setdefault(sample.ticket, []).append(sample.last_token())
        for ticket, events in by_ticket.items():
            ticket.deliver(events)

    def _break_ties(self, drawn: Drawn, samples: list[Sample]) -> None:
        """Draw again, from logits computed for the sample alone, where rounding in the batch might decide."""
        for row in drawn.tied.nonzero()[:, 0].tolist():
            sample = samples[row]
            tokens = np.concatenate([sample.prompt, np.array(sample.tokens, np.int32)])
            logits = self._runner.forward(
                torch.from_numpy(tokens).to(self._device, torch.int64)[None], None, Prefill(), 1
            )
            key = torch.from_numpy(sample.keys[len(sample.tokens)][None]).to(self._device)
            alone = draw(logits[:, 0], self._row_parameters([sample]), key, _banned([sample]))
            drawn.tokens[row], drawn.logprobs[row] = alone.tokens[0], alone.logprobs[0]
            drawn.entropies[row], drawn.raw_entropies[row] = alone.entropies[0], alone.raw_entropies[0]
            if drawn.truncated is not None and alone.truncated is not None:
                drawn.truncated[row] = alone.truncated[0]

    def _row_parameters(self, samples: list[Sample]) -> RowParameters:
        requests = [sample.ticket.request for sample in samples]
        raw = any(request.raw_entropies for request in requests)
        truncated = any(request.truncated for request in requests)
        rows = [request.sampling for request in requests]
        return RowParameters.of(rows, raw, self.limits.vocab_size, self._device, truncated)

    def _retire(self) -> None:
        """Remove the samples that ended from the batch, and deliver them by request."""
        ended = [sample for sample in self._samples if sample.ended is not None]
        if not ended:
            return
        now = time.monotonic()
        by_ticket: dict[Ticket, list[GenerationEvent]] = {}
        for sample in ended:
            by_ticket.setdefault(sample.ticket, []).append(sample.rollout(now))
        self._keep([sample.ended is None for sample in self._samples])
        for ticket, events in by_ticket.items():
            log.debug("samples ended", samples=len(events), request_id=ticket.request_id)
            ticket.deliver(events)

    def _keep(self, kept: list[bool]) -> None:
        """Leave in the batch the samples marked in `kept`; the last ones fill the gaps."""
        if all(kept):
            return
        count = sum(kept)
        target = [row for row in range(count) if not kept[row]]
        source = [row for row in range(count, len(kept)) if kept[row]]
        self._rows.keep(target, source, count)
        for to, origin in zip(target, source, strict=True):
            self._samples[to] = self._samples[origin]
        del self._samples[count:]
        self._parameters = None

    def _fail(self, error: Exception) -> None:
        """End the requests that `error` concerns; the loop continues with the others."""
        if _out_of_memory(error) and self._working:
            self._end({max(self._working, key=lambda ticket: ticket.submitted)}, error)
        else:
            self._end({*self._working, *(sample.ticket for sample in self._samples)}, error)

    def _end(self, tickets: set[Ticket], error: Exception) -> None:
        log.error("requests failed", request_ids=[ticket.request_id for ticket in tickets], exc_info=error)
        if _out_of_memory(error):
            text = "out of memory; send fewer or shorter prompts, or set a smaller kv_cache_gib"
            error = Overloaded(text, retry_after_seconds=5.0)
        for ticket in tickets:
            ticket.cancel()
            ticket.deliver(error)
        self._drop_cancelled()

    def _fail_all(self, error: ServiceError) -> None:
        with self._changed:
            tickets = {group.ticket for group in self._waiting} | {sample.ticket for sample in self._samples}
            self._waiting.clear()
            if self._update is not None:
                self._update.done.set_exception(error)
        for ticket in tickets:
            ticket.deliver(error)

    # Weights.

    def _update_weights(self, delivery: Delivery, policy_version: int, in_flight: InFlight) -> WeightUpdate:
        with self._updating:
            previous = self.policy_version
            if policy_version == previous:
                return self.last_update
            check_version(previous, policy_version)
            started = time.monotonic()
            delivered = self._runner.load_weights(delivery)
            update = _PendingUpdate(delivered, policy_version, in_flight, Future())
            with self._changed:
                if self._closed:
                    raise Unavailable("the engine is shutting down")
                self._update = update
                self._changed.notify_all()
            difference = update.done.result()
            # The loop has set the version; the seconds are known only here.
            self.last_update = WeightUpdate(policy_version, previous, difference, time.monotonic() - started)
            return self.last_update

    def _apply_update(self) -> None:
        update, self._update = self._update, None
        assert update is not None
        self._working = []
        try:
            difference = self._runner.replace_weights(update.delivered)
        except Exception as error:
            update.done.set_exception(error)
            return
        self.last_update = WeightUpdate(update.policy_version, self.policy_version, difference, 0.0)
        self._cache.clear()
        with self._changed:
            for group in self._waiting:
                group.computed, group.cached_tokens = None, 0
        update.done.set_result(difference)
        if update.in_flight is InFlight.ABORT:
            for sample in self._samples:
                sample.ended = FinishReason.ABORT
            self._retire()
        else:
            self._recompute()

    def _recompute(self) -> None:
        """Compute the keys and values of the batch again, and record the change of weights per sample."""
        samples, self._samples, self._parameters = self._samples, [], None
        self._rows.keep([], [], 0)
        if not samples:
            return
        try:
            for sequence in self._runner.prefill([sample.written for sample in samples]):
                self._rows.join(sequence, 1)
        except Exception as error:
            self._rows.keep([], [], 0)
            self._end({sample.ticket for sample in samples}, error)
            return
        for sample in samples:
            sample.policy_changes.append((len(sample.tokens), self.policy_version))
        self._samples = samples


def _banned(samples: list[Sample]) -> tuple[list[int], list[int]] | None:
    """Return the stop ids of the rows that may not end yet, as `draw` takes them, or None."""
    rows = [row for row, sample in enumerate(samples) if not sample.may_stop]
    pairs = [(row, token) for row in rows for token in samples[row].stop_ids]
    return ([row for row, _ in pairs], [token for _, token in pairs]) if pairs else None


def _out_of_memory(error: Exception) -> bool:
    # On a CPU torch raises a RuntimeError with this text.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[Any], None], argument: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, argument)
    except RuntimeError:  # the loop is closed, so nobody waits for the events
        log.info("events of a request came after its event loop was closed")
