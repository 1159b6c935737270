"""Numbers and enums on the wire: numpy arrays to little-endian bytes and back, enum members to numbers.

An enum of the API, `FinishReason` with `FINISH_REASON_STOP` for example, is `FinishReason.STOP` with the
value "stop" in Python; the names follow from each other, so there is no table to keep.
"""

import re
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from extra_client.errors import InternalError, InvalidArgumentError

Member = TypeVar("Member", bound=StrEnum)


def ints(data: bytes) -> NDArray[np.int32]:
    """int32 [len(data) / 4], writable."""
    return np.frombuffer(data, "<i4").astype(np.int32)


def floats(data: bytes) -> NDArray[np.float32]:
    """float32 [len(data) / 4], writable."""
    return np.frombuffer(data, "<f4").astype(np.float32)


def int_bytes(values: ArrayLike, field: str) -> bytes:
    """The bytes of integers [length]; InvalidArgumentError if they are no flat list of int32."""
    array = np.asarray(values)
    if array.size == 0:
        return b""
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidArgumentError(
            f"{field}: must be a flat list of integers, not {array.dtype} of shape {array.shape}", field=field
        )
    if array.min() < -(2**31) or array.max() >= 2**31:
        raise InvalidArgumentError(f"{field}: has numbers outside the range of int32", field=field)
    return array.astype("<i4").tobytes()


def float_bytes(values: ArrayLike) -> bytes:
    """The bytes of reals of any shape, row-major, as float32."""
    return np.ascontiguousarray(values, "<f4").tobytes()


def number(enum: Any, member: StrEnum) -> int:
    """The number of `member` in the protobuf enum `enum`."""
    return int(enum.Value(_prefix(enum) + member.name))


def member(enum: Any, kind: type[Member], value: int) -> Member:
    """The `kind` of the protobuf number `value`; InternalError for one this client does not know."""
    found = optional_member(enum, kind, value)
    if found is None:
        raise InternalError(f"the server left {enum.DESCRIPTOR.name} unspecified")
    return found


def optional_member(enum: Any, kind: type[Member], value: int) -> Member | None:
    """As `member`, None for the unspecified value 0."""
    if value == 0:
        return None
    try:
        return kind[enum.Name(value).removeprefix(_prefix(enum))]
    except (KeyError, ValueError) as error:
        raise InternalError(
            f"the server sent {enum.DESCRIPTOR.name} {value}, unknown to this client: upgrade extra-rl here"
        ) from error


def choice(kind: type[Member], value: Member | str, field: str) -> Member:
    """`value` as a member of `kind`, by its value; InvalidArgumentError names the choices."""
    try:
        return kind(value)
    except ValueError as error:
        choices = ", ".join(kind)
        raise InvalidArgumentError(f"{field}: {value!r} is none of {choices}", field=field) from error


def _prefix(enum: Any) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"
