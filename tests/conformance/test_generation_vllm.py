"""vLLM behind the service, with SmolLM2-135M: its numbers equal a plain forward pass.

vLLM starts slowly, so all tests use one server, in this order. They are skipped if vLLM is not installed.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from transformers import AutoModelForCausalLM

from extra_rl.v1 import generation_pb2 as pb
from support.generation_models import make_smollm2, why_vllm_cannot_run
from support.generation_server import (
    Served,
    all_tokens,
    assert_continues_as_if_never_interrupted,
    assert_rollout_agrees,
    compare_truncated_with_a_plain_forward_pass,
    compare_with_a_plain_forward_pass,
    encode,
    floats,
    prompt,
    request,
    rollouts,
    served,
    tokens,
)

pytestmark = [
    pytest.mark.skipif(bool(why_vllm_cannot_run()), reason=why_vllm_cannot_run()),
    pytest.mark.timeout(900),
]

TEXTS = ["What is 17 + 25?", "Name three\ncolours:", "Once upon a time", "1, 2, 3,", "def add(a, b):"]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_smollm2(tmp_path_factory.mktemp("smollm2") / "model")


@pytest.fixture(scope="module")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    flags = ["--engine", "vllm", "--max-batch", "32", "--max-model-len", "2048", "--kv-cache-gib", "2"]
    with served(tmp_path_factory.mktemp("vllm"), smollm2, *flags) as running:
        yield running


def changed(model: Path, folder: Path, seed: int) -> Path:
    """Save the model with slightly different tensors."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter += 0.1 * parameter.std() * torch.randn_like(parameter)
    loaded.save_pretrained(folder)
    return folder


def test_a_thousand_tokens_in_mixed_batches_agree_with_a_plain_forward_pass(server: Served) -> None:
    assert compare_with_a_plain_forward_pass(server, TEXTS, tolerance=1e-3, tokens_each=40, top_p=0.9) >= 1000


@pytest.mark.parametrize(
    "filters", [{"top_p": 0.9}, {"min_p": 0.05}], ids=lambda filters: next(iter(filters))
)
def test_numbers_of_the_distribution_drawn_from_agree_with_a_plain_forward_pass(
    server: Served, filters: dict[str, float]
) -> None:
    compared = compare_truncated_with_a_plain_forward_pass(
        server, TEXTS, tolerance=1e-3, tokens_each=20, **filters
    )
    assert compared >= 100


def test_a_greedy_token_is_drawn_from_all_tokens(server: Served) -> None:
    wanted = request([prompt(TEXTS[0])], max_tokens=5, temperature=0.0)
    wanted.truncated = True
    rollout = rollouts(server, wanted)[0, 0]
    np.testing.assert_allclose(floats(rollout.kept_masses), 1.0, atol=1e-5)
    np.testing.assert_allclose(floats(rollout.truncated_logprobs), floats(rollout.logprobs), atol=1e-5)
    np.testing.assert_allclose(floats(rollout.truncated_entropies), floats(rollout.entropies), atol=1e-3)


def test_a_resumed_greedy_sample_continues_as_if_never_interrupted(server: Served) -> None:
    assert_continues_as_if_never_interrupted(server, TEXTS[2], 40, 17)


def test_a_known_prompt_comes_from_the_cache_and_the_time_is_accounted_for(server: Served) -> None:
    long = prompt("The quick brown fox jumps over the lazy dog. " * 30)
    first = rollouts(server, request([long], n=40, max_tokens=4, min_tokens=4))
    again = rollouts(server, request([long], n=1, max_tokens=4, min_tokens=4))[0, 0]
    assert again.cached_prompt_tokens >= 128
    waited = [rollout.timings.queue_seconds for rollout in first.values()]
    assert max(waited) > min(waited) >= 0  # 40 samples, of which 32 run at once
    assert all(r.timings.prefill_seconds > 0 and r.timings.decode_seconds > 0 for r in first.values())


def test_samples_of_a_cancelled_call_do_not_go_on(server: Served) -> None:
    call = server.stub.Generate(
        request([prompt(TEXTS[0])], n=500, max_tokens=1500, min_tokens=1500), timeout=2
    )
    with pytest.raises(grpc.RpcError) as late:
        list(call)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    # Would wait for hours behind the 500 samples.
    assert len(rollouts(server, request([prompt(TEXTS[0])], n=2, max_tokens=4))) == 2


def test_seed_streaming_stops_and_bad_prompts_are_as_with_the_other_engine(server: Served) -> None:
    wanted = request(
        [prompt(TEXTS[0]), prompt(""), prompt(TEXTS[3])], n=2, seed=5, max_tokens=12, min_tokens=4
    )
    wanted.stream_tokens = True
    events = list(server.stub.Generate(wanted))
    assert [e.prompt_error.error.field for e in events if e.HasField("prompt_error")] == ["token_ids"]
    found = {
        (e.rollout.prompt_index, e.rollout.sample_index): tokens(e.rollout)
        for e in events
        if e.HasField("rollout")
    }
    for place, drawn in found.items():
        streamed = [
            e.token.token_id
            for e in events
            if (e.token.prompt_index, e.token.sample_index) == place and e.HasField("token")
        ]
        assert streamed == drawn
        assert len(drawn) >= 4
    again = request([prompt(TEXTS[0])], n=2, seed=5, max_tokens=12, min_tokens=4)
    assert all_tokens(rollouts(server, again)) == {place: found[place] for place in ((0, 0), (0, 1))}
    stopped = rollouts(
        server, request([prompt(TEXTS[3])], max_tokens=40, temperature=0.0, stop_strings=["7"])
    )[0, 0]
    assert stopped.finish_reason == pb.FINISH_REASON_STOP
    assert "7" not in stopped.text


