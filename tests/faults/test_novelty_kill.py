"""Everything acknowledged survives `kill -9` of the real server process."""

import itertools
import queue
import signal
import threading
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path

import grpc
import numpy as np
import pytest

from extra_rl.v1 import namespace_pb2 as ns
from extra_rl.v1 import novelty_pb2 as n
from extra_rl.v1 import prefix_pb2 as p
from support.memory_stores import STORES, RedisServer, redis_server
from support.novelty_server import Server

TEXT = "a line of some words that is long enough\nanother line of words, also long enough\nthe end"


def test_after_kill_and_restart_an_idempotency_key_is_answered_as_before_and_counts_once(
    tmp_path: Path,
) -> None:
    vectors = np.random.default_rng(0).standard_normal((8, 32)).astype("<f4")
    group = n.Group(prompt_id="q", embeddings=vectors.tobytes(), correct=[True] * 8)
    score = n.ScoreGroupsRequest(namespace="run", groups=[group, group], idempotency_key="step-1")
    ids = np.array([ord(character) for character in TEXT], dtype="<i4")
    rollout = p.EntropyRollout(
        token_ids=ids.tobytes(),
        entropies=np.full(len(ids), 0.5, dtype="<f4").tobytes(),
        text=TEXT,
        token_ends=np.arange(1, len(ids) + 1, dtype="<i4").tobytes(),
    )
    add = p.AddRolloutsRequest(
        namespace="run",
        prompts=[p.HardPrompt(prompt_id="q", rollouts=[rollout])],
        newline_token_ids=[10],
        idempotency_key="step-1",
    )
    with Server(tmp_path) as server:
        server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="run"))
        first, added = server.novelty.ScoreGroups(score), server.prefix.AddRollouts(add)
        selected = server.prefix.SelectPrefixes(p.SelectPrefixesRequest(namespace="run", prompt_ids=["q"]))
        server.stop(signal.SIGKILL)

    with Server(tmp_path) as server:
        again = server.novelty.ScoreGroups(score)
        assert again.replayed
        assert list(again.groups) == list(first.groups)
        assert server.prefix.AddRollouts(add).replayed
        described = server.namespaces.DescribeNamespace(ns.DescribeNamespaceRequest(namespace="run"))
        assert (described.solutions, described.prefixes) == (16, len(added.prompts[0].lengths))
        chosen = server.prefix.SelectPrefixes(p.SelectPrefixesRequest(namespace="run", prompt_ids=["q"]))
        assert chosen == selected
        other = n.ScoreGroupsRequest(namespace="run", groups=[group])
        assert server.novelty.ScoreGroups(other).groups[0].memory_before == 16


class Kind:
    """A kind of write, of one of seven prompts, so that callers meet: a key stands for a request."""

    def request(self, key: str) -> n.ScoreGroupsRequest:
        raise NotImplementedError

    def adds(self, key: str) -> Counter[str]:
        """Return what the request adds to the memory: entry -> how many."""
        raise NotImplementedError

    def stored(self, server: Server) -> dict[str, int]:
        """Return what the server has, in the same form."""
        raise NotImplementedError


class Solutions(Kind):
    """Two correct rollouts, remembered by their embeddings."""

    def request(self, key: str) -> n.ScoreGroupsRequest:
        seed = zlib.crc32(key.encode())
        vectors = np.random.default_rng(seed).standard_normal((2, 8)).astype("<f4")
        group = n.Group(prompt_id=f"p{seed % 7}", embeddings=vectors.tobytes(), correct=[True] * 2)
        return n.ScoreGroupsRequest(namespace="run", groups=[group], idempotency_key=key)

    def adds(self, key: str) -> Counter[str]:
        return Counter({self.request(key).groups[0].prompt_id: 2})

    def stored(self, server: Server) -> dict[str, int]:
        prompts = server.namespaces.ListPrompts(ns.ListPromptsRequest(namespace="run")).prompts
        return {prompt.prompt_id: prompt.solutions_added for prompt in prompts}


class WrongAnswers(Kind):
    """Three wrong rollouts, whose final answers are counted."""

    def request(self, key: str) -> n.ScoreGroupsRequest:
        seed = zlib.crc32(key.encode())
        answers = [str(number) for number in np.random.default_rng(seed).integers(0, 4, 3)]
        group = n.Group(prompt_id=f"p{seed % 7}", answers=answers, correct=[False] * 3)
        return n.ScoreGroupsRequest(
            namespace="run", groups=[group], idempotency_key=key, metric=n.METRIC_OUTCOME
        )

    def adds(self, key: str) -> Counter[str]:
        group = self.request(key).groups[0]
        return Counter(f"{group.prompt_id}: {answer}" for answer in group.answers)

    def stored(self, server: Server) -> dict[str, int]:
        answers = [str(number) for number in range(4)]
        groups = [n.Group(prompt_id=f"p{i}", answers=answers, correct=[False] * 4) for i in range(7)]
        look = n.ScoreGroupsRequest(
            namespace="run",
            groups=groups,
            metric=n.METRIC_OUTCOME,
            mode=n.SCORE_MODE_SCORE_ONLY,
            explain=True,
        )
        counts = {
            f"{group.prompt_id}: {answer}": int(count.earlier)
            for group, scores in zip(groups, server.novelty.ScoreGroups(look).groups, strict=True)
            for answer, count in zip(answers, scores.answer_counts, strict=True)
        }
        return {entry: count for entry, count in counts.items() if count}


