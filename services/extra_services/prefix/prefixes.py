"""Stores and selects prefixes of hard prompts, and records their outcomes: the domain of the prefix service.

Prefixes are in the same namespaces, store and locks as solutions. A prompt has few of them (a ring of 128),
so selection reads them from the store and compares all with all.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import SelectionPolicy, TextWindow
from extra_services.errors import InvalidInput, NotFound, ServiceError
from extra_services.memory.memory import (
    NO_KEY,
    Change,
    Computed,
    IdempotencyKey,
    Memory,
    check_prompt_id,
    check_space,
)
from extra_services.memory.records import Header, NewOutcome, PromptWrite, StoredPrefix, Write
from extra_services.prefix.selection import DEFAULT_TAU, Candidate, SelectionOptions, candidates, rank
from extra_services.prefix.splitting import boundaries

DEFAULT_MIN_SEGMENT_TOKENS = 32


@dataclass(frozen=True)
class PrefixLimits:
    """Largest requests that are accepted."""

    prompts_per_request: int = 4096
    text_characters: int = 1_000_000


@dataclass(frozen=True)
class EntropyRollout:
    """A response: its tokens int32 [length], their entropies float32 [length] in nats, and its text.

    `token_ends`, int32 [length], is the number of characters of the text up to and including each token.
    """

    token_ids: NDArray[np.int32]
    entropies: NDArray[np.float32]
    text: str
    token_ends: NDArray[np.int32]


@dataclass(frozen=True)
class HardPrompt:
    """A prompt that is rarely solved, and its rollouts."""

    prompt_id: str
    rollouts: list[EntropyRollout]


@dataclass(frozen=True)
class AddedPrefixes:
    """Index of the rollout that was split, and the length in tokens of each prefix stored."""

    rollout_index: int
    lengths: list[int]


@dataclass(frozen=True)
class SelectedPrefix:
    """The prefix to continue from, the number of candidates, and all of them, best first."""

    chosen: Candidate
    candidates: int
    ranking: list[Candidate]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a group that continued from a prefix; an empty id is the empty prefix."""

    prompt_id: str
    prefix_id: str
    rollouts: int
    successes: int


#: A prompt, its rollout, and the length in tokens of one of its prefixes.
Cut = tuple[str, EntropyRollout, int]


