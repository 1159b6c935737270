"""The trainer's modules and its rooms (sub-packages) import each other in one direction."""

import ast
from collections import defaultdict
from pathlib import Path

import extra_trainer

ROOT = Path(extra_trainer.__file__).parent


def _modules() -> dict[str, Path]:
    """Name -> file of all modules but the packages' own, which hold only a docstring."""
    return {
        ".".join(("extra_trainer", *path.relative_to(ROOT).with_suffix("").parts)): path
        for path in ROOT.rglob("*.py")
        if path.name != "__init__.py"
    }


def _imports(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Module -> modules of the trainer that it imports, also late or for types only."""
    graph = {}
    for name, path in modules.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[name] = (found & modules.keys()) - {name}
    return graph


def _in_circles(graph: dict[str, set[str]]) -> set[str]:
    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph.get(start, ()))
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += graph.get(name, ())
        return seen

    return {name for name in graph if name in reached(name)}


def test_no_module_and_no_room_imports_itself_through_others() -> None:
    graph = _imports(_modules())
    assert _in_circles(graph) == set()
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, imported in graph.items():
        room = name.split(".")[1]
        rooms[room] |= {other.split(".")[1] for other in imported} - {room}
    assert _in_circles(rooms) == set()
