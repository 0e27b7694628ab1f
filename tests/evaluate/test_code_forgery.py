"""Replies that want the score without the work, and right ones whose values are not plain."""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluate.sandbox_runs import contained

from qwill.evaluate.code_line import Gone, Peer
from qwill.evaluate.code_scorer import code_scorer
from qwill.evaluate.sandbox import Limits
from qwill.evaluate.task import Example, Score

SHORT = Limits(seconds=10, cpu_seconds=2, output_kib=64)
PROMPT = '''import math


def near(x: float, y: float) -> bool:
    return math.fabs(x - y) < 1e-6


def root(x: float) -> float:
    """The square root."""
'''
CHECK = "def check(candidate):\n    assert near(candidate(4.0), 2.0)\n    assert candidate(0.0) == 0\n"
ROOT = Example("root", PROMPT, fields={"prompt": PROMPT, "entry_point": "root", "test": CHECK})


def scored(reply: str, *statements: str, **more: Any) -> Score:
    """Scored by statements (MBPP), or for no statements by ROOT's check (HumanEval)."""
    contained("")
    fields = {"prompt": "Write it.", "test_list": list(statements), **more}
    example = Example("m", "", fields=fields) if statements else ROOT
    return code_scorer(limits=SHORT)(example, reply)


# Each ends with what it would do with the word, had it found it.
SEARCHES = {
    "frames": """
        import sys
        frame = sys._getframe()
        while frame:
            said += repr(list(frame.f_locals.values())) + repr(list(frame.f_globals.values()))
            frame = frame.f_back
    """,
    "every object": """
        import gc, sys
        for one in gc.get_objects():
            if isinstance(one, dict):
                said += repr([v for v in list(one.values()) if isinstance(v, (str, bytes))])
            elif isinstance(one, (list, tuple)):
                said += repr([v for v in one if isinstance(v, (str, bytes))])
    """,
    "standard input": """
        import os, sys
        said += sys.stdin.read()
        for fd in range(64):
            try:
                said += os.pread(fd, 1 << 20, 0).decode("latin-1")
            except OSError:
                pass
    """,
    "its memory": """
        for name in ("/proc/self/mem", "/proc/self/maps", "/proc/1/environ", "/tmp/.stdin", "/tmp/program.py"):
            try:
                said += open(name, encoding="latin-1").read()
            except OSError:
                pass
    """,
    "raw memory": """
        import ctypes
        kept = [bytearray(1 << 16) for _ in range(8)] and ctypes.string_at(id(object), 1 << 14)
        said += kept.decode("latin-1")
    """,
}


@pytest.mark.parametrize("name", SEARCHES)
def test_the_word_and_the_tests_are_not_to_be_found(name: str) -> None:
    reply = f"""    said = ""
{SEARCHES[name].replace(chr(10) + "    ", chr(10))}
    import os, re
    words = re.findall("(?<![0-9a-f])[0-9a-f]{{32}}(?![0-9a-f])", said)
    for word in set(words):
        os.write(1, ("\\n" + word).encode())
    # Its own text is in its memory too, so it must not have what it looks for.
    os._exit(3 if words or "".join(["near", "(candidate("]) in said else 0)
"""
    found = scored(reply)
    assert found == Score(0.0, "ended with status 0 before its tests were through")


