"""Tensors as a stream of messages, for StreamWeights.

numpy arrays and torch tensors are taken as they are, one at a time, so that no second copy of the model is
made. torch is imported only for a torch tensor, and then the caller has imported it already.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_client import _wire
from extra_client.errors import InvalidArgumentError
from extra_rl.v1 import generation_pb2 as pb
from extra_rl.vocabulary import InFlight

#: Bytes of a chunk: far below the servers' limit on a message, far above the cost of one.
CHUNK_BYTES = 4 * 2**20

#: Number formats by numpy's and torch's names for them ("bfloat16" is ml_dtypes' in numpy).
_FORMATS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def messages(
    tensors: Mapping[str, Any] | Iterable[tuple[str, Any]], policy_version: int, in_flight: InFlight | str
) -> Iterator[pb.StreamWeightsRequest]:
    """Yield the messages that send `tensors`.

    Raises:
        InvalidArgumentError: A tensor has another number format; the message names it.
    """
    number = _wire.number(InFlight, in_flight, "in_flight")
    header = pb.WeightsHeader(policy_version=policy_version, in_flight=number)
    return _messages(header, tensors)


def _messages(
    header: pb.WeightsHeader, tensors: Mapping[str, Any] | Iterable[tuple[str, Any]]
) -> Iterator[pb.StreamWeightsRequest]:
    yield pb.StreamWeightsRequest(header=header)
    for name, tensor in tensors.items() if isinstance(tensors, Mapping) else tensors:
        dtype, data = _bytes(name, tensor)
        # A tensor without elements is sent too: its one chunk is empty.
        for start in range(0, max(len(data), 1), CHUNK_BYTES):
            message = pb.StreamWeightsRequest()
            # Filled in place: a chunk made first would be copied into the message.
            chunk = message.chunk
            chunk.name, chunk.dtype, chunk.data = name, dtype, data[start : start + CHUNK_BYTES].tobytes()
            chunk.shape.extend(tensor.shape)
            yield message


def _bytes(name: str, tensor: Any) -> tuple[str, NDArray[np.uint8]]:
    dtype = _FORMATS.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None:
        formats = ", ".join(_FORMATS)
        raise InvalidArgumentError(f"{name}: is {tensor.dtype}, but must be one of {formats}", field=name)
    if isinstance(tensor, np.ndarray | np.generic):
        return dtype, np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    import torch

    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    data: NDArray[np.uint8] = flat.numpy()
    return dtype, data
