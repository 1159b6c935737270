"""Exports a namespace as one Parquet file, and imports it.

The file has one row per solution, prefix, n-gram and answer, and one per prompt for its counters. The column
`kind` distinguishes them; columns that a kind does not use are null. All rows of a prompt are in one row
group. The file's metadata (key `extra_rl`) holds settings, embedding spaces and sums. An import is built
under a hidden name and renamed when it is complete, so that nobody sees a namespace half imported. A damaged
file leaves nothing behind.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extra_services.errors import AlreadyExists, InvalidInput, NotFound
from extra_services.memory.memory import Memory, check_name, check_prompt_id
from extra_services.memory.records import (
    SKETCH_BYTES,
    AnswerCounts,
    EmbeddingSpace,
    Header,
    Namespace,
    NamespaceSettings,
    PromptRecord,
    Sizes,
    StoredPrefix,
    StoredSolutions,
    joined_sketches,
    stored_sketch,
)
from extra_services.memory.store import import_name

#: Number of the file's layout, in its metadata. A release that changes it also reads earlier ones. Files of
#: format 1 have no counts of answers, those before format 3 no sketches.
FORMAT = 3
METADATA_KEY = b"extra_rl"
#: Prompts read, written and committed together.
PROMPTS_PER_PAGE = 256
#: How far from 1 the length of a stored vector may be; float16 moves it by 5e-4.
UNIT_TOLERANCE = 2e-3

COLUMNS = {
    "kind": pa.string(),
    "prompt_id": pa.string(),
    "sequence": pa.int64(),
    "vector": pa.list_(pa.float32()),
    "sketch": pa.binary(),
    "text": pa.string(),
    "token_ids": pa.list_(pa.int32()),
    "mean_entropy": pa.float64(),
    "rollouts": pa.int64(),
    "successes": pa.int64(),
    "count": pa.float64(),
    "solutions_added": pa.int64(),
    "prefixes_added": pa.int64(),
    "reward_variance": pa.float64(),
}

Row = dict[str, Any]


def export(memory: Memory, name: str) -> Iterator[bytes]:
    """Yield the file in pieces, one per page of prompts.

    Raises:
        NotFound: There is no such namespace.
    """
    namespace = memory.namespace(name)
    sink = _Sink()
    with pq.ParquetWriter(
        pa.PythonFile(sink, mode="w"), _schema(namespace), write_page_checksum=True
    ) as writer:
        after = ""
        while page := memory.store.page(namespace, after, PROMPTS_PER_PAGE):
            after = page[-1][0]
            records = memory.store.records(namespace, [prompt for prompt, _ in page])
            table = pa.Table.from_pylist([row for record in records for row in _rows(record)], writer.schema)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            yield sink.take()
    yield sink.take()


def import_file(memory: Memory, name: str, path: Path, replace: bool) -> tuple[Namespace, Sizes]:
    """Make a namespace from an exported file; return it and its sizes.

    Raises:
        InvalidInput: The file (field `chunk`) is damaged, or no exported file.
        AlreadyExists: The namespace exists and `replace` is false.
    """
    check_name(name)
    if not replace and _exists(memory, name):
        raise AlreadyExists(f"namespace {name!r} exists: choose another name, or set replace")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            like = _described(file.schema_arrow, name)
            return _import(memory, name, file, like, replace)
    # pyarrow raises OSError for a damaged file.
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput("chunk", f"not a file that ExportNamespace made: {error}") from error


def _import(
    memory: Memory, name: str, file: pq.ParquetFile, like: Namespace, replace: bool
) -> tuple[Namespace, Sizes]:
    hidden = import_name()
    made, _ = memory.store.create_namespace(hidden, like.settings)
    try:
        for number in range(file.num_row_groups):
            records = _records(file.read_row_group(number).to_pylist(), like)
            memory.store.put_records(made, like, records)
        sizes = memory.rename_namespace(hidden, name, replace)
    except BaseException:
        memory.store.delete_namespace(hidden)
        raise
    return memory.namespace(name), sizes


def _exists(memory: Memory, name: str) -> bool:
    try:
        memory.namespace(name)
    except NotFound:
        return False
    return True


class _Sink:
    """A write-only file whose contents are taken out piece by piece."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: `take` empties it."""

    def close(self) -> None:
        """Do nothing: the last pieces are still to be taken."""

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _schema(namespace: Namespace) -> pa.Schema:
    described = {
        "format": FORMAT,
        "settings": namespace.settings.to_stored(),
        "solutions": asdict(namespace.solutions),
        "prefixes": asdict(namespace.prefixes),
        "positive": namespace.positive,
    }
    return pa.schema(COLUMNS, metadata={METADATA_KEY: json.dumps(described)})


def _described(schema: pa.Schema, name: str) -> Namespace:
    described = json.loads((schema.metadata or {})[METADATA_KEY])
    if described["format"] > FORMAT:
        written = described["format"]
        raise InvalidInput(
            "chunk", f"was written by a later release (format {written}; this one reads up to {FORMAT})"
        )
    settings = NamespaceSettings.from_stored(described["settings"])
    settings.check()
    return Namespace(
        0,
        name,
        settings,
        EmbeddingSpace(**described["solutions"]),
        EmbeddingSpace(**described["prefixes"]),
        {metric: (float(total), int(count)) for metric, (total, count) in described["positive"].items()},
    )


