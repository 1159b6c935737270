"""The generation service as a caller meets it: a real server process, a real socket, a real (tiny) model."""

import asyncio
import hashlib
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from generation_models import EOS, make_model
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from transformers import AutoModelForCausalLM, AutoTokenizer

from extra_rl.v1 import generation_pb2 as pb
from extra_rl.v1 import generation_pb2_grpc


@dataclass
class Served:
    """A running server and what it serves."""

    stub: generation_pb2_grpc.GenerationServiceStub
    address: str
    model: Path
    root: Path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("generation") / "base")


def serve(tmp_path: Path, base: Path, *flags: str) -> Iterator[Served]:
    root = tmp_path / "weights"
    root.mkdir()
    address = tmp_path / "address"
    command = [sys.executable, "-m", "extra_cli", "serve", "generation", "--model", str(base)]
    command += [
        "--host",
        f"unix:{tmp_path}/socket",
        "--address-file",
        str(address),
        "--weights-root",
        str(root),
    ]
    command += ["--threads", "1", "--drain-seconds", "0", "--stop-with-stdin", *flags]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        while not address.exists():
            assert process.poll() is None, "the server ended while starting"
            time.sleep(0.05)
        with grpc.insecure_channel(address.read_text()) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            yield Served(stub, address.read_text(), base, root)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def shared(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the tests that change nothing."""
    yield from serve(tmp_path_factory.mktemp("shared"), base, "--max-batch", "16")


@pytest.fixture
def own(base: Path, tmp_path: Path) -> Iterator[Served]:
    """A server of its own for a test that changes weights or fills it up."""
    yield from serve(tmp_path, base, "--max-batch", "8", "--max-queue", "64", "--policy-version", "3")


def ids(values: list[int]) -> bytes:
    return np.array(values, "<i4").tobytes()


def prompt(text: str, prefix: list[int] | None = None) -> pb.Prompt:
    return pb.Prompt(text=text, prefix_token_ids=ids(prefix or []))


def request(
    prompts: list[pb.Prompt], n: int = 1, seed: int | None = 0, **sampling: object
) -> pb.GenerateRequest:
    sampling.setdefault("max_tokens", 24)
    return pb.GenerateRequest(prompts=prompts, n=n, seed=seed, sampling=pb.SamplingParams(**sampling))


def rollouts(served: Served, wanted: pb.GenerateRequest) -> dict[tuple[int, int], pb.Rollout]:
    events = list(served.stub.Generate(wanted))
    assert all(event.WhichOneof("event") == "rollout" for event in events)
    return {(event.rollout.prompt_index, event.rollout.sample_index): event.rollout for event in events}


def tokens(rollout: pb.Rollout) -> list[int]:
    return np.frombuffer(rollout.token_ids, "<i4").tolist()


def plain(model: Path, context: list[int], continuation: list[int], temperature: float = 1.0) -> np.ndarray:
    """float32 [2, length]: log-probability of each continuation token, and entropy where it was drawn."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        logits = loaded(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
    logprobs = torch.log_softmax(logits / temperature, -1)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    return np.stack([logprobs[range(len(continuation)), continuation].numpy(), entropies.numpy()])


def encode(served: Served, text: str) -> list[int]:
    return AutoTokenizer.from_pretrained(served.model).encode(text)


MIXED = ["1+2=", "what is (3*4)-5", "a", "let x = 17.\nthen 2*x is", "0"]


def test_logprobs_and_entropies_are_those_of_a_plain_forward_pass(shared: Served) -> None:
    mixed = [prompt(text) for text in MIXED]
    wanted = [
        request(mixed, n=4, seed=1, max_tokens=60),
        request(mixed, n=4, seed=2, max_tokens=60, temperature=0.7),
    ]
    calls = [shared.stub.Generate(one) for one in wanted]  # both in the batch at once
    compared = 0
    for one, call in zip(wanted, calls, strict=True):
        for event in call:
            drawn = event.rollout
            context = encode(shared, MIXED[drawn.prompt_index])
            temperature = one.sampling.temperature if one.sampling.HasField("temperature") else 1.0
            expected = plain(shared.model, context, tokens(drawn), temperature)
            np.testing.assert_allclose(np.frombuffer(drawn.logprobs, "<f4"), expected[0], atol=1e-4)
            np.testing.assert_allclose(np.frombuffer(drawn.entropies, "<f4"), expected[1], atol=1e-4)
            compared += len(tokens(drawn))
    assert compared > 500


def test_each_sample_ends_with_a_stop_token_or_at_max_tokens(shared: Served) -> None:
    comma = encode(shared, ",")[0]
    drawn = rollouts(shared, request([prompt("1+2=")], n=16, max_tokens=40, stop_token_ids=[comma]))
    reasons = {rollout.finish_reason for rollout in drawn.values()}
    assert reasons == {pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH}
    for rollout in drawn.values():
        found = tokens(rollout)
        assert not {EOS, comma} & set(found[:-1])
        assert (found[-1] in (EOS, comma)) == (rollout.finish_reason == pb.FINISH_REASON_STOP)
        assert len(found) == 40 or rollout.finish_reason == pb.FINISH_REASON_STOP


def test_a_resumed_greedy_sample_continues_as_if_never_interrupted(shared: Served) -> None:
    whole = rollouts(shared, request([prompt("12+3=")], max_tokens=40, temperature=0.0))[0, 0]
    for cut in (1, 7, len(tokens(whole)) - 1):
        head = tokens(whole)[:cut]
        rest = rollouts(shared, request([prompt("12+3=", head)], max_tokens=40 - cut, temperature=0.0))[0, 0]
        assert head + tokens(rest) == tokens(whole)
        assert rest.text == whole.text
        assert rest.prompt_tokens == whole.prompt_tokens + cut


def test_the_same_seed_gives_the_same_tokens_whatever_else_is_in_the_batch(shared: Served) -> None:
    wanted = request([prompt(t) for t in MIXED], n=2, seed=11, max_tokens=50)
    alone = {place: tokens(r) for place, r in rollouts(shared, wanted).items()}
    others = [
        shared.stub.Generate(request([prompt("z" * i)], n=8, seed=i, max_tokens=30)) for i in range(1, 5)
    ]
    together = {place: tokens(r) for place, r in rollouts(shared, wanted).items()}
    assert together == alone
    assert sum(1 for call in others for _ in call) == 32
    wanted.seed = 12
    assert {place: tokens(r) for place, r in rollouts(shared, wanted).items()} != alone


def test_tokens_follow_the_distribution_and_its_filters(shared: Served) -> None:
    context = encode(shared, "1+2=")
    model = AutoModelForCausalLM.from_pretrained(shared.model)
    with torch.no_grad():
        p = torch.softmax(model(torch.tensor([context])).logits[0, -1], -1).numpy()
    drawn = rollouts(shared, request([prompt("1+2=")], n=4000, seed=5, max_tokens=1))
    counts = np.bincount([tokens(r)[0] for r in drawn.values()], minlength=len(p))
    large = p * 4000 > 5
    assert ((counts - 4000 * p)[large] ** 2 / (4000 * p)[large]).sum() < 2.5 * large.sum()
    top = rollouts(shared, request([prompt("1+2=")], n=400, seed=5, max_tokens=1, top_k=3))
    assert {tokens(r)[0] for r in top.values()} == set(np.argsort(-p)[:3].tolist())
    nucleus = rollouts(shared, request([prompt("1+2=")], n=400, seed=5, max_tokens=1, top_p=0.5))
    kept = set(np.argsort(-p)[: int((np.cumsum(np.sort(p)[::-1]) < 0.5).sum()) + 1].tolist())
    assert {tokens(r)[0] for r in nucleus.values()} == kept


def test_info_tells_the_limits_and_a_vocabulary_hash_a_client_can_compute(shared: Served) -> None:
    info = shared.stub.GetInfo(pb.GetInfoRequest())
    vocab = AutoTokenizer.from_pretrained(shared.model).get_vocab()
    lines = "".join(f"{index}\t{token}\n" for token, index in sorted(vocab.items(), key=lambda item: item[1]))
    assert info.vocab_hash == hashlib.sha256(lines.encode()).hexdigest()
    assert (info.engine, info.vocab_size, info.max_model_len) == ("transformers", len(vocab), 256)
    assert list(info.eos_token_ids) == [EOS]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"n": 0}, "n"),
        ({"temperature": math.nan}, "sampling.temperature"),
        ({"temperature": -1.0}, "sampling.temperature"),
        ({"max_tokens": 0}, "sampling.max_tokens"),
        ({"top_p": 0.0}, "sampling.top_p"),
        ({"stop_token_ids": [3, 99]}, "sampling.stop_token_ids[1]"),
        ({"prompts": 10_000}, "prompts"),
        ({"prompts": 0}, "prompts"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(shared: Served, change: dict[str, object], field: str) -> None:
    prompts = [prompt("1")] * int(change.pop("prompts", 1))
    with pytest.raises(grpc.RpcError) as refused:
        list(shared.stub.Generate(request(prompts, **change)))
    status = rpc_status.from_call(refused.value)
    violation = error_details_pb2.BadRequest()
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert status.details[0].Unpack(violation)
    assert violation.field_violations[0].field == field


def test_a_bad_prompt_gets_an_error_of_its_own_and_its_neighbours_are_served(shared: Served) -> None:
    bad = [
        (pb.Prompt(token_ids=pb.TokenIds(ids=ids([3, 4000]))), "token_ids.ids[1]"),
        (pb.Prompt(text="1", prefix_token_ids=ids([-1])), "prefix_token_ids[0]"),
        (pb.Prompt(text="1" * 100, prefix_token_ids=ids([5] * 160)), "prefix_token_ids"),
        (pb.Prompt(text="1", prefix_token_ids=b"abc"), "prefix_token_ids"),
        (pb.Prompt(text=""), "token_ids"),
        (pb.Prompt(), "input"),
    ]
    events = list(shared.stub.Generate(request([prompt("1+2="), *(one for one, _ in bad), prompt("3")], n=2)))
    errors = {e.prompt_error.prompt_index: e.prompt_error.error for e in events if e.HasField("prompt_error")}
    assert {index: error.field for index, error in errors.items()} == {
        i + 1: f for i, (_, f) in enumerate(bad)
    }
    assert all(error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0] for error in errors.values())
    served = sorted((e.rollout.prompt_index, e.rollout.sample_index) for e in events if e.HasField("rollout"))
    assert served == [(0, 0), (0, 1), (7, 0), (7, 1)]


