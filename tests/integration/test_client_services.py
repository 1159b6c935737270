"""The clients, blocking and asyncio, against the real services, each embedded as a child process."""

import asyncio
import importlib.metadata
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from extra_client import (
    AlreadyExistsError,
    EntropyRollout,
    FailedPreconditionError,
    FinishReason,
    ForgottenPrefixes,
    GenerationClient,
    Group,
    HardPrompt,
    InFlight,
    InvalidArgumentError,
    Method,
    Metric,
    NamespaceClient,
    NamespaceSettings,
    NearestKind,
    NeighborQuery,
    NotFoundError,
    NoveltyClient,
    Outcome,
    PrefixClient,
    PromptError,
    Rollout,
    SampledToken,
    Scale,
    SelectionPolicy,
    UnavailableError,
    VerdictStatus,
    VerificationClient,
    VerifyOptions,
    aio,
    embedded,
)
from support.pages import blocks

TEXTS = [
    "Add the two numbers and halve.",
    "Draw the triangle first.",
    "Guess and check.",
    "Use induction on n.",
]


# Verification


@pytest.fixture(scope="module")
def verification() -> Iterator[str]:
    with embedded.start("verification", workers=1) as service:
        yield service.target


def test_verdicts_come_in_order_with_what_was_extracted(verification: str) -> None:
    with VerificationClient(verification) as client:
        right, wrong, unreadable = client.verify(
            [r"so \boxed{\frac12}", r"\boxed{5}", "no idea"], ["0.5", "4", "4"]
        )
    assert (right.correct, right.status) == (True, VerdictStatus.CORRECT)
    assert (wrong.correct, wrong.extracted) == (False, "5")
    assert (unreadable.correct, unreadable.status) == (False, VerdictStatus.UNPARSEABLE)


async def test_method_and_options_hold_for_every_item_of_a_batch_or_stream(verification: str) -> None:
    responses, answers = ["The answer is (b).", r"\boxed{3.1}"], ["B", "3"]
    near = VerifyOptions(absolute_tolerance=0.2)
    with VerificationClient(verification) as client:
        assert [v.correct for v in client.verify(responses, answers, method="auto")] == [True, False]
        assert client.verify(responses[1:], answers[1:], method=Method.NUMERIC, options=near)[0].correct
        (streamed,) = client.verify_stream([("x", responses[1], "3")], method="numeric", options=near)
        assert streamed[1].correct
        with pytest.raises(InvalidArgumentError):
            client.verify(responses, answers, options=VerifyOptions(absolute_tolerance=-1))

    async def items() -> Any:
        yield "x", responses[1], "3"

    async with aio.VerificationClient(verification) as other:
        assert (await other.verify(responses[:1], answers[:1], method="choice"))[0].correct
        verdicts = [v async for _, v in other.verify_stream(items(), method="numeric", options=near)]
        assert [v.correct for v in verdicts] == [True]


def test_verdicts_arrive_while_the_items_are_still_being_generated(verification: str) -> None:
    items: queue.Queue[Any] = queue.Queue()
    with VerificationClient(verification) as client:
        verdicts = client.verify_stream(iter(items.get, None))
        for index in range(3):
            items.put((("prompt", index), rf"\boxed{{{index}}}", "1"))
            name, verdict = next(verdicts)
            assert (name, verdict.correct) == (("prompt", index), index == 1)
        items.put(None)
        assert list(verdicts) == []


async def test_verdicts_arrive_while_the_items_are_still_being_generated_in_asyncio(
    verification: str,
) -> None:
    items: asyncio.Queue[Any] = asyncio.Queue()

    async def generated() -> Any:
        while (item := await items.get()) is not None:
            yield item

    async with aio.VerificationClient(verification) as client:
        assert (await client.verify([r"\boxed{1}"], ["1"]))[0].correct
        verdicts = client.verify_stream(generated())
        for index in range(3):
            await items.put((index, rf"\boxed{{{index}}}", "1"))
            name, verdict = await anext(verdicts)
            assert (name, verdict.correct) == (index, index == 1)
        await items.put(None)
        assert [verdict async for verdict in verdicts] == []


