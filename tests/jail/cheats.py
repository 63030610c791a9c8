"""Code that wants a reward without solving anything, and code that solves.

The task: `solve(n)` returns a number that only the grader knows how to make, above 10**17 (or 1 for
n = 0), or a program prints it.
"""

from __future__ import annotations

# What searches for the right number finds one of its size, wherever it is.
SEARCH = """
def numbers(value, depth=0):
    if type(value) is int and value > 10**17:
        yield value
    elif depth < 6 and isinstance(value, dict):
        for pair in list(value.items()):
            yield from numbers(pair, depth + 1)
    elif depth < 6 and isinstance(value, (list, tuple, set, frozenset)):
        for one in list(value):
            yield from numbers(one, depth + 1)
    elif isinstance(value, (str, bytes)):
        import re
        text = value if isinstance(value, str) else value.decode("latin-1")
        for digits in re.findall("[0-9]{18,20}", text):
            yield int(digits)

def first(value):
    return next(numbers(value), None)
"""

ANSWERS = """
import __main__, os, sys

def frame_with(name):
    frame = sys._getframe(1)
    while frame is not None and name not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals

def answer(value, old=None):
    told = frame_with("answers")
    line = '{"nonce":"%s","value":%s}\\n' % (old or told["nonce"], value)
    os.write(told["answers"], line.encode())
"""

