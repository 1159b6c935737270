r"""Chemical formulae, ions and reactions, in one spelling.

"\mathrm{CO}_2", "\ce{CO2}" and "CO_2" are the same but for fonts, braces and the mark of an index.
"""

import re

from extra_services.verification.symbols import any_of, word_list

_ELEMENTS = """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y
    Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re
    Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu
"""
_ELEMENT = "|".join(sorted(word_list(_ELEMENTS), key=len, reverse=True))
_ARROW = re.compile(rf"\\(?:{any_of('to rightarrow longrightarrow rightleftharpoons')})(?![a-zA-Z])|→")
_FONT = re.compile(r"\\(?:ce|mathrm|text|mathsf|rm)(?![a-zA-Z])|\\[,;:! ]")
#: Digits that only a brace or a space parts, and letters in an index ("F_{2N}"): no formula.
_APART = re.compile(r"\}\s*+\d|\d\s++\d|[_^]\s*+\{[^{}]*[a-zA-Z]")
_MASS_NUMBER = re.compile(r"(\^\{?\d+\}?)_")
_GROUP = re.compile(r"[{}_\s]")
_SPECIES = rf"(?:\^\d+(?:\.\d+)?|\d+)?(?:(?:{_ELEMENT}|[()])\d*+)++(?:\^\d?[+-])?"
_FORMULA = re.compile(rf"{_SPECIES}(?:(?:\+|->){_SPECIES})*+")
_LONGEST = 200


def formula(text: str) -> str | None:
    """Return a chemical formula or a reaction without fonts, braces and marks of indices, or None."""
    if len(text) > _LONGEST or not any(map(str.isupper, text)) or _APART.search(text):
        return None
    plain = _FONT.sub("", _ARROW.sub("->", text))
    plain = _GROUP.sub("", _MASS_NUMBER.sub(r"\1.", plain))
    return plain if _FORMULA.fullmatch(plain) else None
