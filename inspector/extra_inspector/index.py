"""What a run folder holds, searchable: an SQLite index over its rollouts and prefix choices.

Lines stay where they are: the index keeps what is filtered and sorted by, and where in its file each line
begins. It lies outside the run folder, is made once and brought up to date file by file, so that the rollouts
of a run that goes on appear as they come. Old run folders, whose lines hold less, are indexed too.
"""

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from extra_rl.config_file import ConfigError, read_yaml
from extra_trainer.runs.folder import RunFolder

VERSION = 2
SCHEMA = """
CREATE TABLE files (path TEXT PRIMARY KEY, step INTEGER, modified INTEGER, size INTEGER);
CREATE TABLE prompts (
  id INTEGER PRIMARY KEY, name TEXT UNIQUE, text TEXT, answer TEXT,
  visits INTEGER DEFAULT 0, rollouts INTEGER DEFAULT 0, correct INTEGER DEFAULT 0, hard INTEGER DEFAULT 0,
  rescued INTEGER DEFAULT 0, novelty REAL DEFAULT 0, undecided INTEGER DEFAULT 0, last_step INTEGER DEFAULT 0
);
CREATE TABLE rollouts (
  id INTEGER PRIMARY KEY AUTOINCREMENT, step INTEGER, place INTEGER, sample INTEGER, prompt INTEGER,
  status TEXT, extracted TEXT, rule TEXT, novelty REAL, entropy REAL, tokens INTEGER,
  guided INTEGER, prefix_id TEXT, hard INTEGER, rescued INTEGER, undecided INTEGER,
  solution INTEGER, position INTEGER, length INTEGER
);
CREATE INDEX rollouts_of_prompt ON rollouts (prompt, step, place, sample);
CREATE INDEX rollouts_of_step ON rollouts (step, place, sample);
CREATE INDEX rollouts_by_novelty ON rollouts (novelty);
CREATE INDEX rollouts_by_status ON rollouts (status);
CREATE INDEX rollouts_hard ON rollouts (step) WHERE hard;
CREATE INDEX rollouts_rescued ON rollouts (step) WHERE rescued;
CREATE INDEX rollouts_undecided ON rollouts (step) WHERE undecided;
CREATE TABLE state (texts_in_order INTEGER);
INSERT INTO state VALUES (1);
CREATE TABLE choices (
  step INTEGER, place INTEGER, prompt_id TEXT, position INTEGER, length INTEGER, PRIMARY KEY (step, place)
);
CREATE INDEX choices_of_prompt ON choices (prompt_id, step);
CREATE VIRTUAL TABLE texts USING fts5(body, content='', tokenize='unicode61 remove_diacritics 0');
"""
#: Statuses after which nothing is known about a response.
UNDECIDED = ("timeout", "error")

Show = Literal["all", "hard", "rescued", "novel", "timeouts"]
#: That a rollout is one that a search finds.
FOUND = "r.id IN (SELECT rowid FROM texts WHERE texts MATCH ?)"
#: Sort key of a view -> column.
ROLLOUT_ORDERS = {
    "step": "step",
    "novelty": "novelty",
    "entropy": "entropy",
    "tokens": "tokens",
    "status": "status",
}
PROMPT_ORDERS = {
    "prompt": "text",
    "visits": "visits",
    "pass_rate": "1.0 * correct / rollouts",
    "hard": "hard",
    "rescued": "rescued",
    "novelty": "novelty",
    "last_step": "last_step",
}


@dataclass(frozen=True)
class Query:
    """What is to be listed, and which page of it."""

    search: str = ""
    show: Show = "all"
    #: Of rollouts; "" for any.
    status: str = ""
    #: A key of the view's orders; "" for that which suits `show`.
    order: str = ""
    descending: bool = True
    offset: int = 0
    limit: int = 25


@dataclass(frozen=True)
class Visit:
    """A group: one prompt in one step."""

    step: int
    place: int
    guided: bool
    prefix_id: str
    rollouts: int
    correct: int
    undecided: int
    hard: bool


@dataclass
class Progress:
    """How far indexing is, in files of steps."""

    done: int = 0
    total: int = 0


