"""What every integration of the novelty bonus must do, as tests: `pytest --integration module:name`.

`name` is an `Integration`: a class that does one step of your trainer with given rollouts. The tests give it
rollouts with a known novelty and compare what comes out with what the same step gives without the plug-in.
The difference must be the bonus, as the novelty server scores it. A server of these tests' own is started;
`--integration-novelty` names another one.
"""

import copy
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from extra_client import (
    ExtraError,
    NamespaceClient,
    NamespaceSettings,
    NoveltyClient,
    PromptSummary,
)
from extra_client.integrations import UNAVAILABLE, NoveltyScoring, novelty_bonus, prompt_id

PROBLEM = "a yard holds goats and ducks. someone counts 37 heads and 110 legs. how many goats are there. "
ANSWER = "18"
#: A correct response.
SWAP = (
    "if all 37 animals were ducks, there would be 37 * 2 = 74 legs. that is 110 - 74 = 36 legs"
    " too few. each goat adds two legs, so there are 36/2 = 18 goats. the answer is 18"
)
#: SWAP in other words.
SWAP_AGAIN = (
    "imagine ducks only: 37 * 2 = 74 legs. we are short of 36 = 110 - 74 legs. every trade brings two"
    " legs, and so 36 / 2 trades are needed, which is 18"
)
#: Another way.
EQUATIONS = (
    "let g goats and d ducks. then g + d = 37 and 4g + 2d = 110. halving gives 2g + d = 55, and"
    " subtracting the first equation from it, g = 55 - 37. so it is 18"
)
#: All its numbers are those of the problem and of the answer.
STEPLESS = "we know 37 heads, 110 legs and the 18 that follows from them, as is well known. it is 18"

#: Weights with which a bonus cannot be taken for anything else.
ALPHA, BETA = 0.7, 0.3
#: Nothing answers there.
NOWHERE = "127.0.0.1:1"


@dataclass(frozen=True)
class RolloutGroup:
    """The rollouts of a prompt that a trainer compares with each other."""

    texts: Sequence[str]
    #: None: undecided.
    correct: Sequence[bool | None]
    #: Final answers; None: there is none.
    answers: Sequence[str | None]
    prompt: Any = PROBLEM
    reference: str = ANSWER


class Integration(Protocol):
    """A trainer with a plug-in, as these tests use it; it is made without arguments."""

    #: What this trainer cannot do, each with the reason for which its tests are skipped: "undecided" (to have
    #: rollouts that are neither correct nor wrong), "beta", "images", "twice" (two groups of a prompt in a
    #: step), "resume" (to know a step again after a crash).
    cannot: ClassVar[Mapping[str, str]]

    def step(
        self, scoring: NoveltyScoring | None, groups: Sequence[RolloutGroup], number: int
    ) -> Sequence[Sequence[float]]:
        """Do what a step of a trainer made anew does with its rollouts.

        Args:
            scoring: The settings of the plug-in; None: the trainer without it.
            groups: All have as many rollouts.
            number: Of the step; the same number is the same step, repeated after a crash.

        Returns:
            Of each rollout the number to which the plug-in adds: its advantage, or its reward.
        """
        ...


@pytest.fixture
def scoring(novelty_target: str) -> NoveltyScoring:
    """Return settings with a namespace of this test's own."""
    return NoveltyScoring(
        target=novelty_target,
        namespace=f"contract-{uuid4().hex}",
        alpha=ALPHA,
        settings=NamespaceSettings(min_history=1),
        deadline=60,
    )


def known() -> RolloutGroup:
    """A group of one correct way."""
    return RolloutGroup([SWAP] * 4, [True] * 4, [ANSWER] * 4)


def mixed() -> RolloutGroup:
    """A group with a repetition, a new way, a response without steps, which is not kept, and a wrong one."""
    texts = [SWAP_AGAIN, EQUATIONS, STEPLESS, "no idea"]
    return RolloutGroup(texts, [True, True, True, False], [ANSWER, ANSWER, ANSWER, None])


def hopeless(answers: Sequence[str | None], correct: Sequence[bool | None] = (False,) * 4) -> RolloutGroup:
    """A group without a correct rollout."""
    return RolloutGroup([f"it is {answer or 'unknown'}" for answer in answers], correct, answers)


def test_a_correct_rollout_gets_alpha_times_its_novelty(
    integration: Integration, scoring: NoveltyScoring
) -> None:
    """The novelty is that of the metric derivation, which reads problem and reference answer."""
    for number, group in enumerate([known(), mixed()]):
        found = added(integration, scoring, [group], number)
        assert_close(found, expected(scoring, [group], number))
    repeated, other, stepless, wrong = found[0]
    assert other > 0.3 * ALPHA, "the new way got no bonus"
    assert repeated < other / 3, "a known way in other words got the bonus of a new one"
    assert stepless == wrong == 0, (
        "numbers of problem or answer count as steps: they do not reach the service"
    )


