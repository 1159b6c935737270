"""Find the tests of a snippet, refuse snippets that could pass without a check, and count the checks made.

A test that makes no check, or whose failed assertion is caught, does not pass. A check is an assertion about
something, an exception that `pytest.raises` or an `except` of a named class waits for.

A name that a snippet neither defines nor imports can be the program's or a helper of the author's
(`isclose`, `Counter`, `np`). If the program defined the helper, it would decide its own tests, so such a
snippet must say where the name comes from.
"""

import ast
import builtins
import sys
from collections.abc import Iterator
from typing import Any

#: Names of the standard library that tests compare with and programs seldom define.
_HELPERS = frozenset(
    [
        "Counter", "Decimal", "Fraction", "OrderedDict", "combinations", "date", "datetime", "deepcopy",
        "defaultdict", "deque", "fabs", "inf", "isclose", "isfinite", "isinf", "isnan", "nan", "permutations",
        "pi", "reduce", "sqrt", "timedelta",
    ]
)  # fmt: skip
#: The same of other packages.
_OTHER_HELPERS = frozenset(
    ["np", "numpy", "pd", "pandas", "scipy", "sympy", "torch", "allclose", "array_equal", "approx", "raises"]
)
#: Modules that run tests in ways of their own.
_RUNNERS = ("unittest", "doctest")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
#: Handlers of these catch a failed assertion too.
_CATCH_ALL = ("Exception", "BaseException", "AssertionError")


class InvalidSnippet(ValueError):
    """The snippet cannot be judged."""


class Checks:
    """Counts the checks of one test, and remembers a failed one."""

    def __init__(self) -> None:
        self.made = 0
        self.failed = False

    def begin(self) -> None:
        """Start the count of a test."""
        self.made, self.failed = 0, False

    def check(self, condition: Any) -> bool:
        """Count an assertion and return whether it holds."""
        self.made += 1
        holds = bool(condition)
        self.failed = self.failed or not holds
        return holds

    def caught(self) -> None:
        """Count an exception that the test waited for."""
        self.made += 1

    def problem(self) -> str:
        """Return the reason for which a test that ended normally does not pass, or an empty text."""
        if self.failed:
            return "an assertion failed, and the test caught it"
        return "" if self.made else "the test checked nothing"


class Snippet:
    """A snippet, split into its top-level statements.

    Args:
        source: Its text.

    Raises:
        InvalidSnippet: It cannot be judged; the text says why.
    """

    def __init__(self, source: str) -> None:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError) as error:
            raise InvalidSnippet(f"{type(error).__name__}: {error}") from error
        for node in ast.walk(tree):
            _refuse(node)
        checking = _checking_functions(tree)
        #: Statements whose results count.
        self.tests = [node for node in tree.body if _is_test(node, checking)]
        if not self.tests:
            raise InvalidSnippet("there is no test: no statement asserts anything")
        #: Names used as modules; never the program's if the standard library has them.
        self.modules = frozenset(
            node.value.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        ) & frozenset(sys.stdlib_module_names)
        self._require_program(tree)
        last = tree.body.index(self.tests[-1])
        #: Whether statements after the last test can still fail.
        self.has_rest = any(not isinstance(node, _DEFINITIONS) for node in tree.body[last + 1 :])
        self.statements = _Counting().visit(tree).body

    def _require_program(self, tree: ast.Module) -> None:
        free = _loaded(tree) - _bound(tree) - self.modules - frozenset(dir(builtins)) - {"pytest"}
        helpers = free & (_HELPERS | _OTHER_HELPERS)
        if helpers and (len(free) > 1 or helpers & _OTHER_HELPERS):
            names = ", ".join(sorted(helpers))
            raise InvalidSnippet(
                f"the tests must import {names}, from the module that defines it, or from"
                " solution if the program does: else a program could replace what it is compared with"
            )
        if not free and not any(module == "solution" for module, _ in _imports(tree)):
            raise InvalidSnippet(
                "the tests use nothing of the program; a function named like one of Python's own needs"
                " `from solution import NAME`"
            )


