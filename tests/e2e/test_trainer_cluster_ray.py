"""A run on an existing Ray cluster: services are actors on its nodes, and no process is left at the end."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from extra_trainer import config as configs
from extra_trainer.launch import plan
from extra_trainer.rehearsal.problems import problems
from extra_trainer.rehearsal.splits import Split
from extra_trainer.runs.folder import RunFolder
from support.processes import MARK, marked_processes, wait_for

#: What a run may take on a busy machine; nothing is asserted about time.
PATIENCE = 420
#: In the environment of all that the cluster runs.
WORD = uuid.uuid4().hex


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes on this machine; GPUs are only names for places here."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # All that runs on the cluster inherits it.
        patch.setenv(MARK, WORD)
        # Where Ray notes the cluster's address for whoever asks for none: not for other tests. Short, for
        # the paths of its sockets.
        folder = tempfile.mkdtemp(prefix="ray-")
        patch.setenv("RAY_TMPDIR", folder)
        head = {"num_cpus": 5, "num_gpus": 1, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(num_cpus=4, num_gpus=2)
            yield cluster.address
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of four prompts with two generation replicas; one policy worker."""
    folder = tmp_path_factory.mktemp("run")
    sizes: dict[Split, int] = {"train": 8, "evaluation": 2}
    for split, count in sizes.items():
        rows = ({"id": p.id, "problem": p.prompt, "answer": p.answer} for p in problems(split, count, seed=0))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "name": "cluster",
        "model": {"path": str(tiny_model)},
        "data": {name: str(folder / f"{name}.jsonl") for name in ("train", "evaluation")},
        "rollout": {
            "prompts_per_step": 4,
            "samples_per_prompt": 4,
            "prompt_max_tokens": 64,
            "response_max_tokens": 24,
        },
        "optimization": {
            "epochs": 1,
            "minibatch_prompts": 4,
            "micro_batch_samples": 8,
            "kl_coefficient": 0,
        },
        "prefix": {"warmup_steps": 1, "regen_batch_size": 1, "min_segment_tokens": 2},
        "evaluation": {"samples_per_prompt": 4, "k": [1, 4]},
        "services": {
            "generation": {"replicas": 2, "gpus": 1, "settings": {"threads": 1}},
            "novelty": {"settings": {"threads": 1}},
            "verification": {"settings": {"workers": 1}},
        },
    }
    (folder / "cluster.yaml").write_text(yaml.safe_dump(content))
    return folder / "cluster.yaml"


def _start(config: Path, run: Path, address: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "extra_cli", "train", str(config), "--run", str(run)]
    return subprocess.Popen(
        [*command, "--set", f"ray.address={address}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _servers() -> list[psutil.Process]:
    """The servers on the cluster."""
    found = []
    for process in marked_processes(WORD):
        # It may end meanwhile.
        with contextlib.suppress(psutil.Error):
            if "serve" in process.cmdline():
                found.append(process)
    return found


def test_the_plan_counts_the_cluster_s_gpus(address: str, config: Path, tmp_path: Path) -> None:
    def problems_with(workers: int) -> list[str]:
        changed = {"ray.address": address, "ray.gpus_per_node": workers}
        return plan.make(configs.load(config, changed), RunFolder(tmp_path)).problems

    # Two replicas and the policy worker take all three.
    assert problems_with(1) == []
    assert problems_with(2) == ["ray.address: the plan takes 4 GPUs, the cluster has 3"]


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
def test_services_run_as_actors_on_the_nodes_a_run_trains_and_nothing_is_left(
    address: str, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = _start(config, run, address)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert [record["step"] for record in metrics] == [1, 2]
    assert {record["generation_replicas"] for record in metrics} == {2}
    served = [json.loads(line) for line in (run / "logs" / "generation-1.log").open() if line.startswith("{")]
    serving = next(record for record in served if record["event"] == "serving")
    assert not serving["address"].startswith(("unix:", "127.0.0.1"))
    wait_for(lambda: not _servers(), "servers were left running", PATIENCE)


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
def test_a_launcher_that_is_killed_leaves_no_service_on_the_cluster(
    address: str, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = _start(config, run, address)
    wait_for(
        lambda: len(_servers()) == 4 or process.poll() is not None, "the services never started", PATIENCE
    )
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not _servers(), "servers outlived the launcher", PATIENCE)
