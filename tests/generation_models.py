"""Tiny random models with a tokenizer of single characters, for tests of the generation service."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

ALPHABET = "0123456789+-*/=()abcdefghijklmnopqrstuvwxyz .,:\n"
EOS = 1
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


def make_model(folder: Path, seed: int = 0, **config: object) -> Path:
    """Saves a random Qwen3 and its tokenizer in `folder`; another `seed`, other weights."""
    vocab = {"<pad>": 0, "<eos>": EOS} | {letter: 2 + index for index, letter in enumerate(ALPHABET)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    settings = {
        "vocab_size": len(vocab),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "eos_token_id": EOS,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        # Larger than the usual 0.02, so that distributions are not flat and contexts matter.
        "initializer_range": 0.25,
    }
    torch.manual_seed(seed)
    Qwen3ForCausalLM(Qwen3Config(**{**settings, **config})).save_pretrained(folder)
    return folder