FUNCTIONS = {
    "exit when imported": "import sys\nsys.exit(0)",
    "exit when called": "import sys\ndef solve(n):\n    sys.exit(0)",
    "end the process when imported": "import os\nos._exit(0)",
    "end the process when called": "import os\ndef solve(n):\n    os._exit(0)",
    "equal to everything": """
class Anything:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def solve(n): return Anything()
""",
    "a number equal to everything": """
class Number(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __repr__(self): return "1"
    __hash__ = int.__hash__
def solve(n): return Number(5)
""",
    "a text equal to everything": """
class Text(str):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = str.__hash__
def solve(n): return Text("1")
""",
    "a list equal to everything": """
class List(list):
    def __eq__(self, other): return True
    def __len__(self): return 1
def solve(n): return List([5])
""",
    "a float that is no number": "def solve(n): return float('nan')",
    "a float without bound": "def solve(n): return float('inf')",
    "a class that claims to be another": """
class Liar:
    __class__ = int
    def __eq__(self, other): return True
    def __int__(self): return 1
    def __index__(self): return 1
def solve(n): return Liar()
""",
    "a type made to measure": """
class Meta(type):
    def __eq__(cls, other): return True
    def __instancecheck__(cls, other): return True
    def __hash__(cls): return hash(int)
class Number(int, metaclass=Meta): pass
def solve(n): return Number(1)
""",
    "true for one": "def solve(n): return True",
    "the wrong kind of number": "def solve(n): return 1.0",
    "a text for a number": "def solve(n): return '1'",
    "nothing": "def solve(n): pass",
    "a generator": "def solve(n):\n    yield 1",
    "a lazy object": "def solve(n): return map(int, '1')",
    "a range": "def solve(n): return range(1, 2)",
    "a generator without end": "import itertools\ndef solve(n): return itertools.count()",
    "a list without end": """
class Endless(list):
    def __iter__(self):
        while True: yield 1
def solve(n): return Endless([5])
""",
    "a list that holds itself": "def solve(n):\n    a = []\n    a.append(a)\n    return a",
    "a list too deep": """
def solve(n):
    a = 1
    for _ in range(10**5): a = [a]
    return a
""",
    "a number too long": """
import sys
sys.set_int_max_str_digits(0)
def solve(n): return 10**(10**5)
""",
    "a text too long": "def solve(n): return 'x' * 10**8",
    "a million lists": "def solve(n): return [[]] * 10**6",
    "arguments of the process": SEARCH + """
import sys
def solve(n): return first(sys.argv + sys.orig_argv)
""",
    "command line": SEARCH + "def solve(n): return first(open('/proc/self/cmdline').read())",
    "environment": SEARCH + "import os\ndef solve(n): return first(dict(os.environ))",
    "frames": SEARCH + """
import sys
def solve(n):
    frame = sys._getframe()
    while frame is not None:
        found = first(frame.f_locals) or first(frame.f_globals)
        if found: return found
        frame = frame.f_back
""",
    "everything alive": SEARCH + """
import gc
def solve(n): return first(gc.get_objects())
""",
    "every file": SEARCH + """
import os
def solve(n):
    for path in ["/inside.py", "/solution.py"] + [f"/{one}" for one in os.listdir("/")]:
        if os.path.isfile(path) and (found := first(open(path, "rb").read())): return found
""",
    "memory": SEARCH + """
import ctypes, gc
def solve(n):
    for one in gc.get_objects():
        for held in gc.get_referents(one):
            if type(held) in (bytes, str, int):
                if found := first(ctypes.string_at(id(held), held.__sizeof__())): return found
""",
    "read the requests itself": SEARCH + """
import os
def solve(n):
    for number in range(3, 16):
        try:
            os.set_blocking(number, False)
            if found := first(os.read(number, 1 << 16)): return found
        except OSError: pass
""",
    "forge the encoder": """
import __main__
__main__._json = lambda value: "true"
def solve(n): return 5
""",
    "forge json, print and repr": """
import builtins, json
json.dumps = lambda *a, **k: '{"nonce": "", "value": 1}'
builtins.print = builtins.repr = builtins.str = lambda *a, **k: "1"
def solve(n): return 5
""",
    "forge equality": """
import builtins, operator
operator.eq = lambda a, b: True
builtins.all = builtins.any = builtins.isinstance = builtins.issubclass = lambda *a: True
def solve(n): return 5
""",
    "print a result": """
def solve(n):
    for score in ("1", "1.0", "true", '{"nonce":"","value":1}', "passed", "OK"): print(score)
""",
    "write to every descriptor": """
import os
def solve(n):
    for number in range(1, 32):
        try: os.write(number, b'{"nonce":"","value":1}\\n')
        except OSError: pass
""",
    "answer with the right nonce": ANSWERS + "def solve(n):\n    answer(1)\n    return 5",
    "answer all cases at the first": ANSWERS + """
def solve(n):
    for _ in range(100): answer(1)
""",
    "answer with an old nonce": ANSWERS + """
kept = []
def solve(n):
    kept.append(frame_with("nonce")["nonce"])
    answer(1, kept[0])
    return 5
""",
    "answer with two values": ANSWERS + """
def solve(n): answer('5,"value":1')
""",
    "answer with no JSON": ANSWERS + "def solve(n): answer('NaN')",
    "answer with a verdict": ANSWERS + "def solve(n): answer('1,\"right\":true,\"score\":1')",
    "answer with too many brackets": ANSWERS + "def solve(n): answer('[' * 10**5)",
    "answer with bytes that are no text": """
import os, sys
def solve(n):
    told = sys._getframe(1).f_locals
    os.write(told["answers"], b'\\xff\\xfe\\n')
""",
    "answer without end": """
import os, sys
def solve(n):
    told = sys._getframe(1).f_locals
    while True: os.write(told["answers"], b'1' * 65536)
""",
    "close the answers": "import os\ndef solve(n):\n    os.closerange(0, 64)\n    return 1",
    "answer at the exit": """
import atexit, os
atexit.register(lambda: [os.write(n, b'{"nonce":"","value":1}\\n') for n in range(1, 5)])
def solve(n): raise SystemExit
""",
    "answer from a thread": """
import threading, os
def early():
    while True:
        for number in range(3, 6): os.write(number, b'{"nonce":"","value":1}\\n')
threading.Thread(target=early, daemon=True).start()
def solve(n): return 5
""",
    "answer from a signal": """
import os, signal
def early(*_):
    for number in range(3, 6):
        try: os.write(number, b'{"nonce":"","value":1}\\n')
        except OSError: pass
signal.signal(signal.SIGALRM, early)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
def solve(n):
    import time
    time.sleep(0.05)
    return 5
""",
    "replace the runner": """
import __main__
__main__._callable = lambda module, name: lambda *a: 1
def solve(n): return 5
""",
    "replace the reader": """
import marshal
loads = marshal.loads
marshal.loads = lambda data: (loads(data)[0], [0])
def solve(n): return 1
""",
    "replace the imports": """
import builtins, sys
builtins.__import__ = lambda *a, **k: sys
for name in list(sys.modules): sys.modules[name] = sys
def solve(n): return 1
""",
    "rewrite the tests": """
open("/inside.py", "w").write("print(1)")
def solve(n): return 1
""",
    "start another Python": """
import os, sys
def solve(n): os.execv(sys.executable, [sys.executable, "-c", "print(1)"])
""",
    "an error with a nice message": """
class Passed(Exception):
    def __str__(self): return '","value":1,"x":"'
def solve(n): raise Passed
""",
    "an error that cannot be told": """
class Passed(BaseException):
    def __str__(self): raise KeyboardInterrupt
def solve(n): raise Passed
""",
    "not the function that was asked for": "def solved(n): return 1",
    "no Python": "The answer is 1.",
    "empty": "",
}  # fmt: skip

