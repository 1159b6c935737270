"""The store that several servers share: Redis, through its own client library.

Any replica serves any prompt. A commit is one Lua script, which Redis runs atomically: it checks that every
prompt still has the version the write was computed from (and that the idempotency key is new), then runs the
commands, or none of them. Replicas notice each other's writes by version, so a stale ring in one replica's
index is read again before it is used.

A prompt is a few hashes: `h` its header, `s`, `e` and `d` vectors, excerpts and sketches of solutions by
slot, `x` and `o` prefixes by slot and their outcomes, `g` counts of n-grams, `a` counts of answers
(one field, for they are read and written together). All keys carry one hash tag, so that they stay
together. A write is acknowledged when Redis has it in its append-only file: the store refuses a server that
does not write one at every change (`appendfsync always`), unless `allow_loss` accepts losing the last writes.

Behind Redis Sentinel the primary is the one that the sentinels name when a connection is made. Redis
replicates after it has answered. So that a failover loses nothing acknowledged, the store waits until
`replicas` have a write before it acknowledges it; otherwise the caller gets an error and sends the write
again under its key. The stored answer to a key, too, is returned only when the replicas have it.
"""

import json
import random
import struct
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import redis
from numpy.typing import NDArray
from redis.sentinel import Sentinel

from extra_services.errors import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from extra_services.memory.records import (
    AnswerCounts,
    Conflict,
    EmbeddingSpace,
    Header,
    IdempotentAnswer,
    Namespace,
    NamespaceSettings,
    PromptRecord,
    PromptWrite,
    Sizes,
    StoredPrefix,
    StoredSolutions,
    Write,
    joined_sketches,
)
from extra_services.memory.store import ANSWER_SECONDS, HIDDEN, import_began

Command = list[Any]

#: Runs commands if hash fields have the expected values ("" for absent); else returns the number of the first
#: that has not. ARGV: number of checks; per check key, field, value; per command its length and its words.
COMMIT = """
local at = 2
for number = 1, tonumber(ARGV[1]) do
  if (redis.call('HGET', ARGV[at], ARGV[at + 1]) or '') ~= ARGV[at + 2] then return number end
  at = at + 3
end
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return 0
"""
#: Copies all keys of a namespace and names the copy; a namespace of that name is replaced. ARGV: keys' root,
#: id of the source, of the copy, name of the copy, whether to replace. 0 if done, 1 if the name is taken.
COPY = """
local names, source, made = ARGV[1] .. ':names', ARGV[1] .. ':n:' .. ARGV[2], ARGV[1] .. ':n:' .. ARGV[3]
local replaced = redis.call('HGET', names, ARGV[4])
if replaced and ARGV[5] == '0' then return 1 end
if replaced then
  redis.call('UNLINK', ARGV[1] .. ':n:' .. replaced)
  redis.call('SADD', ARGV[1] .. ':trash', replaced)
end
local function copy(key) redis.call('COPY', source .. key, made .. key) end
for _, prompt in ipairs(redis.call('ZRANGE', source .. ':prompts', 0, -1)) do
  for kind in ('hsedxoga'):gmatch('.') do copy(':' .. kind .. ':' .. prompt) end
end
copy(':prompts') copy(':answers') copy(':ages') copy('')
redis.call('HSET', made, 'id', ARGV[3], 'name', ARGV[4])
redis.call('HSET', names, ARGV[4], ARGV[3])
return 0
"""
#: Number of the layout of keys and values, kept under `schema`. A release that changes the layout raises it,
#: and reads what earlier ones wrote. Version 1 has no sketches of solutions.
SCHEMA_VERSION = 2
#: The hashes of a prompt.
KINDS = "hsedxoga"
#: Field of the hash `a`: the counts as a JSON object, in order.
COUNTS_FIELD = b"counts"
#: Keys handled in one round trip, and entries written by one command (Lua passes on at most 8000 words).
BATCH = 500
#: Head of a prefix: sequence number, mean entropy, tokens, dimension; then follow tokens, vector and text.
PREFIX_HEAD = struct.Struct("<qdii")
#: Head of a solution, and of its sketch: sequence number; then follows the vector or sketch. A sketch whose
#: number is not that of the solution in its slot is of an earlier solution, and counts as none.
SOLUTION_HEAD = struct.Struct("<q")
#: Seconds in which Redis must be reached, and answer, unless its URL has others: without limits a server
#: would hang when Redis hangs. A copy of a large namespace is one command.
CONNECT_SECONDS, REDIS_SECONDS = 5.0, 120.0
#: Seconds in which the replicas must have a write.
REPLICA_SECONDS = 10.0
#: Random bits in a version: after a failover, lost numbers are given again, and another server may have read
#: what was stored under them.
VERSION_BITS = 20
#: Age in seconds at which a namespace that is still being imported counts as the remains of a killed server.
IMPORT_SECONDS = 24 * 3600
#: Old answers deleted with each new one, so that they stay bounded and no write pays for a long clean-up.
ANSWERS_FORGOTTEN = 8


