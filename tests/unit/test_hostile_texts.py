"""What models, callers and files write is text on every page: 60 hostile strings change no page's structure.

A real browser opens the pages in tests/integration/test_hostile_in_browser.py.
"""

import ast
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from extra_client import PrefixCandidate
from extra_inspector import diff, markup
from extra_inspector.index import GroupSummary, WrongAnswer
from extra_inspector.tokens import Token
from extra_rl.vocabulary import VerdictStatus
from extra_trainer.reports import report
from extra_trainer.runs.folder import RunFolder
from extra_trainer.runs.schema import RolloutRecord
from support.hostile_texts import HOSTILE, structure
from support.run_folders import rollout_record, write_run

HARMLESS = "harmless"
GROUP = GroupSummary(1, 0, True, "prefix", 4, 1, 0, True, 4, 0)


def record(text: str, number: int = 0) -> RolloutRecord:
    """Return a rollout with `text` in every field that holds one."""
    return rollout_record(
        prompt_id=text,
        prompt=text,
        answer=text,
        prefix_id=text,
        sample=number,
        text=text,
        status=VerdictStatus.CORRECT,
        extracted=text,
        rule=text,
        detail=text,
        normalized_response=text,
        normalized_answer=text,
        suspicious=text if number % 2 else "",
        new_steps=() if number % 2 else (text, text),
        novelty=1.0 - number / 100,
    )


#: Each part of the inspector's page that shows texts of a run or of a service.
PARTS: dict[str, Callable[[str], str]] = {
    "rollout": lambda text: markup.rollout(record(text), None, None),
    "suspicious rollout": lambda text: markup.rollout(record(text, 1), None, None),
    "tokens": lambda text: markup.rollout(record(text), [Token(text, 0.5), Token(text, None)], None),
    "groups": lambda text: markup.group_list(text, [GROUP], GROUP),
    "link": lambda text: f'<a href="{markup.link(text, q=text)}">x</a>',
    "badge": markup.badge,
    "stored prefixes": lambda text: markup.stored_prefixes(
        [PrefixCandidate(text, 3, text, 0.1, 0.1, 1, 1, 0.0, 0.0, False)]
    ),
    "solutions": lambda text: markup.solutions([markup.SolutionRow(1, 1, 1, 0.5, text, text)], 1),
    "wrong answers": lambda text: markup.wrong_answers([WrongAnswer(text, {1: 2})]),
    "difference": lambda text: markup.difference(diff.pieces(f"a {text}", f"b {text}"), text, text),
    "text": markup.plain_text,
}


@pytest.mark.parametrize("part", PARTS)
def test_a_text_is_no_part_of_the_inspector_s_page(part: str) -> None:
    made = PARTS[part]
    expected, _ = structure(made(HARMLESS))
    for text in HOSTILE:
        found, shown = structure(made(text))
        assert found == expected, text
        if part == "text":
            assert shown == text


def test_no_string_of_python_writes_html_around_values() -> None:
    root = Path(__file__).resolve().parents[2]
    for folder in ("inspector/extra_inspector", "trainer/extra_trainer/reports"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    literal = "".join(str(p.value) for p in node.values if isinstance(p, ast.Constant))
                    assert not re.search(r"</?[a-zA-Z]", literal), (
                        f"{path}:{node.lineno}: a template writes HTML"
                    )


def page(folder: Path, texts: Sequence[str], name: str) -> str:
    """Return the report of a run with each of `texts` in rollouts; its scripts are emptied."""
    run = write_run(folder, name=name, steps=2)
    records = [record(text, number) for text in texts for number in range(2)]
    RunFolder(run).write_rollouts(1, records)
    html = report.write_all([run], folder / "page.html").read_text()
    return re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", html, flags=re.DOTALL)


def test_a_text_is_no_part_of_the_report(tmp_path: Path) -> None:
    assert len(HOSTILE) >= 50
    some = 10  # at a time: the report's tables have at most 20 rows
    # Letters: numbers in a reason to suspect are left out, so that like reasons are one row.
    harmless, _ = structure(page(tmp_path / "harmless", "abcdefghij", "n"))
    for start in range(0, len(HOSTILE), some):
        texts = HOSTILE[start : start + some]
        found, shown = structure(page(tmp_path / str(start), texts, texts[0]))
        assert found == harmless, texts
        assert [text for text in texts if text not in shown] == []