@dataclass
class Index:
    """The index of one run; may be used from several threads."""

    folder: RunFolder
    path: Path
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        if not self.folder.config.is_file():
            raise ConfigError(f"{self.folder.path} holds no run: there is no config.yaml in it")
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
        """The index of a run in the user's cache folder, or in `cache`."""
        where = (
            cache or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "extra-rl" / "inspect"
        )
        name = hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:16]
        return cls(folder, where / f"{folder.path.resolve().name}-{name}.sqlite")

    def update(self) -> bool:
        """Takes in what is new or changed in the run folder; whether anything was."""
        with self._updating:
            files = {
                path: (kind, path.stat())
                for kind in ("prefixes", "rollouts")
                for path in sorted((self.folder.path / kind).glob("step-*.jsonl"))
            }
            with self._connection() as connection:
                known = {row["path"]: row for row in connection.execute("SELECT * FROM files")}
            gone = [name for name in known if self.folder.path / name not in files]
            stale = [
                (path, kind, stat)
                for path, (kind, stat) in files.items()
                if _signature(known.get(self._name(path))) != (stat.st_mtime_ns, stat.st_size)
            ]
            self.progress = Progress(0, len(stale))
            touched: set[int] = set()
            with self._connection() as connection:
                for name in gone:
                    touched |= _forget(connection, name, known[name]["step"])
            for path, kind, stat in stale:
                with self._connection() as connection:
                    touched |= self._take_in(connection, path, kind, stat)
                self.progress.done += 1
            if touched:
                with self._connection() as connection:
                    self._summarize(connection, touched)
            return bool(gone or stale)

    def rollouts(self, query: Query) -> tuple[list[dict[str, Any]], int]:
        """A page of rollouts with their prompts, and how many there are in all."""
        where, values = _rollout_filter(query)
        column = ROLLOUT_ORDERS.get(query.order, "novelty" if query.show == "novel" else "step")
        direction = "DESC" if query.descending else "ASC"
        # By step in the order of an index, so that a page is read without sorting all that is found.
        columns = ("step", "place", "sample") if column == "step" else (column, "id")
        order = ", ".join(f"r.{name} {direction}" for name in columns)
        counted, chosen = (
            f"rollouts r {where}",
            f"SELECT * FROM rollouts r {where} ORDER BY {order} LIMIT ? OFFSET ?",
        )
        with self._connection() as connection:
            (in_order,) = connection.execute("SELECT texts_in_order FROM state").fetchone()
            if in_order and where == f"WHERE {FOUND}" and column == "step":
                # A search alone, which may find nearly everything: the search table's own order will do.
                counted = "texts WHERE texts MATCH ?"
                rowids = f"SELECT rowid FROM {counted} ORDER BY rowid {direction} LIMIT ? OFFSET ?"
                chosen = f"SELECT * FROM rollouts WHERE id IN ({rowids})"
            (total,) = connection.execute(f"SELECT count(*) FROM {counted}", values).fetchone()
            rows = connection.execute(
                f"SELECT r.*, p.name AS prompt_id, p.text AS prompt_text, p.answer AS answer"
                f" FROM ({chosen}) r JOIN prompts p ON p.id = r.prompt ORDER BY {order}",
                [*values, query.limit, query.offset],
            ).fetchall()
        return [dict(row) for row in rows], total

    def prompts(self, query: Query) -> tuple[list[dict[str, Any]], int]:
        """A page of prompts with what came of them, and how many there are in all."""
        conditions, values = ["visits > 0"], list[Any]()
        if query.search.strip():
            conditions.append(
                "(text LIKE ? ESCAPE '\\' OR answer LIKE ? ESCAPE '\\' OR name LIKE ? ESCAPE '\\')"
            )
            values += [_like(query.search)] * 3
        column = {"hard": "hard", "rescued": "rescued", "novel": "novelty", "timeouts": "undecided"}.get(
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
                f"SELECT * FROM prompts {where} ORDER BY {order} {direction}, id LIMIT ? OFFSET ?",
                [*values, query.limit, query.offset],
            ).fetchall()
        return [dict(row) for row in rows], total

    def prompt(self, prompt_id: str) -> dict[str, Any] | None:
        """A prompt's row; None if it is unknown."""
        with self._connection() as connection:
            row = connection.execute("SELECT * FROM prompts WHERE name = ?", [prompt_id]).fetchone()
        return dict(row) if row else None

    def visits(self, prompt_id: str) -> list[Visit]:
        """The groups of a prompt, by step."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT step, place, max(guided) guided, max(prefix_id) prefix_id, count(*) rollouts,"
                " sum(status = 'correct') correct, sum(undecided) undecided, max(hard) hard FROM rollouts"
                " WHERE prompt = (SELECT id FROM prompts WHERE name = ?)"
                " GROUP BY step, place ORDER BY step, place",
                [prompt_id],
            ).fetchall()
        return [
            Visit(
                row["step"],
                row["place"],
                bool(row["guided"]),
                row["prefix_id"],
                row["rollouts"],
                row["correct"],
                row["undecided"],
                bool(row["hard"]),
            )
            for row in rows
        ]

    def group(self, step: int, place: int) -> list[dict[str, Any]]:
        """The records of a group's rollouts as the trainer wrote them, by sample."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT position, length FROM rollouts WHERE step = ? AND place = ? ORDER BY sample",
                [step, place],
            ).fetchall()
        return self._records("rollouts", step, rows)

    def solutions(self, prompt_id: str, numbers: Sequence[int] | None = None) -> dict[int, dict[str, Any]]:
        """Solution number -> the record of the rollout it is, with its `step` and `place`; None: of all."""
        chosen = "" if numbers is None else f" AND solution IN ({', '.join('?' * len(numbers))})"
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT step, place, position, length, solution FROM rollouts WHERE solution IS NOT NULL AND"
                f" prompt = (SELECT id FROM prompts WHERE name = ?){chosen} ORDER BY solution",
                [prompt_id, *(numbers or ())],
            ).fetchall()
        found: dict[int, dict[str, Any]] = {}
        for row in rows:
            (record,) = self._records("rollouts", row["step"], [row])
            found[row["solution"]] = {**record, "step": row["step"], "place": row["place"]}
        return found

    def choices(self, prompt_id: str, until: int) -> list[dict[str, Any]]:
        """The prefix choices made of a prompt's groups up to a step, with their `step`, in order."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT step, position, length FROM choices WHERE prompt_id = ? AND step <= ?"
                " ORDER BY step, place",
                [prompt_id, until],
            ).fetchall()
        return [{**self._records("prefixes", row["step"], [row])[0], "step": row["step"]} for row in rows]

    def counts(self) -> dict[str, int]:
        """Steps, prompts and rollouts."""
        with self._connection() as connection:
            row = connection.execute(
                "SELECT (SELECT count(DISTINCT step) FROM files) steps,"
                " (SELECT count(*) FROM prompts WHERE visits > 0) prompts,"
                " (SELECT count(*) FROM rollouts) rollouts"
            ).fetchone()
        return dict(row)

    def _records(self, kind: str, step: int, rows: Sequence[sqlite3.Row]) -> list[dict[str, Any]]:
        records = []
        with self.folder.of_step(kind, step).open("rb") as file:
            for row in rows:
                file.seek(row["position"])
                records.append(json.loads(file.read(row["length"])))
        return records

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder.path))

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, in a transaction."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, timeout=60)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            # It can be made again.
            connection.execute("PRAGMA synchronous=OFF")
            self._local.connection = connection
        with connection:
            yield connection

    def _take_in(
        self, connection: sqlite3.Connection, path: Path, kind: str, stat: os.stat_result
    ) -> set[int]:
        """Indexes a file; returns the prompts that it tells of."""
        step = int(path.stem.removeprefix("step-"))
        touched = _forget(connection, self._name(path), step)
        if kind == "prefixes":
            rows = [
                (step, record["group"], record["prompt_id"], position, length)
                for record, position, length in _lines(path)
            ]
            connection.executemany("INSERT OR REPLACE INTO choices VALUES (?, ?, ?, ?, ?)", rows)
        else:
            touched |= self._take_in_rollouts(connection, path, step)
        connection.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
            (self._name(path), step, stat.st_mtime_ns, stat.st_size),
        )
        return touched

    def _take_in_rollouts(self, connection: sqlite3.Connection, path: Path, step: int) -> set[int]:
        groups: dict[int, list[tuple[dict[str, Any], int, int]]] = {}
        place = -1
        for record, position, length in _lines(path):
            # Lines of old runs do not say of which group they are: a group begins with sample 0.
            place = record.get("group", place + (record["sample"] == 0))
            groups.setdefault(place, []).append((record, position, length))
        prompts: dict[str, int] = {}
        rows, texts = [], []
        # Of steps that come as they should, ids are in the order of steps, and all texts are of rollouts.
        (newest,) = connection.execute("SELECT coalesce(max(step), 0) FROM rollouts").fetchone()
        if step <= newest:
            connection.execute("UPDATE state SET texts_in_order = 0")
        (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone() or (0,)
        for place, lines in groups.items():
            first = lines[0][0]
            prompt = prompts.get(first["prompt_id"]) or _prompt(connection, first)
            prompts[first["prompt_id"]] = prompt
            correct = sum(record["status"] == "correct" for record, _, _ in lines)
            decided = sum(record["status"] not in UNDECIDED for record, _, _ in lines)
            hard = decided > 0 and correct / decided <= 1 / len(lines)
            for record, position, length in lines:
                last += 1
                undecided = record["status"] in UNDECIDED
                rows.append(
                    (
                        last,
                        step,
                        place,
                        record["sample"],
                        prompt,
                        record["status"],
                        record["extracted"],
                        record.get("rule", ""),
                        record["novelty"],
                        record["mean_entropy"],
                        record["tokens"],
                        record["guided"],
                        record["prefix_id"],
                        hard,
                        record["guided"] and correct > 0,
                        undecided,
                        position,
                        length,
                    )
                )
                texts.append((last, f"{record['prompt']}\n{record['text']}\n{record['extracted']}"))
        connection.executemany(
            "INSERT INTO rollouts (id, step, place, sample, prompt, status, extracted, rule, novelty,"
            " entropy, tokens, guided, prefix_id, hard, rescued, undecided, position, length)"
            f" VALUES ({', '.join('?' * 18)})",
            rows,
        )
        connection.executemany("INSERT INTO texts (rowid, body) VALUES (?, ?)", texts)
        return set(prompts.values())

    def _summarize(self, connection: sqlite3.Connection, touched: set[int]) -> None:
        """Brings up to date what is kept of prompts, and the numbers of their solutions."""
        novelty = self.config.get("novelty", {})
        counted = "status = 'correct'" if novelty.get("memory_policy") != "all" else "NOT undecided"
        if not novelty.get("guided_groups", True):
            counted += " AND NOT guided"
        if not novelty.get("enabled", True):
            counted = "0"
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS touched (id INTEGER PRIMARY KEY)")
        connection.execute("DELETE FROM touched")
        connection.executemany("INSERT INTO touched VALUES (?)", [(prompt,) for prompt in touched])
        connection.execute(
            "UPDATE prompts SET (visits, rollouts, correct, hard, rescued, novelty, undecided, last_step) ="
            " (SELECT count(DISTINCT step * 1000000 + place), count(*), coalesce(sum(status = 'correct'), 0),"
            " count(DISTINCT CASE WHEN hard THEN step * 1000000 + place END),"
            " count(DISTINCT CASE WHEN rescued THEN step * 1000000 + place END),"
            " coalesce(max(novelty), 0), coalesce(sum(undecided), 0), coalesce(max(step), 0)"
            " FROM rollouts WHERE prompt = prompts.id) WHERE id IN (SELECT id FROM touched)"
        )
        connection.execute(
            "UPDATE rollouts SET solution = numbered.number FROM (SELECT id, row_number() OVER"
            " (PARTITION BY prompt ORDER BY step, place, sample) - 1 AS number FROM rollouts"
            f" WHERE {counted} AND prompt IN (SELECT id FROM touched)) numbered"
            " WHERE rollouts.id = numbered.id"
        )


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Records, and where each begins and how long it is; a line that is still being written is left out."""
    position = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line), position, len(line)
            position += len(line)


