"""Generation through a real server process and a real socket, with a real (tiny) model."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from transformers import AutoModelForCausalLM, AutoTokenizer

from extra_rl.v1 import generation_pb2 as pb
from support.generation_models import EOS, make_model
from support.generation_server import (
    MIXED,
    Served,
    all_tokens,
    assert_continues_as_if_never_interrupted,
    compare_truncated_with_a_plain_forward_pass,
    encode,
    floats,
    ids,
    plain,
    prompt,
    request,
    rollouts,
    served,
    tokens,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve for all tests that change nothing."""
    folder = tmp_path_factory.mktemp("generation")
    with served(folder, make_model(folder / "model"), "--max-batch", "16", "--max-queue", "5000") as server:
        yield server


def test_logprobs_and_entropies_are_those_of_a_plain_forward_pass(shared: Served) -> None:
    mixed = [prompt(text) for text in MIXED]
    wanted = [
        request(mixed, n=4, seed=1, max_tokens=60),
        request(mixed, n=4, seed=2, max_tokens=60, temperature=0.7),
    ]
    for one in wanted:
        one.raw_entropies = True
    calls = [shared.stub.Generate(one) for one in wanted]  # both in the batch at once
    compared = 0
    for temperature, call in zip((1.0, 0.7), calls, strict=True):
        for event in call:
            drawn, context = event.rollout, encode(shared, MIXED[event.rollout.prompt_index])
            logprobs, entropies = plain(shared.model, context, tokens(drawn), temperature)
            np.testing.assert_allclose(floats(drawn.logprobs), logprobs, atol=1e-4)
            np.testing.assert_allclose(floats(drawn.entropies), entropies, atol=1e-4)
            raw = plain(shared.model, context, tokens(drawn))[1]
            np.testing.assert_allclose(floats(drawn.raw_entropies), raw, atol=1e-4)
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
    for cut in (1, 7, 20):
        assert_continues_as_if_never_interrupted(shared, "12+3=", 40, cut)


def test_the_same_seed_gives_the_same_tokens_whatever_else_is_in_the_batch(shared: Served) -> None:
    wanted = request([prompt(t) for t in MIXED], n=2, seed=11, max_tokens=50)
    alone = all_tokens(rollouts(shared, wanted))
    others = [
        shared.stub.Generate(request([prompt("z" * i)], n=8, seed=i, max_tokens=30)) for i in range(1, 5)
    ]
    together = all_tokens(rollouts(shared, wanted))
    assert together == alone
    assert sum(1 for call in others for _ in call) == 32
    wanted.seed = 12
    assert all_tokens(rollouts(shared, wanted)) != alone


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


def test_prompts_are_scored_as_a_plain_forward_pass_scores_them(shared: Served) -> None:
    wanted = request([prompt(text) for text in MIXED], n=2, max_tokens=1, temperature=0.5)
    before = rollouts(shared, wanted)
    assert not before[0, 0].prompt_logprobs
    wanted.prompt_logprobs = True
    for (index, sample), drawn in rollouts(shared, wanted).items():
        context = encode(shared, MIXED[index])
        # At temperature 1, whatever the temperature of the draws.
        logprobs, _ = plain(shared.model, context[:1], context[1:])
        found = floats(drawn.prompt_logprobs)
        np.testing.assert_allclose(found, logprobs, atol=1e-4)
        best, likeliest = floats(drawn.prompt_likeliest_logprobs), drawn.prompt_likeliest_ids
        for place, token in enumerate(np.frombuffer(likeliest, "<i4")):
            alone, _ = plain(shared.model, context[: place + 1], [int(token)])
            np.testing.assert_allclose(best[place], alone[0], atol=1e-4)
        assert (best >= found).all()
        # A prompt that is known to the cache is computed anew, and the draws stay the same.
        assert drawn.cached_prompt_tokens == 0
        assert tokens(drawn) == tokens(before[index, sample])


