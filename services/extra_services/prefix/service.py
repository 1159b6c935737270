"""PrefixService over gRPC: translates messages to the domain and back."""

from collections.abc import Callable
from typing import TypeVar

from extra_rl import wire
from extra_rl.v1 import common_pb2, prefix_pb2, prefix_pb2_grpc
from extra_rl.vocabulary import SelectionPolicy
from extra_services.errors import InvalidInput, ServiceError
from extra_services.memory.instruments import REQUESTS_WAITING, STAGES
from extra_services.prefix.prefixes import (
    DEFAULT_MIN_SEGMENT_TOKENS,
    AddedPrefixes,
    EntropyRollout,
    HardPrompt,
    Outcome,
    PrefixMemory,
    SelectedPrefix,
    prefix_id,
)
from extra_services.prefix.selection import (
    DEFAULT_DROP_AFTER,
    DEFAULT_EXPLORATION,
    DEFAULT_TAU,
    Candidate,
    SelectionOptions,
)
from extra_services.runtime import arrays
from extra_services.runtime.errors import item_error
from extra_services.runtime.threads import Threads, in_thread

Result = TypeVar("Result")


class PrefixServicer(prefix_pb2_grpc.PrefixServiceServicer):
    """Runs the domain's blocking calls in `threads`."""

    def __init__(self, prefixes: PrefixMemory, threads: Threads, server: common_pb2.ServerInfo) -> None:
        self._prefixes = prefixes
        self._threads = threads
        self._server = server

    async def AddRollouts(
        self, request: prefix_pb2.AddRolloutsRequest, context: object
    ) -> prefix_pb2.AddRolloutsResponse:
        return await self._run(lambda: self._add(request))

    async def SelectPrefixes(
        self, request: prefix_pb2.SelectPrefixesRequest, context: object
    ) -> prefix_pb2.SelectPrefixesResponse:
        options = SelectionOptions(
            arrays.requested(SelectionPolicy, request.policy, "policy"),
            request.tau if request.HasField("tau") else DEFAULT_TAU,
            request.exploration if request.HasField("exploration") else DEFAULT_EXPLORATION,
            request.drop_after if request.HasField("drop_after") else DEFAULT_DROP_AFTER,
        )
        selected = await self._run(
            lambda: self._prefixes.select(request.namespace, list(request.prompt_ids), options, request.seed)
        )
        return prefix_pb2.SelectPrefixesResponse(
            prefixes=[_selected_message(prefix, request.explain) for prefix in selected]
        )

    async def ReportOutcomes(
        self, request: prefix_pb2.ReportOutcomesRequest, context: object
    ) -> prefix_pb2.ReportOutcomesResponse:
        outcomes = [Outcome(o.prompt_id, o.prefix_id, o.rollouts, o.successes) for o in request.outcomes]
        errors, replayed = await self._run(
            lambda: self._prefixes.report(request.namespace, outcomes, request.idempotency_key)
        )
        messages = [common_pb2.Error() if error is None else item_error(error) for error in errors]
        return prefix_pb2.ReportOutcomesResponse(errors=messages, replayed=replayed)

    async def ListPrefixes(
        self, request: prefix_pb2.ListPrefixesRequest, context: object
    ) -> prefix_pb2.ListPrefixesResponse:
        stored = await self._run(lambda: self._prefixes.stored(request.namespace, list(request.prompt_ids)))
        return prefix_pb2.ListPrefixesResponse(prompts=[_stored_message(prompt) for prompt in stored])

    async def ForgetPrefixes(
        self, request: prefix_pb2.ForgetPrefixesRequest, context: object
    ) -> prefix_pb2.ForgetPrefixesResponse:
        wanted: dict[str, set[str]] = {}
        for prompt in request.prompts:
            if prompt.prompt_id in wanted:
                raise InvalidInput("prompts", f"prompt {prompt.prompt_id!r} is named twice")
            wanted[prompt.prompt_id] = set(prompt.prefix_ids)
        forgotten = await self._run(lambda: self._prefixes.forget(request.namespace, wanted))
        return prefix_pb2.ForgetPrefixesResponse(forgotten=[forgotten[p.prompt_id] for p in request.prompts])

    async def GetInfo(
        self, request: prefix_pb2.PrefixServiceGetInfoRequest, context: object
    ) -> prefix_pb2.PrefixServiceGetInfoResponse:
        limits = self._prefixes.limits
        return prefix_pb2.PrefixServiceGetInfoResponse(
            server=self._server,
            embedding_model=self._prefixes.embedding_model,
            max_prompts=limits.prompts_per_request,
            max_text_characters=limits.text_characters,
        )

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
        return await in_thread(self._threads, call, STAGES, REQUESTS_WAITING)


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


def _selected_message(answer: SelectedPrefix | ServiceError, explain: bool) -> prefix_pb2.SelectedPrefix:
    if isinstance(answer, ServiceError):
        return prefix_pb2.SelectedPrefix(error=item_error(answer))
    chosen, stored = answer.chosen, answer.chosen.stored
    return prefix_pb2.SelectedPrefix(
        prefix_id=prefix_id(stored) if stored else "",
        token_ids=wire.int_bytes(stored.token_ids) if stored else b"",
        text=stored.text if stored else "",
        mean_entropy=stored.mean_entropy if stored else 0.0,
        smoothed_entropy=chosen.smoothed_entropy,
        candidates=answer.candidates,
        ranking=[_candidate_message(candidate) for candidate in answer.ranking] if explain else [],
    )


def _stored_message(answer: list[Candidate] | InvalidInput) -> prefix_pb2.PromptPrefixes:
    if isinstance(answer, InvalidInput):
        return prefix_pb2.PromptPrefixes(error=item_error(answer))
    return prefix_pb2.PromptPrefixes(prefixes=[_candidate_message(candidate) for candidate in answer])


def _candidate_message(candidate: Candidate) -> prefix_pb2.PrefixCandidate:
    stored = candidate.stored
    return prefix_pb2.PrefixCandidate(
        prefix_id=prefix_id(stored) if stored else "",
        length=candidate.length,
        text=stored.text if stored else "",
        mean_entropy=stored.mean_entropy if stored else 0.0,
        smoothed_entropy=candidate.smoothed_entropy,
        rollouts=candidate.rollouts,
        successes=candidate.successes,
        prior=candidate.prior,
        score=candidate.score,
        dropped=candidate.dropped,
    )
