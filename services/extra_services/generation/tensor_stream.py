"""Collect weights that arrive as a stream of tensors, check them, and write them as a model folder.

The folder gets the config of the served model and is then treated as any other folder of weights, so that the
same code checks both ways of delivery. The tensors that arrived are written by a thread while later ones
arrive, SHARD_BYTES and more to a file, so that they are not all kept in memory. The size of the served model
bounds how much may arrive.
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

#: A file has this many bytes of tensors at least, except for the last one.
SHARD_BYTES = 2**26

#: Format, shape and bytes of a tensor.
Part = tuple[str, tuple[int, ...], bytearray]


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
        #: Whole tensors that are in no file yet.
        self._shard: dict[str, Part] = {}
        self._shard_bytes = 0
        self._writer = ThreadPoolExecutor(1, "weights-writer")
        self._written: list[Future[None]] = []
        #: File of each tensor.
        self._files: dict[str, str] = {}

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
        self._write_shard()
        shutil.copy(self._served / "config.json", self._folder)
        for written in self._written:
            written.result()
        index = {"metadata": {}, "weight_map": self._files}
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
        self._shard[self._open] = dtype, shape, self._data
        self._shard_bytes += len(self._data)
        self._open, self._data = None, bytearray()
        if self._shard_bytes >= SHARD_BYTES:
            self._write_shard()

    def _write_shard(self) -> None:
        file = f"model-{len(self._written)}.safetensors"
        self._files |= dict.fromkeys(self._shard, file)
        self._written.append(self._writer.submit(_write, self._folder / file, self._shard))
        self._shard, self._shard_bytes = {}, 0


def _write(path: Path, parts: dict[str, Part]) -> None:
    tensors = {
        # An empty buffer has no tensor.
        name: torch.frombuffer(data, dtype=FORMATS[dtype]).reshape(shape)
        if data
        else torch.empty(shape, dtype=FORMATS[dtype])
        for name, (dtype, shape, data) in parts.items()
    }
    save_file(tensors, path, {"format": "pt"})


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape, start=int(FORMATS[dtype].itemsize))
