"""The transformers engine on SmolLM2-135M, a real model, gives the numbers of a plain forward pass."""

from collections.abc import Iterator

import pytest

from support.generation_models import make_smollm2
from support.generation_server import (
    Served,
    agree_with_a_plain_forward_pass,
    continues_as_if_never_interrupted,
    served,
)

TEXTS = ["What is 17 + 25?", "Name three\ncolours:", "Once upon a time", "1, 2, 3,", "def add(a, b):"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("smollm2")
    with served(folder, make_smollm2(folder / "model"), "--max-batch", "32") as running:
        yield running


def test_a_thousand_tokens_in_mixed_batches_agree_with_a_plain_forward_pass(server: Served) -> None:
    assert agree_with_a_plain_forward_pass(server, TEXTS, tolerance=1e-3, tokens_each=40, top_p=0.9) >= 1000


def test_a_resumed_greedy_sample_continues_as_if_never_interrupted(server: Served) -> None:
    continues_as_if_never_interrupted(server, TEXTS[2], 40, 17)
