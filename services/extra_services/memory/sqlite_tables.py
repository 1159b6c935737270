"""Tables of the SQLite store, and functions that read and change them.

The solutions of one write are one row, a block: their vectors lie in one blob, one after the other. A ring is
the last `memory_capacity` solutions in the blocks of its prompt; a write overwrites a block of which none is
left in the ring, so that a full ring is written in place. Prefixes have a row each, by (prompt, slot).
The functions run inside the caller's transaction. All rows of a statement are fetched at once: if an
exception left a statement half read, its transaction, and so an old state of the database, would stay open.
"""

import json
import sqlite3
import time
from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from extra_services.errors import AlreadyExists, NotFound
from extra_services.memory.records import (
    SKETCH_BYTES,
    AnswerCounts,
    Conflict,
    EmbeddingSpace,
    Header,
    IdempotentAnswer,
    Namespace,
    NamespaceSettings,
    NewOutcome,
    NewSolutions,
    PromptRecord,
    PromptWrite,
    Sizes,
    StoredPrefix,
    StoredSolutions,
    Write,
    joined_sketches,
)
from extra_services.memory.store import ANSWER_SECONDS, HIDDEN

NAMESPACE_COLUMNS = (
    "id, name, settings, solutions_model, solutions_dimension, prefixes_model, prefixes_dimension"
)
#: In the order of Header's fields.
HEADER_COLUMNS = (
    "version, solutions_added, prefixes_added, prefixes_stored, unguided_rollouts, unguided_successes,"
    " reward_variance, answers_stored"
)
#: Tables with the entries of prompts, and their columns besides the prompt.
OF_PROMPTS = {
    "solution_blocks": "first, count, vectors, excerpts, sketches",
    "prefixes": "slot, sequence, token_ids, text, mean_entropy, vector, rollouts, successes",
    "ngrams": "ngram, count",
    "answer_counts": "counts",
}


#: First sequence number, number, vectors, excerpts (a JSON array; None: all empty) and sketches of solutions.
_Block = tuple[int, int, Any, str | None, bytes | None]


@dataclass(frozen=True)
class _Row:
    """A prompt's row in the table of prompts."""

    id: int
    header: Header


#: Condition for the rows of the prompts in a JSON array.
CHOSEN = "namespace=? AND prompt IN (SELECT value FROM json_each(?))"


def names(connection: sqlite3.Connection) -> list[str]:
    """See Store.namespaces."""
    rows = connection.execute("SELECT name FROM namespaces ORDER BY name").fetchall()
    return [name for (name,) in rows if not name.startswith(HIDDEN)]


def forget_imports(connection: sqlite3.Connection) -> None:
    """Delete the remains of killed imports; call it when none can be running."""
    hidden = connection.execute(
        "SELECT name FROM namespaces WHERE substr(name, 1, 1)=?", (HIDDEN,)
    ).fetchall()
    for (name,) in hidden:
        delete(connection, name)


def find(connection: sqlite3.Connection, name: str) -> Namespace:
    """See Store.namespace."""
    namespace = _lookup(connection, name)
    if namespace is None:
        raise NotFound(f"there is no namespace {name!r}: create it first, or correct the name")
    return namespace


def create(connection: sqlite3.Connection, name: str, settings: NamespaceSettings) -> tuple[Namespace, bool]:
    """See Store.create_namespace."""
    existing = _lookup(connection, name)
    if existing is not None:
        return existing, False
    connection.execute(
        "INSERT INTO namespaces (name, settings) VALUES (?, ?)", (name, json.dumps(settings.to_stored()))
    )
    return find(connection, name), True


def delete(connection: sqlite3.Connection, name: str) -> bool:
    """See Store.delete_namespace."""
    namespace = _lookup(connection, name)
    if namespace is None:
        return False
    for table in OF_PROMPTS:
        connection.execute(
            f"DELETE FROM {table} WHERE prompt IN (SELECT id FROM prompts WHERE namespace=?)", (namespace.id,)
        )
    for table in ("prompts", "answers", "positive"):
        connection.execute(f"DELETE FROM {table} WHERE namespace=?", (namespace.id,))
    connection.execute("DELETE FROM namespaces WHERE id=?", (namespace.id,))
    return True


