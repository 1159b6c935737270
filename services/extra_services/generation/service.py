"""The generation servicer: it translates between the API and the engine."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_rl import wire
from extra_rl.v1 import common_pb2, generation_pb2_grpc
from extra_rl.v1 import generation_pb2 as pb
from extra_rl.vocabulary import InFlight
from extra_services.errors import FailedPrecondition, InvalidInput, ServiceError
from extra_services.generation import instruments, weights
from extra_services.generation.engines.protocol import Engine, WeightUpdate
from extra_services.generation.requests import (
    GenerationRequest,
    Prompt,
    SamplingParameters,
    check_request,
)
from extra_services.generation.rollouts import GenerationEvent, PromptError, Rollout, SampledToken
from extra_services.generation.segments import segments
from extra_services.generation.tensor_stream import TensorStream
from extra_services.generation.tokenizer import Tokenizer
from extra_services.generation.weights import Delivery
from extra_services.runtime import arrays
from extra_services.runtime.errors import item_error


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Serve one engine.

    Args:
        engine: The engine.
        tokenizer: The tokenizer of its model.
        model: The folder of the model.
        weights_root: The folder under which UpdateWeights may read; None: nowhere.
        server: Release and limits of the server.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        model: Path,
        weights_root: Path | None,
        server: common_pb2.ServerInfo,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._model = model
        self._weights_root = weights_root
        self._server = server

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        """Sample continuations of prompts."""
        wanted = GenerationRequest(
            prompts=[],
            n=request.n,
            sampling=_sampling(request.sampling),
            seed=request.seed if request.HasField("seed") else None,
            min_policy_version=request.min_policy_version if request.HasField("min_policy_version") else None,
            stream_tokens=request.stream_tokens,
            raw_entropies=request.raw_entropies,
            truncated=request.truncated,
            prompt_scores=request.prompt_logprobs,
        )
        # Before the prompts are read: too many of them are refused without tokenizing them.
        check_request(wanted, len(request.prompts), self._engine.limits)
        prompts = await asyncio.to_thread(lambda: [self._prompt(prompt) for prompt in request.prompts])
        if request.segment_entropies:
            await asyncio.to_thread(lambda: self._tokenizer.newline_ids)  # slow the first time
        events = self._engine.generate(replace(wanted, prompts=prompts))
        metrics = instruments.RequestMetrics(request.n)
        try:
            async for batch in events:
                for event in batch:
                    if isinstance(event, Rollout):
                        metrics.sample(event)
                    yield self._response(event, prompts, request.segment_entropies)
        finally:
            await events.aclose()

    async def UpdateWeights(self, request: pb.UpdateWeightsRequest, context: Any) -> pb.UpdateWeightsResponse:
        """Serve the weights in a folder under the weights root."""
        in_flight = _in_flight(request.in_flight)
        if request.policy_version == self._engine.policy_version:
            update = self._engine.last_update
        else:
            folder = await asyncio.to_thread(weights.resolve, self._weights_root, request.path)
            update = await self._update(Delivery(folder), request.policy_version, in_flight)
        return pb.UpdateWeightsResponse(**asdict(update))

    async def StreamWeights(
        self, request_iterator: AsyncIterator[pb.StreamWeightsRequest], context: Any
    ) -> pb.StreamWeightsResponse:
        """Serve the weights that arrive in the stream."""
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
        delivery = Delivery(self._model, stream.finish())
        update = await self._update(delivery, first.header.policy_version, in_flight)
        return pb.StreamWeightsResponse(**asdict(update))

    async def _update(self, delivery: Delivery, policy_version: int, in_flight: InFlight) -> WeightUpdate:
        with instruments.updating():
            return await self._engine.update_weights(delivery, policy_version, in_flight)

    async def GetInfo(
        self, request: pb.GenerationServiceGetInfoRequest, context: Any
    ) -> pb.GenerationServiceGetInfoResponse:
        """Describe the engine and its model."""
        limits = self._engine.limits
        return pb.GenerationServiceGetInfoResponse(
            engine=self._engine.name,
            engine_version=self._engine.version,
            model=str(self._model),
            policy_version=self._engine.policy_version,
            vocab_size=limits.vocab_size,
            vocab_hash=self._tokenizer.vocab_hash,
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
            return self._tokenizer.encode(prompt.text)
        if prompt.WhichOneof("input") == "token_ids":
            return arrays.ints(prompt.token_ids.ids, "token_ids.ids")
        if prompt.WhichOneof("input") == "chat":
            messages = [(message.role, message.content) for message in prompt.chat.messages]
            return self._tokenizer.encode_chat(messages)
        raise InvalidInput("input", "the prompt has no text, token ids or chat messages")

    def _response(
        self, event: GenerationEvent, prompts: list[Prompt | ServiceError], with_segments: bool
    ) -> pb.GenerateResponse:
        if isinstance(event, PromptError):
            error = pb.PromptError(prompt_index=event.prompt_index, error=item_error(event.error))
            return pb.GenerateResponse(prompt_error=error)
        _check_numbers(event)
        if isinstance(event, SampledToken):
            return pb.GenerateResponse(token=pb.SampledToken(**asdict(event)))
        prompt = prompts[event.prompt_index]
        assert isinstance(prompt, Prompt)
        rollout = self._rollout(event, prompt)
        if with_segments:
            found = segments(event.token_ids, event.entropies, self._tokenizer.newline_ids)
            rollout.segments.extend(pb.SegmentEntropy(**asdict(segment)) for segment in found)
        return pb.GenerateResponse(rollout=rollout)

    def _rollout(self, rollout: Rollout, prompt: Prompt) -> pb.Rollout:
        finish_reason: Any = wire.number(rollout.finish_reason)  # a plain int to mypy
        cut, scores = rollout.truncated, rollout.prompt_scores
        return pb.Rollout(
            prompt_index=rollout.prompt_index,
            sample_index=rollout.sample_index,
            token_ids=arrays.to_bytes(rollout.token_ids),
            logprobs=arrays.to_bytes(rollout.logprobs),
            entropies=arrays.to_bytes(rollout.entropies),
            raw_entropies=arrays.to_bytes(rollout.raw_entropies),
            kept_masses=b"" if cut is None else arrays.to_bytes(cut.kept_masses),
            truncated_logprobs=b"" if cut is None else arrays.to_bytes(cut.logprobs),
            truncated_entropies=b"" if cut is None else arrays.to_bytes(cut.entropies),
            prompt_logprobs=b"" if scores is None else arrays.to_bytes(scores.logprobs),
            prompt_likeliest_ids=b"" if scores is None else arrays.to_bytes(scores.likeliest_ids),
            prompt_likeliest_logprobs=b"" if scores is None else arrays.to_bytes(scores.likeliest_logprobs),
            text=self._tokenizer.response(
                prompt.prefix.tolist(), rollout.token_ids.tolist(), rollout.stop_string
            ),
            finish_reason=finish_reason,
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


def _check_numbers(event: Rollout | SampledToken) -> None:
    """Raise FailedPrecondition if the model gave NaN: such tokens are drawn from nothing."""
    if isinstance(event, SampledToken):
        finite = np.isfinite([event.logprob, event.entropy])
    else:
        finite = np.isfinite([event.logprobs, event.entropies])
    if not finite.all():
        text = (
            f"the model gives no finite probabilities after prompts[{event.prompt_index}]: its weights hold"
            " NaN, or overflow in their number format (try dtype float32)"
        )
        raise FailedPrecondition(text)


def _in_flight(value: pb.InFlight.ValueType) -> InFlight:
    try:
        return wire.requested(InFlight, value)
    except ValueError as error:
        raise InvalidInput("in_flight", f"{error}; use WAIT, ABORT or KEEP") from error


def _sampling(sampling: pb.SamplingParams) -> SamplingParameters:
    return SamplingParameters(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature if sampling.HasField("temperature") else 1.0,
        top_p=sampling.top_p if sampling.HasField("top_p") else 1.0,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        min_tokens=sampling.min_tokens,
        stop_token_ids=tuple(sampling.stop_token_ids),
        stop_strings=tuple(sampling.stop_strings),
    )
