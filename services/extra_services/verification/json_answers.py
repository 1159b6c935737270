"""The answer of a response that is a JSON object, alone or as its last block of code: {"answer": 42}."""

import json
import re

_BLOCK = re.compile(r"```(?:json)?[ \t]*\n?[ \t]*(\{[^`]*\})\s*```\s*\Z", re.IGNORECASE)
#: A backslash of LaTeX that JSON would take for an escape, or refuse.
_LATEX = re.compile(r"(?<!\\)\\(?=[a-zA-Z]{2}|[^\"\\/a-zA-Z])")
_KEYS = ("final_answer", "final answer", "answer", "result")
_LONGEST = 20_000


def stated_in_json(response: str) -> str | None:
    """Return the text or number that an object names as the answer, or None if there is no such object."""
    text = response.strip()
    if not text.endswith(("}", "```")) or len(text) > _LONGEST:
        return None
    block = _BLOCK.search(text)
    source = block[1] if block else text if text.startswith("{") else None
    if source is None:
        return None
    try:
        # parse_float keeps the digits as written.
        found = json.loads(_LATEX.sub(r"\\\\", source), parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return None
    named = {str(key).casefold(): value for key, value in found.items()} if isinstance(found, dict) else {}
    return next((named[key] for key in _KEYS if isinstance(named.get(key), str)), None)
