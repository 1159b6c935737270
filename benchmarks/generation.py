"""Benchmark of rollout generation: `extra-rl bench generation --json`.

Every ratio compares two things that this run measures in turn; it is the median of several repeats:

- `transformers_with_entropy`: tokens/s through gRPC with entropies and log-probabilities, over those of the
  same engine called directly that computes neither; 32 concurrent samples of the rehearsal model.
- `vllm_with_entropy`: the same for vLLM and SmolLM2-135M; left out, with a note, where vLLM is missing.
- `transformers_vs_generate`: tokens/s of the transformers engine over those of `model.generate`, both in
  batches of 64, on 256 prompts whose continuations have 1 to 256 tokens, about 64 on average.
- `resume_over_cold`: seconds until each of 8 samples has its first token after a 1500-token prefix that was
  served before, over the seconds when it was not; SmolLM2-135M; the worse of the engines present.
- `resume_over_cold_8_tokens`: the same until each sample has 8 tokens.

The models have the shapes of the real ones and random weights; the speed does not depend on the weights.
"""

import argparse
import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from extra_rl.v1 import generation_pb2 as pb
from extra_rl.v1 import generation_pb2_grpc
from extra_services.generation.engines.transformers import engine as transformers_engine
from extra_services.generation.engines.transformers.engine import TransformersEngine, TransformersOptions
from extra_services.generation.engines.transformers.sampling import Drawn, RowParameters, _gumbel
from extra_services.generation.requests import GenerationRequest, Prompt, SamplingParameters
from extra_services.generation.rollouts import Rollout

CONCURRENT = 32
EOS = 1


@dataclass
class Sizes:
    """How much `transformers_with_entropy` and `vllm_with_entropy` measure; None: what their ratios need."""

    repeats: int | None = None
    tokens: int | None = None


SIZES = Sizes()


def rehearsal_model(folder: Path, vocab_size: int = 22) -> Path:
    """Save a model of the demo policy's shape (1 million parameters); samples average vocab_size tokens."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        eos_token_id=EOS,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return save_model(Qwen3ForCausalLM(config), folder)


def smollm2_shape(folder: Path) -> Path:
    """Save a model of the shape of SmolLM2-135M."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        eos_token_id=EOS,
        pad_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    return save_model(LlamaForCausalLM(config), folder)


