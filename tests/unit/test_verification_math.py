"""The method `math` on the forms in which models and benchmarks write answers."""

import pytest

from extra_rl.vocabulary import UnparseableSide
from extra_services.verification.judge import judge
from extra_services.verification.verdict import VerificationItem


def _outcome(response: str, answer: str) -> str:
    verdict = judge(VerificationItem(response, answer))
    sides = {UnparseableSide.RESPONSE: " response", UnparseableSide.ANSWER: " answer"}
    return verdict.status.value + (sides[verdict.side] if verdict.side else "")


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
    ("response", "answer"),
    [
        ("答：小明一共有12个苹果。", "12"),
        ("解：3×4=12（个）\n答：小明一共有12个苹果。", "12"),
        ("答：还剩1.5千克。", "1.5"),
        ("所以面积为 \\(12\\) 平方米。", "12"),
        ("答:面积是12平方厘米。", "12"),
        ("所以最后的结果是3/4。", r"\frac{3}{4}"),
        ("设鸡有x只。\nx=12\n所以鸡有12只。", "12"),
        ("综上，a+b=12。", "12"),
        ("共有12种不同的排法。", "12"),
        ("即 $n=12$。", "12"),
        ("答：这两个数的和是12。", "12"),
        ("最终结果：12", "12"),
    ],
)
def test_the_number_that_a_chinese_sentence_states_is_the_answer(response: str, answer: str) -> None:
    assert _outcome(response, answer) == "correct"


@pytest.mark.parametrize(
    "response",
    [
        "答：至少需要12元。",
        "答：不是12。",
        "答：小明有12万元。",
        "答：剩下的是12的一半。",
        "答案是12，这是错的。",
        "结果是12，但这不对。",
        "有人说答案是12。",
        "小明认为是12，其实是15。",
        "答：一共有两个12。",
        "答：不是 12。",
        "结果不是 $12$。",
        "不等于 \\(12\\)。",
        "他们至少需要 12 元",
        "共有 12 个，这是错的",
        "答：12至15个。",
        "所以 x 的值不可能是12。",
        "如果有12只鸡",
        "小于等于12。",
        "答：需要12天以上。",
        "答：一共有12个苹果，其中5个是红的。",
        "所以a的值为12，而b的值为3。",
    ],
)
def test_a_chinese_sentence_that_changes_or_denies_its_number_is_not_paid(response: str) -> None:
    assert _outcome(response, "12") != "correct"


@pytest.mark.parametrize("response", ["答：不是1.5千克。", "答案是1.5，这是错的。", "结果是1.5，但这不对。"])
def test_a_decimal_point_does_not_end_a_chinese_clause(response: str) -> None:
    assert _outcome(response, "1.5") != "correct"


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


