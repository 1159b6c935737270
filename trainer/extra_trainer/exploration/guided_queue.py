"""The queue of guided prompts: hard prompts that wait to be sampled again, most from a prefix of a rollout.

A guided prompt takes the place of a prompt of the data at the end of a later batch. The queue is part of a
checkpoint, so that a resumed run samples the same prompts.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from extra_rl.references import answer_of
from extra_trainer.rollouts.collector import RolloutRequest


@dataclass
class GuidedQueue:
    """First in, first out; when it is full, the oldest prompts are dropped."""

    capacity: int
    waiting: deque[RolloutRequest] = field(default_factory=deque)

    def add(self, request: RolloutRequest) -> None:
        """Append a request, and drop the oldest one if the queue is full."""
        self.waiting.append(request)
        while len(self.waiting) > self.capacity:
            self.waiting.popleft()

    def take(self, most: int) -> list[RolloutRequest]:
        """Remove and return up to `most` requests, the oldest first."""
        return [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]

    def take_places(self, batch: list[RolloutRequest], most: int) -> list[RolloutRequest]:
        """Return the batch with up to `most` of its last requests replaced by the oldest waiting ones."""
        guided = self.take(min(most, len(batch)))
        return batch[: len(batch) - len(guided)] + guided

    def state(self) -> list[dict[str, Any]]:
        """Return the waiting requests as plain data, for `restore`."""
        return queue_state(self.waiting)

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Replace the waiting requests by those of `state`."""
        self.waiting = deque(_request(request) for request in state)


def queue_state(requests: Iterable[RolloutRequest]) -> list[dict[str, Any]]:
    """Return requests as plain data, for `GuidedQueue.restore`."""
    return [asdict(request) for request in requests]


def _request(state: dict[str, Any]) -> RolloutRequest:
    tokens = {name: tuple(state[name]) for name in ("prompt_tokens", "prefix_tokens")}
    return RolloutRequest(**{**state, **tokens, "answer": answer_of(state["answer"])})
