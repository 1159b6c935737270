"""The vLLM engine: AsyncLLM with exact entropies and with weights that are replaced in place.

Every sample is a vLLM request with a seed of its own, so that each is delivered when it ends; vLLM's prefix
cache computes shared prompts once. The sampler returns the entropies as `extra_rl.vllm_entropy` describes. At
start-up the engine compares them and the log-probabilities with a plain forward pass of the same weights, and
does not start if they differ: a release of vLLM that samples elsewhere must not serve wrong numbers.

At most `max_batch` samples are inside vLLM; the others wait before a gate in this process. The gate makes an
update atomic: it closes, the samples inside end (wait) or are aborted (abort, keep), the prefix cache of the
empty vLLM is dropped, the weights are loaded and probed, and the gate opens again. Kept samples enter again
with their tokens as part of the prompt, so their keys and values are new, and the token at which the policy
changed is known. If the probe fails, the previous weights are loaded again from the engine's own copy.

The model runs in a process of its own. If it dies, calls fail with Unavailable, and it is started again with
the weights served last.
"""

import asyncio
import contextlib
import itertools
import math
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from transformers import AutoConfig

from extra_rl import vllm_entropy
from extra_rl.vocabulary import FinishReason, InFlight
from extra_services.errors import FailedPrecondition, InvalidInput, ServiceError, Unavailable
from extra_services.generation import weights
from extra_services.generation.engines.protocol import EngineLoad, WeightUpdate, check_version, until_complete
from extra_services.generation.engines.vllm.options import VllmOptions, engine_arguments, set_environment
from extra_services.generation.engines.vllm.samples import Sample
from extra_services.generation.requests import (
    EngineLimits,
    GenerationRequest,
    Prompt,
    SamplingParameters,
    accept,
    check_min_version,
    check_request,
    check_room,
)
from extra_services.generation.rollouts import GenerationEvent
from extra_services.generation.weights import Delivery
from extra_services.runtime import logs

log = structlog.get_logger()

#: Seconds between looks at whether the engine's process lives.
WATCH_SECONDS = 0.2
#: (temperature, min_p) of the draws that are compared with a plain forward pass at start-up.
PROBES = ((0.0, 0.0), (0.7, 0.0), (1.0, 0.0), (0.7, 0.1))
RESTARTING = "the engine's process ended and is being started again; try later"