def test_a_wrong_rollout_of_an_all_wrong_group_gets_beta_times_its_outcome_novelty(
    integration: Integration, scoring: NoveltyScoring
) -> None:
    needs(integration, "beta")
    scoring = replace(scoring, alpha=0.0, beta=BETA)
    groups = [
        hopeless(["17", "17", "19", None]),
        # With a correct one: nothing is added, and nothing counted.
        RolloutGroup([SWAP, "it is 17", "it is 17", "it is 17"], [True, *[False] * 3], [ANSWER, *["17"] * 3]),
        hopeless(["17", "20", "20", "19"]),
    ]
    for number, group in enumerate(groups):
        found = added(integration, scoring, [group], number)
        assert_close(found, expected(scoring, [group], number))
    assert len(set(np.round(found[0], 6))) > 1, "wrong answers given before and new ones got the same"


def test_an_undecided_rollout_counts_for_nothing(integration: Integration, scoring: NoveltyScoring) -> None:
    needs(integration, "undecided")
    texts = [SWAP, SWAP_AGAIN, EQUATIONS, STEPLESS]
    group = RolloutGroup(texts, [True, None, None, True], [ANSWER] * 4)
    assert_close(added(integration, scoring, [group], 0), expected(scoring, [group], 0))
    (stored,) = prompts(scoring)
    assert stored.solutions_added == 1, "of the two right ones only the first is a derivation"
    if "beta" not in integration.cannot:
        scoring = replace(scoring, alpha=0.0, beta=BETA)
        group = hopeless(["17", "18", "17", "19"], [False, None, False, False])
        assert_close(added(integration, scoring, [group], 1), expected(scoring, [group], 1))


def test_with_weights_of_0_the_result_is_bit_identical_and_nothing_is_called(
    integration: Integration, scoring: NoveltyScoring
) -> None:
    silent = replace(scoring, target=NOWHERE, alpha=0.0, beta=0.0)
    groups = [mixed(), hopeless(["17", "17", "19", None])]
    ours, plain = integration.step(silent, groups, 0), integration.step(None, groups, 0)
    for one, other in zip(ours, plain, strict=True):
        assert np.array(one, np.float64).tobytes() == np.array(other, np.float64).tobytes()


def test_a_service_that_is_away_fails_the_step(integration: Integration, scoring: NoveltyScoring) -> None:
    away = replace(scoring, target=NOWHERE, on_failure="fail", deadline=0.5)
    with pytest.raises(UNAVAILABLE):
        integration.step(away, [mixed()], 0)


def test_if_it_is_told_so_the_step_goes_on_without_the_bonus_and_says_it_once(
    integration: Integration, scoring: NoveltyScoring, caplog: pytest.LogCaptureFixture
) -> None:
    away = replace(scoring, target=NOWHERE, on_failure="continue", deadline=0.5)
    with caplog.at_level(logging.WARNING, "extra_client"):
        found = integration.step(away, [mixed(), known()], 0)
    assert_close(found, integration.step(None, [mixed(), known()], 0))
    told = [record.message for record in caplog.records if "goes on without" in record.message]
    assert len(told) >= 1, "no warning says that the bonus is missing"
    assert len(told) < 8, "each rollout warns"


def test_a_wrong_request_fails_whatever_is_told(integration: Integration, scoring: NoveltyScoring) -> None:
    """No trainer here sends log-probabilities, without which this metric is refused."""
    wrong = replace(scoring, metric="policy_surprise", on_failure="continue")
    with pytest.raises(ExtraError) as caught:
        integration.step(wrong, [mixed()], 0)
    assert not isinstance(caught.value, UNAVAILABLE)


