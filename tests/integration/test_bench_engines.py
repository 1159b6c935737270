"""`extra-rl bench engines` in the smallest size: engines in processes of their own, on the same prompts."""

import json
from pathlib import Path

import pytest

from benchmarks import engines
from support.generation_models import make_model


@pytest.mark.timeout(900)
def test_the_engines_generate_the_same_work_and_the_ratios_are_of_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path / "model")
    work = engines.Workload(str(model), [[5, 6, 7], [8, 9]], n=2, max_tokens=6, min_tokens=6, batch=4)
    measured = engines.measure(work, ["transformers", "generate_batch"], 1, 1, "no-vllm")
    assert [round_.tokens for rounds in measured.values() for round_ in rounds] == [24, 24]
    ratios: dict[str, float] = {}
    figures: dict[str, object] = {}
    engines.summary("tiny", measured, ratios, figures)
    ours, theirs = (measured[name][0] for name in measured)
    assert ratios["tiny_over_generate_batch"] == pytest.approx(theirs.seconds / ours.seconds, abs=0.01)
    assert set(ratios) == {"tiny_over_generate_batch", "tiny_over_generate_batch_cpu"}
    assert json.dumps(figures)
