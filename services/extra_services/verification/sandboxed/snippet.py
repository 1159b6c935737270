"""Run the tests of a snippet against a program in another process.

A name that the snippet uses and does not define is the program's, unless Python or its standard library has
it. An object of the program is a `Remote`: calls, attributes, items and iteration go over the pipe and come
back as plain data. A Remote is equal to itself alone and has no order and no truth, so an object of the
program cannot make an assertion hold by methods of its own. Arguments are passed by value: a change of an
argument in place is not seen here.
"""

import ast
import builtins
import importlib
import json
import math
import sys
import types
from typing import Any, TextIO

from .values import Unsendable, decode, encode, read, write


def main() -> None:
    """Run the snippet and write the results: how many tests there are, then one line for each, or a fault."""
    with open(5, "w", encoding="utf-8") as results:
        try:
            with open("snippet.py", encoding="utf-8") as file:
                tree = ast.parse(file.read())
        except (SyntaxError, ValueError) as error:
            _write(results, fault=_described(error))
            return
        try:
            _Run(tree, results).all()
        except _Fault as fault:
            _write(results, fault=str(fault))


class _RemoteError(Exception):
    """The program raised an exception that is not one of Python's own, or it has ended."""


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
        return {str(name): self.ask("value", int(number)) for name, number in answer["names"].items()}

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
            raise _exception(answer["raised"], str(answer.get("text")))
        return decode(answer["value"], self._remote)

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


def _number(value: Any) -> int:
    if type(value) is Remote:
        return value._number
    raise Unsendable(f"a {type(value).__name__} cannot be passed to the program: only plain data can")


def _exception(kinds: Any, text: str) -> Exception:
    """Return the first of Python's own exceptions in `kinds`, the names of a class and its bases."""
    for name in kinds:
        kind = getattr(builtins, str(name), None)
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in (AssertionError, Exception):
            try:
                return kind(text)
            except TypeError:
                break
    return _RemoteError(text)


class _Raises:
    """The part of pytest.raises that tests of programs use."""

    def __init__(self, expected: Any) -> None:
        self._expected = expected

    def __enter__(self) -> "_Raises":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if kind is None:
            raise AssertionError(f"did not raise {self._expected}")
        return issubclass(kind, self._expected)


class _Approx:
    """pytest.approx for one number."""

    def __init__(self, expected: float, rel: float = 1e-6, abs: float = 1e-12) -> None:
        self._expected, self._rel, self._abs = expected, rel, abs

    def __eq__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and math.isclose(
            value, self._expected, rel_tol=self._rel, abs_tol=self._abs
        )

    __hash__ = None  # type: ignore[assignment]


class _Scope(dict[str, Any]):
    """The globals of the snippet."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(__name__="tests", __builtins__=builtins)
        self._values = values

    def __missing__(self, name: str) -> Any:
        # The order matters: the program must not replace what the tests compare with.
        if hasattr(builtins, name):
            return getattr(builtins, name)
        if name in sys.stdlib_module_names:
            return importlib.import_module(name)
        if name in self._values:
            return self._values[name]
        raise NameError(f"name {name!r} is not defined")


class _Run:
    """One run of a snippet."""

    def __init__(self, tree: ast.Module, results: TextIO) -> None:
        self._statements = tree.body
        self._results = results
        self._tests = [node for node in tree.body if isinstance(node, ast.Assert) or _is_function(node)]
        #: The reason for which no further test can pass; empty if there is none.
        self._broken = ""

    def all(self) -> None:
        """Run the statements in order, and write the result of each test."""
        _write(self._results, tests=len(self._tests) or 1)
        try:
            scope = self._scope()
        except Exception as error:
            self._broken = _described(error)
            scope = _Scope({})
        for node in self._statements:
            failure = self._broken or self._failure(node, scope)
            if node in self._tests:
                _write(self._results, passed=not failure, detail=failure)
            else:
                self._broken = failure
        if not self._tests:
            _write(self._results, passed=not self._broken, detail=self._broken)

    def _scope(self) -> _Scope:
        values = _Program().names()
        for name, content in (("solution", values), ("pytest", {"raises": _Raises, "approx": _Approx})):
            module = types.ModuleType(name)
            module.__dict__.update(content)
            sys.modules[name] = module
        return _Scope(values)

    def _failure(self, node: ast.stmt, scope: _Scope) -> str:
        try:
            exec(compile(ast.Module([node], []), "tests", "exec"), scope)
            if _is_function(node):
                scope[node.name]()  # type: ignore[attr-defined]
        except Exception as error:
            return _described(error)
        return ""


def _is_function(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test_")


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _write(results: TextIO, **line: Any) -> None:
    results.write(json.dumps(line) + "\n")
    results.flush()
