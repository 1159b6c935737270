"""The contract of the stores, checked on SQLite and on a real Redis."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extra_rl.vocabulary import VectorStorage
from extra_services.errors import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from extra_services.memory import redis_store
from extra_services.memory.records import (
    SKETCH_BYTES,
    Conflict,
    EmbeddingSpace,
    Header,
    IdempotentAnswer,
    Namespace,
    NamespaceSettings,
    NewOutcome,
    NewSolutions,
    PromptWrite,
    Sizes,
    StoredPrefix,
    Write,
)
from extra_services.memory.redis_store import RedisStore
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.memory.store import ANSWER_SECONDS, Store, import_name
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


def test_solutions_without_texts_and_sketches_take_no_room_for_them(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    nothing = NewSolutions(_vectors(2), ["", ""], np.zeros((2, SKETCH_BYTES), dtype=np.uint8))
    store.commit(_made(store), Write({"q": PromptWrite(0, nothing)}, solutions=SPACE))
    with closing(sqlite3.connect(tmp_path / "memory.sqlite")) as connection:
        assert connection.execute("SELECT excerpts, sketches FROM solution_blocks").fetchall() == [
            (None, None)
        ]
    store.close()


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
    with pytest.raises(Conflict, match="'n' was given vectors of another model"):
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


def _full(store: Store, namespace: Namespace, prompt: str = "q", seed: int = 0) -> None:
    """Fill a prompt with some of everything; rings of solutions and prefixes have turned over."""
    for count in (2, 3):
        header = store.headers(namespace, [prompt])[prompt]
        sketches = np.full((count, SKETCH_BYTES), count + seed, dtype=np.uint8)
        texts = [f"{prompt} {header.solutions_added + i}" for i in range(count)]
        change = PromptWrite(
            header.version,
            NewSolutions(_vectors(count, seed + count), texts, sketches),
            [_prefix([seed, count, i]) for i in range(2)],
            [NewOutcome(None, 4, 1)],
            ngrams={b"abcd": count, bytes(range(4)): 1 + seed},
            reward_variance=0.125 * count,
            answer_counts={"second": 0.5, "first": count + seed},
        )
        store.commit(namespace, Write({prompt: change}, None, SPACE, SPACE, {"embedding": (0.75, 2)}))
    header = store.headers(namespace, [prompt])[prompt]
    outcomes = [NewOutcome(header.prefixes_added - 1, 8, 3), NewOutcome(header.prefixes_added - 1, 2, 1)]
    store.commit(namespace, Write({prompt: PromptWrite(header.version, outcomes=outcomes)}))


def _plain(store: Store, namespace: Namespace, prompts: list[str]) -> dict[str, object]:
    """Return what is stored for the prompts as plain values, without versions."""
    found: dict[str, object] = {}
    for record in store.records(namespace, prompts):
        ring = record.solutions
        found[record.prompt] = (
            replace(record.header, version=0),
            None
            if ring is None
            else (
                ring.sequences.tolist(),
                ring.vectors.tolist(),
                ring.excerpts,
                None if ring.sketches is None else ring.sketches.tolist(),
            ),
            [replace(p, token_ids=p.token_ids.tolist(), vector=p.vector.tolist()) for p in record.prefixes],
            record.ngrams,
            list(record.answer_counts.items()),
        )
    return found


def test_everything_of_a_prompt_is_as_it_was_written_after_opening_again(
    opened: Callable[[], Store],
) -> None:
    store = opened()
    for prompt, seed in (("q", 0), ("r", 3)):
        _full(store, _made(store), prompt, seed)
    store = opened()
    namespace = store.namespace("n")
    found = {record.prompt: record for record in store.records(namespace, ["r", "q", "never"])}
    assert list(found) in (["q", "r"], ["r", "q"])
    for prompt, seed in (("q", 0), ("r", 3)):
        record = found[prompt]
        assert replace(record.header, version=0) == Header(0, 5, 4, 2, 8, 2, 0.375, 2)
        assert record.ngrams == {b"abcd": 5, bytes(range(4)): 2 + 2 * seed}
        assert list(record.answer_counts.items()) == [("second", 0.5), ("first", 3 + seed)]
        assert record.solutions is not None
        assert record.solutions.excerpts == [f"{prompt} 3", f"{prompt} 4", f"{prompt} 2"]
        np.testing.assert_array_equal(record.solutions.vectors, _vectors(3, 3 + seed)[[1, 2, 0]])
        first, last = record.prefixes
        assert [(p.sequence, p.rollouts, p.successes) for p in (first, last)] == [(2, 0, 0), (3, 10, 4)]
        assert (last.token_ids.tolist(), last.text, last.mean_entropy) == (
            [seed, 3, 1],
            f"text {[seed, 3, 1]}",
            0.5,
        )
        np.testing.assert_array_equal(last.vector, _vectors(1)[0])
        assert last.token_ids.dtype == np.int32
        assert last.vector.dtype == np.float32
    assert store.sizes(namespace) == Sizes(prompts=2, solutions=6, prefixes=4, answers=4)
    assert namespace.positive == {"embedding": (3.0, 8)}
    assert (namespace.solutions, namespace.prefixes) == (SPACE, SPACE)
    assert store.headers(namespace, ["q", "never"]) == {"q": found["q"].header, "never": Header()}
    assert store.headers(namespace, []) == {}
    assert store.solutions(namespace, []) == {}
    assert store.solutions(namespace, ["never"]) == {"never": (Header(), None)}
    assert store.answer_counts(namespace, ["never", "q"]) == {
        "never": {},
        "q": found["q"].answer_counts,
    }
    asked = {"never": [b"abcd"], "q": [b"none", b"abcd"], "r": [bytes(range(4))], "s": []}
    assert store.ngram_counts(namespace, asked) == {
        "never": {},
        "q": {b"abcd": 5},
        "r": {bytes(range(4)): 8},
        "s": {},
    }


def test_excerpts_of_several_prompts_are_found_by_number_and_only_those_still_held(
    opened: Callable[[], Store],
) -> None:
    store = opened()
    namespace = _made(store)
    for prompt in ("q", "r"):
        _full(store, namespace, prompt)
    version = store.headers(namespace, ["s"])["s"].version
    sent = Write({"s": PromptWrite(version, NewSolutions(_vectors(2), ["", ""]))}, solutions=SPACE)
    store.commit(namespace, sent)
    wanted = [(prompt, number) for prompt in ("q", "r", "s", "never") for number in range(7)]
    assert store.excerpts(namespace, wanted) == {
        **{(prompt, number): f"{prompt} {number}" for prompt in ("q", "r") for number in (2, 3, 4)},
        ("s", 0): "",
        ("s", 1): "",
    }
    assert store.excerpts(namespace, []) == {}


def test_records_put_into_another_namespace_are_the_same_and_go_on_from_there(
    opened: Callable[[], Store],
) -> None:
    store = opened()
    namespace = _made(store)
    for prompt, seed in (("q", 0), ("r", 3)):
        _full(store, namespace, prompt, seed)
    store.commit(namespace, Write({"empty": PromptWrite(0, reward_variance=0.5)}))
    namespace = store.namespace("n")
    prompts = ["q", "r", "empty"]
    other, _ = store.create_namespace("other", SETTINGS)
    store.put_records(other, namespace, store.records(namespace, prompts))
    found = store.namespace("other")
    assert (found.solutions, found.prefixes, found.positive) == (SPACE, SPACE, namespace.positive)
    assert _plain(store, found, prompts) == _plain(store, namespace, prompts)
    assert store.sizes(found) == store.sizes(namespace)
    for place in (namespace, found):
        _full(store, place, "r", 7)
    assert _plain(store, found, prompts) == _plain(store, namespace, prompts)
    # A ring with gaps, such as an export of an earlier release may hold.
    (record,) = store.records(found, ["q"])
    assert record.solutions is not None
    gap = replace(
        record.solutions,
        sequences=record.solutions.sequences[1:],
        vectors=record.solutions.vectors[1:],
        excerpts=record.solutions.excerpts[1:],
        sketches=None,
    )
    third, _ = store.create_namespace("third", SETTINGS)
    store.put_records(third, found, [replace(record, solutions=gap)])
    _, ring = store.solutions(third, ["q"])["q"]
    assert ring is not None
    assert (ring.sequences.tolist(), ring.excerpts, ring.sketches) == ([4, 2], ["q 4", "q 2"], None)
    np.testing.assert_array_equal(ring.vectors, gap.vectors)


def test_what_is_deleted_leaves_nothing_and_everything_else_stays(
    opened: Callable[[], Store], tmp_path: Path
) -> None:
    store = opened()
    namespace = _made(store)
    other, _ = store.create_namespace("other", SETTINGS)
    answer = IdempotentAnswer("score", "key", "f", "answer")
    for place, prompt in ((namespace, "q"), (namespace, "r"), (other, "q")):
        _full(store, place, prompt)
        keyed = Write({}, replace(answer, key=f"{answer.key} {prompt}"))
        assert store.commit(place, keyed) == {}
    before = _plain(store, namespace, ["q"]), _plain(store, other, ["q"])
    assert store.delete_prompts(namespace, ["r", "never"]) == ["r"]
    assert store.delete_prompts(namespace, []) == []
    assert store.records(namespace, ["r"]) == []
    assert store.sizes(namespace) == Sizes(1, 3, 2, 2)
    assert [prompt for prompt, _ in store.page(namespace, "", 9)] == ["q"]
    assert store.ngram_counts(namespace, {"r": [b"abcd"]}) == {"r": {}}
    assert (_plain(store, namespace, ["q"]), _plain(store, other, ["q"])) == before
    _full(store, namespace, "r")
    assert store.headers(namespace, ["r"])["r"].solutions_added == 5
    assert store.delete_namespace("n")
    assert store.namespaces() == ["other"]
    with pytest.raises(NotFound, match="'n'"):
        store.namespace("n")
    assert _plain(store, other, ["q"]) == before[1]
    assert store.answer(other, "score", "key q") == replace(answer, key="key q")
    assert store.delete_namespace("other")
    if isinstance(store, RedisStore):
        keys = [key.decode() for key in store._redis.scan_iter()]
        kept = {key.removeprefix(store._root) for key in keys if key.startswith(store._root)}
        assert kept == {":schema", ":next"}
    else:
        with closing(sqlite3.connect(next(tmp_path.rglob("memory.sqlite")))) as connection:
            for (table,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite_%'"
            ).fetchall():
                assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


def test_a_namespace_is_made_once_and_listed_by_name(opened: Callable[[], Store]) -> None:
    store = opened()
    names = ["n", "b", "a"]
    for name in names:
        namespace, created = store.create_namespace(name, SETTINGS)
        assert created
        assert namespace == store.namespace(name)
        assert (namespace.name, namespace.settings, namespace.positive) == (name, SETTINGS, {})
        assert namespace.solutions == namespace.prefixes == EmbeddingSpace()
    again, created = store.create_namespace("n", NamespaceSettings())
    assert (again, created) == (store.namespace("n"), False)
    store.create_namespace(import_name(), SETTINGS)
    assert store.namespaces() == ["a", "b", "n"]
    assert len({store.namespace(name).id for name in names}) == 3


def test_a_copy_onto_itself_and_a_copy_or_rename_of_nothing_change_nothing(
    opened: Callable[[], Store],
) -> None:
    store = opened()
    namespace = _made(store)
    _full(store, namespace)
    before = _plain(store, namespace, ["q"])
    assert store.copy_namespace("n", "n", replace=True) == Sizes(1, 3, 2, 2)
    assert store.copy_namespace("n", "n", replace=False) == Sizes(1, 3, 2, 2)
    store.create_namespace("other", SETTINGS)
    for move in (store.copy_namespace, store.rename_namespace):
        with pytest.raises(NotFound, match="'missing'"):
            move("missing", "other", replace=True)
        with pytest.raises(AlreadyExists, match="'other' exists"):
            move("n", "other", replace=False)
    assert store.namespaces() == ["n", "other"]
    assert store.rename_namespace("n", "new", replace=False) == Sizes(1, 3, 2, 2)
    renamed = store.namespace("new")
    assert (renamed.id, renamed.name) == (namespace.id, "new")
    assert store.copy_namespace("new", "other", replace=True) == Sizes(1, 3, 2, 2)
    for name in ("new", "other"):
        assert _plain(store, store.namespace(name), ["q"]) == before
    with pytest.raises(NotFound):
        store.namespace("n")


def test_prefixes_that_left_their_slots_take_no_outcomes_and_are_not_forgotten_again(
    opened: Callable[[], Store],
) -> None:
    store = opened()
    namespace = _made(store)
    _full(store, namespace)
    version = store.headers(namespace, ["q"])["q"].version
    # Of four prefixes in two slots, 0 and 1 have left.
    outcomes = [NewOutcome(0, 5, 5), NewOutcome(2, 7, 2)]
    store.commit(namespace, Write({"q": PromptWrite(version, outcomes=outcomes, forgotten=[0, 1])}))
    found = store.prefixes(namespace, ["q"])["q"]
    assert [(p.sequence, p.rollouts, p.successes) for p in found] == [(2, 7, 2), (3, 10, 4)]
    assert store.headers(namespace, ["q"])["q"].prefixes_stored == 2
    version = store.headers(namespace, ["q"])["q"].version
    store.commit(namespace, Write({"q": PromptWrite(version, forgotten=[3])}))
    assert [p.sequence for p in store.prefixes(namespace, ["q"])["q"]] == [2]
    header = store.headers(namespace, ["q"])["q"]
    assert (header.prefixes_added, header.prefixes_stored) == (4, 1)
    store.commit(
        namespace, Write({"q": PromptWrite(header.version, prefixes=[_prefix([9])])}, prefixes=SPACE)
    )
    found = store.prefixes(namespace, ["q"])["q"]
    assert [(p.sequence, p.token_ids.tolist()) for p in found][-1] == (4, [9])
    assert found[-1].rollouts == 0


def test_one_write_of_several_prompts_changes_all_or_none(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace = _made(store)
    write = Write(
        {
            "q": PromptWrite(0, NewSolutions(_vectors(2), ["a", "b"])),
            "r": PromptWrite(0, ngrams={b"abcd": 1}),
            "s": PromptWrite(0, answer_counts={"7": 1.0}),
        },
        solutions=SPACE,
        positive={"embedding": (0.5, 1), "outcome": (2.0, 4)},
    )
    versions = store.commit(namespace, write)
    assert versions == {p: h.version for p, h in store.headers(namespace, ["q", "r", "s"]).items()}
    assert store.namespace("n").positive == write.positive
    assert store.sizes(namespace) == Sizes(1, 2, 0, 1)
    before = _plain(store, namespace, ["q", "r", "s"])
    late = Write(
        {
            "new": PromptWrite(0, NewSolutions(_vectors(1), ["c"])),
            "q": PromptWrite(versions["q"], NewSolutions(_vectors(1), ["c"])),
            "r": PromptWrite(versions["r"] + 1, ngrams={b"abcd": 1}),
        },
        IdempotentAnswer("score", "key", "f", "answer"),
        SPACE,
        SPACE,
        {"embedding": (0.5, 1)},
    )
    with pytest.raises(Conflict):
        store.commit(namespace, late)
    assert _plain(store, namespace, ["q", "r", "s", "new"]) == before
    assert store.answer(namespace, "score", "key") is None
    assert store.namespace("n").positive == write.positive
    assert store.namespace("n").prefixes == EmbeddingSpace()
    # What a write leaves out stays as it is.
    store.commit(namespace, Write({"s": PromptWrite(versions["s"], reward_variance=0.5)}))
    assert store.answer_counts(namespace, ["s"]) == {"s": {"7": 1.0}}
    version = store.headers(namespace, ["s"])["s"].version
    store.commit(namespace, Write({"s": PromptWrite(version, answer_counts={})}))
    header = store.headers(namespace, ["s"])["s"]
    assert (header.reward_variance, header.answers_stored) == (0.5, 0)


@pytest.mark.parametrize("kind", ["solutions", "prefixes"])
def test_the_first_vectors_of_a_kind_set_its_space_alone(opened: Callable[[], Store], kind: str) -> None:
    store = opened()
    namespace = _made(store)
    store.commit(namespace, Write({"q": PromptWrite(0, reward_variance=0.5)}, **{kind: SPACE}))  # type: ignore[arg-type]
    found = store.namespace("n")
    spaces = {"solutions": found.solutions, "prefixes": found.prefixes}
    assert spaces == {"solutions": EmbeddingSpace(), "prefixes": EmbeddingSpace(), kind: SPACE}
    version = store.headers(namespace, ["q"])["q"].version
    for other in (EmbeddingSpace("model", 5), EmbeddingSpace("other", 4)):
        with pytest.raises(Conflict):
            store.commit(
                namespace,
                Write({"q": PromptWrite(version, reward_variance=0.25)}, **{kind: other}),  # type: ignore[arg-type]
            )
    same = Write({"q": PromptWrite(version, reward_variance=0.25)}, **{kind: SPACE})  # type: ignore[arg-type]
    store.commit(namespace, same)
    assert store.headers(namespace, ["q"])["q"].reward_variance == 0.25


def test_answers_are_kept_for_their_time_and_old_ones_leave_a_few_at_a_time(
    opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now = opened(), 2e9
    namespace = _made(store)
    monkeypatch.setattr("time.time", lambda: now)

    def answered(operation: str) -> int:
        keys = [f"{i}" for i in range(12)]
        return sum(store.answer(namespace, operation, key) is not None for key in keys)

    for i in range(12):
        store.commit(namespace, Write({}, IdempotentAnswer("score", f"{i}", "f", "answer")))
    now += ANSWER_SECONDS - 1
    store.commit(namespace, Write({}, IdempotentAnswer("later", "0", "f", "answer")))
    assert answered("score") == 12
    now += 2
    store.commit(namespace, Write({}, IdempotentAnswer("later", "1", "f", "answer")))
    assert answered("score") == 4
    # A copy keeps the times.
    store.copy_namespace("n", "copy", replace=False)
    namespace = store.namespace("copy")
    store.commit(namespace, Write({}, IdempotentAnswer("later", "2", "f", "answer")))
    assert (answered("score"), answered("later")) == (0, 3)


def test_pages_tell_the_headers_and_begin_after_a_prompt(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace, other = _made(store), store.create_namespace("other", SETTINGS)[0]
    for place, prompt in ((namespace, "a"), (namespace, "b"), (other, "c")):
        _full(store, place, prompt)
    assert store.page(namespace, "", 9) == list(store.headers(namespace, ["a", "b"]).items())
    assert [prompt for prompt, _ in store.page(namespace, "a", 9)] == ["b"]
    assert [prompt for prompt, _ in store.page(namespace, "", 1)] == ["a"]
    assert store.page(namespace, "b", 9) == []


def test_half_precision_is_stored_as_such(opened: Callable[[], Store]) -> None:
    store = opened()
    namespace, _ = store.create_namespace("half", replace(SETTINGS, storage=VectorStorage.FLOAT16))
    store.commit(namespace, _solutions(0, _vectors(2)))
    assert store.namespace("half").settings == namespace.settings
    _, ring = store.solutions(namespace, ["q"])["q"]
    assert ring is not None
    assert ring.vectors.dtype == np.float16
    np.testing.assert_array_equal(ring.vectors, _vectors(2).astype(np.float16))


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


def test_a_write_that_too_few_replicas_have_is_not_acknowledged(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "REPLICA_SECONDS", 0.05)
    store = RedisStore(server.url, "replicated", replicas=1)
    with pytest.raises(Unavailable, match=r"0 of its replicas, not redis_replicas=1: send it again"):
        store.create_namespace("n", SETTINGS)
    with pytest.raises(Unavailable, match="send it again"):
        store.commit(store.namespace("n"), _solutions(0, _vectors(1)))
    store.close()


@pytest.mark.parametrize("rest", ["host:26379", "host:26379/", "host/memory", "host:26379,other/memory"])
def test_an_address_of_sentinels_is_refused_with_its_form(rest: str) -> None:
    with pytest.raises(FailedPrecondition, match="must be sentinel://HOST:PORT"):
        RedisStore(f"sentinel://{rest}")