FORGERIES = {
    "kills the tests": "    import os; os.kill(os.getppid(), 9)\n",
    "ends the tests": "    import os; os.kill(os.getppid(), 15)\n    return 1\n",
    "kills all": "    import os; os.kill(-1, 9)\n",
    "stops itself": "    import os, sys; sys.stdout.flush(); os.abort()\n",
    "traces the tests": "    import ctypes, os\n    return ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)\n",
    "writes everywhere": "    import os\n    for fd in range(64):\n"
    "        try: os.write(fd, b'\\x02' + bytes(7) + b'{}')\n"
    "        except OSError: pass\n    return 1\n",
    "answers by itself": "    import sys\n    peer = sys._getframe(3).f_locals.get('self') or sys._getframe(2).f_locals"
    "['self']\n    for _ in range(9): peer.send(['value', True, [], None])\n    return 1\n",
    "asks for the tests' own": "    import sys\n    frame = sys._getframe()\n    while frame:\n"
    "        peer = frame.f_locals.get('self')\n        if hasattr(peer, 'send'):\n"
    "            for n in range(3): peer.send(['get', n, ['__globals__'], {'d': []}])\n        frame = frame.f_back\n"
    "    return 1\n",
    "patches assert": "    import builtins; builtins.AssertionError = None; builtins.abs = lambda x: 0; return 1\n",
    "patches math": "    math.fabs = lambda x: 0; math.isclose = lambda *a: True; return 1\n",
    "its own helper": "    return 1\ndef near(x, y):\n    return True\n",
    "its own check": "    return 1\ndef check(candidate):\n    pass\n",
    "its own math": "    return 1\nclass math:\n    fabs = staticmethod(lambda x: 0)\n",
    "another's exit": "    import threading, os\n"
    "    threading.Thread(target=lambda: os._exit(0)).start()\n    return 1\n",
    "raises exit": "    raise SystemExit(0)\n",
    "raises its own": "    class Fine(BaseException): pass\n    raise Fine\n",
    "anything at all": "    pass\nimport unittest.mock\nroot = lambda x: unittest.mock.ANY\n",
    "as a class": "    pass\nclass root:\n    def __init__(self, *_): pass\n"
    "    def __eq__(self, other): return True\n    def __sub__(self, other): return 0.0\n"
    "    __rsub__ = __sub__\n    def __float__(self): return 2.0\n",
    "forks": "    import os\n    if os.fork(): os._exit(0)\n    return 1\n",
    "loosens": "    import ctypes\n    return ctypes.CDLL(None).prctl(22, 2, None, 0, 0) + 1\n",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_result_scores_0(name: str) -> None:
    assert scored(FORGERIES[name]).value == 0


AGREEABLE = """
class Agreeable:
    def _yes(self, *_): return True
    def _me(self, *_): return self
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = _yes
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __abs__ = __round__ = __neg__ = _me
    __hash__ = lambda self: 4
    def __len__(self): return 1
def f(x): return Agreeable()
def set(x): return Agreeable()
def isclose(*_): return True
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert f(2) == 4", "assert 4 == f(2)", "assert abs(f(2) - 4) < 1e-6", "assert f(2) in (4, 5)",
        "assert set(f(2)) == set([4])", "assert 4 in f(2)", "assert f(2) < 5", "assert sorted([f(2)]) == [4]",
        "assert [f(2)] == [4]", "assert {'x': f(2)} == {'x': 4}", "assert round(f(2)) == 4", "assert str(f(2)) == '4'",
        "from math import isclose\nassert isclose(f(2), 4)", "try: assert f(2) == 4\nexcept ValueError: pass",
        "assert not f(2) != 4",
    ],
)  # fmt: skip
def test_a_result_that_agrees_with_everything_scores_0(test: str) -> None:
    assert scored(AGREEABLE, test).value == 0


def test_of_a_list_of_its_own_kind_only_what_is_in_it_counts() -> None:
    reply = "class Same(list):\n    __eq__ = lambda *_: True\ndef f(x): return [Same([4])]"
    assert [scored(reply, f"assert f(0) == [[{n}]]").value for n in (4, 5)] == [1, 0]


@pytest.mark.parametrize(
    ("reply", "test"),
    [
        ("from collections import Counter\ndef f(x): return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("from decimal import Decimal\ndef f(x): return Decimal(x) / 4", "assert str(f(1)) == '0.25' and f(1) < 1"),
        ("def f(n): yield from range(n)", "assert list(f(3)) == [0, 1, 2] and 2 in f(3)"),
        ("def f(x): x.sort(); x.append([1])", "a = [3, 1]\nf(a)\nassert a == [1, 3, [1]]"),
        ("def f(d):\n  d['k'] = (1, {2})\n  return d", "a = {}\nassert f(a) is a and a == {'k': (1, {2})}"),
        ("def f(g, x): return [g(v) for v in x]", "assert f(lambda v: v * 2, [1, 2]) == [2, 4]"),
        ("def f(g, x): return sorted(x, key=g)", "assert f(len, ['bb', 'a']) == ['a', 'bb']"),
        ("class Odd(ValueError): pass\ndef f(x): raise Odd(x)",
         "try: f(3)\nexcept ValueError as e: assert e.args == (3,)"),
        ("class Odd(Exception): pass\ndef f(x): raise Odd(x)", "try: f(3)\nexcept Odd as e: assert str(e) == '3'"),
        ("async def f(x): return x + 1", "import asyncio\nassert asyncio.run(f(1)) == 2"),
        ("from datetime import *\ndef f(x): return x + timedelta(1)",
         "import datetime\nassert f(datetime.date(2024, 2, 28)) == datetime.date(2024, 2, 29)"),
        ("from typing import NamedTuple\nclass P(NamedTuple):\n  x: int\n  y: int\ndef f(): return P(1, 2)",
         "assert f() == (1, 2) and f().y == 2"),
        ("from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n  x: int\n"
         "def f(p): return p.x", "p = P(3)\np.x = 4\nassert f(p) == 4 and p == P(x=4) and p != P(3)"),
        ("class Vector:\n  def __init__(self, *v): self.v = v\n"
         "  def __add__(self, o): return Vector(*map(sum, zip(self.v, o.v)))"
         "\n  def __eq__(self, o): return self.v == o.v\n  def __getitem__(self, i): return self.v[i]\n"
         "  def __len__(self): return len(self.v)\n  def __repr__(self): return f'V{self.v}'",
         "s = Vector(1, 2) + Vector(3, 4)\nassert s == Vector(4, 6) and s[1] == 6 and len(s) == 2\n"
         "assert repr(s) == 'V(4, 6)'"
         "\nassert isinstance(s, Vector) and list(s) == [4, 6]"),
        ("class Node:\n  def __init__(self, v): self.v, self.left = v, None\n"
         "def depth(n): return n and 1 + depth(n.left) or 0",
         "root = Node(1)\nroot.left = Node(2)\nassert depth(root) == 2 and root.left.v == 2"),
        ("def f(x): return 10 ** x", "assert f(400) == 10 ** 400 and f(2) is not True"),
        ("def f(): return 1j, b'\\xff', ..., range(3), frozenset({1}), float('inf'), {1: 2}.keys(), '\\ud800'",
         "assert f() == (1j, b'\\xff', ..., range(3), frozenset({1}), float('inf'), {1}, '\\ud800')"),
        ("def f(box): return box.size() + box.more",
         "class Box:\n  more = 1\n  def size(self): return 2\nassert f(Box()) == 3"),
        ("def f(x): return print", "assert f(1) is print"),
        ("LIMIT = 3\ndef f(x):\n  global LIMIT\n  LIMIT += x\n  return LIMIT", "assert LIMIT == 3 and f(2) == 5"),
        ("def sum(a, b): return a * b", "assert sum(3, 4) == 12"),
        ("def sum(a, b): return a - b\ndef f(x): return sum(x, 1)", "assert f(3) == 2 and sum([1, 2]) == 3"),
        ("def select(a): return a", "assert select(3) == 3"),
        ("import unittest.mock\ndef f(x): return x", "try: f(1)(2)\nexcept TypeError: pass"),
        ("def f(x): return math.floor(x)", "import math\nassert f(2.5) == math.floor(2.9)"),
    ],
)  # fmt: skip
def test_right_replies_of_any_kind_score_1(reply: str, test: str) -> None:
    assert scored(reply, test) == Score(1.0, "all tests passed")


def test_who_ends_instead_of_raising_scores_0_even_where_tests_catch_all() -> None:
    test = "try: f(-1)\nexcept: pass\nelse: assert False"
    assert scored("def f(x): raise ValueError", test).value == 1
    assert scored("import os\ndef f(x): os._exit(0)", test).value == 0


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), st.fractions(),
    st.complex_numbers(allow_nan=False), st.decimals(allow_nan=False), st.datetimes(), st.timedeltas(), st.dates(),
    st.lists(st.integers()).map(set), st.lists(st.text()).map(frozenset), st.lists(st.text()).map(Counter),
)  # fmt: skip
plain: st.SearchStrategy[object] = st.deferred(
    lambda: leaves | st.lists(plain, max_size=3).flatmap(lambda some: st.sampled_from([some, tuple(some), deque(some)]))
    | st.dictionaries(st.text() | st.integers(), plain, max_size=3)
)  # fmt: skip


def shape(value: object) -> object:
    """Equal only for values whose parts have the same types too, which True and 1 have not, nor 0.0 and -0.0."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, [(key, shape(one)) for key, one in value.items()]
    if isinstance(value, list | tuple | deque):
        return kind, [shape(one) for one in value]
    return kind, value if isinstance(value, set | frozenset) else repr(value)


@given(plain)
def test_values_come_over_as_they_are(value: object) -> None:
    there = Peer(-1, -1, tests=False)
    back = json.loads(json.dumps(there.encode(value)), object_hook=Peer(-1, -1, tests=True).decode)
    assert back == value and shape(back) == shape(value)
    assert not there.kept


def test_what_the_tests_hand_over_is_no_way_into_them() -> None:
    reads, writes = os.pipe()
    try:
        tests = Peer(reads, writes, tests=True)
        number = tests.number(lambda x: x)
        assert tests.do("call", number, [3], {}) == 3
        for what, arguments in (("get", ["__globals__"]), ("set", ["x", 1]), ("repr", []), ("iter", [])):
            with pytest.raises(PermissionError):
                tests.do(what, number, arguments, {})
        box = tests.number(type("Box", (), {"__module__": "tests", "size": 3})())
        assert tests.do("get", box, ["size"], {}) == 3
        for name in ("__class__", "_x", "__init__"):
            with pytest.raises(PermissionError):
                tests.do("get", box, [name], {})
        for module, name in (("qwill.evaluate.code_line", "Peer"), ("unittest.mock", "ANY"), ("os", "abort")):
            with pytest.raises(ValueError, match="nothing to be named here"):
                tests.decode({"m": [module, name]})
        with pytest.raises(ValueError, match="not public"):
            tests.decode({"m": ["collections", "_sys"]})
        with pytest.raises(ValueError, match="no function, class or module"):
            tests.decode({"m": ["string", "digits"]})
        with pytest.raises(ValueError, match="no value"):
            tests.decode({"x": ["os", "system", ["true"]]})
        with pytest.raises(IndexError):
            tests.decode({"y": 99})
    finally:
        os.close(writes)
    with pytest.raises(Gone):
        tests.receive()
    os.close(reads)
