"""What plug-ins send besides lists of bools and texts, through the client to real servers."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from extra_client import (
    Group,
    InvalidArgumentError,
    NamespaceClient,
    NamespaceSettings,
    NoveltyClient,
    VerificationClient,
    VerifyOptions,
    aio,
)
from extra_client.integrations import NoveltyScoring, novelty_bonus
from extra_client.integrations.openrlhf import reward_function
from extra_client.integrations.verl import split_of
from extra_rl.v1 import novelty_pb2 as pb
from extra_rl.v1 import novelty_pb2_grpc
from support.novelty_server import Server
from support.verification_server import verification_server

EAGER = NamespaceSettings(min_history=1)
LIMIT = 20_000


@pytest.fixture(scope="module")
def novelty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("novelty")
    with Server(folder, "--embedder=none", f"--max-message-bytes={LIMIT}"):
        yield f"unix:{folder / 'socket'}"


@pytest.fixture(scope="module")
def verification(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("verification")
    with verification_server(folder, workers=1, max_message_bytes=LIMIT) as server:
        yield server.address


@pytest.mark.parametrize("reward", [-1.0, float("nan"), 0.1, "False", 1.0, 0, np.float32(1)])
def test_a_reward_in_the_place_of_correct_is_refused_and_nothing_is_stored(novelty: str, reward: Any) -> None:
    with NoveltyClient(novelty, "rewards") as client:
        embeddings = np.eye(3, dtype=np.float32)
        sent = [
            Group(prompt_id="p", embeddings=embeddings, correct=[True, True, last]) for last in (True, reward)
        ]
        with pytest.raises(InvalidArgumentError, match=r"groups\[1\].correct\[2\] is .* must be True, False"):
            client.score_groups(sent)
        with pytest.raises(InvalidArgumentError, match=r"correct\[0\] is .* such as reward > 0"):
            novelty_bonus(["p"], ["text"], [reward], client=client)
        with pytest.raises(InvalidArgumentError, match=r"^correct is "):
            client.collect_sample("p", "group", 1, 0, reward, embedding=embeddings[0])
    with NamespaceClient(novelty, "rewards") as namespaces:
        assert "rewards" not in namespaces.list_namespaces()


def test_a_function_that_decides_must_not_return_a_reward() -> None:
    silent = NoveltyScoring(target="localhost:1", namespace="n", alpha=0)
    reward = reward_function(lambda _response, _label: 0.1, silent, group_size=1)  # type: ignore[arg-type,return-value]
    with pytest.raises(
        InvalidArgumentError, match=r"what verify returned is 0\.1 \(float\), but must be True"
    ):
        reward(["1 + 1 = 2"], ["1 + 1 = "], ["2"])


@pytest.mark.parametrize(
    "extra_info", [None, {}, {"split": None}, {"split": float("nan")}, {"split": "train"}]
)
def test_a_row_of_verl_without_a_split_is_trained_on(extra_info: dict[str, Any] | None) -> None:
    assert split_of(extra_info) == "train"
    assert split_of({"split": "test"}) == "test"


def test_bools_of_numpy_and_torch_count_as_pythons_own(novelty: str) -> None:
    embeddings = np.eye(3, dtype=np.float32)
    rewards = np.array([1.0, 0.0, 1.0])
    scores = []
    for name, correct in [
        ("lists", [True, None, True]),
        ("numpy", rewards > 0),
        ("torch", torch.tensor(rewards) > 0),
    ]:
        with NoveltyClient(novelty, f"bools-{name}", EAGER) as client:
            for vectors in (embeddings[:1], embeddings):
                found = client.score("p", embeddings=vectors, correct=correct[: len(vectors)])
            scores.append(found.tolist())
    assert scores == [[0, 0, 1]] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_embeddings_may_be_tensors_of_any_dtype_and_token_ids_too(novelty: str, dtype: torch.dtype) -> None:
    rows = torch.tensor([[2, 0, 0], [0, 4, 0]], dtype=dtype, requires_grad=dtype.is_floating_point)
    ids = [torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6], dtype=torch.int32)]
    with NoveltyClient(novelty, f"tensors-{dtype}", EAGER) as client:
        for vectors in (rows, list(rows)):
            novelties = client.score("p", embeddings=vectors, correct=[True, True])
        assert novelties.tolist() == [0, 0]
        counted = client.score(
            "q", texts=["a", "b"], token_ids=ids, correct=[True, True], metric="ngram_count"
        )
        assert counted.shape == (2,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_embeddings_may_be_on_a_gpu(novelty: str) -> None:
    rows = torch.eye(3, device="cuda", dtype=torch.bfloat16)
    with NoveltyClient(novelty, "gpu", EAGER) as client:
        assert client.score("p", embeddings=rows, correct=rows.sum(1) > 0).tolist() == [0, 1, 1]


def test_a_response_that_is_none_has_no_novelty_and_no_verdict(novelty: str, verification: str) -> None:
    with NoveltyClient(novelty, "none", EAGER) as client:
        ids = [[1, 2, 3], [], [4, 5, 6]]
        texts = ["a b c", None, "d e f"]
        for _ in range(2):
            scores = client.score("p", texts=texts, token_ids=ids, correct=[True] * 3, metric="ngram_count")
        assert scores[1] == 0
        assert scores[0] > 0
        sample = client.collect_sample("q", "g", 1, 0, True, text=None, metric="ngram_count")
        assert sample.novelty == 0
    with VerificationClient(verification) as client:
        verdicts = client.verify([r"\boxed{2}", None], ["2", "2"])  # type: ignore[list-item]
        assert [verdict.correct for verdict in verdicts] == [True, None]


def groups(count: int) -> list[Group]:
    """Groups of 2 kB."""
    vectors = np.eye(2, 250, dtype=np.float32)
    return [Group(prompt_id=f"p{place}", embeddings=vectors, correct=[True, True]) for place in range(count)]


async def test_a_batch_above_the_message_limit_is_sent_in_parts_and_counts_once(
    novelty: str, verification: str
) -> None:
    with NoveltyClient(novelty, "parts") as client:
        found = [client.score_groups(groups(30), idempotency_key="step") for _ in range(2)]
    async with aio.NoveltyClient(novelty, "parts") as asynchronous:
        found.append(await asynchronous.score_groups(groups(30), idempotency_key="step"))
    for first, *again in zip(*found, strict=True):
        assert first.error is None
        assert not first.replayed
        assert all(each.replayed for each in again)
        assert len({each.novelty.tobytes() for each in (first, *again)}) == 1
    with NamespaceClient(novelty, "parts") as namespaces:
        stored = {prompt.prompt_id: prompt.solutions for prompt in namespaces.list_prompts()}
    assert stored == {f"p{place}": 2 for place in range(30)}

    responses = [f"{'word ' * 300} \\boxed{{{place}}}" for place in range(50)]
    answers = [str(place if place % 7 else -1) for place in range(50)]
    with VerificationClient(verification) as client:
        verdicts = client.verify(responses, answers)
        assert [verdict.correct for verdict in verdicts] == [bool(place % 7) for place in range(50)]
        # One item too large for any message: nothing is sent in parts.
        with pytest.raises(InvalidArgumentError, match="raise the server's --max-message-bytes"):
            client.verify([*responses, "z" * LIMIT], [*answers, "1"])


def test_the_text_of_an_error_is_cut_to_what_arrives(verification: str) -> None:
    name = "é" * 9_000
    with VerificationClient(verification) as client, pytest.raises(InvalidArgumentError) as caught:
        client.verify(["1"], ["1"], method="custom", options=VerifyOptions(verifier=name))
    assert caught.value.field == "items[0].options.verifier"
    assert "bytes left out" in caught.value.message
    assert caught.value.message.endswith("installed are: none")


@pytest.mark.slow
def test_pings_of_other_clients_every_few_seconds_are_tolerated(novelty: str) -> None:
    """A silent call and an idle connection outlive 30 s of them, in which gRPC's defaults end both."""
    pings = [
        ("grpc.keepalive_time_ms", 6_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    connected, dropped = threading.Event(), threading.Event()

    def watch(state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            connected.set()
        elif connected.is_set():
            dropped.set()

    with grpc.insecure_channel(novelty, pings) as idle, grpc.insecure_channel(novelty, pings) as busy:
        idle.subscribe(watch, try_to_connect=True)
        assert connected.wait(60)
        novelty_pb2_grpc.NoveltyServiceStub(idle).GetInfo(pb.NoveltyServiceGetInfoRequest(), timeout=60)
        with NamespaceClient(novelty, "pings") as namespaces:
            namespaces.create()
        # Its second sample never comes: it is answered when the wait is over.
        request = pb.CollectSampleRequest(
            namespace="pings",
            prompt_id="p",
            group_id="g",
            group_size=2,
            correct=True,
            embedding=np.ones(3, np.float32).tobytes(),
            wait_seconds=30,
        )
        answer = novelty_pb2_grpc.NoveltyServiceStub(busy).CollectSample(request, timeout=200)
        assert answer.samples == 1
        assert not dropped.is_set()
