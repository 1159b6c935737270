"""Check a file of problems once, before a run: every row, every prompt and every reference answer.

All faults are collected instead of stopping at the first one. Whether an answer can be read is for the
verification service to say: each distinct answer is verified against a response that is something else, so
that the verdict is "unparseable" on the side of the answer if it cannot be read. Two answers of one prompt
conflict unless verification finds them equal.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from extra_client import Verdict, VerificationClient
from extra_rl.references import Answer, shown_answer
from extra_rl.tokens import encode_prompts
from extra_rl.vocabulary import Method, UnparseableSide, VerdictStatus
from extra_trainer.config import PromptConfig
from extra_trainer.data.files import RowError, RowFault, read_rows
from extra_trainer.data.problems import Problem, make_problem

#: Rows of each fault that a report names.
EXAMPLES = 5
#: Rows, prompts or answers between calls of `progress`, and items of a verification stream.
_AT_ONCE = 1000
_SHOWN = 80
#: A response that is no answer in any data set, and a program that passes no test.
_RESPONSE = r"\boxed{7919}"
_PROGRAM = "```python\npass\n```"
#: Methods whose answers have more than one way to be written.
_READ = (Method.MATH, Method.AUTO, Method.NUMERIC, Method.CHOICE)

#: Called with what is counted ("rows", "prompts" or "answers") and how many are done.
Progress = Callable[[str, int], None]


@dataclass
class Finding:
    """The rows with one fault."""

    rows: int = 0
    #: (place, detail) of the first ones.
    examples: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class DataReport:
    """What is in a file of problems, and what is wrong with it."""

    source: str
    rows: int = 0
    prompts: int = 0
    findings: dict[RowFault, Finding] = field(default_factory=dict)
    #: What was not checked, and why.
    skipped: list[str] = field(default_factory=list)

    @property
    def to_mend(self) -> int:
        """Rows that cannot be used as they are; a repeated prompt can."""
        return sum(each.rows for fault, each in self.findings.items() if fault is not RowFault.REPEATED)

    def add(self, fault: RowFault, place: str, detail: str, rows: int = 1) -> None:
        """Add a fault of a row, and of `rows - 1` others like it."""
        finding = self.findings.setdefault(fault, Finding())
        finding.rows += rows
        if len(finding.examples) < EXAMPLES:
            finding.examples.append((place, detail))

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "source": self.source,
            "rows": self.rows,
            "prompts": self.prompts,
            "to_mend": self.to_mend,
            "findings": {
                fault.name.lower(): {
                    "meaning": str(fault),
                    "rows": self.findings[fault].rows,
                    "examples": [
                        {"place": place, "detail": detail} for place, detail in self.findings[fault].examples
                    ],
                }
                for fault in RowFault
                if fault in self.findings
            },
            "skipped": self.skipped,
        }


@dataclass
class _Seen:
    """Where a prompt or an answer was first, and how often it is there."""

    place: str
    rows: int = 0
    #: Of a prompt: its answers, with the place of the first row of each.
    answers: dict[Answer, str] = field(default_factory=dict)


def check_data(
    source: str,
    config: PromptConfig,
    *,
    tokenizer: Any | None = None,
    window: int | None = None,
    verification: VerificationClient | None = None,
    progress: Progress = lambda what, done: None,
) -> DataReport:
    """Check all rows of a file or dataset folder.

    Args:
        source: As in `read_problems`.
        config: Columns, template, and how answers are compared.
        tokenizer: For the chat template and the length of prompts; None: lengths are not checked.
        window: Most tokens of a prompt; None: likewise.
        verification: Reads the answers; None: they are not read.
        progress: Called now and then.

    Raises:
        ConfigError: The file cannot be read at all.
        ExtraError: The verification service fails.
    """
    report = DataReport(source)
    prompts, answers = _rows(report, config, tokenizer, progress)
    report.prompts = len(prompts)
    for seen in prompts.values():
        if seen.rows > 1:
            report.add(RowFault.REPEATED, seen.place, f"its prompt is in {seen.rows:,} rows", seen.rows - 1)
    if tokenizer is not None and window is not None:
        _lengths(report, prompts, tokenizer, config.apply_chat_template, window, progress)
    else:
        report.skipped.append("the length of prompts: no model is given")
    if verification is None:
        report.skipped.append("whether answers can be read: there is no verification service")
    elif config.verification_method is not Method.CUSTOM:
        _readable(report, answers, config, verification, progress)
    _conflicts(report, prompts, config, verification)
    return report


def _rows(
    report: DataReport, config: PromptConfig, tokenizer: Any | None, progress: Progress
) -> tuple[dict[str, _Seen], dict[str, _Seen]]:
    """Return the distinct prompts and the distinct texts of answers."""
    prompts: dict[str, _Seen] = {}
    answers: dict[str, _Seen] = {}

    def wrong(error: RowError) -> None:
        report.add(error.fault, error.place, error.detail)
        report.rows += 1

    for place, row in read_rows(report.source, wrong):
        try:
            problem = make_problem(place, row, report.rows + 1, config, tokenizer)
        except RowError as error:
            wrong(error)
            continue
        report.rows += 1
        _enter(problem, place, prompts, answers)
        if report.rows % _AT_ONCE == 0:
            progress("rows", report.rows)
    progress("rows", report.rows)
    return prompts, answers


def _enter(problem: Problem, place: str, prompts: dict[str, _Seen], answers: dict[str, _Seen]) -> None:
    prompt = prompts.setdefault(problem.prompt, _Seen(place))
    prompt.rows += 1
    prompt.answers.setdefault(problem.answer, place)
    for text in (problem.answer,) if isinstance(problem.answer, str) else problem.answer:
        answers.setdefault(text, _Seen(place)).rows += 1


def _lengths(
    report: DataReport,
    prompts: dict[str, _Seen],
    tokenizer: Any,
    templated: bool,
    window: int,
    progress: Progress,
) -> None:
    done = 0
    for some in _parts(prompts):
        encoded = encode_prompts(tokenizer, some, templated=templated)
        for prompt, tokens in zip(some, encoded, strict=True):
            if len(tokens) > window:
                seen = prompts[prompt]
                detail = f"{len(tokens):,} tokens, more than {window:,}"
                report.add(RowFault.LONG, seen.place, detail, seen.rows)
        done += len(some)
        progress("prompts", done)


def _readable(
    report: DataReport,
    answers: dict[str, _Seen],
    config: PromptConfig,
    verification: VerificationClient,
    progress: Progress,
) -> None:
    response = _PROGRAM if config.verification_method is Method.CODE else _RESPONSE
    unreadable: dict[str, str] = {}
    items = ((text, response, text) for text in answers)
    for done, (text, verdict) in enumerate(_verified(items, config.verification_method, verification), 1):
        if reason := _unreadable(verdict):
            unreadable[text] = reason
        if done % _AT_ONCE == 0 or done == len(answers):
            progress("answers", done)
    for text, seen in answers.items():
        if text in unreadable:
            detail = f"{text[:_SHOWN]!r}: {unreadable[text]}"
            report.add(RowFault.UNREADABLE, seen.place, detail, seen.rows)


def _unreadable(verdict: Verdict) -> str:
    """Return the reason for which an answer cannot be read, or an empty text."""
    if verdict.unparseable_side is UnparseableSide.ANSWER:
        return verdict.detail or "it cannot be read"
    if verdict.status in (VerdictStatus.TIMEOUT, VerdictStatus.ERROR):
        return f"{verdict.status}: {verdict.detail}"
    return ""


def _conflicts(
    report: DataReport,
    prompts: dict[str, _Seen],
    config: PromptConfig,
    verification: VerificationClient | None,
) -> None:
    several = {prompt: list(seen.answers) for prompt, seen in prompts.items() if len(seen.answers) > 1}
    pairs = [(prompt, other) for prompt, answers in several.items() for other in answers[1:]]
    equal: set[tuple[str, Answer]] = set()
    if verification is not None and config.verification_method in _READ:
        items = (
            (pair, rf"\boxed{{{first}}}", pair[1])
            for pair in pairs
            if isinstance(first := several[pair[0]][0], str) and isinstance(pair[1], str)
        )
        found = _verified(items, config.verification_method, verification)
        equal = {pair for pair, verdict in found if verdict.status is VerdictStatus.CORRECT}
    for prompt, answers in several.items():
        others = [answer for answer in answers[1:] if (prompt, answer) not in equal]
        if others:
            seen = prompts[prompt]
            shown = ", ".join(f"{_shown(each)} ({line_of(seen.answers[each])})" for each in others[:EXAMPLES])
            report.add(RowFault.CONFLICT, seen.place, f"{_shown(answers[0])} here, {shown}", seen.rows)


def _shown(answer: Answer) -> str:
    return repr(shown_answer(answer)[:_SHOWN])


def line_of(place: str) -> str:
    """Return the part of a place that names the line or row."""
    return place.rpartition(", ")[2]


Key = TypeVar("Key")


def _verified(
    items: Iterable[tuple[Key, str, str]], method: Method, verification: VerificationClient
) -> Iterator[tuple[Key, Verdict]]:
    # In parts, because a stream has a deadline.
    for some in _parts(items):
        yield from verification.verify_stream(some, method=method)


def _parts(values: Iterable[Key]) -> Iterator[list[Key]]:
    part: list[Key] = []
    for value in values:
        part.append(value)
        if len(part) == _AT_ONCE:
            yield part
            part = []
    if part:
        yield part
