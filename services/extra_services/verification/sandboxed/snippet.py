"""Run the tests of a snippet against a program in another process.

A name that the snippet uses and does not define is the program's, unless Python or its standard library has
it. An object of the program is a `Remote`: calls, attributes, items and iteration go over the pipe and come
back as plain data. A Remote equals no plain data and has no order, no arithmetic and no truth, so an object
of the program cannot make an assertion hold by methods of its own. Two of them cannot be compared at all:
such tests are at fault. Arguments are passed by value; what a call changes in them is seen here only if it
returns None, as functions do that work in place. `checks` says which snippets can be judged, and what a test
must have checked to pass.
"""

import ast
import builtins
import contextlib
import importlib
import json
import math
import re
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TextIO

from .checks import Checks, InvalidSnippet, Snippet, is_test_function
from .values import Unsendable, decode, encode, read, write


def main() -> None:
    """Run the snippet and write the results: how many tests there are, then one line for each, or a fault."""
    with open(5, "w", encoding="utf-8") as results:
        try:
            with open("snippet.py", encoding="utf-8") as file:
                snippet = Snippet(file.read())
            _Run(snippet, results).all()
        except (_Fault, InvalidSnippet) as fault:
            _write(results, fault=str(fault)[:300])


class _RemoteError(Exception):
    """The program raised an exception that is not one of Python's own, or it has ended."""

    #: Its class and the bases, by name and as the program's objects.
    kinds: tuple[str, ...] = ()
    numbers: tuple[Any, ...] = ()


# Not an Exception, so that the snippet does not catch it.
class _Fault(BaseException):
    """The snippet asks for something that is not possible."""


class _Program:
    """The other side of the pipes."""

    def __init__(self) -> None:
        self._answers, self._requests = open(3, "rb"), open(4, "wb")  # noqa: SIM115 (for the process's life)
        self._remotes: dict[int, Remote] = {}

    def names(self) -> dict[str, Any]:
        """Return the values of the program's top level."""
        answer = self._read()
        if "names" not in answer:
            raise _RemoteError(f"the program failed: {answer.get('failed')}")
        return {
            name: self.ask("value", int(number))
            for name, number in answer["names"].items()
            if name.isidentifier() and not name.startswith("__")
        }

    def ask(self, action: str, number: int, *parts: Any) -> Any:
        """Return the answer to a request about the object with this number."""
        try:
            request = [action, number, *(encode(part, _number) for part in parts)]
        except Unsendable as error:
            raise _Fault(str(error)) from None
        try:
            write(self._requests, request)
        except OSError as error:
            raise _RemoteError("the program has ended") from error
        answer = self._read()
        if "raised" in answer:
            raise _exception(answer)
        value = decode(answer["value"], self._remote)
        if action == "call" and value is None and "arguments" in answer:
            _replace_contents(parts[0], decode(answer["arguments"], self._remote))
        return value

    def _remote(self, number: Any) -> "Remote":
        if number not in self._remotes:
            self._remotes[number] = Remote(self, int(number))
        return self._remotes[number]

    def _read(self) -> dict[str, Any]:
        try:
            answer = read(self._answers)
        except (EOFError, OSError, ValueError, RecursionError) as error:
            raise _RemoteError("the program has ended, or does not answer as it should") from error
        if type(answer) is not dict:
            raise _RemoteError("the program does not answer as it should")
        return answer


