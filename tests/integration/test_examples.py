"""The programs in examples/ run as they stand; the one of verl's is in test_plugin_verl.py.

No test uses a model hub: the branch of examples/trl_grpo.py that a hub serves gets folders in a hub's form.
"""

import json
import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.generation_models import make_model
from support.processes import python_path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
#: Rows in the form of the data set openai/gsm8k.
ROWS = [
    {
        "question": f"A farm has {goats} goats and twice as many ducks. How many animals are there?",
        "answer": f"There are 2*{goats}=<<2*{goats}={2 * goats}>>{2 * goats} ducks.\n#### {3 * goats}",
    }
    for goats in range(2, 80)
]


def output(program: str, *arguments: str) -> str:
    """Run an example far from any model hub, and return what it prints."""
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / program), *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": python_path(EXAMPLES, ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-5000:]
    return ran.stdout


def table(printed: str) -> list[list[float]]:
    """Return the rows (step, reward, novelty) that examples/trl_grpo.py prints."""
    return [
        [float(number) for number in line.split()]
        for line in printed.splitlines()
        if re.fullmatch(r" *\d+  +\S+  +\S+", line)
    ]


@pytest.fixture(scope="module")
def gsm8k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set in a folder, with the config and split of openai/gsm8k."""
    folder = tmp_path_factory.mktemp("gsm8k")
    (folder / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    card = {"configs": [{"config_name": "main", "data_files": [{"split": "train", "path": "train.jsonl"}]}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    return folder


def test_trl_trains_the_made_model_where_no_hub_is() -> None:
    printed = output("trl_grpo.py")
    assert "on made sums" in printed
    steps = table(printed)
    assert [row[0] for row in steps] == list(range(1, 13))
    assert any(reward > 0 for _, reward, _ in steps)
    assert any(novelty > 0 for *_, novelty in steps)


@pytest.mark.slow
def test_trl_trains_a_named_model_on_a_named_data_set(gsm8k: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", max_position_embeddings=1024)
    printed = output("trl_grpo.py", "--model", str(model), "--data", str(gsm8k))
    assert f"training {model} on {gsm8k}" in printed
    assert [row[0] for row in table(printed)] == list(range(1, 13))


def test_trl_s_problems_are_conversations_with_the_number_as_answer(gsm8k: Path) -> None:
    problems = runpy.run_path(str(EXAMPLES / "trl_grpo.py"))["gsm8k"](str(gsm8k))
    assert problems.column_names == ["answer", "prompt"]
    assert problems["answer"] == [str(3 * goats) for goats in range(2, 66)]
    (message,) = problems[0]["prompt"]
    assert message["role"] == "user"
    assert message["content"].startswith(ROWS[0]["question"])


def test_openrlhf_runs_both_files() -> None:
    printed = output("openrlhf/run.py")
    rewards = {
        name: [json.loads(values) for values in re.findall(rf"{name} rewards (.*)", printed)]
        for name in ("agent.py", "reward.py")
    }
    for name, (known, new, wrong) in rewards.items():
        assert known == [1.0] * 8, name
        # One new solution and a wrong one, then a group without a correct one.
        assert new[:6] == [1.0] * 6
        assert new[6] > 1.001
        assert new[7] == 0
        assert sum(reward > 0 for reward in wrong) == (1 if name == "agent.py" else 0)


@pytest.mark.parametrize(
    ("trainer", "package"),
    [("slime", "torch"), ("miles", "torch"), ("nemo-rl", "torch"), ("prime-rl", "verifiers")],
)
def test_launch_files_of_recorded_trainers_add_the_bonus(trainer: str, package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: `make test-plugins` installs it and runs this")
    printed = output("recorded/run.py", trainer)
    known, new, wrong = (json.loads(values) for values in re.findall(rf"{trainer} advantages (.*)", printed))
    # All right and nothing known yet: the trainer's own advantages, which are 0.
    assert known == [0.0] * 8
    # Six known solutions, a new one that gets the bonus, and a wrong one.
    assert max(new[:6]) < new[6] - 0.01
    assert new[7] < 0 < min(new[:7])
    # All wrong: the answer given once is paid, except where the launch file has no beta.
    assert (wrong[7] > wrong[0]) is (trainer != "nemo-rl")
