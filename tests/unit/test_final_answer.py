"""The characters behind the final answer of a response."""

import pytest

from extra_rl.final_answer import LONGEST_TEXT, characters_behind_answer


@pytest.mark.parametrize(
    ("text", "characters"),
    [
        ("", 0),
        ("So 12.", 0),
        ("\\boxed{12}", 0),
        ("\\boxed{12}.", 1),
        ("\\boxed{ 12 } as said: \\boxed{12} ", len("as said:")),
        ("First \\boxed{1}, then \\boxed{\\frac{1}{2}} and more", len("and more")),
        ("\\fbox{1} abc", 3),
        ("\\boxed{unclosed", 0),
    ],
)
def test_text_behind_the_first_box_with_the_final_answer_is_counted(text: str, characters: int) -> None:
    assert characters_behind_answer(text) == characters


@pytest.mark.parametrize("text", ["\\boxed{" * 30_000, "\\boxed{{" * 20_000 + "}" * 20_000, "{" * 200_000])
def test_only_the_end_of_a_hostile_text_is_read(text: str) -> None:
    assert characters_behind_answer("\\boxed{1}" + text) in range(LONGEST_TEXT + 1)
