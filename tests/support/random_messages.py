"""Random protobuf messages, made from their descriptors, most of them nearly sensible; and corrupted ones.

A purely random message is refused at its first field, so it does not test the code behind that check.
Therefore the lists of a message, and the arrays in its bytes, mostly have the same length, most names come
from a small set, and most numbers are small. In half of the messages this holds for all values; in the
others each value may be anything.
"""

import math
import random
import struct
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

NAMESPACES = ("a", "b", "c", "run-1")
PROMPTS = tuple(f"p{number}" for number in range(6))
WORDS = [*"xyabn0123456789+-=()$\\{}.,\n ", r"\boxed{", "}", r"\frac{1}{2}", "####", "the answer is", "A"]
WORDS += ["\x00", "\u0301", "\ufeff", "\U0001f600", "答案", "../", "/etc/passwd", "%s", "'; --"]
#: Dimension of the vectors in `embedding` and `embeddings`.
DIMENSION = 384
EDGES = [0, 1, -1, 2, 2**7, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1]
EDGE_REALS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-300, 3e38, -3e38, 1e308, math.nan, math.inf, -math.inf]
#: Values for fields that refuse most other values.
SENSIBLE: dict[str, tuple[Any, ...]] = {
    "n": (1, 2, 3),
    "max_tokens": (4, 8),
    "min_tokens": (0, 1),
    "min_p": (0.0, 0.1),
    "min_policy_version": (0,),
    "path": ("next", "next", "other", "..", "next/../next", "/", "link"),
    "namespace": NAMESPACES,
    "source": NAMESPACES,
    "destination": NAMESPACES,
    "prompt_id": PROMPTS,
    "prompt_ids": PROMPTS,
    "group_id": PROMPTS,
    "answer": ("1", r"\frac{1}{2}", "A", "x+1"),
    "dtype": ("F32", "BF16", "F16"),
    "verifier": ("",),
    "wait_seconds": (0.0, 0.01),
    "group_size": (1, 1, 2),
    "index": (0, 0, 1),
    "memory_capacity": (4, 16),
    "min_history": (0, 1),
    "prefix_capacity": (4, 128),
    "ngram_size": (1, 3),
    "rollouts": (2, 4),
    "successes": (0, 2),
}
BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class Messages:
    """A source of random messages for request `number`; `seed` and `number` determine them."""

    def __init__(self, seed: int, number: int) -> None:
        self.random = random.Random(f"{seed}-{number}")
        self._number = number
        self._usual = self.random.choice((1.0, 0.85))

    def message(self, kind: Descriptor) -> Any:
        """Return a valid message of type `kind`."""
        made = GetMessageClass(kind)()
        length = self.random.choice((0, 1, 1, 2, 3, 4))
        chosen = {oneof.name: self.random.choice(oneof.fields) for oneof in kind.oneofs}
        for field in kind.fields:
            if field.containing_oneof and chosen[field.containing_oneof.name] is not field:
                continue
            if field.has_presence and self.random.random() < 0.3:
                continue
            self._fill(
                made, field, length if self.random.random() < self._usual else self.random.randrange(6)
            )
        return made

    def corrupted(self, data: bytes) -> bytes:
        """Return `data` with some of its bytes changed, removed or repeated."""
        changed = bytearray(data or b"\x0a")
        for _ in range(self.random.choice((1, 1, 2, 5))):
            place = self.random.randrange(len(changed) + 1)
            match self.random.randrange(4):
                case 0:
                    changed[place:place] = self.random.randbytes(self.random.randrange(1, 5))
                case 1:
                    del changed[place : place + self.random.randrange(1, 9)]
                case 2:
                    changed[place:place] = changed[: self.random.randrange(1, 65)]
                case _ if place < len(changed):
                    changed[place] ^= 1 << self.random.randrange(8)
        return bytes(changed)

    def random_bytes(self) -> bytes:
        """Return random bytes."""
        return self.random.randbytes(self.random.choice((0, 1, 2, 7, 40, 300, 3000)))

    def _fill(self, made: Any, field: FieldDescriptor, length: int) -> None:
        if field.is_repeated:
            values = getattr(made, field.name)
            for _ in range(length):
                if field.message_type:
                    values.add().CopyFrom(self.message(field.message_type))
                else:
                    values.append(self._value(field, length))
        elif field.message_type:
            getattr(made, field.name).CopyFrom(self.message(field.message_type))
        else:
            setattr(made, field.name, self._value(field, length))

    def _value(self, field: FieldDescriptor, length: int) -> Any:
        usual = self.random.random() < self._usual
        if usual and field.name == "policy_version":
            # Versions must increase.
            return self._number
        if usual and field.name in SENSIBLE:
            return self.random.choice(SENSIBLE[field.name])
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_BOOL:
                return self.random.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                assert field.enum_type
                known = [value.number for value in field.enum_type.values]
                return self.random.choice(known if usual else EDGES[:7])
            case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
                return self.random.choice((0.01, 0.1, 0.5, 0.9, 1.0)) if usual else self._real()
            case FieldDescriptor.CPPTYPE_STRING:
                if field.type == FieldDescriptor.TYPE_BYTES:
                    return self._array(field.name, length) if usual else self.random_bytes()
                return self._words(10 if usual else 40)
        low, high = BOUNDS[field.cpp_type]
        if usual:
            return self.random.choice((0, 1, 1, 2, 3, 4, 8, 16))
        return min(high, max(low, self.random.choice(EDGES)))

    def _real(self) -> float:
        return self.random.choice((*EDGE_REALS, self.random.uniform(-10, 10)))

    def _words(self, most: int) -> str:
        return "".join(self.random.choices(WORDS, k=self.random.randrange(most)))

    def _array(self, name: str, length: int) -> bytes:
        if name in ("embedding", "embeddings"):
            length = DIMENSION * (length if name == "embeddings" else 1)
            return struct.pack(f"<{length}f", *(self.random.gauss(0, 1) for _ in range(length)))
        if name in ("entropies", "sequence_logprobs"):
            return struct.pack(f"<{length}f", *(self.random.choice((0.1, 1.0, 2.5)) for _ in range(length)))
        return struct.pack(f"<{length}i", *sorted(self.random.randrange(48) for _ in range(length)))
