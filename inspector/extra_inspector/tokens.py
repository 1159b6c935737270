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

from extra_rl.tokens import align
from extra_trainer.runs.folder import RunFolder
from extra_trainer.runs.schema import RolloutRecord


@dataclass(frozen=True)
class Token:
    """One token of a rollout."""

    text: str
    #: In nats; None for tokens of the prefix, which were not sampled in this rollout, and if it is not known.
    entropy: float | None
    #: Whether a segment ends after it.
    ends_segment: bool = False
    #: Whether it was sampled in this rollout, and its entropy is not known.
    unknown: bool = False


@dataclass
class Vocabulary:
    """The texts of the tokens of a run."""

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
        """Return the tokens of a rollout, those of its prefix first; None without ids or a vocabulary."""
        ids = record.token_ids.tolist()
        if not self.pieces or not ids:
            return None
        known = record.entropies.astype(float).tolist()
        entropies = [*[None] * (len(ids) - len(known)), *known]
        pieces = [self.pieces[i] if i < len(self.pieces) else "" for i in ids]
        texts = fitted(pieces, record.text)
        ends = segment_ends(pieces, self.min_segment_tokens)
        return [
            Token(text, entropy, place in ends, entropy is None and place > record.prefix_tokens)
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
    """Return the part of `text` that each token stands for; together they are the text."""
    return [text[start:end] for start, end in itertools.pairwise([0, *align(pieces, text)])]
