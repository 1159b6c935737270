"""GenerationService without the connection: requests and responses as numpy arrays and dataclasses."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from extra_client import _server_info, _wire, errors
from extra_client._server_info import ServerInfo
from extra_client._transport import GENERATION, Call
from extra_client.errors import ExtraError, InvalidArgumentError
from extra_rl.tokens import vocab_hash
from extra_rl.v1 import generation_pb2 as pb
from extra_rl.vocabulary import FinishReason, InFlight

#: Token ids: a list of int, or an integer array [length].
TokenIds = Sequence[int] | NDArray[np.integer]
#: A conversation to be continued by the assistant: {"role": ..., "content": ...} from first to last.
Chat = Sequence[Mapping[str, str]]
#: Text, token ids, or a conversation.
Prompt = str | TokenIds | Chat


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds a sample spent waiting for a place, computing its prompt, and computing its tokens."""

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True, slots=True)
class SegmentEntropy:
    """Entropies, in nats, of one newline-separated segment: the tokens start .. end - 1 of a continuation."""

    start: int
    end: int
    mean: float
    max: float


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """From the token at `token_index` on, a sample was drawn from weights of this version."""

    token_index: int
    policy_version: int


def _no_floats() -> NDArray[np.float32]:
    return np.zeros(0, np.float32)


def _no_ints() -> NDArray[np.int32]:
    return np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One sampled continuation of `prompts[prompt_index]`, the `sample_index`-th of n."""

    prompt_index: int
    sample_index: int
    #: int32 [length]: the sampled tokens, after prompt and prefix.
    token_ids: NDArray[np.int32]
    #: float32 [length]: log-probability of each token, in nats, at the sampling temperature.
    logprobs: NDArray[np.float32]
    #: float32 [length]: exact entropy in nats of the full distribution each token was drawn from.
    entropies: NDArray[np.float32]
    #: Prefix and continuation decoded together, without special tokens.
    text: str
    finish_reason: FinishReason
    #: Version of the weights it was sampled with; that of its first token if policy_changes has any.
    policy_version: int
    #: Tokens of prompt and prefix, and how many of them came from a cache.
    prompt_tokens: int
    cached_prompt_tokens: int
    timings: Timings
    #: float32 [length]: as entropies, at temperature 1; empty unless asked for.
    raw_entropies: NDArray[np.float32]
    #: Segments in order; empty unless asked for.
    segments: tuple[SegmentEntropy, ...]
    #: Where the weights changed in the middle of it, under InFlight.KEEP.
    policy_changes: tuple[PolicyChange, ...]
    #: float32 [length] each, empty unless asked for: the mass on the tokens that top-k, top-p, min-p and
    #: min_tokens leave; log-probability and entropy, in nats, of the distribution on these tokens, which is
    #: the one that was drawn from.
    kept_masses: NDArray[np.float32] = field(default_factory=_no_floats)
    truncated_logprobs: NDArray[np.float32] = field(default_factory=_no_floats)
    truncated_entropies: NDArray[np.float32] = field(default_factory=_no_floats)
    #: [prompt_tokens - 1] each, empty unless asked for, of the tokens of prompt and prefix but the first:
    #: log-probability in nats at temperature 1, the likeliest token at its place, and that one's
    #: log-probability. float32, int32, float32.
    prompt_logprobs: NDArray[np.float32] = field(default_factory=_no_floats)
    prompt_likeliest_ids: NDArray[np.int32] = field(default_factory=_no_ints)
    prompt_likeliest_logprobs: NDArray[np.float32] = field(default_factory=_no_floats)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One token as soon as it is drawn; the rollout that follows repeats it."""

    prompt_index: int
    sample_index: int
    #: Its place among the sample's tokens, from 0.
    token_index: int
    token_id: int
    #: In nats, as in Rollout.
    logprob: float
    entropy: float


@dataclass(frozen=True, slots=True)
class PromptError:
    """The prompt was refused: it has no rollouts. `error` may be raised."""

    prompt_index: int
    error: ExtraError


