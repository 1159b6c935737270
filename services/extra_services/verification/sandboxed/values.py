"""Plain data between a program and its tests, as one line of JSON.

Numbers, texts, bytes, lists, tuples, sets and dicts cross by value; a subclass crosses as its base, so that
no method of the program reaches the tests. Any other object stays where it is, and its number crosses.
"""

import json
from collections.abc import Callable
from typing import Any, BinaryIO

#: Longest line, in bytes.
MAX_LINE = 2**22

_SEQUENCES: dict[str, Any] = {"l": list, "t": tuple, "S": set, "F": frozenset}


class Unsendable(Exception):
    """A value that cannot cross."""


def encode(value: Any, number: Callable[[Any], int]) -> Any:
    """Return `value` in the types of JSON.

    Args:
        value: Any object.
        number: Returns the number of an object that stays here, or raises Unsendable.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        return ["i", format(int.__add__(value, 0), "x")]
    if isinstance(value, float):
        return ["f", float.hex(value)]
    if isinstance(value, complex):
        return ["c", float.hex(value.real), float.hex(value.imag)]
    if isinstance(value, str):
        return ["s", "".join(str.__iter__(value))]
    if isinstance(value, (bytes, bytearray)):
        return ["y", bytes(value).hex()]
    for name, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return [name, [encode(each, number) for each in kind.__iter__(value)]]
    if isinstance(value, dict):
        return ["d", [[encode(key, number), encode(each, number)] for key, each in dict.items(value)]]
    return ["o", number(value)]


def decode(content: Any, resolve: Callable[[Any], Any]) -> Any:
    """Return the value of what `encode` made; `resolve` returns the object with a number.

    Raises:
        ValueError, TypeError: It is nothing that `encode` makes.
    """
    if content is None or content is True or content is False:
        return content
    name, *parts = content
    if name == "i":
        return int(parts[0], 16)
    if name == "f":
        return float.fromhex(parts[0])
    if name == "c":
        return complex(float.fromhex(parts[0]), float.fromhex(parts[1]))
    if name == "s" and type(parts[0]) is str:
        return parts[0]
    if name == "y":
        return bytes.fromhex(parts[0])
    if name in _SEQUENCES:
        return _SEQUENCES[name](decode(each, resolve) for each in parts[0])
    if name == "d":
        return {decode(key, resolve): decode(each, resolve) for key, each in parts[0]}
    if name == "o":
        return resolve(parts[0])
    raise ValueError(f"{name!r} is no kind of value")


def write(pipe: BinaryIO, content: Any) -> None:
    """Write one line."""
    pipe.write(json.dumps(content).encode() + b"\n")
    pipe.flush()


def read(pipe: BinaryIO) -> Any:
    """Return the content of one line.

    Raises:
        EOFError: The other side has ended, or the line is too long.
        ValueError: It is no JSON.
    """
    line = pipe.readline(MAX_LINE)
    if not line.endswith(b"\n"):
        raise EOFError("the other side has ended")
    return json.loads(line)
