"""Selection of prefixes, above all by their outcomes."""

from dataclasses import replace

import numpy as np
import pytest

from extra_rl.vocabulary import SelectionPolicy
from extra_services.memory.records import Header, StoredPrefix
from extra_services.prefix.selection import BEST_PRIOR, SelectionOptions, rank, smoothed_entropies
from extra_services.prefix.splitting import boundaries

RANDOM = np.random.default_rng(0)
OUTCOMES = SelectionOptions(SelectionPolicy.OUTCOME_AWARE)


def _stored(*prefixes: tuple[int, float, int, int]) -> list[StoredPrefix]:
    """Prefixes of (length, entropy, rollouts, successes), all at right angles to each other."""
    return [
        StoredPrefix(
            i,
            np.arange(length, dtype=np.int32) + i,
            "",
            entropy,
            np.eye(8, dtype=np.float32)[i],
            rollouts,
            successes,
        )
        for i, (length, entropy, rollouts, successes) in enumerate(prefixes)
    ]


def _lengths(
    stored: list[StoredPrefix], options: SelectionOptions, header: Header | None = None
) -> list[int]:
    return [candidate.length for candidate in rank(stored, header or Header(), options, RANDOM)]


def test_without_outcomes_a_short_confident_prefix_is_preferred_to_a_long_unsure_one() -> None:
    stored = _stored((40, 0.9, 0, 0), (10, 0.1, 0, 0), (80, 0.5, 0, 0))
    assert _lengths(stored, OUTCOMES)[0] == 10


def test_what_succeeded_is_preferred_to_what_failed() -> None:
    stored = _stored((10, 0.1, 8, 0), (80, 0.9, 8, 6))
    assert _lengths(stored, OUTCOMES)[0] == 80


def test_what_failed_often_enough_is_dropped_and_the_empty_prefix_remains() -> None:
    stored = _stored((10, 0.1, 16, 0), (20, 0.2, 16, 0))
    ranking = rank(stored, Header(unguided_rollouts=100), OUTCOMES, RANDOM)
    assert ranking[0].stored is None
    assert [candidate.dropped for candidate in ranking] == [False, True, True]
    assert not any(
        c.dropped
        for c in rank(
            stored, Header(), SelectionOptions(SelectionPolicy.OUTCOME_AWARE, drop_after=17), RANDOM
        )
    )


def test_the_empty_prefix_wins_where_sampling_anew_succeeds() -> None:
    stored = _stored((10, 0.1, 8, 1), (20, 0.2, 8, 1))
    assert _lengths(stored, OUTCOMES, Header(unguided_rollouts=16, unguided_successes=12))[0] == 0


def test_what_was_never_tried_is_tried_in_the_end() -> None:
    stored = _stored((10, 0.1, 400, 100), (80, 0.9, 0, 0))
    tried = Header(unguided_rollouts=400, unguided_successes=90)
    assert _lengths(stored, SelectionOptions(SelectionPolicy.OUTCOME_AWARE, exploration=1.0), tried)[0] == 80
    assert _lengths(stored, SelectionOptions(SelectionPolicy.OUTCOME_AWARE, exploration=0.0), tried)[0] == 10


def test_outcomes_count_for_all_prefixes_of_the_same_tokens() -> None:
    first, second = _stored((10, 0.1, 8, 3), (10, 0.1, 4, 1))
    same = StoredPrefix(1, first.token_ids, "", 0.1, second.vector, 4, 1)
    ranking = rank([first, same], Header(), OUTCOMES, RANDOM)
    assert {(c.rollouts, c.successes) for c in ranking if c.stored} == {(12, 4)}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("smoothed_entropy", [20, 10, 30]), ("shortest", [10, 20, 30]), ("none", [0])],
)
def test_the_other_policies_rank_by_what_they_are_named_after(policy: str, expected: list[int]) -> None:
    stored = _stored((10, 0.5, 0, 0), (20, 0.1, 0, 0), (30, 0.9, 0, 0))
    assert _lengths(stored, SelectionOptions(SelectionPolicy(policy))) == expected


def test_a_prompt_without_prefixes_leaves_the_empty_one_to_the_policies_that_know_it() -> None:
    assert rank([], Header(), SelectionOptions(), RANDOM) == []
    assert _lengths([], OUTCOMES) == [0]


def test_priors_fall_with_entropy_and_with_length() -> None:
    stored = _stored((10, 0.1, 0, 0), (20, 0.2, 0, 0))
    ranking = rank(stored, Header(), SelectionOptions(SelectionPolicy.OUTCOME_AWARE, tau=1e-3), RANDOM)
    # The share of prefixes with less entropy is 0 and 1/2, the length as a share of the longest 1/2 and 1.
    expected = {0: 0.75, 10: 1 * 0.75, 20: 0.75 * 0.5}
    priors = {candidate.length: candidate.prior / BEST_PRIOR for candidate in ranking}
    assert priors == pytest.approx(expected)