@pytest.mark.parametrize(
    ("response", "answer", "outcome"),
    [
        (r"\boxed{\frac{\pi}{3}+2k\pi}", r"\frac{\pi}{3}+2\pi k", "correct"),
        (r"\boxed{a+bi}", "a-bi", "wrong"),
        (r"\boxed{(1+i)^2}", "2i", "correct"),
        (r"\boxed{\frac{1}{1+i}}", r"\frac{1-i}{2}", "correct"),
        (r"\boxed{x>2}", r"x \ge 2", "wrong"),
        (r"\boxed{2<x}", "x>2", "correct"),
        (r"\boxed{x<2}", "x>2", "wrong"),
        (r"\boxed{-x<-2}", "x>2", "correct"),
        (r"\boxed{x \neq 2}", r"x\ne 2", "correct"),
        (r"\boxed{(-\infty,2)\cup(2,\infty)}", r"x\ne 2", "correct"),
        (r"\boxed{1\le x\le 3}", "[1,3]", "correct"),
        (r"\boxed{[1,3]}", r"1 \le x \le 3", "correct"),
        (r"\boxed{(1,3)}", r"1 \le x \le 3", "wrong"),
        (r"\boxed{\{1,2\}}", r"\{2,1\}", "correct"),
        (r"\boxed{\{1\}}", "1", "correct"),
        (r"\boxed{\{\}}", r"\emptyset", "correct"),
        (r"\boxed{\varnothing}", r"\emptyset", "correct"),
        (r"\boxed{1,1,2}", "1,2", "correct"),
        (r"\boxed{x=1, y=2}", "(1,2)", "correct"),
        (r"\boxed{(1,2)}", "x=1, y=2", "correct"),
        (r"\boxed{x=1, y=2}", "x=1, y=3", "wrong"),
        (r"\boxed{x=1,y=2}", "y=2,x=1", "correct"),
        (r"\boxed{(x,y)=(1,2)}", "(1,2)", "correct"),
        (r"\boxed{(x,y)=(1,3)}", "(1,2)", "wrong"),
        (r"\boxed{x=1 \text{ and } y=2}", "x=1, y=2", "correct"),
        (r"\boxed{\log_2 8}", "3", "correct"),
        (r"\boxed{\log_{10} 1000}", "3", "correct"),
        (r"\boxed{\ln e^2}", "2", "correct"),
        (r"\boxed{\sqrt{50}}", r"5\sqrt2", "correct"),
        (r"\boxed{\frac{10}{\sqrt{2}}}", r"5\sqrt2", "correct"),
        (r"\boxed{2^{1/2}}", r"\sqrt2", "correct"),
        (r"\boxed{\sqrt[3]{8}}", "2", "correct"),
        (r"\boxed{\cos 60^\circ}", r"\frac12", "correct"),
        (r"\boxed{\sin(30^\circ)}", "0.5", "correct"),
        (r"\boxed{\tan 45^\circ}", "1", "correct"),
        (r"\boxed{\arctan(1)}", r"\frac\pi4", "correct"),
        (r"\boxed{10!}", "3628800", "correct"),
        (r"\boxed{\binom{10}{3}}", "120", "correct"),
        (r"\boxed{_{10}C_3}", "120", "correct"),
        (r"\boxed{\sum_{k=1}^{10} k}", "55", "correct"),
        (r"\boxed{\int_0^1 x^2 dx}", r"\frac13", "correct"),
        (r"\boxed{\lim_{x\to0}\frac{\sin x}{x}}", "1", "correct"),
        (r"\boxed{1.0\times10^3}", "1000", "correct"),
        (r"\boxed{1,000}", "1000", "correct"),
        (r"\boxed{1.000}", "1", "correct"),
        (r"\boxed{1000.}", "1000", "correct"),
        (r"\boxed{\frac{a}{b}}", "a/b", "correct"),
        (r"\boxed{a \div b}", r"\frac{a}{b}", "correct"),
        (r"\boxed{2x}", "x2", "correct"),
        (r"\boxed{xy}", "yx", "correct"),
        (r"\boxed{3.14}", r"\pi", "wrong"),
        (r"\boxed{3.14159265}", r"\pi", "correct"),
        (r"\boxed{1.41421356}", r"\sqrt2", "correct"),
        (r"\boxed{1.4142}", r"\sqrt2", "wrong"),
        (r"\boxed{-\infty}", r"\infty", "wrong"),
        (r"\boxed{\infty}", r"\infty", "correct"),
        (r"\boxed{+\infty}", r"\infty", "correct"),
        (r"\boxed{\text{Monday}}", "Monday", "correct"),
        (r"\boxed{monday.}", "Monday", "correct"),
        (r"\boxed{\text{The answer is Monday}}", "Monday", "wrong"),
        (r"\boxed{True}", "True", "correct"),
        (r"\boxed{False}", "True", "wrong"),
        (r"\boxed{\frac{1}{2}\text{ or }\frac{1}{3}}", r"\frac13,\frac12", "correct"),
        (r"\boxed{5\%}", "5%", "correct"),
        (r"\boxed{p^2 q}", "q p^2", "correct"),
        (r"\boxed{\mathbf{A}}", "A", "correct"),
        (r"\boxed{\overline{AB}}", r"\overline{AB}", "correct"),
        (r"\boxed{\triangle ABC}", r"\triangle ABC", "correct"),
        (r"\boxed{\angle ABC = 90^\circ}", "90", "correct"),
        (r"\boxed{26 cm}", "26 cm", "correct"),
        (r"\boxed{26 cm}", r"26 \text{ centimeters}", "correct"),
        (r"\boxed{1 hour}", "60 minutes", "correct"),
        (r"\boxed{90 minutes}", "1.5 hours", "correct"),
        (r"\boxed{1 h}", "60 s", "wrong"),
        (r"\boxed{$5}", "5 dollars", "correct"),
        (r"\boxed{500 cents}", r"\$5", "correct"),
        (r"Answer: \(\boxed{5}\)", "5", "correct"),
        (r"The final answer is: $\frac{3}{4}$.", "0.75", "correct"),
        ("Therefore, x = 5.", "5", "correct"),
        ("so the probability is 3/4.", r"\frac34", "correct"),
        (r"The answer is $\text{(B)}$", r"\text{(B)}", "correct"),
        ("Hence the answer is 1/2, not 1/3.", "1/2", "correct"),
        ("The answer is approximately 3.5.", "3.5", "correct"),
        (r"<think>\boxed{1}</think> The answer is \boxed{2}", "2", "correct"),
        ("The answer is 5. However, let me double check: 3+4=7.", "5", "correct"),
        ("My answer: 12\n\n(Confidence: 90%)", "12", "correct"),
        (r"\boxed{2 \times 3 \times 5}", "30", "correct"),
        (r"\boxed{2*3*5}", "30", "correct"),
        (r"\boxed{2^3 \cdot 3}", "24", "correct"),
        (r"\boxed{\begin{cases} 1 \\ 2 \end{cases}}", "1", "unparseable response"),
        (r"\boxed{0.1+0.2}", "0.3", "correct"),
        (r"\boxed{1e400}", "1", "wrong"),
        (r"\boxed{" + "9" * 5000 + "}", "9" * 5000, "correct"),
        (r"\boxed{" + "9" * 5000 + "}", "9" * 4999 + "8", "wrong"),
        (r"\boxed{12345678901234567890.5}", "12345678901234567890.6", "wrong"),
        (r"\boxed{x^2 - y^2}", "(x-y)(x+y)", "correct"),
        (r"\boxed{(x-7)(x+1)}", "x^2-6x-7", "correct"),
        (r"\boxed{(x-7)(x+1)}", "x^2-6x-8", "wrong"),
        (r"\boxed{\frac{x-7}{x^2-49}}", r"\frac{1}{x+7}", "correct"),
        (r"\boxed{e^{x+y}}", "e^x e^y", "correct"),
        (r"\boxed{\ln(ab)}", r"\ln a+\ln b", "correct"),
        (r"\boxed{\frac{x^2-1}{x-1}}", "x+1", "correct"),
        (r"\boxed{\sqrt{x^2}}", "x", "wrong"),
        (r"\boxed{(-1)^{n}}", "(-1)^{n+2}", "correct"),
        (r"\boxed{(-1)^{n}}", "(-1)^{n+1}", "wrong"),
        (r"\boxed{\frac{n!}{(n-1)!}}", "n", "correct"),
        (r"\boxed{\cos(2x)}", r"1-2\sin^2 x", "correct"),
        (r"\boxed{\left(\frac12, 3\right)}", "(0.5, 3)", "correct"),
        (r"\boxed{(1,2),(3,4)}", "(3,4),(1,2)", "correct"),
        (r"\boxed{[0,1]\cup[2,3]}", r"[2,3]\cup[0,1]", "correct"),
        (r"\boxed{[0,2]}", r"[0,1]\cup[1,2]", "correct"),
        (r"\boxed{三万二千}", "32000", "correct"),
        (r"\boxed{万}", "0", "unparseable response"),
        (r"\boxed{万五}", "5", "unparseable response"),
    ],
)
def test_further_forms_of_all_kinds(response: str, answer: str, outcome: str) -> None:
    assert _outcome(response, answer) == outcome


