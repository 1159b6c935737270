"""The searchable index of a run folder: an SQLite database over its rollouts and prefix choices.

Records stay in their files: the index stores the values that are filtered and sorted by, and the position of
each record's line. It is outside the run folder, and is updated file by file, so that the rollouts of a run
that is still training appear as they come.
"""

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from extra_rl.config_file import ConfigError, read_yaml
from extra_rl.references import shown_answer
from extra_rl.vocabulary import MemoryPolicy, Metric
from extra_trainer.runs.folder import Record, RunFolder, StepFolder, read_line
from extra_trainer.runs.schema import PrefixChoiceRecord, RecordError, RolloutRecord, group_outcome

#: Of SCHEMA: an index with another version is made again.
VERSION = 5
SCHEMA = """
CREATE TABLE files (path TEXT PRIMARY KEY, step INTEGER, modified INTEGER, size INTEGER);
CREATE TABLE prompts (
  id INTEGER PRIMARY KEY, name TEXT UNIQUE, text TEXT, answer TEXT,
  groups INTEGER DEFAULT 0, rollouts INTEGER DEFAULT 0, correct INTEGER DEFAULT 0, hard INTEGER DEFAULT 0,
  rescued INTEGER DEFAULT 0, novelty REAL, undecided INTEGER DEFAULT 0, last_step INTEGER DEFAULT 0,
  verdicts INTEGER DEFAULT 0, masked INTEGER DEFAULT 0
);
CREATE TABLE rollouts (
  id INTEGER PRIMARY KEY AUTOINCREMENT, step INTEGER, place INTEGER, sample INTEGER, prompt INTEGER,
  status TEXT, extracted TEXT, rule TEXT, novelty REAL, entropy REAL, tokens INTEGER,
  guided INTEGER, prefix_id TEXT, hard INTEGER, rescued INTEGER, undecided INTEGER,
  suspicious INTEGER, solution INTEGER, position INTEGER, length INTEGER, masked INTEGER
);
CREATE INDEX rollouts_of_prompt ON rollouts (prompt, step, place, sample);
CREATE INDEX rollouts_of_step ON rollouts (step, place, sample);
CREATE INDEX rollouts_by_novelty ON rollouts (novelty);
CREATE INDEX rollouts_by_status ON rollouts (status);
CREATE INDEX rollouts_hard ON rollouts (step) WHERE hard;
CREATE INDEX rollouts_rescued ON rollouts (step) WHERE rescued;
CREATE INDEX rollouts_undecided ON rollouts (step) WHERE undecided;
CREATE INDEX rollouts_suspicious ON rollouts (step) WHERE suspicious;
CREATE TABLE state (texts_in_order INTEGER);
INSERT INTO state VALUES (1);
CREATE TABLE choices (
  step INTEGER, place INTEGER, prompt_id TEXT, position INTEGER, length INTEGER, PRIMARY KEY (step, place)
);
CREATE INDEX choices_of_prompt ON choices (prompt_id, step);
CREATE VIRTUAL TABLE texts USING fts5(body, content='', tokenize='unicode61 remove_diacritics 0');
"""
#: SQL expressions: a rollout counts as correct; the counts of rollouts that lists and pages show.
CORRECT = "(status = 'correct' AND NOT masked)"
COUNTS = (
    f"count(*) rollouts, coalesce(sum({CORRECT}), 0) correct, coalesce(sum(undecided), 0) undecided,"
    " count(status) verdicts, coalesce(sum(masked), 0) masked"
)
#: A group's place and step in one number.
GROUP_KEY = "step * 1000000 + place"

