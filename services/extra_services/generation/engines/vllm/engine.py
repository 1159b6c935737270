"""The engine for real work: vLLM's AsyncLLM, with exact entropies and weights that are replaced in place.

Every sample is a vLLM request of its own, so that each is delivered as it ends, with a seed of its own;
vLLM's prefix cache computes shared prompts once. Entropies come out of the sampler as `vllm_entropy` says. At
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
import contextlib
import itertools
import math
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from transformers import AutoConfig

from extra_services.errors import FailedPrecondition, InvalidInput, ServiceError, Unavailable
from extra_services.generation import weights
from extra_services.generation.engines.vllm.samples import Sample
from extra_services.generation.rollouts import (
    Event,
    FinishReason,
    InFlight,
    Limits,
    Load,
    Prompt,
    Request,
    Sampling,
    Update,
    accept,
    check_min_version,
    check_request,
    check_room,
    check_version,
    until_complete,
)
from extra_services.runtime import logs

log = structlog.get_logger()

#: vLLM raises lower temperatures to this one.
LEAST_TEMPERATURE = 0.01
#: Seconds between looks at whether the engine's process lives.
WATCH_SECONDS = 0.2
RESTARTING = "the engine's process ended and is being started again; try later"


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


class VllmEngine:
    """AsyncLLM with entropies; made by `start`."""

    name = "vllm"

    def __init__(self, options: VllmOptions, decode: Callable[[list[int]], str]) -> None:
        """Use `start`."""
        import vllm

        self.version = vllm.__version__
        self._options = options
        self._decode = decode
        self._llm: Any = None
        config = AutoConfig.from_pretrained(options.model, local_files_only=True)
        self._config = config
        window = options.max_model_len or config.max_position_embeddings
        self.limits = Limits(config.vocab_size, window, options.max_prompts, options.max_queue)
        self.eos_token_ids = weights.eos_token_ids(options.model, config)
        self.max_weight_bytes = 8 * weights.parameter_count(options.model)
        self.last_update = Update(options.policy_version, options.policy_version, 0.0, 0.0)
        self._seeds = np.random.Generator(np.random.Philox(options.seed))
        self._queued = 0
        self._inside: dict[str, Sample] = {}
        self._slots = asyncio.Semaphore(options.max_batch)
        self._gate = asyncio.Event()
        self._emptied = asyncio.Condition()
        self._updating = asyncio.Lock()
        self._names = itertools.count()
        # Weights that were delivered are copied here: the folder they came in is not ours to keep.
        self._copies = tempfile.TemporaryDirectory(prefix="extra-rl-weights-")
        self._served = options.model
        self._ready = False
        #: Whether vLLM must be started again, even if its process lives.
        self._broken = False
        #: Where the calls in progress hear what happened.
        self._calls: set[asyncio.Queue[list[Event] | Exception]] = set()
        self._readiness_changed = asyncio.Condition()
        self._watcher: asyncio.Task[None] | None = None
        self._tolerance = 0.0

    @classmethod
    async def start(cls, options: VllmOptions, decode: Callable[[list[int]], str]) -> "VllmEngine":
        """Loads the model; FailedPrecondition if vLLM cannot, or if what its sampler gives is not exact.

        `decode` makes text of token ids, to look for stop strings in.
        """
        _set_environment()
        engine = cls(options, decode)
        try:
            await engine._launch()
        except Exception as error:
            await engine.close()
            if isinstance(error, ServiceError):
                raise
            raise FailedPrecondition(f"vLLM {engine.version} does not start: {error}") from error
        engine._watcher = asyncio.create_task(engine._watch())
        return engine

    @property
    def policy_version(self) -> int:
        """Version of the weights served now."""
        return self.last_update.policy_version

    def load(self) -> Load:
        """See `rollouts.Engine`."""
        samples = list(self._inside.values())
        return Load(
            waiting=self._queued - len(samples),
            running=len(samples),
            slots=self._options.max_batch,
            kv_tokens=sum(len(sample.prompt) + len(sample.tokens) for sample in samples),
            # vLLM measures both itself, in its own metrics.
            kv_limit_tokens=math.nan,
            prefix_cache_bytes=math.nan,
        )

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
        self._calls.add(happened)
        try:
            async for what in until_complete(request, happened):
                yield what
        finally:
            self._calls.discard(happened)
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
        if self._llm is not None:
            self._llm.shutdown()
        self._copies.cleanup()

    # Samples.

    def _take(self, request: Request) -> tuple[list[Sample], list[Event]]:
        check_request(request, len(request.prompts), self.limits)
        if 0 < request.sampling.temperature < LEAST_TEMPERATURE:
            text = f"vLLM has no temperature between 0 and {LEAST_TEMPERATURE}; use 0 (greedy)"
            raise InvalidInput("sampling.temperature", text)
        check_min_version(self.policy_version, request.min_policy_version)
        if not self._ready:
            raise Unavailable(RESTARTING)
        seed = request.seed if request.seed is not None else int(self._seeds.integers(2**63))
        accepted, refused = accept(request, self.limits)
        samples = [
            Sample(request, seed, prompt.index, place, prompt.tokens, prompt.limit)
            for prompt in accepted
            for place in range(request.n)
        ]
        check_room(self._queued, len(samples), self.limits)
        self._queued += len(samples)
        return samples, refused

    async def _sample(self, sample: Sample, happened: "asyncio.Queue[list[Event] | Exception]") -> None:
        """Runs a sample to its end, through the updates on the way."""
        try:
            reason = None
            while reason is None:
                async with self._slots:
                    await self._gate.wait()
                    reason = await self._inside_vllm(sample, happened)
            happened.put_nowait([sample.rollout(reason)])
        except ServiceError as error:
            happened.put_nowait(error)
        except Exception as error:
            happened.put_nowait(self._told(error))
        finally:
            self._queued -= 1

    async def _inside_vllm(
        self, sample: Sample, happened: "asyncio.Queue[list[Event] | Exception]", rank: int | None = None
    ) -> FinishReason | None:
        """Lets vLLM draw the sample's next tokens; None if it goes on after an update."""
        sample.enter(self.policy_version)
        # What vLLM logs of it names the request it is of.
        name = f"{logs.request_id()}/sample-{next(self._names)}"
        self._inside[name] = sample
        try:
            outputs = self._llm.generate(
                {"prompt_token_ids": [*sample.prompt.tolist(), *sample.tokens]},
                self._parameters(sample),
                name,
                data_parallel_rank=rank,
            )
            # Closing it ends the request in vLLM.
            async with contextlib.aclosing(outputs):
                async for out in outputs:
                    first = len(sample.tokens)
                    sample.add(out, self._decode)
                    if sample.request.stream_tokens and len(sample.tokens) > first:
                        happened.put_nowait(sample.new_tokens(first))
                    if sample.stop_string is not None:
                        break
        finally:
            del self._inside[name]
            async with self._emptied:
                self._emptied.notify_all()
        return sample.finish_reason(out.outputs[0])

    def _parameters(self, sample: Sample) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling, drawn = sample.request.sampling, len(sample.tokens)
        vllm_stops = bool(sampling.stop_strings) and not sample.seeks_stop
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
            stop=list(sampling.stop_strings) if vllm_stops else None,
            detokenize=vllm_stops,
            seed=int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1)),
            logprobs=0,
            flat_logprobs=True,
            extra_args={"raw_entropies": True} if sample.request.raw_entropies else None,
            output_kind=RequestOutputKind.DELTA
            if sample.request.stream_tokens or sample.seeks_stop
            else RequestOutputKind.FINAL_ONLY,
        )

    def _told(self, error: Exception) -> Exception:
        if self._llm.errored or type(error).__name__ == "EngineDeadError":
            return Unavailable(RESTARTING)
        return error

    # Start and restart.

    async def _launch(self) -> None:
        """Starts vLLM with the weights served last, and opens the gate once they are proven."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(**_arguments(self._options))
        # In a thread: calls that come while it starts again must be told so, not left to wait.
        self._llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
        self._tolerance = weights.TOLERANCE[self._llm.model_config.dtype]
        runners = await self._llm.collective_rpc("extra_install_entropy")
        log.info("vLLM started", version=self.version, model_runners=runners)
        await self._check_entropies()
        if self._served != self._options.model:
            await self._load(self._served)
        self._broken = False
        self._gate.set()
        await self._set_ready(True)

    async def _watch(self) -> None:
        """Starts vLLM again whenever its process has died."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not (self._llm.errored or self._broken):
                continue
            log.error("vLLM's process ended; starting it again")
            self._broken = True
            self._gate.clear()
            await self._set_ready(False)
            for happened in self._calls:
                happened.put_nowait(Unavailable(RESTARTING))
            try:
                await asyncio.to_thread(self._llm.shutdown)
                await self._launch()
            except Exception as error:
                log.error("vLLM does not start", exc_info=error)

    async def _set_ready(self, ready: bool) -> None:
        self._ready = ready
        async with self._readiness_changed:
            self._readiness_changed.notify_all()

    async def _check_entropies(self) -> None:
        """FailedPrecondition unless log-probabilities and entropies agree with a plain forward pass."""
        tokens = (
            weights.probe_tokens(self.limits.vocab_size, weights.PROBE_LENGTH // 2).numpy().astype(np.int32)
        )
        model = await asyncio.to_thread(weights.load, self._options.model, torch.float32, torch.device("cpu"))
        cases = list(itertools.product((0.0, 0.7, 1.0), self._ranks))
        samples = [self._probe_sample(tokens, temperature) for temperature, _ in cases]
        calls = zip(samples, (rank for _, rank in cases), strict=True)
        await asyncio.gather(*(self._inside_vllm(sample, asyncio.Queue(), rank) for sample, rank in calls))
        for sample in samples:
            rollout = sample.rollout(FinishReason.LENGTH)
            temperature = sample.request.sampling.temperature or 1.0
            got = np.stack([rollout.logprobs, rollout.entropies, rollout.raw_entropies])
            wanted = await asyncio.to_thread(_plain, model, tokens, rollout.token_ids, temperature)
            difference = float(np.abs(got - wanted).max())
            if not difference <= self._tolerance:
                text = (
                    f"vLLM {self.version}: log-probabilities and entropies from its sampler differ by "
                    f"{difference:.2g} nats from a plain forward pass; at most {self._tolerance} is allowed. "
                    "This release samples in another way than vllm_entropy knows; use a tested release"
                )
                raise FailedPrecondition(text)

    def _probe_sample(self, tokens: NDArray[np.int32], temperature: float) -> Sample:
        sampling = Sampling(max_tokens=8, temperature=temperature, min_tokens=8)
        request = Request([Prompt(tokens)], 1, sampling, seed=0, raw_entropies=True)
        return Sample(request, 0, 0, 0, tokens, limit=8)

    # Weights.

    async def _update_weights(self, folder: Path, policy_version: int, in_flight: InFlight) -> Update:
        async with self._updating:
            previous = self.policy_version
            if policy_version == previous:
                return self.last_update
            check_version(previous, policy_version)
            if not self._ready:
                raise Unavailable(RESTARTING)
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
        probe = weights.probe_tokens(self.limits.vocab_size, weights.PROBE_LENGTH)
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
            probes = [await self._probe(rank) for rank in self._ranks]
            difference = float(np.abs(np.stack(probes) - reference).max())
            if not difference <= self._tolerance:
                text = (
                    f"vLLM's log-probabilities on the probe differ by {difference:.2g} nats from those of a "
                    f"plain forward pass of the delivered tensors; at most {self._tolerance} is allowed"
                )
                raise FailedPrecondition(text)
        except Exception as error:
            if self._llm.errored:
                raise Unavailable("the engine's process ended during the update") from error
            await self._restore()
            raise
        return difference

    async def _restore(self) -> None:
        """Loads the weights served before again; where that fails, too, vLLM is started anew with them."""
        try:
            await self._load(self._served)
        except Exception as error:
            log.error("the weights served before cannot be loaded again", exc_info=error)
            self._ready, self._broken = False, True

    async def _load(self, folder: Path) -> None:
        await self._llm.collective_rpc("extra_load_weights", args=(str(folder),))
        if not await self._llm.reset_prefix_cache():
            raise FailedPrecondition("vLLM would not drop what older weights computed; try again")

    @property
    def _ranks(self) -> list[int | None]:
        """The copies of the model, as vLLM names them to a request; None: the only one."""
        count = self._options.data_parallel_size
        return [None] if count == 1 else list(range(count))

    async def _probe(self, rank: int | None) -> NDArray[np.float32]:
        """float32 [probe length - 1]: a copy's log-probabilities of the probe's tokens after the first."""
        from vllm import SamplingParams

        tokens = weights.probe_tokens(self.limits.vocab_size, weights.PROBE_LENGTH).tolist()
        parameters = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        name = f"probe-{next(self._names)}"
        prompt = {"prompt_token_ids": tokens}
        async for out in self._llm.generate(prompt, parameters, name, data_parallel_rank=rank):
            found = out.prompt_logprobs
        pairs = zip(found[1:], tokens[1:], strict=True)
        return np.array([at[token].logprob for at, token in pairs], np.float32)

    def _forget(self, folder: Path) -> None:
        if folder != self._options.model:
            shutil.rmtree(folder, ignore_errors=True)


def _set_environment() -> None:
    """What vLLM reads from the environment when it is imported; what is set already stays."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _arguments(options: VllmOptions) -> dict[str, Any]:
    """AsyncEngineArgs for `options`."""
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    memory = {"kv_cache_memory_bytes": options.kv_cache_bytes}
    return {
        "model": str(options.model),
        "dtype": "float32" if options.dtype == "auto" and on_cpu else options.dtype,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_batch,
        "tensor_parallel_size": options.tensor_parallel_size,
        "data_parallel_size": options.data_parallel_size,
        "enforce_eager": not options.compiled,
        "enable_prefix_caching": True,
        "load_format": "safetensors",
        "worker_extension_cls": "extra_services.generation.engines.vllm.worker.EntropyWorker",
        "seed": options.seed if options.seed is not None else 0,
        **(memory if on_cpu else {"gpu_memory_utilization": options.gpu_memory_utilization}),
    }


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