def copy(connection: sqlite3.Connection, source: str, destination: str, replace: bool) -> Sizes:
    """See Store.copy_namespace."""
    original = find(connection, source)
    if source == destination:
        return sizes(connection, original)
    _make_room(connection, destination, replace)
    columns = ", ".join(NAMESPACE_COLUMNS.split(", ")[2:])
    connection.execute(
        f"INSERT INTO namespaces (name, {columns}) SELECT ?, {columns} FROM namespaces WHERE id=?",
        (destination, original.id),
    )
    made = find(connection, destination)
    for table, columns in (
        ("prompts", f"prompt, {HEADER_COLUMNS}"),
        ("answers", "operation, key, fingerprint, answer, created"),
        ("positive", "metric, sum, count"),
    ):
        connection.execute(
            f"INSERT INTO {table} (namespace, {columns}) SELECT ?, {columns} FROM {table} WHERE namespace=?",
            (made.id, original.id),
        )
    for table, columns in OF_PROMPTS.items():
        connection.execute(
            f"INSERT INTO {table} (prompt, {columns}) SELECT new.id, {columns} FROM {table} t"
            " JOIN prompts old ON old.id = t.prompt"
            " JOIN prompts new ON new.namespace = ? AND new.prompt = old.prompt WHERE old.namespace = ?",
            (made.id, original.id),
        )
    return sizes(connection, made)


def rename(connection: sqlite3.Connection, source: str, destination: str, replace: bool) -> Sizes:
    """See Store.rename_namespace."""
    namespace = find(connection, source)
    _make_room(connection, destination, replace)
    connection.execute("UPDATE namespaces SET name=? WHERE id=?", (destination, namespace.id))
    return sizes(connection, namespace)


def sizes(connection: sqlite3.Connection, namespace: Namespace) -> Sizes:
    """See Store.sizes."""
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE solutions_added > 0), coalesce(sum(min(solutions_added, ?)), 0),"
        " coalesce(sum(prefixes_stored), 0), coalesce(sum(answers_stored), 0) FROM prompts WHERE namespace=?",
        (namespace.settings.memory_capacity, namespace.id),
    ).fetchone()
    return Sizes(*row)


def answer(
    connection: sqlite3.Connection, namespace: Namespace, operation: str, key: str
) -> IdempotentAnswer | None:
    """See Store.answer."""
    row = connection.execute(
        "SELECT operation, key, fingerprint, answer FROM answers WHERE namespace=? AND operation=? AND key=?",
        (namespace.id, operation, key),
    ).fetchone()
    return IdempotentAnswer(*row) if row else None


def headers(
    connection: sqlite3.Connection, namespace: Namespace, prompts: Collection[str]
) -> dict[str, Header]:
    """See Store.headers."""
    found = _find_rows(connection, namespace, prompts)
    return {prompt: found[prompt].header if prompt in found else Header() for prompt in prompts}


def solutions(
    connection: sqlite3.Connection, namespace: Namespace, prompts: Collection[str]
) -> dict[str, tuple[Header, StoredSolutions | None]]:
    """See Store.solutions."""
    known = _find_rows(connection, namespace, prompts) if prompts else {}
    rows = connection.execute(
        f"SELECT prompt, {OF_PROMPTS['solution_blocks']} FROM solution_blocks"
        " WHERE prompt IN (SELECT value FROM json_each(?))",
        (json.dumps([row.id for row in known.values()]),),
    ).fetchall()
    blocks: dict[int, list[_Block]] = {}
    for id_, *block in rows:
        blocks.setdefault(id_, []).append(tuple(block))
    found: dict[str, tuple[Header, StoredSolutions | None]] = {}
    for prompt in prompts:
        row = known.get(prompt)
        if row is None:
            found[prompt] = Header(), None
        else:
            ring = _ring(blocks[row.id], row.header, namespace) if row.id in blocks else None
            found[prompt] = row.header, ring
    return found


