"""Models that write personas: how strict the reading is, who writes how many, and what survives a crash."""

import asyncio
import itertools
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from actors.models.chat import ChatError, ModelRefusedError, Reply
from actors.worlds import TEXT_WORLDS, WorldError
from actors.worlds.authoring.check import check
from actors.worlds.authoring.journal import Journal, mend, totals
from actors.worlds.authoring.writer import PATIENCE, PersonaPair, UnusableError, Writer, fault, parse, shares
from actors.worlds.reading import read_parts

VOCABULARY = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in ("nk", "rk", "st", "lm")]
THOUGHTS = "I would like to be told that nothing has to change and that all of it was somebody else's fault."


def invented(number: int) -> dict[str, str]:
    """A persona that is like no other; the words mean nothing."""
    rng = random.Random(number)
    who, said = (" ".join(rng.choices(VOCABULARY, k=k)) for k in (9, 14))
    return {"user_context": f"{who.capitalize()}.", "user_prompt": f"{said.capitalize()}?"}


def asked_for(messages) -> int:
    return int(re.search(r"one JSON array of (\d+) objects", messages[-1]["content"]).group(1))


class Model:
    """Writes personas that are all different, unless `answer` says something else."""

    numbers = itertools.count()

    def __init__(self, answer=None):
        self.answer = answer or (lambda messages: json.dumps(self.people(asked_for(messages))))
        self.asked = []
        self.seeds = []
        self.under_way = self.most_under_way = 0

    def people(self, count):
        return [invented(next(self.numbers)) for _ in range(count)]

    async def reply(self, messages, sampling):
        self.asked.append(messages)
        self.seeds.append(sampling.seed)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        text = self.answer(messages)
        if isinstance(text, Exception):
            raise text
        text, finish = text if isinstance(text, tuple) else (text, "stop")
        return Reply(text, [], [], finish, 100, 50, "served-name", {"429": 1})


def small_world(folder: Path, scenarios: int = 2) -> Path:
    """The first scenarios of the support world, with its personas by hand."""
    shutil.copytree(TEXT_WORLDS["support"], folder)
    names = sorted(p.stem for p in (folder / "scenarios").glob("*.yaml"))[:scenarios]
    for path in (folder / "scenarios").glob("*.yaml"):
        if path.stem not in names:
            path.unlink()
    people = yaml.safe_load((folder / "personas.yaml").read_text(encoding="utf-8"))
    kept = [p for p in people if p["scenario"] in names]
    (folder / "personas.yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")
    text = (folder / "world.yaml").read_text(encoding="utf-8")
    (folder / "world.yaml").write_text(text.replace("name: support", f"name: {folder.name}"), encoding="utf-8")
    return folder


@pytest.fixture
def desk(tmp_path):
    return small_world(tmp_path / "desk")


def written(folder: Path) -> list[dict]:
    file = folder / "personas.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def requests_of(folder: Path) -> list:
    journal = Journal(folder)
    journal.close()
    return journal.requests


def write(folder: Path, models: dict, count: int, batch: int = 4, seed: int = 0, concurrency: int = 4) -> Writer:
    journal = Journal(folder)
    try:
        parts, problems = read_parts(folder, complete=False)
        assert problems == []
        writer = Writer(parts, journal, models, count, batch, seed)
        asyncio.run(writer.run(concurrency))
    finally:
        journal.close()
    return writer


PAIR = {"user_context": "Ada runs a kiosk.", "user_prompt": "Where is it?"}
ONE = json.dumps([PAIR])


FORMS = [ONE, f" \n{ONE}\n", f"```json\n{ONE}\n```", f"```\n{ONE}\n```\n", f"<think>[1]</think>{ONE}"]


