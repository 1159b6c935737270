"""PrefixService without the connection: requests and responses as numpy arrays and dataclasses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from extra_client import _server_info, _wire, errors
from extra_client._server_info import ServerInfo
from extra_client._transport import PREFIX, Batch, Call, new_key
from extra_client.errors import ExtraError, InternalError
from extra_rl.v1 import prefix_pb2 as pb
from extra_rl.vocabulary import SelectionPolicy


@dataclass(frozen=True, slots=True)
class PrefixInfo:
    """Version, model and limits of the service."""

    server: ServerInfo
    #: Name of the embedding model; empty if there is none, and then no rollouts can be added.
    embedding_model: str
    #: Most prompts or outcomes in one call.
    max_prompts: int
    #: Most characters of one rollout's text.
    max_text_characters: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EntropyRollout:
    """A rollout of a hard prompt."""

    #: Integers [length]: response tokens (not the prompt's).
    token_ids: ArrayLike
    #: Reals [length]: entropy of the distribution each was drawn from, in nats.
    entropies: ArrayLike
    text: str
    #: Integers [length]: for each token, the number of characters of text up to and including it.
    token_ends: ArrayLike


@dataclass(frozen=True, slots=True, eq=False)
class HardPrompt:
    """The rollouts, at least one, of one hard prompt."""

    prompt_id: str
    rollouts: Sequence[EntropyRollout]


@dataclass(frozen=True, slots=True)
class AddedPrefixes:
    """The prefixes stored of one hard prompt, or the error it was refused with; then none was stored."""

    #: Index of the rollout that was split: the one of lowest mean entropy.
    rollout_index: int
    #: Length in tokens of each prefix stored, in order.
    lengths: tuple[int, ...]
    #: None if it was taken; may be raised.
    error: ExtraError | None
    #: True if the idempotency key was seen before and this is the first answer.
    replayed: bool


@dataclass(frozen=True, slots=True)
class PrefixCandidate:
    """A stored prefix, or the empty one (no prefix_id), with the numbers it is ranked by."""

    prefix_id: str
    #: In tokens.
    length: int
    text: str
    #: Mean entropy of its tokens, and entropy of its neighbourhood, in nats.
    mean_entropy: float
    smoothed_entropy: float
    #: Rollouts that continued from it so far, and how many of them were correct.
    rollouts: int
    successes: int
    #: OUTCOME_AWARE: expected success rate before any outcome.
    prior: float
    #: The policy ranks by it, highest first; 0 for policies that do not rank.
    score: float
    #: OUTCOME_AWARE: it failed too often to be chosen.
    dropped: bool


@dataclass(frozen=True, slots=True)
class PromptPrefixes:
    """The stored prefixes of one prompt, oldest first, or the error it was refused with.

    The empty prefix comes last, if outcomes of it were reported.
    """

    prompt_id: str
    prefixes: tuple[PrefixCandidate, ...]
    error: ExtraError | None


@dataclass(frozen=True, slots=True)
class ForgottenPrefixes:
    """Prefixes of a prompt to forget; none named: all of them."""

    prompt_id: str
    prefix_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SelectedPrefix:
    """The prefix chosen for one prompt, or the reason there is none: a NotFoundError if none is stored."""

    prompt_id: str
    #: Its id in the store, for report_outcomes; empty for the empty prefix.
    prefix_id: str
    #: int32 [length].
    token_ids: NDArray[np.int32]
    text: str
    #: Mean entropy of its tokens, and the smoothed entropy it was chosen by, in nats.
    mean_entropy: float
    smoothed_entropy: float
    #: Number of candidates.
    candidates: int
    #: None if one was chosen; may be raised.
    error: ExtraError | None
    #: With `explain`: all candidates, best first.
    ranking: tuple[PrefixCandidate, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one guided group: how many of its rollouts, continued from the prefix, were correct."""

    prompt_id: str
    #: Empty for the empty prefix.
    prefix_id: str
    rollouts: int
    successes: int


def add_rollouts(
    namespace: str,
    prompts: Sequence[HardPrompt],
    newline_token_ids: Iterable[int],
    min_segment_tokens: int | None,
    idempotency_key: str | None,
) -> Call[list[AddedPrefixes]]:
    """Return the call AddRollouts."""
    request = pb.AddRolloutsRequest(
        namespace=namespace,
        prompts=[_hard_prompt(prompt, f"prompts[{index}]") for index, prompt in enumerate(prompts)],
        newline_token_ids=newline_token_ids,
        min_segment_tokens=min_segment_tokens,
        idempotency_key=idempotency_key or new_key(),
    )
    return _add_rollouts(request)


def _add_rollouts(request: pb.AddRolloutsRequest) -> Call[list[AddedPrefixes]]:
    def parse(response: pb.AddRolloutsResponse) -> list[AddedPrefixes]:
        _check(len(response.prompts), len(request.prompts))
        return [
            AddedPrefixes(
                added.rollout_index, tuple(added.lengths), errors.from_item(added.error), response.replayed
            )
            for added in response.prompts
        ]

    return Call(PREFIX, "AddRollouts", request, parse, deadline=600, batch=Batch("prompts", _add_rollouts))


