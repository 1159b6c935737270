"""From the end of an update to the first token of the new policy: `extra-rl bench delivery --json`.

A model with random weights stands for the policy in the trainer. Each round delivers it to a generation
server in a process of its own, by folder and by stream, as the trainer does it, and asks for one token of
the new version. The clock stops when that token is here. Phases:

- `save`: the policy is written as a safetensors folder (both ways; the stream reads its tensors from there).
- `send`: the call until it returns, without the engine's part: for a stream, the tensors on the wire.
- `engine`: read (of a folder) and check the tensors, the plain forward pass of the probe, the swap, the
  probe.
- `first_token`: a prompt of 32 tokens, one token.

`parts` splits the engine's part of a folder further, by calling its functions in this process. Ratios are
the whole delivery over reading the same bytes from the page cache and copying them once more:
`MODEL_folder`, `MODEL_stream`, and the same of CPU seconds with `_cpu`; each is the median of the rounds.
`_transfer` leaves out what computes and does not move bytes: both passes of the probe and the first token.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from benchmarks.generation import EOS, rehearsal_model, save_model, serving, smollm2_shape
from benchmarks.processes import used_by
from extra_client import GenerationClient
from extra_services.generation import weights
from extra_services.generation.engines.transformers.model_runner import ModelRunner
from extra_trainer.rollouts.generation_pool import GenerationPool

ROUNDS = 5
WAYS: tuple[Literal["folder", "stream"], ...] = ("folder", "stream")
PROMPT = [3 + token % 19 for token in range(32)]


def smollm2_large_shape(folder: Path) -> Path:
    """Save a model of the shape of SmolLM2-1.7B in bfloat16."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=8192,
        eos_token_id=EOS,
        pad_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return save_model(LlamaForCausalLM(config), folder)
    finally:
        torch.set_default_dtype(before)


#: Model -> the function that saves it, and its number format.
MODELS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "tiny": (rehearsal_model, "float32"),
    "135m": (smollm2_shape, "float32"),
    "1.7b": (smollm2_large_shape, "bfloat16"),
}


@dataclass
class Clock:
    """Seconds by the clock, and CPU seconds of this process and of the server."""

    server: int
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu_seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add what a block takes to `name`."""
        cpu, started = self._cpu(), time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started
        self.cpu_seconds[name] += self._cpu() - cpu

    def _cpu(self) -> float:
        return used_by(map(psutil.Process, (os.getpid(), self.server)))


def read_and_copy(folder: Path) -> int:
    """Read the tensors of a folder from the page cache, copy them once more, and return their bytes."""
    total = 0
    for path in folder.glob("*.safetensors"):
        read = np.fromfile(path, np.uint8)
        total += read.copy().nbytes
    return total


def deliver(
    policy: Any, root: Path, pool: GenerationPool, client: GenerationClient, version: int, clock: Clock
) -> None:
    """Save and deliver the policy as `version`, and get its first token."""
    with clock.phase("save"):
        policy.save_pretrained(root / "policy")
    with clock.phase("deliver"):
        update = pool.deliver(root, "policy", version)
    # The engine's part is inside of the call.
    clock.seconds["engine"] = update.seconds
    clock.seconds["send"] = clock.seconds.pop("deliver") - update.seconds
    with clock.phase("first_token"):
        group = client.generate(
            [PROMPT], n=1, max_tokens=1, min_policy_version=version, seed=version, temperature=1.0
        )
    assert group[0][0].policy_version == version


def engine_parts(folder: Path, dtype: torch.dtype, device: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return clock and CPU seconds of each part of the engine's work on a delivered folder."""
    runner, delivery = ModelRunner(folder, dtype, device, compiled=False), weights.Delivery(folder)
    clock = Clock(os.getpid())
    with clock.phase("check"):
        weights.check_same_model(delivery, runner.config)
    with clock.phase("load"):
        model = weights.load(delivery, dtype, runner.device)
    with clock.phase("plain_pass"):
        reference = weights.plain_logprobs(model, runner.probe)
    del model, reference
    loaded = runner.load_weights(delivery)
    with clock.phase("swap_and_probe"), torch.inference_mode():
        runner.replace_weights(loaded)
    # This process was counted twice, as caller and as server.
    return dict(clock.seconds), {name: seconds / 2 for name, seconds in clock.cpu_seconds.items()}


