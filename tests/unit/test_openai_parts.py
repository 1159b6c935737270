"""Parts of OpenAI's API without a server: streamed texts, the tokens of sessions, and their bounds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from extra_rl import wire
from extra_rl.v1 import generation_pb2 as pb
from extra_rl.vocabulary import FinishReason
from extra_services.errors import FailedPrecondition, InvalidInput, NotFound, Overloaded
from extra_services.generation.openai_api import sessions as module
from extra_services.generation.openai_api.answers import Answer
from extra_services.generation.openai_api.requests import CompletionRequest, parsed
from extra_services.generation.openai_api.sessions import Sessions
from extra_services.generation.tokenizer import Tokenizer

#: Leaves out what was thought in earlier answers, as Qwen3's does.
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content.split('=')[-1] | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
#: Of one to four bytes a character; one is two code points.
TEXTS = st.text(st.sampled_from("ab 1\n=éπ≈因😀🇩🇪"), max_size=12)
ASK = [("user", "1+1")]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ([], "request: must be a JSON object"),
        ({"max_token": 1}, "max_token: is no parameter of this server; did you mean max_tokens?"),
        ({"guided_json": {}}, "guided_json: is no parameter of this server; leave it out"),
        ({"logprobs": 1}, "logprobs: 1 needs temperature 0"),
        ({"logprobs": 1, "temperature": 0, "min_tokens": 1}, "logprobs: 1 needs temperature 0"),
        ({"max_tokens": 0, "echo": True}, "max_tokens: 0 is for echo with logprobs"),
        ({"logprobs": 0, "echo": True, "stream": True}, "stream: is not there for echo with logprobs"),
    ],
)
def test_a_wrong_request_is_told_what_to_do(body: Any, told: str) -> None:
    asked = {"model": "tiny", "prompt": "a", **body} if body else body
    with pytest.raises(InvalidInput) as refused:
        parsed(CompletionRequest, asked)
    assert f"{refused.value.field}: {refused.value}".startswith(told)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level tokenizer, whose tokens may be parts of characters or several of them."""
    model = FastTokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["</s>"],
        show_progress=False,
    )
    model.train_from_iterator(["a b\n1=1\n\n", "b\n\n", "éπ因", "22 22"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="</s>")
    fast.chat_template = TEMPLATE
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(folder)
    return Tokenizer(folder)


def rollout(text: str, ids: list[int], reason: FinishReason = FinishReason.STOP) -> pb.Rollout:
    """Return a rollout of these tokens."""
    number: int = wire.number(reason)
    return pb.Rollout(
        token_ids=wire.int_bytes(ids),
        logprobs=wire.float_bytes(np.full(len(ids), -1.0)),
        entropies=wire.float_bytes(np.full(len(ids), 0.5)),
        text=text,
        finish_reason=number,  # type: ignore[arg-type]
    )


@given(text=TEXTS, stop=st.lists(TEXTS.filter(bool), max_size=2), resumed=st.integers(0, 40))
def test_the_chunks_of_a_stream_are_the_text_and_nothing_is_taken_back(
    tokenizer: Tokenizer, text: str, stop: list[str], resumed: int
) -> None:
    ids = tokenizer.encode(text).tolist()
    prefix, drawn = ids[:resumed], ids[resumed:]
    # As the engine does: the first token with which the drawn ones hold a stop string is the last.
    ended = None
    for end in range(1, len(drawn) + 1):
        ended = next((each for each in stop if each in tokenizer.decode(drawn[:end])), None)
        if ended is not None:
            drawn = drawn[:end]
            break
    whole = tokenizer.response(prefix, drawn, ended)
    asked = {"model": "m", "prompt": [1, 2], "prefix_token_ids": prefix, "stop": stop, "stream": True}
    answer = Answer(parsed(CompletionRequest, asked), [[1, 2]], tokenizer, "x", 0)
    chunks = list(answer.first_chunks())
    for place, token in enumerate(drawn):
        chunk = answer.token_chunk(pb.SampledToken(token_index=place, token_id=token))
        chunks += [chunk] if chunk else []
    chunks.append(answer.last_chunk(rollout(whole, drawn), None))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole


def test_a_session_encodes_only_what_lies_between_two_answers(tokenizer: Tokenizer) -> None:
    sessions = Sessions(tokenizer, most=2, idle_seconds=60)
    session = sessions.open("", "s")
    first = sessions.place(session, ASK)
    assert tokenizer.decode(first.prompt.tolist()) == "user: 1+1\nassistant: "
    # Tokens that no text encodes to: each byte alone. The end-of-sequence token is the template's.
    drawn = [tokenizer.encode(letter).item() for letter in "1=22"]
    assert drawn != tokenizer.encode("1=22").tolist()
    (end,) = tokenizer.encode("</s>").tolist()
    told = first.record(rollout("1=22", [*drawn, end]))
    assert told == {"id": "s", "turn": 0, "parent": None}
    messages = [*ASK, ("assistant", "1=22"), ("user", "why")]
    second = sessions.place(session, messages)
    begun = [*first.prompt.tolist(), *drawn, end]
    assert second.prompt.tolist()[: len(begun)] == begun
    rest = second.prompt.tolist()[len(begun) :]
    assert rest == tokenizer.encode("\nuser: why</s>\nassistant: ").tolist()
    # Ended by its length: the template's end of an answer is part of what comes after it.
    second.record(rollout("be", tokenizer.encode("be").tolist(), FinishReason.LENGTH))
    third = sessions.place(session, [*messages, ("assistant", "be"), ("user", "so")])
    rest = third.prompt.tolist()[len(second.prompt) + len(tokenizer.encode("be")) :]
    assert rest == tokenizer.encode("</s>\nuser: so</s>\nassistant: ").tolist()


def test_a_session_refuses_what_it_did_not_record(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = Sessions(tokenizer, most=2, idle_seconds=60)
    session = sessions.open("", "s")
    answered = [*ASK, ("assistant", "2")]
    with pytest.raises(InvalidInput, match="may have been dropped"):
        sessions.place(session, [*answered, *ASK])
    sessions.place(session, ASK).record(rollout("2", tokenizer.encode("2").tolist()))
    with pytest.raises(InvalidInput, match="add the next message"):
        sessions.place(session, answered)
    with pytest.raises(InvalidInput, match="begin another session") as refused:
        sessions.place(session, [*answered, *answered, *ASK])
    assert refused.value.field == "messages.3"
    monkeypatch.setattr(module, "MAX_TURNS", 1)
    with pytest.raises(FailedPrecondition, match="has 1 turns"):
        sessions.place(session, ASK).record(rollout("2", [1]))


def test_sessions_are_bounded_in_number_and_age(tokenizer: Tokenizer) -> None:
    now = 0.0
    sessions = Sessions(tokenizer, most=2, idle_seconds=60, clock=lambda: now)
    for name in ("a", "b"):
        sessions.place(sessions.open("me", name), ASK).record(rollout("2", [1]))
    with pytest.raises(Overloaded, match="max_sessions"):
        sessions.open("me", "c")
    now = 50.0
    assert len(sessions.open("me", "a").turns) == 1
    now = 100.0
    # "b" was not used for longer than a minute.
    sessions.open("me", "c")
    assert [line["session"] for line in sessions.export("me")] == ["a"]
    with pytest.raises(NotFound, match="no session 'b'"):
        list(sessions.export("me", "b"))
    with pytest.raises(NotFound):
        sessions.delete("you", "a")
    sessions.delete("me", "a")
    for name in ("", "x" * 201):
        with pytest.raises(InvalidInput):
            sessions.open("me", name)


def test_a_session_that_branches_exports_each_path(tokenizer: Tokenizer) -> None:
    sessions = Sessions(tokenizer, most=1, idle_seconds=60)
    session = sessions.open("", "s")
    two, three = tokenizer.encode("2").tolist(), tokenizer.encode("3").tolist()
    sessions.place(session, ASK).record(rollout("2", two))
    for number, ids in enumerate((two, three), 1):
        place = sessions.place(session, [*ASK, ("assistant", "2"), ("user", "more")])
        assert place.record(rollout("x", ids)) == {"id": "s", "turn": number, "parent": 0}
    # Another beginning is another group.
    sessions.place(session, [("user", "2+2")]).record(rollout("4", two))
    lines = list(sessions.export(""))
    assert [line["group"] for line in lines] == [0, 0, 0, 1]
    assert lines[1]["prompt_id"] == lines[2]["prompt_id"] != lines[3]["prompt_id"]
    assert lines[2]["response_token_ids"][:-1] == lines[1]["response_token_ids"][:-1]
    assert lines[2]["response_token_ids"][-1:] == three
    middle = len(lines[2]["response_mask"]) - 2
    assert lines[2]["response_mask"] == [1, *[0] * middle, 1]
    assert lines[2]["response_logprobs"] == [-1.0, *[0.0] * middle, -1.0]