def prefixes(
    connection: sqlite3.Connection, namespace: Namespace, prompts: Collection[str]
) -> dict[str, list[StoredPrefix]]:
    """See Store.prefixes."""
    rows = connection.execute(
        "SELECT p.prompt, x.sequence, x.token_ids, x.text, x.mean_entropy, x.vector, x.rollouts, x.successes"
        f" FROM (SELECT id, prompt FROM prompts WHERE {CHOSEN}) p JOIN prefixes x ON x.prompt = p.id"
        " ORDER BY p.id, x.sequence",
        _chosen(namespace, prompts),
    ).fetchall()
    found: dict[str, list[StoredPrefix]] = {prompt: [] for prompt in prompts}
    for prompt, sequence, token_ids, text, entropy, vector, rollouts, successes in rows:
        ids, unit = np.frombuffer(token_ids, dtype="<i4"), np.frombuffer(vector, dtype="<f4")
        found[prompt].append(StoredPrefix(sequence, ids, text, entropy, unit, rollouts, successes))
    return found


def ngram_counts(
    connection: sqlite3.Connection, namespace: Namespace, wanted: Mapping[str, Collection[bytes]]
) -> dict[str, dict[bytes, int]]:
    """See Store.ngram_counts."""
    ids = _ids(connection, namespace, wanted)
    found: dict[str, dict[bytes, int]] = {}
    for prompt, ngrams in wanted.items():
        found[prompt] = {}
        # One by one: a JSON array cannot hold bytes, and each is a look-up by primary key.
        for ngram in ngrams if prompt in ids else ():
            row = connection.execute(
                "SELECT count FROM ngrams WHERE prompt=? AND ngram=?", (ids[prompt], ngram)
            ).fetchone()
            if row:
                found[prompt][ngram] = row[0]
    return found


def answer_counts(
    connection: sqlite3.Connection, namespace: Namespace, prompts: Collection[str]
) -> dict[str, AnswerCounts]:
    """See Store.answer_counts."""
    rows = connection.execute(
        f"SELECT p.prompt, a.counts FROM (SELECT id, prompt FROM prompts WHERE {CHOSEN}) p"
        " JOIN answer_counts a ON a.prompt = p.id",
        _chosen(namespace, prompts),
    ).fetchall()
    stored = {prompt: json.loads(counts) for prompt, counts in rows}
    return {prompt: stored.get(prompt, {}) for prompt in prompts}


def excerpts(
    connection: sqlite3.Connection, namespace: Namespace, wanted: Collection[tuple[str, int]]
) -> dict[tuple[str, int], str]:
    """See Store.excerpts."""
    rows = connection.execute(
        "SELECT w.prompt, w.sequence,"
        " coalesce(json_extract(b.excerpts, '$[' || (w.sequence - b.first) || ']'), '') FROM (SELECT"
        " json_extract(value, '$[0]') AS prompt, json_extract(value, '$[1]') AS sequence FROM json_each(?)) w"
        " JOIN prompts p ON p.namespace=? AND p.prompt = w.prompt AND w.sequence >= p.solutions_added - ?"
        " JOIN solution_blocks b ON b.prompt = p.id"
        " AND w.sequence >= b.first AND w.sequence < b.first + b.count",
        (json.dumps(list(wanted)), namespace.id, namespace.settings.memory_capacity),
    ).fetchall()
    return {(prompt, sequence): excerpt for prompt, sequence, excerpt in rows}


def page(
    connection: sqlite3.Connection, namespace: Namespace, after: str, limit: int
) -> list[tuple[str, Header]]:
    """See Store.page."""
    rows = connection.execute(
        f"SELECT prompt, {HEADER_COLUMNS} FROM prompts WHERE namespace=? AND prompt > ?"
        " ORDER BY prompt LIMIT ?",
        (namespace.id, after, limit),
    ).fetchall()
    return [(prompt, Header(*counters)) for prompt, *counters in rows]


