"""The plan of a run: resolved without starting anything, with all problems in one list."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from extra_client import embedded
from extra_rl.config_file import ConfigError
from extra_trainer import config as configs
from extra_trainer.launch import memory_estimate, plan
from extra_trainer.openrlhf import parser as openrlhf_parser
from extra_trainer.runs.folder import RunFolder
from support.run_folders import rollout_record

CONFIGS = Path(__file__).resolve().parents[2] / "trainer" / "configs"
#: As published with the model.
QWEN3_1_7B = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with problems and a config that has nothing wrong with it."""
    folder = tmp_path_factory.mktemp("run")
    rows = [
        {"id": str(number), "problem": f"{number}+1=?\n", "answer": str(number + 1)} for number in range(20)
    ]
    for name in ("train", "evaluation"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "name": "planned",
        "model": {"path": str(tiny_model)},
        "data": {name: str(folder / f"{name}.jsonl") for name in ("train", "evaluation")},
        "rollout": {
            "prompts_per_step": 8,
            "samples_per_prompt": 4,
            "prompt_max_tokens": 32,
            "response_max_tokens": 24,
        },
        "optimization": {"epochs": 3, "minibatch_prompts": 4, "micro_batch_samples": 4},
        "prefix": {"regen_batch_size": 2},
        "evaluation": {"samples_per_prompt": 4, "k": [1]},
        "checkpoint": {"every_steps": 2},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def generation(tiny_model: Path) -> Iterator[str]:
    with embedded.start("generation", model=tiny_model, threads=1, max_model_len=64) as service:
        yield service.target


def _plan(folder: Path, **overrides: object) -> plan.Plan:
    return plan.make(configs.load(folder / "config.yaml", overrides), RunFolder(folder / "none"))


def test_a_config_with_nothing_wrong_is_resolved_into_processes_steps_and_memory(folder: Path) -> None:
    made = _plan(folder, **{"ray.gpus_per_node": 2, "openrlhf": {"ds.zero_stage": 3}})
    assert made.problems == []
    rows = {row.what: (row.count, row.gpus) for row in made.processes}
    assert rows["policy worker (DeepSpeed)"] == rows["reference worker"] == (2, 1)
    assert rows["generation replica (transformers)"] == (1, 0)
    assert made.gpus == 4
    figures = dict(made.figures)
    # 20 problems are two steps of 8; the rest of a pass is left out.
    assert figures["steps"].startswith("6: 2 a pass")
    assert figures["tokens in all"] == f"at most {6 * 8 * 4 * 24:,} sampled"
    # No GPU was found, or asked for by an address of Ray.
    assert figures["training"].startswith("ZeRO-3 over 2, fp32")
    assert dict(made.memory)["policy worker: together"] > 0
    assert any("no GPU is here" in line for line in made.assumed)


def test_the_plan_says_how_old_rollouts_may_be_and_whether_they_can_wait(folder: Path) -> None:
    assert dict(_plan(folder).figures)["rollouts"] == "of the policy that they update"
    made = _plan(folder, **{"rollout.max_staleness": 1})
    assert "at most 1 policy version(s) behind, of one version each" in dict(made.figures)["rollouts"]
    assert made.problems == []
    small = {"services.generation.settings": {"max_queue": 95}}
    made = _plan(folder, **{"rollout.max_staleness": 2}, **small)
    assert "go on with new weights; importance weights cut at 2.0" in dict(made.figures)["rollouts"]
    (problem,) = made.problems
    assert "3 steps of 32 samples" in problem
    assert "max_queue to 96" in problem


def test_the_plan_says_what_a_run_shares_with_others(folder: Path, generation: str) -> None:
    def shared(**overrides: object) -> str:
        return dict(_plan(folder, **overrides).figures)["shared with other runs"]

    assert shared() == "nothing"
    assert shared(**{"services.generation.target": generation}) == (
        f"generation at {generation}: for one run at a time"
    )
    redis = shared(**{"services.novelty.settings": {"redis_url": "redis://:password@localhost:6379/0"}})
    assert redis.startswith("novelty in Redis (redis_url), its memories under a name of their own")


def test_the_plan_says_how_many_responses_can_exceed_the_window_of_the_novelty(
    folder: Path, tmp_path: Path
) -> None:
    def reads(overrides: dict[str, Any], where: Path = tmp_path / "none") -> str:
        config = configs.load(folder / "config.yaml", {"novelty.metric": "embedding", **overrides})
        return dict(plan.make(config, RunFolder(where)).figures).get("novelty reads", "")

    long = {"rollout.response_max_tokens": 1000}
    assert reads({}) == "responses as a whole: 24 tokens fit its window"
    assert reads(long).startswith("about 254 of up to 1,000 tokens: all 32 responses of a step can exceed")
    assert reads({**long, "novelty.window": "whole"}) == "responses as a whole, in up to 4 pieces"
    assert reads({**long, "novelty.metric": "derivation"}) == "responses as a whole, in up to 4 pieces"
    assert reads({**long, "novelty.metric": "ngram_count"}) == reads({"novelty.enabled": False}) == ""
    assert "not known here" in reads({"services.novelty.settings": {"embedder": "model"}})
    run = RunFolder(tmp_path)
    run.write_rollouts(3, [rollout_record(tokens=tokens) for tokens in (100, 300, 254, 255)])
    assert "and 2 of the 4 of step 3 do;" in reads(long, run.path)


def test_all_problems_are_listed_at_once_and_the_exit_code_is_1(folder: Path, tmp_path: Path) -> None:
    changed = {
        "data.evaluation": "nowhere.jsonl",
        "data.answer_key": "solution",
        "data.apply_chat_template": True,
        "rollout.response_max_tokens": 5000,
        "ray.gpus_per_node": 3,
        "services.verification.target": f"unix:{tmp_path}/none",
        "openrlhf": {"ds.zero_stage": 2, "ds.zero_stege": 3},
    }
    settings = [word for name, value in changed.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    command = [sys.executable, "-m", "extra_cli", "train", str(folder / "config.yaml"), "--dry-run"]
    done = subprocess.run([*command, *settings, "--run", str(tmp_path / "r")], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    for text in (
        "nowhere.jsonl",
        "there is no 'solution' (answer_key names it); it has id, problem, answer",
        "20 rows, 0 distinct prompts",
        "Not checked: whether answers can be read",
        "has no chat template",
        "is more than the model's window",
        f"no verification service answers at unix:{tmp_path}/none",
        "OpenRLHF refuses its flags: unrecognized arguments: --ds.zero_stege 3",
    ):
        assert text in done.stdout, text
    assert not (tmp_path / "r").exists()
    # Without --dry-run the same problems stop it before anything starts.
    again = subprocess.run(
        [*command[:-1], *settings, "--run", str(tmp_path / "r")], capture_output=True, text=True
    )
    assert again.returncode == 1
    assert "unrecognized arguments: --ds.zero_stege" in again.stdout
    assert not (tmp_path / "r").exists()


def test_batches_that_do_not_divide_over_the_workers_are_a_problem(folder: Path) -> None:
    (problem,) = _plan(folder, **{"ray.gpus_per_node": 3}).problems
    assert "(16) must be a multiple of" in problem
    assert "(12)" in problem


def test_prompts_that_are_too_long_are_counted_and_the_first_is_named(folder: Path) -> None:
    (problem,) = _plan(folder, **{"rollout.prompt_max_tokens": 6}).problems
    assert "10 prompts have more than rollout.prompt_max_tokens (6) tokens, the longest 7" in problem
    assert "the first has the id 10" in problem


def test_a_service_that_runs_is_asked_for_its_vocabulary_and_window(
    folder: Path, generation: str, tmp_path: Path, tiny_model: Path
) -> None:
    assert _plan(folder, **{"services.generation.target": generation}).problems == []
    (window,) = _plan(
        folder, **{"services.generation.target": [generation], "rollout.response_max_tokens": 40}
    ).problems
    assert "serves at most 64 tokens of prompt and response" in window
    other = tmp_path / "other"
    other.mkdir()
    for path in tiny_model.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    (problem,) = _plan(
        folder, **{"services.generation.target": generation, "model.path": str(other)}
    ).problems
    assert "whose vocabulary is not that of model.path" in problem


def test_a_ray_address_where_nothing_answers_is_a_problem(folder: Path) -> None:
    (problem,) = _plan(folder, **{"ray.address": "127.0.0.1:1"}).problems
    assert "nothing answers at 127.0.0.1:1" in problem


def test_the_paper_s_config_is_resolved_without_a_gpu_from_stand_in_files(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config = configs.load(
        CONFIGS / "qwen3-1.7b.yaml",
        {
            "model.path": str(_qwen(tmp_path / "Qwen3-1.7B", tiny_model)),
            "data.train": str(folder / "train.jsonl"),
            "data.evaluation": str(folder / "evaluation.jsonl"),
            # There is no cluster here, and vLLM may not be installed.
            "ray.address": None,
            "services.generation.settings.engine": "transformers",
        },
    )
    made = plan.make(config, RunFolder(tmp_path / "run"))
    # A stand-in of twenty problems is no step of 512; nothing else is wrong.
    assert [problem for problem in made.problems if "fewer than one step takes" not in problem] == []
    memory = dict(made.memory)
    # 1.72 billion parameters, 2 bytes each; ZeRO-2 over eight workers.
    assert memory["policy worker: weights"] == pytest.approx(2 * 1.72e9 / 2**30, rel=0.01)
    assert memory["policy worker: optimizer"] == pytest.approx(12 * 1.72e9 / 8 / 2**30, rel=0.01)
    # Weights, gradients and optimizer, the reference beside them, and 16,384 tokens at a time.
    assert 30 < memory["policy worker: together"] < 40
    figures = dict(made.figures)
    assert figures["training"] == (
        "ZeRO-2 over 8, bf16, flash_attention_2, gradient checkpointing, packing, "
        "dynamic batches of 16,384 tokens"
    )
    assert made.gpus == 12
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    plan.show(made, console)
    text = console.export_text()
    assert "1.72 billion parameters" in text
    assert "no GPU is here" in text


def _qwen(folder: Path, tokenizer: Path) -> Path:
    """Qwen3-1.7B's config and the header of its weights; a small tokenizer with a chat template."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN3_1_7B))
    (folder / "tokenizer.json").write_bytes((tokenizer / "tokenizer.json").read_bytes())
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    hidden, inner, heads = 2048, 6144, 128
    layer = hidden * heads * (16 + 8 + 8 + 16) + 3 * hidden * inner + 2 * hidden + 2 * heads
    shapes = {"layers": [28, layer], "embed": [151936, hidden], "norm": [hidden]}
    header = json.dumps(
        {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    ).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def test_memory_shrinks_with_the_zero_stage_as_the_formula_says() -> None:
    shape = memory_estimate.ModelShape(
        parameters=10**9, layers=10, hidden=1000, vocabulary=50_000, kv_heads=4, head_size=64, window=4096
    )
    found = [
        memory_estimate.worker_memory(
            shape, workers=4, zero_stage=stage, micro_batch_tokens=1000, checkpointing=True
        )
        for stage in (0, 1, 2, 3)
    ]
    billions = [(m.weights / 1e9, m.gradients / 1e9, m.optimizer / 1e9) for m in found]
    assert billions == [(2, 2, 12), (2, 2, 3), (2, 0.5, 3), (0.5, 0.5, 3)]
    double = memory_estimate.worker_memory(
        shape, workers=4, zero_stage=3, micro_batch_tokens=1000, checkpointing=True, float32=True
    )
    assert (double.weights / 1e9, double.gradients / 1e9, double.optimizer / 1e9) == (1, 1, 3)
    # 34 bytes for one layer's activations, 2 for each layer's checkpoint, 10 for each logit.
    assert found[0].activations == 1000 * (34 * 1000 + 10 * 2 * 1000 + 10 * 50_000)
    assert shape.kv_bytes_per_token == 2 * 10 * 4 * 64 * 2


def test_openrlhf_s_own_parser_and_checks_are_used() -> None:
    parsed = openrlhf_parser.parse(["--ds.zero_stage", "3", "--reward.remote_url", "x", "--train.seed", "7"])
    assert (parsed["ds"]["zero_stage"], parsed["train"]["seed"]) == (3, 7)
    with pytest.raises(ConfigError, match=r"ds.param_dtype: invalid choice: 'fp8'"):
        openrlhf_parser.parse(["--ds.param_dtype", "fp8", "--reward.remote_url", "x"])
    # An assertion after parsing.
    with pytest.raises(ConfigError, match="requires n_samples_per_prompt > 1"):
        openrlhf_parser.parse(["--algo.advantage.estimator", "group_norm", "--reward.remote_url", "x"])
