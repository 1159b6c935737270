"""The tokenizer of the served model: text to token ids and back, and a hash that tells vocabularies apart."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer


class Vocabulary:
    """The tokenizer in a model folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.hash = vocab_hash(self._tokenizer.get_vocab())
        self.eos_token_id: int | None = self._tokenizer.eos_token_id

    def encode(self, text: str) -> NDArray[np.int32]:
        """int32 [length], without special tokens added."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False), np.int32)

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, without special tokens and without any clean-up of spaces."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def vocab_hash(vocab: dict[str, int]) -> str:
    """Hex SHA-256 of the vocabulary, `tokenizer.get_vocab()`: token -> id.

    Hashed is the UTF-8 text of one line per token, id in decimal, a tab, the token as it is, a newline, in
    order of id (tokens of the same id in order of token).
    """
    digest = hashlib.sha256()
    for token, index in sorted(vocab.items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{index}\t{token}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