class RedisStore:
    """A Store in the Redis at `url`, under keys that begin with `prefix`.

    `url` is redis://, rediss:// or unix://, or sentinel://[:PASSWORD@]HOST:PORT,HOST:PORT.../NAME for the
    primary that the sentinels know by NAME. A write is acknowledged once `replicas` replicas have it.
    """

    kind = "redis"
    shared = True

    def __init__(
        self, url: str, prefix: str = "extra-rl", allow_loss: bool = False, replicas: int = 0
    ) -> None:
        """Connect.

        Raises:
            FailedPrecondition: Redis is not durable, and `allow_loss` is false; or a later release wrote the
                store.
            Unavailable: Redis is not reached.
        """
        self._redis: Any = _client(url)
        self._replicas = replicas
        self._root = f"{{{prefix}}}"
        with _reaching():
            if not allow_loss:
                _check_durable(self._redis)
            _check_schema(self._redis, f"{self._root}:schema")
            self._commit_script = self._redis.register_script(COMMIT)
            self._copy_script = self._redis.register_script(COPY)
            self._empty_trash()
        self._forget_imports()

    def create_namespace(self, name: str, settings: NamespaceSettings) -> tuple[Namespace, bool]:
        with _reaching():
            existing = self._lookup(name)
            if existing is not None:
                return existing, False
            id_ = self._next()
            described = {"id": id_, "name": name, "settings": json.dumps(settings.to_stored())}
            commands = [["HSET", self._key(id_), *_flat(described)], ["HSET", self._names, name, id_]]
            if self._run([(self._names, name, "")], commands):
                return self._find(name), False
            return self._find(name), True

    def namespace(self, name: str) -> Namespace:
        with _reaching():
            return self._find(name)

    def namespaces(self) -> list[str]:
        with _reaching():
            names = sorted(name.decode() for name in self._redis.hkeys(self._names))
        return [name for name in names if not name.startswith(HIDDEN)]

    def delete_namespace(self, name: str) -> bool:
        with _reaching():
            id_ = self._redis.hget(self._names, name)
            if id_ is None:
                return False
            commands = [["HDEL", self._names, name], *self._discard(int(id_))]
            if self._run([(self._names, name, id_.decode())], commands):
                return False
            self._empty_trash()
            return True

    def copy_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        with _reaching():
            original = self._find(source)
            if source == destination:
                return self._sizes(original)
            words: Command = [self._root, original.id, self._next(), destination, int(replace)]
            if self._copy_script(args=words):
                raise AlreadyExists(f"namespace {destination!r} exists: choose another name, or set replace")
            self._replicate()
            self._empty_trash()
            return self._sizes(self._find(destination))

    def rename_namespace(self, source: str, destination: str, replace: bool) -> Sizes:
        with _reaching():
            namespace = self._find(source)
            replaced = self._redis.hget(self._names, destination)
            if replaced is not None and not replace:
                raise AlreadyExists(f"namespace {destination!r} exists: choose another name, or set replace")
            commands: list[Command] = [
                ["HSET", self._key(namespace.id), "name", destination],
                ["HDEL", self._names, source],
                ["HSET", self._names, destination, namespace.id],
            ]
            if replaced is not None:
                commands += self._discard(int(replaced))
            checks = [
                (self._names, source, str(namespace.id)),
                (self._names, destination, replaced.decode() if replaced else ""),
            ]
            if self._run(checks, commands):
                raise Unavailable(
                    f"namespace {destination!r} was changed by another server meanwhile; try again"
                )
            self._empty_trash()
            return self._sizes(namespace)

    def sizes(self, namespace: Namespace) -> Sizes:
        with _reaching():
            return self._sizes(namespace)

    def answer(self, namespace: Namespace, operation: str, key: str) -> IdempotentAnswer | None:
        with _reaching():
            stored = self._redis.hget(self._key(namespace.id, "answers"), _answer_field(operation, key))
            if stored is not None:
                self._replicate()
        return None if stored is None else IdempotentAnswer(operation, key, *json.loads(stored))

    def headers(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, Header]:
        with _reaching():
            found = self._hashes(namespace, prompts, "h")
        return {prompt: _header(stored) for prompt, (stored,) in found.items()}

    def solutions(
        self, namespace: Namespace, prompts: Collection[str]
    ) -> dict[str, tuple[Header, StoredSolutions | None]]:
        with _reaching():
            found = self._hashes(namespace, prompts, "hsed")
        return {
            prompt: (_header(header), _ring(solutions, excerpts, sketches, namespace))
            for prompt, (header, solutions, excerpts, sketches) in found.items()
        }

    def prefixes(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, list[StoredPrefix]]:
        with _reaching():
            found = self._hashes(namespace, prompts, "xo")
        return {prompt: _prefixes(stored, outcomes) for prompt, (stored, outcomes) in found.items()}

    def ngram_counts(
        self, namespace: Namespace, wanted: Mapping[str, Collection[bytes]]
    ) -> dict[str, dict[bytes, int]]:
        asked = {prompt: list(ngrams) for prompt, ngrams in wanted.items() if ngrams}
        with _reaching(), self._redis.pipeline(transaction=False) as pipeline:
            for prompt, ngrams in asked.items():
                pipeline.hmget(self._key(namespace.id, "g", prompt), ngrams)
            answers = pipeline.execute()
        found: dict[str, dict[bytes, int]] = {prompt: {} for prompt in wanted}
        for (prompt, ngrams), counts in zip(asked.items(), answers, strict=True):
            found[prompt] = {g: int(c) for g, c in zip(ngrams, counts, strict=True) if c is not None}
        return found

    def answer_counts(self, namespace: Namespace, prompts: Collection[str]) -> dict[str, AnswerCounts]:
        with _reaching():
            found = self._hashes(namespace, prompts, "a")
        return {prompt: _answer_counts(stored) for prompt, (stored,) in found.items()}

    def excerpts(
        self, namespace: Namespace, wanted: Collection[tuple[str, int]]
    ) -> dict[tuple[str, int], str]:
        prompts = dict.fromkeys(prompt for prompt, _ in wanted)
        with _reaching():
            found = self._hashes(namespace, prompts, "se")
        capacity = namespace.settings.memory_capacity
        result = {}
        for prompt, sequence in wanted:
            slot = str(sequence % capacity).encode()
            solutions, excerpts = found[prompt]
            if slot in solutions and SOLUTION_HEAD.unpack_from(solutions[slot]) == (sequence,):
                result[prompt, sequence] = excerpts.get(slot, b"").decode()
        return result

    def page(self, namespace: Namespace, after: str, limit: int) -> list[tuple[str, Header]]:
        start = b"(" + after.encode() if after else b"-"
        with _reaching():
            names = self._redis.zrange(
                self._key(namespace.id, "prompts"), start, b"+", bylex=True, offset=0, num=limit
            )
            prompts = [name.decode() for name in names]
            found = self._hashes(namespace, prompts, "h")
        return [(prompt, _header(found[prompt][0])) for prompt in prompts]

    def records(self, namespace: Namespace, prompts: Collection[str]) -> list[PromptRecord]:
        with _reaching():
            found = self._hashes(namespace, prompts, KINDS)
        return [
            PromptRecord(
                prompt,
                _header(header),
                _ring(solutions, excerpts, sketches, namespace),
                _prefixes(stored, outcomes),
                {ngram: int(count) for ngram, count in ngrams.items()},
                _answer_counts(counted),
            )
            for prompt, (
                header,
                solutions,
                excerpts,
                sketches,
                stored,
                outcomes,
                ngrams,
                counted,
            ) in found.items()
            if header
        ]

    def put_records(self, namespace: Namespace, like: Namespace, records: list[PromptRecord]) -> None:
        described = {
            **_space_fields("solutions", like.solutions),
            **_space_fields("prefixes", like.prefixes),
            **{f"positive_sum:{metric}": total for metric, (total, _) in like.positive.items()},
            **{f"positive_count:{metric}": count for metric, (_, count) in like.positive.items()},
        }
        commands: list[Command] = [["HSET", self._key(namespace.id), *_flat(described)]]
        with _reaching():
            version = self._next() << VERSION_BITS | random.getrandbits(VERSION_BITS)
            for record in records:
                commands += self._record_commands(namespace, record, version)
            self._run([], commands)

    def delete_prompts(self, namespace: Namespace, prompts: Collection[str]) -> list[str]:
        with _reaching():
            found = self._hashes(namespace, prompts, "h")
            existing = [prompt for prompt, (header,) in found.items() if header]
            commands: list[Command] = []
            for prompt in existing:
                commands.append(["ZREM", self._key(namespace.id, "prompts"), prompt])
                commands.append(["UNLINK", *(self._key(namespace.id, kind, prompt) for kind in KINDS)])
            self._run([], commands)
        return existing

    def commit(self, namespace: Namespace, write: Write) -> dict[str, int]:
        with _reaching():
            headers = {
                prompt: _header(header)
                for prompt, (header,) in self._hashes(namespace, write.prompts, "h").items()
            }
            version = self._next() << VERSION_BITS | random.getrandbits(VERSION_BITS)
            checks = [(self._key(namespace.id), "id", str(namespace.id))]
            commands: list[Command] = []
            self._add_answer(namespace, write.answer, checks, commands)
            self._claim_space(namespace, "solutions", write.solutions, checks, commands)
            self._claim_space(namespace, "prefixes", write.prefixes, checks, commands)
            for metric, (total, count) in write.positive.items():
                commands.append(["HINCRBYFLOAT", self._key(namespace.id), f"positive_sum:{metric}", total])
                commands.append(["HINCRBY", self._key(namespace.id), f"positive_count:{metric}", count])
            for prompt, change in write.prompts.items():
                expected = str(change.version) if change.version else ""
                checks.append((self._key(namespace.id, "h", prompt), "version", expected))
                commands += self._prompt_commands(namespace, prompt, headers[prompt], change, version)
            failed = self._run(checks, commands)
        if failed == 1:
            raise NotFound(f"namespace {namespace.name!r} was deleted or replaced during the call")
        if failed:
            raise Conflict("a prompt, the idempotency key or the namespace's model has changed meanwhile")
        return dict.fromkeys(write.prompts, version)

    def _forget_imports(self) -> None:
        """Delete the remains of killed imports; one that another replica runs now is younger."""
        with _reaching():
            names = [name.decode() for name in self._redis.hkeys(self._names)]
        for name in names:
            if name.startswith(HIDDEN) and import_began(name) < time.time() - IMPORT_SECONDS:
                self.delete_namespace(name)

    def close(self) -> None:
        self._redis.close()

    @property
    def _names(self) -> str:
        return f"{self._root}:names"

    def _key(self, id_: int, *parts: str) -> str:
        return ":".join((self._root, "n", str(id_), *parts))

    def _next(self) -> int:
        """A new unique number: an id, or a version."""
        return int(self._redis.incr(f"{self._root}:next"))

    def _run(self, checks: list[tuple[str, str, str]], commands: list[Command]) -> int:
        """Run the commands; return 0, or the number, from 1, of the check that failed."""
        words: Command = [len(checks)]
        for check in checks:
            words += check
        for command in commands:
            words += [len(command), *command]
        failed = int(self._commit_script(args=words))
        if not failed:
            self._replicate()
        return failed

    def _replicate(self) -> None:
        """Wait until the replicas have everything written so far; raise Unavailable if they do not get it."""
        if not self._replicas:
            return
        with self._redis.pipeline(transaction=False) as pipeline:
            # WAIT covers the writes of its own connection only; this write comes after all others.
            pipeline.incr(f"{self._root}:replicated")
            pipeline.wait(self._replicas, int(REPLICA_SECONDS * 1000))
            _, reached = pipeline.execute()
        if reached < self._replicas:
            raise Unavailable(
                f"Redis has the write, but {reached} of its replicas, not redis_replicas={self._replicas}:"
                " send it again, under the same idempotency key; see whether the replicas run"
            )

    def _lookup(self, name: str) -> Namespace | None:
        id_ = self._redis.hget(self._names, name)
        stored = self._redis.hgetall(self._key(int(id_))) if id_ is not None else {}
        return _namespace({key.decode(): value for key, value in stored.items()}) if stored else None

    def _find(self, name: str) -> Namespace:
        namespace = self._lookup(name)
        if namespace is None:
            raise NotFound(f"there is no namespace {name!r}: create it first, or correct the name")
        return namespace

    def _hashes(
        self, namespace: Namespace, prompts: Collection[str], kinds: str
    ) -> dict[str, list[dict[bytes, bytes]]]:
        """Hashes of these kinds of each prompt; those of one prompt as of one moment."""
        found: dict[str, list[dict[bytes, bytes]]] = {}
        for some in _batches(prompts):
            with self._redis.pipeline(transaction=True) as pipeline:
                for prompt in some:
                    for kind in kinds:
                        pipeline.hgetall(self._key(namespace.id, kind, prompt))
                answers = pipeline.execute()
            for i, prompt in enumerate(some):
                found[prompt] = answers[i * len(kinds) : (i + 1) * len(kinds)]
        return found

    def _sizes(self, namespace: Namespace) -> Sizes:
        prompts = solutions = prefixes = answers = 0
        counters = ("solutions_added", "prefixes_stored", "answers_stored")
        names = self._redis.zrange(self._key(namespace.id, "prompts"), 0, -1)
        for some in _batches([name.decode() for name in names]):
            with self._redis.pipeline(transaction=False) as pipeline:
                for prompt in some:
                    pipeline.hmget(self._key(namespace.id, "h", prompt), *counters)
                for added, stored, counted in pipeline.execute():
                    count = min(int(added or 0), namespace.settings.memory_capacity)
                    prompts, solutions = prompts + (count > 0), solutions + count
                    prefixes, answers = prefixes + int(stored or 0), answers + int(counted or 0)
        return Sizes(prompts, solutions, prefixes, answers)

    def _discard(self, id_: int) -> list[Command]:
        """Commands that delete the namespace's own key; `_empty_trash` deletes those of its prompts."""
        return [["UNLINK", self._key(id_)], ["SADD", f"{self._root}:trash", id_]]

    def _empty_trash(self) -> None:
        for member in self._redis.smembers(f"{self._root}:trash"):
            id_ = int(member)
            while names := self._redis.zrange(self._key(id_, "prompts"), 0, BATCH - 1):
                keys = [self._key(id_, kind, name.decode()) for name in names for kind in KINDS]
                self._redis.unlink(*keys)
                self._redis.zrem(self._key(id_, "prompts"), *names)
            self._redis.unlink(self._key(id_, "answers"), self._key(id_, "ages"))
            self._redis.srem(f"{self._root}:trash", id_)

    def _add_answer(
        self,
        namespace: Namespace,
        given: IdempotentAnswer | None,
        checks: list[tuple[str, str, str]],
        commands: list[Command],
    ) -> None:
        if given is None:
            return
        field = _answer_field(given.operation, given.key)
        answers, ages = self._key(namespace.id, "answers"), self._key(namespace.id, "ages")
        checks.append((answers, field, ""))
        now = time.time()
        old = self._redis.zrangebyscore(ages, "-inf", now - ANSWER_SECONDS, start=0, num=ANSWERS_FORGOTTEN)
        if old:
            commands += [["HDEL", answers, *old], ["ZREM", ages, *old]]
        commands.append(["HSET", answers, field, json.dumps([given.fingerprint, given.answer])])
        commands.append(["ZADD", ages, now, field])

    def _claim_space(
        self,
        namespace: Namespace,
        kind: str,
        space: EmbeddingSpace | None,
        checks: list[tuple[str, str, str]],
        commands: list[Command],
    ) -> None:
        """Set the namespace's model and dimension with the first vectors of a kind."""
        if space is None:
            return
        key, wanted = self._key(namespace.id), _space_fields(kind, space)
        model, dimension = self._redis.hmget(key, list(wanted))
        if model is not None and (model.decode(), int(dimension)) != (space.model, space.dimension):
            raise Conflict(f"namespace {namespace.name!r} was given vectors of another model meanwhile")
        checks.append((key, f"{kind}_model", model.decode() if model is not None else ""))
        commands.append(["HSET", key, *_flat(wanted)])

    def _prompt_commands(
        self, namespace: Namespace, prompt: str, header: Header, change: PromptWrite, version: int
    ) -> Iterator[Command]:
        key = self._key(namespace.id, "h", prompt)
        yield ["ZADD", self._key(namespace.id, "prompts"), 0, prompt]
        yield ["HSET", key, "version", version]
        if change.solutions is not None:
            count, new = len(change.solutions.vectors), change.solutions
            first = max(0, count - namespace.settings.memory_capacity)
            sequences = np.arange(header.solutions_added + first, header.solutions_added + count)
            sketches = None if new.sketches is None else new.sketches[first:]
            ring = StoredSolutions(sequences, new.vectors[first:], new.excerpts[first:], sketches)
            yield from self._put_solutions(namespace, prompt, ring)
            yield ["HINCRBY", key, "solutions_added", count]
        if change.prefixes or change.forgotten:
            yield from self._change_prefixes(namespace, prompt, header, change)
        for outcome in change.outcomes:
            names = ("rollouts", "successes")
            for name, number in zip(names, (outcome.rollouts, outcome.successes), strict=True):
                if outcome.sequence is None:
                    yield ["HINCRBY", key, f"unguided_{name}", number]
                else:
                    outcomes = self._key(namespace.id, "o", prompt)
                    yield ["HINCRBY", outcomes, f"{outcome.sequence}:{name}", number]
        for ngram, number in change.ngrams.items():
            yield ["HINCRBY", self._key(namespace.id, "g", prompt), ngram, number]
        if change.reward_variance is not None:
            yield ["HSET", key, "reward_variance", repr(change.reward_variance)]
        if change.answer_counts is not None:
            yield self._put_answer_counts(namespace, prompt, change.answer_counts)
            yield ["HSET", key, "answers_stored", len(change.answer_counts)]

    def _put_answer_counts(self, namespace: Namespace, prompt: str, counts: AnswerCounts) -> Command:
        return ["HSET", self._key(namespace.id, "a", prompt), COUNTS_FIELD, json.dumps(counts)]

    def _put_solutions(self, namespace: Namespace, prompt: str, new: StoredSolutions) -> Iterator[Command]:
        capacity = namespace.settings.memory_capacity
        rows = np.ascontiguousarray(new.vectors, dtype=namespace.vector_type())
        entries = list(zip(rows, new.sequences.tolist(), new.excerpts, strict=True))
        for start in range(0, len(entries), BATCH):
            solutions: Command = ["HSET", self._key(namespace.id, "s", prompt)]
            texts: Command = ["HSET", self._key(namespace.id, "e", prompt)]
            for row, sequence, excerpt in entries[start : start + BATCH]:
                solutions += [sequence % capacity, SOLUTION_HEAD.pack(sequence) + row.tobytes()]
                texts += [sequence % capacity, excerpt]
            yield from (solutions, texts)
        if new.sketches is not None:
            yield from self._put_sketches(namespace, prompt, new.sequences.tolist(), new.sketches)

    def _put_sketches(
        self, namespace: Namespace, prompt: str, sequences: list[int], sketches: NDArray[np.uint8]
    ) -> Iterator[Command]:
        capacity = namespace.settings.memory_capacity
        key = self._key(namespace.id, "d", prompt)
        rows = np.flatnonzero(sketches.any(axis=1)).tolist()
        for some in (rows[start : start + BATCH] for start in range(0, len(rows), BATCH)):
            command: Command = ["HSET", key]
            for row in some:
                packed = SOLUTION_HEAD.pack(sequences[row]) + sketches[row].tobytes()
                command += [sequences[row] % capacity, packed]
            yield command

    def _change_prefixes(
        self, namespace: Namespace, prompt: str, header: Header, change: PromptWrite
    ) -> Iterator[Command]:
        capacity = namespace.settings.prefix_capacity
        stored, outcomes = self._key(namespace.id, "x", prompt), self._key(namespace.id, "o", prompt)
        # The version check ensures that these slots have not changed meanwhile.
        slots = {int(slot) for slot in self._redis.hkeys(stored)}
        for i, prefix in enumerate(change.prefixes):
            sequence = header.prefixes_added + i
            yield ["HDEL", outcomes, *_outcome_fields(sequence - capacity)]
            yield ["HSET", stored, sequence % capacity, _pack_prefix(sequence, prefix)]
            slots.add(sequence % capacity)
        added = header.prefixes_added + len(change.prefixes)
        # Older ones are overwritten by others in their slots.
        for sequence in (s for s in change.forgotten if s >= added - capacity):
            yield ["HDEL", stored, sequence % capacity]
            yield ["HDEL", outcomes, *_outcome_fields(sequence)]
            slots.discard(sequence % capacity)
        key = self._key(namespace.id, "h", prompt)
        yield ["HSET", key, "prefixes_added", added, "prefixes_stored", len(slots)]

    def _record_commands(self, namespace: Namespace, record: PromptRecord, version: int) -> Iterator[Command]:
        prompt, header = record.prompt, {**asdict(record.header), "version": version}
        yield ["ZADD", self._key(namespace.id, "prompts"), 0, prompt]
        yield ["HSET", self._key(namespace.id, "h", prompt), *_flat(header)]
        if record.solutions is not None:
            yield from self._put_solutions(namespace, prompt, record.solutions)
        capacity, outcomes = namespace.settings.prefix_capacity, self._key(namespace.id, "o", prompt)
        for prefix in record.prefixes:
            packed = _pack_prefix(prefix.sequence, prefix)
            yield ["HSET", self._key(namespace.id, "x", prompt), prefix.sequence % capacity, packed]
            rollouts, successes = _outcome_fields(prefix.sequence)
            yield ["HSET", outcomes, rollouts, prefix.rollouts, successes, prefix.successes]
        for ngram, count in record.ngrams.items():
            yield ["HSET", self._key(namespace.id, "g", prompt), ngram, count]
        if record.answer_counts:
            yield self._put_answer_counts(namespace, prompt, record.answer_counts)