@dataclass(frozen=True, slots=True)
class WeightsUpdate:
    """New weights are in service."""

    policy_version: int
    previous_policy_version: int
    #: Largest difference, in nats, between the engine's log-probabilities on the probe and the reference.
    probe_max_difference: float
    #: Seconds the whole update took.
    seconds: float


@dataclass(frozen=True, slots=True)
class GenerationInfo:
    """A generation server: its engine, model and limits."""

    #: "transformers" or "vllm", and the version of that library.
    engine: str
    engine_version: str
    #: Model folder or name, as configured.
    model: str
    policy_version: int
    #: Valid token ids are 0 .. vocab_size - 1.
    vocab_size: int
    #: Hex SHA-256 of lines "id<TAB>token" in order of id.
    vocab_hash: str
    #: Most tokens of prompt, prefix and continuation together.
    max_model_len: int
    #: Most prompts in one request.
    max_prompts: int
    #: Token ids that end a sample.
    eos_token_ids: tuple[int, ...]
    #: Most samples in one request: prompts times n.
    max_samples: int
    server: ServerInfo


#: Yielded by a stream of rollouts.
Event = Rollout | PromptError | SampledToken


class GenerateOptions(TypedDict, total=False):
    """Further arguments of generate and generate_stream."""

    #: Nucleus sampling: the smallest set of tokens with this mass, in (0, 1]; 1, the default, is off.
    top_p: float
    #: Only the k likeliest tokens; 0, the default, is off.
    top_k: int
    #: Only tokens at least this fraction as likely as the likeliest, in [0, 1); 0, the default, is off.
    min_p: float
    #: Tokens a sample has at least, before anything may end it.
    min_tokens: int
    #: Token ids that end a sample, beside the model's own.
    stop_token_ids: Iterable[int]
    #: Strings that end a sample; its text ends before them, its tokens with the one that completed it.
    stop_strings: Iterable[str]
    #: FailedPreconditionError if the server's weights are older.
    min_policy_version: int | None
    #: Also return Rollout.raw_entropies.
    raw_entropies: bool
    #: Also return Rollout.segments.
    segment_entropies: bool
    #: Also return Rollout.kept_masses, truncated_logprobs and truncated_entropies.
    truncated: bool
    #: Also return Rollout.prompt_logprobs, prompt_likeliest_ids and prompt_likeliest_logprobs; not with the
    #: engine vllm.
    prompt_logprobs: bool
    #: One a prompt. The draws depend on it in the place of the prompt's index, so that a request split over
    #: several servers draws the same tokens as one request with that seed.
    seed_indices: Sequence[int] | None
    #: One a prompt: most new tokens of its samples, at most max_tokens; None: max_tokens.
    max_tokens_per_prompt: Sequence[int | None] | None


def generate(
    prompts: Sequence[Prompt],
    n: int,
    max_tokens: int,
    prefixes: Sequence[TokenIds | None] | None,
    seed: int | None,
    temperature: float,
    *,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    min_tokens: int = 0,
    stop_token_ids: Iterable[int] = (),
    stop_strings: Iterable[str] = (),
    min_policy_version: int | None = None,
    raw_entropies: bool = False,
    segment_entropies: bool = False,
    truncated: bool = False,
    prompt_logprobs: bool = False,
    seed_indices: Sequence[int] | None = None,
    max_tokens_per_prompt: Sequence[int | None] | None = None,
    stream_tokens: bool = False,
) -> Call[Event]:
    """Return the call Generate, as GenerationClient.generate and GenerateOptions document it."""
    if isinstance(prompts, str):
        raise InvalidArgumentError("prompts: must be a list of prompts, not one text", field="prompts")
    if isinstance(stop_strings, str):
        raise InvalidArgumentError(
            "stop_strings: must be a list of texts, not one text", field="stop_strings"
        )
    _check_one_each("prefixes", prefixes, len(prompts))
    _check_one_each("seed_indices", seed_indices, len(prompts))
    _check_one_each("max_tokens_per_prompt", max_tokens_per_prompt, len(prompts))
    nothing = [None] * len(prompts)
    request = pb.GenerateRequest(
        prompts=[
            _prompt(*parts, index)
            for index, parts in enumerate(
                zip(
                    prompts,
                    prefixes or nothing,
                    nothing if seed_indices is None else seed_indices,
                    max_tokens_per_prompt or nothing,
                    strict=True,
                )
            )
        ],
        n=n,
        sampling=pb.SamplingParams(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            max_tokens=max_tokens,
            stop_token_ids=stop_token_ids,
            min_p=min_p,
            min_tokens=min_tokens,
            stop_strings=stop_strings,
        ),
        seed=seed,
        min_policy_version=min_policy_version,
        stream_tokens=stream_tokens,
        raw_entropies=raw_entropies,
        segment_entropies=segment_entropies,
        truncated=truncated,
        prompt_logprobs=prompt_logprobs,
    )
    return Call(GENERATION, "Generate", request, _event, deadline=3600)


