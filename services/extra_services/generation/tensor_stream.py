"""Collect weights that arrive as a stream of tensors, check them, and write them as a model folder.

The folder gets the config of the served model and is then treated as any other folder of weights, so that the
same code checks both ways of delivery. Each tensor is a file of its own, written by a thread while the next
one arrives, so that the tensors are not all kept in memory. The size of the served model bounds how much may
arrive.
"""

import json
import math
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors.torch import save_file

from extra_services.errors import InvalidInput

#: By their names in safetensors.
FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class TensorStream:
    """Tensors of at most `max_bytes` together, which arrive in chunks; a context manager.

    Args:
        max_bytes: Bytes that all tensors may have.
        folder: An empty folder, which becomes a model folder.
        served: The folder of the served model, whose config it gets.
    """

    def __init__(self, max_bytes: int, folder: Path, served: Path) -> None:
        self._left = max_bytes
        self._folder, self._served = folder, served
        self._formats: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._open: str | None = None
        self._data = bytearray()
        self._writer = ThreadPoolExecutor(1, "weights-writer")
        #: By the file's name.
        self._written: dict[str, Future[None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the file that is being written: the folder can be deleted."""
        self._writer.shutdown(cancel_futures=True)

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

    def finish(self) -> None:
        """Wait until the folder holds all tensors, with the config of the served model.

        Raises:
            InvalidInput: The last tensor is incomplete.
            OSError: A file cannot be written.
        """
        self._finish_tensor()
        shutil.copy(self._served / "config.json", self._folder)
        for written in self._written.values():
            written.result()
        files = dict(zip(self._formats, self._written, strict=True))
        index = {"metadata": {}, "weight_map": files}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index))

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
        file = f"tensor-{len(self._written)}.safetensors"
        self._written[file] = self._writer.submit(self._write, file, self._open, dtype, shape, self._data)
        self._open, self._data = None, bytearray()

    def _write(self, file: str, name: str, dtype: str, shape: tuple[int, ...], data: bytearray) -> None:
        empty = torch.empty(shape, dtype=FORMATS[dtype])
        tensor = torch.frombuffer(data, dtype=FORMATS[dtype]).reshape(shape) if data else empty
        save_file({name: tensor}, self._folder / file, {"format": "pt"})


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape, start=int(FORMATS[dtype].itemsize))
