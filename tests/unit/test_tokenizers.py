"""Tokenizers that want BOS, chat templates that write it, and characters of several tokens."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from extra_rl.tokens import REPLACEMENT, encode_prompts
from extra_services.generation.tokenizer import Tokenizer
from extra_trainer.launch.plan import Plan, _leading_token

BOS = "<s>"
WITH_BOS = "{{ bos_token }}{% for m in messages %}{{ m.content }}\n{% endfor %}"
WITHOUT = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
#: Two, three and four bytes, and one that is two code points.
TEXTS = st.text(st.sampled_from("ab 1\n=éπ≈因😀🇩🇪"), max_size=12)


def make_tokenizer(wants_bos: bool, template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer; with `wants_bos` it puts BOS before every text, as Llama's does."""
    model = FastTokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=alphabet, special_tokens=[BOS, "</s>"], show_progress=False
    )
    model.train_from_iterator(["a b\n1=1\n\n", "b\n\n"], trainer)
    if wants_bos:
        model.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, model.token_to_id(BOS))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=model, bos_token=BOS, eos_token="</s>")
    fast.chat_template = template
    return fast


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The tokenizer of a service."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(False).save_pretrained(folder)
    return Tokenizer(folder)


@pytest.mark.parametrize("wants_bos", [True, False])
@pytest.mark.parametrize("text", ["1+1=?", f"{BOS}1+1=?", "", "é"])
def test_plain_prompts_begin_with_one_bos_in_trainer_and_service(
    wants_bos: bool, text: str, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(wants_bos)
    tokenizer.save_pretrained(tmp_path)
    (ids,) = encode_prompts(tokenizer, [text], templated=False)
    assert ids.count(tokenizer.bos_token_id) == (wants_bos or text.startswith(BOS))
    assert Tokenizer(tmp_path).encode(text).tolist() == ids
    if wants_bos and not text.startswith(BOS):
        assert ids == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("wants_bos", [True, False])
@pytest.mark.parametrize("template", [WITH_BOS, WITHOUT])
def test_a_chat_template_decides_on_bos_in_trainer_and_service(
    wants_bos: bool, template: str, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(wants_bos, template)
    tokenizer.save_pretrained(tmp_path)
    chat = [{"role": "user", "content": "1+1=?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    (ids,) = encode_prompts(tokenizer, [text], templated=True)
    assert ids.count(tokenizer.bos_token_id) == (template == WITH_BOS)
    assert Tokenizer(tmp_path).encode_chat([("user", "1+1=?")]).tolist() == ids


@pytest.mark.parametrize(
    ("wants_bos", "text", "templated", "problem", "warning"),
    [
        (True, "1+1=?", False, "", ""),
        (False, "1+1=?", False, "", ""),
        (True, f"{BOS}{BOS}1+1=?", False, "two BOS tokens ('<s>'): remove one from data.template", ""),
        (False, f"{BOS}{BOS}1+1=?", True, "the chat template writes one already", ""),
        (True, f"{BOS}1+1=?", True, "", ""),
        (True, "1+1=?", True, "", "the chat template writes no BOS token"),
        (False, "1+1=?", True, "", ""),
    ],
)
def test_the_dry_run_says_what_is_wrong_with_bos(
    wants_bos: bool, text: str, templated: bool, problem: str, warning: str
) -> None:
    tokenizer, plan = make_tokenizer(wants_bos), Plan()
    encoded = encode_prompts(tokenizer, [text], templated=templated)
    _leading_token(encoded, tokenizer, templated, plan)
    for found, expected in ((plan.problems, problem), (plan.warnings, warning)):
        assert len(found) == bool(expected)
        assert all(expected in each for each in found)


@given(text=TEXTS, cut=st.integers(0, 40), resumed=st.integers(0, 40))
def test_a_response_that_ends_inside_a_character_has_no_part_of_it(
    served: Tokenizer, text: str, cut: int, resumed: int
) -> None:
    tokens = served.encode(text).tolist()[:cut]
    found = served.response(tokens[:resumed], tokens[resumed:], None)
    assert REPLACEMENT not in found
    assert text.startswith(found)
    assert len(served.encode(found)) >= len(tokens) - 3


@given(before=TEXTS, stop=TEXTS.filter(bool), after=TEXTS, resumed=st.integers(0, 40))
def test_a_response_ends_before_the_stop_string_that_the_last_token_completes(
    served: Tokenizer, before: str, stop: str, after: str, resumed: int
) -> None:
    tokens = served.encode(before + stop + after).tolist()
    # A character that the prefix begins belongs to neither part.
    assume(not served.decode(tokens[:resumed]).endswith(REPLACEMENT))
    # As the engine does: the first token with which the continuation holds the string.
    for end in range(resumed + 1, len(tokens) + 1):
        if stop in served.decode(tokens[resumed:end]):
            found = served.response(tokens[:resumed], tokens[resumed:end], stop)
            assert REPLACEMENT not in found
            start = len(served.decode(tokens[:resumed]).rstrip(REPLACEMENT))
            assert stop not in found[start:]
            assert (before + stop + after).startswith(found + stop)
            return


def test_a_token_that_completes_a_stop_string_twice_leaves_none(served: Tokenizer) -> None:
    tokens = served.encode("a=b\n\n").tolist()
    assert served.decode(tokens[-1:]) == "\n\n"
    for resumed in range(len(tokens)):
        assert served.response(tokens[:resumed], tokens[resumed:], "\n") == "a=b"


@given(text=TEXTS, cuts=st.lists(st.integers(1, 12), max_size=4))
def test_ids_that_no_text_encodes_to_decode_as_they_are(
    served: Tokenizer, text: str, cuts: list[int]
) -> None:
    """A model may draw "a" and " b" where the tokenizer would write one token."""
    places = sorted({cut for cut in cuts if cut < len(text)})
    parts = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    ids = [token for part in parts for token in served.encode(part).tolist()]
    for resumed in range(len(ids) + 1):
        assert served.response(ids[:resumed], ids[resumed:], None) == text