@pytest.mark.parametrize("filters", [{"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.2}], ids=str)
def test_the_truncated_distribution_comes_beside_the_whole_one(
    shared: Served, filters: dict[str, Any]
) -> None:
    compared = compare_truncated_with_a_plain_forward_pass(
        shared, MIXED, tolerance=1e-4, tokens_each=12, **filters
    )
    assert compared >= 60


def test_a_model_that_gives_nan_is_an_error_and_no_rollout(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():  # one broken token, as after an overflow
        model.model.embed_tokens.weight[2] = torch.nan
    model.save_pretrained(folder)
    with served(tmp_path, folder) as server:
        for stream in (False, True):
            wanted = request([prompt("1+2=0")], max_tokens=3)
            wanted.prompts[0].token_ids.ids = ids([3, 2])
            wanted.stream_tokens = stream
            with pytest.raises(grpc.RpcError, match="NaN") as refused:
                list(server.stub.Generate(wanted))
            assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_info_tells_the_limits_and_a_vocabulary_hash_a_client_can_compute(shared: Served) -> None:
    info = shared.stub.GetInfo(pb.GenerationServiceGetInfoRequest())
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
        ({"temperature": 1e-38}, "sampling.temperature"),
        ({"max_tokens": 0}, "sampling.max_tokens"),
        ({"top_p": 0.0}, "sampling.top_p"),
        ({"min_p": 1.0}, "sampling.min_p"),
        ({"min_tokens": 25}, "sampling.min_tokens"),
        ({"stop_strings": ["a", ""]}, "sampling.stop_strings[1]"),
        ({"stop_token_ids": [3, 99]}, "sampling.stop_token_ids[1]"),
        ({"prompts": 10_000}, "prompts"),
        ({"prompts": 0}, "prompts"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(shared: Served, change: dict[str, Any], field: str) -> None:
    prompts = [prompt("1")] * change.pop("prompts", 1)
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
        (pb.Prompt(text="1", max_tokens=25), "max_tokens"),
        (pb.Prompt(text="1", max_tokens=0), "max_tokens"),
    ]
    events = list(shared.stub.Generate(request([prompt("1+2="), *(one for one, _ in bad), prompt("3")], n=2)))
    errors = {e.prompt_error.prompt_index: e.prompt_error.error for e in events if e.HasField("prompt_error")}
    assert {index: error.field for index, error in errors.items()} == {
        i + 1: f for i, (_, f) in enumerate(bad)
    }
    assert all(error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0] for error in errors.values())
    served = sorted((e.rollout.prompt_index, e.rollout.sample_index) for e in events if e.HasField("rollout"))
    assert served == [(0, 0), (0, 1), (9, 0), (9, 1)]


def test_a_full_queue_refuses_and_cancelling_frees_it(shared: Served) -> None:
    long = request([prompt("1")], n=4000, max_tokens=250)
    first = shared.stub.Generate(long)
    next(first)  # it is in the engine now, and most of its samples wait
    with pytest.raises(grpc.RpcError) as refused:
        next(shared.stub.Generate(long))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rpc_status.from_call(refused.value).details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    first.cancel()
    # Taken only once the cancelled samples have left the queue.
    assert len(rollouts_when_there_is_room(shared, request([prompt("2")], n=4000, max_tokens=1))) == 4000


def test_a_deadline_ends_the_work(shared: Served) -> None:
    with pytest.raises(grpc.RpcError) as late:
        list(shared.stub.Generate(request([prompt("1")], n=4000, max_tokens=250), timeout=0.2))
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(rollouts_when_there_is_room(shared, request([prompt("2")], n=4000, max_tokens=1))) == 4000


def rollouts_when_there_is_room(
    served: Served, wanted: pb.GenerateRequest
) -> dict[tuple[int, int], pb.Rollout]:
    while True:
        try:
            return rollouts(served, wanted)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise


def test_min_p_and_min_tokens_restrict_what_is_drawn(shared: Served) -> None:
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(shared.model)(
            torch.tensor([encode(shared, "1+2=")])
        ).logits
    p = torch.softmax(logits[0, -1], -1).numpy()
    likely = rollouts(shared, request([prompt("1+2=")], n=400, seed=5, max_tokens=1, min_p=0.4))
    assert {tokens(r)[0] for r in likely.values()} == set(np.flatnonzero(p >= 0.4 * p.max()).tolist())
    every = [int(i) for i in range(2, 40)]
    late = rollouts(
        shared, request([prompt("1+2=")], n=32, max_tokens=12, min_tokens=6, stop_token_ids=every)
    )
    assert min(len(tokens(r)) for r in late.values()) == 6
    assert all(not {EOS, *every} & set(tokens(r)[:5]) for r in late.values())


def test_a_prompt_may_have_fewer_tokens_than_the_call_allows(shared: Served) -> None:
    short = pb.Prompt(text="1+2=", max_tokens=7)
    found = rollouts(shared, request([short, prompt("1+2=")], n=4, max_tokens=20, stop_token_ids=[]))
    drawn = all_tokens(found)
    assert max(len(drawn[0, sample]) for sample in range(4)) == 7
    assert max(len(drawn[1, sample]) for sample in range(4)) == 20
    wanted = request([short], n=2, max_tokens=20, min_tokens=8)
    assert next(shared.stub.Generate(wanted)).prompt_error.error.field == "max_tokens"


def test_a_stop_string_ends_the_sample_and_its_text_before_it(shared: Served) -> None:
    whole = rollouts(shared, request([prompt("1+2=")], max_tokens=40, temperature=0.0))[0, 0].text
    stop = whole[10:13]
    stopped = rollouts(
        shared, request([prompt("1+2=")], max_tokens=40, temperature=0.0, stop_strings=["\x00", stop])
    )[0, 0]
    assert stopped.text == whole[: whole.index(stop)]
    assert stopped.finish_reason == pb.FINISH_REASON_STOP
    assert (
        len(tokens(stopped)) == whole.index(stop) + 3
    )  # a token is a letter here, and the last completes it


def test_chat_messages_go_through_the_chat_template(shared: Served) -> None:
    chat = pb.ChatMessages(messages=[pb.ChatMessage(role="user", content="1+2")])
    talked = rollouts(shared, request([pb.Prompt(chat=chat)], seed=3))[0, 0]
    said = rollouts(shared, request([prompt("user: 1+2\nassistant: ")], seed=3))[0, 0]
    assert (talked.token_ids, talked.prompt_tokens) == (said.token_ids, said.prompt_tokens)
    empty = list(shared.stub.Generate(request([pb.Prompt(chat=pb.ChatMessages())])))
    assert empty[0].prompt_error.error.field == "chat.messages"


def test_segments_are_the_lines_of_the_continuation(shared: Served) -> None:
    wanted = request([prompt("1+2=")], n=32, max_tokens=60)
    wanted.segment_entropies = True
    seen = 0
    for rollout in rollouts(shared, wanted).values():
        entropies, newline = floats(rollout.entropies), encode(shared, "\n")[0]
        starts = [0, *(i + 1 for i, token in enumerate(tokens(rollout)[:-1]) if token == newline)]
        assert [segment.start for segment in rollout.segments] == starts
        assert rollout.segments[-1].end == len(entropies)
        for segment in rollout.segments:
            part = entropies[segment.start : segment.end]
            assert segment.mean == pytest.approx(part.mean(), abs=1e-5)
            assert segment.max == part.max()
        seen += len(starts) > 1
    assert seen > 3


def test_streamed_tokens_are_those_of_the_rollouts_that_follow(shared: Served) -> None:
    wanted = request([prompt(text) for text in MIXED], n=2, max_tokens=30)
    wanted.stream_tokens = True
    running: dict[tuple[int, int], list[pb.SampledToken]] = {}
    ended = 0
    for event in shared.stub.Generate(wanted):
        if event.HasField("token"):
            running.setdefault((event.token.prompt_index, event.token.sample_index), []).append(event.token)
            continue
        rollout = event.rollout
        drawn = running.pop((rollout.prompt_index, rollout.sample_index))
        assert [token.token_index for token in drawn] == list(range(len(drawn)))
        assert [token.token_id for token in drawn] == tokens(rollout)
        np.testing.assert_array_equal([token.logprob for token in drawn], floats(rollout.logprobs))
        np.testing.assert_array_equal([token.entropy for token in drawn], floats(rollout.entropies))
        ended += 1
    assert (ended, running) == (10, {})


def test_a_prompt_served_before_comes_from_the_cache_and_gives_the_same_tokens(shared: Served) -> None:
    text = "once upon a time 3+4 was 7, and then came 5*5=25.\n" * 3
    first = rollouts(shared, request([prompt(text)], n=2, seed=9))
    again = rollouts(shared, request([prompt(text)], n=2, seed=9))
    assert {r.cached_prompt_tokens for r in first.values()} == {0}
    assert {r.cached_prompt_tokens for r in again.values()} == {len(text)}
    assert all_tokens(again) == all_tokens(first)
    longer = rollouts(shared, request([prompt(text, tokens(first[0, 0])[:5])], seed=9, temperature=0.0))[0, 0]
    assert longer.cached_prompt_tokens == len(text) // 16 * 16
    logprobs, entropies = plain(shared.model, encode(shared, text) + tokens(first[0, 0])[:5], tokens(longer))
    np.testing.assert_allclose(floats(longer.logprobs), logprobs, atol=1e-4)
    np.testing.assert_allclose(floats(longer.entropies), entropies, atol=1e-4)
