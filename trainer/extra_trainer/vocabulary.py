"""The hash by which client and generation service know that token ids mean the same to both."""

import hashlib
from typing import Any


def vocabulary_hash(tokenizer: Any) -> str:
    """Hex SHA-256 over the lines "id<TAB>token<LF>" of the tokenizer's vocabulary, in order of id."""
    entries = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    return hashlib.sha256("".join(f"{index}\t{token}\n" for index, token in entries).encode()).hexdigest()