def test_scores_are_upper_confidence_bounds_of_the_success_rates() -> None:
    stored = _stored((10, 0.1, 16, 1), (20, 0.2, 5, 0), (40, 0.4, 16, 0))
    options = SelectionOptions(SelectionPolicy.OUTCOME_AWARE, tau=1e-3, exploration=0.7)
    ranking = rank(stored, Header(unguided_rollouts=6, unguided_successes=2), options, RANDOM)
    exploring = 0.7 * np.log(1 + 43) ** 0.5
    # Four rollouts of the priors 3/8, 7/16, 5/16 and 1/6 are added to the outcomes.
    expected = {
        0: (2 + 4 * 3 / 8) / 10 + exploring / 10**0.5,
        10: (1 + 4 * 7 / 16) / 20 + exploring / 20**0.5,
        20: (0 + 4 * 5 / 16) / 9 + exploring / 9**0.5,
        40: (0 + 4 * 1 / 6) / 20 + exploring / 20**0.5,
    }
    scores = {candidate.length: candidate.score for candidate in ranking}
    assert scores == pytest.approx(expected, rel=1e-3)
    by_score = sorted((0, 10, 20), key=lambda length: -expected[length])
    assert [candidate.length for candidate in ranking] == [*by_score, 40]
    assert [candidate.dropped for candidate in ranking] == [False, False, False, True]


def test_between_prefixes_of_one_length_the_most_recent_is_the_shortest() -> None:
    shortest = SelectionOptions(SelectionPolicy.SHORTEST)
    ranking = rank(_stored((20, 0.1, 0, 0), (10, 0.5, 0, 0), (10, 0.4, 0, 0)), Header(), shortest, RANDOM)
    assert [candidate.stored and candidate.stored.sequence for candidate in ranking] == [2, 1, 0]
    assert [candidate.score for candidate in ranking] == [-10, -10, -20]


def test_by_default_near_prefixes_share_their_entropies_at_a_temperature_of_a_tenth() -> None:
    first, second = _stored((10, 0.2, 0, 0), (20, 0.8, 0, 0))
    near = replace(second, vector=np.array([0.6, 0.8, 0, 0, 0, 0, 0, 0], dtype=np.float32))
    ranking = rank([first, near], Header(), SelectionOptions(), RANDOM)
    weight = 1 / (1 + np.exp(-(1 - 0.6) / 0.1))
    expected = [weight * 0.2 + (1 - weight) * 0.8, weight * 0.8 + (1 - weight) * 0.2]
    assert [candidate.smoothed_entropy for candidate in ranking] == pytest.approx(expected)
    assert [candidate.score for candidate in ranking] == pytest.approx([-entropy for entropy in expected])


def test_a_random_order_has_every_prefix_once_and_follows_the_seed() -> None:
    stored = _stored(*((10 + i, 0.1, 0, 0) for i in range(8)))
    options = SelectionOptions(SelectionPolicy.RANDOM)
    orders = [
        [c.length for c in rank(stored, Header(), options, np.random.default_rng(seed))] for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(10, 18))


def test_the_empty_prefix_has_the_outcomes_of_sampling_anew_under_no_policy_too() -> None:
    header = Header(unguided_rollouts=9, unguided_successes=4)
    for policy in (SelectionPolicy.NONE, SelectionPolicy.OUTCOME_AWARE):
        (empty,) = rank([], header, SelectionOptions(policy), RANDOM)
        assert (empty.stored, empty.rollouts, empty.successes, empty.dropped) == (None, 9, 4, False)


def test_a_cold_softmax_leaves_each_prefix_its_own_entropy() -> None:
    entropies = np.array([0.1, 0.7])
    assert smoothed_entropies(np.eye(2, dtype=np.float32), entropies, 1e-4) == pytest.approx(entropies)


@pytest.mark.parametrize(
    ("newlines", "expected"),
    [([], []), ([3], [3]), ([3, 6], [3]), ([3, 6, 9], [3, 6]), ([3, 4, 9], [3])],
)
def test_the_last_of_several_boundaries_is_dropped(newlines: list[int], expected: list[int]) -> None:
    tokens = np.zeros(12, np.int32)
    tokens[[end - 1 for end in newlines]] = 7
    assert boundaries(tokens, {7}, 2) == expected


def test_of_more_than_fifteen_boundaries_fifteen_are_kept_evenly_spaced() -> None:
    tokens = np.full(32, 7, np.int32)
    # The last is dropped first; 31 are left.
    assert boundaries(tokens, [7], 1) == [1 + i * 31 // 15 for i in range(15)]
    assert boundaries(tokens[:16], [7], 1) == list(range(1, 16))
    assert boundaries(tokens[:12], [7], 4) == [1, 5]
    assert boundaries(tokens, [3], 1) == []
