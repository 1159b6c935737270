"""The embedded engine: continuous batching of a transformers model, in a thread of its own.

One loop: admit waiting samples while rows are free, take one step of the whole batch, retire what ended.
Samples join and leave between steps, so none waits for the longest. Each distinct prompt + prefix of a
request is computed once, and its keys and values are copied into the rows of its n samples (see `rows`).
Tokens are drawn so that the batch cannot influence them (see `sampling`): where two candidates are so close
that the rounding of the batch might decide, the position is computed again for that sample alone.

Only the loop's thread touches model and batch. Other threads hand it requests, cancellations and updates
under one lock, and hear from it through each request's `deliver`. New weights are loaded and checked by
the thread that brings them; the loop only swaps them, with the batch empty, and probes.
"""

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
import transformers
from numpy.typing import NDArray

from extra_services.errors import FailedPrecondition, InvalidInput, Overloaded, ServiceError, Unavailable
from extra_services.generation import weights
from extra_services.generation.rollouts import (
    Event,
    FinishReason,
    Limits,
    Prompt,
    PromptRefused,
    Request,
    Rollout,
    Update,
    check_prompt,
    check_request,
    check_version,
)
from extra_services.generation.rows import Layer, Prefill, Rows
from extra_services.generation.sampling import Drawn, RowParameters, draw, noise_keys

log = structlog.get_logger()

#: Padded tokens of prompts computed in one go, so that a long queue of prompts does not stall the batch.
PREFILL_TOKENS = 4096
#: Nats by which the engine may differ from a plain forward pass on the probe.
PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03}
PROBE_LENGTH = 48

#: Called in the engine's thread with what happened; an exception is the end of the request.
Deliver = Callable[[list[Event] | Exception], None]


@dataclass(frozen=True)
class Options:
    """How the engine runs its model."""

    model: Path
    weights_root: Path | None = None
    max_batch: int = 128
    max_prompts: int = 1024
    max_queue: int = 16384
    #: None: the model's.
    max_model_len: int | None = None
    #: None: float32 on the CPU, what the model was saved in elsewhere.
    dtype: torch.dtype | None = None
    #: None: cuda where there is one.
    device: str | None = None
    #: Of torch on the CPU; 0: torch's default.
    threads: int = 0
    #: From which the seeds of requests without one are drawn; None: from the system.
    seed: int | None = None
    #: Of the weights in `model`.
    policy_version: int = 0


class Ticket:
    """A submitted request, as its caller holds it."""

    def __init__(self, request: Request, seed: int, deliver: Deliver) -> None:
        self.request = request
        self.seed = seed
        self.deliver = deliver
        self.submitted = time.monotonic()
        self.cancelled = False

    def cancel(self) -> None:
        """The engine drops what is left of it before its next step."""
        self.cancelled = True


@dataclass
class _Group:
    """One distinct prompt + prefix of a request, with the samples of it that have no row yet."""

    ticket: Ticket
    tokens: NDArray[np.int32]
    #: (prompt_index, sample_index) of each.
    waiting: deque[tuple[int, int]]
    #: Once computed: keys and values, which prompt of them, log-softmax-ready logits float32 [1, vocabulary].
    layers: list[Layer] = field(default_factory=list)
    index: int = 0
    logits: torch.Tensor | None = None
    prefill_seconds: float = 0.0


@dataclass
class _Sample:
    """One row of the batch."""

    ticket: Ticket
    prompt_index: int
    sample_index: int
    prompt: NDArray[np.int32]
    limit: int
    stop: frozenset[int]
    keys: NDArray[np.int32]
    prefill_seconds: float
    queue_seconds: float
    joined: float
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)

    @property
    def finish_reason(self) -> FinishReason | None:
        """None while it goes on."""
        if self.tokens[-1] in self.stop:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self.limit else None


