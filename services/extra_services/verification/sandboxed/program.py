"""Run a program and answer the requests of its tests.

Nothing here is trusted: the program is in the same process and may change it as it likes. The tests take all
that comes for plain data.
"""

import sys
import types
from typing import Any

from .values import decode, encode, read, write


def main() -> None:
    """Run the program, then answer requests until the tests end."""
    requests, answers = open(3, "rb"), open(4, "wb")  # noqa: SIM115 (for the life of the process)
    objects = _Objects()
    module = sys.modules["solution"] = types.ModuleType("solution")
    scope = module.__dict__
    try:
        with open("program.py", encoding="utf-8") as file:
            exec(compile(file.read(), "program.py", "exec"), scope)
    except BaseException as error:
        write(answers, {"failed": f"{type(error).__name__}: {error}"[:500]})
        return
    write(
        answers, {"names": {name: objects.number(each) for name, each in scope.items() if name[:2] != "__"}}
    )
    while True:
        try:
            action, number, *parts = read(requests)
        except EOFError:
            return
        try:
            values = [decode(part, objects.list.__getitem__) for part in parts]
            value = _do(objects.list[number], action, values)
            answer = {"value": encode(value, objects.number)}
            if action == "call" and value is None:
                answer["arguments"] = encode(values[0], objects.number)
        except BaseException as error:
            kinds = type(error).__mro__
            answer = {
                "raised": [kind.__name__ for kind in kinds],
                "kinds": [objects.number(kind) for kind in kinds],
                "text": str(error)[:500],
            }
        write(answers, answer)


class _Objects:
    """The objects that the tests know by number."""

    def __init__(self) -> None:
        self.list: list[Any] = []
        self._numbers: dict[int, int] = {}

    def number(self, value: Any) -> int:
        """Return the number of `value`, which the list keeps alive."""
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.list)
            self.list.append(value)
        return self._numbers[id(value)]


def _do(target: Any, action: str, parts: list[Any]) -> Any:
    match action:
        case "value":
            return target
        case "call":
            positional, named = parts
            return target(*positional, **named)
        case "get":
            return getattr(target, parts[0])
        case "set":
            return setattr(target, parts[0], parts[1])
        case "item":
            return target[parts[0]]
        case "list":
            return list(target)
        case "len":
            return len(target)
    return str(target)
