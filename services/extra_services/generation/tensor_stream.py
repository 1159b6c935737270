"""Collect weights that arrive as a stream of tensors, check them, and write them as a model folder.

The folder gets the config of the served model and is then treated as any other folder of weights, so that the
same code checks both ways of delivery. The size of the served model bounds how much may arrive.
"""

import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from extra_services.errors import InvalidInput

#: By their names in safetensors.
FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class TensorStream:
    """Tensors of at most `max_bytes` together, which arrive in chunks."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._tensors: dict[str, tuple[str, tuple[int, ...], bytearray]] = {}
        self._open: str | None = None

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
        if name not in self._tensors:
            self._finish_tensor()
            self._start(name, dtype, shape)
        known = self._tensors[name]
        if self._open != name or known[:2] != (dtype, shape):
            text = f"the chunks of {name} must come one after the other, with the same dtype and shape"
            raise InvalidInput("chunk.name", text)
        known[2].extend(data)
        if len(known[2]) > _size(dtype, shape):
            text = f"{name} got {len(known[2])} bytes; {dtype} {list(shape)} has {_size(dtype, shape)}"
            raise InvalidInput("chunk.data", text)

    def write(self, folder: Path, served: Path) -> None:
        """Write the tensors to `folder`, with the config of the model in `served`.

        Raises:
            InvalidInput: The last tensor is incomplete.
        """
        self._finish_tensor()
        shutil.copy(served / "config.json", folder)
        tensors = {
            name: torch.frombuffer(data, dtype=FORMATS[dtype]).reshape(shape)
            for name, (dtype, shape, data) in self._tensors.items()
            if data
        }
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    def _start(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        if any(size < 0 for size in shape):
            raise InvalidInput("chunk.shape", f"{name} has the shape {list(shape)}")
        self._left -= _size(dtype, shape)
        if self._left < 0:
            raise InvalidInput(
                "chunk.data", f"{name} would make it more bytes than the served model can have"
            )
        self._tensors[name] = (dtype, shape, bytearray())
        self._open = name

    def _finish_tensor(self) -> None:
        if self._open is None:
            return
        dtype, shape, data = self._tensors[self._open]
        if len(data) != _size(dtype, shape):
            text = f"{self._open} ended after {len(data)} of {_size(dtype, shape)} bytes"
            raise InvalidInput("chunk.data", text)
        self._open = None


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape, start=int(FORMATS[dtype].itemsize))
