"""Problems: read from files or made for the rehearsal, turned into prompts, and copied into the run folder.

The whole run reads the copies in its folder (OpenRLHF, evaluation, a resumed run), so that it does not change
when a source file does. A prompt's id is a hash of its text: the same in every epoch, worker and run. The
novelty and prefix memories use it as their key.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from extra_rl.config_file import ConfigError
from extra_rl.references import Answer, InvalidReference, answer_of, invalid_text, reference_texts
from extra_trainer.config import PromptConfig
from extra_trainer.data.files import RowError, RowFault, read_rows, split_source
from extra_trainer.runs.folder import write_whole

#: The benchmarks of the paper; in a folder they are found by these names.
BENCHMARKS = ("aime24", "aime25", "amc23", "math500", "minerva_math", "olympiadbench")
#: Digests of a run's problem files and of their sources.
DIGESTS = "digests.json"
#: A valid name of an evaluation set, which becomes a file name.
SET_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Problem:
    """A prompt as the policy receives it, with its reference answer."""

    id: str
    prompt: str
    answer: Answer
    #: Problems of one group are also reported together; "": of none.
    group: str = ""


def prompt_identity(prompt: str) -> str:
    """Return a prompt's id in the memories: the first 32 hex digits of the SHA-256 of its text."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]


def read_problems(
    source: str, config: PromptConfig, tokenizer: Any | None, most: int | None = None
) -> list[Problem]:
    """Read the problems of a file or dataset folder.

    Args:
        source: The file or folder.
        config: Columns and prompt template.
        tokenizer: Applies the chat template; None: the generation service applies it.
        most: Read only the first so many; None: all.

    Raises:
        ConfigError: If a row is wrong, which the message names, or there is none.
    """
    rows = enumerate(islice(read_rows(source), most), start=1)
    problems = [make_problem(place, row, number, config, tokenizer) for number, (place, row) in rows]
    if not problems:
        raise ConfigError(f"{source} holds no problems")
    return problems


def make_problem(
    place: str, row: Mapping[str, Any], number: int, config: PromptConfig, tokenizer: Any | None
) -> Problem:
    """Return the problem in a row.

    Args:
        place: Of the row, for messages.
        row: The row.
        number: Of the row from 1; the id of a row that has none.
        config: Columns and prompt template.
        tokenizer: As in `read_problems`.

    Raises:
        RowError: The row holds no problem.
    """
    text = _value(row, config.problem_key, "problem_key", place)
    if not isinstance(text, str):
        raise RowError(
            RowFault.PROMPT, place, f"{config.problem_key!r} is a {type(text).__name__}, not a text"
        )
    if not text.strip():
        raise RowError(RowFault.PROMPT, place, f"{config.problem_key!r} is empty")
    if reason := invalid_text(text):
        raise RowError(RowFault.TEXT, place, f"{config.problem_key!r} {reason}")
    answer = _value(row, config.answer_key, "answer_key", place)
    try:
        answers = reference_texts(answer)
    except InvalidReference as error:
        fault = RowFault.MISSING if error.missing else RowFault.REFERENCE
        if isinstance(answer, str) and invalid_text(answer):
            fault = RowFault.TEXT
        raise RowError(fault, place, f"{config.answer_key!r} {error}") from error
    prompt = make_prompt(text, config, tokenizer)
    return Problem(str(row.get("id", number)), prompt, answer_of(answers), str(row.get("group") or ""))


def make_prompt(problem: str, config: PromptConfig, tokenizer: Any | None) -> str:
    """Return the prompt of a problem's text, with the chat template if set and a tokenizer is given."""
    text = config.template.replace("{problem}", problem)
    if not config.apply_chat_template or tokenizer is None:
        return text
    messages = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def evaluation_sets(source: str | Mapping[str, str]) -> dict[str, str]:
    """Return the evaluation sets as name -> source.

    Args:
        source: Such a mapping; or one file or dataset folder, which is named after itself; or a folder of
            files or dataset folders named as in BENCHMARKS, of which all present are taken.

    Raises:
        ConfigError: If there is none, or a name is not valid.
    """
    if not isinstance(source, str):
        sets = dict(source)
    else:
        path, _ = split_source(source)
        sets = _benchmarks(path) or {path.stem if path.is_file() else path.name: source}
    if not sets:
        raise ConfigError("no evaluation set is named")
    for name in sets:
        if not SET_NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot name an evaluation set: use letters, digits, dots, - and _ "
                "(evaluation sets can be given as NAME and PATH)"
            )
    return sets


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write the JSON Lines file that a run reads; it appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(_row(problem), ensure_ascii=False) for problem in problems)
    write_whole(path, "".join(f"{line}\n" for line in lines))


def record_copies(folder: Path, sources: Iterable[str]) -> None:
    """Record the digests of a run's problem files in `folder`, and of those `sources` that are files."""
    files = {str(path.relative_to(folder)): _digest(path) for path in folder.rglob("*.jsonl")}
    origins = {source: _digest(Path(source)) for source in sources if Path(source).is_file()}
    write_whole(folder / DIGESTS, json.dumps({"files": files, "sources": origins}, indent=1))


def check_copies(folder: Path, sources: Iterable[str]) -> list[str]:
    """Compare a run's problem files with what `record_copies` recorded.

    Args:
        folder: That of the files.
        sources: Files that they come from.

    Returns:
        The sources that have changed since.

    Raises:
        ConfigError: A file of the run is not as the run wrote it.
    """
    if not (folder / DIGESTS).is_file():
        return []
    recorded = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    for name, digest in recorded["files"].items():
        path = folder / name
        if not path.is_file() or _digest(path) != digest:
            raise ConfigError(
                f"{path} is not as the run wrote it: a resumed run would take other problems, or in another"
                " order; put the file back, or start a new run"
            )
    known: dict[str, str] = recorded["sources"]
    return [
        source
        for source in sources
        if source in known and Path(source).is_file() and _digest(Path(source)) != known[source]
    ]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_problems(path: Path) -> list[Problem]:
    """Read the problems that `write_problems` wrote."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [Problem(row["id"], row["prompt"], answer_of_label(row["label"]), row["group"]) for row in rows]


def answer_of_label(label: str) -> Answer:
    """Return the answer in a label, the JSON text that stands for it in a run's problem files.

    OpenRLHF reads these files, and a column must have one type: also where only some problems have several
    answers, and where answers look like numbers.
    """
    return answer_of(json.loads(label))


def _row(problem: Problem) -> dict[str, str]:
    answers = [problem.answer] if isinstance(problem.answer, str) else problem.answer
    label = json.dumps(answers, ensure_ascii=False)
    return {"id": problem.id, "prompt": problem.prompt, "label": label, "group": problem.group}


def _benchmarks(folder: Path) -> dict[str, str]:
    found = {}
    for name in BENCHMARKS:
        forms = (folder / form for form in (f"{name}.jsonl", f"{name}.parquet", name))
        there = next((path for path in forms if path.exists()), None)
        if there:
            found[name] = str(there)
    return found


def _value(row: Mapping[str, Any], key: str, setting: str, place: str) -> Any:
    """Return the value under `key`, where dots lead into nested values."""
    value: Any = row
    for part in [key] if key in row else key.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            text = f"there is no {key!r} ({setting} names it); it has {', '.join(row)}"
            raise RowError(RowFault.ROW, place, text)
    return value
