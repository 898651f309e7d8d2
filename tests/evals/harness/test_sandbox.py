"""Programs that nobody has read are run, judged and contained: all of HumanEval's own solutions, and hostile ones."""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from evals.harness import launcher, sandbox
from evals.harness.sandbox import Limits, SandboxError, run, run_all
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
HUMANEVAL = ROOT.parent / "shared" / "data" / "humaneval"
SHORT = Limits(seconds=3, cpu_seconds=1, output_bytes=10_000)
OPEN_TO_ALL = Path("/usr/bin/python3")
"""An interpreter that another user can run, where this one cannot."""


def rows(name):
    file = HUMANEVAL / name
    if not file.exists():
        pytest.skip(f"the shared file {file} is not here")
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return [json.loads(line) for line in text.splitlines()]


def program(problem, completion):
    return f"{problem['prompt']}{completion}\n", f"{problem['test']}\ncheck({problem['entry_point']})\n"


@pytest.fixture(params=["namespaces", "user and filter"])
def fenced(request):
    """`run` behind all fences, and behind those alone that need no namespaces."""
    if request.param == "namespaces":
        return lambda *p: run(*p, allow_code=True, limits=SHORT)
    if os.geteuid() != 0 or not OPEN_TO_ALL.exists():
        pytest.skip("only root can become another user, and that one needs an interpreter")
    return lambda *p: run(*p, allow_code=True, limits=SHORT, fences=("user", "filter"), python=str(OPEN_TO_ALL))


def test_nothing_is_run_without_the_flag():
    with pytest.raises(SandboxError, match="allow_code=True"):
        run("print(1)", allow_code=False)


@pytest.mark.parametrize("count", [24, pytest.param(164, marks=pytest.mark.slow)])
def test_canonical_solutions_pass(count):
    problems = rows("HumanEval.jsonl.gz")[:count]
    found = run_all([program(p, p["canonical_solution"]) for p in problems], allow_code=True)
    assert len(found) == count
    assert [(p["task_id"], r) for p, r in zip(problems, found, strict=True) if not r.passed] == []


def test_the_samples_of_its_authors_get_their_verdicts():
    """Three of the six pass; one calls a program, one sleeps for ten seconds, one asks for input."""
    (problem,) = rows("example_problem.jsonl")
    samples = [program(problem, s["completion"]) for s in rows("example_samples.jsonl")]
    found = run_all(samples, allow_code=True, limits=SHORT)
    assert [r.passed for r in found] == [False, False, False, True, True, True]
    assert found[1].why == "took more than 3 s"
    assert "EOFError" in found[2].why


ESCAPES = {
    "endless loop": ("while True: pass", "more than 3 s|used up its processor time"),
    "sleep": ("import time; time.sleep(60)", "more than 3 s"),
    "fork": ("import os\nwhile True: os.fork()", "BlockingIOError|more than 3 s"),
    "threads": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
        "can't start new thread|MemoryError|exit code",
    ),
    "memory": ("x = bytearray(2**31)", "MemoryError"),
    "huge output": ("while True: print('x' * 1000)", "more than 10000 bytes of output"),
    "huge error": ("import os\nwhile True: os.write(2, b'x' * 1000)", "more than 10000 bytes of output"),
    "huge file": ("open('big', 'wb').write(bytes(2**22))", "File too large|OSError|exit code"),
    "write": (f"open({str(ROOT / 'planted')!r}, 'w')", "FileNotFoundError|PermissionError|Read-only"),
    "overwrite": (f"open({sandbox.__file__!r}, 'a')", "FileNotFoundError|PermissionError|Read-only"),
    "delete": ("import os; os.unlink('/usr/bin/env')", "FileNotFoundError|PermissionError|Read-only"),
    "network": ("import socket; socket.create_connection(('127.0.0.1', {port}), 1)", "PermissionError|OSError"),
    "datagram": (
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
        "PermissionError|OSError",
    ),
    "kill everybody": ("import os; os.kill(-1, 9)", "PermissionError|ProcessLookupError"),
    "kill the parent": ("import os; os.kill(os.getppid(), 9)", "PermissionError|ProcessLookupError"),
    "become root": ("import os; os.setuid(0)", "PermissionError"),
    "input": ("input()", "EOFError"),
    "exit early": ("import sys; sys.exit(0)", "SystemExit"),
    "exit hard": ("import os; os._exit(0)", "before its tests did"),
    "claim to pass": (
        "import os\nfor n in range(3, 32):\n  try: os.write(n, b'passed\\n')\n  except OSError: pass\n1/0",
        "Zero",
    ),
    "claim to be refused": (
        "import os\nfor n in range(3, 32):\n  try: os.write(n, b'refused: x\\n')\n  except OSError: pass\nos._exit(0)",
        "before its tests did",
    ),
    "environment": ("import os; assert not [k for k in os.environ if 'CANDOR' in k]; 1/0", "ZeroDivisionError"),
    "no Python": ("this is no Python", "SyntaxError"),
    "recursion": ("def f(): f()\nf()", "RecursionError"),
    "crash": ("import ctypes; ctypes.string_at(0)", "exit code 139"),
}


