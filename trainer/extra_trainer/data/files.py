"""Rows of problem files: JSON Lines, Parquet, or a folder of a Hugging Face dataset.

Each row comes with its place, "FILE, line 3" or "FOLDER#train, row 3", so that an error can name a wrong
row. A dataset folder is one that `save_to_disk` wrote, or a download from the hub; `FOLDER#SPLIT` selects
one of several splits. Nothing is downloaded.
"""

import json
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from extra_rl.config_file import ConfigError

#: A row's place, for messages, and the row.
PlacedRow = tuple[str, dict[str, Any]]


class RowFault(StrEnum):
    """What is wrong with a row.

    Only `data.checking` finds the last four, and a row with the last one can be used as it is.
    """

    ROW = "no problem in the row"
    PROMPT = "empty prompt"
    TEXT = "text that no tokenizer accepts"
    MISSING = "missing answer"
    REFERENCE = "answer of another kind"
    UNREADABLE = "unreadable answer"
    CONFLICT = "conflicting answers"
    LONG = "prompt longer than the window"
    REPEATED = "repeated prompt"


class RowError(ConfigError):
    """A row holds no problem.

    Attributes:
        fault: The kind of reason.
        place: The row.
        detail: The reason.
    """

    def __init__(self, fault: RowFault, place: str, detail: str) -> None:
        super().__init__(f"{place}: {detail}")
        self.fault, self.place, self.detail = fault, place, detail


def read_rows(source: str, on_error: Callable[[RowError], None] | None = None) -> Iterator[PlacedRow]:
    """Return the rows of a file or dataset folder, in order.

    Args:
        source: The file or folder.
        on_error: Called with the error of each line that is no row; None: it is raised.

    Raises:
        ConfigError: If it cannot be read; the message names the file, and the row if one is wrong.
    """
    path, split = split_source(source)
    if path.is_dir():
        return _dataset(path, split)
    if not path.is_file():
        raise ConfigError(f"there is no file or folder {path}")
    if split:
        raise ConfigError(f"{source}: {path} is a file; only a dataset folder has splits")
    return _parquet(path) if path.suffix == ".parquet" else _json_lines(path, on_error)


def split_source(source: str) -> tuple[Path, str]:
    """Return path and split of PATH#SPLIT; the split is empty if none is named."""
    path, mark, split = source.rpartition("#")
    return (Path(path), split) if mark and not Path(source).exists() else (Path(source), "")


def _json_lines(path: Path, on_error: Callable[[RowError], None] | None) -> Iterator[PlacedRow]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            try:
                yield place, _json_row(line, place)
            except RowError as error:
                if on_error is None:
                    raise
                on_error(error)


def _json_row(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        text = f"no JSON object on a line of its own ({error})"
        raise RowError(RowFault.ROW, place, text) from error
    if not isinstance(row, dict):
        raise RowError(RowFault.ROW, place, f"holds a {type(row).__name__}, not a JSON object")
    return row


def _parquet(path: Path) -> Iterator[PlacedRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = [row for batch in file.iter_batches() for row in batch.to_pylist()]
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path} is no Parquet file that can be read: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _dataset(folder: Path, split: str) -> Iterator[PlacedRow]:
    try:
        import datasets
    except ModuleNotFoundError:
        raise ConfigError(f"to read the dataset folder {folder}: pip install datasets") from None
    saved = any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        # Streaming reads the files in place instead of copying them into a cache first.
        found: Any = (
            datasets.load_from_disk(str(folder))
            if saved
            else datasets.load_dataset(str(folder), streaming=True)
        )
        chosen = _choose_split(folder, split, found)
        name = f"{folder}#{split}" if split else str(folder)
        for number, row in enumerate(chosen, start=1):
            yield f"{name}, row {number}", row
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{folder} is no dataset folder that can be read: {error}") from error


def _choose_split(folder: Path, split: str, found: Any) -> Any:
    if not isinstance(found, dict):
        if split:
            raise ConfigError(f"{folder}#{split}: this dataset has no splits; name it {folder}")
        return found
    if split in found:
        return found[split]
    if not split and len(found) == 1:
        return next(iter(found.values()))
    raise ConfigError(
        f"{folder} has {f'no split {split!r} but ' if split else ''}the splits {', '.join(found)}: "
        f"name one of them, as in {folder}#{next(iter(found))}"
    )
