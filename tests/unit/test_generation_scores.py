"""Log-probabilities of prompts by the transformers engine's runner."""

from pathlib import Path

import numpy as np
import pytest
import torch

from extra_services.generation.engines.transformers import model_runner
from extra_services.generation.engines.transformers.model_runner import ModelRunner
from extra_services.generation.engines.transformers.rows import Prefill
from support.generation_models import make_model


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_a_prompt_is_scored_in_parts_as_in_one_pass(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = ModelRunner(make_model(tmp_path / "model"), None, "cpu", False)
    tokens = np.random.default_rng(0).integers(2, runner.vocab_size, 40).astype(np.int32)
    ids = torch.from_numpy(tokens).long()
    with torch.inference_mode():
        whole = Prefill()
        logprobs = torch.log_softmax(runner.forward(ids[None], None, whole, 0)[0], -1)
        monkeypatch.setattr(model_runner, "PREFILL_LOGITS", size * runner.vocab_size)
        computed, scores = runner.score(tokens)
    own = logprobs[:-1].gather(-1, ids[1:, None])[:, 0]
    best, likeliest = logprobs[:-1].max(-1)
    np.testing.assert_allclose(scores.logprobs, own, atol=1e-4)
    np.testing.assert_allclose(scores.likeliest_logprobs, best, atol=1e-4)
    np.testing.assert_array_equal(scores.likeliest_ids, likeliest)
    # Generation goes on from the same keys, values and logits.
    np.testing.assert_allclose(torch.log_softmax(computed.logits[0], -1), logprobs[-1], atol=1e-4)
    for (key, value), (of_one_key, of_one_value) in zip(computed.layers, whole.layers, strict=True):
        torch.testing.assert_close(key, of_one_key[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(value, of_one_value[0], atol=1e-4, rtol=1e-4)


def test_a_single_token_has_nothing_before_it_to_be_scored_by(tmp_path: Path) -> None:
    runner = ModelRunner(make_model(tmp_path / "model"), None, "cpu", False)
    with torch.inference_mode():
        computed, scores = runner.score(np.array([3], np.int32))
    assert scores.logprobs.size == scores.likeliest_ids.size == scores.likeliest_logprobs.size == 0
    assert computed.logits.shape == (1, runner.vocab_size)
