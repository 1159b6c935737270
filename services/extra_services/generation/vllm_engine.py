"""The engine for real work: vLLM's AsyncLLM, with exact entropies and weights that are replaced in place.

Every sample is a vLLM request of its own, so that each is delivered as it ends, with a seed of its own;
vLLM's prefix cache computes shared prompts once. Entropies come out of the sampler as `vllm_worker` says. At
start-up the engine compares them, and the log-probabilities, with a plain forward pass of the same weights,
and refuses to start where they differ: a release of vLLM that samples elsewhere must not serve wrong numbers.

At most `max_batch` samples are inside vLLM; the others wait here, at a gate. That gate makes an update
atomic: it closes, what is inside ends (wait) or is aborted (abort, keep), vLLM is empty, its prefix cache is
dropped, the weights are loaded and probed, and it opens again. Samples that are kept go in again as prompt +
what they have, so their keys and values are new, and the token at which the policy changed is known. If the
probe fails, the weights served before are loaded again from the engine's own copy.

The model runs in a process of its own. Should that die, calls fail with Unavailable, and it is started again
with the weights served last.
"""

import asyncio
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, GenerationConfig

from extra_services.errors import FailedPrecondition, InvalidInput, ServiceError, Unavailable
from extra_services.generation import weights
from extra_services.generation.rollouts import (
    Event,
    FinishReason,
    InFlight,
    Limits,
    Prompt,
    Request,
    Rollout,
    Sampling,
    Token,
    Update,
    accept,
    check_min_version,
    check_request,
    check_room,
    check_version,
    until_complete,
)

log = structlog.get_logger()

#: Nats by which the engine may differ from a plain forward pass in float32 of the same weights.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.03}
PROBE_LENGTH = 48
#: vLLM raises lower temperatures to this one.
LEAST_TEMPERATURE = 0.01
#: Seconds between looks at whether the engine's process lives.
WATCH_SECONDS = 0.2


@dataclass(frozen=True)
class VllmOptions:
    """How vLLM runs the model; what is None is left to vLLM."""

    model: Path
    max_batch: int = 128
    max_prompts: int = 1024
    max_queue: int = 16384
    max_model_len: int | None = None
    #: "auto", "float32", "bfloat16" or "float16".
    dtype: str = "auto"
    kv_cache_bytes: int = 4 * 2**30
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    compiled: bool = False
    seed: int | None = None
    policy_version: int = 0


@dataclass
class _Sample:
    """One sample, from its submission to its end."""

    request: Request
    seed: int
    prompt_index: int
    sample_index: int
    prompt: NDArray[np.int32]
    limit: int
    submitted: float = field(default_factory=time.monotonic)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    #: Two float32 each, see `vllm_worker.pack`.
    ranks: list[int] = field(default_factory=list)
    #: Of its first token, then (index, version) of each change.
    policy_version: int = 0
    policy_changes: list[tuple[int, int]] = field(default_factory=list)
    #: Set by an update that takes it out of vLLM.
    interrupted: InFlight | None = None
    cached_tokens: int = 0
    scheduled: float = 0.0
    first_token: float = 0.0
    stop_string: str | None = None


