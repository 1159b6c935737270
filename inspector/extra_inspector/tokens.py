"""The tokens of a rollout: the text of each, its entropy, and where segments end.

The run's vocabulary has the text of each token alone. Joined, these should be the rollout's text; where they
are not (tokens with part of a character, tokenizers that drop a leading space), tokens are fitted to the
text: a token that is not found at its place shares the text up to the next one that is found.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from extra_trainer.runs.folder import RunFolder
from extra_trainer.runs.schema import RolloutRecord

#: Characters searched for the next token that fits.
AHEAD = 64


@dataclass(frozen=True)
class Token:
    """One token of a rollout."""

    text: str
    #: In nats; None for tokens of the prefix, which were not sampled in this rollout.
    entropy: float | None
    #: Whether a segment ends after it.
    ends_segment: bool = False


@dataclass
class Vocabulary:
    """The texts of a run's tokens."""

    folder: RunFolder
    min_segment_tokens: int = 1

    @cached_property
    def pieces(self) -> list[str]:
        """Text of each token alone; empty if the run folder does not have them."""
        if not self.folder.vocabulary.is_file():
            return []
        found: list[str] = json.loads(self.folder.vocabulary.read_text(encoding="utf-8"))
        return found

    def tokens(self, record: RolloutRecord) -> list[Token] | None:
        """Return the tokens of a rollout, those of its prefix first; None without a vocabulary."""
        if not self.pieces:
            return None
        ids = record.token_ids.tolist()
        known = record.entropies.astype(float).tolist()
        entropies = [*[None] * (len(ids) - len(known)), *known]
        pieces = [self.pieces[i] if i < len(self.pieces) else "" for i in ids]
        texts = fitted(pieces, record.text)
        ends = segment_ends(pieces, self.min_segment_tokens)
        return [
            Token(text, entropy, place in ends)
            for place, (text, entropy) in enumerate(zip(texts, entropies, strict=True), 1)
        ]


def segment_ends(pieces: Sequence[str], least: int) -> set[int]:
    """Return the numbers of tokens after which segments end: at newlines, at least `least` tokens apart."""
    ends: list[int] = []
    for place, piece in enumerate(pieces, 1):
        if "\n" in piece and (not ends or place - ends[-1] >= least):
            ends.append(place)
    return set(ends)


def fitted(pieces: Sequence[str], text: str) -> list[str]:
    """Return the part of `text` that belongs to each token; joined they are the text."""
    parts: list[str] = []
    at = 0
    for piece in pieces:
        if piece and text.startswith(piece, at):
            parts.append(piece)
            at += len(piece)
            continue
        place = text.find(piece, at, at + AHEAD) if piece.strip("\ufffd") else -1
        if place < 0:
            parts.append("")
            continue
        # The text between belongs to the tokens before, which did not fit, or to this one.
        if parts and not parts[-1]:
            parts[-1] = text[at:place]
            parts.append(piece)
        else:
            parts.append(text[at:place] + piece)
        at = place + len(piece)
    if at < len(text):
        last = next((place for place in reversed(range(len(parts))) if not parts[place]), len(parts) - 1)
        if parts:
            parts[last] += text[at:]
    return parts
