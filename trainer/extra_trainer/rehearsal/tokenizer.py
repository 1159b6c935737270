"""Tokenizers of the made models: a character is a token, and so is `\\boxed{`.

They are fast tokenizers of the tokenizers library, saved and loaded like any other, so every engine and
trainer reads them like that of a large model. A newline is a token of its own because prefixes of rollouts
are cut after newlines. Decoding gives back exactly the text that was encoded: nothing is normalised, and no
space is put between tokens. A character outside the alphabet becomes `<unk>`.
"""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from extra_trainer.rehearsal import operators

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
_BOX = "\\boxed{"
#: Characters of the sums.
SUM_CHARACTERS = ("\n", *"0123456789+*=?}")
#: Characters of the chains of operators; the operators' small letters occur in fitting only.
OPERATOR_CHARACTERS = (
    "\n",
    ":",
    "}",
    *operators.ALPHABET,
    *operators.OPERATORS,
    *(name.lower() for name in operators.OPERATORS),
)


def make_tokenizer(characters: Sequence[str] = SUM_CHARACTERS) -> PreTrainedTokenizerFast:
    """Return a tokenizer of some twenty tokens; `<eos>` ends a response, `<pad>` pads on the left.

    Args:
        characters: The characters that are tokens, in order of their ids.
    """
    vocabulary = {token: index for index, token in enumerate((PAD, EOS, UNKNOWN, *characters, _BOX))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\\boxed\{|[\s\S]"), behavior="isolated")
    # Without a decoder the library joins tokens by spaces.
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
