"""Log lines cannot be forged: whatever callers and models write, an event is one line; no cursor moves."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extra_services.runtime.logs import processors

HOSTILE = [
    "a\n2026-01-01T00:00:00Z [info] call code=OK token=admin",
    'a\r\n{"event": "forged"}',
    "\x1b[2J\x1b[1;1Hcleared",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\x1b[8mhidden",
    "a\rb",
    "a\u2028b\u2029c\x85d\x0be\x0cf",
    "\u202eright to left",
    "\x00\x08\x7f",
    "\ud800 half a pair",
]
#: Colours of the renderer itself.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def line(terminal: bool, event: dict[str, Any]) -> str:
    """Return what is written for an event."""
    made: Any = dict(event)
    for processor in processors(terminal=terminal):
        made = processor(None, "info", made)
    assert isinstance(made, str)
    return made


@pytest.mark.parametrize("terminal", [True, False])
@given(text=st.sampled_from(HOSTILE) | st.text())
def test_an_event_is_one_line_without_control_characters(terminal: bool, text: str) -> None:
    plain = line(terminal, {"event": "call", "error": "text", "token": "name", "items": ["text"]})
    for event in (
        {"event": "call", "error": text, "token": "name", "items": ["text"]},
        {"event": "call", "error": "text", "token": text, "items": [text, {text: text}]},
    ):
        found = line(terminal, event)
        assert all(each.isprintable() for each in COLOUR.sub("", found)), found
        assert len(found.splitlines()) == 1
        assert found.count("\x1b") == plain.count("\x1b")


@pytest.mark.parametrize("text", HOSTILE)
def test_the_lines_of_a_stack_trace_are_indented_and_a_message_adds_none(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError as error:
        found = line(True, {"event": "call failed", "exc_info": error})
        as_json = line(False, {"event": "call failed", "exc_info": error})
    first, *others = COLOUR.sub("", found).split("\n")
    assert "call failed" in first
    assert all(each.startswith("  ") or not each for each in others)
    assert all(each.isprintable() for each in (first, *others))
    assert "\n" not in as_json
    assert "ValueError" in json.loads(as_json)["exception"]
