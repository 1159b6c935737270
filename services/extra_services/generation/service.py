"""The GenerationService servicer: proto to domain and back, for whichever engine runs."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_rl.v1 import common_pb2, generation_pb2_grpc
from extra_rl.v1 import generation_pb2 as pb
from extra_services.errors import InvalidInput, ServiceError
from extra_services.generation import instruments, weights
from extra_services.generation.rollouts import (
    Engine,
    Event,
    FinishReason,
    InFlight,
    Prompt,
    PromptRefused,
    Request,
    Rollout,
    Sampling,
    Token,
    Update,
    check_request,
)
from extra_services.generation.segments import segments
from extra_services.generation.tensor_stream import TensorStream
from extra_services.generation.vocabulary import Vocabulary
from extra_services.runtime import arrays
from extra_services.runtime.errors import item_error

FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.ABORT: pb.FINISH_REASON_ABORT,
}
IN_FLIGHT = {
    pb.IN_FLIGHT_UNSPECIFIED: InFlight.WAIT,
    pb.IN_FLIGHT_WAIT: InFlight.WAIT,
    pb.IN_FLIGHT_ABORT: InFlight.ABORT,
    pb.IN_FLIGHT_KEEP: InFlight.KEEP,
}


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Serves one engine and the tokenizer of its model."""

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        model: Path,
        weights_root: Path | None,
        server: common_pb2.ServerInfo,
    ) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self._model = model
        self._weights_root = weights_root
        self._server = server

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        """See the proto."""
        wanted = Request(
            prompts=[],
            n=request.n,
            sampling=_sampling(request.sampling),
            seed=request.seed if request.HasField("seed") else None,
            min_policy_version=request.min_policy_version if request.HasField("min_policy_version") else None,
            stream_tokens=request.stream_tokens,
            raw_entropies=request.raw_entropies,
        )
        # Before the prompts are read: too many of them are refused, not tokenized.
        check_request(wanted, len(request.prompts), self._engine.limits)
        prompts = await asyncio.to_thread(lambda: [self._prompt(prompt) for prompt in request.prompts])
        if request.segment_entropies:
            await asyncio.to_thread(lambda: self._vocabulary.newline_ids)  # a while, the first time
        events = self._engine.generate(replace(wanted, prompts=prompts))
        observed = instruments.Observed(request.n)
        try:
            async for batch in events:
                for event in batch:
                    if isinstance(event, Rollout):
                        observed.sample(event)
                    yield self._response(event, prompts, request.segment_entropies)
        finally:
            await events.aclose()

    async def UpdateWeights(self, request: pb.UpdateWeightsRequest, context: Any) -> pb.UpdateWeightsResponse:
        """See the proto."""
        in_flight = _in_flight(request.in_flight)
        if request.policy_version == self._engine.policy_version:
            update = self._engine.last_update
        else:
            folder = await asyncio.to_thread(weights.resolve, self._weights_root, request.path)
            update = await self._update(folder, request.policy_version, in_flight)
        return pb.UpdateWeightsResponse(**asdict(update))

    async def StreamWeights(
        self, request_iterator: AsyncIterator[pb.StreamWeightsRequest], context: Any
    ) -> pb.StreamWeightsResponse:
        """See the proto."""
        first = await anext(aiter(request_iterator), pb.StreamWeightsRequest())
        if first.WhichOneof("part") != "header":
            raise InvalidInput("header", "the first message must be the header")
        in_flight = _in_flight(first.header.in_flight)
        stream = TensorStream(self._engine.max_weight_bytes)
        async for message in request_iterator:
            if message.WhichOneof("part") != "chunk":
                raise InvalidInput("chunk", "after the header, every message must be a chunk")
            chunk = message.chunk
            stream.add(chunk.name, chunk.dtype, tuple(chunk.shape), chunk.data)
        with tempfile.TemporaryDirectory(prefix="extra-rl-weights-") as name:
            folder = Path(name)
            await asyncio.to_thread(stream.write, folder, self._model)
            update = await self._update(folder, first.header.policy_version, in_flight)
        return pb.StreamWeightsResponse(**asdict(update))

    async def _update(self, folder: Path, policy_version: int, in_flight: InFlight) -> Update:
        with instruments.updating():
            return await self._engine.update_weights(folder, policy_version, in_flight)

    async def GetInfo(
        self, request: pb.GenerationServiceGetInfoRequest, context: Any
    ) -> pb.GenerationServiceGetInfoResponse:
        """See the proto."""
        limits = self._engine.limits
        return pb.GenerationServiceGetInfoResponse(
            engine=self._engine.name,
            engine_version=self._engine.version,
            model=str(self._model),
            policy_version=self._engine.policy_version,
            vocab_size=limits.vocab_size,
            vocab_hash=self._vocabulary.hash,
            max_model_len=limits.max_model_len,
            max_prompts=limits.max_prompts,
            eos_token_ids=self._engine.eos_token_ids,
            max_samples=limits.max_queue,
            server=self._server,
        )

    def _prompt(self, prompt: pb.Prompt) -> Prompt | ServiceError:
        try:
            ids = self._prompt_ids(prompt)
            prefix = arrays.ints(prompt.prefix_token_ids, "prefix_token_ids")
        except InvalidInput as error:
            return error
        return Prompt(
            ids,
            prefix,
            prompt.max_tokens if prompt.HasField("max_tokens") else None,
            prompt.seed_index if prompt.HasField("seed_index") else None,
        )

    def _prompt_ids(self, prompt: pb.Prompt) -> NDArray[np.int32]:
        if prompt.WhichOneof("input") == "text":
            return self._vocabulary.encode(prompt.text)
        if prompt.WhichOneof("input") == "token_ids":
            return arrays.ints(prompt.token_ids.ids, "token_ids.ids")
        if prompt.WhichOneof("input") == "chat":
            messages = [(message.role, message.content) for message in prompt.chat.messages]
            return self._vocabulary.encode_chat(messages)
        raise InvalidInput("input", "the prompt has no text, token ids or chat messages")

    def _response(
        self, event: Event, prompts: list[Prompt | ServiceError], with_segments: bool
    ) -> pb.GenerateResponse:
        if isinstance(event, PromptRefused):
            error = pb.PromptError(prompt_index=event.prompt_index, error=item_error(event.error))
            return pb.GenerateResponse(prompt_error=error)
        if isinstance(event, Token):
            return pb.GenerateResponse(token=pb.SampledToken(**asdict(event)))
        prompt = prompts[event.prompt_index]
        assert isinstance(prompt, Prompt)
        rollout = self._rollout(event, prompt)
        if with_segments:
            found = segments(event.token_ids, event.entropies, self._vocabulary.newline_ids)
            rollout.segments.extend(pb.SegmentEntropy(**asdict(segment)) for segment in found)
        return pb.GenerateResponse(rollout=rollout)

    def _rollout(self, rollout: Rollout, prompt: Prompt) -> pb.Rollout:
        return pb.Rollout(
            prompt_index=rollout.prompt_index,
            sample_index=rollout.sample_index,
            token_ids=arrays.to_bytes(rollout.token_ids),
            logprobs=arrays.to_bytes(rollout.logprobs),
            entropies=arrays.to_bytes(rollout.entropies),
            raw_entropies=arrays.to_bytes(rollout.raw_entropies),
            text=self._text(rollout, prompt),
            finish_reason=FINISH_REASONS[rollout.finish_reason],
            policy_version=rollout.policy_version,
            policy_changes=[
                pb.PolicyChange(token_index=index, policy_version=version)
                for index, version in rollout.policy_changes
            ],
            prompt_tokens=rollout.prompt_tokens,
            cached_prompt_tokens=rollout.cached_prompt_tokens,
            timings=pb.GenerationTimings(
                queue_seconds=rollout.queue_seconds,
                prefill_seconds=rollout.prefill_seconds,
                decode_seconds=rollout.decode_seconds,
            ),
        )

    def _text(self, rollout: Rollout, prompt: Prompt) -> str:
        """Prefix and continuation decoded together, up to the stop string that ended it."""
        text = self._vocabulary.decode([*prompt.prefix.tolist(), *rollout.token_ids.tolist()])
        return text if rollout.stop_string is None else text[: text.rfind(rollout.stop_string)]


def _in_flight(value: pb.InFlight.ValueType) -> InFlight:
    if value not in IN_FLIGHT:
        raise InvalidInput("in_flight", f"{value} is no InFlight; use WAIT, ABORT or KEEP")
    return IN_FLIGHT[value]


def _sampling(sampling: pb.SamplingParams) -> Sampling:
    return Sampling(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature if sampling.HasField("temperature") else 1.0,
        top_p=sampling.top_p if sampling.HasField("top_p") else 1.0,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        min_tokens=sampling.min_tokens,
        stop_token_ids=tuple(sampling.stop_token_ids),
        stop_strings=tuple(sampling.stop_strings),
    )
