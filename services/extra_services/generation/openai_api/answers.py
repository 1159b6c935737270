"""The answers of OpenAI's API: rollouts and tokens of the service as choices, whole or in chunks."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from extra_rl import wire
from extra_rl.v1 import generation_pb2 as pb
from extra_rl.vocabulary import FinishReason
from extra_services.generation.openai_api.requests import ChatRequest, CompletionRequest
from extra_services.generation.tokenizer import GrowingText, Tokenizer


@dataclass(frozen=True)
class _Drawn:
    """Tokens of a choice, in a row, with where the text of each begins in the choice's text."""

    ids: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    entropies: Sequence[float] = ()
    offsets: Sequence[int] = ()


@dataclass(frozen=True)
class _Scored:
    """Tokens with what `logprobs` of a completion holds of each."""

    ids: Sequence[int]
    #: None: the first of a prompt has none.
    logprobs: Sequence[float | None]
    #: The likeliest token at its place, and the log-probability of that one; None as above.
    likeliest: Sequence[tuple[int, float] | None]
    offsets: Sequence[int]


@dataclass
class _Growing:
    """A choice whose tokens still come."""

    text: GrowingText
    #: Characters in its text so far, and how many of them were sent.
    characters: int = 0
    sent: int = 0
    held: str = ""


@dataclass
class Usage:
    """Counts of tokens."""

    #: Prompt -> tokens of it, and how many of those came from a cache.
    prompts: dict[int, tuple[int, int]] = field(default_factory=dict)
    completion: int = 0

    def add(self, rollout: pb.Rollout) -> None:
        """Count a choice; its prompt counts once."""
        self.prompts[rollout.prompt_index] = rollout.prompt_tokens, rollout.cached_prompt_tokens
        self.completion += len(rollout.token_ids) // 4

    def json(self) -> dict[str, Any]:
        """Return it as OpenAI has it."""
        prompt, cached = (sum(counts) for counts in zip(*self.prompts.values(), strict=True))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.completion,
            "total_tokens": prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