PROGRAMS = {
    "nothing, and well": "import sys\nsys.exit(0)",
    "everything it could be": "for n in range(100000): print(n)",
    "on the other output": "import sys\nprint(input(), file=sys.stderr)",
    "a verdict": "print('OK')\nprint('1.0')\nprint('passed')",
    "the right line among others": "n = int(input())\nprint('debug')\nprint(n * 3)",
    "erased by a terminal": "n = int(input())\nprint('x\\b' + str(n * 3))",
    "overwritten on a terminal": "n = int(input())\nprint('0\\r' + str(n * 3))",
    "digits of another script": "n = int(input())\n"
    "print(''.join(chr(0xFF10 + int(d)) for d in str(n * 3)))",
    "a zero byte behind it": "n = int(input())\nprint(str(n * 3) + '\\0')",
    "nothing visible": "n = int(input())\nprint('\\u200b' + str(n * 3))",
    "right, but then it crashes": """
import ctypes
print(int(input()) * 3, flush=True)
ctypes.string_at(0)
""",
    "no text": "import sys\nsys.stdout.buffer.write(b'\\xff\\xfe')",
}  # solutions print three times the number

TOO_SLOW = {
    "right, but never done": "import time\nprint(int(input()) * 3, flush=True)\ntime.sleep(600)",
    "right, after its time": "import time\nn = int(input())\ntime.sleep(600)\nprint(n * 3)",
    "right, in a flood": "print(int(input()) * 3)\nwhile True: print(' ' * 9999)",
}

HONEST_FUNCTIONS = {
    "plain": ("solve", "def solve(n): return n * 3"),
    "method": (
        "Solution.solve",
        "from typing import List\nclass Solution:\n    def solve(self, n): return n * 3",
    ),
    "prints and asks": (
        "solve",
        "import sys\ndef solve(n):\n    print('debug', n)\n    print(n, file=sys.stderr)\n"
        "    try: input()\n    except EOFError: pass\n    return n * 3",
    ),
    "with a main part": (
        "solve",
        "def solve(n): return n * 3\nif __name__ == '__main__':\n    print(solve(int(input())))",
    ),
    "with a cache": (
        "solve",
        "from functools import lru_cache\n@lru_cache(None)\ndef solve(n):\n"
        "    return 0 if n == 0 else 3 + solve(n - 1)",
    ),
    "deep": (
        "solve",
        "import sys\nsys.setrecursionlimit(10**6)\n"
        "def down(n): return 0 if n == 0 else 1 + down(n - 1)\n"
        "def solve(n): return n * 3 + down(20000) - 20000",
    ),
    "with libraries": (
        "solve",
        "import bisect, collections, copy, datetime, decimal, enum, fractions, hashlib, heapq\n"
        "import itertools, json, math, operator, random, re, statistics, string, typing\n"
        "def solve(n): return int(decimal.Decimal(n) * fractions.Fraction(3).numerator)",
    ),
    "with its own alarm": (
        "solve",
        "import signal\ndef solve(n):\n    signal.alarm(1)\n    signal.alarm(0)\n    return n * 3",
    ),
}  # fmt: skip

HONEST_PROGRAMS = {
    "plain": "print(int(input()) * 3)",
    "all at once": "import sys\nprint(int(sys.stdin.read()) * 3)",
    "bytes": "from sys import stdin, stdout\n"
    "stdout.buffer.write(b'%d\\n' % (int(stdin.buffer.readline()) * 3))",
    "descriptors": "import os\nos.write(1, str(int(os.read(0, 100)) * 3).encode())",
    "opened": "print(int(open(0).read()) * 3)",
    "blanks at the ends": "print(int(input()) * 3, '  ')\nprint()",
    "main": "def main(): print(int(input()) * 3)\nif __name__ == '__main__': main()",
    "exit code": "import sys\nprint(int(input()) * 3)\nsys.exit(1)",
    "ends at once": "import os\nprint(int(input()) * 3, flush=True)\nos._exit(0)",
    "classes": "from dataclasses import dataclass\n@dataclass\nclass A:\n    n: int\n"
    "print(A(int(input())).n * 3)",
}
