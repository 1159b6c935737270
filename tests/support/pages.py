"""Programs in pages of the documentation, so that tests can run them as they stand."""

import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str, language: str, replaced: Mapping[str, str] | None = None) -> list[str]:
    """Return the code blocks of one language in a page.

    Args:
        page: Its path in the repository.
        language: What stands behind the opening fence.
        replaced: Texts in the page, such as addresses, and those that stand for them in the test.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    for written, used in (replaced or {}).items():
        text = text.replace(written, used)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