class TransformersEngine:
    """Continuous batching of the model in `options.model`; see the module."""

    name = "transformers"
    version = transformers.__version__

    def __init__(self, options: Options) -> None:
        self._options = options
        self._device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = options.dtype or (torch.float32 if self._device.type == "cpu" else None)
        self._model: Any = weights.load(options.model, dtype, self._device)
        self._dtype = next(self._model.parameters()).dtype
        config = self._model.config
        self.limits = Limits(
            vocab_size=config.vocab_size,
            max_model_len=options.max_model_len or config.max_position_embeddings,
            max_prompts=options.max_prompts,
            max_queue=options.max_queue,
        )
        self.eos_token_ids = _eos_token_ids(self._model)
        self._version = options.policy_version
        self._seeds = np.random.Generator(np.random.Philox(options.seed))
        self._changed = threading.Condition()
        self._waiting: deque[_Group] = deque()
        self._queued = 0
        self._update: tuple[dict[str, torch.Tensor], torch.Tensor, int, Future[float]] | None = None
        self._updating = threading.Lock()
        self._last_update: Update | None = None
        self._closed = False
        self._rows = Rows(options.max_batch)
        self._samples: list[_Sample] = []
        self._parameters: RowParameters | None = None
        self._any_mask = torch.zeros(1, 1, 1, 1, device=self._device)
        self._probe = weights.probe_tokens(config.vocab_size, min(PROBE_LENGTH, self.limits.max_model_len))
        self._check_attention()
        self._thread = threading.Thread(target=self._run, name="generation-engine", daemon=True)
        self._thread.start()

    # What callers call.

    @property
    def policy_version(self) -> int:
        """Version of the weights served now."""
        return self._version

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Queues `request`; `deliver` hears of every prompt and sample, from the engine's thread.

        InvalidInput, FailedPrecondition (older than min_policy_version) or Overloaded if it is not taken.
        """
        check_request(request, self.limits)
        if request.min_policy_version is not None and self._version < request.min_policy_version:
            wanted = request.min_policy_version
            raise FailedPrecondition(
                f"policy version {self._version} is served, older than {wanted}, the least wanted"
            )
        with self._changed:
            seed = request.seed if request.seed is not None else int(self._seeds.integers(2**63))
            ticket = Ticket(request, seed, deliver)
            groups, refused = self._groups(ticket)
            count = sum(len(group.waiting) for group in groups)
            if self._closed:
                raise Unavailable("the engine is shutting down")
            if self._queued + count > self.limits.max_queue:
                text = f"{self._queued} samples wait; {count} more exceed max_queue, {self.limits.max_queue}"
                raise Overloaded(text, retry_after_seconds=1.0)
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
            left = len(request.prompts) * request.n
            while left:
                what = await happened.get()
                if isinstance(what, Exception):
                    raise what
                left -= sum(1 if isinstance(event, Rollout) else request.n for event in what)
                yield what
        finally:
            ticket.cancel()
            self._wake()

    async def update_weights(self, path: str, policy_version: int) -> Update:
        """See `rollouts.Engine`. An update once begun is finished even if its caller is gone."""
        return await asyncio.shield(asyncio.to_thread(self._update_weights, path, policy_version))

    async def close(self) -> None:
        """Fails what runs with Unavailable and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        await asyncio.to_thread(self._thread.join)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _groups(self, ticket: Ticket) -> tuple[list[_Group], list[Event]]:
        groups: dict[bytes, _Group] = {}
        refused: list[Event] = []
        for index, prompt in enumerate(ticket.request.prompts):
            error = self._refusal(prompt)
            if error is not None:
                refused.append(PromptRefused(index, error))
                continue
            assert isinstance(prompt, Prompt)
            tokens = prompt.tokens
            group = groups.setdefault(tokens.tobytes(), _Group(ticket, tokens, deque()))
            group.waiting.extend((index, sample) for sample in range(ticket.request.n))
        return list(groups.values()), refused

    def _refusal(self, prompt: Prompt | ServiceError) -> ServiceError | None:
        if isinstance(prompt, ServiceError):
            return prompt
        try:
            check_prompt(prompt, self.limits)
        except InvalidInput as error:
            return error
        return None

    # The loop. From here on, the engine's thread only (and `__init__`, before it starts).

    def _run(self) -> None:
        if self._options.threads:
            torch.set_num_threads(self._options.threads)
        with torch.inference_mode():
            while self._wait_for_work():
                try:
                    self._drop_cancelled()
                    if self._update is not None and not self._samples:
                        self._apply_update()
                    if self._update is None:
                        self._admit()
                    if self._samples:
                        self._step()
                except Exception as error:
                    # Whatever it was, those in the batch are told, and the engine goes on with an empty one.
                    log.error("engine step failed", exc_info=error)
                    self._fail_batch(error)
        self._fail_all(Unavailable("the engine is shutting down"))

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
        free = self._rows.max_rows - len(self._samples)
        groups: list[_Group] = []
        longest = 0
        with self._changed:
            for group in itertools.islice(self._waiting, free):
                longest = max(longest, len(group.tokens))
                if groups and (free <= 0 or longest * (len(groups) + 1) > PREFILL_TOKENS):
                    break
                groups.append(group)
                free -= len(group.waiting)
        new = [group for group in groups if group.logits is None]
        if new:
            self._prefill(new)
        for group in groups:
            self._join(group)

    def _prefill(self, groups: list[_Group]) -> None:
        started = time.monotonic()
        lengths = [len(group.tokens) for group in groups]
        ids = torch.zeros(len(groups), max(lengths), dtype=torch.int64)
        for row, group in enumerate(groups):
            ids[row, : lengths[row]] = torch.from_numpy(group.tokens)
        # Logits are computed at the last positions only; prompts of the same length share one.
        ends = sorted(set(lengths))
        prefill = Prefill()
        logits = self._forward(
            ids.to(self._device), None, prefill, torch.tensor(ends, device=self._device) - 1
        )
        seconds = time.monotonic() - started
        for row, group in enumerate(groups):
            group.layers, group.index, group.prefill_seconds = prefill.layers, row, seconds
            group.logits = logits[row, ends.index(lengths[row])][None]

    def _join(self, group: _Group) -> None:
        """Gives rows to as many of the group's samples as there are rows, with their first tokens."""
        assert group.logits is not None
        request, now = group.ticket.request, time.monotonic()
        with self._changed:
            count = min(len(group.waiting), self._rows.max_rows - len(self._samples))
            places = [group.waiting.popleft() for _ in range(count)]
            self._queued -= count
            if not group.waiting:
                self._waiting.remove(group)
        room = self.limits.max_model_len - len(group.tokens)
        samples = [
            _Sample(
                ticket=group.ticket,
                prompt_index=prompt_index,
                sample_index=sample_index,
                prompt=group.tokens,
                limit=min(request.sampling.max_tokens, room),
                stop=frozenset((*self.eos_token_ids, *request.sampling.stop_token_ids)),
                keys=noise_keys(
                    group.ticket.seed, prompt_index, sample_index, min(request.sampling.max_tokens, room)
                ),
                prefill_seconds=group.prefill_seconds,
                queue_seconds=max(0.0, now - group.ticket.submitted - group.prefill_seconds),
                joined=now,
            )
            for prompt_index, sample_index in places
        ]
        self._draw(group.logits.expand(count, -1), samples, self._row_parameters(samples))
        self._rows.join(group.layers, group.index, len(group.tokens), count)
        self._samples += samples
        self._parameters = None
        self._retire()

    def _step(self) -> None:
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
        self,
        ids: torch.Tensor,
        positions: torch.Tensor | None,
        kv: Prefill | Rows | None,
        keep: int | torch.Tensor,
    ) -> torch.Tensor:
        """Logits float32 [rows, kept positions, vocabulary]."""
        # A mask of four dimensions is passed on as it is; `rows.attention` makes its own.
        mask = None if kv is None else self._any_mask
        out = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            use_cache=False,
            logits_to_keep=keep,
            kv=kv,
        )
        logits: torch.Tensor = out.logits.float()
        return logits

    def _draw(self, logits: torch.Tensor, samples: list[_Sample], parameters: RowParameters) -> None:
        """Draws the next token of each sample from logits float32 [samples, vocabulary]."""
        keys = np.stack([sample.keys[len(sample.tokens)] for sample in samples])
        drawn = draw(logits, parameters, torch.from_numpy(keys).to(self._device))
        if self._dtype is torch.float32:
            self._break_ties(drawn, samples)
        columns = drawn.tokens.tolist(), drawn.logprobs.tolist(), drawn.entropies.tolist()
        for sample, token, logprob, entropy in zip(samples, *columns, strict=True):
            sample.tokens.append(token)
            sample.logprobs.append(logprob)
            sample.entropies.append(entropy)

    def _break_ties(self, drawn: Drawn, samples: list[_Sample]) -> None:
        """Draws again, from logits no other sample has a part in, where the batch's rounding might decide."""
        for row in drawn.tied.nonzero()[:, 0].tolist():
            sample = samples[row]
            tokens = np.concatenate([sample.prompt, np.array(sample.tokens, np.int32)])
            ids = torch.from_numpy(tokens).to(self._device, torch.int64)[None]
            logits = self._forward(ids, None, Prefill(), 1)[:, 0]
            key = torch.from_numpy(sample.keys[len(sample.tokens)][None]).to(self._device)
            alone = draw(logits, self._row_parameters([sample]), key)
            drawn.tokens[row], drawn.logprobs[row] = alone.tokens[0], alone.logprobs[0]
            drawn.entropies[row] = alone.entropies[0]

    def _row_parameters(self, samples: list[_Sample]) -> RowParameters:
        return RowParameters.of(
            [s.ticket.request.sampling for s in samples], self.limits.vocab_size, self._device
        )

    def _retire(self) -> None:
        """Takes the samples that ended out of the batch and delivers them, by request."""
        ended = [sample for sample in self._samples if sample.finish_reason is not None]
        if not ended:
            return
        now = time.monotonic()
        by_ticket: dict[Ticket, list[Event]] = {}
        for sample in ended:
            by_ticket.setdefault(sample.ticket, []).append(self._rollout(sample, now))
        self._keep([sample.finish_reason is None for sample in self._samples])
        for ticket, events in by_ticket.items():
            ticket.deliver(events)

    def _rollout(self, sample: _Sample, now: float) -> Rollout:
        reason = sample.finish_reason
        assert reason is not None
        return Rollout(
            prompt_index=sample.prompt_index,
            sample_index=sample.sample_index,
            token_ids=np.array(sample.tokens, np.int32),
            logprobs=np.array(sample.logprobs, np.float32),
            entropies=np.array(sample.entropies, np.float32),
            finish_reason=reason,
            policy_version=self._version,
            prompt_tokens=len(sample.prompt),
            cached_prompt_tokens=0,
            queue_seconds=sample.queue_seconds,
            prefill_seconds=sample.prefill_seconds,
            decode_seconds=now - sample.joined,
        )

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

    def _fail_batch(self, error: Exception) -> None:
        tickets = {sample.ticket for sample in self._samples}
        with self._changed:
            # A request that lost samples is failed as a whole: it must not wait for them for ever.
            tickets |= {group.ticket for group in self._waiting if group.logits is not None}
            if not tickets and self._waiting:
                tickets = {self._waiting[0].ticket}
        for ticket in tickets:
            ticket.cancel()
            ticket.deliver(error)
        self._drop_cancelled()

    def _fail_all(self, error: ServiceError) -> None:
        with self._changed:
            tickets = {group.ticket for group in self._waiting} | {sample.ticket for sample in self._samples}
            self._waiting.clear()
            if self._update is not None:
                self._update[3].set_exception(error)
        for ticket in tickets:
            ticket.deliver(error)

    # Weights.

    def _update_weights(self, path: str, policy_version: int) -> Update:
        folder = weights.resolve(self._options.weights_root, path)
        with self._updating:
            if self._last_update is not None and policy_version == self._version:
                return self._last_update
            check_version(self._version, policy_version)
            started = time.monotonic()
            if policy_version == self._version:
                # The version the server started with: served already, and never probed against `path`.
                return Update(policy_version, policy_version, 0.0, 0.0)
            weights.check_same_model(folder, self._model.config)
            model = weights.load(folder, self._dtype, self._device)
            reference = weights.plain_logprobs(model, self._probe.to(self._device))
            done: Future[float] = Future()
            with self._changed:
                if self._closed:
                    raise Unavailable("the engine is shutting down")
                self._update = (weights.tensors_of(model), reference, policy_version, done)
                self._changed.notify_all()
            previous = self._version
            difference = done.result()
            self._last_update = Update(policy_version, previous, difference, time.monotonic() - started)
            return self._last_update

    def _apply_update(self) -> None:
        assert self._update is not None
        tensors, reference, version, done = self._update
        self._update = None
        before = weights.move_into(self._model, tensors)
        try:
            difference = self._probe_difference(reference)
            self._check_probe(difference)
        except Exception as error:
            weights.move_into(self._model, before)
            done.set_exception(error)
            return
        with self._changed:
            self._version = version
            # Prompts computed with the older weights are computed again.
            for group in self._waiting:
                group.logits, group.layers = None, []
        done.set_result(difference)

    def _probe_difference(self, reference: torch.Tensor) -> float:
        """Largest difference between `reference` and what prefill and steps make of the probe, in nats."""
        tokens = self._probe.to(self._device)
        half = len(tokens) // 2
        prefill, rows = Prefill(), Rows(1)
        logits = [self._forward(tokens[None, :half], None, prefill, 0)[0]]
        rows.join(prefill.layers, 0, half, 1)
        for at in range(half, len(tokens) - 1):
            position = torch.tensor([at], device=self._device)
            rows.prepare(position)
            logits.append(self._forward(tokens[None, at : at + 1], position[None], rows, 1)[0])
        logprobs = torch.log_softmax(torch.cat(logits), -1).gather(-1, tokens[1:, None])[:, 0]
        return float((logprobs - reference).abs().max())

    def _check_probe(self, difference: float) -> None:
        tolerance = PROBE_TOLERANCE[self._dtype]
        if not difference <= tolerance:  # NaN is no agreement either
            text = (
                f"the engine's log-probabilities on the probe differ by {difference:.2g} nats from those of "
                f"a plain forward pass of the same tensors; at most {tolerance} is allowed"
            )
            raise FailedPrecondition(text)

    def _check_attention(self) -> None:
        """Refuses models whose attention this engine does not compute as they mean it."""
        with torch.inference_mode():
            self._check_probe(
                self._probe_difference(weights.plain_logprobs(self._model, self._probe.to(self._device)))
            )


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[Any], None], argument: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, argument)
    except RuntimeError:  # the loop is closed: nobody listens any more
        log.info("events of a request came after its event loop was closed")


def _eos_token_ids(model: Any) -> list[int]:
    found = model.generation_config.eos_token_id
    if found is None:
        found = model.config.eos_token_id
    if found is None:
        return []
    return [found] if isinstance(found, int) else list(found)