class Remote:
    """An object of the program."""

    __slots__ = ("_number", "_program")
    _number: int
    _program: _Program

    def __init__(self, program: _Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self._program.ask("call", self._number, list(positional), named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._program.ask("get", self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("set", self._number, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._program.ask("item", self._number, key)

    def __iter__(self) -> Any:
        return iter(self._program.ask("list", self._number))

    def __len__(self) -> int:
        length = self._program.ask("len", self._number)
        return length if type(length) is int else -1

    def __str__(self) -> str:
        text = self._program.ask("str", self._number)
        return text if type(text) is str else "an object of the program"

    def __bool__(self) -> bool:
        raise TypeError("an object of the program has no truth value here")

    def _refused(self, other: object) -> Any:
        if type(other) is Remote and other is not self:
            raise _Fault("objects of the program cannot be compared or combined: compare their attributes")
        return NotImplemented

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refused
    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __pow__ = __matmul__ = _refused
    __or__ = __and__ = __xor__ = _refused
    __hash__ = object.__hash__

    def __enter__(self) -> NoReturn:
        raise _Fault("an object of the program cannot be used in a `with` statement")

    def __exit__(self, *_: object) -> None:
        """Never called."""


def _replace_contents(arguments: list[Any], changed: Any) -> None:
    """Give lists, dicts and sets among `arguments` the contents that a call left in them."""
    for mine, theirs in zip(arguments, changed if type(changed) is list else (), strict=False):
        if type(mine) is not type(theirs):
            continue
        if isinstance(mine, list):
            mine[:] = theirs
        elif isinstance(mine, (dict, set)):
            mine.clear()
            mine.update(theirs)


def _number(value: Any) -> int:
    if type(value) is Remote:
        return value._number
    raise Unsendable(f"a {type(value).__name__} cannot be passed to the program: only plain data can")


def _exception(answer: Mapping[str, Any]) -> Exception:
    """Return the exception that the program reports: the first of its classes that is Python's own."""
    text, kinds = str(answer.get("text")), [str(name) for name in answer["raised"]]
    error: Exception = _RemoteError(text)
    for name in kinds:
        kind = getattr(builtins, name, None)
        # An AssertionError of the program must not look like one of the tests.
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in (AssertionError, Exception):
            with contextlib.suppress(TypeError):
                error = kind(text)
            break
    error.kinds, error.numbers = tuple(kinds), tuple(answer.get("kinds", ()))  # type: ignore[attr-defined]
    return error


class _Raises:
    """pytest.raises: classes of Python or of the program, one or a tuple, and `match`."""

    def __init__(self, checks: Checks, expected: Any, match: str | None = None) -> None:
        self._checks = checks
        self._expected = expected if isinstance(expected, tuple) else (expected,)
        self._match = match
        self.value: Any = None

    def __enter__(self) -> "_Raises":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if kind is None:
            self._checks.check(False)
            raise AssertionError(f"did not raise {self._expected}")
        if self._checks.failed or not any(_is_of(error, expected) for expected in self._expected):
            return False
        self.value = error
        if self._match is not None and not re.search(self._match, str(error)):
            self._checks.check(False)
            raise AssertionError(f"{str(error)[:100]!r} does not match {self._match!r}")
        self._checks.caught()
        return True


def _is_of(error: BaseException, expected: Any) -> bool:
    if type(expected) is Remote:
        return expected._number in getattr(error, "numbers", ())
    return isinstance(error, expected) or (
        isinstance(error, _RemoteError) and expected is AssertionError and "AssertionError" in error.kinds
    )


class _Approx:
    """pytest.approx for a number, or a sequence or mapping of numbers."""

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None) -> None:
        self._expected = expected
        # As in pytest: an absolute tolerance alone replaces the relative one.
        self._rel = rel if rel is not None else (0.0 if abs is not None else 1e-6)
        self._abs = 1e-12 if abs is None else abs

    def __eq__(self, value: object) -> bool:
        return self._near(value, self._expected)

    def _near(self, value: Any, expected: Any) -> bool:
        if isinstance(expected, Mapping):
            return (
                isinstance(value, dict)
                and value.keys() == expected.keys()
                and all(self._near(value[key], expected[key]) for key in expected)
            )
        if isinstance(expected, Sequence) and not isinstance(expected, (str, bytes)):
            return (
                type(value) is type(expected)
                and len(value) == len(expected)
                and all(map(self._near, value, expected))
            )
        if isinstance(expected, (int, float)) and isinstance(value, (int, float)):
            return math.isclose(value, expected, rel_tol=self._rel, abs_tol=self._abs)
        return bool(value == expected)

    __hash__ = None  # type: ignore[assignment]


class _Pytest(types.ModuleType):
    """The part of pytest that tests of programs use."""

    def __init__(self, checks: Checks) -> None:
        super().__init__("pytest")
        self._checks = checks
        self.approx = _Approx

    def raises(self, expected: Any, match: str | None = None) -> _Raises:
        """See pytest."""
        return _Raises(self._checks, expected, match)

    def fail(self, reason: str = "") -> NoReturn:
        """See pytest."""
        self._checks.check(False)
        raise AssertionError(reason)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _Fault(f"pytest.{name} is not available")


class _Scope(dict[str, Any]):
    """The globals of the snippet."""

    def __init__(self, checks: Checks, modules: frozenset[str]) -> None:
        super().__init__(__name__="__main__", __builtins__=builtins, __checks__=checks)
        self._modules = modules
        #: The program's top level.
        self.program: dict[str, Any] = {}

    def __missing__(self, name: str) -> Any:
        # The order matters: the program must not replace what the tests compare with.
        if hasattr(builtins, name):
            return getattr(builtins, name)
        if name in self._modules:
            return importlib.import_module(name)
        if name == "pytest":
            return sys.modules["pytest"]
        if name in self.program:
            return self.program[name]
        raise NameError(f"name {name!r} is not defined")


class _Run:
    """One run of a snippet."""

    def __init__(self, snippet: Snippet, results: TextIO) -> None:
        self._snippet = snippet
        self._results = results
        self._checks = Checks()
        self._scope = _Scope(self._checks, snippet.modules)
        #: The reason for which no further test can pass; empty if there is none.
        self._broken = ""

    def all(self) -> None:
        """Run the statements in order, and write the result of each test."""
        _write(self._results, tests=len(self._snippet.tests) + self._snippet.has_rest)
        try:
            self._load()
        except Exception as error:
            self._broken = _described(error)
        for node in self._snippet.statements:
            is_test = node in self._snippet.tests
            failure = self._broken or self._failure(node, is_test)
            if is_test:
                _write(self._results, passed=not failure, detail=failure)
            else:
                self._broken = failure
        if self._snippet.has_rest:
            _write(self._results, passed=not self._broken, detail=self._broken)

    def _load(self) -> None:
        sys.modules["pytest"] = _Pytest(self._checks)
        sys.modules["solution"] = module = types.ModuleType("solution")
        self._scope.program = _Program().names()
        module.__dict__.update(self._scope.program)

    def _failure(self, node: ast.stmt, is_test: bool) -> str:
        self._checks.begin()
        try:
            exec(compile(ast.Module([node], []), "tests", "exec"), self._scope)
            if is_test_function(node):
                self._scope[node.name]()  # type: ignore[attr-defined]
        except Exception as error:
            return _described(error) or "failed"
        return self._checks.problem() if is_test else ""


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _write(results: TextIO, **line: Any) -> None:
    results.write(json.dumps(line) + "\n")
    results.flush()
