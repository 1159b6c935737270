r"""Edits of answers and of the sentences around them that surely change what is answered, or surely do not.

`changed` takes an answer (LaTeX) and yields other answers, `WRONG_SENTENCES` put the right value into a response that
does not give it as its answer; none may be accepted. `kept` and `RIGHT_SENTENCES` are the counterpart. An edit
applies only where its effect is certain, so that each acceptance or refusal that it brings up is a fault.
"""

import re
from collections.abc import Callable, Iterator

Edit = Callable[[str], Iterator[str]]

_INTEGER = re.compile(r"-?\d{1,9}\Z")
_NUMBER = re.compile(r"-?\d{1,9}(?:\.\d{1,4})?\Z")
_FRACTION = re.compile(r"(-?)\\frac\{(\d+)\}\{(\d+)\}\Z")
_LETTERS = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z](?![a-zA-Z}])")
_NO_VARIABLES = frozenset("eidCckEIOAMVJKNTWFGhmsgLln")

#: Words before a number that make it another one, or none.
WORDS_BEFORE = (
    "not", "except", "anything except", "all but", "anything but", "everything except", "at least", "at most", "less than",
    "more than", "fewer than", "greater than", "smaller than", "up to", "over", "under", "above", "below", "about half of",
    "half of", "half", "twice", "double", "triple", "thrice", "the square of", "the cube of", "the square root of", "the cube root of",
    "the reciprocal of", "the negative of", "the opposite of", "the inverse of", "one over", "one minus", "ten times", "a quarter of",
    "two thirds of", "a third of", "neither", "no more than", "no less than", "not less than", "not more than", "a multiple of", "a divisor of",
    "a factor of", "divisible by", "the sum of 1 and", "the product of 2 and", "one more than", "one less than", "three fewer than",
    "between 0 and", "either 0 or", "0 or", "the factorial of", "the logarithm of", "different from", "unequal to", "far from",
    "never", "cannot be", "other than", "outside of", "10 percent of", r"10\% of", "3 more than", "2 times", "five plus", "five minus",
    "the remainder of", "the number of divisors of", "the digits of", "the power of", "every", "without", "excluding", "unless",
    "nearly twice", "almost double", "just over", "just under", "well below", "as many as", "the absolute value of minus 1 times",
    "the average of 0 and", "the larger of 100000000 and", "the difference of 1 and", "the next number after", "the number before",
    "the predecessor of", "the successor of", "beyond", "no", "not equal to", "anywhere from 0 to", "0 through", "from 0 to",
    "the additive inverse of", "the complement of", "the conjugate of i times", "possibly 0, possibly", "the last digit of 1 +",
)  # fmt: skip
#: Words behind a number that make it another one, or none.
WORDS_BEHIND = (
    "or more", "or less", "or fewer", "or greater", "or higher", "at least", "at most", "and above", "and up", "factorial",
    "squared", "cubed", "times two", "plus one", "minus one", "tenths", "hundredths", "thousandths", "dozen", "hundred", "thousand",
    "million", "billion", "is wrong", "excluded", "is not possible", "unless n is odd", "if n is even", "only if n is even",
    "over 2", "divided by 2", "choose 2", "to the power of 3", "raised to the third power", "mod 7", "percent more", "too many", "too few",
    "short of a hundred", "away from zero", "percent of 300", "for n = 1 and 8 otherwise", "or zero", "or nothing", "or 0", "to 100000",
    "per mille", "parts per million", "not included", "removed", "more than before", "times as many", "or perhaps 0",
    "does not work", "fails", "at a minimum", "at the most", "to the minus one", "against 2",
)  # fmt: skip

