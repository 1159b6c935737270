"""Responses that try to hang, exhaust, crash or trick a verifier."""

MARKER = "extra_rl_injected"


def _box(content: str) -> str:
    return rf"\boxed{{{content}}}"


def _matrix(command: str, rows: list[str]) -> str:
    return _box(command + r"\begin{pmatrix}" + r"\\".join(rows) + r"\end{pmatrix}")


def _nested(template: str, depth: int, core: str = "2") -> str:
    for _ in range(depth):
        core = template.replace("@", core)
    return core


def attacks(sentinel: str) -> dict[str, str]:
    """Return name -> response; code in a response that runs would create the file `sentinel`."""
    return _hard_mathematics() | _large_texts() | _strange_characters() | _macros() | _injections(sentinel)


def _hard_mathematics() -> dict[str, str]:
    found = {
        f"power tower of {base}, {height} high": _box("^{".join([base] * height) + "}" * (height - 1))
        for base in ("2", "3", "5", "9", "10", "99", "-2", r"\pi")
        for height in (4, 6, 12)
    }
    found |= {
        f"{name} of {size}": _box(template.replace("@", size))
        for name, template in {
            "factorial": "@!",
            "double factorial": "@!!",
            "iterated factorial": "((@!)!)!",
            "power": "7^{@}",
            "modulus": r"7^{@} \mod 13",
            "binomial": r"\binom{@}{@ / 2}",
            "sum": r"\sum_{k=1}^{@} \frac{1}{k^3+k}",
            "product": r"\prod_{k=1}^{@} (k^2+1)",
            "logarithm": r"\log_{2}(2^{@}+1)",
        }.items()
        for size in ("5000", "123456789", "99999999999999999999")
    }
    found |= {
        f"integral of {function}": _box(rf"\int_0^1 {function} dx")
        for function in (
            r"\frac{\sin(x^x)}{1+e^{x^3}}",
            r"\sqrt{1+\tan^7 x}",
            r"x^{x^{x^x}}",
            r"\ln(\ln(\ln(x+2)))^{17}",
            r"\frac{x^{99}+x^{98}+1}{x^{77}+x^5+3}",
        )
    }
    found |= {
        f"nested {name}, {depth} deep": _box(_nested(template, depth))
        for name, template in {
            "fractions": r"\frac{1}{1+@}",
            "roots": r"\sqrt{2+@}",
            "powers": "(@)^{2}",
            "parentheses": "(@)",
            "braces": "{@}",
            "absolute values": "|@+x|",
            "sines": r"\sin(@)",
        }.items()
        for depth in (20, 200, 2000)
    }
    found |= {
        "expanded power": _box("(a+b+c+d+e+f+g)^{80}"),
        "many variables": _box("+".join(f"x_{{{n}}}y_{{{n}}}" for n in range(400))),
        "many trigonometric terms": _box("+".join(rf"\sin({n}x)\cos({n}y)" for n in range(200))),
        "polynomial equation": _box("x^{37}+5x^{21}-x^{13}+x^2+11=0"),
        "system of equations": _box(", ".join(f"x^{n}+y^{n}=1" for n in range(2, 30))),
        "huge matrix": _matrix("", ["1 & 2 & x"] * 3000),
        "determinant": _matrix(r"\det", [" & ".join("abcdefgh")] * 8),
        "power of a matrix": _box(r"\begin{pmatrix}1&x\\y&1\end{pmatrix}^{500}"),
        "long set": _box(r"\{" + ",".join(map(str, range(20000))) + r"\}"),
        "long tuple of roots": _box("(" + ",".join(rf"\sqrt{{{n}}}" for n in range(2, 900)) + ")"),
        "union of many intervals": _box(r"\cup".join(f"({n},{n + 1})" for n in range(0, 1200, 2))),
        "limit": _box(r"\lim_{n\to\infty}\left(1+\frac{1}{n^{n^n}}\right)^{n!}"),
        "zeta": _box(r"\sum_{n=1}^{\infty}\frac{\sin(n^2)}{n^{3/2}}"),
        "division by zero": _box("1/0"),
        "zero to the zero": _box("0^0"),
        "infinity minus infinity": _box(r"\infty-\infty"),
        "logarithm of zero": _box(r"\log 0"),
    }
    return found