def records(
    connection: sqlite3.Connection, namespace: Namespace, prompts: Collection[str]
) -> list[PromptRecord]:
    """See Store.records."""
    ids = _ids(connection, namespace, prompts)
    rings, stored = solutions(connection, namespace, ids), prefixes(connection, namespace, ids)
    counted = answer_counts(connection, namespace, ids)
    return [
        PromptRecord(
            prompt,
            *rings[prompt],
            stored[prompt],
            dict(connection.execute("SELECT ngram, count FROM ngrams WHERE prompt=?", (id_,)).fetchall()),
            counted[prompt],
        )
        for prompt, id_ in ids.items()
    ]


def put_records(
    connection: sqlite3.Connection, namespace: Namespace, like: Namespace, added: list[PromptRecord]
) -> None:
    """See Store.put_records."""
    connection.execute(
        "UPDATE namespaces SET solutions_model=?, solutions_dimension=?,"
        " prefixes_model=?, prefixes_dimension=? WHERE id=?",
        (*astuple(like.solutions), *astuple(like.prefixes), namespace.id),
    )
    connection.executemany(
        "INSERT OR REPLACE INTO positive (namespace, metric, sum, count) VALUES (?, ?, ?, ?)",
        [(namespace.id, metric, *sums) for metric, sums in like.positive.items()],
    )
    for record in added:
        id_ = connection.execute(
            f"INSERT INTO prompts (namespace, prompt, {HEADER_COLUMNS})"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (namespace.id, record.prompt, *astuple(record.header)),
        ).lastrowid
        _insert_record(connection, namespace, id_, record)


def delete_prompts(
    connection: sqlite3.Connection, namespace: Namespace, prompts: Collection[str]
) -> list[str]:
    """See Store.delete_prompts."""
    ids = _ids(connection, namespace, prompts)
    for id_ in ids.values():
        for table in OF_PROMPTS:
            connection.execute(f"DELETE FROM {table} WHERE prompt=?", (id_,))
        connection.execute("DELETE FROM prompts WHERE id=?", (id_,))
    return list(ids)


def apply(connection: sqlite3.Connection, namespace: Namespace, write: Write) -> dict[str, int]:
    """See Store.commit."""
    if connection.execute("SELECT 1 FROM namespaces WHERE id=?", (namespace.id,)).fetchone() is None:
        raise NotFound(f"namespace {namespace.name!r} was deleted or replaced during the call")
    if write.answer is not None:
        _remember_answer(connection, namespace, write.answer)
    _claim_space(connection, namespace, "solutions", write.solutions)
    _claim_space(connection, namespace, "prefixes", write.prefixes)
    connection.executemany(
        "INSERT INTO positive (namespace, metric, sum, count) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET sum=sum+excluded.sum, count=count+excluded.count",
        [(namespace.id, metric, *sums) for metric, sums in write.positive.items()],
    )
    return _apply_to_prompts(connection, namespace, write.prompts)


def _lookup(connection: sqlite3.Connection, name: str) -> Namespace | None:
    row = connection.execute(f"SELECT {NAMESPACE_COLUMNS} FROM namespaces WHERE name=?", (name,)).fetchone()
    if row is None:
        return None
    id_, _, settings, *spaces = row
    sums = connection.execute("SELECT metric, sum, count FROM positive WHERE namespace=?", (id_,))
    return Namespace(
        id_,
        name,
        NamespaceSettings.from_stored(json.loads(settings)),
        EmbeddingSpace(*spaces[:2]),
        EmbeddingSpace(*spaces[2:]),
        {metric: (total, count) for metric, total, count in sums.fetchall()},
    )


def _make_room(connection: sqlite3.Connection, name: str, replace: bool) -> None:
    if _lookup(connection, name) is not None and not replace:
        raise AlreadyExists(f"namespace {name!r} exists: choose another name, or set replace")
    delete(connection, name)


def _chosen(namespace: Namespace, prompts: Collection[str]) -> tuple[int, str]:
    return namespace.id, json.dumps(list(prompts))


def _ids(connection: sqlite3.Connection, namespace: Namespace, prompts: Collection[str]) -> dict[str, int]:
    rows = connection.execute(f"SELECT prompt, id FROM prompts WHERE {CHOSEN}", _chosen(namespace, prompts))
    return dict(rows.fetchall())


