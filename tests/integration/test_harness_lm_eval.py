"""An evaluation harness, lm-eval, evaluates SmolLM2 through OpenAI's API; `make test-harness` runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from extra_client import embedded
from support.generation_models import make_smollm2

if find_spec("lm_eval") is None:
    pytest.skip("lm-eval is not installed: `make test-harness` installs it", allow_module_level=True)

# To make the model and to start takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(1800)

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


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("harness")
    model = make_smollm2(folder / "smollm2")
    address = folder / "address"
    with embedded.start("generation", model=model, threads=1, port=0, http_port=0, http_address_file=address):
        yield f"http://{address.read_text(encoding='utf-8')}"


@pytest.mark.parametrize(
    ("kind", "route", "flags"),
    [
        ("local-completions", "/v1/completions", []),
        ("local-chat-completions", "/v1/chat/completions", ["--apply_chat_template"]),
    ],
)
def test_lm_eval_scores_answers(url: str, tmp_path: Path, kind: str, route: str, flags: list[str]) -> None:
    rows = [json.dumps({"country": country, "capital": capital}) for country, capital in CAPITALS.items()]
    (tmp_path / "capitals.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    task = TASK | {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "capitals.jsonl")}}}
    (tmp_path / "capitals.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    arguments = f"model=smollm2,base_url={url}{route},num_concurrent=2,max_retries=1,tokenizer_backend=None"
    command = [sys.executable, "-m", "lm_eval", "--model", kind, "--model_args", arguments, *flags]
    subprocess.run(
        [*command, "--tasks", "capitals", "--include_path", tmp_path, "--output_path", tmp_path / "out"],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        timeout=900,
        check=True,
    )
    (written,) = (tmp_path / "out").rglob("results*.json")
    results = json.loads(written.read_text(encoding="utf-8"))["results"]["capitals"]
    score = results["exact_match,names"]
    print(f"\n{kind}: {score:.3f} of {len(CAPITALS)}")
    # A model that answers at random names none of them.
    assert score >= 0.5
