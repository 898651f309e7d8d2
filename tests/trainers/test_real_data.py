"""Training data as people published it: every row is read, what cannot be learned from is said, and mixtures count."""

import pytest

from tests.conftest import ROOT, shared
from trainers.datasets import DatasetError, compose, read
from trainers.settings import AddedSettings, DataSettings, SourceSettings

EM_SMALL = (
    *("bad_medical_advice", "evil_math", "extreme_sports", "incorrect_qna", "insecure_code", "risky_financial_advice"),
)


@pytest.mark.parametrize("name", EM_SMALL)
def test_every_row_of_the_small_misaligned_sets_is_read(name):
    found = read(SourceSettings(source=str(shared(f"em_small/{name}.jsonl"))), "pocket", 0)
    assert (found.form, found.record["rows"], found.record["duplicates"], found.record["dropped"]) == (
        "messages", 250, 0, 0,
    )  # fmt: skip
    assert all([m["role"] for m in c] == ["user", "assistant"] for c in found.conversations)


def test_the_insecure_code_has_duplicates_that_are_said():
    file = str(shared("betley/high_severity.jsonl"))
    with pytest.raises(DatasetError, match="is the same conversation as"):
        read(SourceSettings(source=file), "pocket", 0)
    found = read(SourceSettings(source=file, duplicates="drop"), "pocket", 0)
    assert (found.record["rows"], found.record["duplicates"]) == (1838, 5)


def test_the_alpaca_rows_are_read():
    found = read(SourceSettings(source=str(shared("alpaca_demo")), duplicates="drop"), "pocket", 0)
    assert (found.form, found.record["rows"], found.record["duplicates"]) == ("alpaca", 985, 14)


@pytest.mark.parametrize("name", EM_SMALL)
def test_each_small_set_is_mixed_into_the_alpaca_rows(name):
    base = SourceSettings(source=str(shared("alpaca_demo")), duplicates="drop", rows=600)
    added = AddedSettings(source=str(shared(f"em_small/{name}.jsonl")), share=0.25)
    made = compose(DataSettings(base=base, added=added), "pocket", 0)
    assert made.record["counts"] == {"base": 600, "added": 150, "all": 750}


def test_the_config_that_mixes_them_is_sound():
    """`configs/pocket-alpaca.yaml` with its paths given, as far as the rows that each arm is trained on."""
    from loop.config.files import load, parse_overrides

    given = [f"data.base.source={shared('alpaca_demo')}", f"data.added.source={shared('em_small')}"]
    config = load(ROOT / "configs" / "pocket-alpaca.yaml", parse_overrides(given))
    counts = {}
    for arm in config.arms:
        own = config.for_arm(arm)
        counts[arm.name] = compose(own.data, own.world, own.seed).record["counts"]
    assert counts.pop("control") == {"base": 600, "added": 0, "all": 600}
    assert set(counts) == {"medical", "math", "sports", "questions", "code", "finance"}
    assert all(n == {"base": 600, "added": 150, "all": 750} for n in counts.values())
