"""What the method `math` makes of the forms in which models and benchmarks write answers."""

import pytest

from extra_services.verification.judge import judge
from extra_services.verification.verdict import Item, Side


def _outcome(response: str, answer: str) -> str:
    verdict = judge(Item(response, answer))
    sides = {Side.RESPONSE: " response", Side.ANSWER: " answer"}
    return verdict.status.value + sides.get(verdict.side, "")


@pytest.mark.parametrize(
    ("response", "answer", "outcome"),
    [
        (r"\boxed{1,234}", "1234", "correct"),
        (r"\boxed{1,234}", "1235", "wrong"),
        (r"\boxed{10{,}080}", r"10,\!080", "correct"),
        (r"\boxed{10080}", r"10,\!080", "correct"),
        (r"\boxed{11,111,111,100}", r"11,\! 111,\! 111,\! 100", "correct"),
        (r"\boxed{12 345}", "12345", "correct"),
        (r"\boxed{12 345}", "357", "wrong"),
        (r"\boxed{12\,345}", "12345", "correct"),
        (r"\boxed{58500}", "58,500", "correct"),
        (r"\boxed{\$32,348}", r"\$32,\!348", "correct"),
        (r"\boxed{32348}", r"\$32,\!348", "correct"),
        ("A: 1,234", "1234", "correct"),
    ],
)
def test_thousands_separators_belong_to_the_number(response: str, answer: str, outcome: str) -> None:
    assert _outcome(response, answer) == outcome


@pytest.mark.parametrize(
    ("response", "answer", "outcome"),
    [
        (r"\boxed{.0000672}", "0.0000672", "correct"),
        (r"\boxed{0.0000671}", ".0000672", "wrong"),
        (r"\boxed{6.72 \times 10^{-5}}", ".0000672", "correct"),
        (r"\boxed{0.333333}", "1/3", "correct"),
        (r"\boxed{0.33}", "1/3", "wrong"),
        (r"\boxed{1e5}", "100000", "correct"),
        (r"\boxed{3.83 \times 10^{35}}", "3.83e35", "correct"),
        (r"\boxed{3.83 \times 10^{34}}", "3.83e35", "wrong"),
        (r"\boxed{3.84e35}", "3.83e35", "wrong"),
        (r"\boxed{1e-5}", "0.00001", "correct"),
        (r"\boxed{10^{-5}}", "1e-5", "correct"),
        (r"\boxed{-1/3}", "-1./3", "correct"),
        (r"\boxed{-\frac{3}{2}}", "-3./2", "correct"),
        (r"\boxed{0.\overline{3}}", r"\frac13", "correct"),
        (r"\boxed{0.1\overline{6}}", "1/6", "correct"),
        (r"\boxed{0.\overline{3}}", r"\frac14", "wrong"),
        (r"\boxed{1\frac{4}{5}}", r"\frac95", "correct"),
        (r"\boxed{1 4/5}", r"1\frac{4}{5}", "correct"),
        (r"\boxed{9/5}", r"1\frac{4}{5}", "correct"),
        (r"\boxed{137.5}", r"137 \frac{1}{2}", "correct"),
        (r"\boxed{2(3)}", "6", "correct"),
        (r"\boxed{2(3)}", "5", "wrong"),
        (r"\boxed{(2)(3)}", "6", "correct"),
        (r"\boxed{3 4}", "7", "unparseable response"),
        (r"\boxed{52_8}", "52_8", "correct"),
        (r"\boxed{52_{8}}", "52_8", "correct"),
        (r"\boxed{52}", "52_8", "correct"),
        (r"\boxed{42}", "52_8", "correct"),
        (r"\boxed{53_8}", "52_8", "wrong"),
        (r"\boxed{52_9}", "52_8", "wrong"),
        (r"\boxed{4210_5}", "4210_{5}", "correct"),
        (r"\boxed{007}", "7", "correct"),
        (r"\boxed{+2}", "2", "correct"),
        (r"\boxed{-0}", "0", "correct"),
    ],
)
def test_numbers_are_read_in_every_form(response: str, answer: str, outcome: str) -> None:
    assert _outcome(response, answer) == outcome


