"""Chooses the chains of a text that are steps, and says what is odd about all of them.

An equation between plain numbers that adds no step is left out: a check, one whose result nothing uses, a
false one and what only it leads to. Then the steps may lead to the answer or not, and calculate in the units
of the problem or in others.
"""

import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from extra_services.novelty.arithmetic import calculated, false_equations
from extra_services.novelty.chains import (
    LONGEST_KEPT,
    OPERATORS,
    TOKEN,
    Chain,
    normal_notation,
    read_text,
    read_token,
    relation_of,
    rounded,
)
from extra_services.novelty.problem import ProblemStatement
from extra_services.runtime.memo import kept

#: Numbers of its own that a text needs whose steps lead to the answer, and one whose steps do not.
OWN_NUMBERS, OWN_NUMBERS_ASTRAY = 1, 2
#: A step may lead to the answer with numbers up to this that stand nowhere before it.
SMALL_NUMBER = 10
#: Numbers at the end of a text from which one step may lead to the answer, and the characters that hold them.
LAST_NUMBERS, LAST_CHARACTERS = 8, 400
#: From so many false equations on, if they are more than half of all, a solution is suspicious.
LEAST_FALSE = 3
#: Characters of the longest number that may be k times another, numbers of a text that are looked at, the
#: largest such k, and the least one that is hardly met by chance.
LONGEST_SCALED, MOST_SCALED, LARGEST_SCALE, CERTAIN_SCALE = 12, 200, 1e4, 2.5


def scale_of(chains: list[Chain], stated: ProblemStatement) -> float:
    """Return k if a text calculates with k times the problem's quantities ("in cents"), or 0.

    Then it holds k times numbers of the problem, and k times the answer; of some it may be k squared. Small
    factors, and shares, meet such numbers by chance: more of them are needed.
    """
    own = frozenset().union(*(chain.numbers for chain in chains)) - stated.numbers
    values = {float(one) for one in own if len(one) <= LONGEST_SCALED}
    givens = [value for one in stated.numbers - stated.answer if (value := float(one)) > 1]
    answers = [value for one in stated.answer if (value := float(one)) > 0]
    if not answers or len(values) > MOST_SCALED:
        return 0.0
    likeliest, most = 0.0, 0
    for k in sorted({one / answer for one in values for answer in answers}):
        for scale in (k, math.sqrt(k)):
            if scale == 1 or not any(round(one * scale, 4) in values for one in givens):
                continue
            met = sum(_scaled_in(one, scale, values) for one in (*givens, *answers))
            least = 4 if scale < 1 else 3 if scale < CERTAIN_SCALE else 2
            if met >= max(least, most + 1) and 1 / LARGEST_SCALE <= scale <= LARGEST_SCALE:
                likeliest, most = scale, met
    return likeliest or _last_factor(chains, stated)


def _last_factor(chains: list[Chain], stated: ProblemStatement) -> float:
    """Return k if a text divides something by k, or multiplies it by 1/k, to get the answer, or 0.

    It need not be a scale: then what the text is in other units resembles nothing. A product needs another
    sign, k times a number of the problem, since many a solution ends in one.
    """
    written = frozenset[str]().union(*(chain.numbers for chain in chains)) - stated.numbers
    for one, operator, other in _last_steps(chains, stated):
        if operator == "/" and float(other) > 1:
            return float(other)
        for factor in (one, other) if operator == "*" else ():
            given = stated.numbers - {factor} - stated.answer
            if float(factor) > 1 and any(
                rounded(float(number) / float(factor)) in written for number in given
            ):
                return 1 / float(factor)
    return 0.0


def shift_of(chains: list[Chain], stated: ProblemStatement) -> float:
    """Return c if a text calculates with quantities that c was added to ("Let b_n = a_n + 1"), or 0.

    Then c stands beside a variable, and is subtracted, or added if it is negative, to get the answer.
    """
    relations = frozenset[str]().union(*(chain.relations for chain in chains))
    for _, operator, other in _last_steps(chains, stated):
        if operator in "+-" and relations & {f"v+{other}", f"{other}+v", f"v-{other}"}:
            return float(other) if operator == "-" else -float(other)
    return 0.0