def _client(url: str) -> Any:
    limits = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": REDIS_SECONDS}
    if not url.startswith("sentinel://"):
        return redis.Redis.from_url(url, **limits)
    parts = urlsplit(url)
    name = parts.path.strip("/")
    addresses = [entry.rpartition(":") for entry in parts.netloc.rpartition("@")[2].split(",")]
    if not name or not all(host and port.isdigit() for host, _, port in addresses):
        raise FailedPrecondition(
            "redis_url must be sentinel://HOST:PORT,HOST:PORT/NAME, with the NAME the sentinels watch it by"
        )
    sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
        [(host, int(port)) for host, _, port in addresses],
        sentinel_kwargs=dict.fromkeys(limits, CONNECT_SECONDS),
    )
    password = unquote(parts.password) if parts.password else None
    return sentinels.master_for(name, password=password, **limits)


@contextmanager
def _reaching() -> Iterator[None]:
    """Turn Redis errors into ours; a write that was not acknowledged may or may not be stored."""
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable(f"the memory's Redis does not serve: {error}") from error


def _check_schema(connection: Any, key: str) -> None:
    """Write the schema's number into a store that is new or of an earlier release; refuse a later one's.

    Raises:
        FailedPrecondition: A later release has written the store.
    """
    found = int(connection.get(key) or 0)
    if found < SCHEMA_VERSION:
        connection.set(key, SCHEMA_VERSION)
    if found > SCHEMA_VERSION:
        raise FailedPrecondition(
            f"the store in Redis was written by a later release (schema {found}; this one reads up to "
            f"{SCHEMA_VERSION}): use that release, or another redis_prefix"
        )