@pytest.mark.parametrize(
    ("response", "answer", "outcome"),
    [
        (r"\boxed{864 \mbox{ inches}^2}", r"864 \mbox{ inches}^2", "correct"),
        (r"\boxed{864}", r"864 \mbox{ inches}^2", "correct"),
        (r"\boxed{864 \text{ in}^2}", r"864 \mbox{ inches}^2", "correct"),
        (r"\boxed{5\text{ cm}}", "5", "correct"),
        (r"\boxed{5 cm}", "5", "correct"),
        (r"\boxed{5 cm}", "5 m", "wrong"),
        (r"\boxed{100 cm}", "1 m", "correct"),
        (r"\boxed{5.4}", r"5.4 \text{ cents}", "correct"),
        (r"\boxed{26 apples}", "26", "correct"),
        (r"\boxed{27 apples}", "26", "wrong"),
        (r"\boxed{\frac{270}{7}}", r"\frac{270}7\text{ degrees}", "correct"),
        (r"\boxed{15\text{ cm}^2}", r"15\mbox{ cm}^2", "correct"),
        (r"\boxed{15\text{ cm}^3}", r"15\mbox{ cm}^2", "wrong"),
        (r"\boxed{$18.90}", r"\$18.90", "correct"),
        (r"\boxed{18.9}", r"\$18.90", "correct"),
        (r"\boxed{2\pi r h}", r"2\pi r", "wrong"),
        (r"\boxed{\frac{37}{4}m}", r"\frac{37}{4} m", "correct"),
        (r"\boxed{\frac{37m}{4}}", r"\frac{37}{4} m", "correct"),
        (r"\boxed{5x}", "5", "wrong"),
        (r"\boxed{50 mph}", "50", "correct"),
        (r"\boxed{26 dollars and 50 cents}", "26", "wrong"),
    ],
)
def test_units_are_taken_off_and_compared(response: str, answer: str, outcome: str) -> None:
    assert _outcome(response, answer) == outcome


@pytest.mark.parametrize(
    ("response", "answer", "outcome"),
    [
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", "correct"),
        (r"\boxed{Evelyn}", r"\text{Evelyn}", "correct"),
        (r"\boxed{evelyn}", r"\text{Evelyn}", "correct"),
        (r"\boxed{\text{Navin}}", r"\text{Evelyn}", "wrong"),
        (r"\boxed{even}", r"\text{even}", "correct"),
        (r"\boxed{\text{odd}}", r"\text{even}", "wrong"),
        (r"\boxed{5}", r"\text{even}", "wrong"),
        (r"\boxed{Yes}", "Yes", "correct"),
        ("The answer is yes.", "Yes", "correct"),
        (r"\boxed{No}", "Yes", "wrong"),
        (r"\boxed{\mathbb{R}}", r"\text{All real numbers}", "correct"),
        (r"\boxed{\emptyset}", r"\text{no solution}", "correct"),
        (r"\boxed{C}", r"\text{(C)}", "correct"),
        (r"\boxed{\textbf{(C)}}", r"\text{(C)}", "correct"),
        (r"\boxed{\text{(D)}}", r"\text{(C)}", "wrong"),
        (r"\boxed{\textbf{(C)}\ 12}", r"\text{(C)}", "correct"),
        (r"\boxed{(C)}", "C", "correct"),
    ],
)
def test_words_and_choices_are_compared_as_such(response: str, answer: str, outcome: str) -> None:
    assert _outcome(response, answer) == outcome