def test_a_very_long_answer_is_not_read_as_mathematics() -> None:
    long = "+".join(["x"] * 3000)
    assert _outcome(rf"\boxed{{{long}}}", "3000x") == "unparseable response"
    assert _outcome(rf"\boxed{{{long}}}", long) == "correct"


@pytest.mark.parametrize(
    ("response", "answer", "outcome"),
    [
        (r"It is less than \boxed{12}.", "12", "unparseable response"),
        (r"It is half of \boxed{14}.", "7", "correct"),
        (r"About \boxed{60} million.", "60", "wrong"),
        (r"About \boxed{60} million.", "60000000", "correct"),
        (r"So $\boxed{5}!$ orders.", "120", "correct"),
        (r"So \boxed{5}!", "5", "correct"),
        (r"\boxed{9}, which is wrong.", "9", "unparseable response"),
        (r"\boxed{9}, which is odd.", "9", "correct"),
        (r"\boxed{9}; it is impossible to do better.", "9", "correct"),
    ],
)
def test_words_beside_a_box_change_its_value(response: str, answer: str, outcome: str) -> None:
    assert _outcome(response, answer) == outcome


@pytest.mark.parametrize(
    ("response", "answer", "outcome"),
    [
        (r"\boxed{\text{point } P}", r"\text{line } P", "wrong"),
        (r"\boxed{\mathbf{R}}", r"\mathbb{R}", "correct"),
        (r"\boxed{\mathbf{R}}", "R", "correct"),
        (r"\boxed{2\hat{i}-\hat{k}}", "(2,0,-1)", "correct"),
        (r"\boxed{2i+3j}", r"2\mathbf{i}+3\mathbf{j}", "correct"),
        (r"\boxed{3+2i}", r"2\mathbf{i}+3\mathbf{j}", "wrong"),
    ],
)
def test_one_side_says_how_the_other_is_read(response: str, answer: str, outcome: str) -> None:
    assert _outcome(response, answer) == outcome


@pytest.mark.parametrize(
    ("response", "answer", "outcome"),
    [
        (r"\boxed{0.1(6)}", "1/6", "correct"),
        (r"\boxed{2.5(4) = 10}", "10", "correct"),
        (r"\boxed{0.1666...}", "1/6", "correct"),
        (r"\boxed{2.7182818...}", "e", "correct"),
        (r"\boxed{0.(16)}", "1/6", "wrong"),
        (r"\boxed{1,2,\ldots,5}", "1,2,3,4,5", "correct"),
        (r"\boxed{1,2,\ldots,5}", "5", "wrong"),
        (r"\boxed{1,2,4,\ldots,16}", "1,2,4,8,16", "unparseable response"),
    ],
)
def test_digits_and_members_that_go_on(response: str, answer: str, outcome: str) -> None:
    assert _outcome(response, answer) == outcome
