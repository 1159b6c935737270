"""PrefixService over gRPC: messages to the domain and back, nothing else."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from extra_rl.v1 import common_pb2, prefix_pb2, prefix_pb2_grpc
from extra_services.errors import InvalidInput, ServiceError
from extra_services.prefix.prefixes import (
    DEFAULT_MIN_SEGMENT_TOKENS,
    AddedPrefixes,
    EntropyRollout,
    HardPrompt,
    Outcome,
    Policy,
    PrefixMemory,
    SelectedPrefix,
)
from extra_services.prefix.selection import DEFAULT_TAU
from extra_services.runtime import arrays
from extra_services.runtime.errors import item_error

Result = TypeVar("Result")

POLICIES: dict[int, Policy] = {
    prefix_pb2.SELECTION_POLICY_UNSPECIFIED: "smoothed_entropy",
    prefix_pb2.SELECTION_POLICY_SMOOTHED_ENTROPY: "smoothed_entropy",
    prefix_pb2.SELECTION_POLICY_SHORTEST: "shortest",
    prefix_pb2.SELECTION_POLICY_RANDOM: "random",
    prefix_pb2.SELECTION_POLICY_NONE: "none",
}


class PrefixServicer(prefix_pb2_grpc.PrefixServiceServicer):
    """Runs the domain's blocking calls in `executor`."""

    def __init__(self, prefixes: PrefixMemory, executor: Executor) -> None:
        self._prefixes = prefixes
        self._executor = executor

    async def AddRollouts(
        self, request: prefix_pb2.AddRolloutsRequest, context: object
    ) -> prefix_pb2.AddRolloutsResponse:
        return await self._run(lambda: self._add(request))

    async def SelectPrefixes(
        self, request: prefix_pb2.SelectPrefixesRequest, context: object
    ) -> prefix_pb2.SelectPrefixesResponse:
        if request.policy not in POLICIES:
            raise InvalidInput("policy", f"{request.policy} is not a policy this server knows")
        tau = request.tau if request.HasField("tau") else DEFAULT_TAU
        selected = await self._run(
            lambda: self._prefixes.select(
                request.namespace, list(request.prompt_ids), POLICIES[request.policy], tau, request.seed
            )
        )
        return prefix_pb2.SelectPrefixesResponse(prefixes=[_selected_message(prefix) for prefix in selected])

    async def ReportOutcomes(
        self, request: prefix_pb2.ReportOutcomesRequest, context: object
    ) -> prefix_pb2.ReportOutcomesResponse:
        outcomes = [Outcome(o.prompt_id, o.prefix_id, o.rollouts, o.successes) for o in request.outcomes]
        errors, replayed = await self._run(
            lambda: self._prefixes.report(request.namespace, outcomes, request.idempotency_key)
        )
        messages = [common_pb2.Error() if error is None else item_error(error) for error in errors]
        return prefix_pb2.ReportOutcomesResponse(errors=messages, replayed=replayed)

    def _add(self, request: prefix_pb2.AddRolloutsRequest) -> prefix_pb2.AddRolloutsResponse:
        decoded = [_hard_prompt(message) for message in request.prompts]
        minimum = (
            request.min_segment_tokens
            if request.HasField("min_segment_tokens")
            else DEFAULT_MIN_SEGMENT_TOKENS
        )
        added, replayed = self._prefixes.add(
            request.namespace,
            [prompt for prompt in decoded if isinstance(prompt, HardPrompt)],
            list(request.newline_token_ids),
            minimum,
            request.idempotency_key,
        )
        remaining = iter(added)
        answers = [prompt if isinstance(prompt, InvalidInput) else next(remaining) for prompt in decoded]
        return prefix_pb2.AddRolloutsResponse(
            prompts=[_added_message(answer) for answer in answers], replayed=replayed
        )

    async def _run(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _hard_prompt(message: prefix_pb2.HardPrompt) -> HardPrompt | InvalidInput:
    try:
        rollouts = [_rollout(rollout, f"rollouts[{index}]") for index, rollout in enumerate(message.rollouts)]
    except InvalidInput as error:
        return error
    return HardPrompt(message.prompt_id, rollouts)


def _rollout(message: prefix_pb2.EntropyRollout, field: str) -> EntropyRollout:
    return EntropyRollout(
        token_ids=arrays.ints(message.token_ids, f"{field}.token_ids"),
        entropies=arrays.floats(message.entropies, f"{field}.entropies"),
        text=message.text,
        token_ends=arrays.ints(message.token_ends, f"{field}.token_ends"),
    )


def _added_message(answer: AddedPrefixes | InvalidInput) -> prefix_pb2.AddedPrefixes:
    if isinstance(answer, AddedPrefixes):
        return prefix_pb2.AddedPrefixes(rollout_index=answer.rollout_index, lengths=answer.lengths)
    return prefix_pb2.AddedPrefixes(error=item_error(answer))


def _selected_message(answer: SelectedPrefix | ServiceError) -> prefix_pb2.SelectedPrefix:
    if isinstance(answer, ServiceError):
        return prefix_pb2.SelectedPrefix(error=item_error(answer))
    return prefix_pb2.SelectedPrefix(
        prefix_id=answer.prefix_id,
        token_ids=arrays.to_bytes(answer.token_ids),
        text=answer.text,
        mean_entropy=answer.mean_entropy,
        smoothed_entropy=answer.smoothed_entropy,
        candidates=answer.candidates,
    )
