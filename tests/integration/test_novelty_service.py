"""The novelty and prefix services as a caller meets them: real server process, real gRPC, real model."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2
from novelty_server import Server

from extra_rl.v1 import novelty_pb2 as n
from extra_rl.v1 import prefix_pb2 as p

NEWLINE = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("novelty")).ready()
    yield running
    running.stop()


def _novelty(scores: n.GroupScores) -> np.ndarray:
    return np.frombuffer(scores.novelty, dtype="<f4")


def _embedded_group(prompt: str, seed: int, count: int = 8, dimension: int = 16) -> n.Group:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype("<f4")
    return n.Group(prompt_id=prompt, embeddings=vectors.tobytes(), correct=[True] * count)


def _rollout(lines: list[str], entropy: float) -> p.EntropyRollout:
    """One token per character, newline tokens where the newlines are."""
    text = "\n".join(lines)
    ids = np.array([ord(character) for character in text], dtype="<i4")
    entropies = np.full(len(ids), entropy, dtype="<f4")
    ends = np.arange(1, len(ids) + 1, dtype="<i4")
    return p.EntropyRollout(
        token_ids=ids.tobytes(), entropies=entropies.tobytes(), text=text, token_ends=ends.tobytes()
    )


def test_a_solution_seen_before_is_not_novel_and_another_is(server: Server) -> None:
    server.novelty.CreateNamespace(
        n.CreateNamespaceRequest(namespace="texts", settings=n.NamespaceSettings(min_history=1))
    )
    known = "3 + 4 = 7\n7 + 5 = 12\n\\boxed{12}"
    other = "By symmetry the sum is three times the middle number, four, which gives twelve."
    first = n.Group(prompt_id="q", texts=[known, "wrong"], correct=[True, False])
    server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="texts", groups=[first]))
    second = n.Group(prompt_id="q", texts=[known, other, "nonsense"], correct=[True, True, False])
    (scores,) = server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="texts", groups=[second])).groups
    assert (scores.memory_before, scores.memory_after) == (1, 3)
    same, different, wrong = _novelty(scores)
    assert same == pytest.approx(0, abs=1e-5)
    assert different > 0.3
    assert wrong == 0


def test_a_bad_group_is_refused_by_field_and_its_neighbours_are_scored(server: Server) -> None:
    server.novelty.CreateNamespace(n.CreateNamespaceRequest(namespace="bad"))
    vectors = np.ones((2, 4), dtype="<f4")
    nan, zero = vectors.copy(), vectors.copy()
    nan[1, 2], zero[0] = np.nan, 0
    good = n.Group(prompt_id="good", embeddings=vectors.tobytes(), correct=[True, True])
    groups = [
        good,
        n.Group(prompt_id="a", embeddings=nan.tobytes(), correct=[True, True]),
        n.Group(prompt_id="a", embeddings=zero.tobytes(), correct=[True, True]),
        n.Group(prompt_id="a", embeddings=vectors.tobytes(), correct=[True] * 3),
        n.Group(prompt_id="a", texts=["x"], correct=[True, True]),
        n.Group(prompt_id="a", texts=["x", ""], correct=[True, True]),
        n.Group(prompt_id="a", texts=["x", "y" * 10_000_000], correct=[True, False]),
        n.Group(prompt_id="", embeddings=vectors.tobytes(), correct=[True, True]),
        n.Group(prompt_id="a", embeddings=np.ones((2, 5), dtype="<f4").tobytes(), correct=[True, True]),
        good,
    ]
    answers = server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="bad", groups=groups)).groups
    fields = [answer.error.field for answer in answers]
    expected = ["embeddings[1]", "embeddings[0]", "embeddings", "texts", "texts[1]", "texts[1]", "prompt_id"]
    assert fields == ["", *expected, "embeddings", ""]
    assert all(a.error.code == code_pb2.INVALID_ARGUMENT for a in answers[1:-1])
    assert (answers[0].memory_after, answers[-1].memory_after) == (2, 4)
    described = server.novelty.DescribeNamespace(n.DescribeNamespaceRequest(namespace="bad"))
    assert (described.prompts, described.solutions, described.dimension) == (1, 4, 4)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (n.ScoreGroupsRequest(namespace="missing"), grpc.StatusCode.NOT_FOUND),
        (
            n.ScoreGroupsRequest(namespace="bad", groups=[n.Group(prompt_id="a", correct=[True] * 100_000)]),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ],
)
def test_a_request_that_cannot_be_served_at_all_fails_as_a_whole(
    server: Server, request_: n.ScoreGroupsRequest, code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        server.novelty.ScoreGroups(request_)
    assert failure.value.code() == code


def test_namespaces_keep_their_settings_and_refuse_others(server: Server) -> None:
    settings = n.NamespaceSettings(memory_capacity=4, min_history=2, memory_policy=n.MEMORY_POLICY_ALL)
    made = server.novelty.CreateNamespace(n.CreateNamespaceRequest(namespace="mine", settings=settings))
    assert made.created
    assert made.settings.prefix_capacity == 128
    again = server.novelty.CreateNamespace(n.CreateNamespaceRequest(namespace="mine", settings=settings))
    assert not again.created
    with pytest.raises(grpc.RpcError) as failure:
        server.novelty.CreateNamespace(n.CreateNamespaceRequest(namespace="mine"))
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.RpcError) as failure:
        server.novelty.CreateNamespace(n.CreateNamespaceRequest(namespace="no spaces"))
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_snapshot_restores_memory_and_keys_as_they_were(server: Server) -> None:
    def score(key: str, seed: int) -> n.ScoreGroupsResponse:
        return server.novelty.ScoreGroups(
            n.ScoreGroupsRequest(namespace="run", groups=[_embedded_group("q", seed)], idempotency_key=key)
        )

    server.novelty.CreateNamespace(n.CreateNamespaceRequest(namespace="run"))
    score("step-1", 1)
    copied = server.novelty.CopyNamespace(n.CopyNamespaceRequest(source="run", destination="run@1"))
    assert copied.solutions == 8
    after = score("step-2", 2)
    with pytest.raises(grpc.RpcError) as failure:
        server.novelty.CopyNamespace(n.CopyNamespaceRequest(source="run@1", destination="run"))
    assert failure.value.code() == grpc.StatusCode.ALREADY_EXISTS
    server.novelty.CopyNamespace(n.CopyNamespaceRequest(source="run@1", destination="run", replace=True))
    assert score("step-1", 1).replayed
    repeated = score("step-2", 2)
    assert not repeated.replayed
    assert repeated.groups[0].novelty == after.groups[0].novelty
    names = server.novelty.ListNamespaces(n.ListNamespacesRequest()).namespaces
    assert {"run", "run@1"} <= set(names)
    assert server.novelty.DeleteNamespace(n.DeleteNamespaceRequest(namespace="run@1")).existed
    assert not server.novelty.DeleteNamespace(n.DeleteNamespaceRequest(namespace="run@1")).existed


def test_scoring_only_remembers_nothing_and_remembering_only_scores_nothing(server: Server) -> None:
    def score(mode: n.ScoreMode.ValueType, seed: int) -> n.GroupScores:
        request = n.ScoreGroupsRequest(namespace="modes", groups=[_embedded_group("q", seed)], mode=mode)
        return server.novelty.ScoreGroups(request).groups[0]

    server.novelty.CreateNamespace(n.CreateNamespaceRequest(namespace="modes"))
    remembered = score(n.SCORE_MODE_REMEMBER_ONLY, 1)
    assert not _novelty(remembered).any()
    assert remembered.memory_after == 8
    first = score(n.SCORE_MODE_SCORE_ONLY, 2)
    assert _novelty(first).all()
    assert first.memory_after == 8
    assert score(n.SCORE_MODE_SCORE_ONLY, 2).novelty == first.novelty


def test_a_namespace_of_sent_embeddings_refuses_texts(server: Server) -> None:
    server.novelty.CreateNamespace(n.CreateNamespaceRequest(namespace="sent"))
    server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="sent", groups=[_embedded_group("q", 1)]))
    text = n.Group(prompt_id="q", texts=["x"], correct=[True])
    with pytest.raises(grpc.RpcError) as failure:
        server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="sent", groups=[text]))
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_the_most_confident_rollout_is_cut_at_its_newlines_and_the_prefix_is_handed_out(
    server: Server,
) -> None:
    server.novelty.CreateNamespace(n.CreateNamespaceRequest(namespace="prefix"))
    lines = [
        "first we look at the numbers given here",
        "then we add them, one after another",
        "and so the end",
    ]
    confident, unsure = _rollout(lines, 0.1), _rollout(["no idea at all"], 0.9)
    added = server.prefix.AddRollouts(
        p.AddRolloutsRequest(
            namespace="prefix",
            prompts=[
                p.HardPrompt(prompt_id="q", rollouts=[unsure, confident]),
                p.HardPrompt(prompt_id="empty"),
            ],
            newline_token_ids=[NEWLINE],
        )
    )
    assert (added.prompts[0].rollout_index, added.prompts[0].lengths) == (1, [len(lines[0]) + 1])
    assert added.prompts[1].error.field == "rollouts"
    selected, missing = server.prefix.SelectPrefixes(
        p.SelectPrefixesRequest(namespace="prefix", prompt_ids=["q", "other"])
    ).prefixes
    assert selected.text == lines[0] + "\n"
    assert len(selected.token_ids) == 4 * len(selected.text)
    assert selected.smoothed_entropy == pytest.approx(0.1)
    assert missing.error.code == code_pb2.NOT_FOUND
    (none,) = server.prefix.SelectPrefixes(
        p.SelectPrefixesRequest(namespace="prefix", prompt_ids=["other"], policy=p.SELECTION_POLICY_NONE)
    ).prefixes
    assert (none.prefix_id, none.token_ids, none.error.code) == ("", b"", 0)
    errors = server.prefix.ReportOutcomes(
        p.ReportOutcomesRequest(
            namespace="prefix",
            outcomes=[
                p.Outcome(prompt_id="q", prefix_id=selected.prefix_id, rollouts=8, successes=2),
                p.Outcome(prompt_id="q", rollouts=8, successes=1),
                p.Outcome(prompt_id="q", prefix_id="7-gone", rollouts=8, successes=1),
                p.Outcome(prompt_id="q", rollouts=8, successes=9),
            ],
        )
    ).errors
    assert [error.code for error in errors] == [0, 0, code_pb2.NOT_FOUND, code_pb2.INVALID_ARGUMENT]


def test_shortest_and_random_prefixes_are_chosen_as_asked(server: Server) -> None:
    server.novelty.CreateNamespace(n.CreateNamespaceRequest(namespace="policies"))
    lines = [f"line {number} with some words, long enough to be kept" for number in range(6)]
    server.prefix.AddRollouts(
        p.AddRolloutsRequest(
            namespace="policies",
            prompts=[p.HardPrompt(prompt_id="q", rollouts=[_rollout(lines, 0.5)])],
            newline_token_ids=[NEWLINE],
        )
    )

    def select(policy: p.SelectionPolicy.ValueType, seed: int = 0) -> p.SelectedPrefix:
        return server.prefix.SelectPrefixes(
            p.SelectPrefixesRequest(namespace="policies", prompt_ids=["q"], policy=policy, seed=seed)
        ).prefixes[0]

    assert select(p.SELECTION_POLICY_SHORTEST).text == lines[0] + "\n"
    drawn = [select(p.SELECTION_POLICY_RANDOM, seed).prefix_id for seed in range(20)]
    assert len(set(drawn)) > 1
    assert drawn == [select(p.SELECTION_POLICY_RANDOM, seed).prefix_id for seed in range(20)]


def test_a_namespace_that_began_with_wrong_rollouts_takes_right_ones_later(server: Server) -> None:
    server.novelty.CreateNamespace(n.CreateNamespaceRequest(namespace="late"))
    wrong = n.Group(prompt_id="q", texts=["a", "b"], correct=[False, False])
    right = n.Group(prompt_id="q", texts=["2 + 2 = 4", "4"], correct=[True, True])
    (scores,) = server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="late", groups=[wrong])).groups
    assert _novelty(scores).tolist() == [0, 0]
    (scores,) = server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="late", groups=[right])).groups
    assert (scores.memory_before, scores.memory_after) == (0, 2)