#: Responses that mention the right value and do not answer with it. @ is the value, # another one.
WRONG_SENTENCES = (
    # Denied.
    r"The answer is not $\boxed{@}$.", r"It is not true that the answer is $\boxed{@}$.", r"It isn't $\boxed{@}$.",
    r"It can never be $\boxed{@}$.", r"The value cannot possibly be $\boxed{@}$.", r"The result is by no means $\boxed{@}$.",
    r"It is false that $n = \boxed{@}$.", r"It would be wrong to say that the answer is $\boxed{@}$.",
    r"It is impossible that the answer is $\boxed{@}$.", r"It is unlikely that the answer is $\boxed{@}$.",
    r"We can rule out $\boxed{@}$.", r"So we reject the answer $\boxed{@}$.", r"This excludes $\boxed{@}$.",
    r"This eliminates the option $\boxed{@}$.", r"$\boxed{@}$ is wrong.", r"\[\boxed{@}\] is not the answer.",
    r"$\boxed{@}$ cannot be right.", r"$\boxed{@}$ is only a lower bound.", r"$\boxed{@}$ is merely an upper bound for it.",
    r"$\boxed{@}$, which is incorrect.", r"$\boxed{@}$. This is wrong.", r"$\boxed{@}$. However, that is not correct.",
    r"$\boxed{@}$ does not satisfy the equation.", r"$\boxed{@}$ leads to a contradiction.", r"$\boxed{@}$ is the wrong answer.",
    r"$\boxed{@}$ turned out to be a mistake.", r"$\boxed{@}$ is a common mistake.", r"Not $\boxed{@}$, but $\boxed{#}$.",
    r"The answer is $\boxed{#}$, not $\boxed{@}$.", r"The answer is $\boxed{#}$ instead of $\boxed{@}$.",
    r"I would rather take $\boxed{#}$ than $\boxed{@}$.", r"The answer is not @.", r"The answer isn't @.",
    r"It is not @.", r"The answer is anything but @.", r"@ is wrong.", r"The answer cannot be @.", r"Certainly not @.",
    r"答案不是@。", r"答案不是 $\boxed{@}$。",
    # Said by others, supposed, an example, asked.
    r"A student claims that the answer is $\boxed{@}$.", r"My friend thinks it is $\boxed{@}$.",
    r"The hint says that the answer is $\boxed{@}$.", r"Suppose the answer were $\boxed{@}$.", r"What if it was $\boxed{@}$?",
    r"Assume that the answer is $\boxed{@}$. Then a contradiction follows.",
    r"I first thought it was $\boxed{@}$.", r"I initially got $\boxed{@}$.", r"My first guess was $\boxed{@}$.",
    r"The naive answer is $\boxed{@}$.", r"One might think that it is $\boxed{@}$.", r"You may be tempted to answer $\boxed{@}$.",
    r"It is tempting to say $\boxed{@}$.", r"Is it $\boxed{@}$? No.", r"Could the answer be $\boxed{@}$?",
    r"Format example: $\boxed{@}$.", r"Example of the answer format: $\boxed{@}$",
    # Withdrawn.
    r"$\boxed{@}$. Wait, that's wrong, it is #.", r"$\boxed{@}$. Oops, I forgot to add one, so #.",
    r"$\boxed{@}$. Correction: #.", "$\\boxed{@}$\n\nEDIT: I misread the question. It is #.",
    r"The answer is $\boxed{@}$. Actually, that's not right. Let me recompute: #.",
    r"$\boxed{@}$. Hmm, this is incorrect.", r"$\boxed{@}$. Sorry, I made a mistake: it should be #.",
    r"$\boxed{@}$ (typo: should be #)", r"$\boxed{@}$. On second thought, $\boxed{#}$.", r"$\boxed{@}$. Scratch that: #.",
    r"$\boxed{@}$ - no, that is wrong.", r"$\boxed{@}$. No, wait: I miscounted. $\boxed{#}$",
    "$\\boxed{@}$\n\nFinal answer: #", "$\\boxed{@}$\n\n**Answer:** $#$", "#### @\n\n#### #", "Answer: @\nAnswer: #",
    r"<answer>@</answer> Wait, that was wrong. <answer>#</answer>", r"The answer is @. Wait, that's wrong, it is #.",
    r"The answer is @. Correction: #.", r"$\boxed{@}$. The correct answer is #.", r"$\boxed{@}$. Please ignore that. It is #.",
    r"So $\boxed{@}$. Subtract one to get #.", r"So $\boxed{@}$, and hence the value asked for is #.",
    r"$\boxed{@}$. But actually, I made an error above, the answer is $#$.",
    # Hedged.
    r"It is $\boxed{@}$ or $\boxed{#}$.", r"$\boxed{@}$ or maybe #.", r"$\boxed{@}$, or perhaps $#$.", r"$\boxed{@}$ (or $#$).",
    r"$\boxed{@ \text{ or } #}$", r"$\boxed{@, #}$", r"$\boxed{#, @}$", r"$\boxed{\{@, #\}}$", r"Either $\boxed{#}$ or $\boxed{@}$.",
    r"Any of $\boxed{#}$, $\boxed{@}$ would do.", r"$\boxed{#}$, $\boxed{@}$", r"$\boxed{@}$, $\boxed{#}$, $\boxed{#0}$",
    r"The answer is @ or #.", r"The answer is either # or @.", r"It is # or @.", r"The answers are #, @ and #0.",
    r"<answer>@ or #</answer>", r"<answer>@</answer> or <answer>#</answer>", r"#### @ or #", r"The answer is between # and @.",
    r"$\boxed{@}$ with probability 1/2, $\boxed{#}$ with probability 1/2.", r"$\boxed{\text{either } @ \text{ or } #}$",
    r"$\boxed{@}$, unless the order counts.", r"$\boxed{@ / #}$", r"$\boxed{# \text{ to } @}$",
    # Not finished, not an answer.
    r"<think>It may be $\boxed{@}$, but let me check", r"<think>$\boxed{@}$</think> The answer is #.", r"$\boxed{@",
    r"<think>The answer is @.", r"$\boxed{@ = #}$", r"$\boxed{# = @}$", r"$\boxed{x \neq @}$", r"$\boxed{x > @}$", r"$\boxed{x \le @}$",
    r"$\boxed{x^2 = @}$", r"$\boxed{3x + 1 = @}$", r"$\boxed{x - @ = 0}$", r"The answer has @ digits.", r"The answer is divisible by @.",
    r"The answer is less than @.", r"The answer is at most @.", r"The answer ends in @.", r"The answer squared is @.",
)  # fmt: skip
#: Responses that answer with the value @, oddly perhaps.
RIGHT_SENTENCES = (
    r"$\boxed{@}$", r"\boxed{@}", r"\fbox{@}", r"$$\boxed{@}$$", "\\[\n\\boxed{\n@\n}\n\\]", r"\(\boxed{@}\)", r"**$\boxed{@}$**",
    r"**Answer:** $\boxed{@}$", r"The final answer is $\boxed{@}$. I hope it is correct.", r"Final Answer: $@$", r"The answer is $@$.",
    r"$\boxed{\boxed{@}}$", r"$\boxed{ @ }$", r"$\boxed{\,@\,}$", r"$\boxed{@.}$", r"$\boxed{$@$}$", r"$\boxed{\displaystyle @}$",
    r"$\boxed{{@}}$", r"$\boxed{\color{red}{@}}$", r"$\boxed{\textcolor{blue}{@}}$", r"$\boxed{\underline{@}}$", r"$\boxed{\mathbf{@}}$",
    r"$\boxed{@\tag{1}}$", r"$\boxed{\;@\quad}$", "<think>long $\\boxed{12345}$</think>\n\n$\\boxed{@}$", r"<answer>$@$</answer>",
    r"<answer>\boxed{@}</answer>", r"Put it in \boxed{}. The answer is $\boxed{@}$.", "Step 1: $\\boxed{99991}$.\n\nNow the whole of it is needed.\n\nSo $\\boxed{@}$.",
    r"Not 99991: the answer is $\boxed{@}$.", r"Since the others are not possible, the answer is $\boxed{@}$.",
    r"There are no other solutions, so it is $\boxed{@}$.", r"I first thought it was 99991, but it is $\boxed{@}$.",
    r"The number of those that are not prime is $\boxed{@}$.", r"The smallest that cannot be written so is $\boxed{@}$.",
    r"$\boxed{@}$. Check: 2 + 2 = 4.", "$\\boxed{@}$\n\nNote that 99991 would be too large.", r"$\boxed{@}$ ✓", r"$\boxed{@}$. Done!",
    r"The answer is not 99991 but $\boxed{@}$.", r"Rejecting the negative root leaves $\boxed{@}$.", r"Wait, that's wrong. It is $\boxed{@}$.",
    r"I made a mistake before. The answer is $\boxed{@}$.", r"If we add these, we get $\boxed{@}$.", r"Suppose $n$ is even; then the sum is $\boxed{@}$.",
    "$\\boxed{@}$\n\nFinal answer: $@$", "答案是 $\\boxed{@}$。", "因此，$\\boxed{@}$．", r"$\boxed{@}$<|im_end|>", r"$\boxed{@}$</s>",
    r"Thus we have $\boxed{@}$ as claimed.", r"We claim that the answer is $\boxed{@}$.", r"I think the answer is $\boxed{@}$.",
    r"As expected, the student gets $\boxed{@}$.", r"This is impossible, hence $\boxed{@}$.", r"It is wrong to divide here; we get $\boxed{@}$.",
    r"Hence, after rejecting the others, $\boxed{@}$.", r"$\boxed{@}$ is the answer, and no other value works.",
    r"$\boxed{@}$ is correct, since 99991 is too large.", r"$\boxed{@}$, not 99991.", r"$\boxed{@}$ rather than 99991.",
    r"Is it 99991? No. It is $\boxed{@}$.", r"The answer is $\boxed{@}$, as 99991 does not work.", r"$\boxed{@}$. Let me know if you have 3 more questions!",
)  # fmt: skip


