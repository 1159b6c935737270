"""The rehearsal's tokenizer and start model: exact round trips, seeded weights, and the cache."""

import hashlib
import random
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from extra_trainer.rehearsal import fitting_examples, operators
from extra_trainer.rehearsal import start_model as module
from extra_trainer.rehearsal.problems import problems, worked_example
from extra_trainer.rehearsal.recipes import RECIPES, OperatorsFit, SumsFit
from extra_trainer.rehearsal.start_model import start_model
from extra_trainer.rehearsal.tokenizer import OPERATOR_CHARACTERS, make_tokenizer

TINY = SumsFit(hidden_size=32, layers=1, head_size=16, steps=4, tokens_per_step=256, warmup_steps=1)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_model(tmp_path_factory.mktemp("cache"), seed=5, settings=TINY)


def test_the_saved_tokenizer_gives_back_every_problem_and_solution_exactly(fitted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(fitted)
    rng = random.Random(0)
    for problem in problems("fitting", 500, seed=0):
        text = problem.prompt + worked_example(problem, rng)
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_a_newline_a_digit_and_an_opening_box_are_tokens_of_their_own() -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.tokenize("12+3=15\n\\boxed{15}") == [
        *"12+3=15",
        "\n",
        "\\boxed{",
        *"15}",
    ]


def test_end_of_text_is_one_token_that_decoding_can_leave_out() -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer("\\boxed{7}<eos>").input_ids
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "\\boxed{7}"


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(fitted: Path, tmp_path: Path) -> None:
    same = load_file(start_model(tmp_path, seed=5, settings=TINY) / "model.safetensors")
    other = load_file(start_model(tmp_path, seed=6, settings=TINY) / "model.safetensors")
    first = load_file(fitted / "model.safetensors")
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_fitting_leaves_the_callers_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    start_model(tmp_path, seed=5, settings=TINY)
    assert torch.equal(torch.rand(3), expected)


def test_the_second_call_reuses_the_folder_and_fits_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = start_model(tmp_path, seed=1, settings=TINY)
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "Fitting" in capfd.readouterr().err
    assert start_model(tmp_path, seed=1, settings=TINY) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert "Fitting" not in capfd.readouterr().err


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_experiments_find_the_start_models_that_are_committed(
    recipe: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Minutes, and a model among those that are committed, if one were missing.
    monkeypatch.setattr(module, "fit", lambda *_: pytest.fail("the start model is not there"))
    committed = Path(__file__).parents[2] / "trainer/start-models"
    before = {path.name for path in committed.iterdir()}
    assert start_model(committed, 0, RECIPES[recipe]).name in before
    assert "Fitting" not in capfd.readouterr().err


def test_a_drill_teaches_to_notice_a_slip_and_not_to_slip() -> None:
    tokenizer = make_tokenizer()
    solution = "\n".join([*["12+3=14=15"] * 8, *["4+3=9"] * 8, "\\boxed{1}"])
    (drill,) = fitting_examples._drills([("", solution)], tokenizer, random.Random(0))
    ids, learned = drill
    assert tokenizer.decode(ids) == "12+3=14=15\n" * 8, "a slip that is carried on is not drilled"
    marks = "".join("x" if flag else "." for flag in learned)
    assert marks == ".....x.xxxx" * 8, "of 12+3=14=15 and its newline the digits, but for the 4"


def test_an_interrupted_fit_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_train_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start_model(tmp_path, seed=1, settings=TINY)
    assert list(tmp_path.iterdir()) == []


def test_transformers_loads_the_folder_as_qwen3_with_an_output_layer_of_its_own(fitted: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(fitted)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.config.eos_token_id == make_tokenizer().eos_token_id
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize(
    ("recipe", "key", "batches"),
    [
        ("rehearsal", "f4f3074ac22e69de", "58ed5ac38ae0885c"),
        ("rehearsal-self-correcting", "8edc0cc0a5f2c978", "d593d6a9d3784f13"),
        ("rehearsal-operators", "75336de59d3b779b", "fbc308995758fffa"),
        ("rehearsal-operators-noisy", "1491c4addbb92f4f", "67ea0f9290e98d0b"),
        ("rehearsal-operators-guessable", "496e59438b4fa464", "90cc3b05b26b7bc1"),
    ],
)
def test_the_keys_of_the_recipes_and_what_they_are_fitted_on_do_not_change(
    recipe: str, key: str, batches: str
) -> None:
    settings = RECIPES[recipe]
    assert module._cache_key(0, settings) == key
    digest = hashlib.sha256()
    tokenizer = fitting_examples.tokenizer_of(settings)
    for batch in islice(fitting_examples.fitting_batches(tokenizer, 0, settings), 30):
        digest.update(batch.ids.numpy().tobytes())
        digest.update(batch.labels.numpy().tobytes())
    assert digest.hexdigest()[:16] == batches


def test_the_operators_tokenizer_gives_back_every_problem_and_solution_exactly() -> None:
    tokenizer = make_tokenizer(OPERATOR_CHARACTERS)
    rng = random.Random(0)
    probabilities = operators.success_probabilities(0.01)
    for problem in islice(operators.stream_problems("fitting", 0), 300):
        text = problem.prompt + operators.worked_example(problem, rng, probabilities)
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_an_operators_model_is_fitted_on_its_own_vocabulary(tmp_path: Path) -> None:
    settings = OperatorsFit(hidden_size=32, layers=1, head_size=16, steps=2, examples_per_step=4)
    folder = start_model(tmp_path, 0, settings)
    assert len(AutoTokenizer.from_pretrained(folder)) == len(OPERATOR_CHARACTERS) + 4
