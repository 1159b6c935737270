"""Run agent.py and reward.py in OpenRLHF's executors, with given responses instead of vLLM's engine.

    make example-openrlhf

On a machine with vLLM the same files run in training: docs/plugins/openrlhf.md has the command line.
"""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from extra_client import embedded
from extra_trainer.openrlhf import replacements
from extra_trainer.rehearsal.tokenizer import make_tokenizer

HERE = Path(__file__).parent
#: Eight known solutions; then a round with one new solution and a wrong one; then all wrong, one way new.
ROUNDS = [
    ["12+3=15\n", "3+12=15\n"] * 4,
    ["12+3=15\n"] * 6 + ["12+3=10+5=15\n", "12+3=14\n"],
    ["12+3=14\n"] * 7 + ["12+3=16\n"],
]


class Engine:
    """An engine that returns one given text after the other."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = iter(texts)

    async def generate(self, _tokens: Any, _parameters: Any, multi_modal_data: Any = None) -> Any:
        text = next(self.texts)
        ids = make_tokenizer()(text)["input_ids"]
        output = SimpleNamespace(token_ids=ids, text=text, finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[output])


async def main() -> None:
    """Three rounds of eight rollouts of one prompt, by each of the two files."""
    replacements.install()
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
            calls = [executor.execute(prompt, "15", parameters, 96, make_tokenizer(), engine) for _ in texts]
            outputs = await asyncio.gather(*calls)
            print(name, "rewards", [float(f"{output['reward']:.4g}") for output in outputs])


if __name__ == "__main__":
    asyncio.run(main())
