"""The embedded engine: continuous batching of a transformers model, in a thread of its own.

One loop: admit waiting samples while rows are free, take one step of the whole batch, retire what ended.
Samples join and leave between steps, so none waits for the longest. Each distinct prompt + prefix of a
request is computed once, and its keys and values are copied into the rows of its n samples (see `rows`).
Tokens are drawn so that the batch cannot influence them (see `sampling`): where two candidates are so close
that the rounding of the batch might decide, the position is computed again for that sample alone.

Only the loop's thread touches model and batch. Other threads hand it requests, cancellations and updates
under one lock, and hear from it through each request's `deliver`. New weights are loaded and checked by
the thread that brings them; the loop only swaps them between two steps, and probes. Whatever was computed
with older weights is dropped then, and computed again for the samples that go on.

Memory for keys and values is bounded before it is used: a sample joins only if all samples in the batch can
grow to their limits within `kv_cache_bytes`. Should memory run out all the same, the request that came last
fails and the others go on.
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
from numpy.typing import NDArray

from extra_services.errors import FailedPrecondition, Overloaded, ServiceError, Unavailable
from extra_services.generation import weights
from extra_services.generation.engines.transformers.prefix_cache import PrefixCache
from extra_services.generation.engines.transformers.rows import Computed, Prefill, Rows
from extra_services.generation.engines.transformers.samples import Deliver, Group, Sample, Ticket
from extra_services.generation.engines.transformers.sampling import Drawn, RowParameters, draw, noise_keys
from extra_services.generation.rollouts import (
    Event,
    FinishReason,
    InFlight,
    Limits,
    Load,
    Request,
    Update,
    accept,
    check_min_version,
    check_request,
    check_room,
    check_version,
    until_complete,
)

log = structlog.get_logger()

#: Padded tokens of prompts computed in one go, so that a long queue of prompts does not stall the batch.
PREFILL_TOKENS = 4096
#: A prompt costs about as much as a step of the whole batch, so those that wait for the last free rows do so
#: until one in so many is free, or for as many steps: they are computed together then.
ADMISSION = 4
#: Logits computed in one go, at most: 256 MiB of them.
PREFILL_LOGITS = 2**26


@dataclass(frozen=True)
class Options:
    """How the engine runs its model."""

    model: Path
    max_batch: int = 128
    max_prompts: int = 1024
    max_queue: int = 16384
    #: None: the model's.
    max_model_len: int | None = None
    #: Memory for the keys and values of the batch.
    kv_cache_bytes: int = 4 * 2**30
    #: Memory for those of computed prompts, kept for later requests.
    prefix_cache_bytes: int = 2**29
    #: None: float32 on the CPU, what the model was saved in elsewhere.
    dtype: torch.dtype | None = None
    #: None: cuda where there is one.
    device: str | None = None
    #: Of torch on the CPU; 0: torch's default.
    threads: int = 0
    #: Whether torch.compile is used.
    compiled: bool = False
    #: From which the seeds of requests without one are drawn; None: from the system.
    seed: int | None = None
    #: Of the weights in `model`.
    policy_version: int = 0


@dataclass(frozen=True)
class _PendingUpdate:
    """Loaded weights, for the loop to swap in."""

    tensors: dict[str, torch.Tensor]
    #: float32 [probe length - 1], by a plain forward pass.
    reference: torch.Tensor
    policy_version: int
    in_flight: InFlight
    #: Gets the probe's largest difference.
    done: Future[float]


class TransformersEngine:
    """Continuous batching of the model in `options.model`; see the module."""

    name = "transformers"
    version = transformers.__version__

    def __init__(self, options: Options, decode: Callable[[list[int]], str]) -> None:
        """`decode` makes text of token ids, to look for stop strings in."""
        self._options = options
        self._decode = decode
        self._device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = options.dtype or (torch.float32 if self._device.type == "cpu" else None)
        self._model: Any = weights.load(options.model, dtype, self._device)
        # For steps only: prompts come in too many shapes. Weights are replaced in the module both share.
        self._compiled: Any = torch.compile(self._model, dynamic=True) if options.compiled else self._model
        self._dtype = next(self._model.parameters()).dtype
        # Each parameter once, in float32, and tied ones twice.
        self.max_weight_bytes = 8 * sum(parameter.numel() for parameter in self._model.parameters())
        self.eos_token_ids = weights.eos_token_ids(options.model, self._model.config)
        self._changed = threading.Condition()
        self._waiting: deque[Group] = deque()
        self._queued = 0
        self._update: _PendingUpdate | None = None
        self._updating = threading.Lock()
        self.last_update = Update(options.policy_version, options.policy_version, 0.0, 0.0)
        self._closed = False
        self._seeds = np.random.Generator(np.random.Philox(options.seed))
        self._rows = Rows(options.max_batch)
        self._samples: list[Sample] = []
        self._parameters: RowParameters | None = None
        #: Steps for which prompts have waited although a row was free.
        self._steps_waited = 0
        self._cache = PrefixCache(options.prefix_cache_bytes)
        #: Requests whose work is being done now: one of them is at fault if memory runs out.
        self._working: list[Ticket] = []
        self._any_mask = torch.zeros(1, 1, 1, 1, device=self._device)
        vocab_size, window = self._model.config.vocab_size, self._model.config.max_position_embeddings
        self._probe = weights.probe_tokens(vocab_size, min(weights.PROBE_LENGTH, window)).to(self._device)
        self._kv_tokens = options.kv_cache_bytes // self._check_attention()
        max_model_len = min(options.max_model_len or window, self._kv_tokens)
        self.limits = Limits(vocab_size, max_model_len, options.max_prompts, options.max_queue)
        self._thread = threading.Thread(target=self._run, name="generation-engine", daemon=True)
        self._thread.start()

    # What callers call.

    @property
    def policy_version(self) -> int:
        """Version of the weights served now."""
        return self.last_update.policy_version

    def load(self) -> Load:
        """See `rollouts.Engine`."""
        samples = list(self._samples)
        return Load(
            waiting=self._queued,
            running=len(samples),
            slots=self._rows.max_rows,
            kv_tokens=sum(len(sample.prompt) + len(sample.tokens) for sample in samples),
            kv_limit_tokens=self._kv_tokens,
            prefix_cache_bytes=self._cache.bytes,
        )

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Queues `request`; `deliver` hears of every prompt and sample, from the engine's thread.

        InvalidInput, FailedPrecondition (older than min_policy_version) or Overloaded if it is not taken.
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

    async def generate(self, request: Request) -> AsyncGenerator[list[Event], None]:
        """Events as they happen; closing the iterator, at any time, ends the request's work."""
        loop = asyncio.get_running_loop()
        happened: asyncio.Queue[list[Event] | Exception] = asyncio.Queue()
        ticket = self.submit(request, lambda what: _call(loop, happened.put_nowait, what))
        try:
            async for what in until_complete(request, happened):
                yield what
        finally:
            ticket.cancel()
            with self._changed:
                self._changed.notify_all()

    async def update_weights(self, folder: Path, policy_version: int, in_flight: InFlight) -> Update:
        """See `rollouts.Engine`. An update once begun is finished even if its caller is gone."""
        return await asyncio.shield(
            asyncio.to_thread(self._update_weights, folder, policy_version, in_flight)
        )

    async def readiness(self) -> AsyncIterator[bool]:
        """Ready from the start: it lives in the server's own process, and ends with it."""
        yield True

    async def close(self) -> None:
        """Fails what runs with Unavailable and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        await asyncio.to_thread(self._thread.join)

    def _groups(self, ticket: Ticket) -> tuple[list[Group], list[Event]]:
        request = ticket.request
        accepted, refused = accept(request, self.limits)
        # Samples of equal prompts are one group, so that the prompt is computed once for all of them.
        groups: dict[tuple[bytes, int], Group] = {}
        for prompt in accepted:
            key = prompt.tokens.tobytes(), prompt.limit
            group = groups.setdefault(key, Group(ticket, prompt.tokens, deque(), prompt.limit))
            group.waiting.extend((prompt.index, sample) for sample in range(request.n))
        return list(groups.values()), refused

    # The loop. From here on, the engine's thread only (and `__init__`, before it starts).

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
        """Whether enough rows are free, or the prompts that wait have waited enough; see `ADMISSION`."""
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
        """Computes the first waiting prompts for whose samples there is room, and lets those join."""
        groups: list[Group] = []
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

    def _room(self, group: Group) -> int:
        """How many samples of `group` may join such that all can grow to their limits."""
        longest = max((len(sample.prompt) + sample.limit for sample in self._samples), default=0)
        longest = max(longest, len(group.tokens) + group.limit)
        rows = min(self._rows.max_rows, self._kv_tokens // longest)
        return max(0, min(len(group.waiting), rows - len(self._samples)))

    def _compute(self, groups: list[Group]) -> None:
        """Finds the groups' prompts in the cache, or computes what is not there."""
        missing = []
        for group in groups:
            group.computed = self._cache.whole(group.tokens)
            group.cached_tokens = 0 if group.computed is None else len(group.tokens)
            start = None if group.computed else self._cache.longest_start(group.tokens)
            # Prompts with a known start are computed one by one: that pays if most of it is known.
            if start is not None and 2 * start[1] >= len(group.tokens):
                started = time.monotonic()
                group.computed = self._continue(group, *start)
                group.prefill_seconds = time.monotonic() - started
                group.cached_tokens = start[1]
            elif group.computed is None:
                missing.append(group)
        if missing:
            started = time.monotonic()
            computed = self._prefill([group.tokens for group in missing])
            for group, sequence in zip(missing, computed, strict=True):
                group.computed, group.prefill_seconds = sequence, time.monotonic() - started
        for group in groups:
            assert group.computed is not None
            self._cache.add(group.computed)

    def _continue(self, group: Group, known: Computed, length: int) -> Computed:
        prefill = Prefill([(key[:, :length], value[:, :length]) for key, value in known.layers])
        ids = torch.from_numpy(group.tokens[length:]).to(self._device, torch.int64)[None]
        positions = torch.arange(length, len(group.tokens), device=self._device)[None]
        logits = self._forward(ids, positions, prefill, 1)
        return prefill.sequence(0, group.tokens, logits[:, 0])

    def _prefill(self, sequences: list[NDArray[np.int32]]) -> list[Computed]:
        """Computes `sequences`, as many side by side as memory and padding allow."""
        computed: dict[int, Computed] = {}
        batch: list[int] = []
        by_length = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
        for index in by_length:
            longer = len(batch) + 1
            ends = {len(sequences[other]) for other in (*batch, index)}
            logits = longer * len(ends) * self._model.config.vocab_size
            if batch and (longer * len(sequences[index]) > PREFILL_TOKENS or logits > PREFILL_LOGITS):
                computed.update(zip(batch, self._side_by_side([sequences[i] for i in batch]), strict=True))
                batch = []
            batch.append(index)
        computed.update(zip(batch, self._side_by_side([sequences[i] for i in batch]), strict=True))
        return [computed[index] for index in range(len(sequences))]

    def _side_by_side(self, sequences: list[NDArray[np.int32]]) -> list[Computed]:
        lengths = [len(tokens) for tokens in sequences]
        ids = torch.zeros(len(sequences), max(lengths), dtype=torch.int64)
        for row, tokens in enumerate(sequences):
            ids[row, : lengths[row]] = torch.from_numpy(tokens)
        # Logits are computed at last positions only; sequences of the same length share one.
        ends = sorted(set(lengths))
        prefill = Prefill()
        logits = self._forward(
            ids.to(self._device), None, prefill, torch.tensor(ends, device=self._device) - 1
        )
        return [
            prefill.sequence(row, tokens, logits[row, ends.index(len(tokens))][None])
            for row, tokens in enumerate(sequences)
        ]

    def _join(self, group: Group) -> None:
        """Gives rows to as many of the group's samples as there is room for, with their first tokens."""
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

    def _sample(self, group: Group, prompt_index: int, sample_index: int) -> Sample:
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
        )

    def _step(self) -> None:
        self._working = [sample.ticket for sample in self._samples]
        lengths = np.array([len(sample.prompt) + len(sample.tokens) - 1 for sample in self._samples])
        at = torch.from_numpy(lengths).to(self._device)
        ids = torch.tensor([[sample.tokens[-1]] for sample in self._samples], device=self._device)
        self._rows.prepare(at)
        logits = self._forward(ids, at[:, None], self._rows, 1)[:, 0]
        if self._parameters is None:
            self._parameters = self._row_parameters(self._samples)
        self._draw(logits, self._samples, self._parameters)
        self._retire()

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor | None, kv: Prefill | Rows, keep: int | torch.Tensor
    ) -> torch.Tensor:
        """Logits float32 [rows, kept positions, vocabulary]."""
        # A mask of four dimensions is passed on as it is; `rows.attention` makes its own.
        model = self._compiled if isinstance(kv, Rows) else self._model
        out = model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._any_mask,
            use_cache=False,
            logits_to_keep=keep,
            kv=kv,
        )
        logits: torch.Tensor = out.logits.float()
        return logits

    def _draw(self, logits: torch.Tensor, samples: list[Sample], parameters: RowParameters) -> None:
        """Draws the next token of each sample from logits float32 [samples, vocabulary]."""
        keys = np.stack([sample.keys[len(sample.tokens)] for sample in samples])
        drawn = draw(logits, parameters, torch.from_numpy(keys).to(self._device), _banned(samples))
        if self._dtype is torch.float32:
            self._break_ties(drawn, samples)
        columns = (drawn.tokens, drawn.logprobs, drawn.entropies, drawn.raw_entropies)
        by_ticket: dict[Ticket, list[Event]] = {}
        for sample, *values in zip(samples, *(column.tolist() for column in columns), strict=True):
            sample.add(*values, self._decode)
            if sample.ticket.request.stream_tokens:
                by_ticket.setdefault(sample.ticket, []).append(sample.last_token())
        for ticket, events in by_ticket.items():
            ticket.deliver(events)

    def _break_ties(self, drawn: Drawn, samples: list[Sample]) -> None:
        """Draws again, from logits no other sample has a part in, where the batch's rounding might decide."""
        for row in drawn.tied.nonzero()[:, 0].tolist():
            sample = samples[row]
            tokens = np.concatenate([sample.prompt, np.array(sample.tokens, np.int32)])
            logits = self._forward(
                torch.from_numpy(tokens).to(self._device, torch.int64)[None], None, Prefill(), 1
            )
            key = torch.from_numpy(sample.keys[len(sample.tokens)][None]).to(self._device)
            alone = draw(logits[:, 0], self._row_parameters([sample]), key, _banned([sample]))
            drawn.tokens[row], drawn.logprobs[row] = alone.tokens[0], alone.logprobs[0]
            drawn.entropies[row], drawn.raw_entropies[row] = alone.entropies[0], alone.raw_entropies[0]

    def _row_parameters(self, samples: list[Sample]) -> RowParameters:
        requests = [sample.ticket.request for sample in samples]
        raw = any(request.raw_entropies for request in requests)
        rows = [request.sampling for request in requests]
        return RowParameters.of(rows, raw, self.limits.vocab_size, self._device)

    def _retire(self) -> None:
        """Takes the samples that ended out of the batch and delivers them, by request."""
        ended = [sample for sample in self._samples if sample.ended is not None]
        if not ended:
            return
        now = time.monotonic()
        by_ticket: dict[Ticket, list[Event]] = {}
        for sample in ended:
            by_ticket.setdefault(sample.ticket, []).append(sample.rollout(now))
        self._keep([sample.ended is None for sample in self._samples])
        for ticket, events in by_ticket.items():
            log.debug("samples ended", samples=len(events), request_id=ticket.request_id)
            ticket.deliver(events)

    def _keep(self, kept: list[bool]) -> None:
        """Leaves in the batch the samples marked in `kept`; the last ones fill the gaps."""
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
        """Ends the requests that `error` concerns; the loop goes on with the others."""
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

    def _update_weights(self, folder: Path, policy_version: int, in_flight: InFlight) -> Update:
        with self._updating:
            previous = self.policy_version
            if policy_version == previous:
                return self.last_update
            check_version(previous, policy_version)
            started = time.monotonic()
            weights.check_same_model(folder, self._model.config)
            model = weights.load(folder, self._dtype, self._device)
            reference = weights.plain_logprobs(model, self._probe)
            update = _PendingUpdate(weights.tensors_of(model), reference, policy_version, in_flight, Future())
            with self._changed:
                if self._closed:
                    raise Unavailable("the engine is shutting down")
                self._update = update
                self._changed.notify_all()
            difference = update.done.result()
            # The loop has set the version; seconds are known only here.
            self.last_update = Update(policy_version, previous, difference, time.monotonic() - started)
            return self.last_update

    def _apply_update(self) -> None:
        update, self._update = self._update, None
        assert update is not None
        self._working = []
        before = weights.move_into(self._model, update.tensors)
        try:
            difference = self._probe_difference(update.reference)[0]
            self._check_probe(difference)
        except Exception as error:
            weights.move_into(self._model, before)
            update.done.set_exception(error)
            return
        self.last_update = Update(update.policy_version, self.policy_version, difference, 0.0)
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
        """Computes the batch's keys and values again with new weights; each sample notes its change."""
        samples, self._samples, self._parameters = self._samples, [], None
        self._rows.keep([], [], 0)
        if not samples:
            return
        try:
            for sequence in self._prefill([sample.written for sample in samples]):
                self._rows.join(sequence, 1)
        except Exception as error:
            self._rows.keep([], [], 0)
            self._end({sample.ticket for sample in samples}, error)
            return
        for sample in samples:
            sample.policy_changes.append((len(sample.tokens), self.policy_version))
        self._samples = samples

    def _probe_difference(self, reference: torch.Tensor) -> tuple[float, int]:
        """Largest difference between `reference` and what prefill and steps make of the probe, in nats.

        With the bytes that the keys and values of one token take.
        """
        tokens = self._probe
        half = len(tokens) // 2
        prefill, rows = Prefill(), Rows(1)
        logits = [self._forward(tokens[None, :half], None, prefill, 0)[0]]
        start = prefill.sequence(0, tokens[:half].cpu().numpy(), logits[0][-1:])
        rows.join(start, 1)
        for at in range(half, len(tokens) - 1):
            position = torch.tensor([at], device=self._device)
            rows.prepare(position)
            logits.append(self._forward(tokens[None, at : at + 1], position[None], rows, 1)[0])
        logprobs = torch.log_softmax(torch.cat(logits), -1).gather(-1, tokens[1:, None])[:, 0]
        kv_bytes = sum(key.nbytes + value.nbytes for key, value in start.layers) // half
        return float((logprobs - reference).abs().max()), kv_bytes

    def _check_probe(self, difference: float) -> None:
        tolerance = weights.TOLERANCE[self._dtype]
        if not difference <= tolerance:  # NaN is no agreement either
            text = (
                f"the engine's log-probabilities on the probe differ by {difference:.2g} nats from those of "
                f"a plain forward pass of the same tensors; at most {tolerance} is allowed"
            )
            raise FailedPrecondition(text)

    def _check_attention(self) -> int:
        """Refuses models whose attention this engine does not compute as they mean it; bytes of a token."""
        with torch.inference_mode():
            reference = weights.plain_logprobs(self._model, self._probe)
            difference, kv_bytes = self._probe_difference(reference)
        self._check_probe(difference)
        return kv_bytes


def _banned(samples: list[Sample]) -> tuple[list[int], list[int]] | None:
    """The stop ids of the rows that may not end yet, as `draw` takes them; None if all may."""
    rows = [row for row, sample in enumerate(samples) if not sample.may_stop]
    pairs = [(row, token) for row in rows for token in samples[row].stop_ids]
    return ([row for row, _ in pairs], [token for _, token in pairs]) if pairs else None


def _out_of_memory(error: Exception) -> bool:
    # On a CPU torch raises a RuntimeError, which only its text tells apart.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[Any], None], argument: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, argument)
    except RuntimeError:  # the loop is closed: nobody listens any more
        log.info("events of a request came after its event loop was closed")
