"""Replacing weights through the service: versions, refusals, samples in flight."""

import itertools
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from extra_rl.v1 import generation_pb2 as pb
from support.generation_models import make_model
from support.generation_server import (
    Served,
    all_tokens,
    assert_agreement_under_updates,
    assert_rollout_agrees,
    assert_stops_at_a_string_that_spans_an_update,
    encode,
    prompt,
    request,
    rollouts,
    served,
    tokens,
)

#: A window in which samples are still under way when new weights are there.
make = partial(make_model, max_position_embeddings=4096)
#: In the weight tests' server, which they share: versions only grow.
VERSIONS = itertools.count(101)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("generation")
    with served(folder, make(folder / "model"), "--max-batch", "8", "--policy-version", "100") as running:
        yield running


def update(
    server: Served, path: str, version: int, in_flight: pb.InFlight.ValueType = pb.IN_FLIGHT_WAIT
) -> pb.UpdateWeightsResponse:
    wanted = pb.UpdateWeightsRequest(path=path, policy_version=version, in_flight=in_flight)
    answer: pb.UpdateWeightsResponse = server.stub.UpdateWeights(wanted)
    return answer


def served_version(server: Served) -> int:
    return int(server.stub.GetInfo(pb.GenerationServiceGetInfoRequest()).policy_version)


def test_new_weights_are_served_under_their_version(server: Served) -> None:
    before, version = served_version(server), next(VERSIONS)
    folder = make(server.root / f"step{version}", seed=version)
    wanted = request([prompt("1+2=")], n=4)
    old = rollouts(server, wanted)
    answer = update(server, folder.name, version)
    assert (answer.policy_version, answer.previous_policy_version) == (version, before)
    assert answer.probe_max_difference < 1e-3
    wanted.min_policy_version = version
    new = rollouts(server, wanted)
    assert {r.policy_version for r in old.values()} == {before}
    assert {r.policy_version for r in new.values()} == {version}
    assert {r.cached_prompt_tokens for r in new.values()} == {0}  # what older weights computed is not used
    for rollout in new.values():
        assert_rollout_agrees(rollout, folder, encode(server, "1+2="))