KINDS = {"solutions": Solutions(), "wrong answers": WrongAnswers()}


class Writer(threading.Thread):
    """Scores one group after the other until the server is gone, noting what was acknowledged."""

    def __init__(self, server: Server, kind: Kind, name: str, acknowledged: "queue.Queue[str]") -> None:
        super().__init__()
        self._server, self._name, self._acknowledged = server, name, acknowledged
        self.kind = kind
        #: Key -> the answer, None while there is none.
        self.answers: dict[str, n.GroupScores | None] = {}

    def run(self) -> None:
        for count in itertools.count():
            key = f"{self._name}/{count}"
            self.answers[key] = None
            try:
                self.answers[key] = self._server.novelty.ScoreGroups(self.kind.request(key)).groups[0]
            except grpc.RpcError:
                return
            self._acknowledged.put(key)


def _kill_rounds(folder: Path, redis: RedisServer | None, rounds: int) -> None:
    """Kill the server (with Redis in every other round Redis first) under load, again and again.

    The server that has shown what it still knows is the next one to be killed.
    """
    flags = ["--embedder=none", *([f"--redis-url={redis.url}"] if redis is not None else [])]
    random = np.random.default_rng(0)
    known: dict[Kind, list[str]] = {kind: [] for kind in KINDS.values()}
    writers: list[Writer] = []
    for number in range(rounds + 1):
        with Server(folder, *flags) as server:
            if not number:
                settings = ns.NamespaceSettings(memory_capacity=60000)
                create = ns.CreateNamespaceRequest(namespace="run", settings=settings)
                server.namespaces.CreateNamespace(create)
            for writer in writers:
                _check_answers(server, writer)
                known[writer.kind] += writer.answers
            for kind, keys in known.items():
                assert kind.stored(server) == sum(map(kind.adds, keys), Counter())
            if number < rounds:
                wanted = int(random.integers(1, 60))
                writers = _write_until_killed(server, number, wanted, redis if number % 2 else None)


def _check_answers(server: Server, writer: Writer) -> None:
    """Assert that what was acknowledged is answered as before; what was not is now written."""
    for key, answer in writer.answers.items():
        again = server.novelty.ScoreGroups(writer.kind.request(key))
        if answer is not None:
            assert again.replayed
            assert again.groups[0] == answer


def _write_until_killed(server: Server, number: int, wanted: int, redis: RedisServer | None) -> list[Writer]:
    """Let two callers of each kind write, and kill Redis, if given, and the server after `wanted` answers."""
    acknowledged: queue.Queue[str] = queue.Queue()
    writers = [
        Writer(server, kind, f"{number}/{name}/{i}", acknowledged)
        for name, kind in KINDS.items()
        for i in range(2)
    ]
    for writer in writers:
        writer.start()
    for _ in range(wanted):
        acknowledged.get(timeout=60)
    if redis is not None:
        redis.kill()
        redis.start()
    server.stop(signal.SIGKILL)
    for writer in writers:
        writer.join()
    return writers


@pytest.mark.parametrize("store", STORES)
def test_killed_under_load_every_acknowledged_write_is_there_and_none_twice(
    store: str, tmp_path: Path
) -> None:
    with redis_server(tmp_path) if store == "redis" else nullcontext() as redis:
        _kill_rounds(tmp_path, redis, rounds=5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("store", STORES)
def test_killed_fifty_times_under_load_nothing_is_lost_or_doubled(store: str, tmp_path: Path) -> None:
    with redis_server(tmp_path) if store == "redis" else nullcontext() as redis:
        _kill_rounds(tmp_path, redis, rounds=50)


@pytest.mark.parametrize("name", KINDS)
def test_two_replicas_on_one_redis_agree(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    with redis_server(tmp_path) as redis, ExitStack() as running:
        replicas = []
        for replica in ("a", "b"):
            (tmp_path / replica).mkdir()
            flags = ("--embedder=none", f"--redis-url={redis.url}")
            replicas.append(running.enter_context(Server(tmp_path / replica, *flags)))
        settings = ns.NamespaceSettings(memory_capacity=16, min_history=0)
        replicas[0].namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="run", settings=settings))
        keys = [f"key {i}" for i in range(120)]
        with ThreadPoolExecutor(8) as pool:
            # Each key twice, once to each replica, at about the same time: one of them is the first.
            jobs = [
                pool.submit(replicas[(i + turn) % 2].novelty.ScoreGroups, kind.request(key))
                for i, key in enumerate(keys)
                for turn in range(2)
            ]
            answers = [job.result() for job in jobs]
        for first, second in zip(answers[::2], answers[1::2], strict=True):
            assert {first.replayed, second.replayed} == {True, False}
            assert first.groups[0] == second.groups[0]
        assert kind.stored(replicas[0]) == kind.stored(replicas[1]) == sum(map(kind.adds, keys), Counter())
        for i in range(20):
            request = kind.request(f"new {i}")
            request.mode, request.idempotency_key = n.SCORE_MODE_SCORE_ONLY, ""
            one, other = (replica.novelty.ScoreGroups(request).groups[0] for replica in replicas)
            assert one == other
            replicas[i % 2].novelty.ScoreGroups(kind.request(f"new {i}"))