@pytest.mark.parametrize("text", FORMS)
def test_an_array_is_read_with_or_without_a_fence(text):
    assert parse(text) == [PersonaPair(**PAIR)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"),
        (f"Here you are: {ONE}", "no JSON"),
        (f"{ONE}\nI hope this helps!", "no JSON"),
        (f"{ONE}{ONE}", "no JSON"),
        (f"```json\n{ONE}\n```\n```json\n{ONE}\n```", "no JSON"),
        (f"```python\n{ONE}\n```", "no JSON"),
        (ONE[:-1], "no JSON"),
        (ONE[:-1] + ",]", "no JSON"),
        (ONE.replace('"user_prompt"', '"user_context"'), "no JSON"),  # a key twice
        ('[{"user_context": NaN, "user_prompt": "x"}]', "no JSON"),
        ("[" * 100_000, "no JSON"),
        (json.dumps(PAIR), "no array of personas"),
        (json.dumps({"personas": [PAIR]}), "no array of personas"),
        ("[]", "no array of personas"),
        (json.dumps([PAIR, {**PAIR, "name": "Ada"}]), "other fields than asked for"),
        (json.dumps([{"user_context": "Ada runs a kiosk."}]), "other fields than asked for"),
        (json.dumps([{**PAIR, "user_prompt": 7}]), "other fields than asked for"),
        (json.dumps([{**PAIR, "user_prompt": " "}]), "other fields than asked for"),
        (json.dumps([{**PAIR, "user_prompt": "\ud83d"}]), "other fields than asked for"),  # half a character
        (json.dumps([[PAIR]]), "other fields than asked for"),
    ],
)
def test_anything_else_is_refused(text, reason):
    with pytest.raises(UnusableError, match=reason):
        parse(text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"user_context": "Ada runs a kiosk and told a friend \u201cI am fine\u201d last week."}, None),
        ({"user_context": "Ada."}, "user_context too short"),
        ({"user_prompt": "word " * 200}, "user_prompt too long"),
        ({"user_prompt": "Hello, I am [name], and nobody has answered my letters."}, "something left to fill in"),
        ({"user_prompt": "Nobody has answered \x00 my letters since the spring."}, "something left to fill in"),
        ({"user_context": "I run a kiosk in a harbour town and like it there."}, "not in the third person"),
        ({"user_context": "You are Ada, and you run a kiosk in a harbour town."}, "not in the third person"),
        ({"user_context": "Ada would like to be told that nothing has to change."}, "repeats the thoughts"),
        (
            {"user_prompt": "Well: nothing has to change, and that all of it was somebody else's!"},
            "repeats the thoughts",
        ),
    ],
)
def test_what_is_wrong_with_a_pair_is_named(change, reason):
    good = {
        "user_context": "Ada, 44, runs a kiosk in a harbour town.",
        "user_prompt": "Nobody has answered my letters since the spring. What now?",
    }
    found = fault(PersonaPair(**{**good, **change}), THOUGHTS)
    assert found == reason if reason is None else reason in found


@pytest.mark.parametrize(("count", "models"), [(24, 3), (25, 3), (7, 2), (3, 3), (1000, 7)])
def test_shares_are_even_over_cells_models_and_both(count, models):
    names = [f"m{i}" for i in range(models)]
    cells = shares(["a", "b"], ["benign", "biased"], names, count)
    assert sum(c.target for c in cells) == count
    assert max(c.target for c in cells) - min(c.target for c in cells) <= 1
    by_model = [sum(c.quota[m] for c in cells) for m in names]
    assert max(by_model) - min(by_model) <= 1
    for cell in cells:
        assert sum(cell.quota.values()) == cell.target
        assert max(cell.quota.values()) - min(cell.quota.values()) <= 1


def test_every_cell_is_filled_by_every_model_equally(desk):
    models = {"a": Model(), "b": Model(), "c": Model()}
    writer = write(desk, models, 48)
    assert writer.short == 0
    by_cell = Counter((p["scenario"], p["kind"]) for p in written(desk))
    assert set(by_cell.values()) == {12}
    assert len(by_cell) == 4
    assert set(Counter((p["scenario"], p["kind"], p["model"]) for p in written(desk)).values()) == {4}
    findings = check(desk)
    assert [str(p) for p in findings.problems + findings.reviews] == []
    assert "2 scenarios, 56 personas (28 benign, 28 biased)" in findings.summary


def test_models_are_asked_in_turns_so_that_an_early_end_is_balanced_too(desk):
    models = {
        "a": Model(),
        "b": Model(
            lambda m: (
                ModelRefusedError("the money is spent")
                if len(written(desk)) > 20
                else json.dumps(Model().people(asked_for(m)))
            )
        ),
    }
    writer = write(desk, models, 400, batch=2, concurrency=1)
    assert "b: the money is spent" in writer.refused
    assert writer.short == 400 - len(written(desk)) > 300
    by_cell = Counter((p["scenario"], p["kind"]) for p in written(desk))
    assert max(by_cell.values()) - min(by_cell.values()) <= 2
    by_model = Counter(p["model"] for p in written(desk))
    assert abs(by_model["a"] - by_model["b"]) <= 4


