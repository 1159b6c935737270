"""Programs in the pages of docs/, so that tests can run them as they stand."""

import re
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str, language: str, addresses: Mapping[str, str] | None = None) -> list[str]:
    """Return the code blocks of one language in a page of docs/.

    Args:
        page: Its path in docs/.
        language: What stands behind the opening fence.
        addresses: Addresses in the page, and those that stand for them in the test.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    for written, used in (addresses or {}).items():
        assert written in text, f"{page} names no {written}"
        text = text.replace(written, used)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
