"""The method CODE: run the Python program in a response against tests, in a sandbox.

The reference answer is JSON of one of two forms:

    {"tests": [{"stdin": "3 4\\n", "stdout": "7\\n"}, ...]}
    {"assert": "assert add(3, 4) == 7\\nassert add(0, 0) == 0"}

With "tests" the program is run once for each, and must exit with 0 and print the expected output (spaces at
the end of lines and empty lines at the end do not count). The expected output never enters the sandbox.

With "assert" the program and the tests run in two sandboxes, so that the program can neither read the tests
nor change how they are judged. The names that the tests use and do not define are the program's: they are
called over a pipe, and only plain data crosses it (see `sandboxed.snippet`). Each statement at the top level
that asserts something, also in a loop or by a function of the snippet, and each function `test*` is a test.
What follows the last test is one test more, if it can fail.

The score is the share of tests passed, and CORRECT needs all. The components are `test_0`, `test_1` ... A
program that exceeds a limit fails its test. If time is short for reasons that are not the program's, the item
is a TIMEOUT.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from extra_rl.vocabulary import UnparseableSide, VerdictStatus
from extra_services.verification.custom import MAX_COMPONENTS
from extra_services.verification.quick import SHOWN
from extra_services.verification.sandbox import SandboxedProgram, SandboxLimits, SandboxUnavailable
from extra_services.verification.timings import timed
from extra_services.verification.verdict import Verdict

RULE = "code"
#: Share of an item's time limit in which its tests must end, so that the worker can still answer.
_USABLE = 0.9
#: Seconds that a test must at least be given; else it is not run.
_SHORTEST_TEST = 0.3
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^`]*)\Z")


class CodeExecution(StrEnum):
    """The setting of the server."""

    #: The method CODE is refused.
    OFF = "off"
    #: Programs run in a sandbox; the server does not start where the kernel has none.
    SANDBOX = "sandbox"
    #: Programs run with the rights of the server, under its resource limits alone.
    UNSANDBOXED = "unsandboxed"


@dataclass(frozen=True)
class CodeItem:
    """A response and its tests, for a worker."""

    response: str
    answer: str
    #: Seconds until the pool kills the worker.
    timeout: float
    sandboxed: bool


@dataclass(frozen=True)
class _Test:
    stdin: bytes
    stdout: str


@dataclass(frozen=True)
class _Result:
    """The end of one test; `passed` is None if there was no time to run it."""

    passed: bool | None
    detail: str = ""


class _InvalidTests(ValueError):
    """The reference answer holds no tests."""


def judge_code(item: CodeItem) -> Verdict:
    """Run the tests of `item`."""
    deadline = time.monotonic() + _USABLE * item.timeout
    program = program_of(item.response)
    blank = Verdict(VerdictStatus.ERROR, RULE, extracted=(program or "")[:SHOWN])
    try:
        tests = _tests(item.answer)
        if program is None:
            text = "the response has no complete fenced block"
            return blank.unparseable(UnparseableSide.RESPONSE, text)
        runner = _Runner(program.encode("utf-8", "replace"), item.sandboxed, deadline)
        with timed("compare"):
            results = runner.snippet(tests) if isinstance(tests, str) else runner.input_output(tests)
    except _InvalidTests as error:
        return blank.unparseable(UnparseableSide.ANSWER, str(error))
    except SandboxUnavailable as error:
        return blank._replace(detail=f"the sandbox could not be started: {error}"[:SHOWN])
    return _verdict(blank, results)


def probe(sandboxed: bool) -> str:
    """Return the reason for which programs cannot be run here, or an empty text."""
    tests = json.dumps({"tests": [{"stdin": "7", "stdout": "49"}]})
    response = "```python\nprint(int(input()) ** 2)\n```"
    decided = judge_code(CodeItem(response, tests, 20.0, sandboxed))
    return "" if decided.status is VerdictStatus.CORRECT else decided.detail


def program_of(response: str) -> str | None:
    """Return the content of the last complete fenced block, or None."""
    last, opening = None, ""
    lines: list[str] = []
    for line in response.replace("\r\n", "\n").split("\n"):
        fence = _FENCE.match(line)
        if not opening:
            if fence:
                opening, lines = fence[1], []
        elif fence and fence[1][0] == opening[0] and len(fence[1]) >= len(opening) and not fence[2].strip():
            last, opening = "\n".join(lines) + "\n", ""
        else:
            lines.append(line)
    return last


def _tests(answer: str) -> Sequence[_Test] | str:
    try:
        content = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise _InvalidTests(f"the reference answer is no JSON: {error}") from error
    match content:
        case {"assert": str(snippet), **others} if not others and snippet.strip():
            return snippet
        case {"tests": [_, *_] as rows, **others} if not others and len(rows) <= MAX_COMPONENTS:
            tests = [_test(row, index) for index, row in enumerate(rows)]
            if not any(test.stdout.strip() for test in tests):
                raise _InvalidTests("no test expects any output: a program that does nothing would pass")
            return tests
    forms = '{"assert": "..."} or {"tests": [...]}'
    raise _InvalidTests(f"the reference answer must be {forms} with 1 to {MAX_COMPONENTS} tests")


def _test(row: Any, index: int) -> _Test:
    match row:
        case {"stdin": str(stdin), "stdout": str(stdout), **others} if not others:
            return _Test(stdin.encode("utf-8", "replace"), stdout)
    raise _InvalidTests(f'test {index} of the reference answer must be {{"stdin": "...", "stdout": "..."}}')


class _Runner:
    """Runs one program against its tests."""

    def __init__(self, program: bytes, sandboxed: bool, deadline: float) -> None:
        self._program = program
        self._sandboxed = sandboxed
        self._deadline = deadline
        self._limits = SandboxLimits(cpu_seconds=1 + int(max(1.0, deadline - time.monotonic())))

    def input_output(self, tests: Sequence[_Test]) -> list[_Result]:
        """Return the result of each test of input and output."""
        return [self._one(test, len(tests) - index) for index, test in enumerate(tests)]

    def _one(self, test: _Test, left: int) -> _Result:
        # Half of what is left, so that one endless test leaves time for the next.
        seconds = (self._deadline - time.monotonic()) / min(2, left)
        if seconds < _SHORTEST_TEST:
            return _Result(None)
        with _memory_file(test.stdin) as stdin, _memory_file() as stdout, _memory_file() as stderr:
            files = {"program.py": self._program, _MAIN: _START + _RUN}
            deadline = time.monotonic() + seconds
            running = self._start(files, {0: stdin, 1: stdout, 2: stderr})
            code = running.wait(deadline)
            if code is None:
                return _Result(False, f"not finished after {seconds:.2g} s")
            if code:
                return _Result(False, f"exit code {code}: {_last_line(stderr)}")
            printed = _content(stdout, self._limits.output_bytes)
        return _Result(_lines(printed) == _lines(test.stdout), "wrong output")

    def snippet(self, snippet: str) -> list[_Result]:
        """Return the result of each test of a snippet, which calls the program over pipes."""
        to_program, from_tests = os.pipe()
        to_tests, from_program = os.pipe()
        ends = [to_program, from_tests, to_tests, from_program]
        try:
            with _memory_file() as results, _null() as null:
                standard = {0: null, 1: null, 2: null}
                files = _script("program") | {"program.py": self._program}
                program = self._start(files, standard | {3: to_program, 4: from_program})
                try:
                    files = _script("snippet") | {"snippet.py": snippet.encode("utf-8", "replace")}
                    tests = self._start(files, standard | {3: to_tests, 4: from_tests, 5: results})
                    # The tests must see the end of the program, so nobody else may hold its end of a pipe.
                    while ends:
                        os.close(ends.pop())
                    ended = tests.wait(self._deadline)
                finally:
                    program.kill()
                written = _content(results, self._limits.output_bytes)
            # On a machine this busy the tests had not even begun: nothing is known about them.
            return _snippet_results(written) if written or ended is not None else [_Result(None)]
        finally:
            for end in ends:
                os.close(end)

    def _start(self, files: Mapping[str, bytes], descriptors: Mapping[int, int]) -> SandboxedProgram:
        return SandboxedProgram(files, _MAIN, descriptors, self._limits, self._sandboxed)


_MAIN = "main.py"
#: Python's `site` module, which defines these, is not loaded: it would run code of the host's packages.
_START = b"import builtins, sys\nbuiltins.exit = builtins.quit = sys.exit\n"
_RUN = b"""sys.argv = ['program.py']
del builtins, sys
exec(compile(open('program.py', 'rb').read(), 'program.py', 'exec'))
"""


@cache
def _script(name: str) -> dict[str, bytes]:
    """Return the files that run `sandboxed.NAME`."""
    folder = Path(__file__).with_name("sandboxed")
    files = {f"sandboxed/{path.name}": path.read_bytes() for path in folder.glob("*.py")}
    # The option -P leaves the script's folder out of the path.
    start = f"import os\nsys.path.insert(0, os.getcwd())\nfrom sandboxed import {name}\n{name}.main()\n"
    return files | {_MAIN: _START + start.encode()}


def _snippet_results(written: str) -> list[_Result]:
    """Return the results that `sandboxed.snippet` wrote: how many tests there are, then one line for each."""
    lines = [json.loads(line) for line in written.splitlines()]
    if not lines or "fault" in lines[-1]:
        fault = lines[-1]["fault"] if lines else "they could not be run"
        raise _InvalidTests(f"the tests in the reference answer are at fault: {fault}"[:SHOWN])
    if lines[0]["tests"] > MAX_COMPONENTS:
        raise _InvalidTests(
            f"the reference answer holds {lines[0]['tests']} tests, more than {MAX_COMPONENTS}"
        )
    results = [_Result(line["passed"], line["detail"]) for line in lines[1:]]
    missing = lines[0]["tests"] - len(results)
    stopped = _Result(False, "not finished: the program, or the tests with its results, took too long")
    return results + [stopped] * missing


def _verdict(blank: Verdict, results: Sequence[_Result]) -> Verdict:
    passed = sum(result.passed is True for result in results)
    failed = [index for index, result in enumerate(results) if result.passed is False]
    components = {f"test_{index}": float(result.passed is True) for index, result in enumerate(results)}
    if not failed and passed < len(results):
        text = f"there was no time for {len(results) - passed} of {len(results)} tests; none has failed"
        return blank._replace(status=VerdictStatus.TIMEOUT, components=components, detail=text)
    status = VerdictStatus.WRONG if failed else VerdictStatus.CORRECT
    detail = f"passed {passed} of {len(results)} tests"
    if failed:
        detail += f"; test_{failed[0]}: {results[failed[0]].detail}"
    score = passed / len(results)
    return blank._replace(status=status, components=components, score=score, detail=detail[:SHOWN])


def _lines(text: str) -> list[str]:
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip(" \t") for line in lines).rstrip("\n").split("\n")


def _content(descriptor: int, most: int) -> str:
    return os.pread(descriptor, most, 0).decode("utf-8", "replace")


def _last_line(descriptor: int) -> str:
    lines = _content(descriptor, SHOWN).strip().split("\n")
    return lines[-1][:200]


@contextmanager
def _memory_file(content: bytes = b"") -> Iterator[int]:
    descriptor = os.memfd_create("extra-rl")
    try:
        with open(os.dup(descriptor), "wb") as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _null() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