def _check_durable(client: Any) -> None:
    try:
        config = client.config_get("append*")
    except redis.ResponseError as error:
        raise FailedPrecondition(
            f"cannot see whether Redis is durable ({error}); if it is, set redis_allow_loss to true"
        ) from error
    if config.get("appendonly") != "yes" or config.get("appendfsync") != "always":
        raise FailedPrecondition(
            "Redis would lose acknowledged writes: start it with --appendonly yes --appendfsync always, or"
            " set redis_allow_loss to true if that is acceptable"
        )


def _batches(prompts: Collection[str]) -> Iterator[list[str]]:
    every = list(prompts)
    return (every[start : start + BATCH] for start in range(0, len(every), BATCH))


def _flat(described: Mapping[str, Any]) -> Command:
    words: Command = []
    for name, value in described.items():
        words += [name, repr(value) if isinstance(value, float) else value]
    return words


def _space_fields(kind: str, space: EmbeddingSpace) -> dict[str, Any]:
    return {f"{kind}_model": space.model, f"{kind}_dimension": space.dimension}


def _answer_field(operation: str, key: str) -> str:
    return f"{operation}/{key}"


def _outcome_fields(sequence: int) -> tuple[str, str]:
    return f"{sequence}:rollouts", f"{sequence}:successes"