#: What a query asks for in the place of a status: rollouts that were cut off and left out.
MASKED = "masked"
Show = Literal["all", "hard", "rescued", "novel", "suspicious", "undecided"]
#: SQL condition: the rollout `r` matches the search.
FOUND = "r.id IN (SELECT rowid FROM texts WHERE texts MATCH ?)"
#: Sort key of a list -> its column or SQL expression.
ROLLOUT_ORDERS = {
    "step": "step",
    "novelty": "novelty",
    "entropy": "entropy",
    "tokens": "tokens",
    "status": "status",
}
#: The columns of a PromptRow.
PROMPT_COLUMNS = (
    "name, text, answer, groups, hard, rescued, rollouts, correct, undecided, verdicts, masked, novelty,"
    " last_step"
)
#: Seconds after which files that were indexed are committed, and with them the rows of their prompts.
COMMIT_SECONDS = 0.5
PROMPT_ORDERS = {
    "prompt": "text",
    "groups": "groups",
    "pass_rate": "1.0 * correct / nullif(verdicts, 0)",
    "hard": "hard",
    "rescued": "rescued",
    "novelty": "novelty",
    "last_step": "last_step",
}


@dataclass(frozen=True)
class Query:
    """Filters, order and page of a list."""

    search: str = ""
    show: Show = "all"
    #: Status of listed rollouts; "" for any, MASKED for those that are masked.
    status: str = ""
    #: A key of ROLLOUT_ORDERS or PROMPT_ORDERS; "" for the one that suits `show`.
    order: str = ""
    descending: bool = True
    offset: int = 0
    limit: int = 25