def _last_steps(chains: list[Chain], stated: ProblemStatement) -> Iterable[tuple[str, str, str]]:
    """Yield the operands and the operator of what results in the answer, sums in both orders."""
    answers = [float(one) for one in stated.answer]
    for relation in sorted(frozenset[str]().union(*(chain.relations for chain in chains))):
        if not (found := _OPERATION.fullmatch(relation)):
            continue
        one, operator, other = found.groups()
        value = calculated([one, operator, other])
        if value is not None and any(abs(value - answer) < 1e-6 for answer in answers):
            yield one, operator, other
            if operator == "+":
                yield other, operator, one


def shifted_steps(chains: list[Chain], c: float) -> tuple[frozenset[str], frozenset[str]]:
    """Return the numbers and relations of a text, with c taken from each number that is no smaller."""
    written = frozenset[str]().union(*(chain.numbers for chain in chains))
    numbers = frozenset(rounded(float(one) - c) if float(one) >= c else one for one in written)
    relations = frozenset[str]().union(*(chain.relations for chain in chains))
    return numbers, relations


def _scaled_in(value: float, k: float, values: set[float]) -> bool:
    return round(value * k, 4) in values or round(value * k * k, 4) in values


def rescaled_steps(chains: list[Chain], k: float) -> tuple[frozenset[str], frozenset[str]]:
    """Return the numbers and relations of a text that calculates with k times the problem's quantities.

    They are in the units of the problem: what is k times another number of the text, or a whole or half
    number, is that number. The factor itself and the conversions by it are left out. Of a product or quotient
    one side carries the unit.
    """
    written = frozenset[str]().union(*(chain.numbers for chain in chains))
    factor = rounded(k)
    all_relations = frozenset[str]().union(*(chain.relations for chain in chains))
    units = {one: _in_units(one, k, written) for one in written if one != factor}
    squared = _squared(all_relations, {one for one, unit in units.items() if unit != one}, written)
    units |= {one: rounded(float(one) / k**2) for one in squared}
    relations = set[str]()
    for relation in all_relations:
        if not (found := _RELATION.fullmatch(relation)):
            relations.add(relation)
            continue
        left, operator, right = found.groups()
        if factor in (left, right):
            continue
        one, other = units.get(left, left), units.get(right, right)
        if operator in "*/":
            one, other = (one, right) if one != left else (left, other)
        if operator != "=" or one != other:
            relations.add(relation_of(one, operator, other))
    return frozenset(units.values()), frozenset(relations)


def _squared(relations: frozenset[str], scaled: set[str], written: frozenset[str]) -> set[str]:
    """Return the numbers that are squares of scaled ones, or sums of such squares."""
    operations = [match.groups() for match in map(_OPERATION.fullmatch, relations) if match]
    found = {
        rounded(float(one) ** 2)
        for one, operator, other in operations
        if one in scaled and (operator, other) in (("^", "2"), ("*", one))
    }
    for _ in range(2):
        for one, operator, other in operations:
            if operator in "+-" and one in found and other in found:
                value = float(one) + float(other) if operator == "+" else float(one) - float(other)
                found.add(rounded(abs(value)))
    return found & written


def _in_units(one: str, k: float, written: frozenset[str]) -> str:
    value = float(one) / k
    plain = rounded(value)
    whole = abs(value) >= 1 and float(plain) * 2 == round(float(plain) * 2)
    return plain if whole or plain in written else one


def with_own_steps(chains: list[Chain], stated: ProblemStatement) -> set[int]:
    """Return the places of the sentences with a number or relation that is not the problem's."""
    return {
        chain.sentence
        for chain in chains
        if chain.numbers - stated.numbers or chain.relations - stated.relations
    }