def _namespace(stored: dict[str, bytes]) -> Namespace:
    def space(kind: str) -> EmbeddingSpace:
        model, dimension = stored.get(f"{kind}_model", b""), stored.get(f"{kind}_dimension", b"0")
        return EmbeddingSpace(model.decode(), int(dimension))

    head = "positive_count:"
    metrics = [name.removeprefix(head) for name in stored if name.startswith(head)]
    return Namespace(
        int(stored["id"]),
        stored["name"].decode(),
        NamespaceSettings.from_stored(json.loads(stored["settings"])),
        space("solutions"),
        space("prefixes"),
        {m: (float(stored[f"positive_sum:{m}"]), int(stored[f"positive_count:{m}"])) for m in metrics},
    )


def _header(stored: dict[bytes, bytes]) -> Header:
    kinds: dict[str, Any] = {entry.name: entry.type for entry in fields(Header)}
    return Header(**{name.decode(): kinds[name.decode()](value) for name, value in stored.items()})


def _answer_counts(stored: dict[bytes, bytes]) -> AnswerCounts:
    counts: AnswerCounts = json.loads(stored.get(COUNTS_FIELD, b"{}"))
    return counts


def _ring(
    solutions: dict[bytes, bytes],
    excerpts: dict[bytes, bytes],
    sketches: dict[bytes, bytes],
    namespace: Namespace,
) -> StoredSolutions | None:
    if not solutions:
        return None
    slots = sorted(solutions, key=int)
    head = SOLUTION_HEAD.size
    vectors = np.frombuffer(b"".join(solutions[slot][head:] for slot in slots), dtype=namespace.vector_type())
    sequences = np.array([SOLUTION_HEAD.unpack_from(solutions[slot])[0] for slot in slots], dtype=np.int64)
    texts = [excerpts.get(slot, b"").decode() for slot in slots]
    found = [_sketch(sketches.get(slot), solutions[slot]) for slot in slots]
    return StoredSolutions(sequences, vectors.reshape(len(slots), -1), texts, joined_sketches(found))


