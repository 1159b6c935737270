"""The trainer's use of the services, without OpenRLHF: real services, a model that is mostly wrong."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from extra_client import (
    FinishReason,
    GenerationClient,
    NamespaceClient,
    NamespaceSettings,
    NoveltyClient,
    PrefixClient,
    Rollout,
    Timings,
    UnavailableError,
    UnparseableSide,
    VerdictStatus,
    VerificationClient,
    embedded,
)
from extra_client.integrations import novelty_bonus
from extra_rl.tokens import TokenTexts
from extra_rl.vocabulary import Metric, Scale
from extra_trainer.config import NoveltyConfig, OutcomeConfig, PrefixConfig
from extra_trainer.data.problems import prompt_identity
from extra_trainer.exploration.advantage import StepAdvantages, step_advantages
from extra_trainer.exploration.explorer import Explorer
from extra_trainer.exploration.recording import prefix_choice_records, rollout_records
from extra_trainer.exploration.results import GroupNovelty, PrefixChoice
from extra_trainer.exploration.step_metrics import step_metrics
from extra_trainer.exploration.step_novelty import StepNovelty
from extra_trainer.rollouts.collector import Group, RolloutCollector, RolloutError, RolloutRequest, Sampling
from extra_trainer.runs.schema import NearestRecord, text_digest

SAMPLING = Sampling(n=4, max_tokens=24, seed=1)


@pytest.fixture(scope="module")
def tokens(tiny_model: Path) -> TokenTexts:
    return TokenTexts(AutoTokenizer.from_pretrained(tiny_model))


@pytest.fixture(scope="module")
def generation(tiny_model: Path) -> Iterator[GenerationClient]:
    with (
        embedded.start("generation", model=tiny_model, threads=1) as service,
        GenerationClient(service.target) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def verification() -> Iterator[VerificationClient]:
    with embedded.start("verification", workers=1) as service, VerificationClient(service.target) as client:
        yield client


@pytest.fixture(scope="module")
def novelty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("memory")
    with embedded.start("novelty", data_folder=folder, threads=1) as service:
        yield service.target


def _requests(tokens: TokenTexts, *prompts: str, answer: str = "12") -> list[RolloutRequest]:
    return [
        RolloutRequest(prompt, prompt_identity(prompt), tuple(tokens.tokenizer(prompt)["input_ids"]), answer)
        for prompt in prompts
    ]


def _explorer(
    tokens: TokenTexts,
    novelty: str,
    name: str,
    config: NoveltyConfig,
    *,
    min_history: int = 8,
    prefix: PrefixConfig | None = None,
    outcome: OutcomeConfig | None = None,
) -> Explorer:
    settings = NamespaceSettings(min_history=min_history, memory_policy=config.memory_policy)
    memory = NoveltyClient(novelty, name, settings=settings)
    NamespaceClient(novelty, name).create(settings)
    prefixes = PrefixClient(novelty, name)
    return Explorer(
        config,
        prefix or PrefixConfig(),
        memory,
        prefixes,
        tokens,
        launch_id="test",
        outcome_config=outcome or OutcomeConfig(),
    )


def _rollout(tokens: TokenTexts, text: str, index: int, skip: int = 0) -> Rollout:
    """A rollout of this text, as if sampled; its first `skip` tokens were its prefix."""
    ids = np.array(tokens.tokenizer(text)["input_ids"][skip:], dtype=np.int32)
    numbers = np.full(len(ids), 0.5, dtype=np.float32)
    nothing = np.zeros(0, dtype=np.float32)
    return Rollout(
        prompt_index=0,
        sample_index=index,
        token_ids=ids,
        logprobs=-numbers,
        entropies=numbers,
        text=text,
        finish_reason=FinishReason.STOP,
        policy_version=0,
        prompt_tokens=6 + skip,
        cached_prompt_tokens=0,
        timings=Timings(0.0, 0.0, 0.0),
        raw_entropies=nothing,
        segments=(),
        policy_changes=(),
    )


def test_groups_come_back_whole_in_order_and_verified(
    tokens: TokenTexts, generation: GenerationClient, verification: VerificationClient
) -> None:
    requests = _requests(tokens, "1+2=?\n", "4+5=?\n", "30+40=?\n")
    seen: list[int] = []
    collector = RolloutCollector(generation, verification, seen.append)
    groups = collector.collect(requests, SAMPLING, policy_version=0).groups
    assert [group.request for group in groups] == requests
    assert seen == list(range(1, 13))
    for group in groups:
        assert [rollout.sample_index for rollout in group.rollouts] == [0, 1, 2, 3]
        expected = verification.verify([r.text for r in group.rollouts], [group.request.answer] * 4)
        assert [v.status for v in group.verdicts] == [v.status for v in expected]


def test_complete_groups_are_handed_on_in_order_while_others_are_generated(
    tokens: TokenTexts, generation: GenerationClient, verification: VerificationClient
) -> None:
    requests = _requests(tokens, *(f"{n}+2=?\n" for n in range(10, 20)))
    handed: list[tuple[int, RolloutRequest]] = []
    collector = RolloutCollector(generation, verification)
    collected = collector.collect(
        requests, SAMPLING, 0, lambda place, group: handed.append((place, group.request))
    )
    assert handed == list(enumerate(requests))
    assert [group.request for group in collected.groups] == requests

    def refuse(place: int, group: Group) -> None:
        raise ValueError(f"no place for {place}")

    with pytest.raises(ValueError, match="no place for 0"):
        collector.collect(requests, SAMPLING, 0, refuse)


def test_rollouts_of_another_policy_version_stop_the_step(
    tokens: TokenTexts, generation: GenerationClient, verification: VerificationClient
) -> None:
    collector = RolloutCollector(generation, verification)
    with pytest.raises(RolloutError, match="policy version 0, not -1"):
        collector.collect(_requests(tokens, "1+2=?\n"), SAMPLING, policy_version=-1)


def test_a_refused_prompt_stops_the_step_and_is_named(
    tokens: TokenTexts, generation: GenerationClient, verification: VerificationClient
) -> None:
    good, bad = _requests(tokens, "1+2=?\n", "9+9=?\n")
    bad = RolloutRequest(bad.prompt, bad.prompt_id, (10**6,), bad.answer)
    with pytest.raises(RolloutError, match=r"refused a prompt.*9\+9=\?"):
        RolloutCollector(generation, verification).collect([good, bad], SAMPLING, policy_version=0)


def test_a_verifier_that_is_gone_stops_the_step_with_its_error(
    tokens: TokenTexts, generation: GenerationClient
) -> None:
    with embedded.start("verification", workers=1) as service, VerificationClient(service.target) as client:
        service.process.kill()
        service.process.wait()
        with pytest.raises(UnavailableError, match="verification service"):
            RolloutCollector(generation, client).collect(
                _requests(tokens, "1+2=?\n"), SAMPLING, policy_version=0
            )


def test_a_guided_prompt_continues_its_prefix_and_keeps_its_own_answer(
    tokens: TokenTexts, generation: GenerationClient, verification: VerificationClient, novelty: str
) -> None:
    explorer = Explorer(
        NoveltyConfig(metric="embedding", min_history=0),
        PrefixConfig(warmup_steps=0, regen_batch_size=2, min_segment_tokens=2),
        NoveltyClient(novelty, "guided"),
        PrefixClient(novelty, "guided"),
        tokens,
        launch_id="test",
    )
    collector = RolloutCollector(generation, verification)
    hard = [_requests(tokens, f"{n}+{n}+1=?\n", answer=f"{1000 + n}")[0] for n in range(10, 18)]
    groups = collector.collect(explorer.plan(hard), SAMPLING, policy_version=0).groups
    queued = explorer.feed(groups, step=1)
    assert queued == len(explorer.queue.waiting) > 2
    _check_choices(explorer.choices, groups)

    others = _requests(tokens, "5+5=?\n", "6+6=?\n", "7+7=?\n")
    planned = explorer.plan(others)
    assert [request.guided for request in planned] == [False, True, True]
    own = {request.prompt: request.answer for request in hard}
    for request in planned[1:]:
        assert request.answer == own[request.prompt]
    for group in collector.collect(planned, SAMPLING, policy_version=0).groups[1:]:
        prefix = tokens.tokenizer.decode(list(group.request.prefix_tokens), skip_special_tokens=True)
        assert prefix.endswith("\n")
        assert all(rollout.text.startswith(prefix) for rollout in group.rollouts)
        assert all(
            rollout.prompt_tokens == len(group.request.prompt_tokens) + len(group.request.prefix_tokens)
            for rollout in group.rollouts
        )


def _group(
    tokens: TokenTexts, verification: VerificationClient, texts: list[str], *, guided: bool = False
) -> Group:
    """A group of these texts, verified."""
    (request,) = _requests(tokens, "1+2+9=?\n")
    rollouts = [_rollout(tokens, text, index) for index, text in enumerate(texts)]
    verdicts = verification.verify(texts, [request.answer] * len(texts))
    return Group(replace(request, guided=guided), rollouts, verdicts)


def test_novelty_is_scaled_by_the_service_and_known_raw_too(
    tokens: TokenTexts, verification: VerificationClient, novelty: str
) -> None:
    explorer = _explorer(
        tokens, novelty, "scaled", NoveltyConfig(metric="embedding", scale="group_max"), min_history=0
    )
    group = _group(tokens, verification, ["1+2=3\n3+9=12\n12", "9+2=11\n11+1=12\n12", "5"])
    (found,) = explorer.score([group], step=1, place=0)
    assert found.scaled.max() == 1
    assert 0 < found.raw.max() < 1
    assert found.raw[2] == 0
    (again,) = explorer.score([group], step=2, place=0)
    assert np.allclose(again.raw, 0, atol=1e-6)


def test_solutions_embedded_ahead_of_their_group_are_neither_scored_nor_remembered_twice(
    tokens: TokenTexts, verification: VerificationClient, novelty: str
) -> None:
    group = _group(tokens, verification, ["1+2=3\n3+9=12\n12", "9+2=11\n11+1=12\n12", "5"])
    found = []
    for ahead in (True, False):
        explorer = _explorer(
            tokens, novelty, f"ahead-{ahead}", NoveltyConfig(metric="embedding"), min_history=0
        )
        step = StepNovelty(explorer, 1, [group.request])
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True) if ahead else ():
            step.prepare(group.request, rollout, verdict)
        step.add(0, group)
        (novel,) = step.finish([group])
        found.append(novel.raw.tolist())
        assert NamespaceClient(novelty, explorer.novelty.namespace).describe().solutions == 2
    assert found[0] == found[1]
    assert any(found[0])


SUMS = "1+2=3\n3+9=12\n12+1=13\n12"
OTHERS = "9+2=11\n11+1=12\n12*1=12\n12"


@pytest.mark.parametrize("metric", [Metric.EMBEDDING, Metric.DERIVATION])
def test_rows_of_one_prompt_share_a_memory_and_their_order_decides_no_bonus(
    tokens: TokenTexts, verification: VerificationClient, novelty: str, metric: Metric
) -> None:
    """The same problem in four rows, twenty places apart, among other problems."""
    texts = [[SUMS, "5", OTHERS], [SUMS, SUMS, "5"], ["5", "5", "5"], [OTHERS, SUMS, "12*1=12\n12"]]
    same = [_group(tokens, verification, each, guided=index == 3) for index, each in enumerate(texts)]
    filler = _group(tokens, verification, ["12"])
    found: list[Any] = []
    counts: list[Any] = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 0, 3, 1]):
        name = f"rows-{metric}-{order[0]}"
        config = NoveltyConfig(metric=metric)
        outcome = OutcomeConfig(enabled=True, groups="all")
        explorer = _explorer(tokens, novelty, name, config, min_history=0, outcome=outcome)
        batch = []
        for index in order:
            batch.append(same[index])
            for other in range(20):
                request = replace(filler.request, prompt_id=f"{index}-{other}")
                batch.append(replace(filler, request=request))
        step = StepNovelty(explorer, 1, [group.request for group in batch])
        for place, group in enumerate(batch[:50]):
            step.add(place, group)
        scores = step.finish(batch)
        places = [next(i for i, group in enumerate(batch) if group is each) for each in same]
        found.append([scores[place].raw.tolist() for place in places])
        outcomes = [scores[place].outcome for place in places]
        counts.append([outcome.times.tolist() for outcome in outcomes if outcome is not None])
        for group, score in zip(batch, scores, strict=True):
            assert len(score.nearest) in (0, len(group.rollouts))
            assert all(each is None or each.sibling != row for row, each in enumerate(score.nearest))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-6)
    assert counts[0] == counts[1] == counts[2]
    assert counts[0][2] == [5, 5, 5]  # "5" in all four rows
    assert found[0][0][0] == found[0][1][0] == 0  # SUMS was written several times
    assert found[0][3][2] > 0 or metric is Metric.DERIVATION  # and this once


def test_derivations_are_scored_with_their_problem_and_embedded_ahead_once(
    tokens: TokenTexts, verification: VerificationClient, novelty: str
) -> None:
    config = NoveltyConfig(metric=Metric.DERIVATION)
    explorer = _explorer(tokens, novelty, "derivations", config, min_history=0)
    group = _group(tokens, verification, [SUMS, OTHERS, SUMS, "12", "5"])
    step = StepNovelty(explorer, 1, [group.request])
    for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
        step.prepare(group.request, rollout, verdict)
    step.add(0, group)
    (found,) = step.finish([group])
    assert found.raw[[0, 2, 3, 4]].tolist() == [0, 0, 0, 0]
    assert found.raw[1] > 0
    assert "hardly any derivation" in found.suspicious[3]
    assert [bool(steps) for steps in found.new_steps] == [False, True, False, False, False]
    records = rollout_records([group], [found], StepAdvantages.zeros([group]))
    assert [record.suspicious for record in records] == list(found.suspicious)
    assert records[1].new_steps == found.new_steps[1]
    metrics = step_metrics([group], [found])
    assert metrics["suspicious"] == 0.25
    assert NamespaceClient(novelty, explorer.novelty.namespace).describe().solutions == 3


@pytest.mark.parametrize("metric", [Metric.EMBEDDING, Metric.DERIVATION])
def test_an_empty_response_stops_nothing_whatever_is_remembered(
    tokens: TokenTexts, verification: VerificationClient, novelty: str, metric: Metric
) -> None:
    config = NoveltyConfig(metric=metric, memory_policy="all")
    explorer = _explorer(tokens, novelty, f"empty-{metric}", config, min_history=0)
    group = _group(tokens, verification, ["", SUMS, " ", OTHERS])
    (found,) = explorer.score([group], step=1, place=0)
    assert [bool(reason) for reason in found.suspicious] == [True, False, True, False]
    assert found.raw[[0, 2]].tolist() == [0, 0]
    assert found.raw[3] > 0
    assert NamespaceClient(novelty, explorer.novelty.namespace).describe().solutions == 2


def test_shares_are_centred_and_the_novelty_is_known_raw_too(
    tokens: TokenTexts, verification: VerificationClient, novelty: str
) -> None:
    config = NoveltyConfig(metric=Metric.DERIVATION, scale=Scale.SHARE)
    explorer = _explorer(tokens, novelty, "shares", config, min_history=0)
    (found,) = explorer.score([_group(tokens, verification, [SUMS, SUMS, OTHERS, "5"])], step=1, place=0)
    assert found.scaled.sum() == pytest.approx(0, abs=1e-6)
    assert found.scaled[2] > 0 > found.scaled[0]
    assert found.scaled[3] == 0
    assert found.raw.min() == 0
    assert found.raw[2] > 0


@pytest.mark.parametrize("metric", [Metric.NGRAM_COUNT, Metric.POLICY_SURPRISE, Metric.CLUSTER_SIZE])
def test_every_metric_can_be_chosen(
    tokens: TokenTexts, verification: VerificationClient, novelty: str, metric: Metric
) -> None:
    explorer = _explorer(tokens, novelty, f"metric-{metric}", NoveltyConfig(metric=metric), min_history=0)
    group = _group(tokens, verification, [SUMS, OTHERS, "12", "5"])
    group.rollouts = [
        replace(rollout, logprobs=np.full(len(rollout.token_ids), -0.1 * (1 + index), np.float32))
        for index, rollout in enumerate(group.rollouts)
    ]
    (found,) = explorer.score([group], step=1, place=0)
    assert found.raw[:3].any()
    assert found.raw[3] == 0


def test_guided_groups_count_in_their_prompt_s_novelty_unless_told_otherwise(
    tokens: TokenTexts, verification: VerificationClient, novelty: str
) -> None:
    group = _group(tokens, verification, ["1+2=3\n3+9=12\n12", "9+2=11\n11+1=12\n12"], guided=True)
    for counted in (True, False):
        config = NoveltyConfig(metric="embedding", guided_groups=counted)
        explorer = _explorer(tokens, novelty, f"guided-{counted}", config, min_history=0)
        assert explorer.score([group], step=1, place=0)[0].raw.any() == counted


def test_an_undecided_rollout_is_neither_scored_nor_remembered(
    tokens: TokenTexts, verification: VerificationClient, novelty: str
) -> None:
    explorer = _explorer(
        tokens, novelty, "undecided", NoveltyConfig(metric="embedding", memory_policy="all"), min_history=0
    )
    group = _group(tokens, verification, ["12", "3+9=12\n12", "3"])
    group.verdicts[1] = replace(group.verdicts[1], status=VerdictStatus.TIMEOUT)
    assert explorer.score([group], step=1, place=0)[0].raw[1] == 0
    assert NamespaceClient(novelty, explorer.novelty.namespace).describe().solutions == 2


@pytest.mark.parametrize(("sources", "fed"), [("unguided", 0), ("wrong", 0), ("all", 1)])
def test_sources_say_whether_guided_groups_feed_prefixes(
    tokens: TokenTexts, verification: VerificationClient, novelty: str, sources: str, fed: int
) -> None:
    config = PrefixConfig(warmup_steps=0, min_segment_tokens=2, sources=sources)
    explorer = _explorer(
        tokens, novelty, f"sources-{sources}", NoveltyConfig(metric="embedding"), prefix=config
    )
    text = "1+2=3\n3+9=11\n11"
    group = _group(tokens, verification, [text, text], guided=True)
    ids = tokens.tokenizer("1+2=3\n")["input_ids"]
    group.request = replace(group.request, prefix_tokens=tuple(ids), prefix_entropy=0.25)
    group.rollouts = [_rollout(tokens, text, index, skip=len(ids)) for index in range(2)]
    assert explorer.feed([group], step=1) == fed
    if fed:
        assert tuple(explorer.queue.waiting[0].prefix_tokens[: len(ids)]) == tuple(ids)


def _check_choices(choices: list[PrefixChoice], groups: list[Group]) -> None:
    """The records say which rollout was split where, and which of all candidates was chosen."""
    # All are hard; but one whose rollouts were all cut off feeds nothing.
    ended = [place for place, group in enumerate(groups) if not group.cut_off.all()]
    assert [choice.place for choice in choices] == ended
    assert len(ended) < len(groups)
    for choice, record in zip(choices, prefix_choice_records(choices), strict=True):
        group = groups[choice.place]
        entropies = [rollout.entropies.mean(dtype=np.float64) for rollout in group.rollouts]
        assert choice.sample == np.argmin(entropies)
        text = group.rollouts[choice.sample].text
        prefixes = {text_digest(text[:characters]) for characters in record.characters}
        assert record.candidates is not None
        assert {candidate.text_digest for candidate in record.candidates} == prefixes
        if choice.selected is None:
            assert prefixes == set()
            continue
        best = min(record.candidates, key=lambda candidate: candidate.smoothed_entropy)
        assert record.selected == best.prefix_id
        assert best.length in record.lengths


def test_the_nearest_neighbours_of_a_group_are_told_by_their_places_in_it(
    tokens: TokenTexts, verification: VerificationClient, novelty: str
) -> None:
    explorer = _explorer(tokens, novelty, "nearest", NoveltyConfig(metric="embedding"), min_history=0)
    group = _group(tokens, verification, ["12", "3+9=12\n12", "12", "no"])
    group.verdicts[1] = replace(group.verdicts[1], status=VerdictStatus.TIMEOUT)
    (scores,) = explorer.score([group], step=1, place=0)
    records = rollout_records([group], [scores], StepAdvantages.zeros([group]))
    nearest = [record.nearest for record in records]
    one: Any = pytest.approx(1, abs=1e-5)
    assert nearest == [NearestRecord(one, 2), None, NearestRecord(one, 0), None]
    (scores,) = explorer.score([_group(tokens, verification, ["12"])], step=2, place=0)
    single = [_group(tokens, verification, ["12"])]
    (record,) = rollout_records(single, [scores], StepAdvantages.zeros(single))
    assert record.nearest is not None
    assert record.nearest.solution in (0, 1)


def test_a_record_says_which_side_could_not_be_read(
    tokens: TokenTexts, verification: VerificationClient
) -> None:
    group = _group(tokens, verification, ["12", "3+9=12\n12", "12"])
    unparseable = replace(group.verdicts[1], status=VerdictStatus.UNPARSEABLE)
    group.verdicts[1] = replace(unparseable, unparseable_side=UnparseableSide.RESPONSE)
    group.verdicts[2] = replace(unparseable, unparseable_side=UnparseableSide.ANSWER)
    records = rollout_records([group], [GroupNovelty.none(3)], StepAdvantages.zeros([group]))
    assert [record.unparseable_side for record in records] == [
        None,
        UnparseableSide.RESPONSE,
        UnparseableSide.ANSWER,
    ]
    assert [record.decided for record in records] == group.decided.tolist() == [True, True, False]


def test_wrong_answers_are_counted_and_the_rarer_ones_gain(
    tokens: TokenTexts, verification: VerificationClient, novelty: str
) -> None:
    outcome = OutcomeConfig(enabled=True, beta=0.3)
    explorer = _explorer(tokens, novelty, "outcome", NoveltyConfig(enabled=False), outcome=outcome)
    # The reference answer is 12: the first two steps are all wrong, the third has a success.
    steps = [["13", "13", "14", "no answer"], ["13", "15", "15", "16"], ["12", "13", "13", "13"]]
    rescued = []
    for step, texts in enumerate(steps, start=1):
        group = _group(tokens, verification, texts)
        if step == 2:
            group.verdicts[3] = replace(group.verdicts[3], status=VerdictStatus.TIMEOUT)
        novelty_of = explorer.score([group], step, place=0)
        advantages = step_advantages(
            [group], novelty_of, NoveltyConfig(), outcome, divide_by_std=True, seed=0, step=step
        )
        records = rollout_records([group], novelty_of, advantages)
        rescued.append(explorer.rescues.update([group], novelty_of))
        times = [record.times_given for record in records]
        bonus = [record.outcome_bonus for record in records]
        if step == 1:
            assert times == [2, 2, 1, 0]
            b = [2**-0.5, 2**-0.5, 1, 2**-0.5]
            assert bonus == pytest.approx([0.3 * (value - sum(b) / 4) for value in b], abs=1e-5)
        elif step == 2:
            assert times == [3, 2, 2, None], "an undecided rollout is neither counted nor paid"
            assert bonus[0] < 0 < bonus[1] == bonus[2]
            assert bonus[3] == 0
        else:
            assert times == [None] * 4
            assert bonus == [0] * 4
    assert rescued == [0, 0, 1]


def test_the_plug_ins_add_what_the_trainer_adds(
    tokens: TokenTexts, verification: VerificationClient, novelty: str
) -> None:
    outcome, none = OutcomeConfig(enabled=True, beta=0.3), NoveltyConfig(enabled=False)
    explorer = _explorer(tokens, novelty, "trainer", none, outcome=outcome)
    random, paid = np.random.default_rng(0), list[bool]()
    with NoveltyClient(novelty, "plug-in") as client:
        for step in range(5):
            texts = random.choice(["13", "14", "15", "no answer", "12"], 6, p=[0.3, 0.3, 0.2, 0.15, 0.05])
            group = _group(tokens, verification, texts.tolist())
            group.verdicts[0] = replace(group.verdicts[0], status=VerdictStatus.TIMEOUT)
            scores = explorer.score([group], step, place=0)
            theirs = step_advantages([group], scores, none, outcome, divide_by_std=True, seed=0, step=step)
            bonus = novelty_bonus(
                [group.request.prompt_id] * 6,
                texts.tolist(),
                [verdict.correct for verdict in group.verdicts],
                [verdict.final_answer for verdict in group.verdicts],
                client=client,
                alpha=0,
                beta=0.3,
            )
            assert bonus.tolist() == theirs.outcome_bonus[0].astype(np.float32).tolist()
            paid.append(bool(bonus.any()))
    assert any(paid)
    assert not all(paid)


def test_a_repeated_call_counts_no_answer_twice(
    tokens: TokenTexts, verification: VerificationClient, novelty: str
) -> None:
    outcome = OutcomeConfig(enabled=True)
    explorer = _explorer(tokens, novelty, "repeat", NoveltyConfig(enabled=False), outcome=outcome)
    group = _group(tokens, verification, ["13", "13"])
    first, again = (explorer.score([group], step=1, place=0)[0].outcome for _ in range(2))
    assert first is not None
    assert again is not None
    assert first.times.tolist() == again.times.tolist() == [2, 2]


def test_requeue_guides_with_an_empty_prefix(
    tokens: TokenTexts, generation: GenerationClient, verification: VerificationClient, novelty: str
) -> None:
    explorer = Explorer(
        NoveltyConfig(enabled=False),
        PrefixConfig(warmup_steps=0, policy="none"),
        NoveltyClient(novelty, "requeue"),
        PrefixClient(novelty, "requeue"),
        tokens,
        launch_id="test",
    )
    request = _requests(tokens, "11+12+13=?\n", answer="999")
    groups = RolloutCollector(generation, verification).collect(request, SAMPLING, policy_version=0).groups
    assert explorer.feed(groups, step=1) == 1
    (again,) = explorer.plan(_requests(tokens, "1+1=?\n"))
    assert (again.prompt, again.answer, again.guided, again.prefix_tokens) == (
        "11+12+13=?\n",
        "999",
        True,
        (),
    )


def test_during_warmup_nothing_is_queued(
    tokens: TokenTexts, generation: GenerationClient, verification: VerificationClient, novelty: str
) -> None:
    explorer = Explorer(
        NoveltyConfig(metric="embedding"),
        PrefixConfig(warmup_steps=3, min_segment_tokens=2),
        NoveltyClient(novelty, "warm"),
        PrefixClient(novelty, "warm"),
        tokens,
        launch_id="test",
    )
    request = _requests(tokens, "11+12+13=?\n", answer="999")
    groups = RolloutCollector(generation, verification).collect(request, SAMPLING, policy_version=0).groups
    assert [explorer.feed(groups, step) for step in (1, 2, 3)] == [0, 0, 0]


def test_the_metrics_of_a_step_are_plain(
    tokens: TokenTexts, generation: GenerationClient, verification: VerificationClient
) -> None:
    requests = _requests(tokens, "1+2=?\n", "4+5=?\n", "30+40=?\n")
    groups = RolloutCollector(generation, verification).collect(requests, SAMPLING, 0).groups
    metrics = step_metrics(groups, [GroupNovelty.none(4)] * 3)
    assert metrics["undecided"] == 0
    assert 0 < metrics["entropy"] < 4


def test_a_guided_response_is_no_longer_than_others(
    tokens: TokenTexts, generation: GenerationClient, verification: VerificationClient
) -> None:
    (plain,) = _requests(tokens, "11+12+13=?\n")
    prefix = tuple(tokens.tokenizer("11+12=23\n")["input_ids"])
    guided = replace(plain, guided=True, prefix_tokens=prefix)
    short = Sampling(n=4, max_tokens=len(prefix) + 2, seed=1)
    groups = RolloutCollector(generation, verification).collect([plain, guided], short, 0).groups
    assert max(len(r.token_ids) for r in groups[0].rollouts) == len(prefix) + 2
    assert max(len(r.token_ids) for r in groups[1].rollouts) == 2