_OPERATION = re.compile(r"([\d.]{1,12})([-+*/^])([\d.]{1,12})")
_RELATION = re.compile(r"(v|[\d.]{1,12})([-+*/=<>])(v|[\d.]{1,12})")


def without_false(
    chains: list[Chain], sentences: list[str], stated: ProblemStatement
) -> tuple[list[Chain], int]:
    """Return the chains without the false equations and those that only they lead to, and their number."""
    doubted = {chain.sentence for chain in chains if chain.doubtful}
    false = {place: _false(sentences[place]) for place in doubted}
    if not any(false.values()):
        return chains, 0
    known, wrong = set(stated.numbers), set[str]()
    kept: list[Chain] = []
    count = 0
    for chain in chains:
        untrue = bool(chain.doubtful) and any(one in chain.doubtful for one in false[chain.sentence])
        if untrue or (chain.results and (chain.numbers - chain.results) & wrong):
            count += untrue
            wrong |= (chain.results or {chain.doubtful.rpartition(" ")[2]}) - known
            continue
        known |= chain.numbers
        kept.append(chain)
    return kept, count


@kept(LONGEST_KEPT, most=256)
def _false(sentence: str) -> frozenset[str]:
    """Return the false equations of a sentence, as `Chain.doubtful` has them."""
    said = itertools.chain(*map(read_text, false_equations(sentence)))
    return frozenset(doubtful for *_, doubtful in said if doubtful)


def falsehood(false: int, honest: list[Chain]) -> str:
    """Return the reason to look at a text whose equations are mostly false, or ""."""
    if false < LEAST_FALSE:
        return ""
    others = sum(bool(chain.results) for chain in honest)
    if false <= others:
        return ""
    return f"false equations: {false}, beside {others} others"


def used_chains(chains: list[Chain], stated: ProblemStatement, boxed: frozenset[str]) -> list[Chain]:
    """Return the chains without the equations between plain numbers that add no step.

    An equation whose result stands somewhere before it, and is not the answer, is a check. One whose result
    nothing uses adds no step either. A result is used if another chain that counts starts from it or states
    it, or if it is the answer; or if this holds for its root, since texts take roots without an equation. It
    may not be given in the problem, and not be used by equations of the same numbers alone: 61 + 2 = 63 and
    63 - 2 = 61 lead nowhere.
    Without a known answer, the last chain's results are the answer.
    """
    answer = stated.answer | boxed or (chains[-1].results if chains else frozenset())
    given = stated.numbers - answer
    answer = answer | ({_square(one) for one in answer} - given)
    kept = list(_without_checks(chains, stated))
    while True:
        # The results that are used only if another chain that counts does so.
        open_results = frozenset().union(*(chain.results for chain in kept)) - answer - given
        # Number -> the equations that use it, by their numbers; what is no equation is one of its own.
        users: dict[str, set[object]] = {number: set() for number in open_results}
        for chain in kept if users else ():
            user = chain.numbers if chain.results else chain.sentence
            for number in chain.numbers - chain.results:
                if number in users:
                    users[number].add(user)
                # Not of an equation's or a given number: true equations meet such squares by chance.
                if not chain.results and number not in stated.numbers and _square(number) in users:
                    users[_square(number)].add(user)
        left = [
            chain
            for chain in kept
            if not chain.results
            or any(one in answer or users.get(one, set()) - {chain.numbers} for one in chain.results)
        ]
        if len(left) == len(kept):
            return kept
        kept = left


def astray(chains: list[Chain], end: str, stated: ProblemStatement) -> int:
    """Return how many signs there are that a text, which ends with `end`, is about something else: 0 to 2.

    One is that its steps do not lead to the answer, the other that hardly a number written in it is its own.
    """
    lost = not _arrives(chains, end, stated)
    own = frozenset().union(*(chain.numbers - chain.quotients for chain in chains)) - stated.numbers
    return lost + (len(own) < (OWN_NUMBERS_ASTRAY if lost else OWN_NUMBERS))


