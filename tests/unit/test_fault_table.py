"""docs/faults.md shows the table that the fault tests assert."""

import ast
from pathlib import Path

from support import fault_table

TESTS = Path(__file__).resolve().parents[1] / "faults"


def test_the_page_shows_the_table_that_the_tests_use() -> None:
    assert fault_table.on_page() == fault_table.as_markdown(), "run python tests/support/fault_table.py"


def test_every_row_has_its_test() -> None:
    for row in fault_table.ROWS:
        module, _, name = row.test.partition(".")
        tree = ast.parse((TESTS / f"{module}.py").read_text(encoding="utf-8"))
        assert name in {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}, row.test
