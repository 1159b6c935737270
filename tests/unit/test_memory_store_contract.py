"""The contract of the stores, checked on SQLite and on a real Redis."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extra_services.errors import AlreadyExists, FailedPrecondition, NotFound
from extra_services.memory.records import (
    SKETCH_BYTES,
    Conflict,
    EmbeddingSpace,
    IdempotentAnswer,
    Namespace,
    NamespaceSettings,
    NewOutcome,
    NewSolutions,
    PromptWrite,
    StoredPrefix,
    Write,
)
from extra_services.memory.redis_store import RedisStore
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.memory.store import Store, import_name
from support.memory_stores import STORES, RedisServer, open_store, redis_server

SPACE = EmbeddingSpace("model", 4)
SETTINGS = NamespaceSettings(memory_capacity=3, prefix_capacity=2, ngram_size=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=STORES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Opens the store; called again, it opens what the first left behind."""
    server = request.getfixturevalue("server") if request.param == "redis" else None
    stores: list[Store] = []

    def open_again() -> Store:
        if stores:
            stores.pop().close()
        stores.append(open_store(request.param, tmp_path, server, request.node.name))
        return stores[0]

    yield open_again
    stores[0].close()


def _vectors(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _prefix(tokens: list[int]) -> StoredPrefix:
    return StoredPrefix(0, np.array(tokens, dtype=np.int32), f"text {tokens}", 0.5, _vectors(1)[0])


def _solutions(version: int, vectors: np.ndarray) -> Write:
    texts = [f"excerpt {i}" for i in range(len(vectors))]
    return Write({"q": PromptWrite(version, NewSolutions(vectors, texts))}, solutions=SPACE)


def _made(store: Store) -> Namespace:
    return store.create_namespace("n", SETTINGS)[0]


def test_a_ring_holds_the_last_solutions_in_their_slots_after_opening_again(
    opened: Callable[[], Store],
) -> None:
    store = opened()
    namespace = _made(store)
    version = store.commit(namespace, _solutions(0, _vectors(2, 1)))["q"]
    store.commit(namespace, _solutions(version, _vectors(3, 2)))
    store = opened()
    namespace = store.namespace("n")
    assert namespace.solutions == SPACE
    header, ring = store.solutions(namespace, ["q"])["q"]
    assert ring is not None
    assert (header.solutions_added, ring.sequences.tolist()) == (5, [3, 4, 2])
    np.testing.assert_array_equal(ring.vectors, np.concatenate([_vectors(2, 1), _vectors(3, 2)])[[3, 4, 2]])
    assert store.excerpts(namespace, [("q", 4), ("q", 1), ("other", 0)]) == {("q", 4): "excerpt 2"}
    assert store.sizes(namespace).solutions == 3


def test_sketches_lie_in_the_slots_of_their_solutions_and_leave_with_them(
    opened: Callable[[], Store],
) -> None:
    store = opened()
    namespace = _made(store)
    sketches = np.outer(np.arange(1, 6), np.ones(SKETCH_BYTES)).astype(np.uint8)
    version = 0
    # The last two overwrite the first two; the very last has no sketch.
    for part in (slice(0, 2), slice(2, 4)):
        new = NewSolutions(_vectors(2), ["a", "b"], sketches[part])
        version = store.commit(namespace, Write({"q": PromptWrite(version, new)}, solutions=SPACE))["q"]
    store.commit(namespace, _solutions(version, _vectors(1)))
    store.copy_namespace("n", "copy", replace=False)
    store = opened()
    expected = np.stack([sketches[3], np.zeros(SKETCH_BYTES, np.uint8), sketches[2]])
    for name in ("n", "copy"):
        header, ring = store.solutions(store.namespace(name), ["q"])["q"]
        assert ring is not None
        assert (header.solutions_added, ring.sequences.tolist()) == (5, [3, 4, 2])
        np.testing.assert_array_equal(ring.sketches, expected)
    assert store.delete_prompts(namespace, ["q"]) == ["q"]
    store.commit(namespace, _solutions(0, _vectors(3)))
    _, ring = store.solutions(namespace, ["q"])["q"]
    assert ring is not None
    assert ring.sketches is None


def test_a_ring_far_larger_than_usual_is_written_in_one_commit(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace, _ = store.create_namespace("large", NamespaceSettings(memory_capacity=10_000))
    sketches = np.random.default_rng(0).integers(1, 255, (9000, SKETCH_BYTES), dtype=np.uint8)
    new = NewSolutions(_vectors(9000), ["excerpt"] * 9000, sketches)
    store.commit(namespace, Write({"q": PromptWrite(0, new)}, solutions=SPACE))
    header, ring = store.solutions(namespace, ["q"])["q"]
    assert ring is not None
    assert (header.solutions_added, len(ring.sequences)) == (9000, 9000)
    np.testing.assert_array_equal(ring.vectors, _vectors(9000))
    np.testing.assert_array_equal(ring.sketches, sketches)


def test_writes_of_any_size_leave_the_last_solutions_and_take_no_more_room(
    opened: Callable[[], Store], tmp_path: Path
) -> None:
    store, written, version = opened(), np.zeros((0, 4), dtype=np.float32), 0
    namespace, _ = store.create_namespace("n", NamespaceSettings(memory_capacity=5))
    for seed, count in enumerate([2, 4, 1, 1, 7, 3, 5, 1, 2, 6, 1, 1, 1, 1, 1, 1]):
        version = store.commit(namespace, _solutions(version, _vectors(count, seed)))["q"]
        written = np.concatenate([written, _vectors(count, seed)])
        _, ring = store.solutions(namespace, ["q"])["q"]
        assert ring is not None
        assert sorted(ring.sequences.tolist()) == list(range(max(0, len(written) - 5), len(written)))
        assert (ring.sequences % 5).tolist() == list(range(len(ring.sequences)))
        np.testing.assert_array_equal(ring.vectors, written[ring.sequences])
    if store.kind == "sqlite":
        with closing(sqlite3.connect(next(tmp_path.rglob("memory.sqlite")))) as connection:
            (kept,) = connection.execute("SELECT sum(count) FROM solution_blocks").fetchone()
        assert kept == 5


def test_a_read_that_fails_leaves_no_old_state_to_the_next(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    namespace = _made(store)
    store.commit(namespace, Write({"q": PromptWrite(0, prefixes=[_prefix([1])])}, prefixes=SPACE))
    # SQLite reads the id up to its NUL, and so finds a prompt that was not asked for.
    with pytest.raises(KeyError) as kept:
        store.prefixes(namespace, ["q\0r"])
    store.commit(namespace, _solutions(1, _vectors(1)))
    assert store.headers(namespace, ["q"])["q"].solutions_added == 1
    assert kept.tb is not None
    store.close()


def test_a_write_computed_from_an_old_version_changes_nothing(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace = _made(store)
    store.commit(namespace, _solutions(0, _vectors(1)))
    answer = IdempotentAnswer("score", "key", "f", "answer")
    with pytest.raises(Conflict):
        store.commit(namespace, replace(_solutions(0, _vectors(1, 5)), answer=answer))
    assert store.headers(namespace, ["q"])["q"].solutions_added == 1
    assert store.answer(namespace, "score", "key") is None


def test_a_prompt_deleted_and_made_again_is_another_version(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace = _made(store)
    store.commit(namespace, _solutions(0, _vectors(1)))
    assert store.delete_prompts(namespace, ["q", "other"]) == ["q"]
    assert store.headers(namespace, ["q"])["q"].solutions_added == 0
    assert store.solutions(namespace, ["q"])["q"][1] is None
    store.commit(namespace, _solutions(0, _vectors(2)))
    assert store.sizes(namespace).solutions == 2


def test_an_answered_key_is_kept_and_cannot_be_answered_again(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace = _made(store)
    answer = IdempotentAnswer("score", "key", "fingerprint", "first")
    version = store.commit(namespace, replace(_solutions(0, _vectors(1)), answer=answer))["q"]
    store = opened()
    assert store.answer(namespace, "score", "key") == answer
    assert store.answer(namespace, "other operation", "key") is None
    with pytest.raises(Conflict):
        store.commit(namespace, replace(_solutions(version, _vectors(1)), answer=answer))
    assert store.sizes(namespace).solutions == 1


def test_vectors_of_another_space_are_not_taken(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace = _made(store)
    version = store.commit(namespace, _solutions(0, _vectors(1)))["q"]
    other = EmbeddingSpace("other", 4)
    with pytest.raises(Conflict):
        store.commit(store.namespace("n"), replace(_solutions(version, _vectors(1)), solutions=other))


def test_prefixes_keep_their_outcomes_until_they_leave(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace = _made(store)

    def commit(change: PromptWrite) -> None:
        version = store.headers(namespace, ["q"])["q"].version
        store.commit(namespace, Write({"q": replace(change, version=version)}, prefixes=SPACE))

    commit(PromptWrite(0, prefixes=[_prefix([1]), _prefix([1, 2])]))
    commit(PromptWrite(0, outcomes=[NewOutcome(1, 8, 3), NewOutcome(0, 8, 1), NewOutcome(None, 4, 2)]))
    commit(PromptWrite(0, prefixes=[_prefix([1, 2, 3])]))
    store = opened()
    stored = store.prefixes(namespace, ["q", "other"])
    assert stored["other"] == []
    assert [(p.sequence, len(p.token_ids), p.rollouts, p.successes) for p in stored["q"]] == [
        (1, 2, 8, 3),
        (2, 3, 0, 0),
    ]
    header = store.headers(namespace, ["q"])["q"]
    assert (header.prefixes_added, header.prefixes_stored) == (3, 2)
    assert (header.unguided_rollouts, header.unguided_successes) == (4, 2)
    commit(PromptWrite(0, forgotten=[1, 0]))
    assert [prefix.sequence for prefix in store.prefixes(namespace, ["q"])["q"]] == [2]
    assert store.sizes(namespace).prefixes == 1


def test_ngrams_are_counted_and_variance_is_kept(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace = _made(store)
    one, two, three = (number.to_bytes(4, "little") for number in (1, 2, 3))
    version = store.commit(
        namespace, Write({"q": PromptWrite(0, ngrams={one: 2, two: 1}, reward_variance=0.1 + 0.2)})
    )["q"]
    store.commit(namespace, Write({"q": PromptWrite(version, ngrams={one: 3})}))
    assert store.ngram_counts(namespace, {"q": [one, two, three], "other": [one]}) == {
        "q": {one: 5, two: 1},
        "other": {},
    }
    assert store.headers(namespace, ["q"])["q"].reward_variance == 0.1 + 0.2


def test_a_copy_is_a_snapshot_with_everything(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace = _made(store)
    write = Write(
        {
            "q": PromptWrite(
                0,
                NewSolutions(_vectors(2), ["a", "b"]),
                [_prefix([1, 2])],
                ngrams={b"abcd": 2},
                reward_variance=0.25,
            )
        },
        IdempotentAnswer("score", "key", "f", "answer"),
        SPACE,
        SPACE,
        {"embedding": (1.5, 3)},
    )
    store.commit(namespace, write)
    store.copy_namespace("n", "copy", replace=False)
    version = store.headers(namespace, ["q"])["q"].version
    store.commit(namespace, _solutions(version, _vectors(1, 9)))
    copy = store.namespace("copy")
    assert store.sizes(copy).solutions == 2
    assert (copy.solutions, copy.positive, copy.settings) == (SPACE, {"embedding": (1.5, 3)}, SETTINGS)
    (record,) = store.records(copy, ["q", "other"])
    assert (record.ngrams, record.header.reward_variance) == ({b"abcd": 2}, 0.25)
    assert record.solutions is not None
    assert record.solutions.excerpts == ["a", "b"]
    assert record.prefixes[0].text == "text [1, 2]"
    assert store.answer(copy, "score", "key") == write.answer
    with pytest.raises(AlreadyExists):
        store.copy_namespace("n", "copy", replace=False)
    with pytest.raises(NotFound):
        store.copy_namespace("missing", "copy", replace=True)
    store.copy_namespace("n", "copy", replace=True)
    assert store.sizes(store.namespace("copy")).solutions == 3


def test_a_write_to_a_namespace_that_was_replaced_is_refused(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace = _made(store)
    store.create_namespace("other", SETTINGS)
    store.copy_namespace("other", "n", replace=True)
    with pytest.raises(NotFound):
        store.commit(namespace, _solutions(0, _vectors(1)))
    assert store.delete_namespace("n")
    assert not store.delete_namespace("n")
    assert store.namespaces() == ["other"]


def test_a_renamed_namespace_takes_the_place_of_another(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace = _made(store)
    store.commit(namespace, _solutions(0, _vectors(2)))
    store.create_namespace("other", SETTINGS)
    with pytest.raises(AlreadyExists):
        store.rename_namespace("n", "other", replace=False)
    assert store.rename_namespace("n", "other", replace=True).solutions == 2
    assert store.namespaces() == ["other"]


def test_prompts_are_listed_in_pages_in_order_of_their_bytes(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace = _made(store)
    names = ["b", "a", "ä", "Z", "a b", "日本"]
    store.commit(namespace, Write({name: PromptWrite(0, reward_variance=0.5) for name in names}))
    ordered = sorted(names, key=str.encode)
    found: list[str] = []
    while page := store.page(namespace, found[-1] if found else "", 4):
        found += [prompt for prompt, _ in page]
    assert found == ordered


def test_one_sqlite_folder_serves_one_process(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    with pytest.raises(FailedPrecondition, match="another process"):
        SqliteStore(tmp_path)
    store.close()


def test_an_import_that_was_killed_leaves_nothing_in_the_next_process(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.create_namespace("#import/1", SETTINGS)
    _made(store)
    store.close()
    store = SqliteStore(tmp_path)
    # Writes are done in order, so this one comes after the cleaning.
    store.create_namespace("another", SETTINGS)
    with pytest.raises(NotFound):
        store.namespace("#import/1")
    assert store.namespaces() == ["another", "n"]
    store.close()


def test_an_import_that_was_killed_long_ago_leaves_nothing_in_redis(server: RedisServer) -> None:
    old, running = "#import/1700000000/a", import_name()
    store = server.store("imports")
    for name in (old, running):
        store.create_namespace(name, SETTINGS)
    store.close()
    store = server.store("imports")
    with pytest.raises(NotFound):
        store.namespace(old)
    assert store.namespace(running).name == running
    store.close()


def test_a_redis_that_could_lose_writes_is_refused(server: RedisServer) -> None:
    client = server.store("x")._redis
    client.config_set("appendfsync", "everysec")
    try:
        with pytest.raises(FailedPrecondition, match="appendfsync always"):
            RedisStore(server.url)
        RedisStore(server.url, allow_loss=True).close()
    finally:
        client.config_set("appendfsync", "always")