class PrefixMemory:
    """Adds and selects prefixes, and records outcomes. Thread-safe; blocks while it embeds and commits."""

    def __init__(self, memory: Memory, limits: PrefixLimits | None = None, one_pass: bool = False) -> None:
        """Make the domain.

        Args:
            memory: Where prefixes are kept.
            limits: Largest requests.
            one_pass: Embed the prefixes of a rollout in one pass over it: about the same vectors, sooner.
        """
        self._memory = memory
        self.limits = limits or PrefixLimits()
        self._one_pass = one_pass

    @property
    def embedding_model(self) -> str:
        """Name of the embedding model, empty if there is none."""
        return self._memory.embedding_model().model

    def add(
        self,
        namespace: str,
        prompts: list[HardPrompt],
        newline_token_ids: list[int],
        min_segment_tokens: int = DEFAULT_MIN_SEGMENT_TOKENS,
        key: str = "",
    ) -> tuple[list[AddedPrefixes | InvalidInput], bool]:
        """Split the most confident rollout of each prompt and store its prefixes.

        Args:
            namespace: Name of the namespace.
            prompts: Hard prompts with their rollouts.
            newline_token_ids: Tokens whose text contains a newline.
            min_segment_tokens: Least distance of two boundaries, in tokens.
            key: Idempotency key; empty for none.

        Returns:
            An answer per prompt, in order, and whether they are the replay of an earlier call's.

        Raises:
            NotFound: There is no such namespace.
            InvalidInput: There are too many prompts, or the key was used for another request.
            FailedPrecondition: The server has no embedding model, or the namespace holds prefixes of another.
        """
        self._check_size("prompts", len(prompts))
        found = self._memory.namespace(namespace)
        names = IdempotencyKey(
            "add_rollouts", key, _digest([p.prompt_id for p in prompts], [len(p.rollouts) for p in prompts])
        )
        answered = self._memory.replay(found, names)
        if answered is not None:
            return _decode_added(answered), True
        check_space(found.prefixes, self._memory.space_of_texts(), namespace)
        answers, cuts = self._split_all(prompts, set(newline_token_ids), min_segment_tokens)
        new = self._stored(cuts, found.settings.text_window)

        def compute(change: Change) -> Computed[list[AddedPrefixes | InvalidInput]]:
            headers = change.headers()
            writes = {
                prompt: PromptWrite(headers[prompt].version, prefixes=some) for prompt, some in new.items()
            }
            space = self._memory.space_of_texts() if new else None
            return Computed(answers, Write(writes, prefixes=space))

        result = self._memory.change(found, new, names, compute, _encode_added)
        return (_decode_added(result), True) if isinstance(result, str) else (result, False)

    def select(
        self, namespace: str, prompt_ids: list[str], options: SelectionOptions | None = None, seed: int = 0
    ) -> list[SelectedPrefix | ServiceError]:
        """Return the prefix to continue from, per prompt; NotFound instead for a prompt that has none.

        Raises:
            NotFound: There is no such namespace.
            InvalidInput: There are too many prompts, or an option is out of range.
        """
        options = options or SelectionOptions()
        self._check_size("prompt_ids", len(prompt_ids))
        for field in ("tau", "exploration"):
            value = getattr(options, field)
            if not (np.isfinite(value) and value >= 0) or (field == "tau" and value == 0):
                raise InvalidInput(field, f"must be a positive number, is {value}")
        refused, stored, headers = self._read(namespace, prompt_ids)
        random = np.random.default_rng(seed)
        return [
            refused.get(prompt) or _select(prompt, stored[prompt], headers[prompt], options, random)
            for prompt in prompt_ids
        ]

    def stored(self, namespace: str, prompt_ids: list[str]) -> list[list[Candidate] | InvalidInput]:
        """Return, per prompt, its stored prefixes, oldest first, and the empty one if it has outcomes.

        Raises:
            NotFound: There is no such namespace.
            InvalidInput: There are too many prompts.
        """
        self._check_size("prompt_ids", len(prompt_ids))
        refused, stored, headers = self._read(namespace, prompt_ids)
        return [refused.get(prompt) or _listed(stored[prompt], headers[prompt]) for prompt in prompt_ids]

    def forget(self, namespace: str, wanted: dict[str, set[str]]) -> dict[str, int]:
        """Forget prefixes by prompt and id; no ids mean all. Return their number, by prompt.

        Raises:
            NotFound: There is no such namespace.
            InvalidInput: There are too many prompts, or an id cannot be one of a prompt.
        """
        self._check_size("prompts", len(wanted))
        for index, prompt_id in enumerate(wanted):
            check_prompt_id(prompt_id, f"prompts[{index}].prompt_id")

        def compute(change: Change) -> Computed[dict[str, int]]:
            headers, stored = change.headers(), change.prefixes()
            gone = {
                prompt: [p.sequence for p in stored[prompt] if not ids or prefix_id(p) in ids]
                for prompt, ids in wanted.items()
            }
            writes = {
                prompt: PromptWrite(headers[prompt].version, forgotten=sequences)
                for prompt, sequences in gone.items()
                if sequences
            }
            return Computed({prompt: len(sequences) for prompt, sequences in gone.items()}, Write(writes))

        found = self._memory.namespace(namespace)
        forgotten = self._memory.change(found, wanted, NO_KEY, compute, lambda _: "")
        assert not isinstance(forgotten, str), "there is no key to replay"
        return forgotten

    def report(
        self, namespace: str, outcomes: list[Outcome], key: str = ""
    ) -> tuple[list[ServiceError | None], bool]:
        """Store outcomes.

        Returns:
            Per outcome None, or why it was refused; and whether they are the replay of an earlier call's.

        Raises:
            NotFound: There is no such namespace.
            InvalidInput: There are too many outcomes, or the key was used for another request.
        """
        self._check_size("outcomes", len(outcomes))
        names = IdempotencyKey(
            "report_outcomes", key, _digest([(o.prompt_id, o.prefix_id, o.successes) for o in outcomes])
        )
        found = self._memory.namespace(namespace)
        answered = self._memory.replay(found, names)
        if answered is not None:
            return _decode_errors(answered), True
        checked = [_check_outcome(outcome) for outcome in outcomes]
        usable = [outcome for outcome, error in zip(outcomes, checked, strict=True) if error is None]

        def compute(change: Change) -> Computed[list[ServiceError | None]]:
            headers, stored = change.headers(), change.prefixes()
            answers = list(checked)
            added: dict[str, list[NewOutcome]] = {}
            for index, outcome in enumerate(outcomes):
                if answers[index] is not None:
                    continue
                sequence = _sequence(outcome, stored[outcome.prompt_id], headers[outcome.prompt_id])
                if isinstance(sequence, NotFound):
                    answers[index] = sequence
                    continue
                new = NewOutcome(sequence, outcome.rollouts, outcome.successes)
                added.setdefault(outcome.prompt_id, []).append(new)
            writes = {
                prompt: PromptWrite(headers[prompt].version, outcomes=new) for prompt, new in added.items()
            }
            return Computed(answers, Write(writes))

        prompts = dict.fromkeys(outcome.prompt_id for outcome in usable)
        result = self._memory.change(found, prompts, names, compute, _encode_errors)
        return (_decode_errors(result), True) if isinstance(result, str) else (result, False)

    def _read(
        self, namespace: str, prompt_ids: list[str]
    ) -> tuple[dict[str, InvalidInput], dict[str, list[StoredPrefix]], dict[str, Header]]:
        """Errors of ids that cannot be ones of a prompt; prefixes and headers of the others."""
        refused: dict[str, InvalidInput] = {}
        for prompt_id in prompt_ids:
            try:
                check_prompt_id(prompt_id, "")
            except InvalidInput as error:
                refused[prompt_id] = error
        usable = [prompt_id for prompt_id in dict.fromkeys(prompt_ids) if prompt_id not in refused]
        found = self._memory.namespace(namespace)
        store = self._memory.store
        return refused, store.prefixes(found, usable), store.headers(found, usable)

    def _check_size(self, field: str, count: int) -> None:
        if count > self.limits.prompts_per_request:
            limit = self.limits.prompts_per_request
            raise InvalidInput(field, f"{count} entries in one request; send at most {limit}")

    def _split_all(
        self, prompts: list[HardPrompt], newlines: set[int], min_segment_tokens: int
    ) -> tuple[list[AddedPrefixes | InvalidInput], list[Cut]]:
        """Answers per prompt, and the cuts of its rollouts, in order."""
        answers: list[AddedPrefixes | InvalidInput] = []
        cuts: list[Cut] = []
        for prompt in prompts:
            try:
                self._check(prompt)
            except InvalidInput as error:
                answers.append(error)
                continue
            chosen = most_confident(prompt.rollouts)
            rollout = prompt.rollouts[chosen]
            lengths = boundaries(rollout.token_ids, newlines, min_segment_tokens)
            answers.append(AddedPrefixes(chosen, lengths))
            cuts += [(prompt.prompt_id, rollout, length) for length in lengths]
        return answers, cuts

    def _stored(self, cuts: list[Cut], window: TextWindow) -> dict[str, list[StoredPrefix]]:
        """Prefixes to store, by prompt, in order."""
        texts = [rollout.text[: int(rollout.token_ends[length - 1])] for _, rollout, length in cuts]
        new: dict[str, list[StoredPrefix]] = {}
        vectors = self._vectors(cuts, texts, window)
        for (prompt_id, rollout, length), text, vector in zip(cuts, texts, vectors, strict=True):
            entropy = float(np.mean(rollout.entropies[:length], dtype=np.float64))
            prefix = StoredPrefix(0, rollout.token_ids[:length], text, entropy, vector)
            new.setdefault(prompt_id, []).append(prefix)
        return new

    def _vectors(
        self, cuts: list[Cut], texts: list[str], window: TextWindow
    ) -> Iterable[NDArray[np.float32]]:
        """Vectors of the prefixes, one for each cut."""
        if not self._one_pass:
            return self._memory.embedder.embed(texts, window)
        together = [
            list(some) for _, some in groupby(zip(cuts, texts, strict=True), lambda each: id(each[0][1]))
        ]
        whole = [some[-1][1] for some in together]
        ends = [[len(text) for _, text in some] for some in together]
        return chain.from_iterable(self._memory.embedder.embed_prefixes(whole, ends, window))

    def _check(self, prompt: HardPrompt) -> None:
        check_prompt_id(prompt.prompt_id)
        if not prompt.rollouts:
            raise InvalidInput("rollouts", "is empty: give at least one rollout")
        for index, rollout in enumerate(prompt.rollouts):
            self._check_rollout(rollout, f"rollouts[{index}]")

    def _check_rollout(self, rollout: EntropyRollout, field: str) -> None:
        length = len(rollout.token_ids)
        if not length:
            raise InvalidInput(f"{field}.token_ids", "is empty: a rollout without tokens has no mean entropy")
        for name, values in (("entropies", rollout.entropies), ("token_ends", rollout.token_ends)):
            if len(values) != length:
                raise InvalidInput(f"{field}.{name}", f"{len(values)} values for {length} tokens")
        if not np.isfinite(rollout.entropies).all():
            raise InvalidInput(f"{field}.entropies", "holds a value that is not finite")
        ends = rollout.token_ends
        if ends[0] < 0 or ends[-1] > len(rollout.text) or (np.diff(ends) < 0).any():
            raise InvalidInput(
                f"{field}.token_ends", f"must rise from 0 to {len(rollout.text)}, the text's length"
            )
        if len(rollout.text) > self.limits.text_characters:
            limit = self.limits.text_characters
            raise InvalidInput(
                f"{field}.text", f"{len(rollout.text)} characters; at most {limit} are embedded"
            )