def _forget(connection: sqlite3.Connection, name: str, step: int) -> set[int]:
    """Forgets what a file told; returns the prompts that it told of."""
    connection.execute("DELETE FROM files WHERE path = ?", [name])
    if name.startswith("prefixes"):
        connection.execute("DELETE FROM choices WHERE step = ?", [step])
        return set()
    rows = connection.execute("SELECT DISTINCT prompt FROM rollouts WHERE step = ?", [step]).fetchall()
    if rows:
        # Their texts stay in the search table, under ids that no rollout has any more.
        connection.execute("UPDATE state SET texts_in_order = 0")
        connection.execute("DELETE FROM rollouts WHERE step = ?", [step])
    return {prompt for (prompt,) in rows}


def _prompt(connection: sqlite3.Connection, record: dict[str, Any]) -> int:
    found = connection.execute("SELECT id FROM prompts WHERE name = ?", [record["prompt_id"]]).fetchone()
    if found:
        return int(found[0])
    made = connection.execute(
        "INSERT INTO prompts (name, text, answer) VALUES (?, ?, ?)",
        [record["prompt_id"], record["prompt"], record["answer"]],
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
        # What is typed may be the beginning of a word.
        values.append(phrases + "*")
    shown = {"hard": "r.hard", "rescued": "r.rescued", "novel": "r.novelty > 0", "timeouts": "r.undecided"}
    if query.show in shown:
        conditions.append(shown[query.show])
    if query.status:
        conditions.append("r.status = ?")
        values.append(query.status)
    return ("WHERE " + " AND ".join(conditions) if conditions else ""), values


def _like(text: str) -> str:
    escaped = text.strip().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