# Generation


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of two layers with a tokenizer of letters."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokens = ["<end>", *"abcdefghijklmnopqrstuvwxyz \n"]
    tokenizer = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<end>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.decoder = Fuse()
    folder = tmp_path_factory.mktemp("weights") / "model"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        eos_token_id=0,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def generation(model: Path) -> Iterator[str]:
    with embedded.start("generation", model=model, weights_root=model.parent, threads=1) as service:
        yield service.target


def test_rollouts_carry_tokens_text_log_probabilities_and_entropies(generation: str) -> None:
    with GenerationClient(generation) as client:
        groups = client.generate(["hello ", [1, 2, 3]], n=3, max_tokens=6, seed=1)
    assert [len(group) for group in groups] == [3, 3]
    for index, group in enumerate(groups):
        for sample, rollout in enumerate(group):
            assert (rollout.prompt_index, rollout.sample_index) == (index, sample)
            assert rollout.token_ids.dtype == np.int32
            assert rollout.logprobs.dtype == rollout.entropies.dtype == np.float32
            assert len(rollout.token_ids) == len(rollout.logprobs) == len(rollout.entropies)
            assert (rollout.logprobs <= 0).all()
            assert (rollout.entropies >= 0).all()
            assert rollout.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
            assert rollout.policy_version == 0


def test_a_prefix_is_continued_and_its_text_comes_back_with_the_continuation(generation: str) -> None:
    with GenerationClient(generation) as client:
        whole = client.generate(["hello "], n=1, max_tokens=8, temperature=0)[0][0]
        rest = client.generate(["hello "], 1, 5, prefixes=[whole.token_ids[:3]], temperature=0)[0][0]
    assert rest.token_ids.tolist() == whole.token_ids[3:].tolist()
    assert rest.text == whole.text
    assert rest.prompt_tokens == whole.prompt_tokens + 3


async def test_the_same_seed_gives_the_same_rollouts_in_both_front_ends(generation: str) -> None:
    with GenerationClient(generation) as client:
        here = client.generate(["abc"], n=4, max_tokens=6, seed=7)[0]
    async with aio.GenerationClient(generation) as other:
        there = (await other.generate(["abc"], n=4, max_tokens=6, seed=7))[0]
        assert (await other.get_info()).engine == "transformers"
    assert [rollout.token_ids.tolist() for rollout in here] == [
        rollout.token_ids.tolist() for rollout in there
    ]


async def test_one_refused_prompt_does_not_keep_the_others_from_their_rollouts(generation: str) -> None:
    prompts: list[Any] = ["abc", [10_000], "abc"]

    def check(events: list[Rollout | PromptError]) -> None:
        failures = [event for event in events if isinstance(event, PromptError)]
        assert [failure.prompt_index for failure in failures] == [1]
        assert isinstance(failures[0].error, InvalidArgumentError)
        assert len(events) == 5

    with GenerationClient(generation) as client:
        check(list(client.generate_stream(prompts, n=2, max_tokens=3)))
        with pytest.raises(InvalidArgumentError, match=r"prompts\[1\]"):
            client.generate(prompts, n=2, max_tokens=3)
    async with aio.GenerationClient(generation) as other:
        check([event async for event in other.generate_stream(prompts, n=2, max_tokens=3)])


def test_new_weights_serve_under_their_version_and_an_older_one_is_refused(
    generation: str, model: Path
) -> None:
    with GenerationClient(generation) as client:
        served = client.get_info().policy_version
        with pytest.raises(FailedPreconditionError):
            client.generate(["abc"], 1, 1, min_policy_version=served + 1)
        update = client.update_weights(model.name, served + 1)
        assert (update.previous_policy_version, update.policy_version) == (served, served + 1)
        assert (
            client.generate(["abc"], 1, 1, min_policy_version=served + 1)[0][0].policy_version == served + 1
        )