def _ring(blocks: list[_Block], header: Header, namespace: Namespace) -> StoredSolutions:
    """The solutions in the blocks of a prompt that its ring still holds, by slot."""
    capacity = namespace.settings.memory_capacity
    sequences = np.concatenate([np.arange(first, first + count) for first, count, *_ in blocks])
    vectors = np.frombuffer(b"".join(block[2] for block in blocks), dtype=namespace.vector_type())
    excerpts = [text for _, count, _, texts, _ in blocks for text in _texts(texts, count)]
    sketches = [sketch for _, count, _, _, drawn in blocks for sketch in _sketches(drawn, count)]
    rows = np.argsort(sequences % capacity, kind="stable")
    rows = rows[sequences[rows] >= header.solutions_added - capacity]
    return StoredSolutions(
        sequences[rows],
        vectors.reshape(len(sequences), -1)[rows],
        [excerpts[row] for row in rows.tolist()],
        joined_sketches([sketches[row] for row in rows.tolist()]),
    )


def _texts(stored: str | None, count: int) -> list[str]:
    return [""] * count if stored is None else json.loads(stored)


def _sketches(stored: bytes | None, count: int) -> list[bytes | None]:
    """The sketches in a block; those of one of another length count as none."""
    if stored is None or len(stored) != count * SKETCH_BYTES:
        return [None] * count
    split = [stored[start : start + SKETCH_BYTES] for start in range(0, len(stored), SKETCH_BYTES)]
    return [sketch if any(sketch) else None for sketch in split]


def _remember_answer(connection: sqlite3.Connection, namespace: Namespace, given: IdempotentAnswer) -> None:
    try:
        connection.execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)",
            (namespace.id, given.operation, given.key, given.fingerprint, given.answer, time.time()),
        )
    except sqlite3.IntegrityError as error:
        raise Conflict(f"idempotency key {given.key!r} was answered meanwhile") from error
    # A few at a time: the table stays bounded and no write pays for a long clean-up.
    connection.execute(
        "DELETE FROM answers WHERE (namespace, operation, key) IN"
        " (SELECT namespace, operation, key FROM answers WHERE created < ? LIMIT 8)",
        (time.time() - ANSWER_SECONDS,),
    )


def _claim_space(
    connection: sqlite3.Connection, namespace: Namespace, kind: str, space: EmbeddingSpace | None
) -> None:
    """Set the namespace's model and dimension with the first vectors of a kind."""
    if space is None:
        return
    changed = connection.execute(
        f"UPDATE namespaces SET {kind}_model=?, {kind}_dimension=?"
        f" WHERE id=? AND ({kind}_dimension=0 OR ({kind}_model=? AND {kind}_dimension=?))",
        (space.model, space.dimension, namespace.id, space.model, space.dimension),
    ).rowcount
    if not changed:
        raise Conflict(f"namespace {namespace.name!r} was given vectors of another model meanwhile")


def _apply_to_prompts(
    connection: sqlite3.Connection, namespace: Namespace, writes: dict[str, PromptWrite]
) -> dict[str, int]:
    """Write the solutions of all prompts in one statement, and their counters in another."""
    known = _rows_of(connection, namespace, writes)
    for prompt, change in writes.items():
        if known[prompt].header.version != change.version:
            raise Conflict(f"prompt {prompt!r} has changed meanwhile")
    _put_solutions(connection, namespace, known, writes)
    counted = {known[prompt].id: change.answer_counts for prompt, change in writes.items()}
    _put_answer_counts(connection, {id_: counts for id_, counts in counted.items() if counts is not None})
    for prompt, change in writes.items():
        if change.prefixes or change.forgotten or change.outcomes or change.ngrams:
            _apply_the_rest(connection, namespace, known[prompt], change)
    connection.executemany(
        "UPDATE prompts SET version=version+1, solutions_added=solutions_added+?,"
        " prefixes_added=prefixes_added+?, reward_variance=coalesce(?, reward_variance),"
        " answers_stored=coalesce(?, answers_stored) WHERE id=?",
        [
            (
                len(change.solutions.vectors) if change.solutions is not None else 0,
                len(change.prefixes),
                change.reward_variance,
                None if change.answer_counts is None else len(change.answer_counts),
                known[prompt].id,
            )
            for prompt, change in writes.items()
        ],
    )
    return {prompt: change.version + 1 for prompt, change in writes.items()}


