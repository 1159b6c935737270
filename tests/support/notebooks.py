"""Run the code cells of a notebook in order, in one namespace, as a kernel does, but without Jupyter.

    python tests/support/notebooks.py examples/FILE.ipynb    # runs it and records the outputs in the file

A cell's outputs are what it prints, and the SVG of its last expression if that has `_repr_svg_`.
"""

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

Output = dict[str, Any]


def run(notebook: dict[str, Any]) -> list[list[Output]]:
    """Return the outputs of each code cell, in the notebook format.

    Raises:
        Exception: That of the first cell that fails.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    return [_run_cell("".join(cell["source"]), namespace) for cell in code_cells(notebook)]


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the code cells of a notebook."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _run_cell(source: str, namespace: dict[str, Any]) -> list[Output]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "<cell>", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
    outputs: list[Output] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    draw = getattr(value, "_repr_svg_", None)
    if draw is not None:
        drawing = {"image/svg+xml": draw().splitlines(keepends=True)}
        outputs.append({"output_type": "display_data", "data": drawing, "metadata": {}})
    return outputs


def record(path: Path) -> None:
    """Run a notebook and write its outputs into the file."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for number, (cell, outputs) in enumerate(zip(code_cells(notebook), run(notebook), strict=True), 1):
        cell["execution_count"], cell["outputs"] = number, outputs
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