def test_a_folder_may_be_overwritten_once_its_weights_are_served(server: Served) -> None:
    version = next(VERSIONS)
    folder = make(server.root / "reused", seed=version)
    update(server, "reused", version)
    wanted = request([prompt("1+2=")], n=2)
    before = rollouts(server, wanted)
    file = folder / "model.safetensors"
    with file.open("r+b") as handle:
        handle.seek(file.stat().st_size // 2)
        handle.write(bytes(file.stat().st_size // 2))
    assert all_tokens(rollouts(server, wanted)) == all_tokens(before)


def test_an_update_is_idempotent_and_versions_only_grow(server: Served) -> None:
    version = next(VERSIONS)
    folder = make(server.root / f"step{version}", seed=version)
    first = update(server, folder.name, version)
    shutil.rmtree(folder)
    assert update(server, folder.name, version) == first
    make(folder, seed=version)
    with pytest.raises(grpc.RpcError) as refused:
        update(server, folder.name, version - 1)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    wanted = request([prompt("1")])
    wanted.min_policy_version = version + 1
    with pytest.raises(grpc.RpcError) as refused:
        list(server.stub.Generate(wanted))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_wrong_weights_are_refused_and_the_old_ones_keep_serving(server: Served, tmp_path: Path) -> None:
    wanted, version = request([prompt("1+2=")], n=4), served_version(server)
    before = rollouts(server, wanted)
    root = server.root
    make(root / "wide", hidden_size=64)
    make(root / "deep", num_hidden_layers=3)
    make(root / "theta", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    make(root / "words", vocab_size=60)
    half = make(root / "half") / "model.safetensors"
    half.write_bytes(half.read_bytes()[:-1000])
    nan = AutoModelForCausalLM.from_pretrained(server.model)
    with torch.no_grad():
        nan.model.norm.weight[3] = torch.nan
    nan.save_pretrained(root / "nan")
    (root / "pickled").mkdir()
    shutil.copy(root / "wide" / "config.json", root / "pickled")
    torch.save({}, root / "pickled" / "pytorch_model.bin")
    outside = make(tmp_path / "outside")
    (root / "link").symlink_to(outside)
    for path in ("wide", "deep", "theta", "words", "half", "nan"):
        with pytest.raises(grpc.RpcError) as refused:
            update(server, path, version + 1)
        assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION, path
    for path in ("pickled", "missing", "../outside", str(outside), "link", "", "."):
        with pytest.raises(grpc.RpcError) as refused:
            update(server, path, version + 1)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT, path
    after = rollouts(server, wanted)
    assert all_tokens(after) == all_tokens(before)
    assert {r.policy_version for r in after.values()} == {version}


def chunks(folder: Path, size: int = 5000) -> Iterator[pb.StreamWeightsRequest]:
    """Yield the tensors of a model folder in chunks of `size` bytes."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            tensor = file.get_tensor(name)
            data = tensor.numpy().tobytes()
            for start in range(0, len(data), size):
                part = data[start : start + size]
                yield pb.StreamWeightsRequest(
                    chunk=pb.TensorChunk(name=name, dtype="F32", shape=tensor.shape, data=part)
                )


def header(version: int) -> pb.StreamWeightsRequest:
    return pb.StreamWeightsRequest(header=pb.WeightsHeader(policy_version=version))


def test_streamed_tensors_are_served_like_those_of_a_folder(server: Served, tmp_path: Path) -> None:
    version = next(VERSIONS)
    folder = make(tmp_path / "elsewhere", seed=version)
    answer = server.stub.StreamWeights(iter([header(version), *chunks(folder)]))
    assert (answer.policy_version, answer.probe_max_difference < 1e-3) == (version, True)
    for rollout in rollouts(server, request([prompt("1+2=")], n=4)).values():
        assert rollout.policy_version == version
        assert_rollout_agrees(rollout, folder, encode(server, "1+2="))


def test_a_wrong_stream_of_tensors_is_refused_and_changes_nothing(server: Served, tmp_path: Path) -> None:
    version = served_version(server)
    before = rollouts(server, request([prompt("1+2=")]))
    good = list(chunks(make(tmp_path / "elsewhere", seed=1)))
    huge = pb.StreamWeightsRequest(chunk=pb.TensorChunk(name="a", dtype="F32", shape=[10**9], data=b"0000"))
    strange = pb.StreamWeightsRequest(chunk=pb.TensorChunk(name="a", dtype="I8", shape=[1], data=b"0"))
    wrong = {
        "no header": good,
        "no tensors": [header(version + 1)],
        "a tensor is missing": [
            header(version + 1),
            *(m for m in good if m.chunk.name != good[-1].chunk.name),
        ],
        "a chunk is missing": [header(version + 1), *good[1:]],
        "a chunk comes twice": [header(version + 1), good[0], *good],
        "more than the model has": [header(version + 1), huge],
        "no format of weights": [header(version + 1), strange],
        "an older version": [header(version - 1), *good],
    }
    for what, messages in wrong.items():
        with pytest.raises(grpc.RpcError) as refused:
            server.stub.StreamWeights(iter(messages))
        expected = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
        assert refused.value.code() in expected, what
    assert served_version(server) == version
    assert all_tokens(rollouts(server, request([prompt("1+2=")]))) == all_tokens(before)


def update_in_the_middle(
    server: Served, in_flight: pb.InFlight.ValueType
) -> tuple[list[pb.Rollout], int, Path, Path]:
    """Update the weights while 8 long samples run; return rollouts, new version, old and new model."""
    old = make(server.root / f"step{(version := next(VERSIONS))}", seed=version)
    update(server, old.name, version)
    new = make(server.root / f"step{(version := next(VERSIONS))}", seed=version)
    wanted = request([prompt("1+2="), prompt("a much longer prompt")], n=4, max_tokens=200, min_tokens=200)
    wanted.stream_tokens = True
    found, under_way = [], set()
    updating = threading.Thread(target=update, args=(server, new.name, version, in_flight))
    for event in server.stub.Generate(wanted):
        if event.HasField("rollout"):
            found.append(event.rollout)
            continue
        under_way.add((event.token.prompt_index, event.token.sample_index))
        if len(under_way) == 8 and not updating.ident:
            updating.start()
    updating.join()
    assert len(found) == 8
    assert served_version(server) == version
    return found, version, old, new


PROMPTS = ["1+2=", "a much longer prompt"]


def test_waiting_lets_samples_in_flight_end_on_the_old_weights(server: Served) -> None:
    found, version, old, _ = update_in_the_middle(server, pb.IN_FLIGHT_WAIT)
    for rollout in found:
        assert (rollout.policy_version, len(tokens(rollout)), list(rollout.policy_changes)) == (
            version - 1,
            200,
            [],
        )
        assert_rollout_agrees(rollout, old, encode(server, PROMPTS[rollout.prompt_index]))


def test_aborting_returns_samples_in_flight_as_they_are(server: Served) -> None:
    found, version, old, _ = update_in_the_middle(server, pb.IN_FLIGHT_ABORT)
    assert {rollout.finish_reason for rollout in found} == {pb.FINISH_REASON_ABORT}
    for rollout in found:
        assert rollout.policy_version == version - 1
        assert 0 < len(tokens(rollout)) < 200
        assert_rollout_agrees(rollout, old, encode(server, PROMPTS[rollout.prompt_index]))


def test_keeping_goes_on_with_the_new_weights_and_names_the_token_where_they_begin(server: Served) -> None:
    found, version, old, new = update_in_the_middle(server, pb.IN_FLIGHT_KEEP)
    for rollout in found:
        change = rollout.policy_changes[0]
        assert (rollout.policy_version, change.policy_version) == (version - 1, version)
        assert 0 < change.token_index < 200
        context = encode(server, PROMPTS[rollout.prompt_index])
        assert_rollout_agrees(rollout, old, context, end=change.token_index)
        assert_rollout_agrees(rollout, new, context, start=change.token_index)


def test_rollouts_under_a_hundred_updates_agree_with_the_versions_they_name(server: Served) -> None:
    assert_agreement_under_updates(server, make, [next(VERSIONS) for _ in range(100)], atol=1e-4)


def test_a_stop_string_that_spans_an_update_is_found(server: Served) -> None:
    version = next(VERSIONS)
    assert next(VERSIONS) == version + 1
    assert_stops_at_a_string_that_spans_an_update(server, make, version)