def most_confident(rollouts: list[EntropyRollout]) -> int:
    """Return the index of the rollout of lowest mean entropy; the first of equals."""
    return int(np.argmin([np.mean(rollout.entropies, dtype=np.float64) for rollout in rollouts]))


def prefix_id(prefix: StoredPrefix) -> str:
    """Return the id of a prefix: unique in its prompt, even if the prompt is deleted and added again."""
    return f"{prefix.sequence}-{hashlib.blake2b(prefix.token_ids.tobytes(), digest_size=6).hexdigest()}"


def _select(
    prompt_id: str,
    stored: list[StoredPrefix],
    header: Header,
    options: SelectionOptions,
    random: np.random.Generator,
) -> SelectedPrefix | NotFound:
    ranking = rank(stored, header, options, random)
    if not ranking:
        return NotFound(f"prompt {prompt_id!r} has no stored prefix; add rollouts of it first")
    competed = len(stored) if options.policy is SelectionPolicy.NONE else len(ranking)
    return SelectedPrefix(ranking[0], competed, ranking)


def _listed(stored: list[StoredPrefix], header: Header) -> list[Candidate]:
    known = candidates(stored, DEFAULT_TAU)
    if header.unguided_rollouts:
        known.append(Candidate(None, rollouts=header.unguided_rollouts, successes=header.unguided_successes))
    return known


