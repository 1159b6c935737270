"""Conversations that are recorded by their exact token ids, so that no answer is ever encoded a second time.

A session is a tree of turns. A turn is one answer: the tokens of its prompt behind those of the turn before,
and the tokens that were drawn. A request whose messages extend those of a turn continues it; one that leaves
out the last messages is a new branch. A message of the assistant that was not recorded in its place is an
error: its tokens are not known, and encoded anew they may be others than those that were drawn.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_rl import wire
from extra_rl.rollout_record import RolloutRecord, pack_array
from extra_rl.v1 import generation_pb2 as pb
from extra_rl.vocabulary import FinishReason
from extra_services.errors import FailedPrecondition, InvalidInput, NotFound, Overloaded
from extra_services.generation.tokenizer import Tokenizer

ASSISTANT = "assistant"
#: Characters of a session's id.
MAX_ID = 200
#: Turns of one session.
MAX_TURNS = 1000

#: (role, content).
Messages = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Turn:
    """One answer."""

    #: Its place in the session.
    number: int
    #: The turn that it continues.
    parent: "Turn | None"
    #: Behind those of the parent; the last is the answer.
    messages: tuple[tuple[str, str], ...]
    #: int32: tokens of the prompt behind those of the parent.
    added: NDArray[np.int32]
    #: int32 [length]: the drawn tokens, and float32 their numbers.
    drawn: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    entropies: NDArray[np.float32]
    finish_reason: FinishReason
    policy_version: int

    @property
    def place(self) -> dict[str, int | None]:
        """Where it stands in the session, as callers are told."""
        return {"turn": self.number, "parent": None if self.parent is None else self.parent.number}

    @property
    def path(self) -> list["Turn"]:
        """The turns from the first to this one."""
        turns: list[Turn] = []
        turn: Turn | None = self
        while turn is not None:
            turns.append(turn)
            turn = turn.parent
        return turns[::-1]

    @property
    def ids(self) -> NDArray[np.int32]:
        """int32: all tokens up to the end of the answer."""
        return np.concatenate([part for turn in self.path for part in (turn.added, turn.drawn)])


@dataclass
class Session:
    """The turns of one conversation and its branches."""

    name: str
    turns: list[Turn] = field(default_factory=list)
    #: By the clock of the store.
    used: float = 0.0


@dataclass(frozen=True)
class Place:
    """Where in a session a request stands."""

    session: Session
    parent: Turn | None
    #: The messages behind those of the parent.
    messages: tuple[tuple[str, str], ...]
    #: int32: the tokens behind those of the parent.
    added: NDArray[np.int32]

    @property
    def prompt(self) -> NDArray[np.int32]:
        """int32: the whole prompt."""
        return self.added if self.parent is None else np.concatenate([self.parent.ids, self.added])

    def record(self, rollout: pb.Rollout) -> dict[str, Any]:
        """Append an answer; return what the caller is told of it.

        Raises:
            FailedPrecondition: The session has as many turns as it may have.
        """
        turns = self.session.turns
        if len(turns) >= MAX_TURNS:
            raise FailedPrecondition(f"session {self.session.name!r} has {MAX_TURNS:,} turns: use another")
        reason = wire.member(FinishReason, rollout.finish_reason)
        assert reason is not None
        turn = Turn(
            number=len(turns),
            parent=self.parent,
            messages=(*self.messages, (ASSISTANT, rollout.text)),
            added=self.added,
            drawn=wire.ints(rollout.token_ids),
            logprobs=wire.floats(rollout.logprobs),
            entropies=wire.floats(rollout.entropies),
            finish_reason=reason,
            policy_version=rollout.policy_version,
        )
        turns.append(turn)
        return {"id": self.session.name, **turn.place}


class Sessions:
    """The sessions of a server; used by one event loop.

    Args:
        tokenizer: Of the model.
        most: Sessions at once.
        idle_seconds: Age without a request after which a session is dropped.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        most: int,
        idle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokenizer = tokenizer
        self._most = most
        self._idle_seconds = idle_seconds
        self._clock = clock
        #: By owner and name; the one that was used last is the last.
        self._sessions: dict[tuple[str, str], Session] = {}

    def open(self, owner: str, name: str) -> Session:
        """Return a session, a new one if there is none.

        Args:
            owner: Whose it is: nobody else sees it.
            name: Its id.

        Raises:
            InvalidInput: The name cannot be one.
            Overloaded: There are as many as there may be.
        """
        if not 0 < len(name) <= MAX_ID:
            raise InvalidInput("x-extra-session", f"must have 1 to {MAX_ID} characters")
        self._drop_idle()
        session = self._sessions.pop((owner, name), None)
        if session is None and len(self._sessions) >= self._most:
            text = f"{self._most:,} sessions are recorded, max_sessions: delete those that are exported"
            raise Overloaded(text, retry_after_seconds=1.0)
        session = session or Session(name)
        session.used = self._clock()
        self._sessions[owner, name] = session
        return session

    def place(self, session: Session, messages: Messages) -> Place:
        """Return where a request stands in a session, with the tokens of its prompt.

        Raises:
            InvalidInput: A message of the assistant is not one that was recorded there.
        """
        parent, known = _continued(session.turns, messages)
        rest = tuple(messages[known:])
        for place, (role, _) in enumerate(rest, known):
            if role == ASSISTANT:
                raise InvalidInput(f"messages.{place}", self._unknown(session))
        if parent is None:
            return Place(session, None, rest, self._tokenizer.encode_chat(list(rest)))
        if not rest:
            raise InvalidInput("messages", "end with the answer of the assistant: add the next message")
        last = int(parent.drawn[-1])
        return Place(session, parent, rest, self._tokenizer.encode_after(list(messages), known - 1, last))

    def _unknown(self, session: Session) -> str:
        if session.turns:
            return (
                f"is no answer that session {session.name!r} recorded here, and encoded anew its tokens might"
                " be others: send the recorded answers as they are, or begin another session"
            )
        return (
            f"is an answer that session {session.name!r} did not record: a session begins without answers of"
            f" the assistant. It may have been dropped, after {self._idle_seconds:g} s without a request"
        )

    def export(self, owner: str, name: str | None = None) -> Iterator[dict[str, Any]]:
        """Return the turns of a session, or of all of an owner's, as lines of a run folder's rollouts.

        The lines are made as they are asked for, in any thread.

        Args:
            owner: Whose they are.
            name: Id of the session; None: all.

        Raises:
            NotFound: There is no such session.
        """
        self._drop_idle()
        if name is not None and (owner, name) not in self._sessions:
            raise self._none(name)
        found = [
            session
            for (whose, which), session in self._sessions.items()
            if whose == owner and name in (None, which)
        ]
        return self._lines([(session, list(session.turns)) for session in found])

    def _lines(self, found: Sequence[tuple[Session, list[Turn]]]) -> Iterator[dict[str, Any]]:
        # A group is the answers of one session to one first prompt.
        groups: dict[tuple[str, bytes], int] = {}
        for session, turns in found:
            for turn in turns:
                first = session.name, turn.path[0].added.tobytes()
                yield self._line(groups.setdefault(first, len(groups)), session, turn)

    def delete(self, owner: str, name: str) -> None:
        """Forget a session.

        Raises:
            NotFound: There is no such session.
        """
        self._drop_idle()
        if self._sessions.pop((owner, name), None) is None:
            raise self._none(name)

    def _none(self, name: str) -> NotFound:
        text = f"there is no session {name!r}; one without a request for {self._idle_seconds:g} s is dropped"
        return NotFound(text)

    def _drop_idle(self) -> None:
        oldest = self._clock() - self._idle_seconds
        # The one that was used first is the first.
        while self._sessions and next(iter(self._sessions.values())).used < oldest:
            del self._sessions[next(iter(self._sessions))]

    def _line(self, group: int, session: Session, turn: Turn) -> dict[str, Any]:
        """Return a rollout: the first prompt, the turns before as a prefix, and this answer.

        Behind the record's keys there are some for trainers, with numbers as plain lists.
        """
        first, *later = turn.path
        prompt = first.added
        response = turn.ids[len(prompt) :]
        drawn = [np.ones(len(first.drawn), np.int32)]
        logprobs = [first.logprobs]
        for each in later:
            drawn += [np.zeros(len(each.added), np.int32), np.ones(len(each.drawn), np.int32)]
            logprobs += [np.zeros(len(each.added), np.float32), each.logprobs]
        record = RolloutRecord.unjudged(
            # Sessions that begin alike, as the samples of a group do, meet on one page of the inspector.
            prompt_id=hashlib.blake2b(prompt.tobytes(), digest_size=8).hexdigest(),
            prompt=self._tokenizer.decode(prompt.tolist()),
            answer="",
            prefix_tokens=len(response) - len(turn.drawn),
            group=group,
            sample=turn.number,
            text=self._tokenizer.decode(response.tolist()),
            finish_reason=turn.finish_reason,
            policy_version=turn.policy_version,
            tokens=len(turn.drawn),
            mean_entropy=round(float(turn.entropies.mean()), 5),
            packed_token_ids=pack_array(response),
            packed_entropies=pack_array(turn.entropies.astype(np.float16)),
        )
        return record.to_json() | {
            "session": session.name,
            **turn.place,
            "prompt_token_ids": prompt.tolist(),
            "response_token_ids": response.tolist(),
            "response_mask": np.concatenate(drawn).tolist(),
            "response_logprobs": np.concatenate(logprobs).tolist(),
        }


def _continued(turns: Sequence[Turn], messages: Messages) -> tuple[Turn | None, int]:
    """Return the turn that the messages continue, and how many of them it knows: the longest, then latest."""
    known: dict[int, int] = {}
    for turn in turns:
        start = 0 if turn.parent is None else known.get(turn.parent.number)
        if start is None:
            continue
        end = start + len(turn.messages)
        if tuple(messages[start:end]) == turn.messages:
            known[turn.number] = end
    if not known:
        return None, 0
    number = max(known, key=lambda each: (known[each], each))
    return turns[number], known[number]
