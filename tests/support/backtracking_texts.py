"""Read long texts of one repeated piece with everything that takes answers apart by regular expressions.

`python -m support.backtracking_texts SECONDS` ends by the signal SIGXCPU where an expression backtracks,
and has printed the text that it was reading.
"""

import resource
import sys
from collections.abc import Iterator

from extra_rl.vocabulary import Method
from extra_services.verification import (
    chemistry,
    choices,
    counterparts,
    extraction,
    forms,
    latex,
    listing,
    notations,
    quick,
    statements,
    units,
)
from extra_services.verification.verdict import VerificationItem

#: Characters of a response, and of an answer that a worker rewrites.
RESPONSE, ANSWER = 20_000, 1_500
PIECES = (
    "a", "a ", "A ", "(A), ", "A or ", "1", "1,", "1 ", "1. ", "1/", "-", "$", "$1$ ", "{", "}",
    "(", "[", "not ", "is ", "it is ", "answer is ", "the answer is not ", "答案", "选", "选项",
    "不选A", "\n", "A. x\n", "**", "* ", "_", "5 out of ", "and ", "and one ", "twenty ",
    "minus ", "half of ", "x_1=", "x=", "^{", "[1;", "(1,", "&", "~", "°", "m ", "km/", "cm per ",
    "1 hour ", "<think>", "</think>", "<answer>", "####", "because ", "none of ", "between 1 and ",
    "1 less than ", "0.(3)", "1{,}", "1:", "<< ", "!", "...", "or, ", "option ", "k", "I ",
    "eliminating A, ", "A、", "%", " of the ", "∈", r"\text{", r"\text{a} ", r"\text{ m}",
    r"\boxed{", r"\boxed{1} ", r"\boxed{1},", r"\boxed{1} and ", r"\begin{cases}", r"\\", r"\frac",
    r"\frac{1}", r"\quad", r"\ ", r"\pm ", r"\overline", r"\mathbb{Z}", r"\mathbf{", r"^\circ ",
    r"x\in ", "0.1", "0.(", r"\dot{1}", r"\overline{1}", "1\u0305", "(101)_", "101 in base ", "; 1,",
    "[ {", "| {", r"\complement_U A", r"\left| ", r"\right. ", r"\hat{i}+", r"\hat{\imath}", "3i+",
    "{(1)", r"\text{\textbf{", r"\frac{\text{m}", r"\mathrm{m} ", r"\mu\mathrm{", r"\text{k}\Omega",
    r"^\frac", r"\mathbb{R}^", r"\mathbf{R}\setminus ", r"\angle A", "AB", "A_1", "point P ",
    "1, 2, ...", r"1,\ldots,", "less than ", "at least ", "not enough ", "might be ", "which is ",
    "it is wrong ", ", but this is ", "too large ", " million", r"\text{ million", "respectively ",
    "Sept. ", "forgot ", r"\boxed{1}\pi ", "小明认为", "<|a|> ", "\nUser: ", "if it would ", "note ",
    "1.234,", "not enough information ", "the maximum is 4 at ", "x=1 when ", '{"answer": ',
    r"\operatorname{cis}(", "一百", r"if n \boxed{1}. ", "$5", "30^\\circ, ",
    "≈ ", r"\approx ", "1, or about ", "\n(a) ", "(a) ", "[1,2],", "&lt;", r"\\ &= 7 ", r"\begin{align}",
    r"\end{align} ", r"\frac{dy}{dx}", "|AB|", r"\|", "f(x)= for all x ", r"\forall ", "H_2", "H_2+", "60{}^",
    "sq. ", "Rs. ", r"=5\%", " times", r"\ce{", "<ANSWER>", "x≡2 or ", "x≡2   ", " ,", "x_1=1, ", "ans ",
    "=> ", "it is not ", r"\text{ (simplified)}", r"\max_{x} ", "P(A", r"\mathrm{d", "the 2nd ", " only",
)  # fmt: skip
FRAMES = (("", ""), ("The answer is ", "!"), ("The answer is 7", " x."), (r"\boxed{", "}"), ("7 ", "}7"))


def texts(length: int) -> Iterator[str]:
    """Yield each piece repeated to `length` characters, in each frame."""
    for piece in PIECES:
        for before, behind in FRAMES:
            yield before + piece * (length // len(piece)) + behind


def read_all() -> None:
    """Read all texts, as responses and as answers."""
    for text in texts(RESPONSE):
        print(repr(text[:40]), flush=True)
        for method in (Method.MATH, Method.CHOICE, Method.AUTO):
            quick.decide(quick.question(VerificationItem(text, "A", method)))
        extraction.final_answer(text, several=True)
        choices.stated(text)
        statements.last_value(text)
    for text in texts(ANSWER):
        print(repr(text[:40]), flush=True)
        counterparts.alike(notations.standard(text), "(1,2)")
        counterparts.alike(r"\hat{i}", text)
        counterparts.alike(text, "second")
        counterparts.alike(text, r"\begin{pmatrix}1\end{pmatrix}")
        chemistry.formula(text)
        latex.written(text)
        units.split_unit(text)
        listing.members(text)
        for form in (
            forms.statements,
            forms.ratio,
            forms.congruence,
            forms.sides,
            forms.pieces,
            forms.point,
            forms.figure,
            forms.approximation,
            forms.labelled,
        ):
            form(text)


if __name__ == "__main__":
    seconds = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    read_all()
    print("all read")