class VllmEngine:
    """An `Engine` on vLLM; create it with `start`."""

    name = "vllm"

    def __init__(self, options: VllmOptions, decode: Callable[[list[int]], str]) -> None:
        """Prepare the engine; `start` completes it."""
        import vllm

        self.version = vllm.__version__
        self._options = options
        self._decode = decode
        self._llm: Any = None
        config = AutoConfig.from_pretrained(options.model, local_files_only=True)
        self._config = config
        window = options.max_model_len or config.max_position_embeddings
        self.limits = EngineLimits(config.vocab_size, window, options.max_prompts, options.max_queue)
        self.eos_token_ids = weights.eos_token_ids(options.model, config)
        self.max_weight_bytes = 8 * weights.parameter_count(options.model)
        self.last_update = WeightUpdate(options.policy_version, options.policy_version, 0.0, 0.0)
        self._seeds = np.random.Generator(np.random.Philox(options.seed))
        self._queued = 0
        self._inside: dict[str, Sample] = {}
        self._slots = asyncio.Semaphore(options.max_batch)
        self._gate = asyncio.Event()
        self._emptied = asyncio.Condition()
        self._updating = asyncio.Lock()
        self._names = itertools.count()
        # Delivered weights are copied here, because the workers read files: the caller may delete
        # their folder, and streamed ones have none.
        self._copies = tempfile.TemporaryDirectory(prefix="extra-rl-weights-")
        self._served = options.model
        self._ready = False
        #: Whether vLLM must be started again although its process lives.
        self._broken = False
        #: The event queues of the calls in progress.
        self._calls: set[asyncio.Queue[list[GenerationEvent] | Exception]] = set()
        self._readiness_changed = asyncio.Condition()
        self._watcher: asyncio.Task[None] | None = None
        self._tolerance = 0.0

    @classmethod
    async def start(cls, options: VllmOptions, decode: Callable[[list[int]], str]) -> "VllmEngine":
        """Load the model and start vLLM.

        Args:
            options: Options of the engine.
            decode: Converts token ids to the text in which stop strings are sought.

        Raises:
            FailedPrecondition: vLLM does not start, or its sampler does not return exact entropies.
        """
        set_environment()
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

    def load(self) -> EngineLoad:
        """Return the current load."""
        samples = list(self._inside.values())
        return EngineLoad(
            waiting=self._queued - len(samples),
            running=len(samples),
            slots=self._options.max_batch,
            kv_tokens=sum(len(sample.prompt) + len(sample.tokens) for sample in samples),
            # vLLM has metrics of its own for both.
            kv_limit_tokens=math.nan,
            prefix_cache_bytes=math.nan,
        )

    async def readiness(self) -> AsyncIterator[bool]:
        """Yield whether the engine can serve, now and after each change."""
        reported: bool | None = None
        while True:
            async with self._readiness_changed:
                while self._ready == reported:
                    await self._readiness_changed.wait()
                reported = self._ready
            yield reported

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[list[GenerationEvent], None]:
        """Yield events as they occur; closing the generator, at any time, ends the request's work."""
        samples, refused = self._take(request)
        events: asyncio.Queue[list[GenerationEvent] | Exception] = asyncio.Queue()
        if refused:
            events.put_nowait(refused)
        tasks = [asyncio.create_task(self._sample(sample, events)) for sample in samples]
        self._calls.add(events)
        try:
            async for entry in until_complete(request, events):
                yield entry
        finally:
            self._calls.discard(events)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def update_weights(
        self, delivery: Delivery, policy_version: int, in_flight: InFlight
    ) -> WeightUpdate:
        """Serve delivered weights; see `protocol.Engine`."""
        return await asyncio.shield(self._update_weights(delivery, policy_version, in_flight))

    async def close(self) -> None:
        """End the engine's process."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._llm is not None:
            self._llm.shutdown()
        self._copies.cleanup()

    # Samples.

    def _take(self, request: GenerationRequest) -> tuple[list[Sample], list[GenerationEvent]]:
        check_request(request, len(request.prompts), self.limits)
        if request.prompt_scores:
            text = "vLLM gives no log-probabilities of prompts here; use the engine transformers"
            raise InvalidInput("prompt_logprobs", text)
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

    async def _sample(
        self, sample: Sample, events: "asyncio.Queue[list[GenerationEvent] | Exception]"
    ) -> None:
        """Run a sample to its end, across updates."""
        try:
            reason = None
            while reason is None:
                async with self._slots:
                    await self._gate.wait()
                    reason = await self._inside_vllm(sample, events)
            events.put_nowait([sample.rollout(reason)])
        except ServiceError as error:
            events.put_nowait(error)
        except Exception as error:
            events.put_nowait(self._public_error(error))
        finally:
            self._queued -= 1

    async def _inside_vllm(
        self,
        sample: Sample,
        events: "asyncio.Queue[list[GenerationEvent] | Exception]",
        rank: int | None = None,
    ) -> FinishReason | None:
        """Have vLLM draw the next tokens of a sample; return None if it continues after an update."""
        sample.enter(self.policy_version)
        # vLLM logs this name, so that its log lines show the request.
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
                        events.put_nowait(sample.new_tokens(first))
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
        # A sample that enters again must not draw the same noise again.
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
            logprobs=vllm_entropy.TRUNCATED if sample.request.truncated else 0,
            flat_logprobs=True,
            extra_args={"raw_entropies": True} if sample.request.raw_entropies else None,
            output_kind=RequestOutputKind.DELTA
            if sample.request.stream_tokens or sample.seeks_stop
            else RequestOutputKind.FINAL_ONLY,
        )

    def _public_error(self, error: Exception) -> Exception:
        if self._llm.errored or type(error).__name__ == "EngineDeadError":
            return Unavailable(RESTARTING)
        return error

    # Start and restart.

    async def _launch(self) -> None:
        """Start vLLM with the weights served last, check it, and open the gate."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(**engine_arguments(self._options))
        # In a thread, so that calls that arrive during a restart are refused at once and do not wait.
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
        """Start vLLM again whenever its process has died."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not (self._llm.errored or self._broken):
                continue
            log.error("vLLM's process ended; starting it again")
            self._broken = True
            self._gate.clear()
            await self._set_ready(False)
            for events in self._calls:
                events.put_nowait(Unavailable(RESTARTING))
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
        """Raise FailedPrecondition if the numbers of a token differ from those of a plain forward pass."""
        tokens = (
            weights.probe_tokens(self.limits.vocab_size, weights.PROBE_LENGTH // 2).numpy().astype(np.int32)
        )
        model = await asyncio.to_thread(
            weights.load, Delivery(self._options.model), torch.float32, torch.device("cpu")
        )
        cases = list(itertools.product(PROBES, self._ranks))
        samples = [self._probe_sample(tokens, *probe) for probe, _ in cases]
        calls = zip(samples, (rank for _, rank in cases), strict=True)
        await asyncio.gather(*(self._inside_vllm(sample, asyncio.Queue(), rank) for sample, rank in calls))
        for sample in samples:
            rollout = sample.rollout(FinishReason.LENGTH)
            numbers = [rollout.logprobs, rollout.entropies, rollout.raw_entropies]
            if rollout.truncated is not None:
                numbers += [rollout.truncated.logprobs, rollout.truncated.entropies]
            got, sampling = np.stack(numbers), sample.request.sampling
            wanted = await asyncio.to_thread(_plain, model, tokens, rollout.token_ids, sampling)
            difference = float(np.abs(got - wanted).max())
            if not difference <= self._tolerance:
                text = (
                    f"vLLM {self.version}: log-probabilities and entropies from its sampler differ by "
                    f"{difference:.2g} nats from a plain forward pass; at most {self._tolerance} is allowed. "
                    "This release samples differently from what vllm_entropy knows; use a tested release"
                )
                raise FailedPrecondition(text)

    def _probe_sample(self, tokens: NDArray[np.int32], temperature: float, min_p: float) -> Sample:
        # With min_tokens the tokens that stop cannot be drawn either, and vLLM has its own list of them.
        least = 0 if min_p else 8
        sampling = SamplingParameters(8, temperature=temperature, min_p=min_p, min_tokens=least)
        request = GenerationRequest(
            [Prompt(tokens)], 1, sampling, seed=0, raw_entropies=True, truncated=bool(min_p)
        )
        return Sample(request, 0, 0, 0, tokens, limit=8)

    # Weights.

    async def _update_weights(
        self, delivery: Delivery, policy_version: int, in_flight: InFlight
    ) -> WeightUpdate:
        async with self._updating:
            previous = self.policy_version
            if policy_version == previous:
                return self.last_update
            check_version(previous, policy_version)
            if not self._ready:
                raise Unavailable(RESTARTING)
            started = time.monotonic()
            reference, copy = await asyncio.to_thread(self._prepare, delivery, policy_version)
            self._gate.clear()
            try:
                await self._empty(in_flight)
                difference = await self._replace(copy, reference)
                self._forget(self._served)
                self._served = copy
                self.last_update = WeightUpdate(
                    policy_version, previous, difference, time.monotonic() - started
                )
            finally:
                if self._ready:
                    self._gate.set()
            return self.last_update

    def _prepare(self, delivery: Delivery, policy_version: int) -> tuple[NDArray[np.float32], Path]:
        """Check the delivered weights; return their log-probabilities of the probe, and a copy to load."""
        weights.check_same_model(delivery, self._config)
        model = weights.load(delivery, torch.float32, torch.device("cpu"))
        probe = weights.probe_tokens(self.limits.vocab_size, weights.PROBE_LENGTH)
        reference = weights.plain_logprobs(model, probe).numpy()
        copy = Path(self._copies.name) / str(policy_version)
        shutil.rmtree(copy, ignore_errors=True)  # of an update that failed
        copy.mkdir()
        delivery.write(copy)
        return reference, copy

    async def _empty(self, in_flight: InFlight) -> None:
        """Wait until no sample is inside vLLM."""
        if in_flight is not InFlight.WAIT:
            for sample in self._inside.values():
                sample.interrupted = in_flight
            await self._llm.abort(list(self._inside))
        async with self._emptied:
            await self._emptied.wait_for(lambda: not self._inside)

    async def _replace(self, copy: Path, reference: NDArray[np.float32]) -> float:
        """Load and probe `copy`; if that fails, load the previous weights again."""
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
        """Load the previous weights again; if that fails, vLLM is started again with them."""
        try:
            await self._load(self._served)
        except Exception as error:
            log.error("the previous weights cannot be loaded again", exc_info=error)
            self._ready, self._broken = False, True

    async def _load(self, folder: Path) -> None:
        await self._llm.collective_rpc("extra_load_weights", args=(str(folder),))
        if not await self._llm.reset_prefix_cache():
            raise FailedPrecondition("vLLM did not drop the cache computed with older weights; try again")

    @property
    def _ranks(self) -> list[int | None]:
        """The data-parallel ranks of the copies of the model; None: the only copy."""
        count = self._options.data_parallel_size
        return [None] if count == 1 else list(range(count))

    async def _probe(self, rank: int | None) -> NDArray[np.float32]:
        """Return float32 [probe length - 1]: one copy's log-probabilities of the probe's later tokens."""
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


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _plain(
    model: Any, prompt: NDArray[np.int32], continuation: NDArray[np.int32], sampling: SamplingParameters
) -> NDArray[np.float32]:
    """Return float32 [3, length]: log-probabilities, entropies, entropies at temperature 1.

    With min_p [5, length]: also log-probabilities and entropies of the distribution that it leaves.
    """
    tokens = torch.from_numpy(np.concatenate([prompt, continuation])).long()
    logits = model(input_ids=tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    logprobs = torch.log_softmax(logits / (sampling.temperature or 1.0), -1)
    drawn = tokens[len(prompt) :, None]
    numbers = [logprobs.gather(-1, drawn)[:, 0], _entropies(logprobs), _entropies(logits.log_softmax(-1))]
    if sampling.min_p:
        least = logprobs.amax(-1, keepdim=True) + math.log(sampling.min_p)
        left = logprobs.masked_fill(logprobs < least, -torch.inf).log_softmax(-1)
        numbers += [left.gather(-1, drawn)[:, 0], _entropies(left)]
    stacked: NDArray[np.float32] = torch.stack(numbers).numpy()
    return stacked


def _entropies(logprobs: torch.Tensor) -> torch.Tensor:
    # Not those of vllm_entropy, which are compared with these.
    return torch.special.entr(logprobs.exp()).sum(-1)
