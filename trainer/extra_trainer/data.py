"""Problems: read from files or made for the rehearsal, turned into prompts, written into the run folder.

The run folder's copies are what the whole run reads (OpenRLHF, evaluation, a resumed run), so a run does
not change when a source file does. A prompt's identity is a hash of its text: stable across epochs,
workers and runs, which is what the novelty and prefix memories are keyed by.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from extra_rl.config_file import ConfigError
from extra_trainer.config import DataConfig


@dataclass(frozen=True)
class Problem:
    """A prompt as the policy sees it, with its reference answer."""

    id: str
    prompt: str
    answer: str


def prompt_identity(prompt: str) -> str:
    """Name of a prompt in the novelty and prefix memories: 32 hex digits of the SHA-256 of its text."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]


def read_problems(path: Path, config: DataConfig, tokenizer: Any) -> list[Problem]:
    """The problems of a JSON Lines or Parquet file; ConfigError names the file and row that is wrong."""
    problems = []
    for number, row in enumerate(_rows(path), start=1):
        missing = [
            key for key in (config.problem_key, config.answer_key) if not str(row.get(key) or "").strip()
        ]
        if missing:
            raise ConfigError(
                f"{path}, row {number}: no {missing[0]!r} (data.problem_key and data.answer_key name them)"
            )
        prompt = make_prompt(str(row[config.problem_key]), config, tokenizer)
        problems.append(Problem(str(row.get("id", number)), prompt, str(row[config.answer_key])))
    if not problems:
        raise ConfigError(f"{path} holds no problems")
    return problems


def make_prompt(problem: str, config: DataConfig, tokenizer: Any) -> str:
    """The prompt of a problem's text: template, and chat template if asked for."""
    text = config.template.replace("{problem}", problem)
    if not config.apply_chat_template:
        return text
    messages = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Writes the JSON Lines file a run reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(problem), ensure_ascii=False) for problem in problems)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def load_written(path: Path) -> list[Problem]:
    """What `write_problems` wrote."""
    with path.open(encoding="utf-8") as file:
        return [Problem(**json.loads(line)) for line in file]


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    if not path.is_file():
        raise ConfigError(f"no file {path}")
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    with path.open(encoding="utf-8") as file:
        try:
            return [json.loads(line) for line in file if line.strip()]
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path} is no JSON Lines file: {error}") from error