def changed_number(value: str) -> Iterator[str]:
    """Yield answers that are not the integer `value`, which is at least 5 in size."""
    if not _INTEGER.match(value) or abs(int(value)) < 5:
        return
    number = int(value)
    yield from (str(-number), str(number + 1), f"{value}0", f"0.{abs(number)}", f"{value}.5", rf"{value}\frac{{1}}{{2}}")
    yield from (f"{value}!", f"{value}!!", f"({value})^2", f"{value}^{{2}}", rf"\sqrt{{{abs(number)}}}", rf"\sqrt[3]{{{value}}}")
    yield from (f"{value}x", f"{value}ab", f"x{value}", f"{value}i", rf"{value}\pi", rf"{value}e", f"x_{{{value}}}", f"f({value})")
    yield from (rf"{value} \cdot 2", f"{value}+1", f"{value}/2", rf"\frac{{1}}{{{value}}}", rf"\frac{{{value}}}{{2}}", f"-|{value}|" if number > 0 else f"|{value}|")
    yield from (rf"\log {abs(number)}", rf"\ln {abs(number)}", rf"\lfloor {value}-0.5 \rfloor", rf"\lceil {value}+0.5 \rceil")
    yield from (f"{value}:3", f"({value}, {value})", rf"[{value}, \infty)", rf"(-\infty, {value})", rf"{value} \pm 1", rf"\pm {abs(number) + 1}")
    yield from (rf"x \geq {value}", rf"x \neq {value}", f"x < {value}", f"{value} < x", rf"x \equiv {value} \pmod{{9999}}" if 0 else f"y > {value}")
    yield from (rf"{value} \times 10^{{2}}", f"{value}e3", rf"\binom{{{abs(number)}}}{{2}}", rf"O({value})", rf"{value} \mid x", f"!{value}")
    yield from (rf"{value}\text{{--}}{number + 2}", rf"{value} \sim {number + 2}", rf"{value}, {number + 1}", rf"\{{{value}, {number + 1}\}}")
    yield from (f"{value} = {number + 1}", f"{number + 1} = {value}", f"2+{value} = {value}", f"x = {value} = {number + 1}", f"2x = {value}")
    yield from (rf"{value}, \ldots", rf"{value} \cdots", rf"0.\overline{{{abs(number)}}}", rf"\overline{{{value}{value}}}", rf"\cancel{{{value}}}")
    yield from (rf"{value}\text{{th prime}}", rf"{value} \text{{ pairs of }} 2", rf"{value}^{{-1}}", rf"{value}^{{\frac{{1}}{{2}}}}", rf"\frac{{{value}}}{{0}}")
    yield from (rf"\sum_{{k=1}}^{{{abs(number)}}} k", rf"\text{{No solution, {value}}}", rf"{value}?" if 0 else rf"{value} \text{{ or so? no}}", rf"{value} + \epsilon")
    yield from (rf"{value}_{{{8 if abs(number) > 7 and not set('89') & set(value) else 16}}}" if abs(number) > 9 else f"{value}y",)
    digits = str(abs(number))
    yield from (digits[1:] for _ in "1" if len(digits) > 1 and digits[1] != "0")
    yield from (digits[:-1] for _ in "1" if len(digits) > 1)
    yield from (digits[::-1] for _ in "1" if digits[::-1].lstrip("0") != digits)
    for words in WORDS_BEFORE:
        yield rf"\text{{{words} }} {value}"
    for words in WORDS_BEHIND:
        yield rf"{value} \text{{ {words}}}"


