"""The rehearsal model's tokenizer: a character is a token, and so is `\\boxed{`.

It is a fast tokenizer of the tokenizers library, saved and loaded like any other, so every engine and trainer
reads it like that of a large model. A newline is a token of its own because prefixes of rollouts
are cut after newlines. Decoding gives back exactly the text that was encoded: nothing is normalised, and no
space is put between tokens. A character outside the alphabet becomes `<unk>`.
"""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
_ALPHABET = ("\n", *"0123456789+*=?}", "\\boxed{")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of about twenty tokens; `<eos>` ends a response, `<pad>` pads on the left."""
    vocabulary = {token: index for index, token in enumerate((PAD, EOS, UNKNOWN, *_ALPHABET))}
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