async def test_weights_are_streamed_from_tensors_at_hand(generation: str, model: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(model / "model.safetensors")
    with GenerationClient(generation) as client:
        served = client.get_info().policy_version
        before = client.generate(["abc"], 1, 8, seed=3)[0][0]
        update = client.stream_weights(tensors, served + 1)
        assert (update.previous_policy_version, update.policy_version) == (served, served + 1)
        after = client.generate(["abc"], 1, 8, seed=3, min_policy_version=served + 1)[0][0]
        assert after.token_ids.tolist() == before.token_ids.tolist()
        name = next(iter(tensors))
        with pytest.raises(FailedPreconditionError, match="not_a_tensor_of_it"):
            client.stream_weights({"not_a_tensor_of_it": tensors[name]}, served + 2)
    async with aio.GenerationClient(generation) as other:
        assert (await other.stream_weights(iter(tensors.items()), served + 2)).policy_version == served + 2


def test_weights_that_change_in_flight_abort_samples_as_partial_rollouts(
    generation: str, model: Path
) -> None:
    with GenerationClient(generation) as client:
        served = client.get_info().policy_version
        events = client.generate_stream(["abc"], 8, 100, min_tokens=100, stream_tokens=True)
        assert isinstance(next(events), SampledToken)
        client.update_weights(model.name, served + 1, InFlight.ABORT)
        rollouts = [event for event in events if isinstance(event, Rollout)]
    assert len(rollouts) == 8
    assert {rollout.policy_version for rollout in rollouts} <= {served, served + 1}
    for rollout in rollouts:
        aborted = rollout.finish_reason is FinishReason.ABORT
        assert aborted == (len(rollout.token_ids) < 100)


def test_weights_that_change_in_flight_may_be_taken_up_by_samples_that_say_where(
    generation: str, model: Path
) -> None:
    with GenerationClient(generation) as client:
        served = client.get_info().policy_version
        events = client.generate_stream(["abc"], 4, 100, min_tokens=100, stream_tokens=True)
        assert isinstance(next(events), SampledToken)
        client.update_weights(model.name, served + 1, "keep")
        rollouts = [event for event in events if isinstance(event, Rollout)]
    assert [len(rollout.token_ids) for rollout in rollouts] == [100] * 4
    for rollout in rollouts:
        if rollout.policy_version == served and rollout.policy_changes:
            (change,) = rollout.policy_changes
            assert change.policy_version == served + 1
            assert 0 < change.token_index < 100


async def test_tokens_are_streamed_before_the_rollout_that_repeats_them(generation: str) -> None:
    async with aio.GenerationClient(generation) as client:
        stream = client.generate_stream(["abc"], 1, 6, seed=5, stream_tokens=True)
        *tokens, rollout = [event async for event in stream]
    assert isinstance(rollout, Rollout)
    assert [
        token.token_id for token in tokens if isinstance(token, SampledToken)
    ] == rollout.token_ids.tolist()


def test_entropies_of_the_raw_distribution_and_of_segments_come_on_request(generation: str) -> None:
    with GenerationClient(generation) as client:
        plain = client.generate(["abc"], 1, 20, seed=5, temperature=0.5)[0][0]
        asked = client.generate(
            ["abc"], 1, 20, seed=5, temperature=0.5, raw_entropies=True, segment_entropies=True
        )[0][0]
    assert (len(plain.raw_entropies), plain.segments) == (0, ())
    assert len(asked.raw_entropies) == len(asked.token_ids)
    assert (asked.raw_entropies > asked.entropies).any()
    assert [segment.start for segment in asked.segments[1:]] == [
        segment.end for segment in asked.segments[:-1]
    ]
    for segment in asked.segments:
        part = asked.entropies[segment.start : segment.end]
        assert segment.mean == pytest.approx(part.mean(), abs=1e-5)
        assert segment.max == pytest.approx(part.max(), abs=1e-5)


def test_stop_strings_end_a_sample_and_a_chat_needs_a_template(generation: str) -> None:
    with GenerationClient(generation) as client:
        whole = client.generate(["abc"], 1, 20, seed=5, min_tokens=20)[0][0]
        stop = whole.text[5]
        short = client.generate(["abc"], 1, 20, seed=5, stop_strings=[stop])[0][0]
        assert short.finish_reason is FinishReason.STOP
        assert stop not in short.text
        with pytest.raises(InvalidArgumentError, match="chat template"):
            client.generate([[{"role": "user", "content": "abc"}]], 1, 1)


def test_the_servers_vocabulary_is_compared_with_ones_own(generation: str, model: Path) -> None:
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(model).get_vocab()
    with GenerationClient(generation) as client:
        client.check_vocabulary(vocabulary)
        with pytest.raises(FailedPreconditionError, match="tokenizer"):
            client.check_vocabulary(vocabulary | {"a": 2, "b": 1})


# Novelty and prefixes


@pytest.fixture(scope="module")
def novelty() -> Iterator[str]:
    with embedded.start("novelty") as service:
        yield service.target


def test_solutions_seen_before_are_not_new_and_wrong_ones_score_nothing(novelty: str) -> None:
    with NoveltyClient(novelty, "seen", NamespaceSettings(min_history=2)) as client:
        first = client.score("p", texts=TEXTS[:2], correct=[True, True])
        assert first.dtype == np.float32
        assert first.tolist() == [0, 0]
        again, new, wrong = client.score("p", texts=TEXTS[:3], correct=[True, True, False])
        assert again == pytest.approx(0, abs=1e-5)
        assert new == pytest.approx(0, abs=1e-5)
        assert wrong == 0
        assert client.score("p", texts=TEXTS[3:], correct=np.array([True]))[0] > 0.1
    described = NamespaceClient(novelty, "seen").describe()
    assert (described.prompts, described.settings.min_history, described.settings.memory_capacity) == (
        1,
        2,
        16,
    )


async def test_a_refused_group_leaves_its_neighbours_alone_in_both_front_ends(novelty: str) -> None:
    groups = [
        Group(prompt_id="p", texts=TEXTS, correct=[True]),
        Group(prompt_id="q", texts=TEXTS, correct=[True] * 4),
    ]
    with NoveltyClient(novelty, "refused") as client:
        bad, good = client.score_groups(groups)
        with pytest.raises(InvalidArgumentError):
            client.score("p", texts=TEXTS, correct=[True])
    async with aio.NoveltyClient(novelty, "refused") as other:
        assert isinstance((await other.score_groups(groups))[0].error, InvalidArgumentError)
    assert isinstance(bad.error, InvalidArgumentError)
    assert good.error is None
    assert (good.memory_before, good.memory_after) == (0, 4)


def test_the_same_key_returns_the_first_answer_and_changes_nothing(novelty: str) -> None:
    group = Group(prompt_id="p", embeddings=np.eye(3), correct=[True] * 3)
    with NoveltyClient(novelty, "keys", NamespaceSettings(min_history=0)) as client:
        first = client.score_groups([group], idempotency_key="step-1")[0]
        again = client.score_groups([group], idempotency_key="step-1")[0]
    assert NamespaceClient(novelty, "keys").describe().solutions == 3
    assert (first.replayed, again.replayed) == (False, True)
    assert first.novelty.tolist() == again.novelty.tolist() == [1, 1, 1]


async def test_a_namespace_can_be_copied_listed_and_deleted(novelty: str) -> None:
    async with aio.NoveltyClient(novelty, "run") as scores, aio.NamespaceClient(novelty, "run") as client:
        await scores.score("p", embeddings=np.eye(2), correct=[True, True])
        assert (await client.copy_to("run@1")).solutions == 2
        with pytest.raises(AlreadyExistsError):
            await client.copy_to("run@1")
        assert {"run", "run@1"} <= set(await client.list_namespaces())
        assert await client.delete()
        assert not await client.delete()
        with pytest.raises(NotFoundError):
            await client.describe()
        assert (await client.create()).min_history == 8
        await scores.score("p", embeddings=np.eye(2), correct=[True, True])
        assert (await client.describe()).solutions == 2


def hard_prompt(text: str = "abc\ndef\nghi") -> HardPrompt:
    tokens = [2 if character == "\n" else 1 for character in text]
    rollout = EntropyRollout(
        token_ids=tokens, entropies=[0.1] * len(text), text=text, token_ends=range(1, len(text) + 1)
    )
    return HardPrompt("p", [rollout])


def test_prefixes_of_a_hard_prompt_are_stored_selected_and_judged_by_their_outcomes(novelty: str) -> None:
    with PrefixClient(novelty, "prefixes") as client:
        added = client.add_rollouts([hard_prompt()], newline_token_ids=[2], min_segment_tokens=1)[0]
        assert added.error is None
        assert added.rollout_index == 0
        assert added.lengths
        chosen, missing = client.select(["p", "unknown"], "shortest")
        assert len(chosen.token_ids) == min(added.lengths)
        assert chosen.text == "abc\ndef\nghi"[: min(added.lengths)]
        assert chosen.candidates == len(added.lengths)
        assert isinstance(missing.error, NotFoundError)
        assert client.select(["p"], "none")[0].prefix_id == ""
        reported, lost = client.report_outcomes(
            [Outcome("p", chosen.prefix_id, 8, 2), Outcome("p", "no-such", 8, 2)]
        )
        assert reported is None
        assert isinstance(lost, NotFoundError)


async def test_prefixes_in_asyncio_share_the_namespace_of_novelty(novelty: str) -> None:
    async with (
        aio.PrefixClient(novelty, "shared") as client,
        aio.NamespaceClient(novelty, "shared") as memory,
    ):
        await client.add_rollouts([hard_prompt()], [2], min_segment_tokens=1)
        chosen = (await client.select(["p"]))[0]
        assert chosen.error is None
        assert await client.report_outcomes([Outcome("p", chosen.prefix_id, 8, 0)]) == [None]
        assert (await memory.describe()).prefixes > 0


SETTINGS = NamespaceSettings(min_history=0)


async def test_scores_say_why_and_how_they_were_scaled(novelty: str) -> None:
    known = Group(prompt_id="p", embeddings=np.eye(3)[:1], correct=[True])
    vectors = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0.1], [0, 0, 1]])
    group = Group(prompt_id="p", embeddings=vectors, correct=[True, True, True, None])
    with NoveltyClient(novelty, "why", SETTINGS) as client:
        client.score_groups([known])
        scores = client.score_groups(
            [group],
            scale="group_max",
            explain=True,
            vendi=True,
            track_reward_variance=True,
            mode="score_only",
        )[0]
        assert scores.novelty.max() == 1
        assert 0 < scores.divisor < 1
        first, second, _, wrong = scores.nearest
        assert first is not None
        assert second is not None
        assert (first.kind, first.solution_id, first.sibling) == (NearestKind.SOLUTION, 0, None)
        assert (second.kind, second.solution_id, second.sibling) == (NearestKind.SIBLING, None, 2)
        assert second.similarity == pytest.approx(0.9975, abs=1e-3)
        assert wrong is None
        assert scores.vendi is not None
        assert 1 < scores.vendi < 3
        assert scores.reward_variance == 0
        plain = client.score_groups([group])[0]
        assert (plain.nearest, plain.vendi, plain.reward_variance, plain.divisor) == ((), None, None, 1)
        assert NamespaceClient(novelty, "why").describe().positive[0].metric is Metric.EMBEDDING
    async with aio.NoveltyClient(novelty, "why") as other:
        scores = (
            await other.score_groups([group], scale=Scale.RUNNING_MEAN, explain=True, mode="score_only")
        )[0]
        assert len(scores.nearest) == 4