def changed_words(value: str) -> Iterator[str]:
    """Yield the sentences that say a number with words that change it, without a box."""
    if _INTEGER.match(value) and abs(int(value)) >= 5:
        for words in WORDS_BEFORE:
            yield f"The answer is {words} {value}."
        for words in WORDS_BEHIND:
            yield f"The answer is {value} {words}."


def _digit(latex: str) -> Iterator[str]:
    """Change a digit."""
    if re.search(r"_|%|\b1\^|\^\{?0|ldots|dots|<|>|\.\d{5}|\d{16}|mod|\\text|\\circ|:|base|matrix", latex):
        return
    for found in re.finditer(r"\d", latex):
        if found.start() and latex[found.start() - 1] in "_[" or latex[: found.start()].endswith("[ "):
            continue
        yield f"{latex[: found.start()]}{(int(found.group()) + 4) % 9 + 1 if found.group() != str((int(found.group()) + 4) % 9 + 1) else 7}{latex[found.end() :]}"


def _sign(latex: str) -> Iterator[str]:
    """Change the sign between two terms, of which the second is no zero and no root of two."""
    if re.search(r"\\pm|=|\||!|<|>|_|\\cos|\\text|cosh|\\(?:left)?\{", latex):
        return
    for found in re.finditer(r"(?<=[\w)}])\s*([+-])\s*(?=[1-9a-zA-Z\\])", latex):
        if "^" in latex[max(0, found.start() - 4) : found.start()] and "{" in latex[: found.start()][-4:]:
            continue
        yield latex[: found.start(1)] + ("-" if found[1] == "+" else "+") + latex[found.end(1) :]


