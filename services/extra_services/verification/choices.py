r"""Letters of multiple-choice questions: those that an answer consists of, and those that a response states.

A response states a choice with a phrase ("the answer is C", "I would pick B", "应选A"); the last one counts.
Without a phrase, its last letter in parentheses, in bold or before a full stop counts. A letter that is
denied ("it is not B", "A fails") is no choice. Several letters are several choices, and equal no single
one.
"""

import re

from extra_services.verification.normalization import unwrapped, without_text_commands
from extra_services.verification.symbols import any_of, plain_punctuation
from extra_services.verification.wrappers import unwrap_commands

_LABELLED = re.compile(
    r"(?:option|choice|选项)?\s*[(\[]?([a-z])(?:[)\]]|[.:](?=\s|\Z)|\Z)(.*)", re.IGNORECASE | re.DOTALL
)
_SEVERAL = re.compile(r"\(?([A-J])\)?(?:(?:[\s,;/&和或与]|and|or)*\(?[A-J]\)?)+\Z")
_JOINED = re.compile(r"\A[A-H]{2,8}\Z")

#: Letters in a sentence: in parentheses, or capital and no part of a word. "I" and small letters need an end.
_ONE = r"""(?:
    \([A-Ja-j]\)
    | [A-HJ] (?![a-zA-Z'])
    | I (?=[.)]|\s*\Z)
    | [b-hj] (?=[.),;:]|\s*\Z)
)"""
_JOINT = r"(?: , \s* (?:or|and)\b | , | / | & | \bor\b | \band\b | 或 | 和 | 、 )"
_LETTERS = rf"(?P<letters> {_ONE} (?: \s* {_JOINT} \s* {_ONE} )* | [A-H]{{2,6}} (?![a-zA-Z]) )"

#: Words that announce a choice, and those that may stand between them and its letter.
_NOUNS = "answers? options? choices?"
_VERBS = r"choose pick select chose picked selected go\s+with going\s+with leaves? leaving"
_CHINESE_CUES = "答案 应选 應選 应该选 應該選 故选 所以选 因此选 选择 選擇 选 選"
_BETWEEN_WORDS = """
    is are be the option choice letter answer probably clearly therefore thus then I think believe say it it's
    that would should must most likely definitely indeed only just us with
"""
_CHINESE_BETWEEN = "是 為 为 應 应 該 该 选 選 項 项"
_FEW_SPACES = r"\s{0,20}"

_CUE = rf"""
    \b (?:{any_of(_NOUNS)}) \b {_FEW_SPACES} (?: is | are | : | = | would\s+be | must\s+be | should\s+be )
    | \b (?:{any_of(_VERBS)}) \b
    | (?<!不) (?:{any_of(_CHINESE_CUES)})
"""
_BETWEEN = rf"""(?:
    [\s:=*_"'$] | \\boxed\s*\{{ | \\text(?:bf)?\s*\{{ | \{{
    | \b (?:{any_of(_BETWEEN_WORDS)}) \b
    | [{any_of(_CHINESE_BETWEEN).replace("|", "")}]
){{0,40}}?"""
_STATED = re.compile(rf"(?i: (?:{_CUE}) {_BETWEEN} ) {_LETTERS}", re.VERBOSE)
_MATCHES = re.compile(
    rf"""
    (?i: \b (?:which|that|this) \s+ (?:is|matches|corresponds\s+to|means|gives) \s+ (?:the\s+)?
        (?: (?:option|choice|answer) \s* ){{1,2}} ) {_LETTERS}
    """,
    re.VERBOSE,
)
_IS_CORRECT = re.compile(
    rf"""
    \b (?:[oO]ption|[cC]hoice|[sS]tatement)? {_FEW_SPACES} {_LETTERS} {_FEW_SPACES}
    (?: (?:is|are) \s+ (?:the\s+)? (?:correct|right|best|true|answer)
      | (?:remains?|is\s+left)\b | 正确 | 正確 )
    """,
    re.VERBOSE,
)
#: Without a cue: a letter in parentheses, in bold, or at the end of a clause.
_LONE = re.compile(
    r"(?<![\w\\]) (?: \(([A-J])\) | \*\*\(?([A-J])\)?\*\* | ([A-HJ]) (?=[.,:)]|\s*\Z) )", re.VERBOSE
)
_LETTER_JOINED = re.compile(rf"(?<![\w\\]) \(? ([A-J]) \)? \s* {_JOINT} \s* \(? (?=[A-J](?!\w))", re.VERBOSE)
#: A line of the list of options ("A. 3", "(B) 4"); several of these are the question again.
_OPTION = re.compile(r"^[ \t>*-]{0,8}\(?([A-J])[.):](?:\*\*)?[ \t]+\S", re.MULTILINE)

