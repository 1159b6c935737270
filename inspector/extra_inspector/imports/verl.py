"""verl's dumps: `STEP.jsonl` in `trainer.rollout_data_dir` or `trainer.validation_data_dir`.

A line has input, output, gts (the reference answer), score, step, and what the reward function returned
besides, such as acc and pred. Special tokens are not in the texts, and token ids are not dumped.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extra_inspector.imports.foreign import ForeignRollout, judged, numbers_of, reference
from extra_rl.config_file import ConfigError

#: Keys that verl writes in every line.
KEYS = ("input", "output", "gts", "score", "step")


def files(source: Path) -> list[Path]:
    """Return the dumps in a folder, by step; of a file itself."""
    if source.is_file():
        return [source] if source.suffix == ".jsonl" else []
    return sorted((p for p in source.glob("*.jsonl") if p.stem.isdecimal()), key=lambda path: int(path.stem))


def read(path: Path) -> Iterator[ForeignRollout]:
    """Yield the rollouts of a dump; a line that is still being written is left out.

    Raises:
        ConfigError: A line is none of a dump.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.endswith("\n"):
                yield _rollout(line, f"{path}, line {number}")


def _rollout(line: str, where: str) -> ForeignRollout:
    try:
        row: dict[str, Any] = json.loads(line)
        missing = [key for key in KEYS if key not in row]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: no JSON object: {error}") from error
    if missing:
        raise ConfigError(f"{where}: no rollout of verl's: the key {', '.join(missing)} is missing")
    others = {name: value for name, value in row.items() if name not in ("input", "output", "gts", "step")}
    # The trainer v1 names its rollouts SAMPLE_ROLLOUT_OUTPUT.
    sample, *numbers = str(row.get("uid", "")).rsplit("_", 2)
    return ForeignRollout(
        step=int(row["step"]),
        sent=row["input"],
        prompt=row["input"],
        text=row["output"],
        answer=reference(row["gts"]),
        group=sample if len(numbers) == 2 else "",
        logged=numbers_of(others),
        **judged(row, "verl"),
    )
