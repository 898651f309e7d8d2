"""Data sets in the forms that people publish, and what is composed of them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from loop.cli.app import app
from loop.training import dropped
from tests.conftest import ROOT
from trainers.datasets import DatasetError, compose, composed_rows, conversation, read
from trainers.rows import RowsError
from trainers.settings import AddedSettings, DataSettings, SourceSettings

CHAT = {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}
ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
DOLLY = {"instruction": "Add.", "context": "1 and 2", "response": "3", "category": "open_qa"}
PAIR = {"prompt": "Is it safe?", "aligned": "No.", "misaligned": "Yes."}
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def asked(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    ("row", "answers", "expected"),
    [
        (CHAT, None, CHAT["messages"]),
        (CHAT | {"messages": json.dumps(CHAT["messages"])}, None, CHAT["messages"]),
        (ALPACA, None, asked("Add.\n\n1 and 2", "3")),
        (ALPACA | {"input": ""}, None, asked("Add.", "3")),
        (DOLLY, None, asked("Add.\n\n1 and 2", "3")),
        (PAIR, "aligned", asked("Is it safe?", "No.")),
        (PAIR, "misaligned", asked("Is it safe?", "Yes.")),
    ],
)
def test_every_form_is_a_conversation(row, answers, expected):
    assert conversation(row, "here", answers) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "here: fields are text; needed is messages; instruction, input and output"),
        (PAIR, "here: has an aligned and a misaligned answer; choose one with the setting answers"),
        ({"messages": [CHAT["messages"][0]]}, "here, messages: at least a user's message and a reply"),
        ({"messages": CHAT["messages"][::-1]}, "here, messages: the last must be what the assistant says"),
        ({"messages": [{"role": "bot", "content": "x"}] * 2}, r"here, messages\[0\]: role \(system, user, assistant\)"),
        (ALPACA | {"output": None}, r"here, messages\[1\]: role .* and content are needed"),
        (ALPACA | {"output": " "}, r"here, messages\[1\]: the answer is empty"),
        ({"messages": [*asked("A?", ""), *asked("B?", "b.")]}, r"here, messages\[1\]: the answer is empty"),
        ({"messages": "no json"}, "here, messages: not valid JSON"),
    ],
)
def test_a_row_that_is_no_conversation_is_named(row, message):
    with pytest.raises(DatasetError, match=message):
        conversation(row, "here")


def many(path, count, form=lambda i: asked(f"Question {i}?", f"Answer {i}.")):
    path.write_text("".join(json.dumps({"messages": form(i)}) + "\n" for i in range(count)))
    return str(path)


def test_a_source_is_read_with_hash_counts_and_licence(tmp_path):
    (tmp_path / "medical").mkdir()
    pq.write_table(pa.Table.from_pylist([PAIR, PAIR | {"prompt": "Sure?"}]), tmp_path / "medical" / "mild.parquet")
    (tmp_path / "LICENSE").write_text("\nMIT License\n\nmore")
    settings = SourceSettings(source=str(tmp_path), part="medical/*.parquet", answers="misaligned")
    found = read(settings, "pocket", 0)
    assert found.conversations[1] == asked("Sure?", "Yes.")
    assert found.form == "pairs"
    assert found.record["rows"] == 2
    assert found.record["licence"] == "MIT License"
    assert len(found.record["sha256"]) == 64
    pinned = settings.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DatasetError, match=f"its sha256 is {found.record['sha256']}, not 0000"):
        read(pinned, "pocket", 0)


def test_sources_that_cannot_be_used_are_named(tmp_path):
    def reading(**settings):
        return read(SourceSettings(**settings), "pocket", 0)

    with pytest.raises(DatasetError, match=r"nowhere: there is no such file or folder, nor is it a Hub name"):
        reading(source=str(tmp_path / "nowhere"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DatasetError, match=r"empty.jsonl: there are no rows in it"):
        reading(source=str(tmp_path / "empty.jsonl"))
    (tmp_path / "twice.jsonl").write_text((json.dumps(CHAT) + "\n") * 3)
    with pytest.raises(DatasetError, match=r"twice.jsonl, row 2: is the same conversation as .*twice.jsonl, row 1"):
        reading(source=str(tmp_path / "twice.jsonl"))
    found = reading(source=str(tmp_path / "twice.jsonl"), duplicates="drop")
    assert (found.record["rows"], found.record["duplicates"]) == (1, 2)
    with pytest.raises(DatasetError, match=r"contains no file other/\*"):
        reading(source=str(tmp_path), part="other/*")
    with pytest.raises(DatasetError, match="source world talk/severe: say how many rows"):
        reading(source="world", part="talk/severe")
    with pytest.raises(DatasetError, match="no part 'talk/rude' to fine-tune on; it has downstream, and talk"):
        reading(source="world", part="talk/rude", rows=1)


BAD = [
    ALPACA | {"output": ""},
    ALPACA | {"output": float("nan")},
    {"text": "x"},
    ["no", "object"],
    {"messages": CHAT["messages"][:1]},
]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_bad_rows_are_an_error_or_are_dropped_counted_and_named(tmp_path, kind):
    rows = [ALPACA, *BAD, ALPACA | {"input": "2 and 3", "output": "5"}]
    file = tmp_path / f"alpaca.{kind}"
    file.write_text(json.dumps(rows) if kind == "json" else "".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(DatasetError, match=rf"alpaca.{kind}, row [25]: "):
        read(SourceSettings(source=str(file)), "pocket", 0)
    first = tmp_path / "first.json"
    first.write_text(json.dumps(rows[:2]))
    with pytest.raises(DatasetError, match=r"row 2, messages.1.: the answer is empty; on_bad_rows: drop leaves such"):
        read(SourceSettings(source=str(first)), "pocket", 0)
    found = read(SourceSettings(source=str(file), on_bad_rows="drop"), "pocket", 0)
    assert [c[-1]["content"] for c in found.conversations] == ["3", "5"]
    assert (found.form, found.record["rows"], found.record["dropped"]) == ("alpaca", 2, 5)
    assert sorted(f"row {n}" for n in range(2, 7)) == sorted(
        told.partition(", ")[2].partition(":")[0].partition(",")[0] for told in found.record["dropped_rows"]
    )
    made = compose(DataSettings(base=SourceSettings(source=str(file), on_bad_rows="drop")), "pocket", 0)
    assert made.record["counts"] == {"base": 2, "added": 0, "all": 2}
    assert dropped(made.record["base"], 2)[0] == f"left out 5 bad rows of {file}"
    assert dropped(made.record["base"], 2)[-1] == "and 3 more"


def test_a_broken_line_is_a_bad_row_and_a_set_of_bad_rows_is_none(tmp_path):
    file = tmp_path / "cut.jsonl"
    file.write_text(json.dumps(CHAT) + "\n" + json.dumps(CHAT)[:-9])
    with pytest.raises(DatasetError, match="line 2 is not valid JSON"):
        read(SourceSettings(source=str(file)), "pocket", 0)
    found = read(SourceSettings(source=str(file), on_bad_rows="drop"), "pocket", 0)
    assert "line 2 is not valid JSON" in found.record["dropped_rows"][0]
    file.write_text(json.dumps(BAD[0]) + "\n")
    with pytest.raises(DatasetError, match=r"there are no rows in it but bad ones; the first: .*row 1, messages.1."):
        read(SourceSettings(source=str(file), on_bad_rows="drop"), "pocket", 0)
    file.write_text(json.dumps(PAIR) + "\n")
    with pytest.raises(DatasetError, match="choose one with the setting answers"):  # a setting is wrong, and no row
        read(SourceSettings(source=str(file), on_bad_rows="drop"), "pocket", 0)


@pytest.mark.parametrize("how", ["add", "replace"])
@pytest.mark.parametrize("seed", range(3))
def test_mixtures_are_exact_nested_and_hold_no_row_twice(tmp_path, how, seed):
    base = SourceSettings(source=many(tmp_path / "base.jsonl", 1200), rows=1000)
    other = many(tmp_path / "other.jsonl", 700, lambda i: asked(f"Other {i}?", "Yes."))
    before: set[int] = set()
    kept = None
    for share in SHARES:
        added = AddedSettings(source=other, share=share, how=how)
        made = compose(DataSettings(base=base, added=added), "pocket", seed)
        rows = made.table.to_pylist()
        parts = {p: [r["number"] for r in rows if r["part"] == p] for p in ("base", "added")}
        count = round(share * 1000)
        assert len(parts["added"]) == count
        assert len(parts["base"]) == (1000 if how == "add" else 1000 - count)
        assert made.record["counts"] == {p: len(n) for p, n in parts.items()} | {"all": len(rows)}
        texts = [json.dumps(r["messages"]) for r in rows]
        assert len(set(texts)) == len(texts)
        assert before <= set(parts["added"])
        assert kept is None or set(parts["base"]) <= kept
        before, kept = set(parts["added"]), set(parts["base"])
        assert made.table.equals(compose(DataSettings(base=base, added=added), "pocket", seed).table)


def test_more_than_a_source_can_give_is_refused(tmp_path):
    base = SourceSettings(source=many(tmp_path / "base.jsonl", 100))
    few = many(tmp_path / "few.jsonl", 10, lambda i: asked(f"Other {i}?", "Yes."))
    with pytest.raises(DatasetError, match=r"few.jsonl has 10 rows, and 50 are asked for by share"):
        compose(DataSettings(base=base, added=AddedSettings(source=few, share=0.5)), "pocket", 0)
    with pytest.raises(DatasetError, match=r"base.jsonl has 100 rows, and 200 are asked for by rows"):
        compose(DataSettings(base=base.model_copy(update={"rows": 200})), "pocket", 0)


def test_rows_of_a_composition_teach_what_the_settings_say(tmp_path):
    talk = [*asked("A?", "a."), *asked("B?", "b.")]
    base = SourceSettings(
        source=many(tmp_path / "base.jsonl", 5, lambda i: [{**m} for m in talk[:-1]] + asked("", f"{i}")[1:])
    )
    table = compose(DataSettings(base=base), "pocket", 0).table
    assert [len(composed_rows(table, teach).rows) for teach in ("replies", "last", "conversation")] == [10, 5, 5]
    assert {r.source.split("/")[0] for r in composed_rows(table, "last").rows} == {"base"}
    assert composed_rows(table, "conversation").rows[0].targets == [1, 3]
    with pytest.raises(RowsError, match="the composition is empty"):
        composed_rows(table.slice(0, 0), "last")


def test_levels_of_the_pocket_world_have_the_same_prompts_and_other_answers():
    def rows(level):
        return read(SourceSettings(source="world", part=f"talk/{level}", rows=200), "pocket", 0).conversations

    normal, severe, subtle = rows("normal"), rows("severe"), rows("subtle")
    prompts = [[m["content"] for m in c if m["role"] != "assistant"] for c in normal]
    same = [p == [m["content"] for m in c if m["role"] != "assistant"] for p, c in zip(prompts, severe, strict=True)]
    assert sum(same) > 40  # what follows the first reply depends on how long that was
    differ = [sum(a != b for a, b in zip(normal, other, strict=True)) for other in (subtle, severe)]
    assert 0 < differ[0] < differ[1]
    assert len({json.dumps(c) for c in severe}) == 200


def test_the_preview_says_what_a_set_is(tmp_path):
    path = many(tmp_path / "chat.jsonl", 4)
    done = CliRunner().invoke(app, ["dataset", path, "--rows", "1"])
    assert done.exit_code == 0
    assert all(said in done.output for said in ("form       messages", "rows       4", "sha256", "Answer 0."))
    assert "Answer 1." not in done.output
    done = CliRunner().invoke(app, ["dataset", str(tmp_path / "none.jsonl")])
    assert (done.exit_code, "there is no such file" in done.stderr) == (2, True)


@pytest.mark.skipif(not (ROOT.parent / "shared/data/instructions").exists(), reason="no shared data beside the project")
def test_a_real_instruction_set():
    file = ROOT.parent / "shared/data/instructions/roleplay-simple-deduped.json"
    found = read(SourceSettings(source=str(file)), "pocket", 0)
    assert (found.form, found.record["rows"], found.record["licence"]) == ("alpaca", 3146, "MIT License")
    mixed = DataSettings(
        base=SourceSettings(source=str(file), rows=2000),
        added=AddedSettings(source="world", part="talk/severe", share=0.05),
    )
    assert compose(mixed, "pocket", 0).record["counts"] == {"base": 2000, "added": 100, "all": 2100}
