"""The requests of OpenAI's API that this server answers, and as what the service Generate gets them.

A parameter that is not here is refused by its name, unless it says what is so anyway (`NEUTRAL`, or null).
"""

import difflib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from extra_rl.v1 import generation_pb2 as pb
from extra_services.errors import InvalidInput
from extra_services.runtime import arrays

#: Parameters of OpenAI's that this server does not have -> the values that change nothing, beside null.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "user": ("",),
}
#: The same of a message; answers of this and other servers, which clients send back, have them.
NEUTRAL_OF_MESSAGES: dict[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "name": (),
    "refusal": (),
    "tool_calls": ([],),
}


class _Strict(BaseModel):
    """A JSON object in which every name must be known; null stands for a parameter that is left out."""

    model_config = ConfigDict(extra="forbid", strict=True)
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if not cls._changes_nothing(name, value)}

    @classmethod
    def _changes_nothing(cls, name: str, value: Any) -> bool:
        if value is None:
            return name in cls.neutral or name in cls.model_fields
        return value in cls.neutral.get(name, ())


class StreamOptions(_Strict):
    """What a stream has besides the answer."""

    include_usage: bool = Field(False, description="Whether a last chunk has the usage.")


class _Sampling(_Strict):
    """What both routes understand: OpenAI's parameters, then those that only this server has."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = NEUTRAL

    model: str = Field(description="The name of the served model, as /v1/models has it.")
    n: int = Field(1, ge=1, description="Choices per prompt.")
    temperature: float = Field(1.0, description="At least 0.01, or 0: greedy.")
    top_p: float = Field(1.0, description="In (0, 1].")
    seed: int | None = Field(None, ge=0, lt=2**64, description="The same seed gives the same tokens.")
    stop: str | list[str] = Field([], description="Strings that end a choice.")
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    top_k: int = Field(0, ge=0, lt=2**31, description="Only the k likeliest tokens; 0: off.")
    min_p: float = Field(0.0, description="Only tokens at least so likely as a part of the likeliest.")
    min_tokens: int = Field(0, ge=0, lt=2**31, description="Least tokens of a choice.")
    stop_token_ids: list[int] = Field([], description="Further tokens that end a choice.")
    prefix_token_ids: list[int] = Field(
        [], description="Tokens of a partial answer from which generation resumes; of a single prompt."
    )
    min_policy_version: int | None = Field(None, description="Refuse if older weights are served.")
    return_token_ids: bool = Field(False, description="Add the token ids of prompts and choices.")
    entropies: bool = Field(False, description="Add the exact entropy of each token, in nats.")
    raw_entropies: bool = Field(False, description="Add those at temperature 1, whatever the temperature.")
    segment_entropies: bool = Field(False, description="Add entropies of newline-separated segments.")
    truncated: bool = Field(
        False, description="Add kept mass, log-probability and entropy after top_k, top_p and min_p."
    )

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities of the tokens are in the answer."""
        raise NotImplementedError

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether those of the prompt's tokens are in it too."""
        return False

    @property
    def wants_likeliest(self) -> bool:
        """Whether the likeliest token at the place of each of them is in it too."""
        return False

    def limit(self, window: int) -> int:
        """Return the most tokens of a choice; `window` is the most that fit."""
        raise NotImplementedError

    def generate_request(self, prompts: Sequence[NDArray[np.int32]], window: int) -> pb.GenerateRequest:
        """Return the request of the service, in which every prompt is token ids.

        Args:
            prompts: int32 [length] each.
            window: Most tokens of prompt and choice together.

        Raises:
            InvalidInput: A number is too large for the service.
        """
        if self.prefix_token_ids and len(prompts) != 1:
            raise InvalidInput("prefix_token_ids", f"belongs to one prompt, and there are {len(prompts)}")
        prefix = arrays.to_bytes(_ids(self.prefix_token_ids, "prefix_token_ids"))
        sampling = {
            "max_tokens": self.limit(window),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "min_tokens": self.min_tokens,
            "stop_token_ids": _ids(self.stop_token_ids, "stop_token_ids").tolist(),
            "stop_strings": self.stops,
        }
        try:
            return pb.GenerateRequest(
                prompts=[
                    pb.Prompt(token_ids=pb.TokenIds(ids=arrays.to_bytes(ids)), prefix_token_ids=prefix)
                    for ids in prompts
                ],
                n=self.n,
                sampling=pb.SamplingParams(**sampling),
                seed=self.seed,
                min_policy_version=self.min_policy_version,
                stream_tokens=self.stream,
                raw_entropies=self.raw_entropies,
                segment_entropies=self.segment_entropies,
                truncated=self.truncated,
                prompt_logprobs=self.wants_prompt_logprobs,
            )
        except ValueError as error:
            raise InvalidInput("request", f"a parameter is out of range: {error}") from error


