"""The start models: small Qwen3 models fitted on worked examples, made once and kept in a cache folder.

Reinforcement learning needs a policy that is sometimes right, and no model hub can be assumed, so this
module makes one in a few minutes on two cores. `fitting_examples` makes the batches. The matrices are updated
with Muon, which needed about a quarter of the steps that AdamW did here.

The model is Qwen3 in float32 with untied embeddings: with so small a vocabulary tying saves nothing, and a
tied output layer is what a weight refresh in vLLM can leave behind unnoticed. The cache folder's name is a
hash of the recipe (which makes other weights on another kind of machine, since that rounds otherwise); a
folder appears there only once it is complete.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from extra_trainer.rehearsal.fitting_examples import IGNORED, FittingBatch, fitting_batches, tokenizer_of
from extra_trainer.rehearsal.recipes import FitSettings

# Part of the cache key: increase it with every change to this package that changes the fitted weights.
CODE_VERSION = 5


def start_model(cache_folder: Path, seed: int, settings: FitSettings) -> Path:
    """Return the folder of the fitted model (safetensors) and its tokenizer, made at the first call.

    Args:
        cache_folder: Folder of fitted models.
        seed: Seed of weights and examples.
        settings: The recipe.
    """
    folder = cache_folder / f"start-model-{_cache_key(seed, settings)}"
    if folder.is_dir():
        return folder
    cache_folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache_folder))
    try:
        fit(seed, settings).save_pretrained(unfinished)
        tokenizer_of(settings).save_pretrained(unfinished)
        _move_into_place(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def fit(seed: int, settings: FitSettings) -> Qwen3ForCausalLM:
    """Fit a model on worked examples of the `fitting` problems, on CUDA if there is a device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = tokenizer_of(settings)
    # The caller's random state does not change.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(_model_config(tokenizer, settings)).to(device)
    optimizers = _optimizers(model, settings)
    steps = islice(fitting_batches(tokenizer, seed, settings), settings.steps)
    for step, batch in enumerate(_shown(steps, settings.steps)):
        rate = min(1.0, (step + 1) / settings.warmup_steps) * (1 - step / settings.steps)
        _train_step(model, batch, optimizers, rate)
    return model.cpu()


def _cache_key(seed: int, settings: FitSettings) -> str:
    # Fields that are None are left out: a new field does not change the keys of older recipes.
    given = {name: value for name, value in asdict(settings).items() if value is not None}
    decisive = {"code": CODE_VERSION, "seed": seed, **given}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _move_into_place(unfinished: Path, folder: Path) -> None:
    try:
        os.rename(unfinished, folder)
    except OSError:
        # Another process made the same model meanwhile, which is used.
        if not folder.is_dir():
            raise


def _model_config(tokenizer: PreTrainedTokenizerFast, settings: FitSettings) -> Qwen3Config:
    heads = settings.hidden_size // settings.head_size
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=3 * settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=settings.head_size,
        max_position_embeddings=512,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


Optimizers = list[tuple[torch.optim.Optimizer, float]]


def _optimizers(model: Qwen3ForCausalLM, settings: FitSettings) -> Optimizers:
    """Return each optimizer with its peak learning rate."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("model.layers.")]
    others = [
        p for name, p in model.named_parameters() if p.ndim != 2 or not name.startswith("model.layers.")
    ]
    return [
        (torch.optim.Muon(matrices, weight_decay=0.0, ns_steps=4), settings.matrix_learning_rate),
        (torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0), settings.learning_rate),
    ]


def _train_step(model: Qwen3ForCausalLM, batch: FittingBatch, optimizers: Optimizers, rate: float) -> None:
    """Make one update; `rate` scales the peak learning rates."""
    ids, labels = batch.ids.to(model.device), batch.labels.to(model.device)
    logits = model(input_ids=ids[:, :-1]).logits
    functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, peak in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = peak * rate
        optimizer.step()
        optimizer.zero_grad()


def _shown(batches: Iterator[FittingBatch], total: int) -> Iterator[FittingBatch]:
    """Yield the batches, with a progress bar on a terminal and ten lines elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("Fitting the start model"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("fit", total=total)
        for done, batch in enumerate(batches):
            if not console.is_terminal and done % max(1, total // 10) == 0:
                console.print(f"Fitting the start model: step {done} of {total}")
            yield batch
            progress.advance(bar)