def measure(
    name: str, rounds: int, threads: int, device: str, folder: Path
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the ratios and figures of a model."""
    make, dtype = MODELS[name]
    model, root = make(folder / "served"), folder / "root"
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
    seconds: dict[str, list[dict[str, float]]] = defaultdict(list)
    cpu: dict[str, list[dict[str, float]]] = defaultdict(list)
    flags = ("--weights-root", str(root), "--threads", str(threads), "--dtype", dtype, "--device", device)
    with serving(model, *flags) as (address, server), GenerationClient(address) as client:
        pools = {way: GenerationPool([address], way) for way in WAYS}
        for number in range(rounds + 1):
            for place, way in enumerate(WAYS if number % 2 else reversed(WAYS)):
                clock = Clock(server)
                deliver(policy, root, pools[way], client, 2 * number + place + 1, clock)
                print(f"round {number}, {way}: {dict(clock.seconds)}", file=sys.stderr, flush=True)
                if number:
                    seconds[way].append(dict(clock.seconds))
                    cpu[way].append(dict(clock.cpu_seconds))
            clock = Clock(server)
            with clock.phase("copy"):
                size = read_and_copy(root / "policy")
            if number:
                seconds["copy"].append(dict(clock.seconds))
                cpu["copy"].append(dict(clock.cpu_seconds))
        for pool in pools.values():
            pool.close()
    del policy
    parts, parts_cpu = engine_parts(root / "policy", getattr(torch, dtype), device)
    computing = parts["plain_pass"] + parts["swap_and_probe"]
    ratios, figures = {}, {"bytes": size, "parts": _rounded(parts), "parts_cpu": _rounded(parts_cpu)}
    for way in WAYS:
        figures[way] = _median(seconds[way])
        figures[f"{way}_cpu"] = _median(cpu[way])
        copies = [each["copy"] for each in seconds["copy"]]
        whole = [sum(each.values()) for each in seconds[way]]
        moving = [sum(each.values()) - each["first_token"] - computing for each in seconds[way]]
        ratios[f"{name}_{way}"] = _ratio(whole, copies)
        ratios[f"{name}_{way}_transfer"] = _ratio(moving, copies)
        ratios[f"{name}_{way}_cpu"] = _ratio(
            [sum(each.values()) for each in cpu[way]], [each["copy"] for each in cpu["copy"]]
        )
    figures["copy"], figures["copy_cpu"] = _median(seconds["copy"]), _median(cpu["copy"])
    return ratios, figures


def _ratio(ours: list[float], theirs: list[float]) -> float:
    # CPU seconds are counted in hundredths, and copying a tiny model takes none.
    return round(statistics.median(a / max(b, 0.01) for a, b in zip(ours, theirs, strict=True)), 2)


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]}


def _rounded(numbers: dict[str, float]) -> dict[str, float]:
    return {name: round(number, 3) for name, number in numbers.items()}


def main(arguments: list[str]) -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="extra-rl bench delivery", description=__doc__)
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=["135m"], help="1.7b: 16 GB")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="deliveries by each way that count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="the server's"
    )
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: the output is JSON")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    transformers.utils.logging.disable_progress_bar()
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"threads": chosen.threads, "load": os.getloadavg()[0]}
    for name in chosen.model:
        with tempfile.TemporaryDirectory() as folder:
            found, figures[name] = measure(name, chosen.rounds, chosen.threads, chosen.device, Path(folder))
            ratios |= found
    print(json.dumps({"ratios": ratios, "figures": figures}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
