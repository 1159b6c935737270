"""Collect weights that arrive as a stream of tensors, and check that each arrives whole.

They stay in memory and go to the engine as they are, without a file between. The size of the served model
bounds how much may arrive.
"""

import math

import torch

from extra_services.errors import InvalidInput

#: By their names in safetensors.
FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class TensorStream:
    """Tensors of at most `max_bytes` together, which arrive in chunks.

    Args:
        max_bytes: Bytes that all tensors may have.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._formats: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._open: str | None = None
        self._data = bytearray()
        self._tensors: dict[str, torch.Tensor] = {}

    def add(self, name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> None:
        """Append bytes to the tensor `name`.

        Args:
            name: A new tensor, or that of the previous call.
            dtype: A key of FORMATS.
            shape: Shape of the whole tensor.
            data: Its next bytes, little-endian and row-major.

        Raises:
            InvalidInput: They do not fit the tensor or the chunks before.
        """
        if dtype not in FORMATS:
            raise InvalidInput("chunk.dtype", f"{dtype!r} of {name}; use one of {', '.join(FORMATS)}")
        if name not in self._formats:
            self._finish_tensor()
            self._start(name, dtype, shape)
        if self._open != name or self._formats[name] != (dtype, shape):
            text = f"the chunks of {name} must come one after the other, with the same dtype and shape"
            raise InvalidInput("chunk.name", text)
        self._data.extend(data)
        if len(self._data) > _size(dtype, shape):
            text = f"{name} got {len(self._data)} bytes; {dtype} {list(shape)} has {_size(dtype, shape)}"
            raise InvalidInput("chunk.data", text)

    def finish(self) -> dict[str, torch.Tensor]:
        """Return all tensors by name.

        Raises:
            InvalidInput: The last tensor is incomplete.
        """
        self._finish_tensor()
        return self._tensors

    def _start(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        if any(size < 0 for size in shape):
            raise InvalidInput("chunk.shape", f"{name} has the shape {list(shape)}")
        self._left -= _size(dtype, shape)
        if self._left < 0:
            raise InvalidInput(
                "chunk.data", f"{name} would make it more bytes than the served model can have"
            )
        self._formats[name] = (dtype, shape)
        self._open, self._data = name, bytearray()

    def _finish_tensor(self) -> None:
        if self._open is None:
            return
        dtype, shape = self._formats[self._open]
        if len(self._data) != _size(dtype, shape):
            text = f"{self._open} ended after {len(self._data)} of {_size(dtype, shape)} bytes"
            raise InvalidInput("chunk.data", text)
        # An empty buffer has no tensor.
        tensor = torch.frombuffer(self._data, dtype=FORMATS[dtype]) if self._data else torch.empty(0)
        self._tensors[self._open] = tensor.to(FORMATS[dtype]).reshape(shape)
        self._open, self._data = None, bytearray()


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape, start=int(FORMATS[dtype].itemsize))
