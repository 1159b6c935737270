"""The transformers engine gives the same numbers with a compiled model."""

import shutil
from pathlib import Path

import pytest

from support.generation_models import make_model
from support.generation_server import MIXED, compare_with_a_plain_forward_pass, served


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: apt-get install g++")
def test_a_compiled_model_agrees_with_a_plain_forward_pass(tmp_path: Path) -> None:
    with served(tmp_path, make_model(tmp_path / "model"), "--compiled") as server:
        assert compare_with_a_plain_forward_pass(server, MIXED, tolerance=1e-4, tokens_each=20, top_p=0.9) > 0
