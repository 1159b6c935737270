"""The schema of the SQLite store, as numbered migrations.

A store has the number of its last migration as its `user_version`. Opening it runs those that are missing,
in one transaction, after a copy of the file was made beside it: memory.schema-1.sqlite is the store as it
was before migration 2. There is no way back but that copy. A release never changes a migration that an
earlier one contained; it adds one at the end.
"""

import os
import sqlite3
from pathlib import Path

from extra_services.errors import FailedPrecondition

_FIRST = """
CREATE TABLE namespaces (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,
  settings TEXT NOT NULL,
  solutions_model TEXT NOT NULL DEFAULT '',
  solutions_dimension INTEGER NOT NULL DEFAULT 0,
  prefixes_model TEXT NOT NULL DEFAULT '',
  prefixes_dimension INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE positive (
  namespace INTEGER NOT NULL,
  metric TEXT NOT NULL,
  sum REAL NOT NULL,
  count INTEGER NOT NULL,
  PRIMARY KEY (namespace, metric)
) WITHOUT ROWID;
CREATE TABLE prompts (
  id INTEGER PRIMARY KEY,
  namespace INTEGER NOT NULL,
  prompt TEXT NOT NULL,
  version INTEGER NOT NULL DEFAULT 0,
  solutions_added INTEGER NOT NULL DEFAULT 0,
  prefixes_added INTEGER NOT NULL DEFAULT 0,
  prefixes_stored INTEGER NOT NULL DEFAULT 0,
  unguided_rollouts INTEGER NOT NULL DEFAULT 0,
  unguided_successes INTEGER NOT NULL DEFAULT 0,
  reward_variance REAL NOT NULL DEFAULT 0,
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
  rollouts INTEGER NOT NULL,
  successes INTEGER NOT NULL,
  PRIMARY KEY (prompt, slot)
);
CREATE TABLE ngrams (
  prompt INTEGER NOT NULL,
  ngram BLOB NOT NULL,
  count INTEGER NOT NULL,
  PRIMARY KEY (prompt, ngram)
) WITHOUT ROWID;
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

#: Counts of answers, for the metric `outcome`.
_ANSWER_COUNTS = """
ALTER TABLE prompts ADD COLUMN answers_stored INTEGER NOT NULL DEFAULT 0;
CREATE TABLE answer_counts (
  prompt INTEGER PRIMARY KEY,
  counts TEXT NOT NULL
);
"""

#: Sketches of derivations, for the metric `derivation`; solutions of earlier releases have none.
_SKETCHES = "ALTER TABLE solutions ADD COLUMN sketch BLOB;"

#: The solutions of one write in one row instead of a row each; those of earlier releases are blocks of one.
_BLOCKS = """
CREATE TABLE solution_blocks (
  id INTEGER PRIMARY KEY,
  prompt INTEGER NOT NULL,
  first INTEGER NOT NULL,
  count INTEGER NOT NULL,
  vectors BLOB NOT NULL,
  excerpts TEXT,
  sketches BLOB
);
INSERT INTO solution_blocks (prompt, first, count, vectors, excerpts, sketches)
  SELECT prompt, sequence, 1, vector, json_array(excerpt), sketch FROM solutions ORDER BY prompt, sequence;
CREATE INDEX solution_blocks_by_prompt ON solution_blocks (prompt, first, count);
DROP TABLE solutions;
"""

#: SQL scripts; the first is migration 1, which makes the tables of an empty store.
MIGRATIONS = (_FIRST, _ANSWER_COUNTS, _SKETCHES, _BLOCKS)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or bring those of an earlier release up to date.

    Args:
        connection: Of the only process that has the store open, outside of a transaction.
        path: The file of `connection`.

    Raises:
        FailedPrecondition: A later release has written the store.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise FailedPrecondition(
            f"{path} was written by a later release (schema {version}; this one reads up to"
            f" {len(MIGRATIONS)}): use that release, or another data folder"
        )
    missing = MIGRATIONS[version:]
    if not missing:
        return
    if version:
        _keep_copy(connection, path.with_name(f"{path.stem}.schema-{version}{path.suffix}"))
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE;{''.join(missing)}PRAGMA user_version={len(MIGRATIONS)};COMMIT;"
        )
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _keep_copy(connection: sqlite3.Connection, copy: Path) -> None:
    """Write the database to the file `copy`; one of an interrupted attempt is replaced."""
    unfinished = copy.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    connection.execute("VACUUM INTO ?", (str(unfinished),))
    os.replace(unfinished, copy)
