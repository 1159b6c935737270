"""The embedded store: one SQLite file in WAL mode, owned by one server process.

All changes go through one thread, which takes all jobs submitted meanwhile, applies each in its own savepoint
and commits them together: one fsync for many concurrent requests (`synchronous=FULL`).
Reads use a connection of their own and never wait for a commit. A lock file keeps a second process out,
because a server believes what it has read (`shared` is false); several replicas need the Redis store.

`sqlite_tables` has the statements, `sqlite_migrations` the schema. Start-up reads only the names of
namespaces, to delete the remains of killed imports in the writer's first job. SQLite's checksums find the
remains of a write that a crash interrupted, and leave them out; a damaged file is not served.
"""

import fcntl
import queue
import sqlite3
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from extra_services.errors import FailedPrecondition, ServiceError, Unavailable
from extra_services.memory import sqlite_tables as tables
from extra_services.memory.records import (
    AnswerCounts,
    Header,
    IdempotentAnswer,
    Namespace,
    NamespaceSettings,
    PromptRecord,
    Sizes,
    StoredPrefix,
    StoredSolutions,
    Write,
)
from extra_services.memory.sqlite_migrations import migrate

Result = TypeVar("Result")
Job = Callable[[sqlite3.Connection], Any]

#: Most jobs in one commit, so that the first does not wait for an endless stream.
MAX_JOBS_PER_COMMIT = 256


class SqliteStore:
    """A Store in `folder`/memory.sqlite; the folder is made if it does not exist."""

    kind = "sqlite"
    shared = False

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = _own(folder)
        self._path = folder / "memory.sqlite"
        try:
            self._writer = _open(self._path)
            migrate(self._writer, self._path)
            self._reader = _open(self._path)
        except sqlite3.Error as error:
            raise _refusal(error, self._path) from error
        self._reading = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Job, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._commit_jobs, name="sqlite-writer", daemon=True)
        self._thread.start()
        self._jobs.put((tables.forget_imports, Future()))

    def create_namespace(self, name: str, settings: NamespaceSettings) -> tuple[Namespace, bool]:
        return self._do(lambda connection: tables.create(connection, name, settings))

    def namespace(self, name: str) -> Namespace:
        return self._read(lambda connection: tables.find(connection, name))

    def namespaces(self) -> list[str]:
        return self._read(tables.names)

    def delete_namespace(self, name: str) -> bool:
        return self._do(lambda connection: tables.delete(connection, name))

    def copy_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        return self._do(lambda connection: tables.copy(connection, source, destination, replace))

    def rename_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        return self._do(lambda connection: tables.rename(connection, source, destination, replace))

    def sizes(self, namespace: Namespace) -> Sizes:
        return self._read(lambda connection: tables.sizes(connection, namespace))

    def answer(self, namespace: Namespace, operation: str, key: str) -> IdempotentAnswer | None:
        return self._read(lambda connection: tables.answer(connection, namespace, operation, key))

    def headers(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, Header]:
        return self._read(lambda connection: tables.headers(connection, namespace, prompts))

    def solutions(
        self, namespace: Namespace, prompts: Collection[str]
    ) -> dict[str, tuple[Header, StoredSolutions | None]]:
        return self._read(lambda connection: tables.solutions(connection, namespace, prompts))

    def prefixes(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, list[StoredPrefix]]:
        return self._read(lambda connection: tables.prefixes(connection, namespace, prompts))

    def ngram_counts(
        self, namespace: Namespace, wanted: Mapping[str, Collection[bytes]]
    ) -> dict[str, dict[bytes, int]]:
        return self._read(lambda connection: tables.ngram_counts(connection, namespace, wanted))

    def answer_counts(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, AnswerCounts]:
        return self._read(lambda connection: tables.answer_counts(connection, namespace, prompts))

    def excerpts(
        self, namespace: Namespace, wanted: Collection[tuple[str, int]]
    ) -> dict[tuple[str, int], str]:
        return self._read(lambda connection: tables.excerpts(connection, namespace, wanted))

    def page(self, namespace: Namespace, after: str, limit: int) -> list[tuple[str, Header]]:
        return self._read(lambda connection: tables.page(connection, namespace, after, limit))

    def records(self, namespace: Namespace, prompts: Collection[str]) -> list[PromptRecord]:
        return self._read(lambda connection: tables.records(connection, namespace, prompts))

    def put_records(self, namespace: Namespace, like: Namespace, records: list[PromptRecord]) -> None:
        self._do(lambda connection: tables.put_records(connection, namespace, like, records))

    def delete_prompts(self, namespace: Namespace, prompts: Collection[str]) -> list[str]:
        return self._do(lambda connection: tables.delete_prompts(connection, namespace, prompts))

    def commit(self, namespace: Namespace, write: Write) -> dict[str, int]:
        return self._do(lambda connection: tables.apply(connection, namespace, write))

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()
        self._reader.close()
        self._writer.close()
        self._lock_file.close()

    def _read(self, read: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `read` on one consistent state of the database."""
        with self._reading:
            try:
                self._reader.execute("BEGIN")
                return read(self._reader)
            except sqlite3.Error as error:
                raise _refusal(error, self._path) from error
            finally:
                if self._reader.in_transaction:
                    self._reader.execute("ROLLBACK")

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
        """Run and commit the jobs, then answer them."""
        outcomes: list[tuple[Future[Any], Any, Exception | None]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for job, done in batch:
                outcomes.append((done, *_run(self._writer, job, alone=len(batch) == 1)))
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            refused = _refusal(error, self._path)
            outcomes = [(done, None, refused) for _, done in batch]
        for done, result, failure in outcomes:
            done.set_exception(failure) if failure else done.set_result(result)


def _refusal(error: sqlite3.Error, path: Path) -> ServiceError:
    """Error for the caller when the database itself fails."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # The higher bits are details of the code.
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return FailedPrecondition(
            f"the memory's store {path.name} is damaged ({error}): stop the server and put a backup of its"
            " data folder in its place; or start with an empty one and import what was exported"
        )
    return Unavailable(f"the memory's store cannot be used now ({error}); is the disk full?")


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
    # 32 MB, so that the pages of a large batch are not written to the log before it is complete.
    connection.execute("PRAGMA cache_size=-32000")
    # Pages of the log before they are moved into the database: 64 MB, so that a large batch moves once.
    connection.execute("PRAGMA wal_autocheckpoint=8192")
    return connection


def _run(connection: sqlite3.Connection, job: Job, alone: bool) -> tuple[Any, Exception | None]:
    """Run a job inside a transaction; if it fails, undo what it did, and return its error.

    Of several jobs each has a savepoint. One that is alone has none: SQLite would write every page that the
    job changes a second time, to be able to go back to the savepoint.
    """
    if not alone:
        connection.execute("SAVEPOINT job")
    try:
        result = job(connection)
    except Exception as error:
        if isinstance(error, sqlite3.Error) and not isinstance(
            error, sqlite3.IntegrityError | sqlite3.DataError
        ):
            raise  # The store is at fault, not the job.
        # The error of one job, or a bug in it, must not fail the other jobs or end the thread.
        if alone:
            connection.execute("ROLLBACK")
            connection.execute("BEGIN")
        else:
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
        return None, error
    if not alone:
        connection.execute("RELEASE job")
    return result, None
