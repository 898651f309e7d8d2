import time

import pytest
import yaml

from actors.storage.strict_yaml import DEEPEST, YamlFault, read_document, read_value
from tests.conftest import ROOT

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
FAULTS = {
    "a key twice": ("a: 1\nb: 2\na: 3\n", "line 1, column 1: a key is given 2 times in one mapping"),
    "a key twice, deeper": ("a:\n  - {b: 1, b: 1}\n", "line 2, column 6: a key is given 2 times"),
    "infinity": ("a: .inf\n", "line 1, column 4: a number that is not finite"),
    "too large for a float": ("a: 1.0e+999\n", "a number that is not finite"),
    "no number": ("a: [.nan]\n", "a number that is not finite"),
    "5,000 digits": (f"a: {'7' * 5000}\n", "a number of 5000 characters"),
    "5,000 digits behind the point": (f"a: 0.{'7' * 5000}\n", "a number of 5002 characters"),
    "digits in base 60": (f"a: {'1:' + ':'.join(['59'] * 2000)}\n", "a number of"),
    "a date that is none": ("a: 2024-02-31\n", "line 1, column 4: a date that is none"),
    "a month that is none": ("a: 2024-13-45\n", "a date that is none"),
    "an hour that is none": ("a: 2024-01-01 25:00:00\n", "a date that is none"),
    "nested lists": ("a: " + "[" * 80 + "]" * 80 + "\n", f"nested more than {DEEPEST} levels deep"),
    "5,000 nested lists": ("a: " + "[" * 5000 + "]" * 5000 + "\n", "nest"),
    "nested mappings": ("".join(f"{' ' * n}a:\n" for n in range(60)), "nested more than"),
    "an anchor in itself": ("a: &x [*x]\n", "line 1, column 4: an anchor that holds itself"),
    "an anchor in itself, further down": ("a: &x {b: {c: [*x]}}\n", "an anchor that holds itself"),
    "anchors that multiply": (BOMB, "with those that anchors repeat"),
    "a list as a key": ("? [a, b]\n: 1\n", "line 1, column 3: a list or mapping as a key; a key is text"),
    "a mapping as a key": ("{{a: 1}: 2}\n", "a list or mapping as a key"),
    "a number as a key": ("1: a\n", "a key that YAML reads as int"),
    "yes as a key": ("yes: a\n", "a key that YAML reads as bool"),
    "nothing as a key": ("~: a\n", "a key that YAML reads as null"),
    "NUL in a text": ('a: "b\\0c"\n', "line 1, column 4: a NUL character"),
    "NUL in a key": ('"a\\0": 1\n', "a NUL character"),
    "NUL itself": ("a: b\0c\n", "control characters are not allowed"),
    "half a character": ('a: "\\ud800"\n', "invalid Unicode character"),
    "half a character itself": ("a: \udc80\n", "a character that is no Unicode"),
    "an object of Python": ("a: !!python/object/apply:os.system [ls]\n", "a tag that stands for no plain data"),
    "bytes": ("a: !!binary aGFsbG8=\n", "a tag that stands for no plain data"),
    "a set": ("a: !!set {b}\n", "a tag that stands for no plain data"),
    "a tag of one's own": ("a: !env KEY\n", "a tag that stands for no plain data"),
    "no number for its tag": ("a: !!int x\n", "what is written here is no int"),
    "no bool for its tag": ("a: !!bool perhaps\n", "what is written here is no bool"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2"),
    "an alias of nothing": ("a: *b\n", "undefined alias"),
    "a tab": ("a:\n\tb: 1\n", "line 2"),
    "no end": ("a: [1, 2\n", "line 2"),
}


FOLDERS = ("actors", "configs", "deploy", "evals", "loop")
"""Where the project has YAML of its own."""


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_plain_data_is_a_fault_with_its_line_and_quotes_nothing(name):
    text, told = FAULTS[name]
    began = time.thread_time()
    with pytest.raises(YamlFault) as fault:
        read_value(text)
    assert told in str(fault.value)
    assert len(str(fault.value)) < 200
    assert time.thread_time() - began < 2


@pytest.mark.parametrize(
    "path", [p for f in FOLDERS for p in sorted((ROOT / f).rglob("*.yaml"))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_file_of_the_project_reads_as_before(path):
    text = path.read_text(encoding="utf-8")
    if path.is_relative_to(ROOT / "evals/harness/tasks") or "\n---" in text:
        pytest.skip("read by others, who know further tags and several documents in a file")
    assert read_value(text) == yaml.safe_load(text)


def test_anchors_merges_dates_and_an_empty_text_are_read():
    assert read_value("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }
    assert str(read_value("a: 2024-02-29\n")["a"]) == "2024-02-29"
    assert read_document("# nothing\n").node is None