def _apply_the_rest(
    connection: sqlite3.Connection, namespace: Namespace, row: _Row, change: PromptWrite
) -> None:
    capacity = namespace.settings.prefix_capacity
    _add_outcomes(connection, row.id, capacity, change.outcomes)
    _put_prefixes(connection, row.id, row.header.prefixes_added, capacity, change.prefixes)
    _forget_prefixes(connection, row.id, capacity, change.forgotten)
    _count_ngrams(connection, row.id, change.ngrams)
    if change.prefixes or change.forgotten:
        connection.execute(
            "UPDATE prompts SET prefixes_stored=(SELECT count(*) FROM prefixes WHERE prompt=?) WHERE id=?",
            (row.id, row.id),
        )


def _rows_of(
    connection: sqlite3.Connection, namespace: Namespace, prompts: Collection[str]
) -> dict[str, _Row]:
    """Rows of the prompts in the table; new ones are inserted."""
    found = _find_rows(connection, namespace, prompts)
    missing = [prompt for prompt in prompts if prompt not in found]
    if missing:
        connection.executemany(
            "INSERT INTO prompts (namespace, prompt) VALUES (?, ?)",
            [(namespace.id, prompt) for prompt in missing],
        )
        found |= _find_rows(connection, namespace, missing)
    return found


def _find_rows(
    connection: sqlite3.Connection, namespace: Namespace, prompts: Collection[str]
) -> dict[str, _Row]:
    rows = connection.execute(
        f"SELECT prompt, id, {HEADER_COLUMNS} FROM prompts WHERE {CHOSEN}", _chosen(namespace, prompts)
    ).fetchall()
    return {prompt: _Row(id_, Header(*counters)) for prompt, id_, *counters in rows}


def _put_solutions(
    connection: sqlite3.Connection,
    namespace: Namespace,
    known: dict[str, _Row],
    writes: dict[str, PromptWrite],
) -> None:
    """Write the solutions of each prompt as a block, over one that its ring no longer needs."""
    new = [
        (known[prompt], change.solutions)
        for prompt, change in writes.items()
        if change.solutions is not None and change.solutions.excerpts
    ]
    capacity = namespace.settings.memory_capacity
    oldest = {row.id: row.header.solutions_added + len(added.excerpts) - capacity for row, added in new}
    unneeded = _unneeded_blocks(connection, oldest)
    over, fresh = [], []
    for row, added in new:
        block, ids = _block(namespace, row.header.solutions_added, added), unneeded.get(row.id)
        over.append((*block, ids.pop())) if ids else fresh.append((row.id, *block))
    connection.executemany(
        "UPDATE solution_blocks SET first=?, count=?, vectors=?, excerpts=?, sketches=? WHERE id=?", over
    )
    _insert_blocks(connection, fresh)
    left = [(id_,) for ids in unneeded.values() for id_ in ids]
    connection.executemany("DELETE FROM solution_blocks WHERE id=?", left)


def _unneeded_blocks(connection: sqlite3.Connection, oldest: dict[int, int]) -> dict[int, list[int]]:
    """Blocks of prompts (by id) of which no solution is as new as the `oldest` that is kept."""
    full = [(prompt, number) for prompt, number in oldest.items() if number > 0]
    # The index holds all that this reads, and of a prompt it reads the oldest blocks only.
    rows = connection.execute(
        "SELECT w.prompt, b.id FROM (SELECT json_extract(value, '$[0]') AS prompt,"
        " json_extract(value, '$[1]') AS oldest FROM json_each(?)) w CROSS JOIN solution_blocks b"
        " ON b.prompt = w.prompt AND b.first < w.oldest AND b.first + b.count <= w.oldest",
        (json.dumps(full),),
    ).fetchall()
    found: dict[int, list[int]] = {}
    for prompt, id_ in rows:
        found.setdefault(prompt, []).append(id_)
    return found