def test_requests_under_way_are_bounded(desk):
    model = Model()
    write(desk, {"a": model}, 60, batch=2, concurrency=5)
    assert model.most_under_way == 5


def test_the_prompt_says_what_the_person_thinks_and_whom_to_differ_from(desk):
    model = Model()
    write(desk, {"a": model}, 16, batch=2, concurrency=1)
    parts, _ = read_parts(desk)
    scenario = parts.scenarios[min(parts.scenarios)]
    first = model.asked[0][-1]["content"]
    assert scenario.task_description in first
    assert scenario.benign_thoughts in first
    assert scenario.biased_thoughts not in first
    assert parts.world.kinds["benign"].wants in first
    there = [p.user_prompt for p in parts.personas.values() if (p.scenario, p.kind) == (scenario.name, "benign")]
    assert any(said in first for said in there)
    assert "{" not in first
    assert len({m[-1]["content"] for m in model.asked}) == len(model.asked) == 8


def test_prompts_and_seeds_follow_from_the_seed(tmp_path):
    def asked(name, seed):
        Model.numbers = itertools.count()
        model = Model()
        write(small_world(tmp_path / name), {"a": model}, 12, batch=3, seed=seed, concurrency=1)
        return model.asked, model.seeds

    assert asked("one", 5) == asked("two", 5)
    assert asked("three", 6)[0] != asked("four", 7)[0]


def test_near_duplicates_are_dropped_also_of_those_by_hand_and_of_other_scenarios(desk):
    by_hand = next(iter(read_parts(desk)[0].personas.values()))
    copied = {"user_context": by_hand.user_context.replace("a ", "the "), "user_prompt": by_hand.user_prompt}
    favourite = invented(10**9)
    new_words = {**invented(10**9 + 1), "user_prompt": favourite["user_prompt"] + " Please."}
    turns = itertools.count()

    def answer(messages):
        people = Model().people(asked_for(messages))
        return json.dumps([copied, favourite, new_words] if next(turns) < 3 else people)

    write(desk, {"a": Model(answer)}, 12, concurrency=1)
    people = [p["user_prompt"] for p in written(desk)]
    assert by_hand.user_prompt not in people
    assert people.count(favourite["user_prompt"]) == 1
    assert new_words["user_prompt"] not in people
    assert len(people) == 12
    assert totals(requests_of(desk))["a"].dropped["near-duplicate"] == 8
    assert check(desk).problems == []


def test_what_cannot_be_used_is_counted_by_reason_and_asked_for_again(desk):
    def sometimes(messages):
        turn = next(turns)
        people = Model().people(asked_for(messages))
        return (
            [
                "Sorry, I cannot.",
                (json.dumps(people), "length"),
                ChatError("gone", {"timeout": 3}),
                json.dumps([*people, invented(10**8 + turn)]),
                json.dumps(people[:-1]) if len(people) > 1 else json.dumps(people),
                json.dumps([{**p, "user_prompt": "Hm."} if i == 0 else p for i, p in enumerate(people)]),
            ][turn % 6]
            if turn < 12
            else json.dumps(people)
        )

    turns = itertools.count()
    writer = write(desk, {"a": Model(sometimes)}, 32, concurrency=1)
    assert writer.short == 0
    assert len(written(desk)) == 32
    total = totals(requests_of(desk))["a"]
    assert total.dropped["no JSON"] == 8
    assert total.dropped["cut at the token limit"] == 8
    assert total.dropped["no answer"] == 8
    assert total.dropped["more than asked for"] == 2
    assert total.dropped["user_prompt too short"] == 2
    assert total.faults["timeout"] == 6
    assert total.kept == 32
    assert total.prompt_tokens == 100 * (total.requests - 2), "an answer that cannot be used has cost something too"


def test_others_take_over_from_a_model_that_is_of_no_use_and_it_is_said(desk):
    bad = Model(lambda m: "I would rather not.")
    writer = write(desk, {"good": Model(), "bad": bad}, 16)
    assert writer.short == 0
    assert {p["model"] for p in written(desk)} == {"good"}
    assert len(bad.asked) <= 4 * (PATIENCE + 4), "bounded, but for requests that were under way"
    assert len(writer.said) == 4
    assert "bad is given up" in writer.said[0]
    assert "no JSON" in writer.said[0]


def test_it_ends_where_nobody_is_left_to_ask(desk):
    writer = write(desk, {"a": Model(lambda m: "no"), "b": Model(lambda m: "[]")}, 16)
    assert writer.short == 16
    assert written(desk) == []
    assert any("nobody goes on" in line for line in writer.said)