@dataclass(frozen=True)
class PromptRow:
    """One row of the list of prompts."""

    prompt_id: str
    text: str
    answer: str
    #: Number of its groups, hard groups, and guided groups with a correct rollout.
    groups: int
    hard: int
    rescued: int
    #: Number of its rollouts, correct rollouts, and rollouts without a verdict on the response.
    rollouts: int
    correct: int
    undecided: int
    #: Number of its rollouts that anybody has verified, and of those that are masked.
    verdicts: int
    masked: int
    #: The largest of its rollouts, None if none is known.
    novelty: float | None
    last_step: int


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One row of the list of rollouts."""

    id: int
    step: int
    #: Place of its group in the step.
    place: int
    sample: int
    prompt_id: str
    prompt_text: str
    answer: str
    #: None if nobody has verified it; likewise what follows, if it is not known.
    status: str | None
    extracted: str
    rule: str
    novelty: float | None
    #: Mean, in nats a token.
    entropy: float | None
    tokens: int | None
    guided: bool
    #: Whether it belongs to a guided group with a correct rollout.
    rescued: bool
    masked: bool


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """The counts of a group: the rollouts of one prompt in one step."""

    step: int
    #: Its place in the step.
    place: int
    guided: bool
    prefix_id: str
    rollouts: int
    correct: int
    undecided: int
    hard: bool
    #: Number of its rollouts that anybody has verified, and of those that are masked.
    verdicts: int
    masked: int


@dataclass(frozen=True, slots=True)
class Solution:
    """A rollout that the novelty service stored as a solution of its prompt."""

    step: int
    rollout: RolloutRecord


@dataclass(frozen=True, slots=True)
class WrongAnswer:
    """A wrong final answer of a prompt, and how often each step gave it; "" is a missing answer."""

    answer: str
    #: Step -> times, by step.
    steps: dict[int, int]

    @property
    def times(self) -> int:
        """Times in all steps."""
        return sum(self.steps.values())


@dataclass(frozen=True, slots=True)
class RecordedChoice:
    """A prefix choice and the step it was made in."""

    step: int
    record: PrefixChoiceRecord


@dataclass
class Progress:
    """Progress of indexing, in step files."""

    done: int = 0
    total: int = 0


@dataclass
class Index:
    """The index of one run; may be used from several threads."""

    folder: RunFolder
    path: Path
    progress: Progress = field(default_factory=Progress)
    commit_seconds: float = COMMIT_SECONDS

    def __post_init__(self) -> None:
        if not self.folder.config.is_file():
            raise ConfigError(f"{self.folder.path} holds no run: there is no config.yaml in it")
        self.folder.check_format()
        self.config: dict[str, Any] = read_yaml(self.folder.config)
        self._local = threading.local()
        self._updating = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                _drop_all(connection)
                connection.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={VERSION};COMMIT;")

    @classmethod
    def of(cls, folder: RunFolder, cache: Path | None = None) -> "Index":
        """Open the index of a run in the user's cache folder, or in `cache`.

        Raises:
            ConfigError: The folder holds no run, or this release cannot read its records.
        """
        where = cache_folder(cache)
        name = hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:16]
        return cls(folder, where / f"{folder.path.resolve().name}-{name}.sqlite")

    def update(self) -> bool:
        """Index the files of the run folder that are new or changed; return whether there were any.

        Raises:
            RecordError: This release cannot read a record; the files before it are indexed.
        """
        with self._updating:
            files = self._step_files()
            with self._connection() as connection:
                known = {row["path"]: row for row in connection.execute("SELECT * FROM files")}
            gone = [name for name in known if self.folder.path / name not in files]
            stale = [
                (path, folder, step, stat)
                for path, (folder, step, stat) in files.items()
                if _signature(known.get(self._name(path))) != (stat.st_mtime_ns, stat.st_size)
            ]
            self.progress = Progress(0, len(stale))
            with self._connection() as connection, self._summarized(connection) as touched:
                for name in gone:
                    touched |= _forget(connection, name, known[name]["step"])
            while self.progress.done < len(stale):
                with self._connection() as connection:
                    error = self._index_some(connection, stale[self.progress.done :])
                if error is not None:
                    raise error
            return bool(gone or stale)

    def _index_some(
        self, connection: sqlite3.Connection, files: Sequence[tuple[Path, StepFolder, int, os.stat_result]]
    ) -> RecordError | None:
        """Index files for some time, and the rows of their prompts in the same transaction.

        So every reader finds rollouts and prompts that belong together, also while a run is indexed.

        Returns:
            The error of the first file that cannot be read; nothing of it is indexed.
        """
        until = time.monotonic() + self.commit_seconds
        with self._summarized(connection) as touched:
            for path, folder, step, stat in files:
                try:
                    # A run that keeps its last records only may have deleted the file meanwhile.
                    with suppress(FileNotFoundError):
                        touched |= self._index_file(connection, path, folder, step, stat)
                except RecordError as error:
                    return error
                self.progress.done += 1
                if time.monotonic() >= until:
                    break
        return None

    def complete(self) -> bool:
        """Return whether every step up to the last one with records has them (`recording` in the config)."""
        with self._connection() as connection:
            return _complete(connection)

    def _step_files(self) -> dict[Path, tuple[StepFolder, int, os.stat_result]]:
        """Return path -> kind, step and state of the files of records that exist."""
        found = {}
        folders: tuple[StepFolder, ...] = ("prefixes", "rollouts")
        for folder in folders:
            for step, path in self.folder.step_files(folder):
                with suppress(FileNotFoundError):  # as in `update`
                    found[path] = (folder, step, path.stat())
        return found

    def rollouts(self, query: Query) -> tuple[list[RolloutRow], int]:
        """Return a page of the rollouts that a query finds, and their number on all pages."""
        where, values = _rollout_filter(query)
        column = ROLLOUT_ORDERS.get(query.order, "novelty" if query.show == "novel" else "step")
        direction = "DESC" if query.descending else "ASC"
        # By step in the order of an SQL index, so that a page is read without sorting all rows found.
        columns = ("step", "place", "sample") if column == "step" else (column, "id")
        order = ", ".join(f"r.{name} {direction}" for name in columns)
        counted, chosen = (
            f"rollouts r {where}",
            f"SELECT * FROM rollouts r {where} ORDER BY {order} LIMIT ? OFFSET ?",
        )
        with self._connection() as connection:
            (in_order,) = connection.execute("SELECT texts_in_order FROM state").fetchone()
            if in_order and where == f"WHERE {FOUND}" and column == "step":
                # A search without filters may find nearly all rows: use the search table's own order.
                counted = "texts WHERE texts MATCH ?"
                rowids = f"SELECT rowid FROM {counted} ORDER BY rowid {direction} LIMIT ? OFFSET ?"
                chosen = f"SELECT * FROM rollouts WHERE id IN ({rowids})"
            (total,) = connection.execute(f"SELECT count(*) FROM {counted}", values).fetchone()
            rows = connection.execute(
                "SELECT r.id, r.step, r.place, r.sample, p.name, p.text, p.answer, r.status, r.extracted,"
                f" r.rule, r.novelty, r.entropy, r.tokens, r.guided, r.rescued, r.masked FROM ({chosen}) r"
                f" JOIN prompts p ON p.id = r.prompt ORDER BY {order}",
                [*values, query.limit, query.offset],
            ).fetchall()
        return [RolloutRow(*row) for row in rows], total

    def prompts(self, query: Query) -> tuple[list[PromptRow], int]:
        """Return a page of the prompts that a query finds, and their number on all pages."""
        conditions, values = ["groups > 0"], list[Any]()
        if query.search.strip():
            conditions.append(
                "(text LIKE ? ESCAPE '\\' OR answer LIKE ? ESCAPE '\\' OR name LIKE ? ESCAPE '\\')"
            )
            values += [_like(query.search)] * 3
        column = {"hard": "hard", "rescued": "rescued", "novel": "novelty", "undecided": "undecided"}.get(
            query.show
        )
        if column:
            conditions.append(f"{column} > 0")
        order = PROMPT_ORDERS.get(query.order, column or "last_step")
        direction = "DESC" if query.descending else "ASC"
        where = "WHERE " + " AND ".join(conditions)
        with self._connection() as connection:
            (total,) = connection.execute(f"SELECT count(*) FROM prompts {where}", values).fetchone()
            rows = connection.execute(
                f"SELECT {PROMPT_COLUMNS} FROM prompts {where} ORDER BY {order} {direction}, id"
                " LIMIT ? OFFSET ?",
                [*values, query.limit, query.offset],
            ).fetchall()
        return [PromptRow(*row) for row in rows], total

    def prompt(self, prompt_id: str) -> PromptRow | None:
        """Return a prompt's row, None if the prompt is unknown."""
        return self.prompt_and_groups(prompt_id)[0]

    def groups(self, prompt_id: str) -> list[GroupSummary]:
        """Return the groups of a prompt, by step."""
        return self.prompt_and_groups(prompt_id)[1]

    def prompt_and_groups(self, prompt_id: str) -> tuple[PromptRow | None, list[GroupSummary]]:
        """Return a prompt's row and its groups, by step, of one moment: their counts agree."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            row = connection.execute(
                f"SELECT {PROMPT_COLUMNS} FROM prompts WHERE name = ?", [prompt_id]
            ).fetchone()
            rows = connection.execute(
                f"SELECT step, place, max(guided) guided, max(prefix_id) prefix_id, {COUNTS}, max(hard) hard"
                " FROM rollouts WHERE prompt = (SELECT id FROM prompts WHERE name = ?)"
                " GROUP BY step, place ORDER BY step, place",
                [prompt_id],
            ).fetchall()
        groups = [
            GroupSummary(
                row["step"],
                row["place"],
                bool(row["guided"]),
                row["prefix_id"],
                row["rollouts"],
                row["correct"],
                row["undecided"],
                bool(row["hard"]),
                row["verdicts"],
                row["masked"],
            )
            for row in rows
        ]
        return PromptRow(*row) if row else None, groups

    def group(self, step: int, place: int) -> list[RolloutRecord]:
        """Return the records of a group's rollouts, by sample."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT position, length FROM rollouts WHERE step = ? AND place = ? ORDER BY sample",
                [step, place],
            ).fetchall()
        return self._records(RolloutRecord, "rollouts", step, rows)

    def solutions(self, prompt_id: str) -> dict[int, Solution]:
        """Return solution number -> solution, of all solutions that were ever stored for a prompt.

        Empty if steps are missing in the run folder: the numbers count the solutions of all steps.
        """
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT step, position, length, solution FROM rollouts WHERE solution IS NOT NULL AND"
                " prompt = (SELECT id FROM prompts WHERE name = ?) ORDER BY solution",
                [prompt_id],
            ).fetchall()
        found: dict[int, Solution] = {}
        for row in rows:
            for record in self._records(RolloutRecord, "rollouts", row["step"], [row]):
                found[row["solution"]] = Solution(row["step"], record)
        return found

    def wrong_answers(self, prompt_id: str) -> list[WrongAnswer]:
        """Return the wrong final answers of a prompt, the most frequent first, without undecided ones."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT extracted, step, count(*) times FROM rollouts WHERE status != 'correct' AND NOT"
                " undecided AND prompt = (SELECT id FROM prompts WHERE name = ?) GROUP BY extracted, step"
                " ORDER BY step",
                [prompt_id],
            ).fetchall()
        steps: dict[str, dict[int, int]] = {}
        for row in rows:
            steps.setdefault(row["extracted"], {})[row["step"]] = row["times"]
        found = [WrongAnswer(answer, by_step) for answer, by_step in steps.items()]
        return sorted(found, key=lambda wrong: (-wrong.times, wrong.answer))

    def prefix_choices(self, prompt_id: str, until: int) -> list[RecordedChoice]:
        """Return the prefix choices made for a prompt up to the step `until`, in order."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT step, position, length FROM choices WHERE prompt_id = ? AND step <= ?"
                " ORDER BY step, place",
                [prompt_id, until],
            ).fetchall()
        return [
            RecordedChoice(row["step"], record)
            for row in rows
            for record in self._records(PrefixChoiceRecord, "prefixes", row["step"], [row])
        ]

    def counts(self) -> dict[str, int]:
        """Return the numbers of "steps", "prompts" and "rollouts"."""
        with self._connection() as connection:
            row = connection.execute(
                "SELECT (SELECT count(DISTINCT step) FROM files) steps,"
                " (SELECT count(*) FROM prompts WHERE groups > 0) prompts,"
                " (SELECT count(*) FROM rollouts) rollouts"
            ).fetchone()
        return dict(row)

    def _records(
        self, kind: type[Record], folder: StepFolder, step: int, rows: Iterable[sqlite3.Row]
    ) -> list[Record]:
        """Read the records of these rows; none if the file was deleted after it was indexed."""
        path = self.folder.step_file(folder, step)
        records: list[Record] = []
        with suppress(FileNotFoundError), path.open("rb") as file:
            for row in rows:
                file.seek(row["position"])
                records.append(read_line(kind, file.read(row["length"]), path))
        return records

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder.path))

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Yield this thread's connection, in a transaction."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, timeout=60)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            # After a crash of the machine the index can be made again.
            connection.execute("PRAGMA synchronous=OFF")
            self._local.connection = connection
        with connection:
            yield connection

    def _index_file(
        self, connection: sqlite3.Connection, path: Path, folder: StepFolder, step: int, stat: os.stat_result
    ) -> set[int]:
        """Index a file; return the prompts of its records, before and now.

        Raises:
            RecordError: This release cannot read a record; nothing was written then.
        """
        if folder == "prefixes":
            rows = [
                (step, record.group, record.prompt_id, position, length)
                for record, position, length in _lines(PrefixChoiceRecord, path)
            ]
            touched = _forget(connection, self._name(path), step)
            connection.executemany("INSERT OR REPLACE INTO choices VALUES (?, ?, ?, ?, ?)", rows)
        else:
            lines = list(_lines(RolloutRecord, path))
            touched = _forget(connection, self._name(path), step)
            touched |= self._index_rollouts(connection, lines, step)
        connection.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
            (self._name(path), step, stat.st_mtime_ns, stat.st_size),
        )
        return touched

    def _index_rollouts(
        self, connection: sqlite3.Connection, records: Iterable[tuple[RolloutRecord, int, int]], step: int
    ) -> set[int]:
        groups: dict[int, list[tuple[RolloutRecord, int, int]]] = {}
        for record, position, length in records:
            groups.setdefault(record.group, []).append((record, position, length))
        prompts: dict[str, int] = {}
        rows, texts = [], []
        # If steps are indexed in order, ids are in the order of steps, and all texts belong to rollouts.
        (newest,) = connection.execute("SELECT coalesce(max(step), 0) FROM rollouts").fetchone()
        if step <= newest:
            connection.execute("UPDATE state SET texts_in_order = 0")
        (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone() or (0,)
        for place, lines in groups.items():
            first = lines[0][0]
            prompt = prompts.get(first.prompt_id) or _prompt(connection, first)
            prompts[first.prompt_id] = prompt
            outcome = group_outcome(record for record, _, _ in lines)
            for record, position, length in lines:
                last += 1
                rows.append(
                    (
                        last,
                        step,
                        place,
                        record.sample,
                        prompt,
                        record.status,
                        record.extracted,
                        record.rule,
                        record.novelty,
                        record.mean_entropy,
                        record.tokens,
                        record.guided,
                        record.prefix_id,
                        outcome.hard,
                        record.guided and outcome.correct > 0,
                        not record.decided,
                        bool(record.suspicious),
                        position,
                        length,
                        record.masked,
                    )
                )
                texts.append((last, f"{record.prompt}\n{record.text}\n{record.extracted}"))
        connection.executemany(
            "INSERT INTO rollouts (id, step, place, sample, prompt, status, extracted, rule, novelty,"
            " entropy, tokens, guided, prefix_id, hard, rescued, undecided, suspicious, position,"
            f" length, masked) VALUES ({', '.join('?' * 20)})",
            rows,
        )
        connection.executemany("INSERT INTO texts (rowid, body) VALUES (?, ?)", texts)
        return set(prompts.values())

    @contextmanager
    def _summarized(self, connection: sqlite3.Connection) -> Iterator[set[int]]:
        """Yield a set for the prompts that change, and update their rows and solutions in the end."""
        was_complete = _complete(connection)
        touched: set[int] = set()
        yield touched
        _set_touched(connection, touched)
        self._summarize(connection)
        if not _complete(connection):
            connection.execute("UPDATE rollouts SET solution = NULL WHERE solution IS NOT NULL")
            return
        if not was_complete:
            # No solution of any prompt has a number yet.
            _set_touched(connection, {prompt for (prompt,) in connection.execute("SELECT id FROM prompts")})
        self._number_solutions(connection)

    def _summarize(self, connection: sqlite3.Connection) -> None:
        """Update the rows of the touched prompts."""
        connection.execute(
            "UPDATE prompts SET (groups, hard, rescued, novelty, last_step, rollouts, correct, undecided,"
            f" verdicts, masked) = (SELECT count(DISTINCT {GROUP_KEY}),"
            f" count(DISTINCT CASE WHEN hard THEN {GROUP_KEY} END),"
            f" count(DISTINCT CASE WHEN rescued THEN {GROUP_KEY} END),"
            f" max(novelty), coalesce(max(step), 0), {COUNTS}"
            " FROM rollouts WHERE prompt = prompts.id) WHERE id IN (SELECT id FROM touched)"
        )

    def _number_solutions(self, connection: sqlite3.Connection) -> None:
        """Update the numbers of the solutions of the touched prompts.

        A rollout gets a solution number if the novelty service stored it, by the run's config.
        """
        novelty = self.config.get("novelty", {})
        remembers_all = novelty.get("memory_policy") == MemoryPolicy.ALL
        counted = "NOT undecided" if remembers_all else CORRECT
        if not novelty.get("guided_groups", True):
            counted += " AND NOT guided"
        counted += " AND NOT suspicious"
        remembers = novelty.get("metric", Metric.EMBEDDING) not in (
            Metric.NGRAM_COUNT,
            Metric.POLICY_SURPRISE,
        )
        if not novelty.get("enabled", True) or not remembers:
            counted = "0"
        connection.execute(
            "UPDATE rollouts SET solution = numbered.number FROM (SELECT id, row_number() OVER"
            " (PARTITION BY prompt ORDER BY step, place, sample) - 1 AS number FROM rollouts"
            f" WHERE {counted} AND prompt IN (SELECT id FROM touched)) numbered"
            " WHERE rollouts.id = numbered.id"
        )


def cache_folder(given: Path | None) -> Path:
    """Return the folder of indexes and imported runs: `given`, or one in the user's cache folder."""
    return given or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "extra-rl" / "inspect"


def _complete(connection: sqlite3.Connection) -> bool:
    recorded, last = connection.execute(
        "SELECT count(*), coalesce(max(step), 0) FROM files WHERE path LIKE 'rollouts%'"
    ).fetchone()
    return bool(recorded == last)


def _set_touched(connection: sqlite3.Connection, prompts: set[int]) -> None:
    """Put ids of prompts into the table `touched`."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS touched (id INTEGER PRIMARY KEY)")
    connection.execute("DELETE FROM touched")
    connection.executemany("INSERT INTO touched VALUES (?)", [(prompt,) for prompt in prompts])


def _lines(kind: type[Record], path: Path) -> Iterator[tuple[Record, int, int]]:
    """Yield each record with position and length of its line; an unfinished last line is left out."""
    position = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield read_line(kind, line, path), position, len(line)
            position += len(line)


def _forget(connection: sqlite3.Connection, name: str, step: int) -> set[int]:
    """Delete what was indexed from a file; return the prompts of its records."""
    connection.execute("DELETE FROM files WHERE path = ?", [name])
    if name.startswith("prefixes"):
        connection.execute("DELETE FROM choices WHERE step = ?", [step])
        return set()
    rows = connection.execute("SELECT DISTINCT prompt FROM rollouts WHERE step = ?", [step]).fetchall()
    if rows:
        # Their texts stay in the search table, under ids that no rollout has.
        connection.execute("UPDATE state SET texts_in_order = 0")
        connection.execute("DELETE FROM rollouts WHERE step = ?", [step])
    return {prompt for (prompt,) in rows}


def _prompt(connection: sqlite3.Connection, record: RolloutRecord) -> int:
    found = connection.execute("SELECT id FROM prompts WHERE name = ?", [record.prompt_id]).fetchone()
    if found:
        return int(found[0])
    made = connection.execute(
        "INSERT INTO prompts (name, text, answer) VALUES (?, ?, ?)",
        [record.prompt_id, record.prompt, shown_answer(record.answer)],
    )
    assert made.lastrowid is not None
    return made.lastrowid


def _signature(row: sqlite3.Row | None) -> tuple[int, int] | None:
    return (row["modified"], row["size"]) if row else None


def _drop_all(connection: sqlite3.Connection) -> None:
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        " AND name NOT LIKE 'texts_%'"
    ).fetchall()
    for (name,) in names:
        connection.execute(f"DROP TABLE {name}")


def _rollout_filter(query: Query) -> tuple[str, list[Any]]:
    conditions, values = [], list[Any]()
    words = [word for word in query.search.split() if any(letter.isalnum() for letter in word)]
    if words:
        phrases = " ".join('"' + word.replace('"', '""') + '"' for word in words)
        conditions.append(FOUND)
        # The last word may be the beginning of a longer one.
        values.append(phrases + "*")
    shown = {"hard": "r.hard", "rescued": "r.rescued", "novel": "r.novelty > 0"}
    shown |= {"suspicious": "r.suspicious", "undecided": "r.undecided"}
    if query.show in shown:
        conditions.append(shown[query.show])
    if query.status == MASKED:
        conditions.append("r.masked")
    elif query.status:
        conditions.append("r.status = ?")
        values.append(query.status)
    return ("WHERE " + " AND ".join(conditions) if conditions else ""), values


def _like(text: str) -> str:
    escaped = text.strip().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
