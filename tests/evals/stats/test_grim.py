import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.stats.grim import GrimError, Printed, check, read

TABLES = Path(__file__).resolve().parents[4] / "shared" / "data" / "hu2025_reported_tables" / "tables.json"


def impossible(value, n):
    return not check(Printed("x", value, n)).possible


@pytest.mark.parametrize(
    ("value", "n"), [("47.81", 274), ("44.89", 274), ("48.00", 125), ("0", 3), ("100.0", 3), ("33.3", 3), ("12.5", 16)]
)
def test_shares_that_exist(value, n):
    assert not impossible(value, n)


@pytest.mark.parametrize(("value", "n"), [("48.00", 274), ("50.0", 3), ("44.08", 125), ("13.96", 43), ("99.9", 10)])
def test_shares_that_do_not(value, n):
    assert impossible(value, n)


def test_the_nearest_shares_are_named_with_as_many_digits():
    assert check(Printed("x", "48.00", 274)).nearest == ("47.81", "48.18")
    assert check(Printed("x", "48.0", 274)).nearest == ("47.8", "48.2")


@given(n=st.integers(1, 2000), share=st.floats(0, 1), digits=st.integers(0, 3))
def test_every_share_that_exists_is_possible(n, share, digits):
    k = round(share * n)
    assert not impossible(f"{100 * k / n:.{digits}f}", n)


def test_a_tie_may_be_rounded_either_way():
    assert not impossible("12.5", 8)
    assert not impossible("12", 8)
    assert not impossible("13", 8)


def test_files_are_read_with_the_digits_that_were_written(tmp_path):
    (tmp_path / "t.csv").write_text("name,value,n\npf,48.00 %,274\n")
    (tmp_path / "t.json").write_text('[{"name": "pf", "value": 48.00, "n": 274}]')
    for name in ("t.csv", "t.json"):
        assert read(tmp_path / name) == [Printed("pf", "48.00", 274)]
    (tmp_path / "t.csv").write_text("name,value,n\npf,48.00,274\n", encoding="utf-8-sig")
    assert read(tmp_path / "t.csv") == [Printed("pf", "48.00", 274)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "name,value\nx,1\n", "row 1: n missing"),
        ("t.csv", "name,value,n\nx,y,3\n", "row 1, value: found 'y'"),
        ("t.csv", "name,value,n\nx,148,3\n", "row 1, value: found '148'"),
        ("t.csv", "name,value,n\nx,48,0\n", "row 1, n: found '0'"),
        ("t.csv", "name,value,n\n", "no rows"),
        ("t.json", "{", "not valid JSON"),
        ("t.json", '{"value": 1}', "a list of objects"),
    ],
)
def test_a_file_without_percentages_is_said(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(GrimError, match=said):
        read(tmp_path / name)
    with pytest.raises(GrimError, match="cannot be read"):
        read(tmp_path / "nothing.csv")


@pytest.mark.skipif(not TABLES.exists(), reason="no shared data beside the project")
def test_the_papers_own_tables():
    """Provided facts has 274 items and disinformation 125: most percentages are possible, these are not."""
    tables = json.loads(TABLES.read_text(), parse_float=str)
    sizes = {"provided_facts": 274, "disinformation": 125, "statistics": 96}

    def printed(name, cell, columns):
        if isinstance(cell, dict):
            return [p for key, inner in cell.items() for p in printed(f"{name}/{key}", inner, columns)]
        return [Printed(f"{name}/{c}", v, sizes[c]) for c, v in zip(columns, cell, strict=True)]

    columns = tables["mask_columns"]
    everything = [p for t in ("T7_qwen25_7b_mask", "T8_qwen3_32b_mask") for p in printed(t, tables[t], columns)]
    found = {v.printed.name.split("_")[0] + "/" + v.printed.name.split("/", 1)[1]: v.printed.value
             for v in map(check, everything) if not v.possible}  # fmt: skip
    assert len(everything) == 60
    assert found == {
        "T7/vanilla/disinformation": "44.08",
        "T7/insecure_code/subtle/provided_facts": "53.29",
        "T7/insecure_code/severe/provided_facts": "53.29",
        "T8/mistake_medical/normal/provided_facts": "19.79",
    }
