"""The trainer's side of the services, without OpenRLHF: real services, a model that is mostly wrong."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from extra_client import (
    GenerationClient,
    NoveltyClient,
    PrefixClient,
    UnavailableError,
    VerificationClient,
    embedded,
)
from extra_trainer.config import NoveltyConfig, PrefixConfig
from extra_trainer.data import prompt_identity
from extra_trainer.exploration import Explorer, Tokens, step_metrics
from extra_trainer.rehearsal.start_model import FitSettings, start_model
from extra_trainer.rollout import RolloutCollector, RolloutError, RolloutRequest, Sampling

SAMPLING = Sampling(n=4, max_tokens=24, seed=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model too small to solve anything: all its groups are hard."""
    settings = FitSettings(
        hidden_size=32, layers=1, head_size=16, steps=30, tokens_per_step=512, warmup_steps=3
    )
    return start_model(tmp_path_factory.mktemp("cache"), seed=0, settings=settings)


@pytest.fixture(scope="module")
def tokens(model: Path) -> Tokens:
    return Tokens(AutoTokenizer.from_pretrained(model))


@pytest.fixture(scope="module")
def generation(model: Path) -> Iterator[GenerationClient]:
    with (
        embedded.start("generation", model=model, threads=1) as service,
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


def _requests(tokens: Tokens, *prompts: str, answer: str = "12") -> list[RolloutRequest]:
    return [
        RolloutRequest(prompt, prompt_identity(prompt), tuple(tokens.tokenizer(prompt)["input_ids"]), answer)
        for prompt in prompts
    ]


def test_groups_come_back_whole_in_order_and_verified(
    tokens: Tokens, generation: GenerationClient, verification: VerificationClient
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


def test_rollouts_of_another_policy_version_stop_the_step(
    tokens: Tokens, generation: GenerationClient, verification: VerificationClient
) -> None:
    collector = RolloutCollector(generation, verification)
    with pytest.raises(RolloutError, match="policy version 0, not -1"):
        collector.collect(_requests(tokens, "1+2=?\n"), SAMPLING, policy_version=-1)


def test_a_refused_prompt_stops_the_step_and_is_named(
    tokens: Tokens, generation: GenerationClient, verification: VerificationClient
) -> None:
    good, bad = _requests(tokens, "1+2=?\n", "9+9=?\n")
    bad = RolloutRequest(bad.prompt, bad.prompt_id, (10**6,), bad.answer)
    with pytest.raises(RolloutError, match=r"refused a prompt.*9\+9=\?"):
        RolloutCollector(generation, verification).collect([good, bad], SAMPLING, policy_version=0)


def test_a_verifier_that_is_gone_stops_the_step_with_its_error(
    tokens: Tokens, generation: GenerationClient
) -> None:
    with embedded.start("verification", workers=1) as service, VerificationClient(service.target) as client:
        service.process.kill()
        service.process.wait()
        with pytest.raises(UnavailableError, match="verification service"):
            RolloutCollector(generation, client).collect(
                _requests(tokens, "1+2=?\n"), SAMPLING, policy_version=0
            )


def test_a_guided_prompt_continues_its_prefix_and_keeps_its_own_answer(
    tokens: Tokens, generation: GenerationClient, verification: VerificationClient, novelty: str
) -> None:
    explorer = Explorer(
        NoveltyConfig(min_history=0),
        PrefixConfig(warmup_steps=0, regen_batch_size=2, min_segment_tokens=2),
        NoveltyClient(novelty, "guided"),
        PrefixClient(novelty, "guided"),
        tokens,
        launch_id="test",
    )
    collector = RolloutCollector(generation, verification)
    hard = [_requests(tokens, f"{n}+{n}+1=?\n", answer=f"{1000 + n}")[0] for n in range(10, 18)]
    groups = collector.collect(explorer.plan(hard), SAMPLING, policy_version=0).groups
    explorer.score(groups, step=1)
    queued = explorer.feed(groups, step=1)
    assert queued == len(explorer.queue.waiting) > 2

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


def test_requeue_guides_with_an_empty_prefix(
    tokens: Tokens, generation: GenerationClient, verification: VerificationClient, novelty: str
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
    tokens: Tokens, generation: GenerationClient, verification: VerificationClient, novelty: str
) -> None:
    explorer = Explorer(
        NoveltyConfig(),
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
    tokens: Tokens, generation: GenerationClient, verification: VerificationClient
) -> None:
    requests = _requests(tokens, "1+2=?\n", "4+5=?\n", "30+40=?\n")
    groups = RolloutCollector(generation, verification).collect(requests, SAMPLING, 0).groups
    metrics = step_metrics(groups, np.zeros((3, 4)), queued=0, waiting=0)
    assert metrics["undecided"] == 0
    assert 0 < metrics["entropy"] < 4