@pytest.mark.parametrize("in_flight", [pb.IN_FLIGHT_WAIT, pb.IN_FLIGHT_ABORT, pb.IN_FLIGHT_KEEP])
def test_weights_change_under_samples_in_flight(server: Served, in_flight: pb.InFlight.ValueType) -> None:
    version = server.stub.GetInfo(pb.GenerationServiceGetInfoRequest()).policy_version
    old = server.root / f"step{version}" if version else server.model
    new = changed(server.model, server.root / f"step{version + 1}", seed=version)
    # Long enough that on a busy machine the new weights are there before the samples end.
    length = {pb.IN_FLIGHT_WAIT: 48, pb.IN_FLIGHT_ABORT: 900, pb.IN_FLIGHT_KEEP: 300}[in_flight]
    wanted = request([prompt(TEXTS[0]), prompt(TEXTS[2])], n=2, max_tokens=length, min_tokens=length)
    wanted.stream_tokens = True
    update = pb.UpdateWeightsRequest(path=new.name, policy_version=version + 1, in_flight=in_flight)
    updating = threading.Thread(target=server.stub.UpdateWeights, args=(update,))
    found = []
    for event in server.stub.Generate(wanted):
        if event.HasField("rollout"):
            found.append(event.rollout)
        elif event.token.token_index == 5 and not updating.ident:
            updating.start()
    updating.join()
    assert server.stub.GetInfo(pb.GenerationServiceGetInfoRequest()).policy_version == version + 1
    for rollout in found:
        context = encode(server, TEXTS[0 if rollout.prompt_index == 0 else 2])
        start = rollout.policy_changes[0].token_index if rollout.policy_changes else len(tokens(rollout))
        assert_rollout_agrees(rollout, old, context, end=start, atol=1e-3)
        assert_rollout_agrees(rollout, new, context, start=start, atol=1e-3)
    reasons = {rollout.finish_reason for rollout in found}
    assert (reasons == {pb.FINISH_REASON_ABORT}) == (in_flight == pb.IN_FLIGHT_ABORT)
    assert all(bool(r.policy_changes) == (in_flight == pb.IN_FLIGHT_KEEP) for r in found)
    after = rollouts(server, request([prompt(TEXTS[0])], n=2, max_tokens=20))
    for rollout in after.values():
        assert rollout.policy_version == version + 1
        assert_rollout_agrees(rollout, new, encode(server, TEXTS[0]), atol=1e-3)


def test_wrong_weights_are_refused_and_the_old_ones_keep_serving(server: Served, smollm2: Path) -> None:
    before = rollouts(server, request([prompt(TEXTS[0])], n=2, max_tokens=20))
    loaded = AutoModelForCausalLM.from_pretrained(smollm2)
    with torch.no_grad():
        loaded.model.norm.weight[3] = torch.nan
    loaded.save_pretrained(server.root / "nan")
    with pytest.raises(grpc.RpcError) as refused:
        server.stub.UpdateWeights(pb.UpdateWeightsRequest(path="nan", policy_version=99))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    after = rollouts(server, request([prompt(TEXTS[0])], n=2, max_tokens=20))
    assert all_tokens(after) == all_tokens(before)


def test_a_killed_engine_fails_calls_at_once_and_comes_back_with_its_weights(server: Served) -> None:
    version = server.stub.GetInfo(pb.GenerationServiceGetInfoRequest()).policy_version
    call = server.stub.Generate(request([prompt(TEXTS[0])], n=4, max_tokens=1500, min_tokens=1500))
    expected = rollouts(server, request([prompt(TEXTS[0])], n=2, max_tokens=8))
    core = next(
        c for c in psutil.Process(server.process.pid).children() if "EngineCore" in " ".join(c.cmdline())
    )
    core.kill()
    with pytest.raises(grpc.RpcError) as failed:
        list(call)
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        name = health_pb2.HealthCheckRequest(service="extra_rl.v1.GenerationService")
        watched = health.Watch(name)
        seen = []
        for answer in watched:
            seen.append(answer.status)
            if seen[-1] == health_pb2.HealthCheckResponse.SERVING and len(seen) > 1:
                break
            if seen[-1] == health_pb2.HealthCheckResponse.NOT_SERVING:
                with pytest.raises(grpc.RpcError) as refused:
                    list(server.stub.Generate(request([prompt(TEXTS[0])])))
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        watched.cancel()
    assert health_pb2.HealthCheckResponse.NOT_SERVING in seen
    again = rollouts(server, request([prompt(TEXTS[0])], n=2, max_tokens=8))
    assert {rollout.policy_version for rollout in again.values()} == {version}
    assert all_tokens(again) == all_tokens(expected)
