"""Find the stop string that a token completes, in the text of the last tokens."""

from collections.abc import Callable, Sequence

#: Converts token ids to text.
Decode = Callable[[list[int]], str]


def completed(tokens: Sequence[int], strings: Sequence[str], decode: Decode) -> str | None:
    """Return the first of `strings` that the last of `tokens` completes, or None."""
    # A token has at least one byte, so a string of n bytes lies within n tokens.
    reach = max(len(string.encode()) for string in strings)
    before, now = decode(list(tokens[-reach:-1])), decode(list(tokens[-reach:]))
    return next((string for string in strings if now.count(string) > before.count(string)), None)
