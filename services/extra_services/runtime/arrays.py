"""Numbers on the wire: little-endian bytes to numpy arrays and back, with errors that name the field."""

import numpy as np
from numpy.typing import NDArray

from extra_services.errors import InvalidInput


def floats(data: bytes, field: str) -> NDArray[np.float32]:
    """float32 [len(data) / 4]; InvalidInput if the length is no multiple of 4 or a value is not finite."""
    values = _decode(data, "<f4", field)
    if not np.isfinite(values).all():
        raise InvalidInput(
            field, f"entry {int(np.flatnonzero(~np.isfinite(values))[0])} is not a finite number"
        )
    return values.astype(np.float32, copy=False)


def ints(data: bytes, field: str) -> NDArray[np.int32]:
    """int32 [len(data) / 4]; InvalidInput if the length is no multiple of 4."""
    return _decode(data, "<i4", field).astype(np.int32, copy=False)


def to_bytes(values: NDArray[np.float32] | NDArray[np.int32]) -> bytes:
    """The little-endian bytes of float32 or int32 values."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _decode(data: bytes, dtype: str, field: str) -> NDArray[np.generic]:
    if len(data) % 4:
        raise InvalidInput(field, f"{len(data)} bytes are no whole number of 4-byte values")
    return np.frombuffer(data, dtype=dtype)
