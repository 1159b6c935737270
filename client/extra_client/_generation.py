"""GenerationService without the connection: what is sent, and what comes back, as numpy and dataclasses."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from extra_client import _wire, errors
from extra_client._transport import GENERATION, Call
from extra_client.errors import ExtraError, InvalidArgumentError
from extra_rl.v1 import generation_pb2 as pb

#: Token ids: a list of int, or an integer array [length].
TokenIds = Sequence[int] | NDArray[np.integer]
#: Text, or token ids.
Prompt = str | TokenIds


class FinishReason(StrEnum):
    """Why a sample ended."""

    #: The model ended it; the end-of-sequence or stop token is the last of its tokens.
    STOP = "stop"
    #: It reached max_tokens or the context window.
    LENGTH = "length"


class InFlight(StrEnum):
    """What happens to samples that are being generated when the weights change."""

    #: They are finished on the old weights first; new ones wait.
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds a sample spent waiting for a place, computing its prompt, and computing its tokens."""

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


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
    #: Version of the weights it was sampled with.
    policy_version: int
    #: Tokens of prompt and prefix, and how many of them came from a cache.
    prompt_tokens: int
    cached_prompt_tokens: int
    timings: Timings


@dataclass(frozen=True, slots=True)
class PromptFailure:
    """The prompt was refused: there are no rollouts of it. `error` may be raised."""

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
    """What a generation server serves, and its limits."""

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


def generate(
    prompts: Sequence[Prompt],
    n: int,
    max_tokens: int,
    prefixes: Sequence[TokenIds | None] | None,
    seed: int | None,
    temperature: float,
    top_p: float,
    top_k: int,
    stop_token_ids: Iterable[int],
    min_policy_version: int | None,
) -> Call[Rollout | PromptFailure]:
    """Generate, as GenerationClient.generate documents it."""
    if isinstance(prompts, str):
        raise InvalidArgumentError("prompts: must be a list of prompts, not one text", field="prompts")
    if prefixes is not None and len(prefixes) != len(prompts):
        raise InvalidArgumentError(
            f"prefixes: {len(prefixes)} for {len(prompts)} prompts; give one each, None for no prefix",
            field="prefixes",
        )
    request = pb.GenerateRequest(
        prompts=[
            _prompt(prompt, prefixes[index] if prefixes else None, index)
            for index, prompt in enumerate(prompts)
        ],
        n=n,
        sampling=pb.SamplingParams(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            max_tokens=max_tokens,
            stop_token_ids=stop_token_ids,
        ),
        seed=seed,
        min_policy_version=min_policy_version,
    )
    return Call(GENERATION, "Generate", request, _event, deadline=3600)


def update_weights(
    path: str | PurePath, policy_version: int, in_flight: InFlight | str
) -> Call[WeightsUpdate]:
    """UpdateWeights."""
    request = pb.UpdateWeightsRequest(
        path=str(path),
        policy_version=policy_version,
        in_flight=_wire.number(pb.InFlight, _wire.choice(InFlight, in_flight, "in_flight")),  # type: ignore[arg-type]
    )
    return Call(GENERATION, "UpdateWeights", request, _weights_update, deadline=600)


def get_info() -> Call[GenerationInfo]:
    """GetInfo."""
    return Call(GENERATION, "GetInfo", pb.GetInfoRequest(), _info, deadline=30)


class Gathered:
    """Puts the events of a Generate stream in order, and sees to it that none is missing."""

    def __init__(self, prompts: int, n: int) -> None:
        self._groups: list[dict[int, Rollout]] = [{} for _ in range(prompts)]
        self._n = n
        self._failed: set[int] = set()

    def add(self, event: Rollout | PromptFailure) -> None:
        """Takes one event."""
        if isinstance(event, PromptFailure):
            self._failed.add(event.prompt_index)
        else:
            self._groups[event.prompt_index][event.sample_index] = event

    def check(self) -> None:
        """InternalError if the stream has ended before all rollouts came."""
        for index, group in enumerate(self._groups):
            if len(group) < self._n and index not in self._failed:
                raise errors.InternalError(
                    f"the server ended the stream after {len(group)} of {self._n} rollouts of prompt {index}"
                )

    def groups(self) -> list[list[Rollout]]:
        """The rollouts, by prompt and sample."""
        return [[group[sample] for sample in sorted(group)] for group in self._groups]


def vocab_hash(vocabulary: Mapping[str, int]) -> str:
    """Hex SHA-256 of a tokenizer's vocabulary (token -> id, as `tokenizer.get_vocab()` returns it).

    Equals GenerationInfo.vocab_hash where the server's tokenizer has the same vocabulary.
    """
    digest = hashlib.sha256()
    for token, index in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{index}\t{token}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def check_vocabulary(info: GenerationInfo, vocabulary: Mapping[str, int]) -> None:
    """FailedPreconditionError if the server's vocabulary is another."""
    if info.vocab_hash != vocab_hash(vocabulary):
        raise errors.FailedPreconditionError(
            f"the tokenizer here ({len(vocabulary)} tokens) is not that of the served model {info.model}: "
            f"token ids would mean other texts; load the tokenizer from the model that is served"
        )


def raise_failure(event: Rollout | PromptFailure) -> None:
    """Raises the error of a refused prompt, which names the prompt; passes rollouts by."""
    if isinstance(event, PromptFailure):
        error = event.error
        note = f"prompts[{event.prompt_index}]: {error.message} (generate_stream gives the others' rollouts)"
        error.message, error.args = note, (note,)
        raise error


def _prompt(prompt: Prompt, prefix: TokenIds | None, index: int) -> pb.Prompt:
    prefix_ids = b"" if prefix is None else _wire.int_bytes(prefix, f"prefixes[{index}]")
    if isinstance(prompt, str):
        return pb.Prompt(text=prompt, prefix_token_ids=prefix_ids)
    ids = pb.TokenIds(ids=_wire.int_bytes(prompt, f"prompts[{index}]"))
    return pb.Prompt(token_ids=ids, prefix_token_ids=prefix_ids)


def _event(response: pb.GenerateResponse) -> Rollout | PromptFailure:
    if response.HasField("prompt_error"):
        error = errors.from_item(response.prompt_error.error)
        return PromptFailure(
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
        finish_reason=_wire.member(pb.FinishReason, FinishReason, rollout.finish_reason),
        policy_version=rollout.policy_version,
        prompt_tokens=rollout.prompt_tokens,
        cached_prompt_tokens=rollout.cached_prompt_tokens,
        timings=Timings(
            rollout.timings.queue_seconds, rollout.timings.prefill_seconds, rollout.timings.decode_seconds
        ),
    )


def _weights_update(response: pb.UpdateWeightsResponse) -> WeightsUpdate:
    return WeightsUpdate(
        response.policy_version,
        response.previous_policy_version,
        response.probe_max_difference,
        response.seconds,
    )


def _info(response: pb.GetInfoResponse) -> GenerationInfo:
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
    )