def test_a_prompt_is_known_by_its_content_in_every_process(
    integration: Integration, integration_name: str, scoring: NoveltyScoring
) -> None:
    integration.step(scoring, [known()], 0)
    (stored,) = prompts(scoring)
    chat = [{"role": "user", "content": PROBLEM}]
    if stored.prompt_id in (prompt_id(PROBLEM), prompt_id(chat)):
        return  # By prompt_id, which has tests of its own.
    command = [sys.executable, "-m", "extra_client.integrations.contract"]
    ran = subprocess.run(
        [*command, integration_name, scoring.target, scoring.namespace],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert [stored.solutions_added for stored in prompts(scoring)] == [8]


def test_images_of_a_prompt_are_known_by_their_pixels(
    integration: Integration, scoring: NoveltyScoring
) -> None:
    needs(integration, "images")
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed: pip install pillow")
    red, again, blue = (image.new("RGB", (4, 4), colour) for colour in ("red", "red", "blue"))
    for number, picture in enumerate((red, again, blue)):
        content = [{"type": "image", "image": picture}, {"type": "text", "text": PROBLEM}]
        group = replace(known(), prompt=[{"role": "user", "content": content}])
        integration.step(scoring, [group], number)
    assert sorted(stored.solutions_added for stored in prompts(scoring)) == [4, 8]


def test_the_groups_of_several_ranks_are_each_scored_and_kept(
    integration: Integration, scoring: NoveltyScoring
) -> None:
    """The same step of another process is no repetition, though the prompt may be the same."""
    integration.step(scoring, [known()], 0)
    for group in (mixed(), replace(mixed(), prompt=f"again: {PROBLEM}")):
        integration.step(scoring, [group], 0)
    assert sorted(stored.solutions_added for stored in prompts(scoring)) == [2, 6]


def test_a_prompt_twice_in_a_step_makes_two_groups(integration: Integration, scoring: NoveltyScoring) -> None:
    needs(integration, "twice")
    if "beta" not in integration.cannot:
        # Only a group of its own is without a correct rollout.
        scoring = replace(scoring, beta=BETA)
    for number, groups in enumerate([[known()], [mixed(), hopeless(["17", "17", "19", None])]]):
        assert_close(added(integration, scoring, groups, number), expected(scoring, groups, number))
    (stored,) = prompts(scoring)
    assert stored.solutions_added == 4 + 2


def test_empty_responses_get_nothing_and_are_not_kept(
    integration: Integration, scoring: NoveltyScoring
) -> None:
    integration.step(scoring, [known()], 0)
    group = RolloutGroup(["", EQUATIONS, "", "no"], [True, True, True, False], [None, ANSWER, None, None])
    (found,) = added(integration, scoring, [group], 1)
    assert found[1] > 0.3 * ALPHA
    assert_close(found[[0, 2, 3]], 0)
    (stored,) = prompts(scoring)
    assert stored.solutions_added == 4 + 1


def test_a_step_that_is_repeated_after_a_crash_counts_once(
    integration: Integration, scoring: NoveltyScoring
) -> None:
    needs(integration, "resume")
    integration.step(scoring, [known()], 0)
    first, again = (integration.step(scoring, [mixed()], 1) for _ in range(2))
    assert np.array_equal(first, again), "the repeated step has another bonus"
    (stored,) = prompts(scoring)
    assert stored.solutions_added == 4 + 2


def needs(integration: Integration, ability: str) -> None:
    """Skip the test if the integration says that it cannot do this."""
    if reason := integration.cannot.get(ability):
        pytest.skip(f"{ability}: {reason}")


def added(
    integration: Integration, scoring: NoveltyScoring, groups: Sequence[RolloutGroup], number: int
) -> NDArray[np.float64]:
    """Return [groups, rollouts]: what the plug-in adds."""
    plain = np.array(integration.step(None, groups, number), np.float64)
    return np.array(integration.step(scoring, groups, number), np.float64) - plain


def expected(scoring: NoveltyScoring, groups: Sequence[RolloutGroup], number: int) -> NDArray[np.float64]:
    """Return [groups, rollouts]: the bonus by the same rollouts sent to the service as they are."""
    rows = [(place, group) for place, group in enumerate(groups) for _ in group.texts]
    with NoveltyClient(scoring.target, f"{scoring.namespace}-expected", scoring.settings) as client:
        bonus = novelty_bonus(
            [prompt_id(group.prompt) for _, group in rows],
            [text for group in groups for text in group.texts],
            [correct for group in groups for correct in group.correct],
            [answer for group in groups for answer in group.answers],
            client=client,
            alpha=scoring.alpha,
            beta=scoring.beta,
            group_ids=[place for place, _ in rows],
            problems=[group.prompt for _, group in rows],
            reference_answers=[group.reference for _, group in rows],
            metric=scoring.metric,
            idempotency_key=str(number),
        )
    return bonus.astype(np.float64).reshape(len(groups), -1)


def assert_close(found: Any, wanted: Any) -> None:
    """Assert that numbers are equal up to the rounding of float32 in advantages of size 1."""
    np.testing.assert_allclose(np.array(found, np.float64), np.array(wanted, np.float64), atol=2e-6)


def prompts(scoring: NoveltyScoring) -> list[PromptSummary]:
    """Return what the service has of the prompts of a test."""
    with NamespaceClient(scoring.target, scoring.namespace) as client:
        return list(client.list_prompts())


def main(name: str, target: str, namespace: str) -> None:
    """Do a step in this process, for the test of prompts in several."""
    from extra_client.integrations.pytest_plugin import load  # It imports this module for its types.

    scoring = NoveltyScoring(
        target=target, namespace=namespace, alpha=ALPHA, settings=NamespaceSettings(min_history=1)
    )
    load(name).step(scoring, [copy.deepcopy(known())], 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
