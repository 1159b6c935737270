"""Changes of a memory in one process: idempotency keys, conflicts, failures, and what the index then holds.

Another replica is played by commits to the same store behind the memory's back.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extra_services.errors import FailedPrecondition, InvalidInput, NotFound, Unavailable
from extra_services.memory.memory import (
    MAX_ATTEMPTS,
    MAX_KEY_CHARACTERS,
    NO_KEY,
    Change,
    Computed,
    IdempotencyKey,
    Memory,
    check_name,
    check_prompt_id,
    check_space,
)
from extra_services.memory.records import (
    EmbeddingSpace,
    IdempotentAnswer,
    Namespace,
    NamespaceSettings,
    NewSolutions,
    PromptWrite,
    Write,
)
from extra_services.memory.sqlite_store import SqliteStore
from support.memory_stores import STORES, RedisServer, open_store, redis_server

SPACE = EmbeddingSpace("model", 4)
SETTINGS = NamespaceSettings(memory_capacity=3)
KEY = IdempotencyKey("Score", "step-1", "fingerprint")
VECTORS = np.eye(4, dtype=np.float32)
Compute = Callable[[Change], Computed[int]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=STORES)
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Memory]:
    server = request.getfixturevalue("server") if request.param == "redis" else None
    opened = Memory(open_store(request.param, tmp_path, server, request.node.name), embedder=None)
    opened.create_namespace("run", SETTINGS)
    yield opened
    opened.close()


def change(
    memory: Memory, compute: Compute, key: IdempotencyKey = NO_KEY, prompts: tuple[str, ...] = ("q",)
) -> int | str:
    return memory.change(memory.namespace("run"), prompts, key, compute, str)


def adding(place: int, prompt: str = "q") -> Compute:
    """Add a unit vector to a prompt, as scoring does; the result is the number added before."""

    def compute(attempt: Change) -> Computed[int]:
        index = attempt.rings(4)
        before, version = attempt.rings_added(prompt), index.version(prompt)
        new = NewSolutions(VECTORS[place][None], [""])
        index.append([prompt], np.array([1]), new.vectors)
        assert attempt.rings_added(prompt) == before + 1
        return Computed(before, Write({prompt: PromptWrite(version, new)}, solutions=SPACE))

    return compute


def held(memory: Memory, prompt: str = "q") -> list[int]:
    """Return the places of a prompt's vectors, oldest first, as the next change sees them."""
    found: list[int] = []

    def compute(attempt: Change) -> Computed[int]:
        _, vectors = attempt.rings(4).solutions(prompt)
        found.extend(vectors.argmax(1).tolist())
        return Computed(0, None)

    change(memory, compute, prompts=(prompt,))
    return found


def from_elsewhere(memory: Memory, place: int, answer: IdempotentAnswer | None = None) -> None:
    """Add a vector to "q" as another replica does."""
    namespace = memory.namespace("run")
    version = memory.store.headers(namespace, ["q"])["q"].version
    new = NewSolutions(VECTORS[place][None], [""])
    memory.store.commit(namespace, Write({"q": PromptWrite(version, new)}, answer, solutions=SPACE))


def test_an_answered_key_is_replayed_and_only_for_its_request(memory: Memory) -> None:
    namespace = memory.namespace("run")
    assert memory.replay(namespace, KEY) is None
    assert change(memory, adding(0), KEY) == 0
    assert memory.replay(namespace, KEY) == "0"
    other = IdempotencyKey("Score", "step-1", "another")
    with pytest.raises(InvalidInput, match="'step-1' was used before, for another request") as refused:
        memory.replay(namespace, other)
    assert refused.value.field == "idempotency_key"
    assert memory.replay(namespace, IdempotencyKey("Add", "step-1", "another")) is None
    assert memory.replay(namespace, IdempotencyKey("Score", "step-2", "fingerprint")) is None
    assert held(memory) == [0]


def test_a_write_without_a_key_answers_none_and_no_write_answers_no_key(memory: Memory) -> None:
    namespace = memory.namespace("run")
    assert [change(memory, adding(place)) for place in (0, 1)] == [0, 1]
    assert memory.replay(namespace, NO_KEY) is None
    assert change(memory, lambda attempt: Computed(7, None), KEY) == 7
    assert memory.replay(namespace, KEY) is None


def test_a_key_has_a_longest_length(memory: Memory) -> None:
    namespace = memory.namespace("run")
    longest = IdempotencyKey("Score", "k" * MAX_KEY_CHARACTERS, "f")
    change(memory, adding(0), longest)
    assert memory.replay(namespace, longest) == "0"
    too_long = IdempotencyKey("Score", "k" * (MAX_KEY_CHARACTERS + 1), "f")
    with pytest.raises(InvalidInput, match="longer than 512 characters") as refused:
        memory.replay(namespace, too_long)
    assert refused.value.field == "idempotency_key"