def test_each_metric_reads_what_it_needs_of_the_group(novelty: str) -> None:
    with NoveltyClient(novelty, "metrics", SETTINGS) as client:
        counted = client.score(
            "p", token_ids=[[1, 2, 3], [1, 2, 3]], correct=[True, False], metric="ngram_count"
        )
        assert counted.tolist() == [1, 0]
        surprise = client.score(
            "p", sequence_logprobs=[-1.0, -3.0], correct=[True, True], metric=Metric.POLICY_SURPRISE
        )
        assert surprise[0] == 0
        assert surprise[1] > 0
        for metric in ("mean_cosine", "cluster_size"):
            spread = client.score("q", embeddings=np.eye(2), correct=[True, True], metric=metric)
            assert spread.tolist() == pytest.approx([1, 1])
        with pytest.raises(InvalidArgumentError):
            client.score("p", texts=TEXTS[:1], correct=[True], metric="ngram_count")


async def test_a_group_collected_sample_by_sample_scores_as_a_whole(novelty: str) -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]])
    with NoveltyClient(novelty, "whole", SETTINGS) as client:
        whole = client.score("p", embeddings=vectors, correct=[True] * 3)
    with NoveltyClient(novelty, "samples", SETTINGS) as client, ThreadPoolExecutor(3) as pool:
        waiting = [
            pool.submit(client.collect_sample, "p", "step-1", 3, index, True, embedding=vector)
            for index, vector in enumerate(vectors)
        ]
        scores = [sample.result() for sample in waiting]
    assert [score.novelty for score in scores] == whole.tolist()
    assert {(score.samples, score.memory_before, score.memory_after) for score in scores} == {(3, 0, 3)}
    async with aio.NoveltyClient(novelty, "samples") as other:
        again = await other.collect_sample("p", "step-1", 3, 2, True, embedding=vectors[2])
        assert again.novelty == scores[2].novelty
        alone = await other.collect_sample("p", "step-2", 3, 0, True, embedding=[1, 0], wait_seconds=0.05)
        assert alone.samples == 1
        assert alone.nearest is not None
        assert alone.nearest.kind is NearestKind.SOLUTION