def select(
    namespace: str,
    prompt_ids: Sequence[str],
    policy: SelectionPolicy | str,
    tau: float | None,
    seed: int,
    explain: bool,
    exploration: float | None,
    drop_after: int | None,
) -> Call[list[SelectedPrefix]]:
    """Return the call SelectPrefixes."""
    request = pb.SelectPrefixesRequest(
        namespace=namespace,
        prompt_ids=prompt_ids,
        policy=_wire.number(SelectionPolicy, policy, "policy"),
        tau=tau,
        seed=seed,
        explain=explain,
        exploration=exploration,
        drop_after=drop_after,
    )

    def parse(response: pb.SelectPrefixesResponse) -> list[SelectedPrefix]:
        _check(len(response.prefixes), len(prompt_ids))
        return [_selected(*pair) for pair in zip(prompt_ids, response.prefixes, strict=True)]

    return Call(PREFIX, "SelectPrefixes", request, parse, deadline=120)


def report_outcomes(
    namespace: str, outcomes: Sequence[Outcome], idempotency_key: str | None
) -> Call[list[ExtraError | None]]:
    """Return the call ReportOutcomes."""
    request = pb.ReportOutcomesRequest(
        namespace=namespace,
        outcomes=[
            pb.Outcome(
                prompt_id=outcome.prompt_id,
                prefix_id=outcome.prefix_id,
                rollouts=outcome.rollouts,
                successes=outcome.successes,
            )
            for outcome in outcomes
        ],
        idempotency_key=idempotency_key or new_key(),
    )

    def parse(response: pb.ReportOutcomesResponse) -> list[ExtraError | None]:
        _check(len(response.errors), len(outcomes))
        return [errors.from_item(error) for error in response.errors]

    return Call(PREFIX, "ReportOutcomes", request, parse, deadline=120)


def list_prefixes(namespace: str, prompt_ids: Sequence[str]) -> Call[list[PromptPrefixes]]:
    """Return the call ListPrefixes."""

    def parse(response: pb.ListPrefixesResponse) -> list[PromptPrefixes]:
        _check(len(response.prompts), len(prompt_ids))
        return [
            PromptPrefixes(
                prompt_id,
                tuple(_candidate(candidate) for candidate in listed.prefixes),
                errors.from_item(listed.error),
            )
            for prompt_id, listed in zip(prompt_ids, response.prompts, strict=True)
        ]

    request = pb.ListPrefixesRequest(namespace=namespace, prompt_ids=prompt_ids)
    return Call(PREFIX, "ListPrefixes", request, parse, deadline=120)


def forget_prefixes(namespace: str, prompts: Sequence[ForgottenPrefixes]) -> Call[list[int]]:
    """Return the call ForgetPrefixes."""
    request = pb.ForgetPrefixesRequest(
        namespace=namespace,
        prompts=[
            pb.ForgottenPrefixes(prompt_id=prompt.prompt_id, prefix_ids=prompt.prefix_ids)
            for prompt in prompts
        ],
    )
    return Call(PREFIX, "ForgetPrefixes", request, lambda response: list(response.forgotten), deadline=120)


def _candidate(candidate: pb.PrefixCandidate) -> PrefixCandidate:
    return PrefixCandidate(
        prefix_id=candidate.prefix_id,
        length=candidate.length,
        text=candidate.text,
        mean_entropy=candidate.mean_entropy,
        smoothed_entropy=candidate.smoothed_entropy,
        rollouts=candidate.rollouts,
        successes=candidate.successes,
        prior=candidate.prior,
        score=candidate.score,
        dropped=candidate.dropped,
    )


def _hard_prompt(prompt: HardPrompt, field: str) -> pb.HardPrompt:
    rollouts = [
        pb.EntropyRollout(
            token_ids=_wire.int_bytes(rollout.token_ids, f"{field}.rollouts[{index}].token_ids"),
            entropies=_wire.float_bytes(rollout.entropies),
            text=rollout.text,
            token_ends=_wire.int_bytes(rollout.token_ends, f"{field}.rollouts[{index}].token_ends"),
        )
        for index, rollout in enumerate(prompt.rollouts)
    ]
    return pb.HardPrompt(prompt_id=prompt.prompt_id, rollouts=rollouts)


def _selected(prompt_id: str, prefix: pb.SelectedPrefix) -> SelectedPrefix:
    return SelectedPrefix(
        prompt_id=prompt_id,
        prefix_id=prefix.prefix_id,
        token_ids=_wire.ints(prefix.token_ids),
        text=prefix.text,
        mean_entropy=prefix.mean_entropy,
        smoothed_entropy=prefix.smoothed_entropy,
        candidates=prefix.candidates,
        error=errors.from_item(prefix.error),
        ranking=tuple(_candidate(candidate) for candidate in prefix.ranking),
    )


def _check(got: int, wanted: int) -> None:
    if got != wanted:
        raise InternalError(f"the server sent {got} results for {wanted} items")


def get_info() -> Call[PrefixInfo]:
    """Return the call GetInfo."""
    return Call(PREFIX, "GetInfo", pb.PrefixServiceGetInfoRequest(), _info, deadline=30)


def _info(response: pb.PrefixServiceGetInfoResponse) -> PrefixInfo:
    return PrefixInfo(
        server=_server_info.parse(response.server),
        embedding_model=response.embedding_model,
        max_prompts=response.max_prompts,
        max_text_characters=response.max_text_characters,
    )