def _insert_blocks(connection: sqlite3.Connection, blocks: list[tuple[Any, ...]]) -> None:
    connection.executemany(
        f"INSERT INTO solution_blocks (prompt, {OF_PROMPTS['solution_blocks']}) VALUES (?, ?, ?, ?, ?, ?)",
        blocks,
    )


def _block(namespace: Namespace, first: int, new: NewSolutions) -> _Block:
    """Solutions as a block, without those that the ring does not hold; the first has this number."""
    start = max(0, len(new.excerpts) - namespace.settings.memory_capacity)
    vectors = np.ascontiguousarray(new.vectors[start:], dtype=namespace.vector_type())
    excerpts, sketches = new.excerpts[start:], None if new.sketches is None else new.sketches[start:]
    return (
        first + start,
        len(excerpts),
        vectors.data,
        json.dumps(excerpts, ensure_ascii=False) if any(excerpts) else None,
        sketches.tobytes() if sketches is not None and sketches.any() else None,
    )


def _prefix_row(prompt: int, sequence: int, capacity: int, prefix: StoredPrefix) -> tuple[Any, ...]:
    tokens, vector = prefix.token_ids.astype("<i4").tobytes(), prefix.vector.astype("<f4").tobytes()
    content = (tokens, prefix.text, prefix.mean_entropy, vector, prefix.rollouts, prefix.successes)
    return (prompt, sequence % capacity, sequence, *content)


def _put_prefixes(
    connection: sqlite3.Connection, prompt: int, added: int, capacity: int, new: list[StoredPrefix]
) -> None:
    connection.executemany(
        f"INSERT OR REPLACE INTO prefixes (prompt, {OF_PROMPTS['prefixes']})"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_prefix_row(prompt, added + i, capacity, prefix) for i, prefix in enumerate(new)],
    )


def _forget_prefixes(
    connection: sqlite3.Connection, prompt: int, capacity: int, sequences: list[int]
) -> None:
    connection.executemany(
        "DELETE FROM prefixes WHERE prompt=? AND slot=? AND sequence=?",
        [(prompt, sequence % capacity, sequence) for sequence in sequences],
    )


def _add_outcomes(
    connection: sqlite3.Connection, prompt: int, capacity: int, outcomes: list[NewOutcome]
) -> None:
    for outcome in outcomes:
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


def _count_ngrams(connection: sqlite3.Connection, prompt: int, counts: dict[bytes, int]) -> None:
    connection.executemany(
        "INSERT INTO ngrams VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count=count+excluded.count",
        [(prompt, ngram, count) for ngram, count in counts.items()],
    )


def _put_answer_counts(connection: sqlite3.Connection, counted: dict[int, AnswerCounts]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO answer_counts (prompt, counts) VALUES (?, ?)",
        [(prompt, json.dumps(counts)) for prompt, counts in counted.items()],
    )


def _insert_record(
    connection: sqlite3.Connection, namespace: Namespace, prompt: int | None, record: PromptRecord
) -> None:
    if record.solutions is not None:
        _insert_blocks(connection, [(prompt, *block) for block in _blocks_of(namespace, record.solutions)])
    connection.executemany(
        f"INSERT INTO prefixes (prompt, {OF_PROMPTS['prefixes']}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            _prefix_row(prompt or 0, p.sequence, namespace.settings.prefix_capacity, p)
            for p in record.prefixes
        ],
    )
    _count_ngrams(connection, prompt or 0, record.ngrams)
    if record.answer_counts:
        _put_answer_counts(connection, {prompt or 0: record.answer_counts})


def _blocks_of(namespace: Namespace, ring: StoredSolutions) -> list[_Block]:
    """A ring as blocks of solutions with consecutive numbers: one, unless there are gaps."""
    order = np.argsort(ring.sequences)
    runs = np.split(order, np.flatnonzero(np.diff(ring.sequences[order]) != 1) + 1)
    return [
        _block(
            namespace,
            int(ring.sequences[run[0]]),
            NewSolutions(
                ring.vectors[run],
                [ring.excerpts[row] for row in run.tolist()],
                None if ring.sketches is None else ring.sketches[run],
            ),
        )
        for run in runs
        if len(run)
    ]