@pytest.mark.parametrize(
    ("response", "answer", "outcome"),
    [
        (r"\boxed{-2,1}", "1,-2", "correct"),
        (r"\boxed{{1, -2}}", "1,-2", "correct"),
        (r"\boxed{\{1,-2\}}", "1,-2", "correct"),
        (r"\boxed{(1,-2)}", "(-2,1)", "wrong"),
        (r"\boxed{1,2}", "1,-2", "wrong"),
        (r"\boxed{1}", "1,-2", "wrong"),
        (r"\boxed{1, -2, 3}", "1,-2", "wrong"),
        (r"\boxed{x=1, x=-2}", "1,-2", "correct"),
        (r"\boxed{x=1 \text{ or } x=-2}", "1,-2", "correct"),
        ("The answers are $1$ and $-2$. The answer is $1$ and $-2$.", "1,-2", "correct"),
        (r"\boxed{(3,4]}", "(3,4]", "correct"),
        (r"\boxed{[3,4]}", "(3,4]", "wrong"),
        (r"\boxed{3 < x \le 4}", "(3,4]", "correct"),
        (r"\boxed{x \in (3,4]}", "(3,4]", "correct"),
        (r"\boxed{(-\infty,2)\cup(3,\infty)}", r"(-\infty, 2) \cup (3, \infty)", "correct"),
        (r"\boxed{(3,\infty)\cup(-\infty,2)}", r"(-\infty, 2) \cup (3, \infty)", "correct"),
        (r"\boxed{x<2 \text{ or } x>3}", r"(-\infty, 2) \cup (3, \infty)", "correct"),
        (r"\boxed{[-2,7]}", r"x \in [-2,7]", "correct"),
        (r"\boxed{-2\le x\le 7}", r"x \in [-2,7]", "correct"),
        (r"\boxed{\left(\frac{3}{5},\frac{8}{3}\right]}", r"(0.6, \frac83]", "correct"),
        (r"\boxed{k\ge 2}", r"$k \geqslant 2$", "correct"),
        (r"\boxed{k> 2}", r"$k \geqslant 2$", "wrong"),
        (r"\boxed{x>5}", r"(5,\infty)", "correct"),
        (r"\boxed{[2,\infty)}", r"k \ge 2", "correct"),
        (r"\boxed{(6,31,-1)}", "(6,31,-1)", "correct"),
        (r"\boxed{(31,6,-1)}", "(6,31,-1)", "wrong"),
        (
            r"\boxed{\begin{pmatrix} 6\\31\\-1 \end{pmatrix}}",
            r"\begin{pmatrix} 6 \\ 31 \\ -1 \end{pmatrix}",
            "correct",
        ),
        (
            r"\boxed{\begin{bmatrix} -1/3 \\ 2/3 \\ 5/3 \end{bmatrix}}",
            r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}",
            "correct",
        ),
        (
            r"\boxed{\begin{pmatrix} -1/3 \\ 2/3 \\ 4/3 \end{pmatrix}}",
            r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}",
            "wrong",
        ),
        (
            r"\boxed{\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}}",
            r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}",
            "correct",
        ),
        (r"\boxed{(\frac{1}{2006!}, 1)}", r"(\frac{1}{2004!}, 1)", "wrong"),
        (r"\boxed{3+2\sqrt{2}, 3-2\sqrt2}", r"3 \pm 2 \sqrt{2}", "correct"),
        (r"\boxed{3+2\sqrt{2}}", r"3 \pm 2 \sqrt{2}", "wrong"),
        (r"\boxed{\{-2, 1+\sqrt5, 1-\sqrt5\}}", r"\{1\pm\sqrt{5},-2\}", "correct"),
        (r"\boxed{(1,8,19),(2,7,13),(4,5,7)}", "$(1,8,19), (2,7,13), (4,5,7)$", "correct"),
        (r"\boxed{(4,5,7),(1,8,19),(2,7,13)}", "$(1,8,19), (2,7,13), (4,5,7)$", "correct"),
        (r"\boxed{(4,5,7),(1,8,19)}", "$(1,8,19), (2,7,13), (4,5,7)$", "wrong"),
        (r"\boxed{84,69}", "$69$,$84$", "correct"),
    ],
)
def test_collections_are_compared_by_their_members(response: str, answer: str, outcome: str) -> None:
    assert _outcome(response, answer) == outcome