def _negated(latex: str) -> Iterator[str]:
    if re.fullmatch(r"[\w\\{}^+*/.() -]+", latex) and re.search(r"[1-9a-zA-Z]", latex) and "text" not in latex and "pm" not in latex and "infty" not in latex and "mathbb" not in latex and "begin" not in latex and not re.search(r"\\(?:cup|cap|in|emptyset|setminus|quad|circ|and|or)\b|,|[A-Z]{2}|[a-z]{3,}\b(?<!frac)(?<!sqrt)(?<!cdot)(?<!left)", re.sub(r"\\[a-z]+", "", latex)) and not re.fullmatch(r"[A-Za-z .]+", latex):
        yield f"-({latex})"
        yield f"2({latex})"
        yield rf"\frac{{1}}{{3}}({latex})"
        yield rf"({latex}) + 1"


def _order(latex: str) -> Iterator[str]:
    """Swap the two members of a pair, or drop one, or add one."""
    match = re.fullmatch(r"\(([^(),]+),([^(),]+)\)", latex)
    if match and match[1].strip() != match[2].strip():
        yield f"({match[2]}, {match[1]})"
        yield f"({match[1]}, {match[2]}, {match[2]})"
        yield match[1].strip()
        if re.fullmatch(r"\(\d+, ?\d+\)", latex) and int(match[1]) < int(match[2]):
            yield f"[{match[1]}, {match[2]})"
            yield f"[{match[1]}, {match[2]}]"