def update_weights(
    path: str | PurePath, policy_version: int, in_flight: InFlight | str
) -> Call[WeightsUpdate]:
    """Return the call UpdateWeights."""
    request = pb.UpdateWeightsRequest(
        path=str(path),
        policy_version=policy_version,
        in_flight=_wire.number(InFlight, in_flight, "in_flight"),
    )
    return Call(GENERATION, "UpdateWeights", request, _weights_update, deadline=600)


def stream_weights(messages: Any) -> Call[WeightsUpdate]:
    """Return the call StreamWeights, which sends what `_weights.messages` makes."""
    return Call(GENERATION, "StreamWeights", messages, _weights_update, deadline=600)


def get_info() -> Call[GenerationInfo]:
    """Return the call GetInfo."""
    return Call(GENERATION, "GetInfo", pb.GenerationServiceGetInfoRequest(), _info, deadline=30)


class Gathered:
    """Puts the events of a Generate stream in order and checks that none is missing."""

    def __init__(self, prompts: int, n: int) -> None:
        self._groups: list[dict[int, Rollout]] = [{} for _ in range(prompts)]
        self._n = n
        self._failed: set[int] = set()

    def add(self, event: Event) -> None:
        """Add one event."""
        if isinstance(event, PromptError):
            self._failed.add(event.prompt_index)
        if isinstance(event, Rollout):
            self._groups[event.prompt_index][event.sample_index] = event

    def check(self) -> None:
        """Raise an InternalError if the stream ended before all rollouts came."""
        for index, group in enumerate(self._groups):
            if len(group) < self._n and index not in self._failed:
                raise errors.InternalError(
                    f"the server ended the stream after {len(group)} of {self._n} rollouts of prompt {index}"
                )

    def groups(self) -> list[list[Rollout]]:
        """Return the rollouts by prompt and sample."""
        return [[group[sample] for sample in sorted(group)] for group in self._groups]


def check_vocabulary(info: GenerationInfo, vocabulary: Mapping[str, int]) -> None:
    """Raise a FailedPreconditionError if the server has another vocabulary."""
    if info.vocab_hash != vocab_hash(vocabulary):
        raise errors.FailedPreconditionError(
            f"the tokenizer here ({len(vocabulary)} tokens) is not that of the served model {info.model}: "
            f"token ids would mean other texts; load the tokenizer from the model that is served"
        )


def raise_failure(event: Event) -> None:
    """Raise the error of a refused prompt, which then names the prompt; do nothing for other events."""
    if isinstance(event, PromptError):
        error = event.error
        note = f"prompts[{event.prompt_index}]: {error.message} (generate_stream gives the others' rollouts)"
        error.message, error.args = note, (note,)
        raise error


def _check_one_each(field: str, given: Sequence[Any] | None, prompts: int) -> None:
    if given is not None and len(given) != prompts:
        raise InvalidArgumentError(
            f"{field}: {len(given)} for {prompts} prompts; give one for each prompt, None for none",
            field=field,
        )