def _sketch(packed: bytes | None, solution: bytes) -> bytes | None:
    """The sketch of a solution, unless what is in its slot is that of an earlier one."""
    head = SOLUTION_HEAD.size
    return packed[head:] if packed is not None and packed[:head] == solution[:head] else None


def _pack_prefix(sequence: int, prefix: StoredPrefix) -> bytes:
    head = PREFIX_HEAD.pack(sequence, prefix.mean_entropy, len(prefix.token_ids), len(prefix.vector))
    tokens, vector = prefix.token_ids.astype("<i4").tobytes(), prefix.vector.astype("<f4").tobytes()
    return head + tokens + vector + prefix.text.encode()


def _prefixes(stored: dict[bytes, bytes], outcomes: dict[bytes, bytes]) -> list[StoredPrefix]:
    found = [_unpack_prefix(packed, outcomes) for packed in stored.values()]
    return sorted(found, key=lambda prefix: prefix.sequence)


def _unpack_prefix(packed: bytes, outcomes: dict[bytes, bytes]) -> StoredPrefix:
    sequence, entropy, tokens, dimension = PREFIX_HEAD.unpack_from(packed)
    at = PREFIX_HEAD.size
    ids = np.frombuffer(packed, dtype="<i4", count=tokens, offset=at)
    vector = np.frombuffer(packed, dtype="<f4", count=dimension, offset=at + 4 * tokens)
    text = packed[at + 4 * (tokens + dimension) :].decode()
    rollouts, successes = (int(outcomes.get(name.encode(), b"0")) for name in _outcome_fields(sequence))
    return StoredPrefix(sequence, ids, text, entropy, vector, rollouts, successes)
