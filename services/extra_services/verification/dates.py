r"""Clock times and dates as answers.

"2:15 PM" and "14:15" are one time, "2:15 AM" is another. Without AM or PM a time is what it says: "2:15"
matches "2:15 PM", since the question named the half of the day, and "14:15" only itself. "March 3" and
"3rd of March" are one date; a year counts if both have one. "Dec. 1999" is a month of a year.
"""

import re

_MONTHS = (
    ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december"]
)  # fmt: skip
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_MONTH = "|".join([*_MONTHS, *(f"{month[:3]}\\.?" for month in _MONTHS), "sept\\.?"])
_CLOCK = re.compile(
    r"(?:at\s+)?(\d{1,2})(?:\s*:\s*(\d{2})(?:\s*:\s*(\d{2}))?)?\s*(?:([ap])\.?\s?m\.?)?(?:\s*o'clock)?\Z",
    re.IGNORECASE,
)
_NOON = re.compile(r"(?:at\s+)?(?:(?:12|twelve)(?::00)?\s+)?(noon|midnight)\Z")
_CHINESE_CLOCK = re.compile(r"(上午|下午|晚上|早上)?\s*(\d{1,2})\s*[时点點]\s*(?:(\d{1,2})\s*分?)?\Z")
_DATE = re.compile(
    rf"(?:on\s+)?(?:(?P<month>{_MONTH})\s*(?P<day>\d{{1,2}})|(?P<day2>\d{{1,2}})\s*(?:of\s+)?(?P<month2>{_MONTH}))"
    r"(?:\s*,?\s*(?P<year>\d{4}))?\Z",
    re.IGNORECASE,
)
_ISO_DATE = re.compile(
    r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})\Z|(?:(\d{4})\s*年\s*)?(\d{1,2})\s*月\s*(\d{1,2})\s*[日号]\Z"
)
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf|textrm)\s*\{([^{}]*)\}")
_ORDINAL = re.compile(r"(?<=\d)\s*(?:\^\s*\{?)?\s*(?:st|nd|rd|th)\b\}?")
_WEEKDAY = re.compile(r"(?:mon|tues|wednes|thurs|fri|satur|sun)day\s*,?\s*", re.IGNORECASE)
_MONTH_OF_YEAR = re.compile(
    rf"(?:in\s+)?(?P<month>{_MONTH})\s*,?\s*(?:of\s+)?(?P<year>\d{{4}})\Z", re.IGNORECASE
)
_SPACING = re.compile(r"[$~]|\\[,;:! ]")
_HALF_DAY = 12 * 3600


def clock(text: str) -> tuple[int, bool] | None:
    """Return the seconds since midnight and whether the half of the day is known, or None."""
    plain = _plain(text)
    lower = plain.lower()
    if match := _NOON.match(lower):
        return (_HALF_DAY if match[1] == "noon" else 0), True
    if match := _CHINESE_CLOCK.match(plain):
        hour, minute, second, half = (
            int(match[2]),
            int(match[3] or 0),
            0,
            "上早下晚".find((match[1] or " ")[0]) // 2,
        )
        marked = match[1] is not None
        afternoon = marked and half == 1
    else:
        match = _CLOCK.match(plain)
        if not match or not (match[2] or match[4] or "clock" in lower):
            return None
        hour, minute, second = int(match[1]), int(match[2] or 0), int(match[3] or 0)
        marked, afternoon = match[4] is not None, (match[4] or "").lower() == "p"
    if hour > (12 if marked else 24) or minute > 59 or second > 59:
        return None
    if marked:
        hour = hour % 12 + (12 if afternoon else 0)
    return (hour % 24 * 60 + minute) * 60 + second, marked or hour > 12 or hour == 0


def same_time(left: tuple[int, bool], right: tuple[int, bool]) -> bool:
    """Compare two results of `clock`."""
    if left[0] == right[0]:
        return True
    marked = left[1] and right[1]
    both_open = not left[1] and not right[1]
    return not marked and not both_open and left[0] % _HALF_DAY == right[0] % _HALF_DAY


def date(text: str) -> tuple[int | None, int, int] | None:
    """Return (year or None, month, day or 0 for the whole month), or None if `text` is no date."""
    plain = _WEEKDAY.sub("", _ORDINAL.sub("", _plain(text)))
    if match := _ISO_DATE.match(plain):
        year, month, day = (match[1], match[2], match[3]) if match[1] else (match[4], match[5], match[6])
        return (int(year) if year else None), int(month), int(day)
    if match := _MONTH_OF_YEAR.match(plain):
        return int(match["year"]), _number(match["month"]), 0
    if not (match := _DATE.match(plain.replace("the ", ""))):
        return None
    year = int(match["year"]) if match["year"] else None
    return year, _number(match["month"] or match["month2"]), int(match["day"] or match["day2"])


def full_name(text: str) -> str | None:
    """Return the month or day of the week that `text` names or abbreviates ("Sept."), or None."""
    name = text.strip().rstrip(".")
    if not (3 <= len(name) <= 9 and name[0].isupper() and name.isalpha()):
        return None
    lower = name.lower()
    return next((full for full in (*_MONTHS, *_DAYS) if full == lower or lower in _short(full)), None)


def _short(full: str) -> tuple[str, ...]:
    lengths = (3, 4, 5) if full in ("tuesday", "thursday", "september") else (3,)
    return tuple(full[:length] for length in lengths)


def _number(month: str) -> int:
    return next(index for index, name in enumerate(_MONTHS, 1) if name.startswith(month.lower()[:3]))


def same_date(left: tuple[int | None, int, int], right: tuple[int | None, int, int]) -> bool:
    """Compare two results of `date`."""
    years = {left[0], right[0]} - {None}
    return left[1:] == right[1:] and len(years) <= 1


def _plain(text: str) -> str:
    text = _SPACING.sub(" ", _TEXT.sub(r" \1 ", text))
    return re.sub(r"\s*(?::|\{:\}|\\colon(?![a-zA-Z]))\s*", ":", " ".join(text.split())).strip(" .")