class VllmEngine:
    """AsyncLLM with entropies; made by `start`."""

    name = "vllm"

    def __init__(self, options: VllmOptions) -> None:
        """Use `start`."""
        import vllm

        self.version = vllm.__version__
        self._options = options
        self._llm: Any = None
        config = AutoConfig.from_pretrained(options.model, local_files_only=True)
        self._config = config
        window = options.max_model_len or config.max_position_embeddings
        self.limits = Limits(config.vocab_size, window, options.max_prompts, options.max_queue)
        self.eos_token_ids = _eos_token_ids(options.model, config)
        self.max_weight_bytes = 8 * weights.parameter_count(options.model)
        self.last_update = Update(options.policy_version, options.policy_version, 0.0, 0.0)
        self._seeds = np.random.Generator(np.random.Philox(options.seed))
        self._queued = 0
        self._inside: dict[str, _Sample] = {}
        self._slots = asyncio.Semaphore(options.max_batch)
        self._gate = asyncio.Event()
        self._emptied = asyncio.Condition()
        self._updating = asyncio.Lock()
        self._names = itertools.count()
        # Weights that were delivered are copied here: the folder they came in is not ours to keep.
        self._copies = tempfile.TemporaryDirectory(prefix="extra-rl-weights-")
        self._served = options.model
        self._ready = False
        self._readiness_changed = asyncio.Condition()
        self._watcher: asyncio.Task[None] | None = None
        self._tolerance = 0.0

    @classmethod
    async def start(cls, options: VllmOptions) -> "VllmEngine":
        """Loads the model; FailedPrecondition if the entropies that come out are not exact."""
        _set_environment(options)
        engine = cls(options)
        await engine._launch()
        engine._watcher = asyncio.create_task(engine._watch())
        return engine

    @property
    def policy_version(self) -> int:
        """Version of the weights served now."""
        return self.last_update.policy_version

    async def readiness(self) -> AsyncIterator[bool]:
        """Whether the engine can serve, now and whenever that changes."""
        told: bool | None = None
        while True:
            async with self._readiness_changed:
                while self._ready == told:
                    await self._readiness_changed.wait()
                told = self._ready
            yield told

    async def generate(self, request: Request) -> AsyncGenerator[list[Event], None]:
        """Events as they happen; closing the iterator, at any time, ends the request's work."""
        samples, refused = self._take(request)
        happened: asyncio.Queue[list[Event] | Exception] = asyncio.Queue()
        if refused:
            happened.put_nowait(refused)
        tasks = [asyncio.create_task(self._sample(sample, happened)) for sample in samples]
        try:
            async for what in until_complete(request, happened):
                yield what
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def update_weights(self, folder: Path, policy_version: int, in_flight: InFlight) -> Update:
        """See `rollouts.Engine`. An update once begun is finished even if its caller is gone."""
        return await asyncio.shield(self._update_weights(folder, policy_version, in_flight))

    async def close(self) -> None:
        """Ends the engine's process."""
        if self._watcher is not None:
            self._watcher.cancel()
        self._llm.shutdown()
        self._copies.cleanup()

    # Samples.

    def _take(self, request: Request) -> tuple[list[_Sample], list[Event]]:
        check_request(request, len(request.prompts), self.limits)
        if 0 < request.sampling.temperature < LEAST_TEMPERATURE:
            text = f"vLLM has no temperature between 0 and {LEAST_TEMPERATURE}; use 0 (greedy)"
            raise InvalidInput("sampling.temperature", text)
        check_min_version(self.policy_version, request.min_policy_version)
        if not self._ready:
            raise Unavailable("the engine's process ended and is being started again; try later")
        seed = request.seed if request.seed is not None else int(self._seeds.integers(2**63))
        accepted, refused = accept(request, self.limits)
        samples = [
            _Sample(request, seed, prompt.index, place, prompt.tokens, prompt.limit)
            for prompt in accepted
            for place in range(request.n)
        ]
        check_room(self._queued, len(samples), self.limits)
        self._queued += len(samples)
        return samples, refused

    async def _sample(self, sample: _Sample, happened: "asyncio.Queue[list[Event] | Exception]") -> None:
        """Runs a sample to its end, through the updates on the way."""
        try:
            reason = None
            while reason is None:
                async with self._slots:
                    await self._gate.wait()
                    reason = await self._inside_vllm(sample, happened)
            happened.put_nowait([_rollout(sample, reason)])
        except ServiceError as error:
            happened.put_nowait(error)
        except Exception as error:
            happened.put_nowait(self._told(error))
        finally:
            self._queued -= 1

    async def _inside_vllm(
        self, sample: _Sample, happened: "asyncio.Queue[list[Event] | Exception]"
    ) -> FinishReason | None:
        """Lets vLLM draw the sample's next tokens; None if it goes on after an update."""
        self._note_version(sample)
        name = f"sample-{next(self._names)}"
        sample.interrupted = None
        self._inside[name] = sample
        try:
            async for out in self._llm.generate(
                {"prompt_token_ids": [*sample.prompt.tolist(), *sample.tokens]},
                self._parameters(sample),
                name,
            ):
                first = len(sample.tokens)
                _add(sample, out)
                if sample.request.stream_tokens and len(sample.tokens) > first:
                    happened.put_nowait(_tokens(sample, first))
        finally:
            del self._inside[name]
            async with self._emptied:
                self._emptied.notify_all()
        return _finish_reason(sample, out.outputs[0])

    def _note_version(self, sample: _Sample) -> None:
        if not sample.tokens:
            sample.policy_version = self.policy_version
        elif self.policy_version != ([sample.policy_version] + [v for _, v in sample.policy_changes])[-1]:
            sample.policy_changes.append((len(sample.tokens), self.policy_version))

    def _parameters(self, sample: _Sample) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling, drawn = sample.request.sampling, len(sample.tokens)
        # A sample that goes in again must not draw the same noise again.
        prompt = sample.request.seed_index(sample.prompt_index)
        place = [sample.seed, prompt, sample.sample_index, drawn]
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            max_tokens=sample.limit - drawn,
            # vLLM counts the tokens before the one that stops.
            min_tokens=max(0, sampling.min_tokens - drawn - 1),
            stop_token_ids=list(sampling.stop_token_ids),
            stop=list(sampling.stop_strings) or None,
            detokenize=bool(sampling.stop_strings),
            seed=int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1)),
            logprobs=0,
            flat_logprobs=True,
            extra_args={"raw_entropies": True} if sample.request.raw_entropies else None,
            output_kind=RequestOutputKind.DELTA
            if sample.request.stream_tokens
            else RequestOutputKind.FINAL_ONLY,
        )

    def _told(self, error: Exception) -> Exception:
        if self._llm.errored or type(error).__name__ == "EngineDeadError":
            return Unavailable("the engine's process ended; it is being started again")
        return error

    # Start and restart.

    async def _launch(self) -> None:
        """Starts vLLM with the weights served last, and opens the gate once they are proven."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        options = self._options
        more = {} if self._on_cpu() else {"gpu_memory_utilization": options.gpu_memory_utilization}
        arguments = AsyncEngineArgs(
            model=str(options.model),
            dtype=_dtype_name(options),
            max_model_len=options.max_model_len,
            max_num_seqs=options.max_batch,
            tensor_parallel_size=options.tensor_parallel_size,
            data_parallel_size=options.data_parallel_size,
            enforce_eager=not options.compiled,
            enable_prefix_caching=True,
            load_format="safetensors",
            worker_extension_cls="extra_services.generation.vllm_worker.EntropyWorker",
            seed=options.seed if options.seed is not None else 0,
            **more,
        )
        # In a thread: calls that come while it starts again must be told so, not left to wait.
        self._llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
        self._tolerance = TOLERANCE[str(self._llm.model_config.dtype).removeprefix("torch.")]
        runners = await self._llm.collective_rpc("extra_install_entropy")
        log.info("vLLM started", version=self.version, model_runners=runners)
        await self._check_entropies()
        if self._served != options.model:
            await self._load(self._served)
        self._gate.set()
        await self._set_ready(True)

    async def _watch(self) -> None:
        """Starts vLLM again whenever its process has died."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self._llm.errored:
                continue
            log.error("vLLM's process ended; starting it again")
            self._gate.clear()
            await self._set_ready(False)
            self._llm.shutdown()
            try:
                await self._launch()
            except Exception as error:
                log.error("vLLM does not start", exc_info=error)

    async def _set_ready(self, ready: bool) -> None:
        self._ready = ready
        async with self._readiness_changed:
            self._readiness_changed.notify_all()

    def _on_cpu(self) -> bool:
        from vllm.platforms import current_platform

        return bool(current_platform.is_cpu())

    async def _check_entropies(self) -> None:
        """FailedPrecondition unless log-probabilities and entropies agree with a plain forward pass."""
        tokens = weights.probe_tokens(self.limits.vocab_size, PROBE_LENGTH // 2).numpy().astype(np.int32)
        model = await asyncio.to_thread(weights.load, self._options.model, torch.float32, torch.device("cpu"))
        samples = [self._probe_sample(tokens, temperature) for temperature in (0.0, 0.7, 1.0)]
        await asyncio.gather(*(self._inside_vllm(sample, asyncio.Queue()) for sample in samples))
        for sample in samples:
            rollout = _rollout(sample, FinishReason.LENGTH)
            temperature = sample.request.sampling.temperature or 1.0
            got = np.stack([rollout.logprobs, rollout.entropies, rollout.raw_entropies])
            wanted = await asyncio.to_thread(_plain, model, tokens, rollout.token_ids, temperature)
            difference = float(np.abs(got - wanted).max())
            if not difference <= self._tolerance:
                text = (
                    f"vLLM {self.version}: log-probabilities and entropies from its sampler differ by "
                    f"{difference:.2g} nats from a plain forward pass; at most {self._tolerance} is allowed. "
                    "This release samples in another way than vllm_worker knows; use a tested release"
                )
                raise FailedPrecondition(text)

    def _probe_sample(self, tokens: NDArray[np.int32], temperature: float) -> _Sample:
        sampling = Sampling(max_tokens=8, temperature=temperature, min_tokens=8)
        request = Request([Prompt(tokens)], 1, sampling, seed=0, raw_entropies=True)
        return _Sample(request, 0, 0, 0, tokens, limit=8)

    # Weights.

    async def _update_weights(self, folder: Path, policy_version: int, in_flight: InFlight) -> Update:
        async with self._updating:
            previous = self.policy_version
            if policy_version == previous:
                return self.last_update
            check_version(previous, policy_version)
            if not self._ready:
                raise Unavailable("the engine's process ended and is being started again; try later")
            started = time.monotonic()
            reference, copy = await asyncio.to_thread(self._prepare, folder, policy_version)
            self._gate.clear()
            try:
                await self._empty(in_flight)
                difference = await self._replace(copy, reference)
                self._forget(self._served)
                self._served = copy
                self.last_update = Update(policy_version, previous, difference, time.monotonic() - started)
            finally:
                if self._ready:
                    self._gate.set()
            return self.last_update

    def _prepare(self, folder: Path, policy_version: int) -> tuple[NDArray[np.float32], Path]:
        """Checks the delivered weights; log-probabilities of the probe under them, and a copy to load."""
        weights.check_same_model(folder, self._config)
        model = weights.load(folder, torch.float32, torch.device("cpu"))
        probe = weights.probe_tokens(self.limits.vocab_size, PROBE_LENGTH)
        reference = weights.plain_logprobs(model, probe).numpy()
        copy = Path(self._copies.name) / str(policy_version)
        shutil.rmtree(copy, ignore_errors=True)  # of an update that failed
        copy.mkdir()
        for file in (folder / "config.json", *folder.glob("*.safetensors")):
            shutil.copy(file, copy)
        return reference, copy

    async def _empty(self, in_flight: InFlight) -> None:
        """Returns once no sample is inside vLLM."""
        if in_flight is not InFlight.WAIT:
            for sample in self._inside.values():
                sample.interrupted = in_flight
            await self._llm.abort(list(self._inside))
        async with self._emptied:
            await self._emptied.wait_for(lambda: not self._inside)

    async def _replace(self, copy: Path, reference: NDArray[np.float32]) -> float:
        """Loads and probes `copy`; what was served before is loaded again if that fails."""
        try:
            await self._load(copy)
            difference = float(np.abs(await self._probe() - reference).max())
            if not difference <= self._tolerance:
                text = (
                    f"vLLM's log-probabilities on the probe differ by {difference:.2g} nats from those of a "
                    f"plain forward pass of the delivered tensors; at most {self._tolerance} is allowed"
                )
                raise FailedPrecondition(text)
        except Exception as error:
            if self._llm.errored:
                raise Unavailable("the engine's process ended during the update") from error
            await self._load(self._served)
            raise
        return difference

    async def _load(self, folder: Path) -> None:
        await self._llm.collective_rpc("extra_load_weights", args=(str(folder),))
        if not await self._llm.reset_prefix_cache():
            raise FailedPrecondition("vLLM would not drop what older weights computed; try again")

    async def _probe(self) -> NDArray[np.float32]:
        """float32 [probe length - 1]: vLLM's log-probabilities of the probe's tokens after the first."""
        from vllm import SamplingParams

        tokens = weights.probe_tokens(self.limits.vocab_size, PROBE_LENGTH).tolist()
        parameters = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        name = f"probe-{next(self._names)}"
        async for out in self._llm.generate({"prompt_token_ids": tokens}, parameters, name):
            found = out.prompt_logprobs
        pairs = zip(found[1:], tokens[1:], strict=True)
        return np.array([at[token].logprob for at, token in pairs], np.float32)

    def _forget(self, folder: Path) -> None:
        if folder != self._options.model:
            shutil.rmtree(folder, ignore_errors=True)


def _set_environment(options: VllmOptions) -> None:
    """What vLLM reads from the environment when it is imported; what is set already stays."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, options.kv_cache_bytes // 2**30)))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _dtype_name(options: VllmOptions) -> str:
    from vllm.platforms import current_platform

    return "float32" if options.dtype == "auto" and current_platform.is_cpu() else options.dtype


def _add(sample: _Sample, out: Any) -> None:
    """Appends what a vLLM output brings."""
    completion = out.outputs[0]
    sample.tokens += list(completion.token_ids)
    if completion.logprobs is not None:
        sample.logprobs += completion.logprobs.logprobs
        sample.ranks += completion.logprobs.ranks
    sample.cached_tokens = max(sample.cached_tokens, min(out.num_cached_tokens or 0, len(sample.prompt)))
    if isinstance(completion.stop_reason, str):
        sample.stop_string = completion.stop_reason
    if out.metrics is not None and not sample.first_token and out.metrics.first_token_ts:
        sample.scheduled = out.metrics.scheduled_ts - out.metrics.queued_ts
        sample.first_token = out.metrics.first_token_ts - out.metrics.scheduled_ts


def _finish_reason(sample: _Sample, completion: Any) -> FinishReason | None:
    if completion.finish_reason == "stop":
        return FinishReason.STOP
    if completion.finish_reason == "length":
        return FinishReason.LENGTH
    if sample.interrupted is None:
        raise Unavailable("the engine gave the sample up; try again")
    if sample.interrupted is InFlight.ABORT and sample.tokens:
        return FinishReason.ABORT
    return None


def _tokens(sample: _Sample, first: int) -> list[Event]:
    entropies = np.array(sample.ranks[first:], np.int64).view(np.float32).reshape(-1, 2)[:, 0]
    new = zip(sample.tokens[first:], sample.logprobs[first:], entropies.tolist(), strict=True)
    return [
        Token(sample.prompt_index, sample.sample_index, first + index, token, logprob, entropy)
        for index, (token, logprob, entropy) in enumerate(new)
    ]


def _rollout(sample: _Sample, reason: FinishReason) -> Rollout:
    entropies = np.array(sample.ranks, np.int64).view(np.float32).reshape(-1, 2)
    total = time.monotonic() - sample.submitted
    return Rollout(
        prompt_index=sample.prompt_index,
        sample_index=sample.sample_index,
        token_ids=np.array(sample.tokens, np.int32),
        logprobs=np.array(sample.logprobs, np.float32),
        entropies=entropies[:, 0].copy(),
        finish_reason=reason,
        policy_version=sample.policy_version,
        prompt_tokens=len(sample.prompt),
        cached_prompt_tokens=sample.cached_tokens,
        queue_seconds=sample.scheduled,
        prefill_seconds=sample.first_token,
        decode_seconds=max(0.0, total - sample.scheduled - sample.first_token),
        raw_entropies=entropies[:, 1].copy() if sample.request.raw_entropies else np.zeros(0, np.float32),
        policy_changes=tuple(sample.policy_changes),
        stop_string=sample.stop_string,
    )


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _plain(
    model: Any, prompt: NDArray[np.int32], continuation: NDArray[np.int32], temperature: float
) -> NDArray[np.float32]:
    """float32 [3, length]: log-probabilities, entropies, entropies at temperature 1, by one forward pass."""
    tokens = torch.from_numpy(np.concatenate([prompt, continuation])).long()
    logits = model(input_ids=tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    logprobs = torch.log_softmax(logits / temperature, -1)
    raw = torch.log_softmax(logits, -1)
    chosen = logprobs.gather(-1, tokens[len(prompt) :, None])[:, 0]
    entropies = [torch.special.entr(each.exp()).sum(-1) for each in (logprobs, raw)]
    stacked: NDArray[np.float32] = torch.stack([chosen, *entropies]).numpy()
    return stacked


def _eos_token_ids(model: Path, config: Any) -> list[int]:
    found = config.eos_token_id
    if (model / "generation_config.json").is_file():
        found = GenerationConfig.from_pretrained(model, local_files_only=True).eos_token_id or found
    if found is None:
        return []
    return [found] if isinstance(found, int) else list(found)
