# ruff: noqa: E501 (programs are more readable unbroken)
"""Programs that are right, or right in part, in the forms in which models write them."""

import json
import textwrap
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Honest:
    """A response, its tests, and the share of them that it passes."""

    response: str
    answer: str
    score: float = 1.0


def _printed(program: str, *tests: tuple[str, str], score: float = 1.0) -> Honest:
    rows = [{"stdin": stdin, "stdout": stdout} for stdin, stdout in tests]
    return _honest(program, {"tests": rows}, score)


def _called(program: str, tests: str, score: float = 1.0) -> Honest:
    return _honest(program, {"assert": textwrap.dedent(tests).strip()}, score)


def _honest(program: str, tests: dict[str, Any], score: float) -> Honest:
    text = textwrap.dedent(program).strip()
    return Honest(
        f"I think about it.\n```python\nprint('a draft'\n```\nBetter:\n\n```python\n{text}\n```\nDone.",
        json.dumps(tests),
        score,
    )


HONEST = {
    "reads and prints": _printed("a, b = map(int, input().split())\nprint(a + b)", ("3 4\n", "7\n"), ("-1 1", "0")),
    "reads all lines": _printed(
        "import sys\nprint(sum(int(x) for x in sys.stdin.read().split()))",
        ("\n".join(map(str, range(100000))), "4999950000"),
    ),
    "ends by exit": _printed("print(input()[::-1])\nexit()", ("abc", "cba"), ("", "no input"), score=0.5),
    "a main function": _printed(
        "import sys\ndef main():\n    print(len(sys.stdin.readline().strip()))\nif __name__ == '__main__':\n    main()",
        ("hello\n", "5"),
    ),
    "Unicode": _printed("print(input().upper(), '√2 ≈ 1.41 🙂')", ("straße é", "STRASSE É √2 ≈ 1.41 🙂")),
    "large output": _printed("for n in range(100000):\n    print(n)", ("", "\n".join(map(str, range(100000))))),
    "spaces at line ends": _printed("print('1 2 ')\nprint('3\\r')\nprint()\nprint()", ("", "1 2\n3\n")),
    "the future and dataclasses": _printed(
        '''
        """A program."""
        from __future__ import annotations
        from dataclasses import dataclass, field
        import pickle, collections, heapq, itertools, fractions
        @dataclass
        class Point:
            x: int
            others: list[Point] = field(default_factory=list)
        print(pickle.loads(pickle.dumps(Point(3, [Point(4)]))).others[0].x)
        ''',
        ("", "4"),
    ),
    "threads and a deep recursion": _printed(
        """
        import sys, threading
        sys.setrecursionlimit(10**6)
        threading.stack_size(1 << 26)
        def down(n):
            return 0 if n == 0 else 1 + down(n - 1)
        thread = threading.Thread(target=lambda: print(down(50000)))
        thread.start()
        thread.join()
        """,
        ("", "50000"),
    ),
    "asyncio": _printed(
        "import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    print('done')\nasyncio.run(main())",
        ("", "done"),
    ),
    "files and memory": _printed(
        "with open('/tmp/x', 'w') as file:\n    file.write('a' * 10**6)\nprint(len(open('/tmp/x').read()))\n"
        "numbers = list(range(5 * 10**6))\nprint(len(numbers))",
        ("", "1000000\n5000000"),
    ),
    "slow but in time": _printed(
        "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end:\n    pass\nprint('late')",
        ("", "late"),
    ),
    "right in part": _printed("print(int(input()) // 2)", ("4", "2"), ("5", "2"), ("7", "3.5"), ("9", "4.5"), score=0.5),
    "wrong": _printed("print(41)", ("", "42"), score=0.0),
    "a syntax error": _printed("print(42", ("", "42"), score=0.0),
    "right but fails": _printed("print(42)\nraise SystemExit(3)", ("", "42"), score=0.0),
    "a function": _called("def add(a, b):\n    return a + b", "assert add(3, 4) == 7\nassert add('a', 'b') == 'ab'"),
    "in the form of HumanEval": _called(
        "from typing import List\ndef has_close(numbers: List[float], threshold: float) -> bool:\n"
        "    ordered = sorted(numbers)\n    return any(b - a < threshold for a, b in zip(ordered, ordered[1:]))",
        """
        METADATA = {'author': 'x'}
        def check(candidate):
            assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.3) == True
            assert candidate([1.0, 2.0, 5.9, 4.0, 5.0], 0.05) == False
        check(has_close)
        """,
    ),
    "functions of pytest": _called(
        "import math\ndef root(x):\n    if x < 0:\n        raise ValueError('negative: %s' % x)\n    return math.sqrt(x)\n"
        "def roots(xs):\n    return [root(x) for x in xs]",
        """
        import pytest
        from solution import root
        def test_root():
            assert root(2) == pytest.approx(1.41421356)
            assert roots([1, 4]) == pytest.approx([1, 2])
        def test_negative():
            with pytest.raises(ValueError, match="negative"):
                root(-1)
        def test_idiom():
            try:
                root(-1)
                assert False, "no exception"
            except ValueError:
                pass
        """,
    ),
    "classes and exceptions of the program": _called(
        """
        class Empty(Exception):
            pass
        class Stack:
            def __init__(self):
                self.items = []
            def push(self, item):
                self.items.append(item)
            def pop(self):
                if not self.items:
                    raise Empty("empty")
                return self.items.pop()
            def __len__(self):
                return len(self.items)
        """,
        """
        import pytest
        stack = Stack()
        stack.push({'a': (1, 2.5, None)})
        stack.push([b'x', {3}])
        assert len(stack) == 2
        assert stack.pop() == [b'x', {3}]
        assert stack.items == [{'a': (1, 2.5, None)}]
        stack.pop()
        with pytest.raises(Empty):
            stack.pop()
        """,
    ),
    "in place": _called(
        "def rotate(matrix):\n    matrix[:] = [list(row) for row in zip(*matrix[::-1])]\n"
        "def put(table, key):\n    table[key] = len(table)",
        "m = [[1, 2], [3, 4]]\nrotate(m)\nassert m == [[3, 1], [4, 2]]\nt = {}\nput(t, 'a')\nassert t == {'a': 0}",
    ),
    "in the form of LeetCode": _called(
        "from typing import List\nclass Solution:\n    def twoSum(self, nums: List[int], target: int) -> List[int]:\n"
        "        seen = {}\n        for i, n in enumerate(nums):\n            if target - n in seen:\n"
        "                return [seen[target - n], i]\n            seen[n] = i",
        "from solution import *\nassert Solution().twoSum([2, 7, 11, 15], 9) == [0, 1]\n"
        "assert Solution().twoSum(nums=[3, 3], target=6) == [0, 1]",
    ),
    "helpers imported": _called(
        "from collections import Counter\ndef letters(word):\n    return Counter(word)",
        "from collections import Counter\nimport math\nassert letters('abca') == Counter('abca')\n"
        "assert math.isclose(letters('aab')['a'], 2)",
    ),
    "a name of Python's own": _called(
        "def sorted(values):\n    return list(reversed(values))",
        "from solution import sorted as ordered\nassert ordered([3, 2, 1]) == [1, 2, 3]",
    ),
    "a module's name": _called("def select(values):\n    return max(values)", "assert select([3, 9, 1]) == 9"),
    "prints while it is called": _called("def f(x):\n    print('debug', x)\n    return x", "assert f(1) == 1"),
    "a snippet passed in part": _called(
        "def f(x):\n    return abs(x)", "assert f(1) == 1\nassert f(-1) == 1\nassert f(2) == 4\nassert f(0) == 1", 0.5
    ),
}  # fmt: skip