def test_a_full_queue_refuses_and_cancelling_frees_it(own: Served) -> None:
    long = request([prompt("1")], n=60, max_tokens=250)
    first = own.stub.Generate(long)
    next(first)  # it is in the engine now, and most of its samples wait
    with pytest.raises(grpc.RpcError) as refused:
        next(own.stub.Generate(long))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rpc_status.from_call(refused.value).details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    first.cancel()
    # Taken only once the cancelled samples have left the queue.
    assert len(rollouts_when_there_is_room(own, request([prompt("2")], n=60, max_tokens=2))) == 60


def rollouts_when_there_is_room(
    served: Served, wanted: pb.GenerateRequest
) -> dict[tuple[int, int], pb.Rollout]:
    while True:
        try:
            return rollouts(served, wanted)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise


def test_a_deadline_ends_the_work(own: Served) -> None:
    with pytest.raises(grpc.RpcError) as late:
        list(own.stub.Generate(request([prompt("1")], n=60, max_tokens=250), timeout=0.2))
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(rollouts_when_there_is_room(own, request([prompt("2")], n=60, max_tokens=2))) == 60


def update(served: Served, path: str, version: int) -> pb.UpdateWeightsResponse:
    return served.stub.UpdateWeights(pb.UpdateWeightsRequest(path=path, policy_version=version))


