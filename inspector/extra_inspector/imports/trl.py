"""TRL's completion logs: `completions/completions_STEP.parquet` of GRPO and RLOO with `log_completions`.

Columns: step, prompt and completion (text or messages), a column for each reward function, advantage, and
what rewards logged with `log_extra`. TRL logs neither token ids nor reference answers; a column named like
`foreign.ANSWER_COLUMNS` is taken as the answer.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extra_inspector.imports.foreign import (
    ANSWER_COLUMNS,
    ForeignRollout,
    conversation_text,
    messages_of,
    numbers_of,
    reference,
)
from extra_rl.config_file import ConfigError


def files(source: Path) -> list[Path]:
    """Return the logs in a folder, or in its folder "completions", by step; of a file itself."""
    if source.is_file():
        return [source] if source.suffix == ".parquet" else []
    found = sorted(source.glob("completions_*.parquet"))
    return found or sorted((source / "completions").glob("completions_*.parquet"))


def read(path: Path) -> Iterator[ForeignRollout]:
    """Yield the rollouts of a log; none if TRL only wrote those of the log before again.

    TRL writes the latest batch whenever it logs, also if it has sampled nothing since.

    Raises:
        ConfigError: The file is no such log.
    """
    rows = _rows(path)
    missing = {"step", "prompt", "completion"} - set(rows[0] if rows else ())
    if rows and missing:
        raise ConfigError(
            f"{path} is no log of TRL's completions: it has no column {', '.join(sorted(missing))}"
        )
    if _same_batch(rows, _rows_before(path)):
        return
    for row in rows:
        values = {name: row[name] for name in row if name not in ("step", "prompt", "completion")}
        answers = [values[name] for name in ANSWER_COLUMNS if name in values]
        yield ForeignRollout(
            step=int(row["step"]),
            sent=messages_of(row["prompt"]),
            prompt=conversation_text(row["prompt"]),
            text=conversation_text(row["completion"]),
            answer=reference(answers[0]) if answers else "",
            logged=numbers_of({name: value for name, value in values.items() if name not in ANSWER_COLUMNS}),
        )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise ConfigError("TRL's logs are Parquet files, which need pyarrow: pip install pyarrow") from error
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise ConfigError(f"{path} cannot be read as Parquet: {error}") from error
    return rows


def _rows_before(path: Path) -> list[dict[str, Any]]:
    earlier = [file for file in files(path.parent) if file.name < path.name]
    return _rows(earlier[-1]) if earlier else []


def _same_batch(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> bool:
    def content(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: repr(value) for name, value in row.items() if name != "step"} for row in batch]

    return content(rows) == content(before)
