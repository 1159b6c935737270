"""The dependencies between the packages, and the page that describes them.

The tests read the source with `ast` and import nothing. Everything that can make Python load a module counts
as an import: statements at any depth, and strings that name one of the packages' modules, as in
`importlib.import_module("extra_trainer.runs")` and `[sys.executable, "-m", "extra_services.novelty.main"]`.
One string is allowed everywhere: `extra_cli`, with which `python -m extra_cli` starts the command `extra-rl`
in a process of its own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The packages, and what each may import besides itself. A module stands for the modules below it, too.
ALLOWED = {
    "extra_rl": (),
    "extra_client": ("extra_rl",),
    "extra_services": ("extra_rl",),
    "extra_trainer": ("extra_rl", "extra_client"),
    "extra_inspector": ("extra_rl", "extra_client", "extra_trainer.runs"),
    "extra_cli": ("extra_rl", "extra_client", "extra_services", "extra_trainer", "extra_inspector"),
}
FOLDERS = {
    "extra_rl": "contract",
    "extra_client": "client",
    "extra_services": "services",
    "extra_trainer": "trainer",
    "extra_inspector": "inspector",
    "extra_cli": "cli",
}
MODULE_IN_STRING = re.compile(rf"(?:-m )?((?:{'|'.join(ALLOWED)})(?:\.[a-z_0-9]+)*)\.?(?::\w+)?")

GRPC = re.compile(
    r"grpc|grpc_\w+|\w+_grpc"
)  # the library, its additions (grpc_health ...), the generated stubs


def modules() -> dict[str, Path]:
    """Return the source file of every module of the packages, by the module's full name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def inside(module: str, allowed: str) -> bool:
    """Return whether `module` is `allowed` or lies below it."""
    return f"{module}.".startswith(f"{allowed}.")


def imported_by(statement: ast.AST, module: str) -> Iterator[str]:
    """Yield the full names that an import statement of `module` imports: modules, or names within modules."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        base = statement.module or ""
        if statement.level:
            package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
            parents = package.split(".")[: len(package.split(".")) - statement.level + 1]
            base = ".".join([*parents, base]).rstrip(".")
        yield from (f"{base}.{alias.name}" for alias in statement.names)


def all_imports(module: str) -> Iterator[tuple[str, int]]:
    """Yield what a module imports anywhere, strings that name our modules included, with the line."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((name, node.lineno) for name in imported_by(node, module))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = MODULE_IN_STRING.fullmatch(node.value)
            if named and named[1] != "extra_cli":
                yield named[1], node.lineno


def module_level_imports(module: str) -> set[str]:
    """Return the modules of ours that a module imports while it is loaded itself."""
    loaded = set()
    waiting: list[ast.AST] = [ast.parse(MODULES[module].read_text())]
    while waiting:
        node = waiting.pop()
        for name in imported_by(node, module):
            # `from package import name` loads the module `package.name` if there is one, else the package.
            loaded |= {name, name.rpartition(".")[0]} & MODULES.keys() if name not in MODULES else {name}
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return loaded - {module}


def test_packages_import_only_what_their_arrows_allow() -> None:
    wrong = []
    for module, path in MODULES.items():
        package = module.partition(".")[0]
        for name, line in all_imports(module):
            ours = name.partition(".")[0] in ALLOWED
            if ours and not any(inside(name, allowed) for allowed in (package, *ALLOWED[package])):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_imports() -> None:
    graph = {module: module_level_imports(module) for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " imports ".join(reversed(error.args[1]))
        raise AssertionError(f"modules import each other in a circle: {circle}") from None


def test_domain_modules_of_the_services_do_not_import_grpc() -> None:
    wrong = []
    for module, path in MODULES.items():
        around = any(inside(module, f"extra_services.{name}") for name in ("runtime", "gateway"))
        translates = path.name in ("service.py", "main.py") or around
        if not inside(module, "extra_services") or translates:
            continue
        for name, line in all_imports(module):
            if any(GRPC.fullmatch(part) for part in name.split(".")):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_paths_of_the_architecture_page_exist() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    paths = {name for name in re.findall(r"`([^`\s]+)`", page) if "/" in name}
    assert paths, "the page names no path"
    missing = sorted(name for name in paths if not (ROOT / name).exists())
    assert not missing, f"docs/architecture.md names paths that do not exist: {missing}"