def test_new_weights_are_served_under_their_version(own: Served) -> None:
    make_model(own.root / "step4", seed=4)
    wanted = request([prompt("1+2=")], n=4)
    before = rollouts(own, wanted)
    answer = update(own, "step4", 4)
    assert (answer.policy_version, answer.previous_policy_version) == (4, 3)
    assert answer.probe_max_difference < 1e-3
    wanted.min_policy_version = 4
    after = rollouts(own, wanted)
    assert {r.policy_version for r in before.values()} == {3}
    assert {r.policy_version for r in after.values()} == {4}
    for rollout in after.values():
        expected = plain(own.root / "step4", encode(own, "1+2="), tokens(rollout))
        np.testing.assert_allclose(np.frombuffer(rollout.logprobs, "<f4"), expected[0], atol=1e-4)


def test_an_update_is_idempotent_and_versions_only_grow(own: Served) -> None:
    make_model(own.root / "step5", seed=5)
    first = update(own, "step5", 5)
    assert update(own, "step5", 5) == first
    with pytest.raises(grpc.RpcError) as refused:
        update(own, "step5", 4)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    wanted = request([prompt("1")])
    wanted.min_policy_version = 6
    with pytest.raises(grpc.RpcError) as refused:
        list(own.stub.Generate(wanted))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_wrong_weights_are_refused_and_the_old_ones_keep_serving(own: Served, tmp_path: Path) -> None:
    wanted = request([prompt("1+2=")], n=4)
    before = rollouts(own, wanted)
    make_model(own.root / "wide", hidden_size=64)
    make_model(own.root / "deep", num_hidden_layers=3)
    make_model(own.root / "theta", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    make_model(own.root / "words", vocab_size=60)
    make_model(own.root / "half")
    make_model(tmp_path / "outside")
    (own.root / "link").symlink_to(tmp_path / "outside")
    truncated = own.root / "half" / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    pickled = own.root / "pickled"
    pickled.mkdir()
    shutil.copy(own.root / "wide" / "config.json", pickled)
    torch.save({}, pickled / "pytorch_model.bin")
    for path in ("wide", "deep", "theta", "words", "half"):
        with pytest.raises(grpc.RpcError) as refused:
            update(own, path, 9)
        assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION, path
    for path in ("pickled", "missing", "../outside", str(tmp_path / "outside"), "link", "", "."):
        with pytest.raises(grpc.RpcError) as refused:
            update(own, path, 9)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT, path
    after = rollouts(own, wanted)
    assert {place: tokens(r) for place, r in after.items()} == {
        place: tokens(r) for place, r in before.items()
    }
    assert {r.policy_version for r in after.values()} == {3}


def test_rollouts_under_repeated_updates_agree_with_the_version_they_name(own: Served) -> None:
    folders = {3: own.model}
    for version in range(4, 12):
        folders[version] = make_model(own.root / f"step{version}", seed=version)
    seen: dict[int, pb.Rollout] = {}

    async def load() -> None:
        async with grpc.aio.insecure_channel(own.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)

            async def sample(seed: int) -> None:
                async for event in stub.Generate(request([prompt("1+2=")], n=3, seed=seed, max_tokens=40)):
                    seen[event.rollout.policy_version] = event.rollout

            running = [asyncio.create_task(sample(0))]
            for version in range(4, 12):
                running += [asyncio.create_task(sample(10 * version + i)) for i in range(4)]
                await stub.UpdateWeights(
                    pb.UpdateWeightsRequest(path=f"step{version}", policy_version=version)
                )
            await asyncio.gather(*running, sample(1))

    asyncio.run(load())
    assert len(seen) > 4
    for version, rollout in seen.items():
        expected = plain(folders[version], encode(own, "1+2="), tokens(rollout))
        np.testing.assert_allclose(np.frombuffer(rollout.logprobs, "<f4"), expected[0], atol=1e-4)