async def test_neighbours_are_found_without_changing_anything(novelty: str) -> None:
    queries = [NeighborQuery(prompt_id="p", text=TEXTS[0]), NeighborQuery(prompt_id="unknown", text="a")]
    with NoveltyClient(novelty, "neighbours") as client:
        client.score("p", texts=TEXTS, correct=[True] * 4)
        found, none = client.query_neighbors(queries, k=2)
        assert found.neighbors[0].excerpt == TEXTS[0]
        assert len(found.neighbors) == 2
        assert none.neighbors == ()
        assert NamespaceClient(novelty, "neighbours").describe().solutions == 4
    async with aio.NoveltyClient(novelty, "neighbours") as other:
        assert (await other.query_neighbors(queries[:1]))[0].neighbors == found.neighbors[:1]


async def test_texts_embedded_ahead_are_not_embedded_again(novelty: str) -> None:
    texts = ["a text of its own", "another one, longer than the first", "", "a text of its own"]
    with NoveltyClient(novelty, "ahead", SETTINGS) as client:
        found = client.embed(texts, return_vectors=True)
        assert (found.embedded, found.cached) == (2, 1)
        blank = found.errors[2]
        assert found.errors == (None, None, blank, None)
        assert isinstance(blank, InvalidArgumentError)
        assert blank.field == ""
        assert found.vectors.shape[0] == 4
        assert np.linalg.norm(found.vectors, axis=1).tolist() == pytest.approx([1, 1, 0, 1], abs=1e-5)
        np.testing.assert_array_equal(found.vectors[0], found.vectors[3])
        again = client.embed(texts[:2])
        assert (again.embedded, again.cached, again.vectors.shape) == (0, 2, (2, 0))
        before = NamespaceClient(novelty, "ahead").describe()
        scores = client.score_groups([Group(prompt_id="p", texts=texts[:2], correct=[True] * 2)])[0]
        after = NamespaceClient(novelty, "ahead").describe()
        assert before.solutions == 0
        assert (after.solutions, after.texts_embedded - before.texts_embedded) == (2, 0)
        timings = scores.timings
        for seconds in (timings.queue_seconds, timings.embed_seconds, timings.search_seconds):
            assert 0 < seconds < 60
        assert timings.commit_seconds > 0
    async with aio.NoveltyClient(novelty, "ahead") as other:
        assert (await other.embed(texts[:1])).cached == 1
        with pytest.raises(InvalidArgumentError, match="16384"):
            await other.embed(["a"] * 16385)


