"""Problems are read from every kind of file, and errors name the file and line."""

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from extra_rl.config_file import ConfigError
from extra_trainer.config import PromptConfig
from extra_trainer.data.problems import (
    BENCHMARKS,
    Problem,
    answer_of_label,
    evaluation_sets,
    load_problems,
    read_problems,
    write_problems,
)

ROWS = [
    {"id": "a", "problem": "1+1=?", "answer": "2"},
    {"id": "b", "problem": "2+2=?", "answer": "4"},
    {"id": "c", "problem": "3-3=?", "answer": "0"},
]
READ = [Problem("a", "1+1=?", "2"), Problem("b", "2+2=?", "4"), Problem("c", "3-3=?", "0")]
PROMPTS = PromptConfig()


def _json_lines(path: Path, lines: Sequence[object]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def _parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def _saved(path: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(path)
    return path


def _saved_splits(path: Path) -> Path:
    parts = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(parts).save_to_disk(path)
    return path


def _downloaded(path: Path) -> Path:
    (path / "data").mkdir(parents=True)
    _parquet(path / "data" / "train-00000-of-00002.parquet", ROWS[:2])
    _parquet(path / "data" / "train-00001-of-00002.parquet", ROWS[2:])
    _parquet(path / "data" / "test-00000-of-00001.parquet", ROWS[:1])
    (path / "README.md").write_text("# A dataset\n")
    return path


@pytest.mark.parametrize(
    ("make", "suffix"),
    [
        (lambda path: _json_lines(path, ROWS), ".jsonl"),
        (lambda path: _parquet(path, ROWS), ".parquet"),
        (_saved, ""),
    ],
)
def test_a_file_of_each_kind_gives_the_same_problems(
    make: Callable[[Path], Path], suffix: str, tmp_path: Path
) -> None:
    path = make(tmp_path / f"problems{suffix}")
    assert read_problems(str(path), PROMPTS, None) == READ
    assert read_problems(str(path), PROMPTS, None, most=2) == READ[:2]


@pytest.mark.parametrize("make", [_saved_splits, _downloaded])
def test_the_splits_of_a_dataset_folder_are_named_and_chosen(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "numbers")
    assert read_problems(f"{folder}#train", PROMPTS, None) == READ
    assert read_problems(f"{folder}#test", PROMPTS, None) == READ[:1]
    with pytest.raises(ConfigError, match=r"has the splits (train, test|test, train).*numbers#"):
        read_problems(str(folder), PROMPTS, None)
    with pytest.raises(ConfigError, match=r"no split 'dev' but the splits"):
        read_problems(f"{folder}#dev", PROMPTS, None)


def test_a_row_that_is_wrong_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    def read(*lines: object) -> None:
        read_problems(str(_json_lines(tmp_path / "p.jsonl", [ROWS[0], "", *lines])), PROMPTS, None)

    for wrong, message in [
        ("{broken", r"p\.jsonl, line 3: no JSON object on a line"),
        ([1, 2], r"p\.jsonl, line 3: holds a list"),
        ({"problem": "x", "solution": "y"}, r"line 3: there is no 'answer' .* it has problem, solution"),
        ({"problem": " ", "answer": "y"}, r"line 3: 'problem' is empty"),
        ({"problem": "x", "answer": None}, r"line 3: 'answer' is missing: None"),
        ({"problem": "x", "answer": "None"}, r"line 3: 'answer' is missing: 'None'"),
        ({"problem": "x", "answer": float("nan")}, r"line 3: 'answer' is missing: nan"),
        ({"problem": "x", "answer": []}, r"line 3: 'answer' is missing: an empty list"),
        ({"problem": "x", "answer": ["1", None]}, r"line 3: 'answer' \[1\] is missing: None"),
        ({"problem": "x", "answer": [["1"]]}, r"line 3: 'answer' \[0\] is a list, not a text"),
        ({"problem": "x", "answer": True}, r"line 3: 'answer' is a bool"),
        (
            {"problem": "half an emoji \ud83d", "answer": "1"},
            r"line 3: 'problem' .* character 14 is the lone",
        ),
    ]:
        with pytest.raises(ConfigError, match=message):
            read(wrong)


def test_a_row_of_a_parquet_file_and_of_a_dataset_is_named_too(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*ROWS[:2], {"id": "c", "problem": "x", "answer": None}]
    with pytest.raises(ConfigError, match=r"p\.parquet, row 3: 'answer' is missing: None"):
        read_problems(str(_parquet(tmp_path / "p.parquet", rows)), PROMPTS, None)
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "set")
    with pytest.raises(ConfigError, match=r"set#train, row 3: 'answer' is missing: None"):
        read_problems(f"{tmp_path / 'set'}#train", PROMPTS, None)


def test_what_is_no_problem_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_text("no parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.jsonl").write_text("")
    for source, message in [
        ("p.parquet", "no Parquet file"),
        ("empty", "no dataset folder"),
        ("nothing.jsonl", "holds no problems"),
        ("absent.jsonl", "no file or folder"),
        ("nothing.jsonl#train", "only a dataset folder has splits"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_problems(str(tmp_path / source), PROMPTS, None)


def test_columns_may_be_named_lie_nested_and_hold_numbers(tmp_path: Path) -> None:
    # The layout of DAPO-Math-17k.
    row = {"prompt": [{"role": "user", "content": "1+1=?"}], "reward_model": {"ground_truth": 2}}
    nested = PromptConfig(problem_key="prompt.0.content", answer_key="reward_model.ground_truth")
    path = str(_json_lines(tmp_path / "p.jsonl", [row]))
    assert read_problems(path, nested, None) == [Problem("1", "1+1=?", "2")]
    assert read_problems(
        str(_parquet(tmp_path / "p.parquet", [{"problem": "x", "answer": Decimal("1.50")}])), PROMPTS, None
    ) == [Problem("1", "x", "1.50")]
    (zero,) = read_problems(
        str(_json_lines(tmp_path / "z.jsonl", [{"problem": "x", "answer": 0}])), PROMPTS, None
    )
    assert zero.answer == "0"


def test_references_may_be_lists_and_are_kept_in_the_run_folder(tmp_path: Path) -> None:
    rows = [
        {"problem": "x", "answer": ["1", 2.5]},
        {"problem": "y", "answer": "3"},
        {"problem": "z", "answer": 4},
    ]
    read = read_problems(str(_json_lines(tmp_path / "p.jsonl", list(rows))), PROMPTS, None)
    assert [problem.answer for problem in read] == [("1", "2.5"), "3", "4"]
    write_problems(tmp_path / "train.jsonl", read)
    assert load_problems(tmp_path / "train.jsonl") == read
    columns = datasets.load_dataset("json", data_files=str(tmp_path / "train.jsonl"), cache_dir=str(tmp_path))
    assert {str(feature.dtype) for feature in columns["train"].features.values()} == {"string"}
    assert [answer_of_label(label) for label in columns["train"]["label"]] == [("1", "2.5"), "3", "4"]


def test_the_template_takes_the_problem_as_it_is(tmp_path: Path) -> None:
    path = str(_json_lines(tmp_path / "p.jsonl", [{"problem": "{problem} {x}", "answer": "1"}]))
    (problem,) = read_problems(path, PromptConfig(template=r"{problem} in \boxed{}"), None)
    assert problem.prompt == r"{problem} {x} in \boxed{}"


def test_a_folder_of_benchmarks_is_the_sets_of_the_paper_that_are_in_it(tmp_path: Path) -> None:
    for name in reversed(BENCHMARKS):
        _json_lines(tmp_path / f"{name}.jsonl", ROWS)
    _json_lines(tmp_path / "rollouts.jsonl", ROWS)
    assert list(evaluation_sets(str(tmp_path))) == list(BENCHMARKS)
    (tmp_path / "aime24.jsonl").unlink()
    _saved(tmp_path / "aime24")
    sets = evaluation_sets(str(tmp_path))
    assert list(sets) == list(BENCHMARKS)
    assert read_problems(sets["aime24"], PROMPTS, None) == READ


def test_other_sets_are_called_by_their_files_or_as_given(tmp_path: Path) -> None:
    path = str(_json_lines(tmp_path / "gsm8k.jsonl", ROWS))
    assert evaluation_sets(path) == {"gsm8k": path}
    folder = str(_saved(tmp_path / "numbers"))
    assert evaluation_sets(folder) == {"numbers": folder}
    assert evaluation_sets(f"{folder}#test") == {"numbers": f"{folder}#test"}
    assert evaluation_sets({"mine": path}) == {"mine": path}
    with pytest.raises(ConfigError, match="cannot name an evaluation set"):
        evaluation_sets({"a/b": path})
    with pytest.raises(ConfigError, match="no evaluation set"):
        evaluation_sets({})


@pytest.mark.parametrize(
    ("name", "problems"), list(zip(BENCHMARKS, [30, 30, 40, 500, 272, 675], strict=True))
)
def test_a_benchmark_file_is_read_whole(public_data: Callable[[str], Path], name: str, problems: int) -> None:
    sets = evaluation_sets(str(public_data(name).parent))
    assert len(read_problems(sets[name], PROMPTS, None)) == problems