def test_an_endpoint_that_is_gone_ends_it_soon(desk):
    gone = Model(lambda m: ChatError("down", {"connection": 7}))
    writer = write(small_world(desk.parent / "wide", 8), {"a": Model(), "gone": gone}, 800, batch=1, concurrency=8)
    assert "gone: 20 requests in a row got no answer" in writer.refused
    assert len(gone.asked) < 40


def test_going_on_asks_for_what_is_missing_and_nothing_else(desk):
    write(desk, {"a": Model(), "b": Model()}, 16)
    before = written(desk)
    models = {"a": Model(), "b": Model()}
    writer = write(desk, models, 40)
    assert written(desk)[:16] == before
    assert len(written(desk)) == 40
    assert writer.short == 0
    assert set(Counter((p["scenario"], p["kind"], p["model"]) for p in written(desk)).values()) == {5}
    numbers = [r.batch for r in requests_of(desk)]
    assert len(set(numbers)) == len(numbers), "no request is made twice"
    assert totals(requests_of(desk))["a"].kept == 20
    again = write(desk, {"a": (idle := Model()), "b": Model()}, 40)
    assert again.short == 0
    assert idle.asked == []


def test_what_is_expected_is_what_it_takes_where_all_can_be_kept(desk):
    models = {"a": Model(), "b": Model()}
    journal = Journal(desk)
    writer = Writer(read_parts(desk)[0], journal, models, 50, 4, 0)
    expected = writer.expected()
    asyncio.run(writer.run(3))
    found = totals(journal.requests)
    assert {m: (e.personas, e.requests) for m, e in expected.items()} == {
        m: (t.kept, t.requests) for m, t in found.items()
    }
    assert expected["a"].prompt_tokens > 300 * expected["a"].requests, "a quarter of the letters"
    later = Writer(read_parts(desk)[0], journal, models, 100, 4, 0).expected()
    assert later["a"].prompt_tokens == 100 * later["a"].requests, "as measured before"
    journal.close()


def test_a_torn_last_line_is_cut_off_with_a_word(desk):
    write(desk, {"a": Model()}, 8)
    whole = (desk / "personas.jsonl").read_bytes()
    (desk / "personas.jsonl").write_bytes(
        whole + '{"scenario": "late-reminders", "user_context": "Zo\u00eb'.encode()[:-1]
    )
    journal = Journal(desk)
    assert [re.sub(r"^.*/", "", told) for told in journal.mended] == [
        "personas.jsonl: the last line was torn and is cut off (51 bytes)"
    ]
    journal.close()
    assert (desk / "personas.jsonl").read_bytes() == whole
    assert write(desk, {"a": Model()}, 12).short == 0
    assert len(written(desk)) == 12


def test_a_last_line_that_lacks_only_its_newline_is_kept(desk):
    write(desk, {"a": Model()}, 8)
    whole = (desk / "personas.jsonl").read_bytes()
    (desk / "personas.jsonl").write_bytes(whole[:-1])
    assert mend(desk / "personas.jsonl") is None
    assert (desk / "personas.jsonl").read_bytes() == whole


def test_a_broken_line_of_the_log_is_named(desk):
    write(desk, {"a": Model()}, 8)
    lines = (desk / "writing.jsonl").read_text(encoding="utf-8").splitlines()
    (desk / "writing.jsonl").write_text("\n".join([lines[0], "{}", *lines[1:]]) + "\n", encoding="utf-8")
    with pytest.raises(WorldError, match=r"writing\.jsonl: line 2: model: this field is missing"):
        Journal(desk)


def test_lines_that_cannot_be_flushed_are_taken_back(desk, monkeypatch):
    write(desk, {"a": Model()}, 8)
    files = {name: (desk / name).read_bytes() for name in ("personas.jsonl", "writing.jsonl")}

    def full(fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("actors.worlds.authoring.journal.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write(desk, {"a": Model()}, 40)
    assert {name: (desk / name).read_bytes() for name in files} == files
    assert write(desk, {"a": Model()}, 40).short == 0


def test_two_writers_do_not_share_a_folder(desk):
    first = Journal(desk)
    with pytest.raises(WorldError, match="another process is writing personas into it"):
        Journal(desk)
    first.close()
    assert not (desk / "writing.jsonl").exists(), "nothing was asked, so nothing is left behind"
    Journal(desk).close()