@pytest.mark.parametrize("name", ESCAPES)
def test_hostile_programs_fail_and_are_contained(name, fenced, monkeypatch):
    monkeypatch.setenv("CANDOR_SECRET", "x")
    code, why = ESCAPES[name]
    met = []
    with Listener(met) as port:
        began = time.monotonic()
        found = fenced(code.replace("{port}", str(port)))
    assert not found.passed
    assert re.search(why, found.why), found
    assert time.monotonic() - began < SHORT.seconds + 8
    assert len(found.output) <= SHORT.output_bytes
    assert not met
    assert not (ROOT / "planted").exists()
    assert list(Path("/tmp").glob("candor-box-*/*")) == []


FORGERIES = {
    "its frame": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n"
        "  for value in list(frame.f_globals.values()) + list(frame.f_locals.values()):\n"
        "    try: value('passed')\n    except BaseException: pass\n  frame = frame.f_back\n"
    ),
    "a line that it finds in its frame": (
        "import os, sys\nframe = sys._getframe()\nwhile frame:\n"
        "  line = frame.f_locals.get('line')\n"
        "  if line: [line.send(x) for x in ({'names': {}}, {'passed': True}, {'returned': True, 'args': []}) * 9]\n"
        "  frame = frame.f_back\nos._exit(0)\n"
    ),
    "every open file": (
        "import os\nfor n in range(3, 64):\n"
        "  try: os.write(n, b'began\\npassed\\n{\"names\": {}}\\n')\n  except OSError: pass\nos._exit(0)\n"
    ),
    "the collector": (
        "import gc\nfor o in gc.get_objects():\n  if callable(o) and getattr(o, '__name__', '') in ('told', 'judge'):\n"
        "    o('passed')\n"
    ),
    "a value that equals everything": (
        "class Any(int):\n  def __eq__(self, other): return True\n  def __hash__(self): return 0\n"
        "def f(x): return Any(1)\n"
    ),
    "its own assert": "import builtins\nbuiltins.AssertionError = type('E', (Exception,), {})\ndef f(x): return 0\n",
    "its own builtins": "def len(x): return 3\ndef isinstance(*_): return True\ndef f(x): return 0\n",
    "the name of the test": "def check(f): pass\ndef f(x): return 0\n",
    "the memory of the tests": (
        "import glob\nfor path in glob.glob('/proc/[0-9]*/mem'):\n"
        "  try: open(path, 'r+b').seek(0)\n  except OSError: continue\n"
        "def f(x): return 0\n"
    ),
    "an end that comes early": "import os\ndef f(x): os._exit(0)\n",
    "an exception of the tests": "def f(x): raise SystemExit(0)\n",
    "threads": "import threading\nthreading.Thread(target=lambda: None).start()\ndef f(x): return 0\n",
}
TESTS = "def check(f):\n    assert f(2) == 3 and len([f(2), f(3)]) == 2\n    assert f(5) == 6\n\ncheck(f)\n"