def test_a_failure_changes_nothing_and_the_prompt_can_be_changed_again(memory: Memory) -> None:
    change(memory, adding(0))

    def fails(attempt: Change) -> Computed[int]:
        adding(1)(attempt)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change(memory, fails, KEY)
    assert memory.replay(memory.namespace("run"), KEY) is None
    # The index had the vector already; it is read from the store again.
    assert held(memory) == [0]
    assert change(memory, adding(2), KEY) == 1
    assert held(memory) == [0, 2]


def test_after_another_replica_s_write_the_change_is_computed_again(memory: Memory) -> None:
    attempts: list[int] = []

    def compute(attempt: Change) -> Computed[int]:
        found = adding(1)(attempt)
        attempts.append(found.result)
        if len(attempts) < 3:
            from_elsewhere(memory, 2)
        return found

    assert change(memory, compute, KEY) == 2
    assert attempts == [0, 1, 2]
    assert memory.replay(memory.namespace("run"), KEY) == "2"
    assert held(memory) == [2, 2, 1]


def test_a_write_that_reads_no_vectors_leaves_the_index_as_new_as_the_store(memory: Memory) -> None:
    change(memory, adding(0))

    def rewarded(attempt: Change) -> Computed[int]:
        version = attempt.headers()["q"].version
        return Computed(0, Write({"q": PromptWrite(version, reward_variance=0.5)}))

    change(memory, rewarded)
    attempts: list[int] = []

    def compute(attempt: Change) -> Computed[int]:
        attempts.append(1)
        return adding(1)(attempt)

    hits, loads = memory.index_figures(memory.namespace("run"))
    assert change(memory, compute) == 1
    assert len(attempts) == 1
    assert memory.index_figures(memory.namespace("run")) == (hits + 1, loads)
    assert held(memory) == [0, 1]


def test_what_another_replica_has_written_since_is_read_before_anything_is_computed(memory: Memory) -> None:
    change(memory, adding(0))
    from_elsewhere(memory, 2)
    if memory.store.shared:  # nobody else opens a store on SQLite
        assert held(memory) == [0, 2]
    assert change(memory, adding(1)) == 2
    assert held(memory) == [0, 2, 1]


def test_after_another_replica_s_answer_to_the_key_that_is_the_answer(memory: Memory) -> None:
    attempts: list[int] = []

    def compute(attempt: Change) -> Computed[int]:
        attempts.append(1)
        found = adding(1)(attempt)
        from_elsewhere(memory, 2, IdempotentAnswer(KEY.operation, KEY.key, KEY.fingerprint, "theirs"))
        return found

    assert change(memory, compute, KEY) == "theirs"
    assert len(attempts) == 1
    assert held(memory) == [2]


def test_a_key_that_another_replica_answered_for_another_request_is_refused(memory: Memory) -> None:
    def compute(attempt: Change) -> Computed[int]:
        found = adding(1)(attempt)
        from_elsewhere(memory, 2, IdempotentAnswer(KEY.operation, KEY.key, "another", "theirs"))
        return found

    with pytest.raises(InvalidInput, match="was used before"):
        change(memory, compute, KEY)
    assert held(memory) == [2]


def test_replicas_that_are_always_faster_are_an_error_that_names_the_namespace(memory: Memory) -> None:
    attempts: list[int] = []

    def compute(attempt: Change) -> Computed[int]:
        attempts.append(1)
        found = adding(1)(attempt)
        from_elsewhere(memory, 2)
        return found

    with pytest.raises(Unavailable, match="kept changing the same prompts of 'run'; try again"):
        change(memory, compute, KEY)
    assert len(attempts) == MAX_ATTEMPTS
    assert held(memory) == [2, 2, 2]
    assert memory.replay(memory.namespace("run"), KEY) is None


def test_a_namespace_that_is_deleted_meanwhile_is_not_found(memory: Memory) -> None:
    def compute(attempt: Change) -> Computed[int]:
        found = adding(1)(attempt)
        memory.store.delete_namespace("run")
        return found

    with pytest.raises(NotFound):
        change(memory, compute)


