"""The OpenRLHF plug-in inside OpenRLHF's own vLLM rollout actor, an actor of Ray, on the CPU.

Needs an environment with both OpenRLHF and vLLM, which the other tests do not have. docs/plugins/openrlhf.md
describes how to make one.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from extra_client import NamespaceClient, PrefixClient
from extra_client.integrations import prompt_id
from support.generation_models import make_model, why_vllm_cannot_run
from support.novelty_server import Server

TOGETHER = all(find_spec(name) for name in ("vllm", "openrlhf"))
WHY_NOT = why_vllm_cannot_run() if TOGETHER else "vLLM is not beside OpenRLHF: see docs/plugins/openrlhf.md"
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

AGENT = """
from extra_client import NamespaceSettings
from extra_client.integrations import NoveltyScoring
from extra_client.integrations.openrlhf import PrefixCollecting, agent_executor

target = "{target}"
AgentExecutor = agent_executor(
    lambda response, label: len(response) % 2 == int(label),
    NoveltyScoring(
        target=target, namespace="run", metric="embedding", settings=NamespaceSettings(min_history=1)
    ),
    prefixes=PrefixCollecting(target=target, namespace="prefixes"),
)
"""


@pytest.mark.timeout(600)
def test_the_rollout_actor_rewards_groups_and_collects_the_entropies_of_hard_ones(tmp_path: Path) -> None:
    import ray

    from extra_trainer.openrlhf import replacements

    replacements.install()
    from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
    from vllm import SamplingParams

    # vLLM has no attention for smaller heads on the CPU.
    model = make_model(tmp_path / "model", head_dim=32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    (tmp_path / "agent.py").write_text(AGENT.format(target=f"unix:{tmp_path / 'socket'}"))
    hook = {"worker_process_setup_hook": replacements.install, "env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1"}}
    ray.init(num_cpus=2, num_gpus=0, runtime_env=hook, include_dashboard=False)
    try:
        with Server(tmp_path):
            actor: Any = RolloutRayActor.options(num_cpus=1, num_gpus=0).remote(
                model=str(model),
                agent_func_path=str(tmp_path / "agent.py"),
                worker_extension_cls="openrlhf.trainer.ray.vllm_worker_wrap.WorkerWrap",
                distributed_executor_backend="uni",
                num_gpus=0,
                dtype="float32",
                enforce_eager=True,
                max_model_len=128,
                seed=1,
            )

            def group(prompt: str, label: str) -> list[Any]:
                parameters = SamplingParams(temperature=1.0, max_tokens=24, min_tokens=1)
                arguments = (prompt, label, parameters, 128, tokenizer)
                outputs = actor.generate_responses.remote(*arguments, num_samples=4)
                return list(ray.get(outputs, timeout=400))

            first, second = group("1 + 1 = ", "0"), group("1 + 1 = ", "0")
            hard = group("2 + 2 = ", "7")
            with NamespaceClient(f"unix:{tmp_path / 'socket'}", "run") as client:
                solutions = {each.prompt_id: each.solutions_added for each in client.list_prompts()}
            with PrefixClient(f"unix:{tmp_path / 'socket'}", "prefixes") as prefixes:
                (stored,) = prefixes.list_prefixes([prompt_id("2 + 2 = ")])
    finally:
        ray.shutdown()
    outputs = [*first, *second]
    assert solutions[prompt_id("1 + 1 = ")] == sum(output["scores"] for output in outputs) > 0
    for output in outputs:
        assert output["reward"] == pytest.approx(output["scores"] + 0.1 * output["extra_logs"]["novelty"])
    assert any(output["extra_logs"]["novelty"] for output in second)
    assert [output["scores"] for output in hard] == [0.0] * 4
    # nats of 50 tokens.
    assert all(0 < prefix.mean_entropy < 4 for prefix in stored.prefixes)
    assert stored.prefixes