async def test_every_service_reports_its_version_and_limits(
    novelty: str, verification: str, generation: str
) -> None:
    version = importlib.metadata.version("extra-rl")
    with NoveltyClient(novelty, "info") as client:
        scores = client.get_info()
    assert (scores.server.version, scores.server.max_message_bytes) == (version, 64 * 2**20)
    assert (scores.max_rollouts, scores.max_text_characters) == (16384, 1_000_000)
    assert scores.embedding_model.startswith("all-MiniLM-L6-v2@")
    assert scores.embedding_dimension == 384
    async with (
        aio.PrefixClient(novelty, "info") as prefixes,
        aio.NamespaceClient(novelty, "info") as namespace,
        aio.VerificationClient(verification) as verifier,
        aio.GenerationClient(generation) as generator,
    ):
        assert (await prefixes.get_info()).max_prompts == 4096
        assert (await prefixes.get_info()).embedding_model == scores.embedding_model
        assert ((await namespace.get_info()).store, (await namespace.get_info()).max_page_size) == (
            "sqlite",
            10_000,
        )
        assert "info" not in await namespace.list_namespaces(), "asking for the limits creates nothing"
        checks = await verifier.get_info()
        assert checks.max_timeout_seconds == 5
        assert checks.math_verify_version == importlib.metadata.version("math-verify")
        assert (await generator.get_info()).max_samples > 0
        assert {checks.server.version, (await generator.get_info()).server.version} == {version}


