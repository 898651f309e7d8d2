import os
import subprocess
import sys
import time

import pytest

from loop.quiet import library_output


@pytest.fixture
def heard(capfd):
    """Collects lines while something is noisy, with a standard error of this process's own."""
    found = []

    def collect(noisy):
        before = sys.stderr
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115, as it is outside of pytest
        try:
            with library_output(found.append) as stderr:
                noisy(stderr)
        finally:
            sys.stderr = before
        return found, capfd.readouterr().err

    return collect


def test_whatever_is_written_to_standard_error_is_a_line_and_nothing_of_it_is_shown(heard):
    def noisy(stderr):
        print("\x1b[33mfrom Python\x1b[0m", file=sys.stderr)
        os.write(2, b"from C, \xff and no UTF-8\n\n")
        subprocess.run([sys.executable, "-c", "import sys; sys.exit('from a child')"], check=False)
        print("for people", file=stderr)
        print("printed,", end=" ")
        print("in two parts\nand not ended", end="")

    lines, shown = heard(noisy)
    assert set(lines) == {
        "from Python",
        "from C, � and no UTF-8",
        "from a child",
        "printed, in two parts",
        "and not ended",
    }
    assert shown == "for people\n"


def test_standard_error_is_back_afterwards_also_after_a_failure(heard, capfd):
    def fails(_):
        raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        heard(fails)
    os.write(2, b"seen\n")
    assert capfd.readouterr().err == "seen\n"


def test_a_child_that_goes_on_holds_nobody_up(heard):
    started = time.monotonic()
    children = []
    lines, _ = heard(lambda _: children.append(subprocess.Popen(["sh", "-c", "echo begun >&2; sleep 30"])))
    assert time.monotonic() - started < 10
    assert lines == ["begun"]
    children[0].kill()
    children[0].wait()
