"""Guided prompts keep their places, answers and order; texts are cut at token boundaries."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from extra_rl.tokens import TokenTexts
from extra_trainer.exploration.guided_queue import GuidedQueue
from extra_trainer.exploration.rescues import Rescues
from extra_trainer.rehearsal.tokenizer import make_tokenizer
from extra_trainer.rollouts.collector import RolloutRequest


def _request(name: str, guided: bool = False) -> RolloutRequest:
    return RolloutRequest(name, f"id-{name}", (1, 2), f"answer-{name}", guided, (3,) if guided else ())


@given(
    waiting=st.integers(0, 20), batch=st.integers(1, 8), most=st.integers(0, 8), capacity=st.integers(1, 10)
)
def test_the_oldest_guided_prompts_take_the_last_places(
    waiting: int, batch: int, most: int, capacity: int
) -> None:
    queue = GuidedQueue(capacity)
    for number in range(waiting):
        queue.add(_request(f"g{number}", guided=True))
    kept = [f"g{number}" for number in range(waiting)][-capacity:]
    planned = queue.take_places([_request(f"p{number}") for number in range(batch)], most)
    taken = min(most, len(kept), batch)
    expected = [f"p{number}" for number in range(batch - taken)] + kept[:taken]
    assert [request.prompt for request in planned] == expected
    assert all(request.answer == f"answer-{request.prompt}" for request in planned)
    assert [request.prompt for request in queue.waiting] == kept[taken:]


def test_a_restored_queue_is_the_same_queue() -> None:
    queue, other = GuidedQueue(4), GuidedQueue(4)
    for name in "abc":
        queue.add(_request(name, guided=True))
    queue.add(replace(_request("d", guided=True), answer=("1", "2")))
    other.restore(json.loads(json.dumps(queue.state())))
    assert list(other.waiting) == list(queue.waiting)


def test_restored_rescues_are_the_same_ones() -> None:
    rescues, other = Rescues({"b", "a"}), Rescues()
    other.restore(rescues.state())
    assert other == rescues


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    """A byte-level BPE, whose tokens may hold parts of a character, as those of Qwen do."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    model.train_from_iterator(["the sum is 12\nso the answer is 7\n"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=model, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("text", ["the sum is 12\nso 7", "π ≈ 3\n因此 x = 2\n", "a\n\nb"])
def test_token_ends_say_where_in_the_text_each_token_ends(
    byte_level: PreTrainedTokenizerFast, text: str
) -> None:
    tokens = TokenTexts(byte_level)
    ids = np.array(byte_level(text)["input_ids"], dtype=np.int32)
    ends = tokens.ends(ids, text)
    assert ends[-1] == len(text)
    assert (np.diff(ends) >= 0).all()
    for place, token in enumerate(ids):
        if int(token) in tokens.newline_ids:
            assert text[: ends[place]].endswith("\n")
            assert byte_level.decode(ids[: place + 1].tolist()) == text[: ends[place]]


def test_the_rehearsal_s_newline_is_a_token_of_its_own() -> None:
    tokens = TokenTexts(make_tokenizer())
    assert len(tokens.newline_ids) == 1
    random.seed(0)
    text = "12+3=15\n15+4=19\n\\boxed{19}"
    ids = np.array(tokens.tokenizer(text)["input_ids"], dtype=np.int32)
    ends = tokens.ends(ids, text)
    assert [text[:end] for end, i in zip(ends, ids, strict=True) if int(i) in tokens.newline_ids] == [
        "12+3=15\n",
        "12+3=15\n15+4=19\n",
    ]