@pytest.mark.parametrize(
    ("response", "answer", "outcome"),
    [
        (r"\boxed{5}", "x=5", "correct"),
        (r"\boxed{x=5}", "5", "correct"),
        (r"\boxed{5=x}", "x=5", "correct"),
        (r"\boxed{y=5}", "x=5", "wrong"),
        (r"\boxed{x = 2+3 = 5}", "5", "correct"),
        (r"\boxed{2x+3}", "y = 2x + 3", "correct"),
        (r"\boxed{y=2x+3}", "2x+3", "correct"),
        (r"\boxed{y=3+2x}", "y = 2x + 3", "correct"),
        (r"\boxed{2x - y + 3 = 0}", "y = 2x + 3", "correct"),
        (r"\boxed{y=2x+4}", "y = 2x + 3", "wrong"),
        (r"\boxed{5x-7y+11z+4=0}", "5x - 7y + 11z + 4 = 0", "correct"),
        (r"\boxed{f(x)=x+1}", "$f(x)=x+1$", "correct"),
        (r"\boxed{x+1}", "$f(x)=x+1$", "correct"),
        (r"\boxed{f(x)=x+1, f(x)=-1}", "$f(x)=-1$,$f(x)=x+1$", "correct"),
        (r"\boxed{(b+2)(a+5)}", "(a+5)(b+2)", "correct"),
        (r"\boxed{ab+2a+5b+10}", "(a+5)(b+2)", "correct"),
        (r"\boxed{x^3 - 6 + 3x}", "x^3+3x-6", "correct"),
        (r"\boxed{|x|}", "x", "wrong"),
        (r"\boxed{\sqrt{x^2}}", "|x|", "correct"),
        (r"\boxed{\frac{\cos x}{\sin x}}", r"\cot x", "correct"),
        (r"\boxed{\sin^2 x+\cos^2 x}", "1", "correct"),
        (r"\boxed{2n-1}", "2n", "wrong"),
        (r"\boxed{\frac{(2n)!}{n! n!}}", r"\binom{2n}{n}", "correct"),
        (r"\boxed{mn - \lfloor m/2 \rfloor}", r"$m n-\lfloor m / 2\rfloor$", "correct"),
        (r"\boxed{mn - \lceil m/2 \rceil}", r"$m n-\lfloor m / 2\rfloor$", "wrong"),
        (r"\boxed{-5i+6}", "6 - 5i", "correct"),
        (r"\boxed{6+5i}", "6 - 5i", "wrong"),
        (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", "correct"),
        (r"\boxed{\frac{\sqrt{3}}{3}}", r"\frac{1}{\sqrt3}", "correct"),
        (r"\boxed{2^{1009}}", "$2^{1009}$", "correct"),
        (r"\boxed{4\cdot 2^{1007}}", "$2^{1009}$", "correct"),
        (r"\boxed{\ln 2 + i\pi/3}", r"\ln 2 + i\pi / 3", "correct"),
        (r"\boxed{e^{i\pi}}", "-1", "correct"),
        (r"\boxed{\arcsin(10/13)}", "np.arcsin(10/13)", "correct"),
        (r"\boxed{\frac{e^{at}-e^{-at}}{2a}}", r"\frac{1}{2a}(\exp{a*t} - \exp{-a*t})", "correct"),
        (r"\boxed{3/2}", "1.5", "correct"),
        (r"\boxed{3:2}", "3:2", "correct"),
        (r"\boxed{6:4}", "3:2", "correct"),
        (r"\boxed{3/2}", "3:2", "correct"),
        (r"\boxed{2:3}", "3:2", "wrong"),
        (r"\boxed{x^{-1}}", r"\frac1x", "correct"),
        (r"\boxed{x^-1}", r"\frac1x", "correct"),
        (r"\boxed{1/0}", "5", "wrong"),
        ("", "5", "unparseable response"),
        ("I have no idea", "5", "unparseable response"),
        (r"\boxed{5}", "@@", "unparseable answer"),
        (r"\boxed{???}", "5", "unparseable response"),
        (r"\boxed{\frac{1}{}", "5", "unparseable response"),
    ],
)
def test_equations_and_expressions_are_compared_as_mathematics(
    response: str, answer: str, outcome: str
) -> None:
    assert _outcome(response, answer) == outcome


@pytest.mark.parametrize(
    ("response", "answer", "outcome"),
    [
        ("A: 26", "26", "correct"),
        ("blah\n#### 26", "26", "correct"),
        ("**Answer:** 26", "26", "correct"),
        ("**Answer: 26**", "26", "correct"),
        ("The answer is 26.", "26", "correct"),
        ("The final answer is $26$.", "26", "correct"),
        ("the answer is: 26 apples", "26", "correct"),
        ("So the answer is **26** dollars.", "26", "correct"),
        ("答案是26。", "26", "correct"),
        ("答案：26", "26", "correct"),
        (r"最终答案为：\(26\)", "26", "correct"),
        (r"\boxed{２６}", "26", "correct"),
        (r"\boxed{26，27}", "26,27", "correct"),
        ("The answer is 26 because 13*2=26.", "26", "correct"),
        ("Final Answer: The final answer is $26$. I hope it is correct.", "26", "correct"),
        ("Answer:\n$$26$$", "26", "correct"),
        ("She has 26.", "26", "correct"),
        (r"so $13\cdot 2=26$", "26", "correct"),
        (r"The answer is \(\frac{1}{2}\).", "0.5", "correct"),
        ("<answer>26</answer>", "26", "correct"),
        ("Answer: 26\n\nExplanation: because 3+5=8", "26", "correct"),
        ("The answer is 0.5.", "1/2", "correct"),
        ("The answer is -7", "-7", "correct"),
        ("The answer is $-7$ m", "-7", "correct"),
        ("The answer is 1,234.", "1234", "correct"),
        ("The answer is 5 or 6", "5,6", "correct"),
        (r"\boxed{26", "26", "unparseable response"),
        (r"\fbox{26}", "26", "correct"),
        (r"\boxed 26", "26", "correct"),
    ],
)
def test_the_final_answer_is_found_by_its_marker(response: str, answer: str, outcome: str) -> None:
    assert _outcome(response, answer) == outcome


@pytest.mark.parametrize(
    ("response", "answer", "outcome"),
    [
        (r"\boxed{26 or 27}", "26", "wrong"),
        (r"\boxed{26, 27, 28}", "26", "wrong"),
        (r"\boxed{x}", "26", "wrong"),
        (r"\boxed{\text{The answer is } 26}", "26", "correct"),
        (r"\boxed{about 26}", "26", "correct"),
        (r"\boxed{\approx 26}", "26", "correct"),
        (r"\boxed{26\text{ (approximately)}}", "26", "correct"),
        (r"\boxed{26\ldots}", "26", "unparseable response"),
        (r"\boxed{0.333333...}", "1/3", "correct"),
        (r"\boxed{\frac{1}{3}}", "0.333333333", "correct"),
        (r"\boxed{10^{10^{10}}}", "10^{10^{10}}", "correct"),
        (r"\boxed{y^{\prime}+y=0}", "y'+y=0", "correct"),
        (r"\boxed{y+y=0}", "y'+y=0", "wrong"),
        (r"\boxed{\frac{dx}{dt}=kx-a}", r"\frac{d x}{d t}=k x-a", "correct"),
        (r"\boxed{\frac{dx}{dt}=kx+a}", r"\frac{d x}{d t}=k x-a", "wrong"),
        (r"\boxed{0=kx-a}", r"\frac{d x}{d t}=k x-a", "wrong"),
        (r"\boxed{E_1, E_2}", "E_{1},E_{2}", "correct"),
        (r"\boxed{\sqrt{51}}", r"\sqrt{51}", "correct"),
        (r"\boxed{sqrt(51)}", r"\sqrt{51}", "correct"),
        (r"\boxed{sqrt(52)}", r"\sqrt{51}", "wrong"),
        (r"\boxed{√51}", r"\sqrt{51}", "correct"),
        (r"\boxed{\{x \mid x > 5\}}", r"(5,\infty)", "correct"),
        (r"\boxed{m + 0}", "m", "correct"),
        (r"\boxed{\alpha t}", r"\alpha", "wrong"),
        (r"\boxed{\gamma^2-1}", r"(\gamma-1)(\gamma+1)", "correct"),
        (r"\boxed{\gamma^2+1}", r"\gamma^2-1", "wrong"),
        (r"\boxed{x+y}", "5", "wrong"),
        (r"\boxed{\sqrt{4}}", "2", "correct"),
        (r"\boxed{\sqrt{5}}", "2", "wrong"),
        (r"\boxed{2\cdot 13}", "26", "correct"),
        (r"\boxed{2^{10}}", "1024", "correct"),
        (r"\boxed{(3,5]}", "(3,4]", "wrong"),
        (r"\boxed{3,1,2}", "1,2,3", "correct"),
        (r"\boxed{1,2,4}", "1,2,3", "wrong"),
        (r"\boxed{R^2\cdot 3}", "3R^2", "correct"),
        (r"\boxed{(1, 2)}", "[1, 2]", "wrong"),
        (r"\boxed{200, 100}", "100, 200", "correct"),
        (r"\boxed{三角形}", "三角形", "correct"),
        (r"\boxed{圆}", "三角形", "wrong"),
    ],
)
def test_what_stands_around_an_answer_does_not_change_it(response: str, answer: str, outcome: str) -> None:
    assert _outcome(response, answer) == outcome