async def test_prompts_are_listed_over_pages_and_deleted(novelty: str) -> None:
    groups = [Group(prompt_id=f"p{index}", embeddings=np.eye(2), correct=[True, True]) for index in range(7)]
    with NoveltyClient(novelty, "pages") as client:
        client.score_groups(groups)
    with NamespaceClient(novelty, "pages") as client:
        listed = list(client.list_prompts(page_size=3))
        assert [prompt.prompt_id for prompt in listed] == [f"p{index}" for index in range(7)]
        assert {prompt.solutions for prompt in listed} == {2}
        assert client.delete_prompts(["p1", "unknown"]) == [True, False]
    async with aio.NamespaceClient(novelty, "pages") as other:
        assert len([prompt async for prompt in other.list_prompts(page_size=3)]) == 6
        assert await other.delete_prompts(["p2"]) == [True]


async def test_a_namespace_travels_as_a_file(novelty: str, tmp_path: Path) -> None:
    file = tmp_path / "run.parquet"
    with (
        NoveltyClient(novelty, "exported", SETTINGS) as scores,
        NamespaceClient(novelty, "exported") as client,
    ):
        with pytest.raises(NotFoundError):
            client.export_to(file)
        assert list(tmp_path.iterdir()) == []
        scores.score("p", embeddings=np.eye(3), correct=[True] * 3)
        client.export_to(file)
        assert list(tmp_path.iterdir()) == [file]
    with NoveltyClient(novelty, "imported") as scores, NamespaceClient(novelty, "imported") as client:
        with pytest.raises(FileNotFoundError):
            client.import_from(tmp_path / "missing")
        imported = client.import_from(file)
        assert (imported.prompts, imported.solutions, imported.settings.min_history) == (1, 3, 0)
        with pytest.raises(AlreadyExistsError):
            client.import_from(file)
        assert scores.score("p", embeddings=np.eye(3)[:1], correct=[True]).tolist() == [0]
    async with aio.NamespaceClient(novelty, "imported") as other:
        assert (await other.import_from(file, replace=True)).solutions == 3
        await other.export_to(tmp_path / "again.parquet")
        assert (tmp_path / "again.parquet").stat().st_size > 0


async def test_outcomes_steer_the_selection_which_can_be_explained_listed_and_forgotten(novelty: str) -> None:
    with PrefixClient(novelty, "outcomes") as client:
        client.add_rollouts([hard_prompt()], [2], min_segment_tokens=1)
        worse, *_ = client.list_prefixes(["p", "unknown"])[0].prefixes
        client.report_outcomes([Outcome("p", worse.prefix_id, 16, 0)])
        chosen = client.select(["p"], SelectionPolicy.OUTCOME_AWARE, explain=True, drop_after=16)[0]
        assert chosen.prefix_id != worse.prefix_id
        judged = {candidate.prefix_id: candidate for candidate in chosen.ranking}
        assert judged[worse.prefix_id].dropped
        assert (judged[worse.prefix_id].rollouts, judged[worse.prefix_id].successes) == (16, 0)
        assert client.forget_prefixes([ForgottenPrefixes("p", [worse.prefix_id])]) == [1]
    async with aio.PrefixClient(novelty, "outcomes") as other:
        (listed,) = await other.list_prefixes(["p"])
        assert worse.prefix_id not in {prefix.prefix_id for prefix in listed.prefixes}
        assert (await other.forget_prefixes([ForgottenPrefixes("p")]))[0] >= 0
        assert isinstance((await other.select(["p"]))[0].error, NotFoundError)


