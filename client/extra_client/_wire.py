"""Numbers and enums on the wire: `extra_rl.wire`, raising the client's errors in place of ValueError."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from extra_client.errors import InternalError, InvalidArgumentError
from extra_rl import groups, wire
from extra_rl.wire import float_bytes, floats, ints

__all__ = [
    "decision",
    "decisions",
    "float_bytes",
    "floats",
    "int_bytes",
    "ints",
    "member",
    "number",
    "optional_member",
]

Member = TypeVar("Member", bound=StrEnum)


def int_bytes(values: ArrayLike, field: str) -> bytes:
    """Encode integers [length] as int32.

    Raises:
        InvalidArgumentError: `values`, the request's `field`, are no flat list of int32.
    """
    try:
        return wire.int_bytes(values)
    except ValueError as error:
        raise InvalidArgumentError(f"{field}: {error}", field=field) from error


def decision(value: Any, field: str) -> bool | None:
    """Return whether a rollout is correct; None: undecided.

    Raises:
        InvalidArgumentError: `value`, the request's `field`, is no bool of Python, numpy or torch, nor None.
    """
    try:
        return groups.decision(value, field)
    except ValueError as error:
        raise InvalidArgumentError(str(error), field=field) from error


def decisions(values: Iterable[Any], field: str) -> list[bool | None]:
    """As `decision`, for each of `values`; the error names its index."""
    if isinstance(values, np.ndarray) and values.dtype == np.bool_ and values.ndim == 1:
        return cast(list[bool | None], values.tolist())
    return [
        value if type(value) is bool else decision(value, f"{field}[{index}]")
        for index, value in enumerate(values)
    ]


# Any: the stubs have a type of their own for the numbers of each enum.
def number(kind: type[Member], value: Member | str | None, field: str) -> Any:
    """Return the number in the protos of `value`, a member of `kind` or its text; None for None.

    Raises:
        InvalidArgumentError: `value`, the request's `field`, is no member of `kind`.
    """
    if value is None:
        return None
    try:
        return wire.number(kind(value))
    except ValueError as error:
        choices = ", ".join(kind)
        raise InvalidArgumentError(f"{field}: {value!r} is none of {choices}", field=field) from error


def member(kind: type[Member], value: int) -> Member:
    """Return the member of `kind` with the number `value` in the protos.

    Raises:
        InternalError: The server left it unspecified, or sent a number that this client does not know.
    """
    found = optional_member(kind, value)
    if found is None:
        raise InternalError(f"the server left {kind.__name__} unspecified")
    return found


def optional_member(kind: type[Member], value: int) -> Member | None:
    """As `member`, but return None for the unspecified value 0."""
    try:
        return wire.member(kind, value)
    except ValueError as error:
        raise InternalError(
            f"the server sent {kind.__name__} {value}, unknown to this client: upgrade extra-rl here"
        ) from error
