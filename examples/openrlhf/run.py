"""Run agent.py and reward.py in OpenRLHF's executors, with given responses instead of vLLM's engine.

    make example-openrlhf

On a machine with vLLM the same files run in training: docs/plugins/openrlhf.md has the command line.
"""

import asyncio
import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from transformers import AutoTokenizer

from extra_client import embedded

HERE = Path(__file__).parent
#: Any tokenizer will do; this one needs no model hub.
TOKENIZER = AutoTokenizer.from_pretrained(
    HERE.parents[1] / "trainer/start-models/start-model-f4f3074ac22e69de"
)
#: Names that OpenRLHF imports at its start from packages that need a GPU.
GPU_PACKAGES = {
    "flash_attn": (),
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils": (),
    "flash_attn.utils.distributed": ("all_gather",),
    "vllm": ("SamplingParams",),
    "vllm.inputs": ("TokensPrompt",),
    "vllm.utils": ("random_uuid",),
}
#: Eight known solutions; then a round with one new solution and a wrong one; then all wrong, one way new.
ROUNDS = [
    ["12+3=15\n", "3+12=15\n"] * 4,
    ["12+3=15\n"] * 6 + ["2+3=5\n10+5=15\n", "12+3=14\n"],
    ["12+3=14\n"] * 7 + ["12+3=16\n"],
]


class Engine:
    """An engine that returns one given text after the other."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = iter(texts)

    async def generate(self, _tokens: Any, _parameters: Any, multi_modal_data: Any = None) -> Any:
        text = next(self.texts)
        ids = TOKENIZER(text)["input_ids"]
        output = SimpleNamespace(token_ids=ids, text=text, finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[output])


def stand_in_for_missing_packages() -> None:
    """Let OpenRLHF be imported without flash-attn and vLLM, which nothing here uses."""
    missing = [name for name in ("flash_attn", "vllm") if find_spec(name) is None]
    for name, members in GPU_PACKAGES.items():
        if name.partition(".")[0] in missing:
            module = ModuleType(name)
            module.__path__ = []
            module.__spec__ = ModuleSpec(name, None)
            vars(module).update({"__version__": "0"}, **dict.fromkeys(members))
            sys.modules[name] = module


async def main() -> None:
    """Three rounds of eight rollouts of one prompt, by each of the two files."""
    stand_in_for_missing_packages()
    from openrlhf.trainer.ray.vllm_engine import _load_agent_executor
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    os.environ["NOVELTY"] = embedded.start("novelty").target
    os.environ["VERIFICATION"] = embedded.start("verification").target
    files = (
        ("agent.py", _load_agent_executor, "12+3=?\n"),
        ("reward.py", SingleTurnAgentExecutor, "3+12=?\n"),
    )
    for name, load, prompt in files:
        executor = load(str(HERE / name))
        for texts in ROUNDS:
            engine, parameters = Engine(texts), SimpleNamespace(temperature=1.0, max_tokens=32, logprobs=None)
            calls = [executor.execute(prompt, "15", parameters, 96, TOKENIZER, engine) for _ in texts]
            outputs = await asyncio.gather(*calls)
            print(name, "rewards", [float(f"{output['reward']:.4g}") for output in outputs])


if __name__ == "__main__":
    asyncio.run(main())
