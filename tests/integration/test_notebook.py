"""The notebook in examples/ runs as it stands, and its recorded outputs are those of the run."""

import json
import re
from pathlib import Path

import pytest

from support import notebooks

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "three_groups.ipynb"


def without_decimals(outputs: list[notebooks.Output]) -> list[tuple[str, str]]:
    """Return kind and text of outputs; decimals, which depend on the processor, are left out."""
    kept = []
    for output in outputs:
        text = "".join(output["text"] if "text" in output else output["data"]["image/svg+xml"])
        kept.append((output["output_type"], re.sub(r"\d+\.\d+", "#", text)))
    return kept


def test_the_notebook_gives_its_recorded_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    recorded = [cell["outputs"] for cell in notebooks.code_cells(notebook)]
    made = notebooks.run(notebook)
    assert [without_decimals(each) for each in made] == [without_decimals(each) for each in recorded]
    drawings = [output for outputs in made for output in outputs if output["output_type"] == "display_data"]
    assert len(drawings) == 2