def _rows(record: PromptRecord) -> Iterator[Row]:
    header, prompt = record.header, record.prompt
    yield {
        "kind": "prompt",
        "prompt_id": prompt,
        "rollouts": header.unguided_rollouts,
        "successes": header.unguided_successes,
        "solutions_added": header.solutions_added,
        "prefixes_added": header.prefixes_added,
        "reward_variance": header.reward_variance,
    }
    if record.solutions is not None:
        vectors, sketches = record.solutions.vectors.astype(np.float32), record.solutions.sketches
        for i, sequence in enumerate(record.solutions.sequences.tolist()):
            text = record.solutions.excerpts[i]
            yield {
                "kind": "solution",
                "prompt_id": prompt,
                "sequence": sequence,
                "vector": vectors[i],
                "sketch": stored_sketch(sketches, i),
                "text": text,
            }
    for prefix in record.prefixes:
        yield {
            "kind": "prefix",
            "prompt_id": prompt,
            "sequence": prefix.sequence,
            "vector": prefix.vector,
            "text": prefix.text,
            "token_ids": prefix.token_ids,
            "mean_entropy": prefix.mean_entropy,
            "rollouts": prefix.rollouts,
            "successes": prefix.successes,
        }
    for ngram, count in record.ngrams.items():
        ids = np.frombuffer(ngram, dtype="<i4")
        yield {"kind": "ngram", "prompt_id": prompt, "token_ids": ids, "count": count}
    for position, (answer, times) in enumerate(record.answer_counts.items()):
        row = {"kind": "answer", "prompt_id": prompt, "sequence": position, "text": answer}
        yield {**row, "count": times}


def _records(rows: list[Row], like: Namespace) -> list[PromptRecord]:
    by_prompt: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], {}).setdefault(row["kind"], []).append(row)
    return [_record(prompt, kinds, like) for prompt, kinds in by_prompt.items()]


def _record(prompt: str, kinds: dict[str, list[Row]], like: Namespace) -> PromptRecord:
    check_prompt_id(prompt, "chunk")
    (counters,) = kinds["prompt"]
    solutions, prefixes = kinds.get("solution", []), kinds.get("prefix", [])
    answer_counts = _answer_counts(kinds.get("answer", []), like, prompt)
    header = Header(
        1,
        int(counters["solutions_added"]),
        int(counters["prefixes_added"]),
        len(prefixes),
        int(counters["rollouts"]),
        int(counters["successes"]),
        _finite(counters["reward_variance"], prompt),
        len(answer_counts),
    )
    ring = None
    if solutions:
        solutions.sort(key=lambda row: int(row["sequence"]) % like.settings.memory_capacity)
        ring = StoredSolutions(
            np.array([row["sequence"] for row in solutions], dtype=np.int64),
            _vectors(solutions, like.solutions, prompt),
            [row["text"] for row in solutions],
            _sketches(solutions, prompt),
        )
    _check_ring(
        [row["sequence"] for row in solutions], header.solutions_added, like.settings.memory_capacity, prompt
    )
    units = _vectors(prefixes, like.prefixes, prompt)
    stored = [_prefix(row, units[i], prompt) for i, row in enumerate(prefixes)]
    ngrams = {
        np.array(row["token_ids"], dtype="<i4").tobytes(): int(row["count"]) for row in kinds.get("ngram", [])
    }
    return PromptRecord(prompt, header, ring, stored, ngrams, answer_counts)


def _answer_counts(rows: list[Row], like: Namespace, prompt: str) -> AnswerCounts:
    ordered = sorted(rows, key=lambda row: int(row["sequence"]))
    counts = {str(row["text"]): _finite(row["count"], prompt) for row in ordered}
    positive = all(count > 0 for count in counts.values())
    if not positive or not len(rows) == len(counts) <= like.settings.outcome_capacity:
        raise InvalidInput("chunk", f"prompt {prompt!r} has counts of answers that cannot be")
    return counts


def _finite(value: Any, prompt: str) -> float:
    if not math.isfinite(value):
        raise InvalidInput("chunk", f"prompt {prompt!r} has a figure that is not finite")
    return float(value)


def _prefix(row: Row, vector: np.ndarray[Any, np.dtype[np.float32]], prompt: str) -> StoredPrefix:
    return StoredPrefix(
        int(row["sequence"]),
        np.array(row["token_ids"], dtype=np.int32),
        row["text"],
        _finite(row["mean_entropy"], prompt),
        vector,
        int(row["rollouts"]),
        int(row["successes"]),
    )


def _vectors(rows: list[Row], space: EmbeddingSpace, prompt: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    if not rows:
        return np.zeros((0, max(1, space.dimension)), dtype=np.float32)
    vectors = np.array([row["vector"] for row in rows], dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != space.dimension:
        raise InvalidInput(
            "chunk", f"prompt {prompt!r} has vectors that are not of {space.dimension} dimensions"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
    if not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():
        raise InvalidInput("chunk", f"prompt {prompt!r} has a vector that is not of length 1")
    return vectors


def _sketches(rows: list[Row], prompt: str) -> NDArray[np.uint8] | None:
    sketches = [row.get("sketch") for row in rows]
    if any(sketch is not None and len(sketch) != SKETCH_BYTES for sketch in sketches):
        raise InvalidInput("chunk", f"prompt {prompt!r} has a sketch that is not of {SKETCH_BYTES} bytes")
    return joined_sketches(sketches)


def _check_ring(sequences: list[int], added: int, capacity: int, prompt: str) -> None:
    if sorted(sequences) != list(range(max(0, added - capacity), added)):
        raise InvalidInput(
            "chunk", f"prompt {prompt!r} does not hold the last {capacity} of {added} solutions"
        )