def _brackets(latex: str) -> Iterator[str]:
    match = re.fullmatch(r"([\[(])([^\[\](),]+),([^\[\](),]+)([\])])", latex)
    if match and (match[1], match[4]) != ("(", ")"):
        left, right = match[2].strip(), match[3].strip()
        for begin in "[(":
            for end in "])":
                if (begin, end) != (match[1], match[4]) and not ("infty" in left and begin == "[") and not ("infty" in right and end == "]"):
                    yield f"{begin}{left},{right}{end}"


def _members(latex: str) -> Iterator[str]:
    """Drop a member of a list, or add one."""
    match = re.fullmatch(r"(\\\{|)([-\d.,\s]+)(\\\}|)", latex)
    if match and bool(match[1]) == bool(match[3]) and "," in match[2] and not re.search(r"\d,\d{3}", match[2]):
        parts = [part.strip() for part in match[2].split(",")]
        if len(set(parts)) == len(parts):
            for index in range(len(parts)):
                yield match[1] + ", ".join(parts[:index] + parts[index + 1 :]) + match[3]
            yield match[1] + ", ".join([*parts, "777"]) + match[3]


def _relation(latex: str) -> Iterator[str]:
    signs = {"<": (r"\le ", ">"), ">": (r"\ge ", "<"), r"\le ": ("<", r"\ge "), r"\ge ": (">", r"\le "), r"\leq ": ("<", r"\geq "), r"\geq ": (">", r"\leq ")}
    for sign, others in signs.items():
        if latex.count(sign) == 1 and not re.search(r"\\(?:ne|text)|or|and|,|=|\\in", latex) and sum(latex.count(each) for each in "<>") + len(re.findall(r"\\[lg]eq?(?![a-z])", latex)) == 1:
            for other in others:
                yield latex.replace(sign, other)


def _variable(latex: str) -> Iterator[str]:
    """Change a variable, or the case of one."""
    if re.search(r"\\text|\\math|\\begin|\\operatorname|\\infty|\\in\b|=|f\(|[a-zA-Z]{2}|:|\\quad|\^\\circ|\\circ|\\angle|\\triangle|\\overline|\\vec|\\hat", re.sub(r"\\(?:frac|sqrt|cdot|pi|sin|cos|tan|ln|left|right)", "", latex)):
        return
    letters = [found for found in _LETTERS.finditer(latex) if found.group() not in _NO_VARIABLES]
    if not letters or not re.search(r"[\d+^]", latex):
        return
    letter = letters[0].group()
    if letter.swapcase() not in latex and letter.swapcase() not in _NO_VARIABLES:
        yield _LETTERS.sub(lambda found: found.group().swapcase() if found.group() == letter else found.group(), latex)
    if "q" not in latex:
        yield _LETTERS.sub(lambda found: "q" if found.group() == letter else found.group(), latex)


def _function(latex: str) -> Iterator[str]:
    for name, other in ((r"\sin", r"\cos"), (r"\ln", r"\lg"), (r"\sqrt{", "{"), (r"\pi", "3.14"), (r"\tan", r"\cot"), (r"\cup", r"\cap"), (r"\mathbb{R}", r"\mathbb{Q}")):
        if name in latex and not (name == r"\sqrt{" and re.search(r"\\sqrt\{[01]\}", latex)):
            if name in (r"\sin", r"\tan") and re.search(r"=|\\text", latex):
                continue
            yield latex.replace(name, other)


def _fraction(latex: str) -> Iterator[str]:
    match = _FRACTION.match(latex)
    if match and match[2] not in (match[3], "0"):
        yield rf"{match[1]}\frac{{{match[3]}}}{{{match[2]}}}"
        yield rf"{match[1]}{match[2]}{match[3]}"
        yield rf"{match[1]}{match[2]}.{match[3]}" if int(match[3]) > 1 else "0"
        yield rf"{match[1]}{match[2]}\frac{{{match[2]}}}{{{match[3]}}}"
        yield rf"{match[1]}{match[2]}:{match[2]}{match[3]}"
        yield rf"{match[1]}\binom{{{match[2]}}}{{{match[3]}}}"


