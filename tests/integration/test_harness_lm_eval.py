"""An evaluation harness, lm-eval, evaluates SmolLM2 through OpenAI's API; `make test-harness` runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from extra_client import embedded
from support.generation_models import make_smollm2

if find_spec("lm_eval") is None:
    pytest.skip("lm-eval is not installed: `make test-harness` installs it", allow_module_level=True)

# Two minutes on two quiet cores; many times as long beside other work.
pytestmark = pytest.mark.timeout(3600)

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Germany": "Berlin",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "England": "London",
    "Egypt": "Cairo",
    "Russia": "Moscow",
}
TASK = {
    "task": "capitals",
    "dataset_path": "json",
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "The capital of {{country}} is",
    "doc_to_target": "{{capital}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16, "do_sample": False},
    "filter_list": [
        {
            "name": "names",
            "filter": [
                {"function": "regex", "regex_pattern": f"({'|'.join(CAPITALS.values())})"},
                {"function": "take_first"},
            ],
        }
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
CALLS = "num_concurrent=2,max_retries=1"
#: The same question, answered by the log-probabilities of all capitals.
CHOICE = {
    "task": "capitals_choice",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "The capital of {{country}} is",
    "doc_to_choice": list(CAPITALS.values()),
    "doc_to_target": "{{index}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_smollm2(tmp_path_factory.mktemp("harness") / "smollm2")


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = tmp_path_factory.mktemp("server") / "address"
    settings: dict[str, Any] = {"threads": 1, "port": 0, "http_port": 0, "http_address_file": address}
    with embedded.start("generation", start_timeout=900, model=model, **settings):
        yield f"http://{address.read_text(encoding='utf-8')}"


def evaluate(folder: Path, kind: str, arguments: str, tasks: dict[str, Any], *flags: str) -> dict[str, Any]:
    """Return the results of lm-eval by task."""
    rows = [
        json.dumps({"country": country, "capital": capital, "index": index})
        for index, (country, capital) in enumerate(CAPITALS.items())
    ]
    (folder / "capitals.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    data = {"dataset_kwargs": {"data_files": {"test": str(folder / "capitals.jsonl")}}}
    for name, task in tasks.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | data), encoding="utf-8")
    command = [sys.executable, "-m", "lm_eval", "--model", kind, "--model_args", arguments, *flags]
    subprocess.run(
        [*command, "--tasks", ",".join(tasks), "--include_path", folder, "--output_path", folder / "out"],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        timeout=1500,
        check=True,
    )
    (written,) = (folder / "out").rglob("results*.json")
    found: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))["results"]
    print(f"\n{kind}: {found}")
    return found


# A model that answers at random names none of the capitals, and chooses one in eight.


def test_lm_eval_scores_completions_and_compares_log_probabilities(
    url: str, model: Path, tmp_path: Path
) -> None:
    arguments = (
        f"model=smollm2,base_url={url}/v1/completions,num_concurrent=2,max_retries=1,tokenizer={model}"
    )
    found = evaluate(tmp_path, "local-completions", arguments, {"capitals": TASK, "capitals_choice": CHOICE})
    assert found["capitals"]["exact_match,names"] >= 0.5
    assert found["capitals_choice"]["acc,none"] >= 0.5


#: As one asks in a chat; the beginning of a sentence is answered with anything there.
QUESTION = TASK | {"task": "capitals_asked", "doc_to_text": "What is the capital of {{country}}?"}


def test_lm_eval_scores_chats(url: str, tmp_path: Path) -> None:
    arguments = f"model=smollm2,base_url={url}/v1/chat/completions,tokenizer_backend=None,{CALLS}"
    found = evaluate(
        tmp_path, "local-chat-completions", arguments, {"capitals_asked": QUESTION}, "--apply_chat_template"
    )
    assert found["capitals_asked"]["exact_match,names"] >= 0.5
