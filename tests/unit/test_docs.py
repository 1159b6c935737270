"""The documentation: the index names every page, links lead somewhere; and the examples stand alone."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PAGES += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]


def links(page: Path) -> set[Path]:
    """Return the files and folders of this repository that a page links to."""
    found = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    return {(page.parent / link).resolve() for link in found if "://" not in link}


def test_the_index_names_every_page() -> None:
    pages = {path for folder in (DOCS, DOCS / "plugins") for path in folder.glob("*.md")}
    assert pages - {DOCS / "README.md"} - links(DOCS / "README.md") == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert {path for path in links(page) if not path.exists()} == set()


@pytest.mark.parametrize("example", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.name)
def test_examples_need_nothing_of_the_trainer(example: Path) -> None:
    assert "extra_trainer" not in example.read_text(encoding="utf-8")