def _power(latex: str) -> Iterator[str]:
    """Lose the mark-up of a power."""
    for found in re.finditer(r"(?<=[a-zA-Z\d)])\^\{?(\d+)\}?", latex):
        if found[1] not in ("0", "1") and not re.search(r"\\text|=|\\mathrm|:|,|<|>|\\circ", latex):
            yield f"{latex[: found.start()]}{found[1]}{latex[found.end() :]}"
            yield f"{latex[: found.start()]} \\cdot {found[1]}{latex[found.end() :]}" if not latex[: found.start()].endswith(("2",)) else "98765"
            yield f"{latex[: found.start()]}^{{{int(found[1]) + 1}}}{latex[found.end() :]}" if not re.search(r"(?<!\d)1\Z", latex[: found.start()]) else "98765"


_OTHER_UNITS = (
    ("km", "m"), ("cm", "m"), ("mm", "cm"), ("kg", "g"), ("mg", "g"), ("hours", "minutes"), ("minutes", "seconds"), ("seconds", "minutes"), ("days", "weeks"),
    ("feet", "inches"), ("inches", "feet"), ("miles", "kilometers"), ("meters", "feet"), ("dollars", "cents"), ("cents", "dollars"), ("years", "months"),
    ("square inches", "cubic inches"), ("square units", "cubic units") , ("mph", "km/h"), ("liters", "gallons"), ("pounds", "ounces"),
)  # fmt: skip


def _unit(latex: str) -> Iterator[str]:
    for name, other in _OTHER_UNITS:
        pattern = re.compile(rf"(\\(?:text|mathrm)\{{\s*){name}(\s*\}})(?!\^)")
        if pattern.search(latex) and latex.count("text{") + latex.count("mathrm{") == 1 and latex[:1].isdigit():
            yield pattern.sub(rf"\g<1>{other}\g<2>", latex)
            yield pattern.sub(r"\g<0>^4", latex)


def _matrix(latex: str) -> Iterator[str]:
    match = re.fullmatch(r"(\\begin\{[pb]matrix\})(.*)(\\end\{[pb]matrix\})", latex, re.DOTALL)
    if match:
        rows = [[cell.strip() for cell in row.split("&")] for row in match[2].split(r"\\") if row.strip()]
        if len({len(row) for row in rows}) == 1 and len(rows) > 1:
            if rows != rows[::-1]:
                yield match[1] + r" \\ ".join(" & ".join(row) for row in rows[::-1]) + match[3]
            turned = [list(column) for column in zip(*rows, strict=True)]
            if len(rows[0]) > 1 and turned != rows:
                yield match[1] + r" \\ ".join(" & ".join(row) for row in turned) + match[3]


def _opposite(latex: str) -> Iterator[str]:
    match = re.fullmatch(r"(?:\\text\{)?\s*([a-z]+(?: [a-z]+){0,3})\s*\}?", latex, re.IGNORECASE)
    if match and len(match[1]) > 3:
        words = match[1]
        for prefix in ("not ", "never ", "hardly ", "neither ", "everything but ", "non-", "the opposite of ", "anything except "):
            yield rf"\text{{{prefix}{words}}}"
        for suffix in (" is wrong", " is false", " or not", " or something else", " if n is even", " and its opposite", ", maybe not", " only sometimes"):
            yield rf"\text{{{words}{suffix}}}"


#: Edits of any answer in LaTeX.
EDITS: tuple[Edit, ...] = (
    _digit, _sign, _negated, _order, _brackets, _members, _relation, _variable, _function, _fraction, _power, _unit, _matrix, _opposite,
    changed_number,
)  # fmt: skip


def changed(latex: str) -> Iterator[tuple[str, str]]:
    """Yield the name of an edit, and `latex` with another meaning."""
    for edit in EDITS:
        for other in edit(latex):
            yield edit.__name__.strip("_"), other


