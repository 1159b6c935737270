"""A hundred updates of vLLM's weights under load, and stop strings that cross an update.

On a tiny model, so that an update takes a fraction of a second. Skipped where vLLM is not installed.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.generation_models import make_model, why_vllm_cannot_run
from support.generation_server import (
    Served,
    agree_under_updates,
    served,
    stops_at_a_string_that_spans_an_update,
)

pytestmark = [
    pytest.mark.skipif(bool(why_vllm_cannot_run()), reason=why_vllm_cannot_run()),
    pytest.mark.timeout(600),
]


def make(folder: Path, seed: int) -> Path:
    # vLLM's attention has no heads of 16 on a CPU.
    return make_model(folder, seed, head_dim=32, max_position_embeddings=4096)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("vllm")
    flags = ["--engine", "vllm", "--max-batch", "16", "--kv-cache-gib", "0.25"]
    with served(folder, make(folder / "model", 0), *flags) as running:
        yield running


def test_rollouts_under_a_hundred_updates_agree_with_the_versions_they_name(server: Served) -> None:
    agree_under_updates(server, make, list(range(1, 101)), atol=1e-3)


def test_a_stop_string_that_spans_an_update_is_found(server: Served) -> None:
    stops_at_a_string_that_spans_an_update(server, make, 101)
