"""The embedded store: one SQLite file in WAL mode, owned by one server process.

All changes go through one thread, which takes whatever has been submitted meanwhile, applies each job in a
savepoint of its own and commits them together: one fsync for many concurrent requests (`synchronous=FULL`).
Reads use a connection of their own and never wait for a commit. A lock file keeps a second process out,
because a server believes what it has read (`shared` is false); several replicas need the Redis store.

Rows are addressed by (prompt, slot), so a full ring overwrites in place and nothing is ever moved. Nothing
is read at start-up.
"""

import fcntl
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from extra_services.errors import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from extra_services.memory.records import (
    Conflict,
    EmbeddingSpace,
    Header,
    IdempotentAnswer,
    Namespace,
    NamespaceSettings,
    PromptWrite,
    Sizes,
    StoredPrefix,
    StoredSolutions,
    Write,
)

Result = TypeVar("Result")
Job = Callable[[sqlite3.Connection], Any]

#: Jobs committed together at most, so that the first of them does not wait for an endless stream.
MAX_JOBS_PER_COMMIT = 256
#: How long the answer to an idempotency key is kept.
ANSWER_SECONDS = 30 * 24 * 3600

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE namespaces (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,
  settings TEXT NOT NULL,
  solutions_model TEXT NOT NULL DEFAULT '',
  solutions_dimension INTEGER NOT NULL DEFAULT 0,
  prefixes_model TEXT NOT NULL DEFAULT '',
  prefixes_dimension INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE prompts (
  id INTEGER PRIMARY KEY,
  namespace INTEGER NOT NULL,
  prompt TEXT NOT NULL,
  version INTEGER NOT NULL DEFAULT 0,
  solutions_added INTEGER NOT NULL DEFAULT 0,
  prefixes_added INTEGER NOT NULL DEFAULT 0,
  unguided_rollouts INTEGER NOT NULL DEFAULT 0,
  unguided_successes INTEGER NOT NULL DEFAULT 0,
  UNIQUE (namespace, prompt)
);
CREATE TABLE solutions (
  prompt INTEGER NOT NULL,
  slot INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  vector BLOB NOT NULL,
  excerpt TEXT NOT NULL,
  PRIMARY KEY (prompt, slot)
);
CREATE TABLE prefixes (
  prompt INTEGER NOT NULL,
  slot INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  token_ids BLOB NOT NULL,
  text TEXT NOT NULL,
  mean_entropy REAL NOT NULL,
  vector BLOB NOT NULL,
  rollouts INTEGER NOT NULL DEFAULT 0,
  successes INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (prompt, slot)
);
CREATE TABLE answers (
  namespace INTEGER NOT NULL,
  operation TEXT NOT NULL,
  key TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  answer TEXT NOT NULL,
  created REAL NOT NULL,
  PRIMARY KEY (namespace, operation, key)
) WITHOUT ROWID;
CREATE INDEX answers_by_age ON answers (created);
"""

NAMESPACE_COLUMNS = (
    "id, name, settings, solutions_model, solutions_dimension, prefixes_model, prefixes_dimension"
)
HEADER_COLUMNS = "version, solutions_added, prefixes_added, unguided_rollouts, unguided_successes"


class SqliteStore:
    """A Store in `folder`/memory.sqlite; the folder is made if it does not exist."""

    shared = False

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = _own(folder)
        path = folder / "memory.sqlite"
        self._writer = _open(path)
        _prepare(self._writer, path)
        self._reader = _open(path)
        self._reading = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Job, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._commit_jobs, name="sqlite-writer", daemon=True)
        self._thread.start()

    def create_namespace(self, name: str, settings: NamespaceSettings) -> tuple[Namespace, bool]:
        return self._do(lambda connection: _create(connection, name, settings))

    def namespace(self, name: str) -> Namespace:
        with self._reading:
            return _find(self._reader, name)

    def namespaces(self) -> list[str]:
        return [name for (name,) in self._read("SELECT name FROM namespaces ORDER BY name")]

    def delete_namespace(self, name: str) -> bool:
        return self._do(lambda connection: _delete(connection, name))

    def copy_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        return self._do(lambda connection: _copy(connection, source, destination, replace))

    def sizes(self, namespace: Namespace) -> Sizes:
        with self._reading:
            return _sizes(self._reader, namespace)

    def answer(self, namespace: Namespace, operation: str, key: str) -> IdempotentAnswer | None:
        rows = self._read(
            "SELECT operation, key, fingerprint, answer FROM answers"
            " WHERE namespace=? AND operation=? AND key=?",
            (namespace.id, operation, key),
        )
        return IdempotentAnswer(*rows[0]) if rows else None

    def headers(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, Header]:
        rows = self._read(
            f"SELECT prompt, {HEADER_COLUMNS} FROM prompts"
            " WHERE namespace=? AND prompt IN (SELECT value FROM json_each(?))",
            (namespace.id, json.dumps(list(prompts))),
        )
        found = {prompt: Header(*counters) for prompt, *counters in rows}
        return {prompt: found.get(prompt, Header()) for prompt in prompts}

    def solutions(
        self, namespace: Namespace, prompts: Collection[str]
    ) -> dict[str, tuple[Header, StoredSolutions | None]]:
        rows = self._read(
            f"SELECT p.prompt, {HEADER_COLUMNS}, s.sequence, s.vector FROM"
            f" (SELECT id, prompt, {HEADER_COLUMNS} FROM prompts"
            "  WHERE namespace=? AND prompt IN (SELECT value FROM json_each(?))) p"
            " LEFT JOIN solutions s ON s.prompt = p.id ORDER BY p.id, s.slot",
            (namespace.id, json.dumps(list(prompts))),
        )
        headers: dict[str, Header] = {}
        rings: dict[str, list[tuple[int, bytes]]] = {}
        for prompt, *counters, sequence, vector in rows:
            headers.setdefault(prompt, Header(*counters))
            if vector is not None:
                rings.setdefault(prompt, []).append((sequence, vector))
        return {
            prompt: (
                headers.get(prompt, Header()),
                _stored_solutions(rings[prompt]) if prompt in rings else None,
            )
            for prompt in prompts
        }

    def prefixes(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, list[StoredPrefix]]:
        rows = self._read(
            "SELECT p.prompt, x.sequence, x.token_ids, x.text, x.mean_entropy, x.vector,"
            " x.rollouts, x.successes FROM prompts p JOIN prefixes x ON x.prompt = p.id"
            " WHERE p.namespace=? AND p.prompt IN (SELECT value FROM json_each(?)) ORDER BY p.id, x.sequence",
            (namespace.id, json.dumps(list(prompts))),
        )
        found: dict[str, list[StoredPrefix]] = {prompt: [] for prompt in prompts}
        for prompt, sequence, token_ids, text, entropy, vector, rollouts, successes in rows:
            ids, unit = np.frombuffer(token_ids, dtype="<i4"), np.frombuffer(vector, dtype="<f4")
            found[prompt].append(StoredPrefix(sequence, ids, text, entropy, unit, rollouts, successes))
        return found

    def excerpts(
        self, namespace: Namespace, wanted: Collection[tuple[str, int]]
    ) -> dict[tuple[str, int], str]:
        rows = self._read(
            "SELECT p.prompt, s.sequence, s.excerpt FROM json_each(?) w"
            " JOIN prompts p ON p.namespace=? AND p.prompt = json_extract(w.value, '$[0]')"
            " JOIN solutions s ON s.prompt = p.id AND s.slot = json_extract(w.value, '$[1]') % ?"
            " WHERE s.sequence = json_extract(w.value, '$[1]')",
            (json.dumps(list(wanted)), namespace.id, namespace.settings.memory_capacity),
        )
        return {(prompt, sequence): excerpt for prompt, sequence, excerpt in rows}

    def commit(self, namespace: Namespace, write: Write) -> dict[str, int]:
        return self._do(lambda connection: _apply(connection, namespace, write))

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()
        self._reader.close()
        self._writer.close()
        self._lock_file.close()

    def _read(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._reading:
            return self._reader.execute(sql, parameters).fetchall()

    def _do(self, job: Callable[[sqlite3.Connection], Result]) -> Result:
        done: Future[Result] = Future()
        self._jobs.put((job, done))
        return done.result()

    def _commit_jobs(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch = [first]
            while len(batch) < MAX_JOBS_PER_COMMIT and not self._jobs.empty():
                job = self._jobs.get()
                if job is None:
                    self._jobs.put(None)
                    break
                batch.append(job)
            self._commit(batch)

    def _commit(self, batch: list[tuple[Job, Future[Any]]]) -> None:
        """Runs and commits the jobs; only then are they answered."""
        outcomes: list[tuple[Future[Any], Any, Exception | None]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for job, done in batch:
                outcomes.append((done, *_run_in_savepoint(self._writer, job)))
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            refused = Unavailable(f"the memory's store cannot be written ({error}); is the disk full?")
            outcomes = [(done, None, refused) for _, done in batch]
        for done, result, failure in outcomes:
            done.set_exception(failure) if failure else done.set_result(result)


def _own(folder: Path) -> Any:
    lock_file = open(folder / "memory.lock", "w")  # noqa: SIM115 (held open as long as the store)
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock_file.close()
        raise FailedPrecondition(
            f"another process uses the store in {folder}: give each server a folder of its own, or let them"
            " share a Redis store"
        ) from error
    return lock_file


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
    # Only before the first table is made: five vectors of 384 float32 fill a page of 8 KiB.
    connection.execute("PRAGMA page_size=8192")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    # Pages of the log before they are moved into the database: 64 MB, so that a large batch moves once.
    connection.execute("PRAGMA wal_autocheckpoint=8192")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
    elif version != SCHEMA_VERSION:
        raise FailedPrecondition(
            f"{path} has schema {version}, this release reads {SCHEMA_VERSION}: use the release that wrote it"
        )


def _run_in_savepoint(connection: sqlite3.Connection, job: Job) -> tuple[Any, Exception | None]:
    connection.execute("SAVEPOINT job")
    try:
        result = job(connection)
    except sqlite3.Error:
        raise
    except Exception as error:
        # Also a bug in one job must not fail its neighbours, nor end the thread.
        connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
        return None, error
    connection.execute("RELEASE job")
    return result, None


def _namespace(row: tuple[Any, ...]) -> Namespace:
    id_, name, settings, *spaces = row
    return Namespace(
        id_,
        name,
        NamespaceSettings(**json.loads(settings)),
        EmbeddingSpace(*spaces[:2]),
        EmbeddingSpace(*spaces[2:]),
    )


def _lookup(connection: sqlite3.Connection, name: str) -> Namespace | None:
    row = connection.execute(f"SELECT {NAMESPACE_COLUMNS} FROM namespaces WHERE name=?", (name,)).fetchone()
    return _namespace(row) if row else None


def _find(connection: sqlite3.Connection, name: str) -> Namespace:
    namespace = _lookup(connection, name)
    if namespace is None:
        raise NotFound(f"there is no namespace {name!r}: create it first, or correct the name")
    return namespace


def _create(connection: sqlite3.Connection, name: str, settings: NamespaceSettings) -> tuple[Namespace, bool]:
    existing = _lookup(connection, name)
    if existing is not None:
        return existing, False
    connection.execute(
        "INSERT INTO namespaces (name, settings) VALUES (?, ?)", (name, json.dumps(asdict(settings)))
    )
    return _find(connection, name), True


def _delete(connection: sqlite3.Connection, name: str) -> bool:
    namespace = _lookup(connection, name)
    if namespace is None:
        return False
    for table in ("solutions", "prefixes"):
        connection.execute(
            f"DELETE FROM {table} WHERE prompt IN (SELECT id FROM prompts WHERE namespace=?)", (namespace.id,)
        )
    for table in ("prompts", "answers"):
        connection.execute(f"DELETE FROM {table} WHERE namespace=?", (namespace.id,))
    connection.execute("DELETE FROM namespaces WHERE id=?", (namespace.id,))
    return True


def _copy(connection: sqlite3.Connection, source: str, destination: str, replace: bool) -> Sizes:
    original = _find(connection, source)
    if source == destination:
        return _sizes(connection, original)
    if _lookup(connection, destination) is not None and not replace:
        raise AlreadyExists(f"namespace {destination!r} exists: choose another name, or set replace")
    _delete(connection, destination)
    columns = ", ".join(NAMESPACE_COLUMNS.split(", ")[2:])
    connection.execute(
        f"INSERT INTO namespaces (name, {columns}) SELECT ?, {columns} FROM namespaces WHERE id=?",
        (destination, original.id),
    )
    copy = _find(connection, destination)
    connection.execute(
        f"INSERT INTO prompts (namespace, prompt, {HEADER_COLUMNS})"
        f" SELECT ?, prompt, {HEADER_COLUMNS} FROM prompts WHERE namespace=?",
        (copy.id, original.id),
    )
    for table, columns in (
        ("solutions", "slot, sequence, vector, excerpt"),
        ("prefixes", "slot, sequence, token_ids, text, mean_entropy, vector, rollouts, successes"),
    ):
        connection.execute(
            f"INSERT INTO {table} (prompt, {columns}) SELECT new.id, {columns} FROM {table} t"
            " JOIN prompts old ON old.id = t.prompt"
            " JOIN prompts new ON new.namespace = ? AND new.prompt = old.prompt WHERE old.namespace = ?",
            (copy.id, original.id),
        )
    connection.execute(
        "INSERT INTO answers SELECT ?, operation, key, fingerprint, answer, created FROM answers"
        " WHERE namespace=?",
        (copy.id, original.id),
    )
    return _sizes(connection, copy)


def _sizes(connection: sqlite3.Connection, namespace: Namespace) -> Sizes:
    settings = namespace.settings
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE solutions_added > 0), coalesce(sum(min(solutions_added, ?)), 0),"
        " coalesce(sum(min(prefixes_added, ?)), 0) FROM prompts WHERE namespace=?",
        (settings.memory_capacity, settings.prefix_capacity, namespace.id),
    ).fetchone()
    return Sizes(*row)


def _apply(connection: sqlite3.Connection, namespace: Namespace, write: Write) -> dict[str, int]:
    if connection.execute("SELECT 1 FROM namespaces WHERE id=?", (namespace.id,)).fetchone() is None:
        raise NotFound(f"namespace {namespace.name!r} was deleted or replaced during the call")
    if write.answer is not None:
        _remember_answer(connection, namespace, write.answer)
    _claim_space(connection, namespace, "solutions", write.solutions)
    _claim_space(connection, namespace, "prefixes", write.prefixes)
    return {
        prompt: _apply_to_prompt(connection, namespace, prompt, change)
        for prompt, change in write.prompts.items()
    }


def _remember_answer(connection: sqlite3.Connection, namespace: Namespace, answer: IdempotentAnswer) -> None:
    try:
        connection.execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)",
            (namespace.id, answer.operation, answer.key, answer.fingerprint, answer.answer, time.time()),
        )
    except sqlite3.IntegrityError as error:
        raise Conflict(f"idempotency key {answer.key!r} was answered meanwhile") from error
    # A few at a time: the table stays bounded and no write pays for a long clean-up.
    connection.execute(
        "DELETE FROM answers WHERE (namespace, operation, key) IN"
        " (SELECT namespace, operation, key FROM answers WHERE created < ? LIMIT 8)",
        (time.time() - ANSWER_SECONDS,),
    )


def _claim_space(
    connection: sqlite3.Connection, namespace: Namespace, kind: str, space: EmbeddingSpace | None
) -> None:
    """The first vectors of a kind decide the namespace's model and dimension."""
    if space is None:
        return
    changed = connection.execute(
        f"UPDATE namespaces SET {kind}_model=?, {kind}_dimension=?"
        f" WHERE id=? AND ({kind}_dimension=0 OR ({kind}_model=? AND {kind}_dimension=?))",
        (space.model, space.dimension, namespace.id, space.model, space.dimension),
    ).rowcount
    if not changed:
        raise Conflict(f"namespace {namespace.name!r} was given vectors of another model meanwhile")


def _apply_to_prompt(
    connection: sqlite3.Connection, namespace: Namespace, prompt: str, change: PromptWrite
) -> int:
    row = connection.execute(
        "SELECT id, version, solutions_added, prefixes_added FROM prompts WHERE namespace=? AND prompt=?",
        (namespace.id, prompt),
    ).fetchone()
    if row is None:
        cursor = connection.execute(
            "INSERT INTO prompts (namespace, prompt) VALUES (?, ?)", (namespace.id, prompt)
        )
        row = (cursor.lastrowid, 0, 0, 0)
    id_, version, solutions, prefixes = map(int, row)
    if version != change.version:
        raise Conflict(f"prompt {prompt!r} has changed meanwhile")
    settings = namespace.settings
    solutions = _put_solutions(connection, id_, solutions, settings.memory_capacity, change)
    prefixes = _put_prefixes(connection, id_, prefixes, settings.prefix_capacity, change.prefixes)
    _add_outcomes(connection, id_, settings.prefix_capacity, change)
    connection.execute(
        "UPDATE prompts SET version=version+1, solutions_added=?, prefixes_added=? WHERE id=?",
        (solutions, prefixes, id_),
    )
    return version + 1


def _put_solutions(
    connection: sqlite3.Connection, prompt: int, added: int, capacity: int, change: PromptWrite
) -> int:
    new = change.solutions
    if new is None:
        return added
    count = len(new.vectors)
    first_kept = max(0, count - capacity)
    connection.executemany(
        "INSERT OR REPLACE INTO solutions (prompt, slot, sequence, vector, excerpt) VALUES (?, ?, ?, ?, ?)",
        [
            (prompt, (added + i) % capacity, added + i, new.vectors[i].tobytes(), new.excerpts[i])
            for i in range(first_kept, count)
        ],
    )
    return added + count


def _put_prefixes(
    connection: sqlite3.Connection, prompt: int, added: int, capacity: int, new: Iterable[StoredPrefix]
) -> int:
    for prefix in new:
        connection.execute(
            "INSERT OR REPLACE INTO prefixes (prompt, slot, sequence, token_ids, text, mean_entropy, vector)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                prompt,
                added % capacity,
                added,
                prefix.token_ids.astype("<i4").tobytes(),
                prefix.text,
                prefix.mean_entropy,
                prefix.vector.astype("<f4").tobytes(),
            ),
        )
        added += 1
    return added


def _add_outcomes(connection: sqlite3.Connection, prompt: int, capacity: int, change: PromptWrite) -> None:
    for outcome in change.outcomes:
        if outcome.sequence is None:
            connection.execute(
                "UPDATE prompts SET unguided_rollouts=unguided_rollouts+?,"
                " unguided_successes=unguided_successes+? WHERE id=?",
                (outcome.rollouts, outcome.successes, prompt),
            )
        else:
            connection.execute(
                "UPDATE prefixes SET rollouts=rollouts+?, successes=successes+?"
                " WHERE prompt=? AND slot=? AND sequence=?",
                (outcome.rollouts, outcome.successes, prompt, outcome.sequence % capacity, outcome.sequence),
            )


def _stored_solutions(ring: list[tuple[int, bytes]]) -> StoredSolutions:
    vectors = np.frombuffer(b"".join(vector for _, vector in ring), dtype="<f4").reshape(len(ring), -1)
    return StoredSolutions(np.array([sequence for sequence, _ in ring], dtype=np.int64), vectors)
