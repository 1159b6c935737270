"""Our transformers engine beside what people would use instead: `extra-rl bench engines --json`.

Each engine runs in a process of its own, loads the same model, and generates continuations of the same
prompts (token ids) in float32 with as many threads. The rounds are taken in turn, so that all engines have
the same load on the machine; only one of them works at a time. Each round reports tokens, seconds by the
clock, and the CPU seconds of the engine's process with its children, which other work disturbs less.

- `transformers`: the engine of this project, with exact entropies and log-probabilities of every token.
- `generate_batch`: transformers' own continuous batching (paged cache, `paged|sdpa`), tokens only.
- `vllm`: the project's engine on vLLM, with exact entropies; it needs the environment of `make test-vllm`
  (`--vllm-python`), and is left out with a note where that is missing.

Ratios are ours over theirs in tokens per second (`NAME_over_ENGINE`) and in tokens per CPU second
(`NAME_over_ENGINE_cpu`), medians over the pairs of a round. Workloads: `rehearsal`, the start model of the
rehearsal with its own problems and natural ends (16 prompts x 8); `smollm2`, SmolLM2-135M with a fixed number
of tokens. Its weights are those of `make smollm2` if they are there, else random ones of its shape.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.processes import used_by

ROOT = Path(__file__).resolve().parents[1]
#: The first round of each engine warms up and is not counted.
ROUNDS = 6
ENGINES = ("transformers", "generate_batch", "vllm")


@dataclass(frozen=True)
class Workload:
    """What every engine generates in a round."""

    model: str
    #: Token ids of each prompt.
    prompts: list[list[int]]
    #: Samples of each prompt.
    n: int
    max_tokens: int
    #: max_tokens: all samples have the same length; 0: they end where the model ends them.
    min_tokens: int
    #: Samples generated at once.
    batch: int

    @property
    def longest(self) -> int:
        """Most tokens of a prompt with its continuation."""
        return max(map(len, self.prompts)) + self.max_tokens


@dataclass(frozen=True)
class Round:
    """What an engine measured in a round."""

    tokens: int
    seconds: float
    cpu_seconds: float


def rehearsal(folder: Path, prompts: int = 16, n: int = 8, max_tokens: int = 128) -> Workload:
    """Return a step of the rehearsal: its start model, its problems, natural ends."""
    from transformers import AutoTokenizer

    from extra_trainer import config as configs
    from extra_trainer.data.made import make_problems
    from extra_trainer.rehearsal.recipes import RECIPES
    from extra_trainer.rehearsal.start_model import start_model

    del folder
    config = configs.load(ROOT / "trainer/configs/rehearsal.yaml")
    model = start_model(ROOT / "trainer/start-models", config.model.seed, RECIPES[config.model.path])
    tokenizer = AutoTokenizer.from_pretrained(model)
    data = config.data
    problems = make_problems(data.train, "train", prompts, config.seed, data, tokenizer)
    ids = [[int(token) for token in tokenizer(problem.prompt)["input_ids"]] for problem in problems]
    return Workload(str(model), ids, n, max_tokens, 0, prompts * n)


def smollm2(folder: Path, prompts: int = 4, n: int = 8, max_tokens: int = 32) -> Workload:
    """Return samples of one length by SmolLM2-135M, from prompts of 10 to 50 random tokens."""
    made = ROOT / "models/smollm2/model"
    if not (made / "config.json").exists():
        from benchmarks.generation import smollm2_shape

        made = smollm2_shape(folder / "smollm2")
    rng = np.random.default_rng(3)
    ids = [rng.integers(20, 49000, rng.integers(10, 50)).tolist() for _ in range(prompts)]
    return Workload(str(made), ids, n, max_tokens, max_tokens, prompts * n)


WORKLOADS: dict[str, Callable[..., Workload]] = {"rehearsal": rehearsal, "smollm2": smollm2}

#: Runs a round with a seed, and returns the number of tokens drawn.
Generate = Callable[[int], int]


def _request(work: Workload, seed: int) -> Any:
    from extra_services.errors import ServiceError
    from extra_services.generation.requests import GenerationRequest, Prompt, SamplingParameters

    sampling = SamplingParameters(max_tokens=work.max_tokens, min_tokens=work.min_tokens)
    prompts: list[Prompt | ServiceError] = [Prompt(np.array(ids, np.int32)) for ids in work.prompts]
    return GenerationRequest(prompts, work.n, sampling, seed=seed)


async def _drawn(engine: Any, request: Any) -> int:
    """Return the tokens of all rollouts of `request`; each has its entropy."""
    from extra_services.generation.rollouts import Rollout

    tokens = 0
    async for events in engine.generate(request):
        for event in events:
            if isinstance(event, Rollout):
                lengths: NDArray[np.float32] = event.entropies
                assert len(lengths) == len(event.token_ids)
                tokens += len(event.token_ids)
    return tokens


def ours(work: Workload, threads: int, loop: asyncio.AbstractEventLoop) -> Generate:
    """Load the transformers engine of this project."""
    from extra_services.generation.engines.transformers.engine import TransformersEngine, TransformersOptions

    options = TransformersOptions(
        model=Path(work.model), max_batch=work.batch, threads=threads, prefix_cache_bytes=0
    )
    engine = TransformersEngine(options, str)
    return lambda seed: loop.run_until_complete(_drawn(engine, _request(work, seed)))


def on_vllm(work: Workload, threads: int, loop: asyncio.AbstractEventLoop) -> Generate:
    """Start the vLLM engine of this project."""
    from extra_services.generation.engines.vllm.engine import VllmEngine
    from extra_services.generation.engines.vllm.options import VllmOptions

    del threads  # from the environment
    options = VllmOptions(
        model=Path(work.model),
        max_batch=work.batch,
        max_model_len=-(-work.longest // 64) * 64,
        kv_cache_bytes=2**30,
    )
    engine = loop.run_until_complete(VllmEngine.start(options, str))
    return lambda seed: loop.run_until_complete(_drawn(engine, _request(work, seed)))


#: Tokens of a page of the cache: on the CPU every query is multiplied with all pages in use, so small pages,
#: which waste less, are faster than the default of 256.
PAGE = 32


def generate_batch(work: Workload, threads: int, loop: asyncio.AbstractEventLoop) -> Generate:
    """Load the model for transformers' continuous batching."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    del loop
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32, attn_implementation="sdpa")
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    pages = -(-work.longest // PAGE) + 1
    batching = ContinuousBatchingConfig(
        block_size=PAGE,
        num_blocks=work.batch * pages,
        max_batch_tokens=max(512, 2 * work.batch),
    )
    ids = [prompt for prompt in work.prompts for _ in range(work.n)]
    ends = model.generation_config.eos_token_id or model.config.eos_token_id
    settings = GenerationConfig(
        do_sample=True,
        top_k=0,
        max_new_tokens=work.max_tokens,
        eos_token_id=-1 if work.min_tokens else ends,
        pad_token_id=0,
    )

    def generate(seed: int) -> int:
        torch.manual_seed(seed)
        found = model.generate_batch(
            ids,
            generation_config=settings,
            continuous_batching_config=batching,
            progress_bar=False,
            persistent_manager=True,
        )
        if len(found) != len(ids):
            raise SystemExit(f"generate_batch returned {len(found)} of {len(ids)} samples")
        return sum(len(each.generated_tokens) for each in found.values())

    return generate


LOAD: dict[str, Callable[[Workload, int, asyncio.AbstractEventLoop], Generate]] = {
    "transformers": ours,
    "generate_batch": generate_batch,
    "vllm": on_vllm,
}


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its children so far."""
    here = psutil.Process()
    return used_by((here, *here.children(recursive=True)))


def child(engine: str, work: Workload, threads: int, result: IO[str]) -> None:
    """Load an engine, then run a round for every line of standard input: the seed."""
    loop = asyncio.new_event_loop()
    generate = LOAD[engine](work, threads, loop)
    print("ready", file=result, flush=True)
    for line in sys.stdin:
        cpu, started = cpu_seconds(), time.perf_counter()
        tokens = generate(int(line))
        measured = Round(tokens, time.perf_counter() - started, cpu_seconds() - cpu)
        print(json.dumps(asdict(measured)), file=result, flush=True)
    os._exit(0)  # nothing is to be saved; the parent ends what vLLM leaves behind


class Child:
    """An engine in a process of its own; a context manager."""

    def __init__(self, engine: str, work: Path, threads: int, python: str) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join([*(path for path in sys.path if path), str(ROOT)]),
            # The system places the threads of all engines alike.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if python != sys.executable:
            # Of another environment: only the source folders of this checkout are shared.
            parts = ("", "contract", "client", "cli", "services", "trainer")
            environment["PYTHONPATH"] = os.pathsep.join(str(ROOT / part) for part in parts)
        command = [python, "-m", "benchmarks.engines", "--child", engine, "--work", str(work)]
        command += ["--threads", str(threads)]
        self._name = engine
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )

    def __enter__(self) -> "Child":
        if self._line() != "ready":
            raise SystemExit(f"the engine {self._name} did not start")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        # vLLM's processes do not always end with the one that started them.
        started = psutil.Process(self._process.pid).children(recursive=True)
        self._process.stdin.close()
        self._process.wait(60)
        for left in psutil.wait_procs(started, timeout=5)[1]:
            left.kill()

    def round(self, seed: int) -> Round:
        """Run a round."""
        assert self._process.stdin is not None
        print(seed, file=self._process.stdin, flush=True)
        return Round(**json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the engine {self._name} ended with {self._process.wait()}; see its log above")
        return line.strip()


def measure(
    work: Workload, engines: Sequence[str], rounds: int, threads: int, vllm_python: str
) -> dict[str, list[Round]]:
    """Return the rounds of each engine; round i of all engines was measured in turn.

    Args:
        work: What is generated.
        engines: Names of the engines.
        rounds: Rounds that count.
        threads: CPU threads of each.
        vllm_python: The Python that has vLLM.
    """
    measured: dict[str, list[Round]] = {name: [] for name in engines}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "work.json"
        file.write_text(json.dumps(asdict(work)))
        children = {
            name: stack.enter_context(
                Child(name, file, threads, vllm_python if name == "vllm" else sys.executable)
            )
            for name in engines
        }
        for seed in range(rounds + 1):
            for name in engines if seed % 2 else reversed(engines):
                result = children[name].round(seed)
                print(f"round {seed}, {name}: {result}", file=sys.stderr, flush=True)
                if seed:
                    measured[name].append(result)
    return measured


def summary(
    name: str, measured: dict[str, list[Round]], ratios: dict[str, float], figures: dict[str, Any]
) -> None:
    """Record tokens per second of the engines, and the ratios of ours to each."""

    def rates(engine: str) -> tuple[list[float], list[float]]:
        rounds = measured[engine]
        return [r.tokens / r.seconds for r in rounds], [r.tokens / max(r.cpu_seconds, 1e-9) for r in rounds]

    for engine in measured:
        by_clock, by_cpu = rates(engine)
        figures[f"{name}_{engine}"] = {
            "tokens_per_second": round(statistics.median(by_clock), 1),
            "tokens_per_cpu_second": round(statistics.median(by_cpu), 1),
            "tokens": round(statistics.mean(r.tokens for r in measured[engine])),
        }
        if engine == "transformers" or "transformers" not in measured:
            continue
        for suffix, mine, theirs in zip(("", "_cpu"), rates("transformers"), (by_clock, by_cpu), strict=True):
            pairs = [a / b for a, b in zip(mine, theirs, strict=True)]
            ratios[f"{name}_over_{engine}{suffix}"] = round(statistics.median(pairs), 2)


def default_vllm_python() -> str:
    """Return the Python with vLLM: that of `make test-vllm`."""
    return str(ROOT / ".venv-vllm/bin/python")


def main(arguments: list[str]) -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="extra-rl bench engines", description=__doc__)
    parser.add_argument("--workload", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of each engine that count")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of each engine")
    parser.add_argument("--vllm-python", default=default_vllm_python(), help="the Python that has vLLM")
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: the output is JSON")
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    # Engines log to standard output, which is for the result alone.
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if chosen.child:
        child(chosen.child, Workload(**json.loads(chosen.work.read_text())), chosen.threads, result)
    engines, figures = list(chosen.engines), {"threads": chosen.threads, "load": os.getloadavg()[0]}
    if "vllm" in engines and not Path(chosen.vllm_python).exists():
        engines.remove("vllm")
        figures["vllm_left_out"] = f"{chosen.vllm_python} is missing: make .venv-vllm/installed"
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.workload:
            work = WORKLOADS[name](Path(folder))
            measured = measure(work, engines, chosen.rounds, chosen.threads, chosen.vllm_python)
            summary(name, measured, ratios, figures)
    print(json.dumps({"ratios": ratios, "figures": figures}, indent=2), file=result, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
