"""Numbers on the wire: arrays as little-endian bytes, enum members as the numbers of the protos.

Both sides use this module; each wraps its `ValueError`s in an error of its own that names the field.
"""

import re
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

import numpy as np
from google.protobuf.descriptor import EnumDescriptor
from numpy.typing import ArrayLike, NDArray

from extra_rl.v1 import generation_pb2, namespace_pb2, novelty_pb2, prefix_pb2, verification_pb2
from extra_rl.vocabulary import DEFAULTS, NearestKind

Member = TypeVar("Member", bound=StrEnum)

_FILES = (generation_pb2, namespace_pb2, novelty_pb2, prefix_pb2, verification_pb2)


def floats(data: bytes) -> NDArray[np.float32]:
    """Decode float32 [len(data) / 4], writable.

    Raises:
        ValueError: The length is no multiple of 4.
    """
    return _decoded(data, "<f4").astype(np.float32)


def ints(data: bytes) -> NDArray[np.int32]:
    """Decode int32 [len(data) / 4], writable.

    Raises:
        ValueError: The length is no multiple of 4.
    """
    return _decoded(data, "<i4").astype(np.int32)


def float_bytes(values: ArrayLike) -> bytes:
    """Encode reals of any shape, row-major, as float32; torch tensors of any device and dtype too."""
    return np.ascontiguousarray(on_cpu(values), "<f4").tobytes()


def int_bytes(values: ArrayLike) -> bytes:
    """Encode integers [length] as int32.

    Raises:
        ValueError: The values are no flat list of integers, or outside the range of int32.
    """
    array = np.asarray(on_cpu(values))
    if array.size == 0:
        return b""
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"must be a flat list of integers, not {array.dtype} of shape {array.shape}")
    if array.min() < -(2**31) or array.max() >= 2**31:
        raise ValueError("has numbers outside the range of int32")
    return array.astype("<i4").tobytes()


def on_cpu(values: Any) -> Any:
    """Return `values` with each torch tensor, also one in a list, as an array; torch is not imported.

    numpy itself takes only tensors that are on the CPU, without a gradient and of a dtype it has.
    """
    if isinstance(values, list | tuple):
        # Numbers are left alone: a batch has millions of them.
        nested = values and (_is_tensor(values[0]) or isinstance(values[0], list | tuple))
        return [on_cpu(each) for each in values] if nested else values
    if not _is_tensor(values):
        return values
    tensor = values.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "is_floating_point")


def number(member: StrEnum) -> int:
    """Return the number that `member` has in the protos."""
    return _numbers(type(member))[member]


def member(kind: type[Member], value: int) -> Member | None:
    """Return the member of `kind` with the number `value`, None for the unspecified 0.

    Raises:
        ValueError: The number is unknown: the other side is of a later release.
    """
    if value == 0:
        return None
    found = _members(kind).get(value)
    if found is None:
        raise ValueError(f"{value} is no {kind.__name__} that this release knows")
    return kind(found)


def requested(kind: type[Member], value: int) -> Member:
    """As `member`, with the default of `vocabulary.DEFAULTS` for the unspecified 0."""
    return member(kind, value) or kind(DEFAULTS[kind])


def descriptor(kind: type[StrEnum]) -> EnumDescriptor:
    """Return the enum of the protos that `kind` mirrors."""
    if kind is NearestKind:
        # An enum inside a message, whose values have the name of that enum alone.
        nested: EnumDescriptor = novelty_pb2.Nearest.DESCRIPTOR.enum_types_by_name["Kind"]
        return nested
    for file in _FILES:
        if kind.__name__ in file.DESCRIPTOR.enum_types_by_name:
            found: EnumDescriptor = file.DESCRIPTOR.enum_types_by_name[kind.__name__]
            return found
    raise LookupError(f"no enum {kind.__name__} in the protos")


def _decoded(data: bytes, dtype: str) -> NDArray[np.generic]:
    if len(data) % 4:
        raise ValueError(f"{len(data)} bytes are no whole number of 4-byte values")
    return np.frombuffer(data, dtype)


@cache
def _numbers(kind: type[StrEnum]) -> dict[StrEnum, int]:
    enum = descriptor(kind)
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return {each: enum.values_by_name[prefix + each.name].number for each in kind}


@cache
def _members(kind: type[StrEnum]) -> dict[int, StrEnum]:
    return {value: each for each, value in _numbers(kind).items()}
