"""The tokenizer of the served model: text to token ids and back, and a hash of its vocabulary."""

import uuid
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import AutoTokenizer

from extra_rl.tokens import REPLACEMENT, TokenTexts, encode_prompts, vocab_hash
from extra_services.errors import InvalidInput


class Tokenizer:
    """The tokenizer in a model folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.vocab_hash = vocab_hash(self._tokenizer.get_vocab())
        self.eos_token_id: int | None = self._tokenizer.eos_token_id

    def encode(self, text: str) -> NDArray[np.int32]:
        """Encode text as int32 [length], after a BOS token if the model expects one and the text has none."""
        return np.array(encode_prompts(self._tokenizer, [text], templated=False)[0], np.int32)

    def encode_chat(self, messages: list[tuple[str, str]]) -> NDArray[np.int32]:
        """Encode (role, content) messages by the chat template, up to the start of the assistant's answer.

        Returns:
            int32 [length].

        Raises:
            InvalidInput: There are no messages, the model has no chat template, or the template refuses them.
        """
        text = self._rendered(messages)
        return np.array(encode_prompts(self._tokenizer, [text], templated=True)[0], np.int32)

    def encode_after(self, messages: list[tuple[str, str]], place: int, last: int) -> NDArray[np.int32]:
        """Encode what the chat template writes between two answers of the assistant.

        The tokens of the conversation up to the end of an answer are known. With these ones behind them they
        are the prompt of the next answer, and no text is encoded a second time.

        Args:
            messages: (role, content) of each.
            place: Of the answer whose tokens are known; its content may differ from what they decode to.
            last: The last of these tokens. It is not repeated if the template ends an answer with it.

        Returns:
            int32 [length].

        Raises:
            InvalidInput: The template refuses the messages, or leaves the answer out.
        """
        mark = uuid.uuid4().hex
        marked = [*messages[:place], (messages[place][0], mark), *messages[place + 1 :]]
        _, found, text = self._rendered(marked).rpartition(mark)
        if not found:
            raise InvalidInput("messages", f"the model's chat template leaves out messages[{place}]")
        end = self.token_text(last)
        if text.lstrip().startswith(end):
            text = text.lstrip().removeprefix(end)
        return np.array(encode_prompts(self._tokenizer, [text], templated=True)[0], np.int32)

    def _rendered(self, messages: list[tuple[str, str]]) -> str:
        if not messages:
            raise InvalidInput("chat.messages", "the conversation is empty; send at least one message")
        if self._tokenizer.chat_template is None:
            raise InvalidInput("chat", "this model's tokenizer has no chat template; send text or token ids")
        chat = [{"role": role, "content": content} for role, content in messages]
        try:
            text: str = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:  # raised by the model's own template, for example for an unknown role
            raise InvalidInput("chat.messages", f"the model's chat template refuses it: {error}") from error
        return text

    def token_text(self, token: int) -> str:
        """Return the text of one token, also of a special one."""
        text: str = self._tokenizer.decode(
            [token], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def token_bytes(self, token: int) -> list[int] | None:
        """Return the bytes of a token's text, None if it is a part of a character."""
        text = self.token_text(token)
        return None if REPLACEMENT in text else list(text.encode())

    @cached_property
    def newline_ids(self) -> NDArray[np.int32]:
        """int32: the ids of the tokens whose text has a newline."""
        return np.array(TokenTexts(self._tokenizer).newline_ids, np.int32)

    def response(self, prefix: list[int], tokens: list[int], stop_string: str | None) -> str:
        """Return the text of a response.

        Args:
            prefix: Token ids from which it was resumed; decoded together with the others.
            tokens: The sampled ones.
            stop_string: What ended it, if a stop string did: the text ends before it.

        Returns:
            The text, without the part of a character with which the tokens end.
        """
        text = self.decode([*prefix, *tokens])
        if stop_string is None:
            return text.rstrip(REPLACEMENT)
        # The last token completed it, perhaps twice ("\n\n").
        before = self.decode([*prefix, *tokens[:-1]]).rstrip(REPLACEMENT)
        end = text.find(stop_string, max(0, len(before) - len(stop_string) + 1))
        return text if end < 0 else text[:end]

    def decode(self, ids: list[int]) -> str:
        """Decode token ids, without special tokens and without clean-up of spaces."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class GrowingText:
    """The text of a sample while its tokens come, without decoding all of them again for each.

    Args:
        tokenizer: Of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        #: Tokens before this are done; the text of those up to `_read` is in what was returned.
        self._start = self._read = 0

    def add(self, tokens: Sequence[int]) -> str:
        """Append tokens; return the text they add, as far as its characters are complete."""
        self._ids += tokens
        # With the tokens before, since a token's text may depend on whether it is the first.
        before = self._tokenizer.decode(self._ids[self._start : self._read])
        now = self._tokenizer.decode(self._ids[self._start :])
        if now.endswith(REPLACEMENT):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return now[len(before) :]
