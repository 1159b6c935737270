"""OpenRLHF's samples: the one rollout a step that it logs, in TensorBoard's event files or W&B's tables.

The text holds prompt and response together, without a mark between them. There is no reference answer, and
no token id.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from extra_inspector.imports.foreign import ForeignRollout, numbers_of
from extra_rl.config_file import ConfigError

#: Name of the samples in both logs.
TAG = "train/generated_samples"
#: The text that its TensorboardLogger writes; backslash and n are two characters there.
LOGGED = re.compile(r"Sample:\\n(.*)\\n\\nReward: (\S+)", re.DOTALL)


def files(source: Path) -> list[Path]:
    """Return the event files below a folder, or else the newest of W&B's tables; of a file itself."""
    if source.is_file():
        return [source] if "tfevents" in source.name or source.name.endswith(".table.json") else []
    events = sorted(source.rglob("events.out.tfevents.*"))
    # Each table holds the rows of those before.
    tables = sorted(source.rglob("generated_samples_*.table.json"), key=lambda path: path.stat().st_size)
    return events or tables[-1:]


def read(path: Path) -> Iterator[ForeignRollout]:
    """Yield the samples of a file.

    Raises:
        ConfigError: It cannot be read.
    """
    rows = _of_table(path) if path.name.endswith(".table.json") else _of_events(path)
    for step, text, reward in rows:
        yield ForeignRollout(step=step, text=text, logged=numbers_of({"reward": reward}))


def _of_table(path: Path) -> Iterator[tuple[int, str, float]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("columns") != ["global_step", "text", "reward"]:
        raise ConfigError(f"{path} is no table of OpenRLHF's samples")
    for step, text, reward in content["data"]:
        yield int(step), text, reward


def _of_events(path: Path) -> Iterator[tuple[int, str, float]]:
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    except ModuleNotFoundError as error:
        raise ConfigError("TensorBoard's files need tensorboard: pip install tensorboard") from error
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.tag.removesuffix("/text_summary") != TAG or not value.tensor.string_val:
                continue
            found = LOGGED.fullmatch(value.tensor.string_val[0].decode())
            if found is None:
                raise ConfigError(f"{path}: the text of step {event.step} is not as OpenRLHF writes it")
            yield event.step, found[1], float(found[2])
