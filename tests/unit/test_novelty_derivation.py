"""The metric `derivation`: what counts as a step, what counts for nothing, and that it cannot be farmed."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_services.novelty import derivation as d
from extra_services.novelty.chains import features_of
from extra_services.novelty.problem import statement
from support.latex_derivations import ANSWER, EQUATIONS, PROBLEM, SWAP, SWAP_AGAIN

STATED = statement(PROBLEM, ANSWER)


def _novelty(text: str, known: list[str], similarity: float = 0.8) -> float:
    new = d.derivation(text, STATED)
    if new.empty:
        return 0.0
    sketches = [d.sketch(d.derivation(one, STATED)) for one in known]
    found, _ = d.derivation_novelty(
        np.full((1, len(known)), similarity, dtype=np.float32),
        d.sketch(new)[None],
        np.array(sketches, dtype=np.uint64).reshape(1, -1, d.FAMILIES, d.WORDS),
        np.ones((1, len(known)), dtype=bool),
    )
    return float(found[0])


def test_notation_of_numbers_and_operators_does_not_matter() -> None:
    written = ["37 \\cdot 2 = 74", "37 × 2 = 74", "$37\\times 2=74$", "thirty 37 * two equals 74"]
    found = [d.derivation(text).relations for text in written]
    assert found[0] == found[1] == found[2] == {"2*37", "2=74"}
    assert {"2*37", "2=74"} <= found[3]
    assert d.derivation("\\frac{36}{2}").numbers == d.derivation("36/2").numbers == {"36", "2", "18"}
    assert d.derivation("1,200 + 1{,}300").relations == {"1200+1300"}


@pytest.mark.parametrize(
    "text",
    [
        "one hundred and forty-four divided by twelve equals 12",
        "1 4 4 / 1 2 = 1 2",
        "144 divided by 12 equals twelve",
    ],
)
def test_numbers_in_words_and_spaced_digits_are_numbers(text: str) -> None:
    assert d.derivation(text).relations == {"144/12", "12=12"}


def test_thousands_may_be_set_apart() -> None:
    assert d.derivation("10\\,000 + 2{,}000").relations == {"10000+2000"}


@pytest.mark.parametrize(
    "text",
    [
        "3 * 4 = 5 + 7 = 12",
        "3 * 4 = 5 + 7 = 6 + 6 = 12",
        "3 * 4 = 14 - 2 = 12",
    ],
)
def test_a_result_taken_apart_adds_no_step(text: str) -> None:
    assert d.derivation(text).relations == {"3*4", "12=4"}


@pytest.mark.parametrize(
    "text",
    [
        "(3 + 4) * 5 = 7 * 5 = 35",
        "3 * 4 + 5 * 6 = 12 + 30 = 42",
        "360 = 36 * 10 = 4 * 9 * 10",
        "x = 14 - 4 = 10",
    ],
)
def test_intermediate_sides_are_steps(text: str) -> None:
    assert len(d.derivation(text).relations) == sum(map(text.count, "+-*="))


def test_a_huge_binomial_is_not_calculated() -> None:
    # It took minutes, and the server with it.
    assert not d.derivation(r"\binom{99999999}{49999999} = 3 + 4 = 7").suspicious


def test_numbers_of_problem_and_answer_are_no_steps_of_the_way() -> None:
    assert d.derivation(SWAP, STATED).numbers.isdisjoint({"37", "110", "18"})
    assert {"74", "36"} <= d.derivation(SWAP, STATED).numbers


def test_a_different_way_is_novel_and_a_paraphrase_is_not() -> None:
    assert _novelty(SWAP_AGAIN, [SWAP]) < 0.3 * _novelty(EQUATIONS, [SWAP])
    assert _novelty(EQUATIONS, [SWAP]) > 0.3
    assert _novelty(EQUATIONS, [SWAP, EQUATIONS], 1.0) == 0


@pytest.mark.parametrize(
    "text",
    [
        "$\\boxed{18}$",
        "apple river stone candle winter garden silver mountain pocket ladder yellow music \\boxed{18}",
        PROBLEM + " \\boxed{18}",
        "ដំណោះស្រាយនេះគឺត្រឹមត្រូវ \\boxed{18}",
        "🎉🔥🚀 \\boxed{18}",
        "",
        " \n ",
    ],
)
def test_a_text_without_derivation_has_no_novelty(text: str) -> None:
    assert d.derivation(text, STATED).empty
    assert _novelty(text, [SWAP], similarity=-1) == 0


def test_what_does_not_belong_to_the_solution_counts_for_nothing() -> None:
    plain = d.derivation(SWAP, STATED)
    noise = "apple river stone candle winter garden silver mountain pocket ladder yellow music. "
    body = SWAP.split("$\\boxed")[0]
    for changed in (
        SWAP + " By the way, $12 \\cdot 12 = 144$ and $55 + 1 = 56$.",
        SWAP + " 5 + 5 = 10 $\\boxed{18}$",
        noise + SWAP,
        f"{body}\n{body}\n{SWAP}",
        f"Someone counts heads and legs, and how many goats are there?\n{SWAP}",
        body + " ".join(str(number) for number in range(200, 240)) + " $\\boxed{18}$",
    ):
        found = d.derivation(changed, STATED)
        assert (found.numbers, found.relations) == (plain.numbers, plain.relations)


@pytest.mark.parametrize(
    "problem",
    [
        "Compute $98 \\cdot 102 + 5 \\cdot 7$.",
        "Real numbers satisfy a + b = 3 and a^2 + b^2 = 8. Find a^4 + b^4.",
        PROBLEM,
    ],
)
def test_a_problem_said_again_is_no_derivation(problem: str) -> None:
    stated = statement(problem, ANSWER)
    assert d.derivation(f"{problem} $\\boxed{{18}}$", stated).empty
    solved = d.derivation(f"{problem} We have $98 - 41 = 57$, and $57 - 39 = 18$. $\\boxed{{18}}$", stated)
    assert {"98-41", "41", "57"} <= solved.relations | solved.numbers


def test_a_flag_gives_its_reason() -> None:
    assert d.derivation(SWAP).suspicious == ""
    assert "blank" in d.derivation("").suspicious
    assert "script" in d.derivation("ដំណោះស្រាយនេះគឺត្រឹមត្រូវ យើងគណនា").suspicious
    assert "script" in d.derivation("🎉🔥🚀🍕🌈" * 10).suspicious
    assert "behind the final answer" in d.derivation(SWAP + " and so on" * 60).suspicious
    assert "grammar" in d.derivation("apple river stone candle winter garden " * 4 + SWAP).suspicious
    assert "list of numbers" in d.derivation(" ".join(map(str, range(100))) + "\\boxed{1}").suspicious
    assert "repeated" in d.derivation("It is clear that 3 + 4 = 7 holds.\n" * 5).suspicious


def test_a_fragment_of_what_is_known_has_no_novelty() -> None:
    long = " ".join(f"${number} \\cdot 7 = {7 * number}$." for number in range(20, 220))
    assert _novelty("$2 + 8 = 91$ \\boxed{18}", [long], similarity=0.0) == 0
    assert _novelty(EQUATIONS, [], similarity=0.0) == 1


def test_new_steps_are_named() -> None:
    known = np.stack([d.sketch(d.derivation(SWAP, STATED))])
    steps = d.new_steps(d.derivation(EQUATIONS, STATED), known)
    assert "37=v" in steps or "55-37" in steps
    assert "55" in d.new_steps(d.derivation(EQUATIONS, STATED), known, limit=20)
    assert d.new_steps(d.derivation(SWAP, STATED), known) == []


def test_absent_places_do_not_count_and_the_nearest_is_named() -> None:
    new = d.sketch(d.derivation(SWAP, STATED))
    known = np.stack([d.sketch(d.derivation(text, STATED)) for text in (EQUATIONS, SWAP)])
    similarity = np.array([[0.6, 1.0]] * 3, dtype=np.float32)
    present = np.array([[True, True], [True, False], [False, False]])
    novelty, nearest = d.derivation_novelty(similarity, np.stack([new] * 3), np.stack([known] * 3), present)
    assert nearest.tolist() == [1, 0, -1]
    assert novelty[0] == 0
    assert novelty[1] > 0.3
    assert novelty[2] == 1


@given(st.text(max_size=400))
@settings(deadline=None)
def test_any_text_is_read(text: str) -> None:
    found = d.derivation(text, STATED)
    sketch = d.sketch(found)
    assert sketch.shape == (d.FAMILIES, d.WORDS)
    assert sketch.nbytes == 512
    same, _ = d.derivation_novelty(
        np.ones((1, 1), dtype=np.float32), sketch[None], sketch[None, None], np.ones((1, 1), dtype=bool)
    )
    assert same[0] == 0 or not (found.numbers and found.relations)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=3), st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_the_probability_is_the_same_in_either_order(steps: list[int], similarity: float) -> None:
    texts = [" ".join(f"{step + 10} * {other} = {step * 37}." for step in steps) for other in (3, 4)]
    sketches = np.stack([d.sketch(d.derivation(text)) for text in texts])
    value = np.array([similarity], dtype=np.float32)
    one = d.different_way(value, sketches[:1], sketches[1:], sketches[:1])
    two = d.different_way(value, sketches[1:], sketches[:1], sketches[1:])
    assert one == two
    assert 0 <= one[0] <= 1


def test_reading_is_linear_in_the_length_of_the_text() -> None:
    for piece in ("(" * 50, "\\frac{1}{2", "word ", "12, ", "{", "\\boxed{", "a. "):
        started = time.perf_counter()
        d.derivation(piece * (d.LONGEST_TEXT // len(piece)))
        assert time.perf_counter() - started < 5, piece


TRAINS = statement("Trains start 300 km apart at 60 and 90 km/h. How far does the first go?", "120")
HOURS = (
    "Together 60 + 90 = 150 km an hour. They meet after 300 / 150 = 2 hours. The first goes 60 * 2 = 120 km."
)
METRES = (
    "In units of 100 m: 3000 apart. 600 + 900 = 1500 an hour. They meet after 3000 / 1500 = 2 hours."
    " The first goes 600 * 2 = 1200 of them, 1200 / 10 = 120 km."
)


def test_other_units_are_no_other_way() -> None:
    known, new = d.derivation(HOURS, TRAINS), d.derivation(METRES, TRAINS)
    assert new.rescaled is not None
    sketches = np.stack([d.sketch(new)]), np.stack([d.sketch(known)])[None]
    rest = np.full((1, 1), 0.7, dtype=np.float32), *sketches, np.ones((1, 1), dtype=bool)
    to_problem = np.ones(1, dtype=np.float32)
    assert d.derivation_novelty(*rest, to_problem)[0] > 0.1
    assert d.derivation_novelty(*rest, to_problem, d.reach(new)[None])[0] == 0


def test_a_solution_without_a_step_of_its_own_is_no_other_way() -> None:
    whole = SWAP.partition("$\\boxed")[0] + EQUATIONS
    assert _novelty(EQUATIONS, [whole], 0.3) == 0
    assert _novelty(EQUATIONS, [SWAP], 0.3) > 0


def test_division_with_remainder_is_a_derivation() -> None:
    stated = statement("Find the greatest common divisor of 252 and 198.", "18")
    found = d.derivation("252 = 1 * 198 + 54\n198 = 3 * 54 + 36\n54 = 1 * 36 + 18", stated)
    assert {"54", "36"} <= found.numbers
    # But a number taken apart for nothing is no step.
    assert d.derivation("252 - 198 = 54. 252 = 200 + 52. 54 = 3 * 18.", stated).numbers == {"54", "3"}


def test_indices_and_arguments_are_no_numbers() -> None:
    assert d.derivation("n_1 + n_2 = 35").relations == {"v+v", "35=v"}
    assert d.derivation("f(2) = 31, f(3) = 52, f(4) = 83").numbers == {"31", "52", "83"}
    assert d.derivation("C(7, 3) = 35").numbers == {"7", "3", "35"}


def test_a_known_solution_with_additions_is_the_known_one() -> None:
    added = " ".join(f"Note that ${number} + 17 = {number + 17}$." for number in range(30, 60))
    body, box = SWAP.split("$\\boxed")
    assert _novelty(f"{body} {added} $\\boxed{box}", [SWAP], similarity=0.3) == 0
    assert _novelty(EQUATIONS, [SWAP], similarity=0.3) > 0.5


def test_a_text_that_has_little_to_do_with_the_problem_is_paid_in_part() -> None:
    new, known = (d.sketch(d.derivation(text, STATED)) for text in (EQUATIONS, SWAP))

    def novelty(to_problem: float, similarity: float = 0.5) -> float:
        found, _ = d.derivation_novelty(
            np.array([[similarity]], dtype=np.float32),
            new[None],
            known[None, None],
            np.ones((1, 1), dtype=bool),
            np.array([to_problem], dtype=np.float32),
        )
        return float(found[0])

    assert novelty(d.UNRELATED) == 0
    middle = novelty((d.UNRELATED + d.RELATED) / 2)
    assert middle == pytest.approx(novelty(1) / 2, abs=1e-5)
    assert novelty(d.RELATED + 0.01) == novelty(1) > 0.5
    # A new way may look unlike all known ones, if it is about the problem. Without one, that is all there is.
    assert novelty(1, similarity=0.1) > 0.5
    assert novelty(np.nan, similarity=0.1) == 0
    nothing = np.zeros((1, 0), dtype=np.float32)
    alone, place = d.derivation_novelty(
        nothing,
        new[None],
        known[None, None][:, :0],
        nothing.astype(bool),
        np.array([(d.UNRELATED + d.RELATED) / 2], np.float32),
    )
    assert alone[0] == pytest.approx(0.5, abs=1e-3)
    assert place[0] == -1


def test_equations_whose_result_nothing_uses_add_no_step() -> None:
    plain = d.derivation(SWAP_AGAIN, STATED)
    body, box = SWAP_AGAIN.split("\\(\\boxed")
    for added in (
        "Note that $3 + 4 = 7$. Note that $52 + 29 = 81$.",
        "We know that $37 + 110 = 147$, and $37 \\cdot 110 = 4070$, and so on.",
        "Here $37 + 12 = 49$ and $49 - 12 = 37$.",
        "We have $5 + 3 = 8$. We have $5 + 3 = 8$.",
        "First $61 + 2 = 63$. Then $63 + 5 = 68$. Then $68 + 9 = 77$.",
        "\n```python\nx0 = 61 * 2\nprint(x0 + 84)\n```\n",
        "\n| 61 | 52 |\n| 71 | 89 |\n",
    ):
        found = d.derivation(f"{added}\n{body} \\(\\boxed{box}", STATED)
        assert (found.numbers, found.relations) == (plain.numbers, plain.relations), added
        assert "61" not in found.text


@given(st.lists(st.tuples(st.integers(200, 999), st.integers(200, 999)), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_true_equations_do_not_make_a_paraphrase_novel(pairs: list[tuple[int, int]]) -> None:
    # The sums are at least 2000, so that no sum is another one's summand.
    facts = " ".join(f"Note that ${a} + {b + 1600} = {a + b + 1600}$." for a, b in pairs)
    body, box = SWAP_AGAIN.split("\\(\\boxed")
    assert _novelty(f"{body} {facts} \\(\\boxed{box}", [SWAP]) == _novelty(SWAP_AGAIN, [SWAP])
    assert d.derivation(f"{facts} $\\boxed{{18}}$", STATED).empty


def test_an_equation_counts_if_its_result_is_used_or_is_the_answer() -> None:
    assert d.derivation("$61 + 2 = 63$ and $63 / 3 = 21$ \\boxed{21}").numbers >= {"61", "63"}
    assert d.derivation("$61 + 2 = 63$. With 63 legs it works. \\boxed{18}").numbers >= {"61", "63"}
    assert d.derivation("$61 + 2 = 63$. \\boxed{63}").numbers >= {"61", "63"}
    assert d.derivation("$61 + 2 = 63$.").numbers >= {"61", "63"}
    assert not d.derivation("$61 + 2 = 63$. \\boxed{18}").numbers


def test_equations_that_come_back_to_a_known_number_add_no_step() -> None:
    plain = d.derivation(SWAP, STATED)
    body, box = SWAP.split("$\\boxed")
    for added in (
        "Here $74 + 9 = 83$ and $83 - 9 = 74$.",
        "Now $36 + 9 = 45$, then $45 + 14 = 59$, and $59 - 23 = 36$.",
        "Indeed $148 / 2 = 74$.",
    ):
        found = d.derivation(f"{body} {added} $\\boxed{box}", STATED)
        assert (found.numbers, found.relations) == (plain.numbers, plain.relations), added


def test_a_root_is_a_use_without_an_equation() -> None:
    for text in (
        "$4 \\cdot 16 = 64$. The tangent is $\\boxed{8}$.",
        "$61 + 60 = 121$, so the side is 11, and $x = 11 - 6$. $\\boxed{5}$",
    ):
        assert {"16*4", "60+61"} & d.derivation(text).relations, text
    assert not d.derivation("$61 + 60 = 121$ and $5 + 6 = 11$. $\\boxed{3}$").relations


def _long_solution(sentences: int) -> list[str]:
    return [f"In step {k} we find {k} + {k + 1000} = x, which is what we wanted." for k in range(sentences)]


def test_a_text_is_read_in_parts_that_hold_all_of_it() -> None:
    sentences = _long_solution(40)
    found = d.derivation(" ".join(sentences))
    assert len(found.parts) > 3
    assert all(len(part.text) >= d.PART_CHARACTERS / 2 for part in found.parts)
    assert found.text.split("\n") == sentences
    assert {"7", "1007", "39", "1039"} <= found.numbers
    assert len(d.derivation(SWAP).parts) == 1
    assert d.derivation("").parts == ()


def test_parts_that_have_nothing_to_do_with_the_problem_count_for_nothing() -> None:
    found = d.derivation(" ".join(_long_solution(10)))
    first, second = np.eye(2, dtype=np.float32)
    vectors = np.stack([first, *[second] * (len(found.parts) - 1)])
    kept, vector, similarity = d.related(found, vectors, first)
    assert kept.parts == found.parts[:1]
    # The whole text is judged, so that leaving out parts makes no text more related.
    assert 0 < similarity < 0.9
    assert kept.numbers == found.parts[0].numbers
    np.testing.assert_allclose(vector, first)
    unknown = np.full(2, np.nan, dtype=np.float32)
    for problem in (-first - second, unknown):
        everything, vector, similarity = d.related(found, vectors, problem)
        assert not similarity >= 0
        assert everything is found
        assert vector.min() > 0.3


@pytest.mark.parametrize(
    ("similarities", "kept"),
    # Beside a part that is close to the problem, more is asked of the others than beside one that is not.
    [
        ((0.8, 0.5, 0.35), (0, 1)),
        ((0.8, 0.35, 0.3), (0,)),
        ((0.5, 0.3, 0.24), (0, 1, 2)),
        ((0.5, 0.19), (0,)),
    ],
)
def test_a_part_is_judged_beside_the_most_similar_one(similarities: list[float], kept: list[int]) -> None:
    found = d.derivation(" ".join(_long_solution(40)))
    found = replace(found, parts=found.parts[: len(similarities)])
    vectors = np.array([[one, (1 - one**2) ** 0.5] for one in similarities], dtype=np.float32)
    left, *_ = d.related(found, vectors, np.array([1, 0], dtype=np.float32))
    assert left.parts == tuple(found.parts[place] for place in kept)


def test_what_texts_have_in_common_with_the_problem_does_not_make_them_similar() -> None:
    problem, one, other = np.eye(3, dtype=np.float32)
    new, known = (problem + one) / np.sqrt(2), (problem + other) / np.sqrt(2)
    near = np.array([0.5**0.5], dtype=np.float32)
    unknown = np.array([np.nan], dtype=np.float32)
    similarity = np.array([new @ known], dtype=np.float32)
    assert d.apart_from_problem(similarity, near, near) == pytest.approx(0, abs=1e-6)
    assert d.apart_from_problem(np.array([1], dtype=np.float32), near, near) == 1
    assert d.apart_from_problem(similarity, unknown, np.array([0], dtype=np.float32)) == similarity


def test_a_text_about_something_else_has_no_novelty() -> None:
    assert _novelty(EQUATIONS, [SWAP], similarity=0.25) == 0
    assert _novelty(EQUATIONS, [SWAP], similarity=0.35) > 0.5


def test_a_false_equation_and_what_only_it_leads_to_add_no_step() -> None:
    plain = d.derivation(SWAP, STATED)
    body, box = SWAP.split("$\\boxed")
    for added in (
        "Here $74 + 9 = 85$ and $85 - 18 = 67$, so 67 remain.",
        "So $x = 50 \\cdot 3 = 41$ holds.",
        "And $\\frac{74 + 2}{4} = 36$.",
    ):
        found = d.derivation(f"{body} {added} $\\boxed{box}", STATED)
        new = (found.numbers | found.relations) - (plain.numbers | plain.relations)
        assert not new & {"9", "85", "50", "74+9", "3*50", "2+74", "85-18", "41"}, added
        assert found.suspicious == "", "one slip is no reason to leave a solution out"
        assert plain.relations <= found.relations


def test_mostly_false_equations_are_suspicious() -> None:
    nonsense = "We have $37 \\cdot 2 = 110$. Then $110 - 37 = 37$, and $x = 37 + 37 = 110$. $\\boxed{18}$"
    assert d.derivation(nonsense, STATED).suspicious == "false equations: 3, beside 0 others"
    body, box = SWAP.split("$\\boxed")
    slips = f"{body} Check: $74 + 3 = 78$, $37 + 4 = 42$ and $110 - 7 = 102$. $\\boxed{box}"
    assert d.derivation(slips, STATED).suspicious == "", "three slips beside three true equations"


ELSEWHERE = "A box has 61 red and 29 blue balls. That makes $61 + 29 = 90$ balls, and $x > 71$."


def test_steps_that_do_not_lead_to_the_answer_are_seen() -> None:
    for text in (SWAP, SWAP_AGAIN, EQUATIONS):
        assert d.derivation(text, STATED).astray == 0
    for end in ("78 minus 60", "half of 36", "the root of 324", "6 and 5 and 7", "$9 \\cdot 2 =$"):
        text = f"There are 75 and 76 of them. This leaves us with {end}, $\\boxed{{18}}$."
        assert d.derivation(text, STATED).astray == 0, end
    assert d.derivation(f"{ELSEWHERE} $\\boxed{{18}}$", STATED).astray == 1
    assert d.derivation(f"{ELSEWHERE} $\\boxed{{18}}$").astray == 0, "nothing is known of the answer"


@pytest.mark.parametrize(
    "end",
    [
        "So the answer is 18.",
        "So $x = 18$.",
        "So $110 - 92 = 18$.",
        "Now $37 + 44 = 81$. So $81 - 63 = 18$.",
    ],
)
def test_an_answer_from_nowhere_is_no_lead(end: str) -> None:
    assert d.derivation(f"{ELSEWHERE} {end} $\\boxed{{18}}$", STATED).astray == 1


def test_an_answer_from_what_stands_before_is_a_lead() -> None:
    for end in (
        "There remain 92. So $110 - 92 = 18$.",
        "So $90 / 5 = 18$, with a small number.",
        "So $61 - 29 - 14 = 18$, from two that are known.",
        "There remain 92, and so $x = 110 - 92 = 18$.",
    ):
        assert d.derivation(f"{ELSEWHERE} {end} $\\boxed{{18}}$", STATED).astray == 0, end


def test_a_text_without_numbers_of_its_own_is_seen() -> None:
    lost = "Let $x + 37 = y$ and $110 > y$, so $x < 110$ and $37 y = 110 x$."
    assert d.derivation(f"{lost} $\\boxed{{18}}$", STATED).astray == 2
    assert d.derivation(f"{lost} And $37 / 110$. $\\boxed{{18}}$", STATED).astray == 2, (
        "a quotient is not written"
    )
    assert d.derivation(f"{lost} And 61. $\\boxed{{18}}$", STATED).astray == 2, "two are needed if it is lost"
    assert d.derivation(f"{lost} And 61 and 29. $\\boxed{{18}}$", STATED).astray == 1
    assert d.derivation(f"{lost} And $2 \\cdot 9 = 18$. $\\boxed{{18}}$", STATED).astray == 0


def test_a_fraction_may_be_led_to_by_its_parts() -> None:
    stated = statement("What is a half of that area?", "\\frac{45}{2}")
    found = d.derivation("It is $31 + 14 = 45$. Half of it is $\\boxed{\\frac{45}{2}}$.", stated)
    assert found.astray == 0


def test_a_text_that_leads_nowhere_has_to_resemble_the_problem_more() -> None:
    found = d.derivation(EQUATIONS, STATED)
    vectors = np.array([[0.6, 0.8], [0.6, 0.8]], dtype=np.float32)
    problem = np.array([1, 0], dtype=np.float32)
    assert d.related(found, vectors, problem)[2] == pytest.approx(0.6)
    for signs in (1, 2):
        astray = replace(found, astray=signs)
        assert d.related(astray, vectors, problem)[2] == pytest.approx(0.6 - signs * d.ASTRAY)


def test_a_restatement_makes_no_steps_related_to_the_problem() -> None:
    """A filled-up question and equations that make the answer: more like the problem than solutions are."""
    found = d.derivation(f"So, as we can see, {PROBLEM.lower()} Now $9 + 9 = 18$. $\\boxed{{18}}$", STATED)
    assert found.own_steps.strip() == "Now $9 + 9 = 18$."
    problem = np.array([1, 0], dtype=np.float32)
    for similarity in (0.1, d.UNRELATED_STEPS):
        vectors = np.array([[0.8, 0.6], [similarity, (1 - similarity**2) ** 0.5]], dtype=np.float32)
        assert d.related(found, vectors, problem)[2] <= d.UNRELATED + 1e-6
    vectors = np.array([[0.8, 0.6], [0.8, 0.6]], dtype=np.float32)
    assert d.related(found, vectors, problem)[2] == pytest.approx(0.8)


def test_a_text_with_nothing_of_its_own_is_no_derivation() -> None:
    restated = f"We are given the numbers 37 and 110. We are asked: {PROBLEM} So 37, 110. $\\boxed{{18}}$"
    assert d.derivation(restated, STATED).empty


def test_a_is_a_variable_where_mathematics_stands_beside_it() -> None:
    found = [
        d.derivation(f"$3{name} + 10 = 2({name} + 10)$ gives {name} = 10, so we pay a coin.").relations
        for name in "ax"
    ]
    assert found[0] == found[1]
    assert "10+v" in found[0]
    assert not d.derivation("We buy 3 a day for a week, and a half of 4 a month.").relations


def test_numbers_of_three_digits_side_by_side_are_a_list() -> None:
    assert d.derivation("The angles are $110,170,140$ degrees.").numbers == {"110", "170", "140"}
    assert d.derivation("The angles are 180,360,\\dots degrees.").numbers == {"180", "360"}
    assert d.derivation("It has 1,234,567 of them.").numbers == {"1234567"}


def test_a_fraction_within_a_fraction_and_a_value_of_variables_are_read() -> None:
    assert "5/6" in d.derivation("$\\frac1{1-\\frac56}=6$").relations
    assert {"125", "15"} <= d.derivation("$x^3+\\frac1{x^3}=125-15=110$").numbers


def test_a_sentence_with_a_number_of_its_own_restates_nothing() -> None:
    stated = statement(
        "A baker fills 12 trays. A third of the trays go in the morning. How many are left?", "8"
    )
    own = d.derivation(
        "Of 12 trays, a third of the trays, 4 trays, go in the morning, so 8 are left.", stated
    )
    assert "4" in own.numbers
    assert not d.derivation("A baker fills 12 trays. A third of the trays go in the morning.", stated).parts


def test_a_text_that_divides_by_k_at_its_end_is_read_in_other_units_too() -> None:
    stated = statement("Each roll costs half of a loaf, and a loaf two coins. What do six rolls cost?", "6")
    known = d.derivation("A roll costs 2 / 2 = 1. Six rolls cost 1 * 6 = 6.", stated)
    cents = d.derivation(
        "A roll costs 120 / 2 = 60. Six rolls cost 60 * 6 = 360. That is 360 / 60 = 6.", stated
    )
    assert known.rescaled is None or known.rescaled[0] <= known.numbers | stated.numbers
    assert cents.rescaled is not None
    numbers, relations = cents.rescaled
    assert "60" not in numbers
    assert not any("60" in relation for relation in relations)


TERMS = statement("A sequence is defined by a_1 = 1 and a_{n+1} = 2a_n + 3. Find a_6.", "125")


def _terms(first: int, added: int) -> str:
    said, term = [], first
    for place in range(2, 7):
        said.append(f"b_{place} = 2 * {term} + {added} = {2 * term + added}.")
        term = 2 * term + added
    return " ".join(said)


def test_terms_plus_a_constant_are_read_without_it_too() -> None:
    known = d.derivation(_terms(1, 3).replace("b_", "a_"), TERMS)
    shifted = f"Let b_n = a_n + 1, so b_1 = 2. {_terms(2, 2)} Therefore a_6 = 126 - 1 = 125."
    found = d.derivation(shifted, TERMS)
    assert found.rescaled is not None
    assert known.numbers <= found.rescaled[0]
    assert d.derivation(shifted.replace("Let b_n = a_n + 1, so", "First"), TERMS).rescaled is None


def test_a_part_of_the_problem_is_read_as_the_whole_too() -> None:
    stated = statement("24 trays hold 15 muffins each. They cost 2 dollars each. What do all cost?", "720")
    half = d.derivation("Half: 12 * 15 = 180 muffins. 180 * 2 = 360. Doubled: 2 * 360 = 720.", stated)
    assert half.rescaled is not None
    assert {"360", "720"} <= half.rescaled[0]


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("It is zero point seven five times x.", "It is 0.75 * x."),
        ("There are 9 000 - 5 832 = 3 168 ways.", "There are 9000 - 5832 = 3168 ways."),
        ("k = 2: 15 * 4 = 60", "15 * 4 = 60"),
        ("x1 + x2 = 12", "x + y = 12"),
        ("D1 = D2 / 4", "v = v / 4"),
    ],
)
def test_what_only_writes_a_number_otherwise_is_no_step(written: str, plain: str) -> None:
    assert features_of(written) == features_of(plain)