def _check_outcome(outcome: Outcome) -> ServiceError | None:
    try:
        check_prompt_id(outcome.prompt_id)
    except InvalidInput as error:
        return error
    if outcome.rollouts < 1:
        return InvalidInput("rollouts", "must be at least 1")
    if not 0 <= outcome.successes <= outcome.rollouts:
        return InvalidInput("successes", f"must be 0 to {outcome.rollouts}, is {outcome.successes}")
    return None


def _sequence(outcome: Outcome, stored: list[StoredPrefix], header: Header) -> int | NotFound | None:
    if not outcome.prefix_id:
        return None
    for prefix in stored:
        if prefix_id(prefix) == outcome.prefix_id:
            return prefix.sequence
    return NotFound(
        f"prompt {outcome.prompt_id!r} no longer has prefix {outcome.prefix_id!r}"
        f" ({header.prefixes_added} were added so far)"
    )


def _digest(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def _encode_added(answers: list[AddedPrefixes | InvalidInput]) -> str:
    return json.dumps(
        [
            [a.rollout_index, a.lengths]
            if isinstance(a, AddedPrefixes)
            else {"field": a.field, "message": a.message}
            for a in answers
        ]
    )


def _decode_added(text: str) -> list[AddedPrefixes | InvalidInput]:
    return [
        InvalidInput(item["field"], item["message"]) if isinstance(item, dict) else AddedPrefixes(*item)
        for item in json.loads(text)
    ]


def _encode_errors(errors: list[ServiceError | None]) -> str:
    return json.dumps(
        [
            None if error is None else {"message": error.message, "field": getattr(error, "field", None)}
            for error in errors
        ]
    )


def _decode_errors(text: str) -> list[ServiceError | None]:
    return [None if item is None else _decode_error(item) for item in json.loads(text)]


def _decode_error(item: dict[str, str | None]) -> ServiceError:
    message, field = str(item["message"]), item["field"]
    return NotFound(message) if field is None else InvalidInput(field, message)
