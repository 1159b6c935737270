"""Preloaded by the forkserver before it forks workers: load sympy and the LaTeX parser, and run them once.

The first run fills caches. Without them every new worker would need a tenth of a second more for its first
items.
"""

from extra_services.verification.judge import judge
from extra_services.verification.verdict import VerificationItem

_ANSWERS = (
    r"\frac{\sqrt{2}}{2}", "x^2+2x+1", r"2^{10}-1", r"\left(3,\frac{\pi}{2}\right)", r"[1,2)\cup(3,\infty)",
    r"\{1,2,3\}", "1,-2", "y=2x+3", r"x\le 5", r"1<x<2", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
    r"\binom{5}{2}", r"\frac{n(n+1)}{2}", r"3\pm 2\sqrt{2}", r"e^{-t}\cos(2t)", r"\log_{2} 8", "6-5i",
    r"\lfloor n/2\rfloor", "f(x)=x+1", r"|x-1|", "n!", r"\sqrt[3]{7}", r"x_1+x_2", r"\sin^{2}\theta",
    r"\frac{1-p^{2}}{3}", "1.5", r"\ln 2+\frac{1}{e}",
)  # fmt: skip
for _answer in _ANSWERS:
    judge(VerificationItem(rf"\boxed{{{_answer}+0}}", _answer))
