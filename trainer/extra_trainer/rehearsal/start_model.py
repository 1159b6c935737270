"""The rehearsal's start model: a small Qwen3 fitted on worked examples, made once and kept in a cache folder.

Reinforcement learning needs a policy that is sometimes right, and no model hub can be assumed, so this
module makes one in less than two minutes on two cores. Three things make so little enough. Part of the
batches, fewer and fewer, are *drills*: single lines of worked examples, shuffled, with the loss on what
follows the equals sign only, since the arithmetic needs by far the most examples and a whole solution holds
few results a token. The whole worked examples begin with short ones in the order written, from which a
model learns to copy the terms, before the diverse ones come. And the matrices are updated with Muon, which
needed about a quarter of the steps that AdamW did here. What is left to improve is then mostly the
bookkeeping: which terms have been added already, and which way of solving keeps that simple.

The model is Qwen3 in float32 with untied embeddings: with so small a vocabulary tying saves nothing, and a
tied output layer is what a weight refresh in vLLM can leave behind unnoticed. The cache folder's name is a
hash of the recipe (which makes other weights on another kind of machine, since that rounds otherwise); a
folder appears there only once it is complete.
"""

import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from math import prod
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from extra_trainer.rehearsal.problems import stream_problems, worked_example
from extra_trainer.rehearsal.recipes import FitSettings
from extra_trainer.rehearsal.tokenizer import make_tokenizer

# Part of the cache key: increase it with every change to this package that changes the fitted weights.
CODE_VERSION = 5
_IGNORED = -100
_EXAMPLES_AT_ONCE = 256
_LINES_PER_DRILL = 8
_EASY_TERMS = 4


@dataclass(frozen=True)
class FittingBatch:
    """Token ids and labels, both [sequences, tokens]; a label of -100 is not learned."""

    ids: torch.Tensor
    labels: torch.Tensor


def start_model(cache_folder: Path, seed: int, settings: FitSettings | None = None) -> Path:
    """Return the folder of the fitted model (safetensors) and its tokenizer, made at the first call.

    Args:
        cache_folder: Folder of fitted models.
        seed: Seed of weights and examples.
        settings: The recipe; None: the rehearsal's.
    """
    settings = settings or FitSettings()
    folder = cache_folder / f"start-model-{_cache_key(seed, settings)}"
    if folder.is_dir():
        return folder
    cache_folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache_folder))
    try:
        fit(seed, settings).save_pretrained(unfinished)
        make_tokenizer().save_pretrained(unfinished)
        _move_into_place(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def fit(seed: int, settings: FitSettings) -> Qwen3ForCausalLM:
    """Fit a model on worked examples of the `fitting` problems, on CUDA if there is a device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = make_tokenizer()
    # The caller's random state does not change.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(_model_config(tokenizer, settings)).to(device)
    optimizers = _optimizers(model, settings)
    steps = islice(_batches(tokenizer, seed, settings), settings.steps)
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
    functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, peak in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = peak * rate
        optimizer.step()
        optimizer.zero_grad()


# Token ids, and whether each is learned.
_Sequence = tuple[list[int], list[bool]]


def _batches(tokenizer: PreTrainedTokenizerFast, seed: int, settings: FitSettings) -> Iterator[FittingBatch]:
    """Yield batches of drills and of whole examples, easy ones first, without end."""
    rng = random.Random(seed)
    stream = stream_problems("fitting", seed)
    step = 0
    while True:
        progress = step / settings.steps
        easy = progress < settings.easy_share
        some = list(islice((p for p in stream if not easy or len(p.terms) <= _EASY_TERMS), _EXAMPLES_AT_ONCE))
        examples = [
            (problem.prompt, worked_example(problem, rng, in_order=easy, slips=settings.slips))
            for problem in some
        ]
        drill = rng.random() < settings.drill_share * (1 - progress)
        sequences = _drills(examples, tokenizer, rng) if drill else _whole(examples, tokenizer)
        for batch in _packed(sequences, rng, settings.tokens_per_step):
            yield batch
            step += 1


def _packed(sequences: list[_Sequence], rng: random.Random, tokens_per_step: int) -> list[FittingBatch]:
    """Make batches of at most `tokens_per_step` tokens, of similar lengths to save padding."""
    batches: list[list[_Sequence]] = [[]]
    for sequence in sorted(sequences, key=lambda sequence: len(sequence[0])):
        if batches[-1] and (len(batches[-1]) + 1) * len(sequence[0]) > tokens_per_step:
            batches.append([])
        batches[-1].append(sequence)
    rng.shuffle(batches)
    return [_batch(some) for some in batches]


def _drills(
    examples: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> list[_Sequence]:
    """Make sequences of several one-operation lines; only results and corrections of slips are learned."""
    lines = [line for _, solution in examples for line in solution.split("\n")[:-1]]
    rng.shuffle(lines)
    lines = [line for line in lines if _ends_right(line)]
    tokens = [list(ids) for ids in tokenizer([f"{line}\n" for line in lines]).input_ids]
    drills: list[_Sequence] = []
    for start in range(0, len(tokens) - _LINES_PER_DRILL + 1, _LINES_PER_DRILL):
        some = slice(start, start + _LINES_PER_DRILL)
        learned = list(chain.from_iterable(map(_learned_of, lines[some])))
        drills.append((list(chain.from_iterable(tokens[some])), learned))
    return drills


def _ends_right(line: str) -> bool:
    operation, *_, result = line.split("=")
    return sum(prod(map(int, term.split("*"))) for term in operation.split("+")) == int(result)


def _learned_of(line: str) -> list[bool]:
    """Return whether each character of a line and its newline is learned; a wrong digit is not."""
    operation, *slipped, result = line.split("=")
    wrong = [[*[True] * (len(digits) - 1), False, True] for digits in slipped]
    return [False] * (len(operation) + 1) + list(chain.from_iterable(wrong)) + [True] * (len(result) + 1)


def _whole(examples: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> list[_Sequence]:
    """Make sequences of prompt and solution; only the solution and the end of text are learned."""
    prompts = tokenizer([prompt for prompt, _ in examples]).input_ids
    solutions = tokenizer([f"{solution}{tokenizer.eos_token}" for _, solution in examples]).input_ids
    return [
        (prompt + solution, [False] * len(prompt) + [True] * len(solution))
        for prompt, solution in zip(prompts, solutions, strict=True)
    ]


def _batch(sequences: list[_Sequence]) -> FittingBatch:
    """Pad on the right, where under a causal mask no token sees the padding."""
    width = max(len(ids) for ids, _ in sequences)
    ids = torch.zeros((len(sequences), width), dtype=torch.long)
    labels = torch.full((len(sequences), width), _IGNORED)
    for row, (tokens, learned) in enumerate(sequences):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(tokens)] = torch.where(torch.tensor(learned), torch.tensor(tokens), _IGNORED)
    return FittingBatch(ids, labels)


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