def _arrives(chains: list[Chain], end: str, stated: ProblemStatement) -> bool:
    """Return whether a chain in the last half leads to the answer, or the text ends one step from it.

    Many texts leave the last step to the reader: "42 minus 23 leaves us with", and the box. That the answer
    is said leads nowhere.
    """
    answer = stated.answer
    if not answer:
        return True
    known = set(stated.numbers - answer)
    for place, chain in enumerate(chains):
        if place >= len(chains) // 2 and _reaches(chain, known, answer):
            return True
        known |= chain.numbers
    wanted = [float(one) for one in answer]
    # Numbers that stand beside the answer may have been made for it. A fraction's are used one by one.
    beside = answer if len(answer) == 1 else frozenset[str]()
    numbers, expression = _last_numbers(normal_notation(end)[-LAST_CHARACTERS:], beside)
    return any(
        abs(found - one) <= 1e-4 * max(1.0, abs(one))
        for found in _next_values(numbers[-LAST_NUMBERS:], expression)
        for one in wanted
    )


def _reaches(chain: Chain, known: set[str], answer: frozenset[str]) -> bool:
    """Return whether a chain leads to the answer, from numbers that are known or small, or from two such."""
    if answer.isdisjoint(chain.numbers):
        return False
    operands = chain.numbers - answer
    start = {one for one in operands if one in known or float(one) <= SMALL_NUMBER}
    return len(start) > 1 or (len(start) > 0 and operands - chain.results <= start)


def _last_numbers(text: str, beside: frozenset[str]) -> tuple[list[float], list[str]]:
    """Return the numbers of a text in normal notation, and operands and operators of its last expression.

    Chains with a number of `beside` are left out of the numbers.
    """
    chains: list[list[str]] = [[]]
    expression: list[str] = []
    sign = ""
    for token in TOKEN.findall(text):
        operand, operator = read_token(token)
        if operator:
            sign = operator
            continue
        if not (operand and sign):
            chains.append([])
        if operand in ("", "v"):
            expression = []
        else:
            joins = bool(expression) and sign in OPERATORS - set("=<>")
            expression = [*expression, sign, operand] if joins else [operand]
            chains[-1].append(operand)
        sign = ""
    return [float(one) for chain in chains if beside.isdisjoint(chain) for one in chain], expression


def _next_values(numbers: list[float], expression: list[str]) -> Iterable[float]:
    """Yield what one more step could make of the last numbers."""
    if len(expression) > 1 and (value := calculated(expression)) is not None:
        yield value
    for one in numbers:
        yield from (one * one, math.sqrt(one), 2 * one, one / 2)
    for one, other in itertools.combinations(numbers, 2):
        yield from (one + other, one - other, other - one, one * other)
        if one and other:
            yield from (one / other, other / one)
    for count in range(3, len(numbers) + 1):
        yield sum(numbers[-count:])
        yield math.prod(numbers[-count:])


def _without_checks(chains: list[Chain], stated: ProblemStatement) -> Iterable[Chain]:
    """Yield the chains without the checks; what takes a known number apart results in the new numbers.

    In Euclid's "252 = 1 * 198 + 54" the result is 54.
    """
    given = stated.numbers - stated.answer
    seen: set[str] = set()
    for chain in chains:
        if len(chain.results) == 1 and chain.results - given <= seen and not chain.results & stated.answer:
            made = chain.numbers - given - seen
            if made and chain.apart:
                chain = replace(chain, results=frozenset(made))
            elif chain.results <= seen:
                continue
        seen |= chain.numbers
        yield chain


@lru_cache(maxsize=65536)
def _square(digits: str) -> str:
    value = float(digits)
    return rounded(value**2) if value < 1e6 else digits