_UNICODE = str.maketrans({"-": "−", "*": "·"})
_FULL_WIDTH = {ord(character): chr(ord(character) + 0xFEE0) for character in "0123456789()=<>+[]"}


def kept(latex: str) -> Iterator[str]:
    """Yield `latex` in other spellings of the same meaning."""
    yield from (f" {latex} ", f"${latex}$", rf"\({latex}\)", rf"{{{latex}}}", rf"\displaystyle {latex}", rf"{latex}.", rf"\;{latex}\;", rf"\quad {latex}", rf"{latex} \qquad")
    yield latex.replace(r"\frac", r"\dfrac")
    yield latex.replace(r"\frac", r"\tfrac")
    yield rf"\color{{blue}}{{{latex}}}"
    yield rf"\underline{{{latex}}}"
    yield rf"\boxed{{{latex}}}"
    yield rf"\ensuremath{{{latex}}}"
    yield rf"\large {latex}"
    yield rf"{latex}\tag{{3}}"
    yield rf"**{latex}**"
    if r"\left" not in latex and r"\text" not in latex:
        if re.search(r"[(\[]", latex) and re.search(r"[)\]]", latex) and latex.count("(") + latex.count("[") == latex.count(")") + latex.count("]") and r"\sqrt[" not in latex and r"\(" not in latex and r"\\[" not in latex and "]" not in latex[:1]:
            yield re.sub(r"([)\]])", r"\\right\1", re.sub(r"([(\[])", r"\\left\1", latex))
            yield re.sub(r"([)\]])", r"\\bigr\1", re.sub(r"([(\[])", r"\\bigl\1", latex))
    if r"\left" in latex:
        yield latex.replace(r"\left", "").replace(r"\right", "")
        yield latex.replace(r"\left", r"\Big").replace(r"\right", r"\Big")
    yield latex.replace("-", "−")
    if _INTEGER.match(latex) or _NUMBER.match(latex) or re.fullmatch(r"[\d()=<>+\[\], x-]+", latex):
        yield latex.translate(_FULL_WIDTH)
    if _INTEGER.match(latex):
        number = int(latex)
        yield f"{number:,}"
        yield f"{number:,}".replace(",", "{,}")
        yield f"{number:,}".replace(",", r"\,")
        yield f"{number}.0"
        yield rf"\frac{{{2 * number}}}{{2}}"
        yield f"x = {number}"
        yield rf"x \approx {number}"
        yield rf"\text{{{number}}}"
        yield rf"\mathbf{{{number}}}"
        yield f"({number})"
        yield rf"{number} \text{{ units}}"
        yield rf"\$ {number}" if number > 0 else f"{number}"
        yield rf"\text{{exactly }} {number}"
        yield rf"\text{{The answer is }} {number}"
        yield f"{number}" if number < 0 else f"+{number}"
    if match := _FRACTION.match(latex):
        yield f"{match[1]}{match[2]}/{match[3]}"
        yield rf"{match[1]}\frac {{{match[2]}}} {{{match[3]}}}"
        yield rf"\frac{{{match[1]}{match[2]}}}{{{match[3]}}}"
        yield rf"{match[1]}\cfrac{{{match[2]}}}{{{match[3]}}}"
        yield rf"{match[1]}{{{match[2]} \over {match[3]}}}"
        yield rf"{match[1]}{match[2]} \div {match[3]}"
    if r"\pi" in latex and r"\pi_" not in latex:
        yield latex.replace(r"\pi", "π")
    if r"\le" in latex and r"\left" not in latex:
        yield re.sub(r"\\leq?(?![a-z])", "≤", latex)
    if r"\infty" in latex:
        yield latex.replace(r"\infty", "∞")
    if r"\cup" in latex:
        yield latex.replace(r"\cup", "∪")
    if re.search(r"[a-zA-Z]\^2(?!\d)", latex):
        yield latex.replace("^2", "²")
        yield latex.replace("^2", "^{2}")