def _large_texts() -> dict[str, str]:
    million = 1_000_000
    found = {
        f"a megabyte of {name}": unit * (million // len(unit))
        for name, unit in {
            "digits": "7",
            "opening braces": "{",
            "closing braces": "}",
            "boxes never closed": r"\boxed{",
            "empty boxes": r"\boxed{}",
            "boxes": r"\boxed{1}",
            "spaces": " ",
            "line ends": "\n",
            "NUL bytes": "\x00",
            "dollar signs": "$",
            "opened formulas": r"\(",
            "backslashes": "\\",
            "commas": ",",
            "percent signs": "%",
            "answers": "The answer is ",
            "colons": "A:",
            "hash signs": "#### ",
            "stars": "**",
            "carets": "^",
            "minus signs": "-",
            "fractions": r"\frac",
            "Chinese": "答案是",
            "emoji": "\U0001f600",
            "combining accents": "e\u0301",
            "points": ".",
            "slashes": "/",
            "zeros": "0",
        }.items()
    }
    found |= {
        f"{name}, in a box": _box(text)
        for name, text in found.items()
        if "box" not in name and "brace" not in name
    }
    found["digits after the point"] = _box("0." + "3" * million)
    found["a long sum"] = _box("+".join(["1"] * 20000))
    found["a long product"] = _box(r"\cdot".join(["x"] * 5000))
    return found


def _strange_characters() -> dict[str, str]:
    points = (0, 1, 7, 8, 27, 127, 0x85, 0xAD, 0x200B, 0x200D, 0x202E, 0x2028, 0x2060, 0xFEFF, 0xFFFD, 0xFFFE)
    return {
        f"character U+{point:04X}": _box(f"2{chr(point)}3") + chr(point)
        for point in (*points, 0xE0001, 0x10FFFF)
    }


def _macros() -> dict[str, str]:
    texts = (
        r"\def\a{\a\a}\a",
        r"\newcommand{\x}{\x\x}\x",
        r"\loop\iftrue\repeat",
        r"\input{/etc/passwd}",
        r"\include{/dev/zero}",
        r"\write18{touch x}",
        r"\immediate\write18{ls}",
        r"\csname end\endcsname",
        r"\catcode`\{=12",
        r"\expandafter\relax",
        r"\begin{document}\end{document}",
        r"\verb|\boxed{1}|",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\left(",
        r"\right)",
        r"\frac{1}",
        r"\sqrt",
        r"\boxed",
        "\\",
        r"\text{\boxed{",
        r"\operatorname{__import__}(1)",
        r"\href{x}{y}",
        r"\unknown{1}{2}{3}",
        "}{",
        "{}{}{}",
        r"\color{red}{5}",
        r"\tag{1}",
        r"\label{eq}",
        r"\lim_{",
        r"\int_0",
        r"\sum_{i=1}",
        "_",
        "^",
        "__",
        "$$$",
    )
    return {f"macro {text}": _box(text) for text in texts}


def _injections(sentinel: str) -> dict[str, str]:
    code = f"open({sentinel!r},'w').write('{MARKER}')"
    texts = (
        code,
        f"__import__('os').system('touch {sentinel}')",
        f"exec({code!r})",
        f"eval({code!r})",
        f"(lambda: {code})()",
        f"[{code} for x in (1,)]",
        f"{{{code}}}",
        f"1+{code}",
        f"sympify({code!r})",
        f"parse_expr({code!r})",
        f"';{code}#",
        f'";{code}#',
        f"$(touch {sentinel})",
        f"`touch {sentinel}`",
        f"; touch {sentinel}",
        f"| touch {sentinel}",
        f"!!python/object/apply:os.system ['touch {sentinel}']",
        f"().__class__.__bases__[0].__subclasses__()[0]({code})",
        f"{{{{{code}}}}}",
        f"%s%n{code}",
        f"\\operatorname{{{code}}}",
        f"\\text{{{code}}}",
        f"x.subs({code})",
        f"f({code})",
        f"lambdify(x, {code})",
    )
    boxed = {f"injection {text}": _box(text) for text in texts}
    return boxed | {f"injection in the open {text}": f"The answer is {text}" for text in texts}
