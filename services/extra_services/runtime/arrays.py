"""Fields of a request as numpy arrays and enum members; errors name the field.

`extra_rl.wire` does the work. This module turns its errors into `InvalidInput`.
"""

from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from extra_rl import wire
from extra_services.errors import InvalidInput

Member = TypeVar("Member", bound=StrEnum)


def floats(data: bytes, field: str) -> NDArray[np.float32]:
    """Decode float32 [len(data) / 4].

    Raises:
        InvalidInput: The length is no multiple of 4, or a value is not finite.
    """
    try:
        values = wire.floats(data)
    except ValueError as error:
        raise InvalidInput(field, str(error)) from error
    if not np.isfinite(values).all():
        raise InvalidInput(
            field, f"entry {int(np.flatnonzero(~np.isfinite(values))[0])} is not a finite number"
        )
    return values


def ints(data: bytes, field: str) -> NDArray[np.int32]:
    """Decode int32 [len(data) / 4].

    Raises:
        InvalidInput: The length is no multiple of 4.
    """
    try:
        return wire.ints(data)
    except ValueError as error:
        raise InvalidInput(field, str(error)) from error


def requested(kind: type[Member], number: int, field: str) -> Member:
    """Return the member of `kind` with this number, the default for the unspecified 0.

    Raises:
        InvalidInput: The number is unknown.
    """
    try:
        return wire.requested(kind, number)
    except ValueError as error:
        raise InvalidInput(field, str(error)) from error


def to_bytes(values: NDArray[np.float32] | NDArray[np.int32]) -> bytes:
    """Encode float32 or int32 values, little-endian and row-major."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
