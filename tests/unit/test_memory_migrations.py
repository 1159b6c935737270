"""Stores and exports of earlier releases are read; those of later ones are refused."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis

from extra_inspector import memory_file
from extra_services.errors import FailedPrecondition, InvalidInput, Unavailable
from extra_services.memory import sqlite_migrations, transfer
from extra_services.memory.memory import Memory
from extra_services.memory.sqlite_migrations import MIGRATIONS
from extra_services.memory.sqlite_store import SqliteStore
from support import stored_memory
from support.memory_stores import RedisServer, redis_server

SCHEMAS = sorted(int(path.name.removeprefix("sqlite-")) for path in stored_memory.STORES.glob("sqlite-*"))
EXPORTS = sorted(stored_memory.STORES.glob("export-*.parquet"))
#: Number of the first schema, and of the first format of exports, with sketches.
FIRST_WITH_SKETCHES = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


def stored(schema: int, folder: Path) -> Path:
    """Copy the committed store of a schema into `folder`; return the file."""
    shutil.copytree(stored_memory.STORES / f"sqlite-{schema}", folder, dirs_exist_ok=True)
    return folder / "memory.sqlite"


def version_of(path: Path) -> int:
    connection = sqlite3.connect(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(version)


def set_version(path: Path, version: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()


def test_a_store_of_every_schema_is_committed() -> None:
    assert list(range(1, len(MIGRATIONS) + 1)) == SCHEMAS
    assert len(MIGRATIONS) == memory_file.SCHEMA_VERSION


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_store_of_an_earlier_schema_is_read_and_a_copy_kept(schema: int, tmp_path: Path) -> None:
    path = stored(schema, tmp_path)
    for _ in range(2):
        store = SqliteStore(tmp_path)
        stored_memory.check(store, sketches=schema >= FIRST_WITH_SKETCHES)
        store.close()
    assert version_of(path) == len(MIGRATIONS)
    assert (tmp_path / f"memory.schema-{schema}.sqlite").exists() == (schema < len(MIGRATIONS))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_inspector_reads_a_store_of_every_schema(schema: int, tmp_path: Path) -> None:
    solutions = memory_file.read_solutions(stored(schema, tmp_path), stored_memory.NAMESPACE, "q")
    assert [solution.excerpt for solution in solutions] == stored_memory.EXCERPTS[1:]


def test_a_migration_keeps_what_was_stored_and_a_copy_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(SCHEMAS[-1], tmp_path)
    added = (*MIGRATIONS, "CREATE TABLE added (name TEXT);INSERT INTO added VALUES ('made');")
    monkeypatch.setattr(sqlite_migrations, "MIGRATIONS", added)
    store = SqliteStore(tmp_path)
    stored_memory.check(store)
    store.close()
    assert version_of(path) == len(MIGRATIONS) + 1
    copy = tmp_path / f"memory.schema-{len(MIGRATIONS)}.sqlite"
    assert version_of(copy) == len(MIGRATIONS)
    # The copy is a whole store, which the release before reads.
    monkeypatch.undo()
    (tmp_path / "before").mkdir()
    shutil.copy(copy, tmp_path / "before" / "memory.sqlite")
    store = SqliteStore(tmp_path / "before")
    stored_memory.check(store)
    store.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(SCHEMAS[-1], tmp_path)
    broken = (*MIGRATIONS, "CREATE TABLE added (name TEXT);", "INSERT INTO nowhere VALUES (1);")
    monkeypatch.setattr(sqlite_migrations, "MIGRATIONS", broken)
    with pytest.raises(Unavailable, match="nowhere"):
        SqliteStore(tmp_path)
    monkeypatch.undo()
    assert version_of(path) == len(MIGRATIONS)
    store = SqliteStore(tmp_path)
    stored_memory.check(store)
    store.close()


def test_a_store_of_a_later_release_is_refused_with_a_sentence(tmp_path: Path) -> None:
    set_version(stored(SCHEMAS[-1], tmp_path), 999)
    with pytest.raises(FailedPrecondition, match=r"was written by a later release \(schema 999; .* use that"):
        SqliteStore(tmp_path)


def test_redis_has_the_number_of_its_schema_and_refuses_a_later_one(server: RedisServer) -> None:
    store = server.store("versioned")
    stored_memory.fill(store)
    stored_memory.check(store)
    store.close()
    connection = redis.Redis(unix_socket_path=server.url.removeprefix("unix://"))
    assert connection.get("{versioned}:schema") == b"2"
    # As an earlier release left it.
    connection.set("{versioned}:schema", 1)
    connection.delete(*connection.keys("{versioned}:n:*:d:*"))
    store = server.store("versioned")
    stored_memory.check(store, sketches=False)
    store.close()
    assert connection.get("{versioned}:schema") == b"2"
    connection.set("{versioned}:schema", 999)
    with pytest.raises(FailedPrecondition, match=r"was written by a later release \(schema 999; .* use that"):
        server.store("versioned")
    connection.close()


@pytest.mark.parametrize("export", EXPORTS, ids=lambda path: path.stem)
def test_an_export_of_an_earlier_release_is_imported(export: Path, tmp_path: Path) -> None:
    memory = Memory(SqliteStore(tmp_path), None)
    transfer.import_file(memory, stored_memory.NAMESPACE, export, replace=False)
    stored_memory.check(memory.store, sketches=int(export.stem[-1]) >= FIRST_WITH_SKETCHES)
    memory.store.close()


def test_an_export_of_a_later_release_is_refused_with_a_sentence(tmp_path: Path) -> None:
    table = pq.read_table(EXPORTS[-1])
    described = json.loads(table.schema.metadata[transfer.METADATA_KEY])
    described["format"] = 999
    later = tmp_path / "later.parquet"
    pq.write_table(table.replace_schema_metadata({transfer.METADATA_KEY: json.dumps(described)}), later)
    memory = Memory(SqliteStore(tmp_path / "store"), None)
    with pytest.raises(InvalidInput, match=r"was written by a later release \(format 999;"):
        transfer.import_file(memory, "n", later, replace=False)
    memory.store.close()