@pytest.mark.parametrize("name", FORGERIES)
def test_a_solution_cannot_say_that_its_tests_passed(name, fenced):
    found = fenced(FORGERIES[name] + "\n" * 2, TESTS)
    assert not found.passed, found


def test_tests_see_what_a_solution_returns_and_changes(fenced):
    solution = (
        "import math\nfrom decimal import Decimal\nLIMIT = (1, 2.5, 'x')\n"
        "def same(x, key=None): return x if key is None else {key: x}\n"
        "def grow(x): x.append(len(x))\n"
        "def fail(x): raise KeyError(x)\n"
        "def count(n):\n  yield from range(n)\n"
        "print('said')\n"
    )
    tests = (
        "for x in (None, True, 3, -2.5, float('inf'), 'ö', b'a', 1j, [1, (2,)], {1: {2}}, {(1, 2): 'a'}, range(3),\n"
        "          frozenset('ab'), -10**9000, ''):\n"
        "    assert same(x) == x and type(same(x)) is type(x), x\n"
        "assert same(1, key='a') == {'a': 1} and LIMIT == (1, 2.5, 'x') and math.floor(2.5) == 2\n"
        "mine = [0]\ngrow(mine)\nassert mine == [0, 1]\n"
        "assert list(count(3)) == [0, 1, 2]\n"
        "try: fail(1)\nexcept KeyError: pass\nelse: raise AssertionError\n"
    )
    found = fenced(solution, tests)
    assert found.passed, found
    assert found.output == "said\n"


@pytest.mark.parametrize("error", ["EOFError", "BrokenPipeError"])
def test_an_error_that_a_pipe_could_raise_is_the_solution_s_own(error, fenced):
    """It was taken for the end of the solution's interpreter."""
    raising = f"def f(x): raise {error}('mine')\n"
    assert fenced(raising, TESTS).why == f"{error}: mine"
    assert fenced(raising, f"try: f(1)\nexcept {error}: pass\nelse: raise AssertionError\n").passed


def test_an_end_of_the_solution_is_no_exception_that_tests_can_catch(fenced):
    """A test of HumanEval may expect an exception; a solution that ends its interpreter raises none."""
    found = fenced("import os\ndef f(x): os._exit(0)\n", "try: f(1)\nexcept BaseException: pass\n")
    assert not found.passed
    assert found.why == "ended before its tests did (exit code 0)"


def test_an_interpreter_below_a_closed_folder_is_copied(tmp_path, monkeypatch):
    """As with pyenv below a home that only its owner may enter."""
    from evals.harness import interpreter

    if os.geteuid() != 0:
        pytest.skip("only root runs programs as another user")
    monkeypatch.setattr(interpreter, "_is_open", lambda python: False)
    interpreter.readable_interpreter.cache_clear()
    try:
        copied = interpreter.readable_interpreter(os.path.realpath(sys.executable))
        assert copied.python != os.path.realpath(sys.executable)
        for fences in (("user", "filter"), sandbox.FENCES):
            found = run("def f(x): return x + 1", TESTS, allow_code=True, limits=SHORT, fences=fences)
            assert found.passed, found
    finally:
        interpreter.readable_interpreter.cache_clear()


def test_an_interpreter_that_cannot_be_copied_is_the_reason_at_the_start(monkeypatch):
    from evals.harness import interpreter

    if os.geteuid() != 0:
        pytest.skip("only root runs programs as another user")
    monkeypatch.setattr(interpreter, "_is_open", lambda python: False)
    monkeypatch.setattr(sys, "base_prefix", "/nowhere")
    interpreter.readable_interpreter.cache_clear()
    try:
        with pytest.raises(SandboxError, match="closed to the user that runs programs, and no copy"):
            run("pass", allow_code=True)
    finally:
        interpreter.readable_interpreter.cache_clear()


