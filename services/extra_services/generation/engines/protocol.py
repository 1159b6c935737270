"""The interface between the service and an engine; engines differ only in how they run a model."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from extra_rl.vocabulary import InFlight
from extra_services.errors import FailedPrecondition
from extra_services.generation.requests import EngineLimits, GenerationRequest
from extra_services.generation.rollouts import GenerationEvent, PromptError, Rollout
from extra_services.generation.weights import Delivery


@dataclass(frozen=True)
class EngineLoad:
    """The load of an engine."""

    #: Samples.
    waiting: int
    running: int
    #: Samples that can run at once.
    slots: int
    #: Tokens whose keys and values the running samples hold.
    kv_tokens: int
    #: Tokens for which there is memory; NaN: unknown.
    kv_limit_tokens: float
    #: NaN: unknown.
    prefix_cache_bytes: float


@dataclass(frozen=True)
class WeightUpdate:
    """The update that brought the weights served now."""

    policy_version: int
    previous_policy_version: int
    #: Nats, between the engine and a plain forward pass of the delivered tensors.
    probe_max_difference: float
    seconds: float


class Engine(Protocol):
    """An engine, as the service uses it."""

    name: str
    version: str
    limits: EngineLimits
    eos_token_ids: list[int]
    #: Largest possible size of a delivery of the model's tensors.
    max_weight_bytes: int

    @property
    def policy_version(self) -> int:
        """Version of the weights served now."""

    def load(self) -> EngineLoad:
        """Return the current load, approximately; thread-safe."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[list[GenerationEvent], None]:
        """Yield events as they occur; closing the generator, at any time, ends the request's work.

        Raises:
            InvalidInput: A parameter of the request is bad.
            FailedPrecondition: The weights are older than min_policy_version.
            Overloaded: The queue is full, or memory ran out.
            Unavailable: The engine cannot serve now.
        """

    @property
    def last_update(self) -> WeightUpdate:
        """The update that brought the weights served now."""

    async def update_weights(
        self, delivery: Delivery, policy_version: int, in_flight: InFlight
    ) -> WeightUpdate:
        """Serve delivered weights; do nothing if `policy_version` is already served.

        An update that has begun is finished even if its caller is cancelled.

        Args:
            delivery: Weights of the served model.
            policy_version: Version of these weights.
            in_flight: Treatment of the running samples.

        Raises:
            FailedPrecondition: The weights are those of another model, incomplete, older than the served
            ones,
                or the engine does not serve them as delivered. The old weights are still served.
        """

    def readiness(self) -> AsyncIterator[bool]:
        """Yield whether the engine can serve: now, and after each change."""

    async def close(self) -> None:
        """End the running requests and free the model."""


async def until_complete(
    request: GenerationRequest, events: "asyncio.Queue[list[GenerationEvent] | Exception]"
) -> AsyncGenerator[list[GenerationEvent], None]:
    """Yield the entries of `events` until each sample of `request` has ended.

    Raises:
        Exception: The first exception in `events`.
    """
    left = len(request.prompts) * request.n
    while left:
        entry = await events.get()
        if isinstance(entry, Exception):
            raise entry
        left -= sum(isinstance(event, Rollout) for event in entry)
        left -= request.n * sum(isinstance(event, PromptError) for event in entry)
        yield entry


def check_version(served: int, wanted: int) -> None:
    """Check that version `wanted` may follow version `served`.

    Raises:
        FailedPrecondition: It is older.
    """
    if wanted < served:
        text = f"policy version {wanted} is older than version {served}, which is served; versions only grow"
        raise FailedPrecondition(text)