def save_model(model: Any, folder: Path) -> Path:
    """Save a model with a tokenizer of 22 tokens."""
    vocabulary = {"<pad>": 0, "<eos>": EOS, "<unk>": 2} | {chr(97 + index): 3 + index for index in range(19)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    fast.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@contextmanager
def serving(model: Path, *flags: str) -> Iterator[tuple[str, int]]:
    """Run a server in a process of its own, and yield its address and its process id."""
    with tempfile.TemporaryDirectory() as folder:
        address = Path(folder) / "address"
        command = [sys.executable, "-m", "extra_cli", "serve", "generation", "--model", str(model)]
        command += ["--host", f"unix:{folder}/socket", "--address-file", str(address), *flags]
        command += ["--max-batch", str(CONCURRENT), "--stop-with-stdin", "--log-level", "error"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        try:
            while not address.exists():
                if process.poll() is not None:
                    raise SystemExit("the server ended while starting")
                time.sleep(0.1)
            yield address.read_text(), process.pid
        finally:
            process.terminate()
            process.wait()


@contextmanager
def served(model: Path, *flags: str) -> Iterator[generation_pb2_grpc.GenerationServiceStub]:
    """Run a server in a process of its own, and yield its stub."""
    with serving(model, *flags) as (address, _), grpc.insecure_channel(address) as channel:
        yield generation_pb2_grpc.GenerationServiceStub(channel)


def prompts(count: int, vocab_size: int, seed: int, low: int = 10, high: int = 50) -> list[NDArray[np.int32]]:
    """Return random token ids of random lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocab_size, rng.integers(low, high)).astype(np.int32) for _ in range(count)]


def over_grpc(
    stub: generation_pb2_grpc.GenerationServiceStub, ids: list[NDArray[np.int32]], n: int, tokens: int
) -> float:
    """Return tokens/s of one call, with entropies and log-probabilities."""
    wanted = pb.GenerateRequest(
        prompts=[pb.Prompt(token_ids=pb.TokenIds(ids=each.tobytes())) for each in ids],
        n=n,
        sampling=pb.SamplingParams(max_tokens=tokens, min_tokens=tokens),
    )
    started, drawn = time.perf_counter(), 0
    for event in stub.Generate(wanted):
        drawn += len(event.rollout.entropies) // 4
    return drawn / (time.perf_counter() - started)


async def direct(
    engine: TransformersEngine, ids: list[NDArray[np.int32]], n: int, sampling: SamplingParameters
) -> float:
    """Return tokens/s of the engine called in this process."""
    started, drawn = time.perf_counter(), 0
    async for events in engine.generate(GenerationRequest([Prompt(each) for each in ids], n, sampling)):
        drawn += sum(len(event.token_ids) for event in events if isinstance(event, Rollout))
    return drawn / (time.perf_counter() - started)


def bare_draw(logits: torch.Tensor, rows: RowParameters, keys: torch.Tensor, banned: Any = None) -> Drawn:
    """Draw as `sampling.draw` does, without log-probabilities and entropies."""
    scores = logits / rows.temperature[:, None] if rows.scaled else logits
    if banned is not None:
        scores[banned] = -torch.inf
    chosen = torch.addcmul(scores, _gumbel(keys, logits.shape[-1]), rows.noise[:, None]).argmax(-1)
    nothing = torch.zeros(len(logits))
    return Drawn(chosen, nothing, nothing, nothing, torch.zeros(len(logits), dtype=torch.bool))


@contextmanager
def without_entropies() -> Iterator[None]:
    """Have the engine draw only tokens during a block."""
    engine: Any = transformers_engine  # its `draw` is imported, so a type checker sees no attribute
    draw = engine.draw
    engine.draw = bare_draw
    try:
        yield
    finally:
        engine.draw = draw


async def transformers_with_entropy(folder: Path, figures: dict[str, Any], ratios: dict[str, float]) -> None:
    """Measure the rehearsal model through gRPC, and directly without entropies."""
    model, threads = rehearsal_model(folder / "rehearsal"), torch.get_num_threads()
    options = TransformersOptions(model=model, max_batch=CONCURRENT, threads=threads, prefix_cache_bytes=0)
    engine = await asyncio.to_thread(TransformersEngine, options, str)
    ids, length = prompts(CONCURRENT // 8, 22, 0), SIZES.tokens or 256
    sampling = SamplingParameters(max_tokens=length, min_tokens=length)
    with served(model, "--threads", str(threads), "--prefix-cache-gib", "0") as stub:

        async def ours() -> float:
            return await asyncio.to_thread(over_grpc, stub, ids, 8, length)

        async def bare() -> float:
            with without_entropies():
                return await direct(engine, ids, 8, sampling)

        through, alone = await _in_turn(ours, bare, SIZES.repeats or 16)
    await engine.close()
    _pairs("transformers_with_entropy", through, alone, figures, ratios)


async def transformers_vs_generate(folder: Path, figures: dict[str, Any], ratios: dict[str, float]) -> None:
    """Measure the engine and model.generate on continuations of mixed lengths."""
    path, threads, batch = rehearsal_model(folder / "mixed", 64), torch.get_num_threads(), 64
    options = TransformersOptions(model=path, max_batch=batch, threads=threads, prefix_cache_bytes=0)
    engine = await asyncio.to_thread(TransformersEngine, options, str)
    model = Qwen3ForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    ids, limit = prompts(256, 64, 1), 256
    ours, theirs = [], []
    for repeat in range(4):
        one = await direct(engine, ids, 1, SamplingParameters(max_tokens=limit))
        other = await asyncio.to_thread(_generate, model, ids, batch, limit, repeat)
        if repeat:
            ours.append(one)
            theirs.append(other)
    await engine.close()
    _pairs("transformers_vs_generate", ours, theirs, figures, ratios)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _generate(model: Any, ids: list[NDArray[np.int32]], batch: int, limit: int, seed: int) -> float:
    torch.manual_seed(seed)
    started, drawn = time.perf_counter(), 0
    for first in range(0, len(ids), batch):
        part = ids[first : first + batch]
        width = max(len(each) for each in part)
        padded = torch.zeros(len(part), width, dtype=torch.int64)
        mask = torch.zeros_like(padded)
        for row, each in enumerate(part):  # padded at the start, as generate needs it
            padded[row, width - len(each) :] = torch.from_numpy(each)
            mask[row, width - len(each) :] = 1
        out = model.generate(padded, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=limit)[
            :, width:
        ]
        ended = (out == EOS).cumsum(1) - (out == EOS).int()
        drawn += int((ended == 0).sum())
    return drawn / (time.perf_counter() - started)


async def _in_turn(
    ours: Callable[[], Awaitable[float]], theirs: Callable[[], Awaitable[float]], repeats: int
) -> tuple[list[float], list[float]]:
    """Measure both in each repeat, in alternating order; the first repeat only warms up."""
    measured: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for which in (0, 1) if repeat % 2 else (1, 0):
            value = await (ours, theirs)[which]()
            if repeat:
                measured[which].append(value)
    return measured


def _pairs(
    name: str, ours: list[float], theirs: list[float], figures: dict[str, Any], ratios: dict[str, float]
) -> None:
    """Record the median of the ratios within each repeat, where both had the same load on the machine."""
    ratios[name] = round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)
    figures[f"{name}_tokens_per_second"] = [round(statistics.median(ours)), round(statistics.median(theirs))]


async def resume_over_cold(folder: Path, figures: dict[str, Any], ratios: dict[str, float]) -> None:
    """Measure the resumption of a long prefix, new and known."""
    model, threads = smollm2_shape(folder / "resume"), torch.get_num_threads()
    flags = {"transformers": ["--threads", str(threads)]}
    if find_spec("vllm"):
        flags["vllm"] = ["--engine", "vllm", "--max-model-len", "2048", "--kv-cache-gib", "2"]
    worst = {1: 0.0, 8: 0.0}
    for name, more in flags.items():
        with served(model, *more) as stub:
            for tokens in (1, 8):
                cold, warm = await asyncio.to_thread(_cold_and_warm, stub, tokens)
                seconds = [round(statistics.median(each), 3) for each in (warm, cold)]
                figures[f"resume_seconds_{name}_{tokens}_tokens"] = seconds
                ratio = statistics.median(w / c for w, c in zip(warm, cold, strict=True))
                worst[tokens] = max(worst[tokens], ratio)
    ratios["resume_over_cold"] = round(worst[1], 3)
    ratios["resume_over_cold_8_tokens"] = round(worst[8], 3)


def _cold_and_warm(
    stub: generation_pb2_grpc.GenerationServiceStub, tokens: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of 8 samples of a new prefix, and of the same again, for four prefixes."""
    prompt = prompts(1, 49152, 2)
    over_grpc(stub, prompt, 8, tokens)  # a warm-up
    cold: list[float] = []
    warm: list[float] = []
    for repeat in range(4):
        prefix = np.random.default_rng([repeat, tokens]).integers(3, 49152, 1500).astype(np.int32)
        for seconds in (cold, warm):
            started = time.perf_counter()
            over_grpc(stub, [np.concatenate([prompt[0], prefix])], 8, tokens)
            seconds.append(time.perf_counter() - started)
    return cold, warm


async def vllm_with_entropy(folder: Path, figures: dict[str, Any], ratios: dict[str, float]) -> None:
    """Measure SmolLM2's shape on vLLM through gRPC, and directly without entropies."""
    if find_spec("vllm") is None:
        figures["vllm_with_entropy_left_out"] = "vLLM is not installed"
        return
    # On two cores a step takes a quarter of a second.
    model, length = smollm2_shape(folder / "smollm2"), SIZES.tokens or 32
    ids = prompts(CONCURRENT // 8, 49152, 3)
    flags = ("--engine", "vllm", "--max-model-len", "2048", "--kv-cache-gib", "2")
    async with bare_vllm(model) as generate:
        with served(model, *flags) as stub:

            async def ours() -> float:
                return await asyncio.to_thread(over_grpc, stub, ids, 8, length)

            async def bare() -> float:
                return float(await generate(ids, 8, length))

            through, alone = await _in_turn(ours, bare, SIZES.repeats or 8)
    _pairs("vllm_with_entropy", through, alone, figures, ratios)


@asynccontextmanager
async def bare_vllm(model: Path) -> AsyncIterator[Callable[[list[NDArray[np.int32]], int, int], Any]]:
    """Start an unchanged vLLM with the same settings."""
    from extra_services.generation.engines.vllm.options import set_environment

    set_environment()
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=str(model),
        dtype="float32",
        max_model_len=2048,
        max_num_seqs=CONCURRENT,
        enforce_eager=True,
        kv_cache_memory_bytes=2 * 2**30,
    )
    llm = AsyncLLM.from_engine_args(arguments)

    async def generate(ids: list[NDArray[np.int32]], n: int, tokens: int) -> float:
        async def one(each: NDArray[np.int32], seed: int, name: str) -> int:
            parameters = SamplingParams(
                max_tokens=tokens,
                min_tokens=tokens,
                seed=seed,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            outputs = [
                out async for out in llm.generate({"prompt_token_ids": each.tolist()}, parameters, name)
            ]
            return len(outputs[-1].outputs[0].token_ids)

        started = time.perf_counter()
        samples = [(each, seed) for each in ids for seed in range(n)]
        drawn = await asyncio.gather(
            *(one(each, seed, f"{started}-{place}") for place, (each, seed) in enumerate(samples))
        )
        return sum(drawn) / (time.perf_counter() - started)

    try:
        yield generate
    finally:
        llm.shutdown()


PARTS = {
    "transformers_with_entropy": transformers_with_entropy,
    "transformers_vs_generate": transformers_vs_generate,
    "resume_over_cold": resume_over_cold,
    "vllm_with_entropy": vllm_with_entropy,
}


def main(arguments: list[str]) -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="extra-rl bench generation", description=__doc__)
    parser.add_argument("--part", choices=list(PARTS), help="measure this part only")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--repeats", type=int, help="of the parts with entropies; default: 16, vLLM 8")
    parser.add_argument("--tokens", type=int, help="of their samples; default: 256, vLLM 32")
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: the output is JSON")
    chosen = parser.parse_args(arguments)
    SIZES.repeats, SIZES.tokens = chosen.repeats, chosen.tokens
    torch.set_num_threads(chosen.threads)
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    # vLLM and its processes log to standard output, which is for the result alone.
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    figures: dict[str, Any] = {"threads": chosen.threads}
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in PARTS.items():
            if chosen.part in (None, name):
                asyncio.run(part(Path(folder), figures, ratios))
    print(json.dumps({"ratios": ratios, "figures": figures}, indent=2), file=result, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