def test_what_a_program_leaves_behind_is_ended(fenced):
    """A child that detaches itself from its parent, its group and its terminal, and would live for a minute."""
    name = uuid.uuid4().hex[:12]
    found = fenced(
        "import ctypes, os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        ctypes.CDLL(None).prctl(15, b'{name}')\n"
        "        time.sleep(60)\n"
        "    os._exit(0)\n"
        "time.sleep(0.5)\n"
    )
    assert found.passed, found
    assert name not in names_of_processes()


def names_of_processes():
    found = []
    for file in Path("/proc").glob("[0-9]*/comm"):
        try:
            found.append(file.read_text().strip())
        except OSError:
            continue
    return found


def test_a_program_sees_no_files_but_its_own():
    found = run(
        "import os\n"
        f"assert not os.path.exists({str(ROOT)!r}) and not os.path.exists('/proc/1') and os.getcwd() == '/box'\n"
        "open('mine', 'w').write('x')\n"
        "assert os.listdir('.') == ['mine'] and os.getuid() != 0\n",
        allow_code=True,
    )
    assert found.passed, found
    assert "namespaces" in found.fences


def test_a_user_without_rights_is_contained_too():
    """As one who is not root: a user namespace gives what root has."""
    if os.geteuid() != 0 or not OPEN_TO_ALL.exists():
        pytest.skip("only root can try it as somebody else")
    code = (
        "from evals.harness.sandbox import run\n"
        "found = run('import os; assert os.listdir() == [] and os.getpid() < 5', allow_code=True)\n"
        "print(found.passed, found.why, *found.fences)\n"
        "print(run('import socket; socket.socket()', allow_code=True).why)\n"
    )
    try:
        told = subprocess.run(
            [str(OPEN_TO_ALL), "-c", code], cwd=ROOT, user=launcher.NOBODY, capture_output=True, text=True, check=False
        )
    except PermissionError:
        pytest.skip(f"another user cannot read {ROOT}")
    if "cannot contain" in told.stderr:
        pytest.skip("this machine gives no user namespaces")
    assert told.stdout.splitlines()[0] == "True passed filter namespaces", told.stderr
    assert told.stdout.splitlines()[1].startswith("PermissionError")


def test_it_refuses_where_it_cannot_contain():
    with pytest.raises(SandboxError, match=r"cannot contain a program: run as root.*fences that hold: none"):
        run("print(1)", allow_code=True, fences=())


def test_an_interpreter_that_does_not_start_is_no_verdict():
    broken = sys.executable if os.geteuid() == 0 and not os.access(sys.executable, os.X_OK) else "/bin/false"
    with pytest.raises(SandboxError, match="did not begin"):
        run("print(1)", allow_code=True, python=broken)


class Listener:
    """A server on loopback that notes whoever reaches it."""

    def __init__(self, met):
        self._met = met

    def __enter__(self):
        import socket

        self._sockets = [socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
        self._sockets[0].bind(("127.0.0.1", 0))
        port = self._sockets[0].getsockname()[1]
        self._sockets[1].bind(("127.0.0.1", port))
        self._sockets[0].listen()
        for one in self._sockets:
            one.settimeout(0.1)
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._over = False
        self._thread.start()
        return port

    def _wait(self):
        while not self._over:
            for one, get in zip(self._sockets, ("accept", "recv"), strict=True):
                try:
                    self._met.append(one.accept() if get == "accept" else one.recv(10))
                except TimeoutError:
                    continue

    def __exit__(self, *_):
        time.sleep(0.2)
        self._over = True
        self._thread.join()
        for one in self._sockets:
            one.close()