def test_vectors_of_another_dimension_conflict_until_the_namespace_is_looked_up_again(
    memory: Memory,
) -> None:
    before = memory.namespace("run")
    from_elsewhere(memory, 0)
    seen: list[Namespace] = []

    def compute(attempt: Change) -> Computed[int]:
        seen.append(attempt.namespace)
        dimension = attempt.namespace.solutions.dimension or 3
        return Computed(len(attempt.rings(dimension).solutions("q")[0]), None)

    assert memory.change(before, ["q"], NO_KEY, compute, str) == 1
    assert [namespace.solutions.dimension for namespace in seen] == [0, 4]


def test_what_the_index_holds_is_read_once_and_dropped_with_what_it_is_of(memory: Memory) -> None:
    change(memory, adding(0))
    namespace = memory.namespace("run")
    loads = memory.index_figures(namespace)[1]
    change(memory, adding(1))
    change(memory, adding(2, "other"), prompts=("other",))
    hits, again = memory.index_figures(namespace)
    assert (hits, again) == (1, loads + 1)
    assert memory.delete_prompts("run", ["q", "q", "never"]) == ["q"]
    assert held(memory) == []
    assert held(memory, "other") == [2]
    memory.copy_namespace("run", "copy", replace=False)
    assert memory.store.solutions(memory.namespace("copy"), ["other"])["other"][1] is not None
    assert memory.delete_namespace("run")
    assert not memory.delete_namespace("run")
    assert memory.index_figures(namespace) == (0, 0)
    memory.rename_namespace("copy", "run", replace=False)
    assert held(memory, "other") == [2]


def test_a_namespace_keeps_its_settings(memory: Memory) -> None:
    assert memory.create_namespace("run", SETTINGS) == (memory.namespace("run"), False)
    assert memory.create_namespace("new", SETTINGS)[1]
    with pytest.raises(FailedPrecondition, match=r"'run' exists with .*memory_capacity=3"):
        memory.create_namespace("run", NamespaceSettings(memory_capacity=4))


def test_without_an_embedder_texts_are_refused_and_figures_are_zero(memory: Memory) -> None:
    assert memory.embedding_model() == EmbeddingSpace()
    assert memory.embedding_figures() == (0, 0)
    for ask in (lambda: memory.embedder, memory.space_of_texts):
        with pytest.raises(FailedPrecondition, match="send embeddings instead of texts"):
            ask()
    change(memory, adding(0))
    assert memory.store_entries() == {
        "namespaces": 1,
        "prompts": 1,
        "solutions": 1,
        "prefixes": 0,
        "answers": 0,
    }
    assert memory.index_bytes() > 0


class Known:
    """An embedder of which only name, size and figures are asked."""

    name, dimension, embedded, cached = "known", 3, 5, 7
    closed = False

    def close(self) -> None:
        self.closed = True


def test_the_space_of_texts_is_that_of_the_embedder_and_it_is_closed_with_the_memory(tmp_path: Path) -> None:
    embedder: Any = Known()
    memory = Memory(SqliteStore(tmp_path), embedder)
    assert memory.embedding_model() == memory.space_of_texts() == EmbeddingSpace("known", 3)
    assert memory.embedding_figures() == (5, 7)
    memory.close()
    assert embedder.closed


def test_prompts_to_delete_are_refused_by_their_place(memory: Memory) -> None:
    change(memory, adding(0))
    with pytest.raises(InvalidInput) as refused:
        memory.delete_prompts("run", ["q", ""])
    assert refused.value.field == "prompt_ids[1]"
    assert held(memory) == [0]


@pytest.mark.parametrize("name", ["", "a b", "a\n", "ä", "n" * 201])
def test_a_name_that_cannot_be_used_is_refused_with_its_field(name: str) -> None:
    check_name("n" * 200)
    with pytest.raises(InvalidInput) as by_default:
        check_name(name)
    assert by_default.value.field == "namespace"
    with pytest.raises(InvalidInput, match="a name has 1 to 200 characters") as refused:
        check_name(name, "destination")
    assert refused.value.field == "destination"


@pytest.mark.parametrize("prompt", ["", "p" * 513, "ä" * 257, "a\0b"])
def test_a_prompt_id_that_cannot_be_used_is_refused_with_its_field(prompt: str) -> None:
    check_prompt_id("ä" * 256)
    with pytest.raises(InvalidInput, match=r"must have 1 to 512 bytes|must not hold a NUL") as refused:
        check_prompt_id(prompt)
    assert refused.value.field == "prompt_id"


def test_only_vectors_of_one_space_are_compared() -> None:
    check_space(SPACE, SPACE, "run")
    check_space(EmbeddingSpace(), SPACE, "run")
    for other in (EmbeddingSpace("other", 4), EmbeddingSpace("model", 5)):
        with pytest.raises(FailedPrecondition, match="'run' holds vectors of 'model' with 4 dimensions"):
            check_space(SPACE, other, "run")
