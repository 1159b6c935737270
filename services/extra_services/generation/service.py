"""The GenerationService servicer: proto to domain and back, for whichever engine runs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from extra_rl.v1 import generation_pb2 as pb
from extra_rl.v1 import generation_pb2_grpc
from extra_services.errors import InvalidInput, ServiceError
from extra_services.generation.rollouts import (
    Engine,
    Event,
    FinishReason,
    Prompt,
    PromptRefused,
    Request,
    Rollout,
    Sampling,
    check_request,
)
from extra_services.generation.vocabulary import Vocabulary
from extra_services.runtime import arrays
from extra_services.runtime.errors import item_error

FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Serves one engine and the tokenizer of its model."""

    def __init__(self, engine: Engine, vocabulary: Vocabulary, model: str) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self._model = model

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        """See the proto."""
        wanted = Request(
            prompts=[],
            n=request.n,
            sampling=_sampling(request.sampling),
            seed=request.seed if request.HasField("seed") else None,
            min_policy_version=request.min_policy_version if request.HasField("min_policy_version") else None,
        )
        # Before the prompts are read: too many of them are refused, not tokenized.
        check_request(_with_prompts(wanted, list(request.prompts)), self._engine.limits)
        prompts = await asyncio.to_thread(lambda: [self._prompt(prompt) for prompt in request.prompts])
        events = self._engine.generate(_with_prompts(wanted, prompts))
        try:
            async for batch in events:
                for event in batch:
                    yield self._response(event, prompts)
        finally:
            await events.aclose()

    async def UpdateWeights(self, request: pb.UpdateWeightsRequest, context: Any) -> pb.UpdateWeightsResponse:
        """See the proto."""
        update = await self._engine.update_weights(request.path, request.policy_version)
        return pb.UpdateWeightsResponse(
            policy_version=update.policy_version,
            previous_policy_version=update.previous_policy_version,
            probe_max_difference=update.probe_max_difference,
            seconds=update.seconds,
        )

    async def GetInfo(self, request: pb.GetInfoRequest, context: Any) -> pb.GetInfoResponse:
        """See the proto."""
        limits = self._engine.limits
        return pb.GetInfoResponse(
            engine=self._engine.name,
            engine_version=self._engine.version,
            model=self._model,
            policy_version=self._engine.policy_version,
            vocab_size=limits.vocab_size,
            vocab_hash=self._vocabulary.hash,
            max_model_len=limits.max_model_len,
            max_prompts=limits.max_prompts,
            eos_token_ids=self._engine.eos_token_ids,
        )

    def _prompt(self, prompt: pb.Prompt) -> Prompt | ServiceError:
        try:
            prefix = arrays.ints(prompt.prefix_token_ids, "prefix_token_ids")
            if prompt.WhichOneof("input") == "text":
                return Prompt(self._vocabulary.encode(prompt.text), prefix)
            if prompt.WhichOneof("input") == "token_ids":
                return Prompt(arrays.ints(prompt.token_ids.ids, "token_ids.ids"), prefix)
            return InvalidInput("input", "the prompt has neither text nor token ids")
        except InvalidInput as error:
            return error

    def _response(self, event: Event, prompts: list[Prompt | ServiceError]) -> pb.GenerateResponse:
        if isinstance(event, PromptRefused):
            error = pb.PromptError(prompt_index=event.prompt_index, error=item_error(event.error))
            return pb.GenerateResponse(prompt_error=error)
        prompt = prompts[event.prompt_index]
        assert isinstance(prompt, Prompt)
        return pb.GenerateResponse(rollout=self._rollout(event, prompt))

    def _rollout(self, rollout: Rollout, prompt: Prompt) -> pb.Rollout:
        text = self._vocabulary.decode([*prompt.prefix.tolist(), *rollout.token_ids.tolist()])
        return pb.Rollout(
            prompt_index=rollout.prompt_index,
            sample_index=rollout.sample_index,
            token_ids=arrays.to_bytes(rollout.token_ids),
            logprobs=arrays.to_bytes(rollout.logprobs),
            entropies=arrays.to_bytes(rollout.entropies),
            text=text,
            finish_reason=FINISH_REASONS[rollout.finish_reason],
            policy_version=rollout.policy_version,
            prompt_tokens=rollout.prompt_tokens,
            cached_prompt_tokens=rollout.cached_prompt_tokens,
            timings=pb.GenerationTimings(
                queue_seconds=rollout.queue_seconds,
                prefill_seconds=rollout.prefill_seconds,
                decode_seconds=rollout.decode_seconds,
            ),
        )


def _with_prompts(request: Request, prompts: list[Any]) -> Request:
    return Request(prompts, request.n, request.sampling, request.seed, request.min_policy_version)


def _sampling(sampling: pb.SamplingParams) -> Sampling:
    return Sampling(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature if sampling.HasField("temperature") else 1.0,
        top_p=sampling.top_p if sampling.HasField("top_p") else 1.0,
        top_k=sampling.top_k,
        stop_token_ids=tuple(sampling.stop_token_ids),
    )