# All three together


def test_the_programs_of_the_pages_run(generation: str, novelty: str, verification: str) -> None:
    names: dict[str, Any] = {}

    def run(page: str) -> None:
        # A server of its own takes long to start; docs/plugin-example.md runs with one.
        addresses = {"embedded": novelty, "localhost:50052": novelty}
        addresses |= {"localhost:50051": generation, "localhost:50053": verification}
        (program,) = blocks(page, "python", addresses)
        exec(program, names)

    run("client/README.md")
    assert len(names["group"]) == len(names["verdicts"]) == len(names["scores"]) == 8
    run("README.md")
    for _ in range(4):
        values = names["advantages"]("p", "1 + 1 = ", "2", TEXTS, [1, 1, 0, 0])
    assert values.shape == (4,)
    assert min(values[:2]) > 0 > max(values[2:])
    run("services/extra_services/generation/README.md")
    assert len(names["groups"][0]) == 8
    names |= {"responses": TEXTS, "correct": [True, True, False, False]}
    run("services/extra_services/novelty/README.md")
    assert names["scores"].shape == (4,)
    names["rollouts"] = hard_prompt("a step that is longer than the least segment of a prefix\n" * 4).rollouts
    names["newline_ids"] = [2]
    run("services/extra_services/prefix/README.md")
    assert names["chosen"].error is None
    with GenerationClient(generation) as client, VerificationClient(verification) as verifier:
        names |= {"generation": client, "verification": verifier, "prompts": ["1 + 1 = "]}
        names |= {"responses": ["so 2"], "answers": ["2"]}
        run("docs/observability.md")
    assert names["verdicts"][0].correct


def serve_all(*flags: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "extra_cli", "serve", "all", *flags]
    return subprocess.Popen(program, stderr=subprocess.PIPE, text=True)


def wait_for_ready(client: Any, served: subprocess.Popen[str]) -> None:
    while True:
        try:
            client.wait_for_ready(5)
            return
        except UnavailableError:
            assert served.poll() is None, served.stderr.read() if served.stderr else ""


def test_serve_all_serves_the_three_and_stops_them_when_told(model: Path, tmp_path: Path) -> None:
    sockets = {name: f"unix:{tmp_path / name}" for name in ("generation", "novelty", "verification")}
    served = serve_all(
        *(f"--{name}.host={socket}" for name, socket in sockets.items()),
        *("--generation.model", str(model), "--novelty.data-folder", str(tmp_path / "memory")),
        *("--verification.workers=1", "--log-level", "warning"),
    )
    with (
        GenerationClient(sockets["generation"]) as generation,
        NoveltyClient(sockets["novelty"], "n") as novelty,
        PrefixClient(sockets["novelty"], "n") as prefix,
        VerificationClient(sockets["verification"]) as verification,
    ):
        for client in (generation, novelty, prefix, verification):
            wait_for_ready(client, served)
        assert verification.verify([generation.generate(["a"], 1, 1)[0][0].text], ["1"])
        children = psutil.Process(served.pid).children(recursive=True)
    served.send_signal(signal.SIGTERM)
    assert served.wait(60) == 0
    assert psutil.wait_procs(children, timeout=60)[1] == []


def test_serve_all_ends_with_the_first_server_that_ends(tmp_path: Path) -> None:
    flags = [f"--{name}.host=unix:{tmp_path / name}" for name in ("generation", "novelty", "verification")]
    served = serve_all(
        *flags, "--novelty.data-folder", str(tmp_path / "memory"), "--generation.model=/nowhere"
    )
    _, log = served.communicate(timeout=180)
    assert served.returncode == 1
    assert "there is no folder /nowhere" in log
    assert "the generation server ended (exit code 1)" in log
