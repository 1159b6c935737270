"""Two policy workers, or packed dynamic batches, make the same update as one worker with padded batches.

Uses real OpenRLHF, Ray and DeepSpeed on the CPU.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from extra_client import embedded

#: What a run may take on a busy machine; nothing is asserted about time.
PATIENCE = 280
PROMPTS = [f"{number}+{number + 3}=?\n" for number in (11, 27, 38, 45)]


@pytest.fixture(scope="module")
def targets(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Services that both runs use; weights come as a stream, no folder is shared."""
    with (
        embedded.start("generation", model=tiny_model, threads=1) as generation,
        embedded.start("verification", workers=1) as verification,
        embedded.start("novelty", data_folder=tmp_path_factory.mktemp("memory"), threads=1) as novelty,
    ):
        services = {"generation": generation, "verification": verification, "novelty": novelty}
        yield {name: service.target for name, service in services.items()}


@pytest.fixture(scope="module")
def config(tiny_model: Path, targets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step of four prompts with sixteen samples. The model knows no sums: right is what it often says."""
    folder = tmp_path_factory.mktemp("config")
    rows = [{"problem": prompt, "answer": "1"} for prompt in PROMPTS]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "name": "parallel",
        "model": {"path": str(tiny_model)},
        "data": {"train": str(folder / "problems.jsonl"), "evaluation": str(folder / "problems.jsonl")},
        "rollout": {
            "prompts_per_step": 4,
            "samples_per_prompt": 16,
            "prompt_max_tokens": 64,
            "response_max_tokens": 24,
            "temperature": 0.3,
        },
        "optimization": {
            "epochs": 1,
            "minibatch_prompts": 4,
            "micro_batch_samples": 4,
            "learning_rate": 1e-2,
            "kl_coefficient": 0,
        },
        "prefix": {"enabled": False, "regen_batch_size": 0},
        "evaluation": {"problems": 1, "samples_per_prompt": 1, "k": [1]},
        "services": {
            **{name: {"target": target} for name, target in targets.items()},
            "generation": {"target": targets["generation"], "weights": "stream"},
        },
    }
    (folder / "parallel.yaml").write_text(yaml.safe_dump(content))
    return folder / "parallel.yaml"


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE)
def test_two_workers_and_packed_batches_make_the_first_update_of_one(
    config: Path, tiny_model: Path, tmp_path: Path
) -> None:
    start = load_file(tiny_model / "model.safetensors")
    updates, metrics, rollouts = [], [], []
    dynamic = "openrlhf={train.dynamic_batch_enable: true, train.max_tokens_per_gpu: 128}"
    for number, setting in enumerate(("ray.gpus_per_node=1", "ray.gpus_per_node=2", dynamic)):
        run = tmp_path / f"run-{number}"
        command = [sys.executable, "-m", "extra_cli", "train", str(config), "--run", str(run)]
        done = subprocess.run(
            [*command, "--set", setting],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=dict(os.environ),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        trained = load_file(run / "weights" / "policy" / "model.safetensors")
        updates.append(torch.cat([(trained[name].float() - start[name].float()).ravel() for name in start]))
        (record,) = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        metrics.append(record)
        rollouts.append(
            [json.loads(line)["text"] for line in (run / "rollouts" / "step-000001.jsonl").open()]
        )
    assert rollouts[0] == rollouts[1] == rollouts[2]
    assert 0 < metrics[0]["reward"] < 1
    # Over all workers; OpenRLHF's policy_loss is the first worker's share.
    for name in ("reward", "actor_grad_norm"):
        for other in metrics[1:]:
            assert other[name] == pytest.approx(metrics[0][name], rel=0.01), name
    # Adam's first step is the learning rate with the gradient's sign: rounding to bfloat16, summed in another
    # order, decides a sign where the gradient is nearly zero, and nowhere else.
    one, *others = updates
    assert one.abs().median() > 5e-3
    for other in others:
        assert ((one - other).abs() > 1e-3).float().mean() < 0.01
        assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.99
