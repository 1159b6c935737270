"""Which stop string a token completed: looked for in the text of the last tokens, token by token."""

from collections.abc import Callable, Sequence

#: Makes text of token ids.
Decode = Callable[[list[int]], str]


def completed(tokens: Sequence[int], strings: Sequence[str], decode: Decode) -> str | None:
    """The first of `strings` that the last of `tokens` completed."""
    # A token has at least one byte, so a string of so many bytes lies within as many tokens.
    reach = max(len(string.encode()) for string in strings)
    before, now = decode(list(tokens[-reach:-1])), decode(list(tokens[-reach:]))
    return next((string for string in strings if now.count(string) > before.count(string)), None)