def _prompt(
    prompt: Prompt, prefix: TokenIds | None, seed_index: int | None, max_tokens: int | None, index: int
) -> pb.Prompt:
    message = pb.Prompt(
        prefix_token_ids=b"" if prefix is None else _wire.int_bytes(prefix, f"prefixes[{index}]"),
        seed_index=seed_index,
        max_tokens=max_tokens,
    )
    if isinstance(prompt, str):
        message.text = prompt
    elif len(prompt) and isinstance(prompt[0], Mapping):
        message.chat.CopyFrom(_chat(prompt, f"prompts[{index}]"))
    else:
        message.token_ids.ids = _wire.int_bytes(cast(TokenIds, prompt), f"prompts[{index}]")
    return message


def _chat(messages: Any, field: str) -> pb.ChatMessages:
    try:
        return pb.ChatMessages(
            messages=[
                pb.ChatMessage(role=message["role"], content=message["content"]) for message in messages
            ]
        )
    except (KeyError, TypeError) as error:
        raise InvalidArgumentError(
            f'{field}: each message must be {{"role": text, "content": text}}', field=field
        ) from error


def _event(response: pb.GenerateResponse) -> Event:
    if response.HasField("token"):
        token = response.token
        return SampledToken(
            token.prompt_index,
            token.sample_index,
            token.token_index,
            token.token_id,
            token.logprob,
            token.entropy,
        )
    if response.HasField("prompt_error"):
        error = errors.from_item(response.prompt_error.error)
        return PromptError(
            response.prompt_error.prompt_index, error or errors.InternalError("refused without a reason")
        )
    rollout = response.rollout
    return Rollout(
        prompt_index=rollout.prompt_index,
        sample_index=rollout.sample_index,
        token_ids=_wire.ints(rollout.token_ids),
        logprobs=_wire.floats(rollout.logprobs),
        entropies=_wire.floats(rollout.entropies),
        text=rollout.text,
        finish_reason=_wire.member(FinishReason, rollout.finish_reason),
        policy_version=rollout.policy_version,
        prompt_tokens=rollout.prompt_tokens,
        cached_prompt_tokens=rollout.cached_prompt_tokens,
        timings=Timings(
            rollout.timings.queue_seconds, rollout.timings.prefill_seconds, rollout.timings.decode_seconds
        ),
        raw_entropies=_wire.floats(rollout.raw_entropies),
        segments=tuple(
            SegmentEntropy(segment.start, segment.end, segment.mean, segment.max)
            for segment in rollout.segments
        ),
        policy_changes=tuple(
            PolicyChange(change.token_index, change.policy_version) for change in rollout.policy_changes
        ),
        kept_masses=_wire.floats(rollout.kept_masses),
        truncated_logprobs=_wire.floats(rollout.truncated_logprobs),
        truncated_entropies=_wire.floats(rollout.truncated_entropies),
        prompt_logprobs=_wire.floats(rollout.prompt_logprobs),
        prompt_likeliest_ids=_wire.ints(rollout.prompt_likeliest_ids),
        prompt_likeliest_logprobs=_wire.floats(rollout.prompt_likeliest_logprobs),
    )


def _weights_update(response: pb.UpdateWeightsResponse | pb.StreamWeightsResponse) -> WeightsUpdate:
    return WeightsUpdate(
        response.policy_version,
        response.previous_policy_version,
        response.probe_max_difference,
        response.seconds,
    )


def _info(response: pb.GenerationServiceGetInfoResponse) -> GenerationInfo:
    return GenerationInfo(
        engine=response.engine,
        engine_version=response.engine_version,
        model=response.model,
        policy_version=response.policy_version,
        vocab_size=response.vocab_size,
        vocab_hash=response.vocab_hash,
        max_model_len=response.max_model_len,
        max_prompts=response.max_prompts,
        eos_token_ids=tuple(response.eos_token_ids),
        max_samples=response.max_samples,
        server=_server_info.parse(response.server),
    )