class Answer:
    """The answer to one request.

    Args:
        request: The request.
        prompts: Its prompts, as token ids.
        tokenizer: Of the model.
        name: Id of the answer, without OpenAI's prefix.
        created: Seconds since 1970.
    """

    def __init__(
        self,
        request: ChatRequest | CompletionRequest,
        prompts: Sequence[Sequence[int]],
        tokenizer: Tokenizer,
        name: str,
        created: int,
    ) -> None:
        self._request = request
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._chat = isinstance(request, ChatRequest)
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{name}",
            "object": "chat.completion" if self._chat else "text_completion",
            "created": created,
            "model": request.model,
        }
        # Text that may be the beginning of a stop string is not sent before it is known not to be.
        self._hold = max((len(stop) for stop in request.stops), default=1) - 1
        self._growing: dict[int, _Growing] = {}
        self.usage = Usage()

    def whole(self, rollouts: Sequence[pb.Rollout], session: list[dict[str, Any]] | None) -> dict[str, Any]:
        """Return the whole answer.

        Args:
            rollouts: Of every choice.
            session: What is told of the recorded turns, one for each; None: nothing.
        """
        choices = []
        for place, rollout in enumerate(sorted(rollouts, key=self._index)):
            if isinstance(self._request, CompletionRequest) and self._request.max_tokens == 0:
                self._empty(rollout)
            self.usage.add(rollout)
            text = self._echo(rollout.prompt_index) + rollout.text
            choice = self._choice(self._index(rollout), text, self._drawn(rollout), rollout, whole=True)
            if session is not None:
                choice["session"] = session[place]
            choices.append(choice)
        answer = {**self._head, "choices": choices, "usage": self.usage.json()}
        return answer | self._chat_prompt()

    def first_chunks(self) -> Iterator[dict[str, Any]]:
        """Yield what a stream begins with: the role, and what stands before the drawn tokens."""
        for prompt, sample in itertools.product(range(len(self._prompts)), range(self._request.n)):
            index = prompt * self._request.n + sample
            growing = self._growing[index] = _Growing(GrowingText(self._tokenizer))
            text = self._echo(prompt) + growing.text.add(self._request.prefix_token_ids)
            growing.characters = growing.sent = len(text)
            choice = self._choice(index, text, _Drawn(), None, first=True)
            yield self._chunk(choice) | (self._chat_prompt() if index == 0 else {})

    def token_chunk(self, token: pb.SampledToken) -> dict[str, Any] | None:
        """Return the chunk of a drawn token, None if it has nothing to tell yet."""
        index = token.prompt_index * self._request.n + token.sample_index
        growing = self._growing[index]
        offset = growing.characters
        new = growing.text.add([token.token_id])
        growing.characters += len(new)
        text = self._sendable(growing, new)
        asked = self._request.wants_logprobs or self._request.return_token_ids or self._request.entropies
        if not text and not asked:
            return None
        drawn = _Drawn([token.token_id], [token.logprob], [token.entropy], [offset])
        return self._chunk(self._choice(index, text, drawn, None))

    def last_chunk(self, rollout: pb.Rollout, session: dict[str, Any] | None) -> dict[str, Any]:
        """Return the chunk that ends a choice: the rest of its text, the reason of its end, and more."""
        self.usage.add(rollout)
        index = self._index(rollout)
        text = self._echo(rollout.prompt_index) + rollout.text
        choice = self._choice(index, text[self._growing.pop(index).sent :], _Drawn(), rollout)
        if session is not None:
            choice["session"] = session
        return self._chunk(choice)

    def usage_chunk(self) -> dict[str, Any]:
        """Return the chunk with the usage."""
        return self._chunk() | {"usage": self.usage.json()}

    def _index(self, rollout: pb.Rollout) -> int:
        return rollout.prompt_index * self._request.n + rollout.sample_index

    def _chunk(self, *choices: dict[str, Any]) -> dict[str, Any]:
        kind = {"object": "chat.completion.chunk"} if self._chat else {}
        return {**self._head, **kind, "choices": list(choices)}

    def _chat_prompt(self) -> dict[str, Any]:
        """Return what an answer of a chat has of its prompt; completions have it in each choice."""
        if not (self._chat and self._request.return_token_ids):
            return {}
        return {"prompt_token_ids": list(self._prompts[0])}

    def _empty(self, rollout: pb.Rollout) -> None:
        """Take out of a choice the token that was drawn although none was asked for."""
        rollout.text = self._tokenizer.response(self._request.prefix_token_ids, [], None)
        rollout.finish_reason = pb.FINISH_REASON_LENGTH
        numbers: Any = ("token_ids", "logprobs", "entropies", "raw_entropies", "segments")
        truncated: Any = ("kept_masses", "truncated_logprobs", "truncated_entropies")
        for name in (*numbers, *truncated):
            rollout.ClearField(name)

    def _echo(self, prompt: int) -> str:
        if not (isinstance(self._request, CompletionRequest) and self._request.echo):
            return ""
        return self._tokenizer.decode(list(self._prompts[prompt]))

    def _sendable(self, growing: _Growing, new: str) -> str:
        """Return what can be sent of a choice's text: a stop string, or the beginning of one, is held."""
        text = growing.held + new
        found = [text.find(stop) for stop in self._request.stops if stop in text]
        end = min([max(0, len(text) - self._hold), *found])
        growing.held = text[end:]
        growing.sent += end
        return text[:end]

    def _drawn(self, rollout: pb.Rollout) -> _Drawn:
        ids = wire.ints(rollout.token_ids).tolist()
        offsets: list[int] = []
        if self._request.wants_logprobs and not self._chat:
            growing = GrowingText(self._tokenizer)
            end = len(self._echo(rollout.prompt_index)) + len(growing.add(self._request.prefix_token_ids))
            for token in ids:
                offsets.append(end)
                end += len(growing.add([token]))
        return _Drawn(
            ids, wire.floats(rollout.logprobs).tolist(), wire.floats(rollout.entropies).tolist(), offsets
        )

    def _choice(
        self,
        index: int,
        text: str,
        drawn: _Drawn,
        rollout: pb.Rollout | None,
        *,
        whole: bool = False,
        first: bool = False,
    ) -> dict[str, Any]:
        """Return a choice or a part of it; `rollout` is there with its end."""
        reason = None if rollout is None else wire.member(FinishReason, rollout.finish_reason)
        choice: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": None}
        if not self._chat:
            choice["text"] = text
        elif whole:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            content = {"content": text} if text or first else {}
            choice["delta"] = {"role": "assistant"} | content if first else content
        if self._request.wants_prompt_logprobs and rollout is not None:
            choice["logprobs"] = self._logprobs(self._with_prompt(drawn, rollout))
        elif self._request.wants_logprobs and drawn.ids:
            choice["logprobs"] = (
                self._chat_logprobs(drawn) if self._chat else self._logprobs(self._scored(drawn))
            )
        if self._request.return_token_ids:
            choice["token_ids"] = list(drawn.ids)
            if not self._chat and (whole or first):
                choice["prompt_token_ids"] = list(self._prompts[index // self._request.n])
        if self._request.entropies:
            choice["entropies"] = list(drawn.entropies)
        return choice if rollout is None else choice | self._of_rollout(rollout)

    def _of_rollout(self, rollout: pb.Rollout) -> dict[str, Any]:
        """Return what a choice has besides OpenAI's fields, of what is known at its end."""
        found: dict[str, Any] = {"policy_version": rollout.policy_version}
        if rollout.policy_changes:
            found["policy_changes"] = [
                {"token_index": change.token_index, "policy_version": change.policy_version}
                for change in rollout.policy_changes
            ]
        if self._request.raw_entropies:
            found["raw_entropies"] = wire.floats(rollout.raw_entropies).tolist()
        if self._request.segment_entropies:
            found["segments"] = [
                {"start": each.start, "end": each.end, "mean": each.mean, "max": each.max}
                for each in rollout.segments
            ]
        if self._request.truncated:
            found["kept_masses"] = wire.floats(rollout.kept_masses).tolist()
            found["truncated_logprobs"] = wire.floats(rollout.truncated_logprobs).tolist()
            found["truncated_entropies"] = wire.floats(rollout.truncated_entropies).tolist()
        return found

    def _scored(self, drawn: _Drawn) -> _Scored:
        # The likeliest tokens are asked for at temperature 0 only, where they are the drawn ones.
        likeliest = list(zip(drawn.ids, drawn.logprobs, strict=True))
        return _Scored(drawn.ids, drawn.logprobs, likeliest, drawn.offsets)

    def _with_prompt(self, drawn: _Drawn, rollout: pb.Rollout) -> _Scored:
        """Return the drawn tokens behind those of prompt and prefix."""
        after = self._scored(drawn)
        ids = [*self._prompts[rollout.prompt_index], *self._request.prefix_token_ids]
        growing, end, offsets = GrowingText(self._tokenizer), 0, []
        for token in ids:
            offsets.append(end)
            end += len(growing.add([token]))
        best = zip(
            wire.ints(rollout.prompt_likeliest_ids).tolist(),
            wire.floats(rollout.prompt_likeliest_logprobs).tolist(),
            strict=True,
        )
        return _Scored(
            [*ids, *after.ids],
            [None, *wire.floats(rollout.prompt_logprobs).tolist(), *after.logprobs],
            [None, *best, *after.likeliest],
            [*offsets, *after.offsets],
        )

    def _logprobs(self, scored: _Scored) -> dict[str, Any]:
        texts = [self._tokenizer.token_text(token) for token in scored.ids]
        found: dict[str, Any] = {
            "tokens": texts,
            "token_logprobs": list(scored.logprobs),
            "top_logprobs": None,
            "text_offset": list(scored.offsets),
        }
        if self._request.wants_likeliest:
            found["top_logprobs"] = [
                # Two tokens may have one text: the larger number stays.
                best and {text: logprob, self._tokenizer.token_text(best[0]): best[1]}
                for text, logprob, best in zip(texts, scored.logprobs, scored.likeliest, strict=True)
            ]
        return found

    def _chat_logprobs(self, drawn: _Drawn) -> dict[str, Any]:
        content = []
        for token, logprob in zip(drawn.ids, drawn.logprobs, strict=True):
            text, data = self._tokenizer.token_text(token), self._tokenizer.token_bytes(token)
            content.append({"token": text, "logprob": logprob, "bytes": data, "top_logprobs": []})
        return {"content": content, "refusal": None}