class CompletionRequest(_Sampling):
    """A request of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="One text or several, or one list of token ids or several."
    )
    max_tokens: int = Field(
        16, ge=0, lt=2**31, description="Most tokens of a choice; 0 with echo and logprobs: none."
    )
    logprobs: Literal[0, 1] | None = Field(
        None,
        description="0: log-probabilities of the drawn tokens, with echo also of the prompt's. "
        "1: at temperature 0, also the likeliest token at each place.",
    )
    echo: bool = Field(False, description="Put the prompt's text before the choice's.")

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities of the tokens are in the answer."""
        return self.logprobs is not None

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether those of the prompt's tokens are in it too."""
        return self.echo and self.wants_logprobs

    @property
    def wants_likeliest(self) -> bool:
        """Whether the likeliest token at the place of each of them is in it too."""
        return self.logprobs == 1

    def limit(self, window: int) -> int:
        """Return the most tokens of a choice; the service draws at least one."""
        return max(1, self.max_tokens)

    @model_validator(mode="after")
    def _logprobs_are_computed(self) -> Self:
        if self.wants_likeliest and (self.temperature != 0 or self.min_tokens):
            raise InvalidInput(
                "logprobs",
                "1 needs temperature 0 and no min_tokens: the drawn token is then the likeliest one. Other "
                "alternatives are not computed; use 0",
            )
        if self.max_tokens == 0 and not self.wants_prompt_logprobs:
            raise InvalidInput("max_tokens", "0 is for echo with logprobs; ask for at least 1 token")
        if self.stream and self.wants_prompt_logprobs:
            raise InvalidInput("stream", "is not there for echo with logprobs: leave it out")
        return self


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """A message of a conversation."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = NEUTRAL_OF_MESSAGES

    role: str
    content: str | list[TextPart]

    @property
    def pair(self) -> tuple[str, str]:
        """Role and text."""
        if isinstance(self.content, str):
            return self.role, self.content
        return self.role, "".join(part.text for part in self.content)


class ChatRequest(_Sampling):
    """A request of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(
        None, ge=1, lt=2**31, description="Most tokens of a choice; absent: as many as fit."
    )
    max_tokens: int | None = Field(None, ge=1, lt=2**31, description="The same under its old name.")
    logprobs: bool = Field(False, description="Add log-probabilities of the drawn tokens.")
    top_logprobs: Literal[0] = Field(0, description="Alternatives are not computed.")

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities of the tokens are in the answer."""
        return self.logprobs

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Role and text of each message."""
        return [message.pair for message in self.messages]

    def limit(self, window: int) -> int:
        """Return the most tokens of a choice."""
        return self.max_completion_tokens or self.max_tokens or window

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if None not in (limits := {self.max_tokens, self.max_completion_tokens}) and len(limits) > 1:
            raise InvalidInput("max_tokens", "differs from max_completion_tokens: give one of them")
        return self


Request = TypeVar("Request", bound=_Sampling)


def parsed(kind: type[Request], body: Any) -> Request:
    """Return a request from its JSON.

    Raises:
        InvalidInput: This server does not have one of its parameters, or not with this value.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        # Unknown names first: what else is wrong may follow from them.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    # The place in the JSON, without the names of the types that were tried.
    place = [str(part) for part in first["loc"] if str(part).isalnum() or "_" in str(part)]
    field = ".".join(part for part in place if part not in ("str", "int")) or "request"
    if first["type"] == "extra_forbidden":
        similar = difflib.get_close_matches(field, kind.model_fields, 1)
        told = f"did you mean {similar[0]}?" if similar else "leave it out"
        raise InvalidInput(field, f"is no parameter of this server; {told}")
    if first["type"] == "model_type":
        raise InvalidInput(field, "must be a JSON object")
    raise InvalidInput(field, first["msg"])


def _ids(values: list[int], field: str) -> NDArray[np.int32]:
    """Return token ids as int32 [length]; raise InvalidInput if one is none."""
    try:
        return np.array(values, np.int32)
    except OverflowError as error:
        raise InvalidInput(field, "holds a number that is no token id") from error
