"""What survives `kill -9` of the real server process."""

import signal
from pathlib import Path

import numpy as np
from novelty_server import Server

from extra_rl.v1 import novelty_pb2 as n
from extra_rl.v1 import prefix_pb2 as p

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
    server = Server(tmp_path).ready()
    server.novelty.CreateNamespace(n.CreateNamespaceRequest(namespace="run"))
    scored, added = server.novelty.ScoreGroups(score), server.prefix.AddRollouts(add)
    selected = server.prefix.SelectPrefixes(p.SelectPrefixesRequest(namespace="run", prompt_ids=["q"]))
    server.stop(signal.SIGKILL)

    server = Server(tmp_path).ready()
    again = server.novelty.ScoreGroups(score)
    assert again.replayed
    assert list(again.groups) == list(scored.groups)
    assert server.prefix.AddRollouts(add).replayed
    described = server.novelty.DescribeNamespace(n.DescribeNamespaceRequest(namespace="run"))
    assert (described.solutions, described.prefixes) == (16, len(added.prompts[0].lengths))
    assert (
        server.prefix.SelectPrefixes(p.SelectPrefixesRequest(namespace="run", prompt_ids=["q"])) == selected
    )
    other = n.ScoreGroupsRequest(namespace="run", groups=[group])
    assert server.novelty.ScoreGroups(other).groups[0].memory_before == 16
    server.stop()
