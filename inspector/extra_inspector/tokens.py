"""The tokens of a rollout: the text and the entropy of each, and where segments end.

The run's vocabulary holds the text of each token alone. Together they should be the rollout's text; where
they are not (tokens that hold part of a character, tokenizers that drop a leading space),
`extra_rl.tokens.align` fits them to it.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from extra_rl.tokens import align
from extra_trainer.runs.folder import RunFolder
from extra_trainer.runs.record import unpacked


@dataclass(frozen=True)
class Token:
    """One token. `entropy`, in nats, is None for those of a prefix, which were not sampled here."""

    text: str
    entropy: float | None
    #: Whether a segment ends after it.
    ends_segment: bool = False


@dataclass
class Vocabulary:
    """The texts of the tokens of a run."""

    folder: RunFolder
    min_segment_tokens: int = 1

    @cached_property
    def pieces(self) -> list[str]:
        """Text of each token alone; empty if the run folder is of a release that did not keep them."""
        if not self.folder.vocabulary.is_file():
            return []
        found: list[str] = json.loads(self.folder.vocabulary.read_text(encoding="utf-8"))
        return found

    def tokens(self, record: dict[str, Any]) -> list[Token] | None:
        """The tokens of a rollout, its prefix's first; None if its line does not hold them."""
        if "token_ids" not in record or not self.pieces:
            return None
        ids = unpacked(record["token_ids"], "<i4").tolist()
        known = unpacked(record["entropies"], "<f2").astype(float).tolist()
        entropies = [*[None] * (len(ids) - len(known)), *known]
        pieces = [self.pieces[i] if i < len(self.pieces) else "" for i in ids]
        texts = fitted(pieces, record["text"])
        ends = segment_ends(pieces, self.min_segment_tokens)
        return [
            Token(text, entropy, place in ends)
            for place, (text, entropy) in enumerate(zip(texts, entropies, strict=True), 1)
        ]


def segment_ends(pieces: Sequence[str], least: int) -> set[int]:
    """After how many tokens segments end: at newlines, at least `least` tokens apart."""
    ends: list[int] = []
    for place, piece in enumerate(pieces, 1):
        if "\n" in piece and (not ends or place - ends[-1] >= least):
            ends.append(place)
    return set(ends)


def fitted(pieces: Sequence[str], text: str) -> list[str]:
    """Return the part of `text` that each token stands for; together they are the text."""
    return [text[start:end] for start, end in itertools.pairwise([0, *align(pieces, text)])]
