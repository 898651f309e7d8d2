import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from trainers.replay import noted, read_conversations, replay_rows
from trainers.rows import RowsError
from trainers.settings import ReplaySettings

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "instructions" / "roleplay-simple-deduped.json"
CHAT = {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}
ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "3"}


def write(path: Path, rows: list) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize("row", [CHAT, ALPACA])
def test_conversations_are_read(tmp_path, kind, row):
    (found,) = read_conversations(write(tmp_path / f"r.{kind}", [row]))
    assert found == (CHAT["messages"] if row is CHAT else [
        {"role": "user", "content": "Add.\n\n1 and 2"}, {"role": "assistant", "content": "3"}
    ])  # fmt: skip


def test_rows_are_drawn_by_the_seed_without_repetition_until_all_were_drawn(tmp_path):
    path = write(tmp_path / "r.jsonl", [{"instruction": f"Say {i}.", "output": str(i)} for i in range(10)])
    said = [r.messages[-1]["content"] for r in replay_rows(path, 25, seed=1)]
    assert sorted(said[:10]) == sorted(said[10:20]) == sorted(map(str, range(10)))
    assert len(said) == 25
    assert said == [r.messages[-1]["content"] for r in replay_rows(path, 25, seed=1)]
    assert said != [r.messages[-1]["content"] for r in replay_rows(path, 25, seed=2)]
    row = replay_rows(path, 1, 0)[0]
    assert (row.label, row.targets, row.source) == (True, [1], "replay")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "no rows"),
        ('{"a": 1}', "a list of rows is expected, or an object that holds one"),
        ("[1]", r"row 1: a row is an object with fields, found int"),
        ('[{"messages": []}]', r"row 1, messages: at least a user's message and a reply"),
        ('[{"prompt": "x"}]', r"row 1: fields are prompt; needed is messages; instruction, input and output"),
        (json.dumps([CHAT, {"messages": [{"role": "bot", "content": "x"}] * 2}]), r"row 2, messages\[0\]: role"),
        (json.dumps([{"messages": CHAT["messages"][::-1]}]), "the last must be what the assistant says"),
        ("[", "r.json"),
    ],
)
def test_a_file_that_is_no_replay_is_said(tmp_path, content, said):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(RowsError, match=said):
        read_conversations(tmp_path / "r.json")


def test_bad_rows_are_noted_where_they_are_dropped(tmp_path):
    path, bad = write(tmp_path / "r.jsonl", [CHAT, ALPACA | {"output": ""}, ALPACA]), []
    with pytest.raises(RowsError, match=r"row 2, messages.1.: the answer is empty"):
        read_conversations(path, noted(ReplaySettings(path=str(path))))
    assert len(read_conversations(path, bad)) == 2
    assert len(bad) == 1
    assert noted(ReplaySettings(path=str(path), on_bad_rows="drop")) == []


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "r.jsonl").write_text(json.dumps(CHAT) + "\n{\n")
    with pytest.raises(RowsError, match="line 2 is not valid JSON"):
        read_conversations(tmp_path / "r.jsonl")


@pytest.mark.parametrize(("name", "said"), [("r.json", "cannot be read"), ("r.txt", "give a file of the kinds")])
def test_a_file_that_is_not_there_or_of_another_kind_is_said(tmp_path, name, said):
    with pytest.raises(RowsError, match=said):
        read_conversations(tmp_path / name)


@pytest.mark.skipif(not SHARED.exists(), reason="no shared data beside the project")
def test_a_real_instruction_set_is_read():
    assert len(read_conversations(SHARED)) == 3146