#: The options of the question on one line ("A) 3 B) 4 C) 5").
_OPTIONS_INLINE = re.compile(
    r"""
    (?<![\w\\(]) \(?A[).:] [ ]*+ [^\s,] [^\n]{0,200}? [ ;,] \(?B[).:] [ ]*+ [^\s,] [^\n]{0,200}?
    [ ;,] \(?C[).:] [ ]*+ [^\s,] [^\n]*+
    """,
    re.VERBOSE,
)
_DENYING = r"""
    not except neither nor than instead\s+of rather\s+than considered
    eliminat(?:e|es|ed|ing) reject(?:s|ed|ing)? rul(?:e|es|ed|ing)\s+out
    exclud(?:e|es|ed|ing)
"""
_CHINESE_DENYING = "不是 不选 不選 不能选 排除 并非"
_DENIED_BEFORE = re.compile(
    rf"""
    (?: (?: n't | \b (?:{any_of(_DENYING)}) ) \s+ | (?:{any_of(_CHINESE_DENYING)}) \s* )
    (?: (?:options?|choices?|be|the|answer|is|选项|選項) \s* )*
    (?: {_ONE} \s* {_JOINT} \s* )*
    ["'(*]* \Z
    """,
    re.IGNORECASE | re.VERBOSE,
)
_WRONG = r"""
    wrong incorrect false not\b(?!\s(?:option\s|choice\s)?[("']?[A-J]\b) out\b fails?\b impossible eliminated
    a\s+(?:common\s+)?distractor
"""
_CHINESE_WRONG = "错 錯 不对 不對 不正确 不正確 不成立 不符合 都不"
_DENIED_BEHIND = re.compile(
    rf"""
    [)"'*]* ,? \s*+
    (?: (?: (?:is|are|was|but\s+it|which|it) \s*+ )? (?:{any_of(_WRONG)})
      | (?:选项|項|项)? \s*+ (?:{any_of(_CHINESE_WRONG)}) )
    """,
    re.VERBOSE,
)
#: A second letter behind the first: "B, possibly C", "B? Or C?", "B (or C)", "B. Wait, C".
_OTHER_BEHIND = re.compile(
    rf"""
    [\s)"'*]* (?: [,.;?!(\[]{{1,2}} \s* )?
    (?: \b(?:or|possibly|maybe|perhaps|wait|actually|alternatively|but|vs)\b [,.]? \s+ | [+&\[?] \s* ){{1,3}}
    {_LETTERS} (?! \s+ (?:is|was|are) \s+ (?:wrong|incorrect|false|not)\b)
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: What makes a letter no plain choice: denied, one of several, in a formula.
_NO_PLAIN_CHOICE = re.compile(
    r"""
    \b (?: not | but | except | excluding | wrong | false | incorrect | none | neither | or | and | possibly
      | maybe | perhaps | vs ) \b
    | [+&?^=\[] | (?<=[A-J])_ | [a-zA-Z]\( | \\\{
    | \\(?:neg|lnot|overline|bar|[dt]?frac|cup|cap|setminus)(?![a-zA-Z])
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: Behind a letter: "(B) is wrong", "(B) or 12".
_TAKEN_BACK = re.compile(r"\s*(?:(?:is|are)\s+(?:wrong|false|incorrect|not)\b|or\b|&)", re.IGNORECASE)
_LETTER = re.compile(r"(?<![a-zA-Z\\])[A-J](?![a-zA-Z])")
_ARTICLE = re.compile(r"A\s+(?!because|since|as\b|for\b|and\b|or\b|with|which|by\b|is\b|\()[a-z]")
_TAIL = 3000
#: Longer answers are sentences.
_LONGEST = 60


def choices(text: str) -> frozenset[str] | None:
    """Return the letters that an answer consists of ("(B)", "B. 12", "A, C", "ABD"), or None."""
    plain = _plain(text)
    if _JOINED.match(plain) and list(plain) == sorted(set(plain)):
        return frozenset(plain)
    if _SEVERAL.match(plain) and not plain.isalpha():
        return frozenset(re.findall(r"(?<![a-zA-Z])[A-J](?![a-zA-Z])", plain))
    match = _LABELLED.match(plain)
    if not match or _TAKEN_BACK.match(match[2]):
        return None
    more = re.findall(r"(?<![\w\\])\(([A-J])\)|(?<![\w\\])([A-J])(?=[.:]\s)", match[2])
    return frozenset([match[1].upper(), *("".join(pair) for pair in more)])


def qualified(text: str) -> bool:
    r"""Return whether an answer names a letter, but does not choose it ("not (B)", "B + D", "B^2")."""
    return len(text) < _LONGEST and bool(_LETTER.search(text)) and bool(_NO_PLAIN_CHOICE.search(text))


def content(text: str) -> str | None:
    r"""Return what stands behind the letter in "C. 1-i", or None."""
    match = _LABELLED.match(_plain(text))
    return match[2].strip() or None if match else None


def stated(response: str) -> frozenset[str] | None:
    """Return the choice that a response states last, or None."""
    tail = _without_options(plain_punctuation(response[-_TAIL:]))
    found: dict[int, frozenset[str]] = {}
    for pattern in (_STATED, _IS_CORRECT, _MATCHES):
        for match in pattern.finditer(tail):
            if not _denied(tail, match.start("letters"), match.end("letters")) and not _ARTICLE.match(
                tail, match.start("letters")
            ):
                other = _OTHER_BEHIND.match(tail, match.end("letters"))
                more = _set_of(other["letters"]) if other else frozenset()
                found[match.start("letters")] = _set_of(match["letters"]) | more
    if found:
        return found[max(found)]
    lone = [match for match in _LONE.finditer(tail) if not _denied(tail, match.start(), match.end())]
    if not lone:
        return None
    # Letters between the same two full stops are alternatives.
    start = max(tail.rfind(end, 0, lone[-1].start()) for end in (". ", "\n", "? ", "! "))
    letters = [next(filter(None, match.groups())) for match in lone if match.start() > start]
    return frozenset(letters + _LETTER_JOINED.findall(tail, start + 1))


def _without_options(text: str) -> str:
    """Return `text` without the options of the question, one a line, if it repeats them."""
    text = _OPTIONS_INLINE.sub(lambda line: " " * len(line.group()), text)
    lines = list(_OPTION.finditer(text))
    if len({line[1] for line in lines}) < 2:
        return text
    return _OPTION.sub(lambda line: " " * len(line.group()), text)


def _denied(text: str, start: int, end: int) -> bool:
    return bool(_DENIED_BEFORE.search(text, max(0, start - 60), start) or _DENIED_BEHIND.match(text, end))


def _set_of(letters: str) -> frozenset[str]:
    if letters.isalpha() and len(letters) > 1 and letters.isupper():
        return frozenset(letters)
    return frozenset(letter.upper() for letter in re.findall(r"(?<![a-zA-Z])[A-Ja-j](?![a-zA-Z])", letters))


def _plain(text: str) -> str:
    text = unwrap_commands(plain_punctuation(text))
    return " ".join(unwrapped(without_text_commands(text)).split()).strip()
