"""Requests that the client builds and answers that it reads, without a connection."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extra_client import (
    EntropyRollout,
    FinishReason,
    Group,
    HardPrompt,
    InternalError,
    InvalidArgumentError,
    MemoryPolicy,
    NamespaceSettings,
    NotFoundError,
    OverloadedError,
    PromptError,
    ScoreMode,
    Verdict,
    VerdictStatus,
    _generation,
    _namespace,
    _novelty,
    _prefix,
    _transport,
    _verification,
    _weights,
    _wire,
    embedded,
)
from extra_client._transport import GENERATION, NOVELTY
from extra_client.errors import from_item
from extra_rl.v1 import common_pb2, generation_pb2, namespace_pb2, novelty_pb2, verification_pb2


def generate(prompts: Any, **changes: Any) -> generation_pb2.GenerateRequest:
    arguments: dict[str, Any] = {
        "n": 2,
        "max_tokens": 8,
        "prefixes": None,
        "seed": None,
        "temperature": 1.0,
    }
    request = _generation.generate(prompts, **(arguments | changes)).request
    assert isinstance(request, generation_pb2.GenerateRequest)
    return request


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_token_ids_come_back_as_they_were_sent(ids: list[int]) -> None:
    assert _wire.ints(_wire.int_bytes(ids, "ids")).tolist() == ids


@pytest.mark.parametrize("ids", [[0.5], [2**31], [[1, 2]], ["a"], [True]])
def test_what_is_no_list_of_token_ids_is_refused_by_name(ids: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"prompts\[1\]") as caught:
        generate([[1, 2], ids])
    assert caught.value.field == "prompts[1]"


def test_arrays_of_results_can_be_written_to() -> None:
    _wire.floats(b"\0\0\0\0")[0] = 1
    _wire.ints(b"\0\0\0\0")[0] = 1


def test_prompts_are_texts_or_ids_each_with_its_own_prefix() -> None:
    request = generate(["text", np.array([1, 2])], prefixes=[None, [3, 4]], seed=0)
    assert request.prompts[0].text == "text"
    assert request.prompts[0].prefix_token_ids == b""
    assert _wire.ints(request.prompts[1].token_ids.ids).tolist() == [1, 2]
    assert _wire.ints(request.prompts[1].prefix_token_ids).tolist() == [3, 4]
    assert request.HasField("seed")
    assert not generate(["text"]).HasField("seed")


@pytest.mark.parametrize(
    ("prompts", "changes", "field"),
    [
        ("text", {}, "prompts"),
        (["text"], {"prefixes": []}, "prefixes"),
        (["text"], {"seed_indices": [1, 2]}, "seed_indices"),
        (["text"], {"max_tokens_per_prompt": []}, "max_tokens_per_prompt"),
    ],
)
def test_a_lone_prompt_or_missing_prefix_is_refused_before_sending(
    prompts: Any, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        generate(prompts, **changes)
    assert caught.value.field == field


def test_a_conversation_is_sent_as_its_messages() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
    sent = generate([chat, "text"]).prompts[0].chat.messages
    assert [(message.role, message.content) for message in sent] == [
        ("system", "Be brief."),
        ("user", "1 + 1?"),
    ]
    with pytest.raises(InvalidArgumentError, match=r"prompts\[0\]"):
        generate([[{"role": "user"}]])


def test_a_misspelled_option_is_refused() -> None:
    with pytest.raises(TypeError, match="topp"):
        generate(["text"], topp=0.5)


def rollout(prompt: int, sample: int) -> Any:
    parse = _generation.generate(["a"], 1, 1, None, None, 1.0).parse
    return parse(
        generation_pb2.GenerateResponse(
            rollout=generation_pb2.Rollout(prompt_index=prompt, sample_index=sample, finish_reason=1)  # type: ignore[arg-type]
        )
    )


def test_rollouts_that_arrive_in_any_order_are_returned_by_prompt_and_sample() -> None:
    gathered = _generation.Gathered(2, 2)
    for place in [(1, 1), (0, 1), (1, 0), (0, 0)]:
        gathered.add(rollout(*place))
    gathered.check()
    places = [[(r.prompt_index, r.sample_index) for r in group] for group in gathered.groups()]
    assert places == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]


def test_a_stream_that_ends_before_all_rollouts_is_an_error() -> None:
    gathered = _generation.Gathered(2, 2)
    gathered.add(PromptError(1, NotFoundError("gone")))
    gathered.add(rollout(0, 1))
    with pytest.raises(InternalError, match="1 of 2 rollouts of prompt 0"):
        gathered.check()


def test_an_enum_value_of_a_newer_server_is_an_error_that_says_so() -> None:
    with pytest.raises(InternalError, match="upgrade"):
        _wire.member(FinishReason, 99)


def test_a_choice_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(InvalidArgumentError, match="score_and_remember, score_only, remember_only"):
        _novelty.score_groups("n", [], "embedding", "scores", None)


def reassembled(
    messages: list[generation_pb2.StreamWeightsRequest],
) -> dict[str, tuple[str, list[int], bytes]]:
    tensors: dict[str, tuple[str, list[int], bytes]] = {}
    for message in messages:
        chunk = message.chunk
        before = tensors.get(chunk.name, (chunk.dtype, list(chunk.shape), b""))
        tensors[chunk.name] = (*before[:2], before[2] + chunk.data)
    return tensors


def test_tensors_travel_in_chunks_in_their_own_number_format() -> None:
    import torch

    large = np.arange(_weights.CHUNK_BYTES // 4 + 10, dtype=np.float32).reshape(-1, 2)
    bfloat = torch.tensor([[1.5, -2.0], [0.0, 3.0]], dtype=torch.bfloat16).T
    sent: dict[str, Any] = {
        "large": large,
        "strided": large[:3, ::-1],
        "bfloat": torch.nn.Parameter(bfloat),
        "scalar": np.float16(2).reshape(()),
        "empty": np.zeros((0, 3), np.float32),
    }
    header, *chunks = _weights.messages(sent, 7, "abort")
    assert (header.header.policy_version, header.header.in_flight) == (7, generation_pb2.IN_FLIGHT_ABORT)
    assert max(len(chunk.chunk.data) for chunk in chunks) <= _weights.CHUNK_BYTES
    tensors = reassembled(chunks)
    assert tensors["large"] == ("F32", list(large.shape), large.tobytes())
    assert tensors["strided"] == ("F32", [3, 2], large[:3, ::-1].tobytes())
    assert tensors["bfloat"] == ("BF16", [2, 2], bfloat.contiguous().view(torch.uint8).numpy().tobytes())
    assert tensors["scalar"] == ("F16", [], np.float16(2).tobytes())
    assert tensors["empty"] == ("F32", [0, 3], b"")


def test_a_tensor_of_another_number_format_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgumentError, match="layer: is int64"):
        list(_weights.messages([("layer", np.zeros(1, np.int64))], 1, "wait"))


def verdict(status: str, side: str = "UNSPECIFIED") -> Verdict:
    message = verification_pb2.Verdict(
        status=f"VERDICT_STATUS_{status}",  # type: ignore[arg-type]
        unparseable_side=f"UNPARSEABLE_SIDE_{side}",  # type: ignore[arg-type]
    )
    return _verification.verify(["r"], ["a"], "math", None, None).parse(
        verification_pb2.VerifyResponse(verdicts=[message])
    )[0]


@pytest.mark.parametrize(
    ("status", "side", "correct"),
    [
        ("CORRECT", "UNSPECIFIED", True),
        ("WRONG", "UNSPECIFIED", False),
        ("UNPARSEABLE", "RESPONSE", False),
        ("UNPARSEABLE", "ANSWER", None),
        ("TIMEOUT", "UNSPECIFIED", None),
        ("ERROR", "UNSPECIFIED", None),
    ],
)
def test_an_undecided_verdict_is_neither_correct_nor_wrong(
    status: str, side: str, correct: bool | None
) -> None:
    assert verdict(status, side).correct is correct
    assert verdict(status, side).status is VerdictStatus[status]


def test_every_write_without_a_key_gets_one_of_its_own_and_a_read_none() -> None:
    def key(mode: str, given: str | None) -> str:
        request = _novelty.score_groups("n", [], "embedding", mode, given).request
        assert isinstance(request, novelty_pb2.ScoreGroupsRequest)
        return request.idempotency_key

    drawn = [key("score_and_remember", None), key("remember_only", None)]
    assert all(drawn)
    assert drawn[0] != drawn[1]
    assert key("score_and_remember", "mine") == "mine"
    assert key(ScoreMode.SCORE_ONLY, None) == ""
    assert _prefix.add_rollouts("n", [], [], None, None).request.idempotency_key
    assert _prefix.report_outcomes("n", [], None).request.idempotency_key


def test_embeddings_travel_row_by_row_and_undecided_counts_as_not_correct() -> None:
    embeddings = np.arange(6, dtype=np.float64).reshape(3, 2)[:, ::-1]
    group = Group(prompt_id="p", embeddings=embeddings, correct=[True, False, None])
    sent = _novelty.score_groups("n", [group], "embedding", "score_only", None).request.groups[0]
    assert _wire.floats(sent.embeddings).tolist() == [1, 0, 3, 2, 5, 4]
    assert list(sent.correct) == [True, False, False]


def test_settings_left_out_stay_absent() -> None:
    settings = NamespaceSettings(min_history=0, memory_policy=MemoryPolicy.ALL)
    sent = _namespace.create_namespace("n", settings).request.settings
    assert sent.HasField("min_history")
    assert not sent.HasField("memory_capacity")
    assert sent.memory_policy == namespace_pb2.MEMORY_POLICY_ALL


def test_a_bad_rollout_of_a_hard_prompt_is_named_by_its_path() -> None:
    bad = EntropyRollout(token_ids=[0.5], entropies=[0.1], text="a", token_ends=[1])
    with pytest.raises(InvalidArgumentError, match=r"prompts\[0\].rollouts\[0\].token_ids"):
        _prefix.add_rollouts("n", [HardPrompt("p", [bad])], [], None, None)


def test_the_error_of_an_item_is_an_exception_of_its_kind() -> None:
    assert from_item(common_pb2.Error()) is None
    invalid = from_item(common_pb2.Error(code=3, message="is empty", field="texts[2]"))
    assert isinstance(invalid, InvalidArgumentError)
    assert (invalid.field, invalid.message) == ("texts[2]", "texts[2]: is empty")
    assert isinstance(from_item(common_pb2.Error(code=8)), OverloadedError)


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("localhost", "localhost:50051"),
        ("host:1", "host:1"),
        ("dns:///name", "dns:///name:50051"),
        ("dns:///name:2", "dns:///name:2"),
        ("[::1]:3", "[::1]:3"),
        ("unix:/tmp/socket", "unix:/tmp/socket"),
    ],
)
def test_a_host_alone_gets_the_port_of_the_service(target: str, address: str) -> None:
    assert _transport.address(target, GENERATION) == address


def test_names_that_resolve_to_many_servers_are_balanced_and_single_ones_are_not() -> None:
    options = dict(_transport.channel_options("dns:///name:1", NOVELTY))
    assert "round_robin" in options["grpc.service_config"]
    assert "round_robin" not in dict(_transport.channel_options("host:1", NOVELTY))["grpc.service_config"]


def test_settings_of_an_embedded_service_become_flags() -> None:
    settings = {"memory_capacity": 8, "fast": True, "slow": False, "left_out": None, "scales": [1, 2]}
    assert list(embedded._flags(settings)) == [
        "--memory-capacity=8",
        "--fast",
        "--no-slow",
        "--scales=[1, 2]",
    ]


def test_a_request_is_split_into_parts_with_keys_of_their_own() -> None:
    rollouts = [EntropyRollout(token_ids=[1], entropies=[0.1], text="z" * 500, token_ends=[500])]
    prompts = [HardPrompt(f"p{place}", rollouts) for place in range(10)]
    whole = _prefix.add_rollouts("n", prompts, [13], 4, "key").request
    parts = _transport.split(whole, "prompts", 2_000)
    assert [part.idempotency_key for part in parts] == ["key/0-3", "key/3-6", "key/6-9", "key/9-10"]
    assert all(part.ByteSize() <= 2_000 for part in parts)
    assert [prompt for part in parts for prompt in part.prompts] == list(whole.prompts)
    assert {(part.namespace, part.min_segment_tokens, *part.newline_token_ids) for part in parts} == {
        ("n", 4, 13)
    }
    # One item too large for any message, or none at all: there is nothing to split.
    assert _transport.split(whole, "prompts", 500) == []
    assert _transport.split(_prefix.add_rollouts("n", [], [], None, "key").request, "prompts", 500) == []


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"prompt_id": 17}, "groups[0].prompt_id"),
        ({"reference_answer": 3}, "groups[0].reference_answer"),
        ({"texts": "ab"}, "groups[0].texts"),
        ({"texts": ["a", 2.5]}, "groups[0].texts[1]"),
    ],
)
def test_what_should_be_a_text_and_is_none_is_named(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError, match="text") as refused:
        _novelty._group(
            replace(Group(prompt_id="p", correct=[True, True], texts=["a", "b"]), **changed), "groups[0]"
        )
    assert refused.value.field == field


def test_arrays_of_texts_and_token_ids_are_lists() -> None:
    arrays: dict[str, Any] = {"texts": np.array(["a", "b"]), "token_ids": np.array([[1, 2], [3, 4]])}
    group = Group(prompt_id="p", correct=[True, True], **arrays)
    assert list(_novelty._group(group, "groups[0]").texts) == ["a", "b"]


def test_one_text_is_no_list_of_stop_strings() -> None:
    with pytest.raises(InvalidArgumentError, match="stop_strings"):
        _generation.generate(["1 + 2 ="], 1, 8, None, None, 1.0, stop_strings="49}")