def is_test_function(node: ast.AST) -> bool:
    """Return whether `node` is a function that pytest would run."""
    return isinstance(node, _FUNCTIONS) and node.name.startswith("test")


def _refuse(node: ast.AST) -> None:
    """Raise InvalidSnippet for constructs that would pass without a check, or cannot be run here."""
    if isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple) and node.test.elts:
        raise InvalidSnippet(f"line {node.lineno}: an assertion of a tuple always holds")
    if isinstance(node, ast.ClassDef) and (
        node.name.startswith("Test") or any(is_test_function(each) for each in node.body)
    ):
        raise InvalidSnippet(f"line {node.lineno}: tests in classes are not run; write functions")
    if is_test_function(node):
        assert isinstance(node, _FUNCTIONS)
        arguments = node.args
        required = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
        if required or None in arguments.kw_defaults or node.decorator_list:
            raise InvalidSnippet(f"line {node.lineno}: {node.name} must have no parameters and no decorators")
        if isinstance(node, ast.AsyncFunctionDef) or _yields(node):
            raise InvalidSnippet(f"line {node.lineno}: {node.name} must be a plain function")
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        for module, _ in _imports(node):
            known = module in sys.stdlib_module_names or module in ("solution", "pytest")
            if not known or module in _RUNNERS:
                raise InvalidSnippet(f"line {node.lineno}: tests cannot import {module or 'relatively'}")


def _yields(node: ast.AST) -> bool:
    return any(isinstance(each, (ast.Yield, ast.YieldFrom)) for each in ast.walk(node))


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (top-level module, name that it binds) of each import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], alias.asname or alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield "" if node.level else (node.module or "").partition(".")[0], alias.asname or alias.name


def _loaded(tree: ast.AST) -> frozenset[str]:
    return frozenset(
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    )


def _bound(tree: ast.AST) -> frozenset[str]:
    """Return the names that the snippet binds anywhere."""
    names = {name for _, name in _imports(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
            names.add(node.name or "")
        elif isinstance(node, ast.MatchMapping):
            names.add(node.rest or "")
    return frozenset(names)


def _checking_functions(tree: ast.Module) -> frozenset[str]:
    """Return the names of the snippet's functions that check something, directly or through each other."""
    functions = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
    found: frozenset[str] = frozenset()
    while True:
        more = frozenset(node.name for node in functions if _contains_check(node, found))
        if more == found:
            return found
        found = more


def _is_test(node: ast.stmt, checking: frozenset[str]) -> bool:
    if isinstance(node, _DEFINITIONS):
        return is_test_function(node)
    return _contains_check(node, checking)


def _contains_check(node: ast.AST, checking: frozenset[str]) -> bool:
    return any(_is_check(each, checking) for each in ast.walk(node))


def _is_check(node: ast.AST, checking: frozenset[str]) -> bool:
    if isinstance(node, ast.Assert):
        return not (isinstance(node.test, ast.Constant) and node.test.value)
    if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        return name in ("raises", "fail") or name in checking
    return False


class _Counting(ast.NodeTransformer):
    """Report every check to the `Checks` that the scope holds as `__checks__`."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.generic_visit(node)
        if not (isinstance(node.test, ast.Constant) and node.test.value):
            node.test = _call("check", node.test)
        return ast.fix_missing_locations(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module == "solution" and any(alias.name == "*" for alias in node.names):
            # It would replace Python's own names by the program's; without it the others are found too.
            return ast.copy_location(ast.Pass(), node)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.generic_visit(node)
        caught = [each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)] if node.type else []
        if caught and not set(caught) & set(_CATCH_ALL):
            node.body.insert(0, ast.Expr(_call("caught")))
        return ast.fix_missing_locations(node)


def _call(method: str, *arguments: ast.expr) -> ast.Call:
    checks = ast.Name("__checks__", ast.Load())
    return ast.Call(ast.Attribute(checks, method, ast.Load()), list(arguments), [])
