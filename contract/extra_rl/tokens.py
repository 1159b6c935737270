"""Token ids and text: the text of each token, and where in a decoded text each token ends.

A token may hold a part of a character (byte-level BPE), or lose a space when it is decoded alone (word
pieces). So the text of a rollout is not simply the texts of its tokens in a row. `TokenTexts` is exact, it
has the tokenizer; `align` fits recorded texts of tokens to a text as well as that is possible without one.
Nothing heavy is imported: a tokenizer is any object with the methods of Hugging Face's tokenizers.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: What decoders write where bytes are no whole character.
REPLACEMENT = "\ufffd"
#: Least temperature of sampling, besides 0 (greedy). Float32 logits divided by less are mostly rounding, and
#: vLLM allows no less.
LEAST_TEMPERATURE = 0.01
#: Characters that `align` searches for the next token that fits.
SEARCH_WINDOW = 64


def leading_bos(tokenizer: Any) -> list[int]:
    """Return the id of the token that `tokenizer` puts before every text, if it has one; else nothing."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos] else []


def encode_prompts(tokenizer: Any, texts: Sequence[str], *, templated: bool) -> list[list[int]]:
    """Encode prompts with exactly the one leading token (BOS) that a model expects.

    A text that begins with it gets no second one. A chat template decides itself whether to write it, so
    nothing is added to its text.

    Args:
        tokenizer: The model's tokenizer.
        texts: The prompts.
        templated: Whether they come from the tokenizer's chat template.
    """
    bos = [] if templated else leading_bos(tokenizer)
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return [list(ids) if list(ids[: len(bos)]) == bos else [*bos, *ids] for ids in encoded]


class TokenTexts:
    """The texts of a tokenizer's tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def pieces(self) -> list[str]:
        """Text of each token alone, by id; empty for special tokens."""
        return self._alone(skip_special_tokens=True)

    @cached_property
    def newline_ids(self) -> list[int]:
        """Ids of the tokens whose text has a newline."""
        texts = self._alone(skip_special_tokens=False)
        return [token for token, text in enumerate(texts) if "\n" in text]

    def decode(self, token_ids: ArrayLike) -> str:
        """Return the text of `token_ids` [length], without special tokens and without clean-up of spaces."""
        ids = np.asarray(token_ids, dtype=np.int64).tolist()
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def ends(self, token_ids: ArrayLike, text: str) -> NDArray[np.int32]:
        """Return where in `text` each token ends.

        Args:
            token_ids: Integers [length].
            text: What they decode to, without special tokens. It may end before them, at a stop string.

        Returns:
            int32 [length]: for each token the number of characters of `text` up to and including it. Never
            decreasing; the last is the length of `text`. Special tokens have no characters. A character that
            is split over several tokens belongs to the one that completes it.
        """
        ids = np.asarray(token_ids, dtype=np.int64).tolist()
        added = self._added(ids)
        fits = "".join(added).startswith(text)
        return np.array(align(added, text) if fits else self._ends_of_openings(ids, text), dtype=np.int32)

    def _added(self, ids: Sequence[int]) -> list[str]:
        """Return what each token adds to the text, where tokens decode alone apart from split characters."""
        added: list[str] = []
        # The tokens since a character began that is not complete yet, and how much of their text is added.
        run: list[int] = []
        done = 0
        for token in ids:
            run.append(token)
            decoded = self.pieces[token] if len(run) == 1 else self.decode(run)
            complete = decoded.rstrip(REPLACEMENT)
            added.append(complete[done:])
            if complete == decoded:
                run, done = [], 0
            else:
                done = max(done, len(complete))
        if run:
            # Generation stopped inside a character, or these bytes are none.
            added[-1] += self.decode(run)[done:]
        return added

    def _ends_of_openings(self, ids: Sequence[int], text: str) -> list[int]:
        """Return the ends of tokens whose text depends on the tokens before: only openings decode right."""
        ends: list[int] = []
        end = 0
        for count in range(1, len(ids) + 1):
            opening = self.decode(ids[:count]).rstrip(REPLACEMENT)
            if text.startswith(opening):
                end = max(end, len(opening))
            elif opening.startswith(text):
                end = len(text)
            ends.append(end)
        return [*ends[:-1], len(text)] if ends else []

    def _alone(self, *, skip_special_tokens: bool) -> list[str]:
        decoded: list[str] = self.tokenizer.batch_decode(
            [[token] for token in range(len(self.tokenizer))],
            skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=False,
        )
        return decoded


def align(pieces: Sequence[str], text: str) -> list[int]:
    """Fit the texts of tokens to the text that they decode to together.

    Exact where `pieces` in a row begin with `text`. A piece that is not found where it should be (a part of a
    character, a lost space) ends where the next piece that fits begins.

    Args:
        pieces: Text of each token.
        text: Text of all.

    Returns:
        For each token the number of characters of `text` up to and including it. Never decreasing; the last
        is the length of `text`.
    """
    ends: list[int] = []
    end, fits = 0, True
    for piece in pieces:
        if text.startswith(piece, end):
            end, fits = end + len(piece), fits or bool(piece)
        elif piece.startswith(text[end : end + len(piece)]) and end + len(piece) > len(text):
            # The text ends inside this token.
            end, fits = len(text), True
        elif (found := _find(piece, text, end)) >= 0:
            if not fits:
                ends[-1] = found
            end, fits = found + len(piece), True
        else:
            fits = False
        ends.append(end)
    if ends:
        ends[-1] = len(text)
    return ends


def vocab_hash(vocabulary: Mapping[str, int]) -> str:
    """Return the hash that distinguishes vocabularies.

    Args:
        vocabulary: Token -> id, as `tokenizer.get_vocab()` returns it.

    Returns:
        Hex SHA-256 of the UTF-8 text of one line per token: id in decimal, a tab, the token, a newline; in
        order of id, and of token where ids are the same.
    """
    digest = hashlib.sha256()
    for token, index in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{index}\t{token}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _find(piece: str, text: str, start: int) -> int:
    # Replacement characters alone stand for anything.
    return text.find(piece, start, start + SEARCH_WINDOW) if piece.strip(REPLACEMENT) else -1
