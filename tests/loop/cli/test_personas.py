"""`candor world personas` and `candor world review`, against an endpoint over HTTP and a reader at the keyboard."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from actors.worlds import TEXT_WORLDS
from actors.worlds.authoring.check import check
from actors.worlds.authoring.journal import append
from actors.worlds.reading import read_parts
from actors.worlds.spec import WrittenSpec
from actors.worlds.text import TextWorld
from loop.cli.app import app
from loop.cli.review import sample
from tests.actors.worlds.authoring.test_writer import (
    Model,
    asked_for,
    invented,
    requests_of,
    small_world,
    write,
    written,
)
from tests.conftest import ROOT, hear_ctrl_c
from tests.endpoint_server import serve

CANDOR = Path(sys.executable).parent / "candor"
KEY = "sk-thisismysecret0123456789"


def people(messages) -> str:
    return json.dumps(Model().people(asked_for(messages)))


@pytest.fixture
def desk(tmp_path):
    return small_world(tmp_path / "desk")


@pytest.fixture
def candor(monkeypatch):
    """Run a command in this process; stdin is no terminal."""
    monkeypatch.setenv("TEST_API_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args, stdin=None):
        return CliRunner().invoke(app, ["world", *map(str, args)], input=stdin, env={"COLUMNS": "200"})

    return run


def config(folder: Path, **models) -> Path:
    file = folder / "models.yaml"
    file.write_text(yaml.safe_dump({"models": models}), encoding="utf-8")
    return file


def endpoint(server, **more) -> dict:
    settings = {"kind": "endpoint", "model": "mock", "base_url": server.base_url, "key_env": "TEST_API_KEY"}
    return settings | {"price": {"prompt": 100, "completion": 200}, "retries": 1} | more


def figures(output: str, title: str, name: str) -> list[str]:
    """The cells of a model's row in the table with this title."""
    table = output[output.index(title) :]
    row = next(line for line in table.splitlines() if f" {name} " in line and "│" in line)
    return [cell.strip() for cell in row.strip("│┃ ").split("│")][1:]


def args(world, settings, count=16, models="a", *more):
    return ["personas", world, "--count", count, "--models", models, "--config", settings, "--yes", *more]


def test_personas_are_written_and_the_cost_is_what_the_endpoint_counted(desk, candor, tmp_path):
    spent = Counter()

    def counted(name):
        def answer(messages):
            text = people(messages)
            spent[name, "sent"] += sum(len(m["content"].split()) for m in messages)
            spent[name, "received"] += len(text.split(" "))
            return text

        return answer

    with serve(answer=counted("a")) as a, serve(answer=counted("b")) as b:
        settings = config(tmp_path, a=endpoint(a), b=endpoint(b, price=None))
        out = candor(*args(desk, settings, 40, "a,b", "--batch", 3))
        assert out.exit_code == 0, out.output
        served = {"a": a.stats()["served"], "b": b.stats()["served"]}
    before, after = "Expected, if every answer can be used", "All requests so far"
    for name in "ab":
        personas, requests, *_ = figures(out.output, before, name)
        assert (int(personas), int(requests)) == (20, served[name])
        personas, requests, sent, received, cost = figures(out.output, after, name)
        assert (int(personas), int(requests)) == (20, served[name])
        assert int(sent.replace(",", "")) == spent[name, "sent"]
        assert int(received.replace(",", "")) == spent[name, "received"]
        money = (spent[name, "sent"] * 100 + spent[name, "received"] * 200) / 1e6
        assert cost == ("price not given" if name == "b" else f"{money:.2f}" if money >= 1 else f"{money:.4f}")
    assert out.output.index(before) < out.output.index(after)
    assert "40 of 40 personas" in out.output
    assert set(Counter((p["scenario"], p["kind"], p["model"]) for p in written(desk)).values()) == {5}
    assert candor("check", desk).exit_code == 0


def test_an_installed_world_is_copied_and_stays_as_it_is(candor, tmp_path):
    before = {p: p.read_bytes() for p in TEXT_WORLDS["support"].rglob("*") if p.is_file()}
    with serve(answer=people) as server:
        settings = config(tmp_path, a=endpoint(server))
        for refused in ([], ["--out", TEXT_WORLDS["support"]], ["--out", TEXT_WORLDS["therapist"]]):
            out = candor(*args("support", settings, 16, "a", *refused))
            assert (out.exit_code, "installed world" in out.output) == (2, True), out.output
        assert server.stats()["requests"] == 0
        out = candor(*args("support", settings, 16, "a", "--out", tmp_path / "big-desk"))
        assert out.exit_code == 0, out.output
    assert before == {p: p.read_bytes() for p in TEXT_WORLDS["support"].rglob("*") if p.is_file()}
    assert check(tmp_path / "big-desk").problems == []
    world = TextWorld.read(tmp_path / "big-desk")
    assert world.name == "big-desk"
    assert {len(world.personas(s, k)) for s in world.scenarios for k in world.user_kinds} == {3}


def test_a_world_without_any_persona_yet_can_be_written_for(desk, candor, tmp_path):
    (desk / "personas.yaml").unlink()
    assert candor("check", desk).exit_code == 1
    with serve(answer=people) as server:
        out = candor(*args(desk, config(tmp_path, a=endpoint(server))))
    assert out.exit_code == 0, out.output
    assert candor("check", desk).exit_code == 0


@pytest.mark.parametrize(
    ("change", "models", "says"),
    [
        ({}, "a,mars", "--models: {config} has no model 'mars'; it has: a, b"),
        ({}, "a,a", "--models: 'a' is named 2 times; name each model once"),
        ({"base_url": "ftp://x"}, "a", "{config}: models.a.base_url: give an address that begins with http://"),
        ({"api_key": KEY}, "a", "{config}: models.a.api_key: unknown key; allowed here: kind, model,"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, "a", "models.a.base_url: holds more than an address"),
        ({"key_env": "NO_SUCH_KEY"}, "a", "models.a.key_env: the environment variable NO_SUCH_KEY is not set"),
        ({"key_env": KEY}, "a", "models.a.key_env: give the name of an environment variable"),
        ({"model": 7}, "a", "models.a.model: Input should be a valid string"),
        ({"kind": "engine"}, "a", "models.a.kind: not an endpoint; personas are written by models of kind endpoint"),
    ],
)
def test_what_is_wrong_with_a_model_is_said_before_anything_is_asked(desk, candor, tmp_path, change, models, says):
    with serve(answer=people) as server:
        settings = config(tmp_path, a=endpoint(server, **change), b=endpoint(server))
        out = candor(*args(desk, settings, 16, models))
        assert server.stats()["requests"] == 0
    assert out.exit_code == 2
    assert says.format(config=settings) in out.output
    assert "secret" not in out.output
    assert sorted(p.name for p in desk.iterdir()) == ["personas.yaml", "scenarios", "world.yaml"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read (No such file or directory)"),
        (f"models:\n  a: [{KEY}\n", "not valid YAML: line 3"),
        ("name: x\n", "models: a mapping of names to endpoints is needed"),
        ("models: {}\n", "models: a mapping of names to endpoints is needed"),
    ],
)
def test_a_config_that_names_no_models_is_refused(desk, candor, tmp_path, text, says):
    file = tmp_path / "models.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    out = candor(*args(desk, file))
    assert out.exit_code == 2
    assert f"candor: {file}: {says}" in out.output
    assert "secret" not in out.output


def test_nothing_is_spent_where_one_endpoint_is_down(candor, tmp_path):
    with serve(answer=people) as gone:
        pass
    with serve(answer=people) as up:
        settings = config(tmp_path, a=endpoint(up), b=endpoint(gone))
        out = candor(*args("support", settings, 16, "a,b", "--out", tmp_path / "new"))
        assert up.stats()["requests"] == 0
    assert out.exit_code == 2
    assert "nothing was spent, because not every model can be reached:\nb: mock at http" in out.output
    assert "cannot be reached" in out.output
    assert not (tmp_path / "new").exists(), "an unused copy is taken away"


@pytest.mark.parametrize(("answer", "code", "kept"), [(b"n\n", 1, 0), (b"y\n", 0, 16)])
def test_a_person_at_a_terminal_is_asked_before_money_is_spent(desk, tmp_path, answer, code, kept):
    keyboard, terminal = os.openpty()
    with serve(answer=people) as server:
        command = [str(a) for a in args(desk, config(tmp_path, a=endpoint(server))) if a != "--yes"]
        os.write(keyboard, answer)
        environment = os.environ | {"TEST_API_KEY": KEY}
        out = subprocess.run(
            [CANDOR, "world", *command], stdin=terminal, capture_output=True, text=True, env=environment, check=False
        )
        assert bool(server.stats()["requests"]) == bool(kept)
    os.close(keyboard)
    os.close(terminal)
    assert out.returncode == code, out.stdout + out.stderr
    assert ("nothing was spent" in out.stdout) == (not kept)
    assert len(written(desk)) == kept


def test_without_a_terminal_and_without_yes_nothing_is_spent(desk, candor, tmp_path):
    with serve(answer=people) as server:
        settings = config(tmp_path, a=endpoint(server))
        out = candor(*[a for a in args(desk, settings) if a != "--yes"], stdin="y\n")
        assert server.stats()["requests"] == 0
    assert out.exit_code == 2
    assert "give --yes" in out.output
    assert "Expected, if every answer can be used" in out.output


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: d.write_text("x"), "exists and is not a world"),
        (lambda d: (d.mkdir(), (d / "notes").write_text("x")), "exists and is not a world"),
        (lambda d: small_world(d, 3), "is another world"),
    ],
)
def test_a_folder_that_holds_something_else_is_not_written_into(desk, candor, tmp_path, make, says):
    make(tmp_path / "there")
    with serve(answer=people) as server:
        out = candor(*args(desk, config(tmp_path, a=endpoint(server)), 16, "a", "--out", tmp_path / "there"))
    assert out.exit_code == 2
    assert says in out.output


def test_a_name_that_is_none_for_a_world_is_refused(desk, candor, tmp_path):
    with serve(answer=people) as server:
        out = candor(*args(desk, config(tmp_path, a=endpoint(server)), 16, "a", "--out", tmp_path / "Big Desk"))
    assert out.exit_code == 2
    assert "found 'Big Desk'; the folder's name becomes the world's" in out.output
    assert not (tmp_path / "Big Desk").exists()


def test_a_broken_persona_file_is_refused_by_line_before_anything_is_asked(desk, candor, tmp_path):
    good = {**invented(1), "scenario": "late-reminders", "kind": "benign", "model": "a"}
    lines = [json.dumps(good), "{broken", json.dumps({**good, "kind": "bored"})]
    (desk / "personas.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with serve(answer=people) as server:
        out = candor(*args(desk, config(tmp_path, a=endpoint(server))))
        assert server.stats()["requests"] == 0
    assert out.exit_code == 2
    assert "personas.jsonl: line 2: not valid JSON" in out.output
    assert "personas.jsonl: line 3: kind: no kind 'bored'" in out.output


def test_a_key_that_is_refused_on_the_way_ends_it_and_shows_in_nothing(desk, candor, tmp_path):
    with serve(answer=people, keys=[KEY], expires_after=3) as server:
        settings = config(tmp_path, a=endpoint(server))
        out = candor(*args(desk, settings, 40, "a", "--batch", 2, "--concurrency", 1))
    assert out.exit_code == 1
    assert "a model no longer answers: a: mock at" in out.output
    assert "Continue with: candor world personas" in out.output
    assert "6 of 40 personas" in out.output
    assert len(written(desk)) == 6
    everything = out.output + "".join(p.read_text(encoding="utf-8") for p in tmp_path.rglob("*") if p.is_file())
    for part in (KEY, KEY[:8], KEY[-8:]):
        assert part not in everything
    with serve(answer=people, keys=[KEY]) as server:
        out = candor(*args(desk, config(tmp_path, a=endpoint(server)), 40, "a", "--batch", 2))
        assert out.exit_code == 0, out.output
        assert figures(out.output, "All requests so far", "a")[:2] == ["40", str(3 + server.stats()["served"])]
    assert len(written(desk)) == 40


def test_faults_on_the_way_are_counted_and_nothing_is_missing(desk, candor, tmp_path):
    with serve(answer=people, faults={"429": 0.1, "truncated": 0.1}, seed=3) as server:
        out = candor(*args(desk, config(tmp_path, a=endpoint(server, retries=6)), 60, "a", "--batch", 1))
        injected = server.stats()["injected"]
    assert out.exit_code == 0, out.output
    assert len(written(desk)) == 60
    told = next(line for line in out.output.splitlines() if line.startswith("failed attempts: "))
    assert f"{injected['429']} x 429" in told
    assert f"{injected['truncated']} x malformed" in told


def test_what_is_missing_at_the_end_makes_the_exit_code_1(desk, candor, tmp_path):
    with serve(answer=lambda m: "Certainly! Here are your people.") as server:
        out = candor(*args(desk, config(tmp_path, a=endpoint(server))))
    assert out.exit_code == 1
    assert "0 of 16 personas" in out.output
    assert "x no JSON" in out.output
    assert "a is given up" in out.output


def started(desk, settings, count):
    command = [CANDOR, "world", *map(str, args(desk, settings, count, "a", "--batch", 2, "--concurrency", 3))]
    environment = os.environ | {"TEST_API_KEY": KEY}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, preexec_fn=hear_ctrl_c, stdout=-1, stderr=subprocess.STDOUT
    )


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def test_after_a_kill_nothing_is_lost_or_doubled(desk, candor, tmp_path):
    with serve(answer=people, latency=0.05) as server:
        settings = config(tmp_path, a=endpoint(server))
        for reached in (10, 30):
            process = started(desk, settings, 60)
            wait_for(lambda: len(read_parts(desk, complete=False)[0].written) >= reached)  # noqa: B023
            process.send_signal(signal.SIGKILL)
            process.wait()
        with open(desk / "personas.jsonl", "ab") as file:  # as a kill in the middle of a line would leave it
            file.write(b'{"scenario": "late-rem')
        kept = written_whole(desk)
        out = candor(*args(desk, settings, 60, "a", "--batch", 2))
        assert out.exit_code == 0, out.output
        assert "the last line was torn and is cut off" in out.output
        served = server.stats()["served"]
    assert written(desk)[: len(kept)] == kept
    assert len(written(desk)) == 60
    assert len({p["user_prompt"] for p in written(desk)}) == 60
    assert set(Counter((p["scenario"], p["kind"]) for p in written(desk)).values()) == {15}
    requests = requests_of(desk)
    assert len({r.batch for r in requests}) == len(requests)
    assert sum(r.kept for r in requests) >= 60, "what was kept had been counted before"
    assert served - 2 * 3 <= len(requests) <= served, "only what was under way at a kill is not counted"


def written_whole(folder):
    lines = (folder / "personas.jsonl").read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(desk, tmp_path):
    with serve(answer=people, latency=0.05) as server:
        process = started(desk, config(tmp_path, a=endpoint(server)), 4000)
        wait_for(lambda: (desk / "personas.jsonl").exists())
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "stopped; every persona that was kept is in the file" in output
    assert f"Continue with: candor world personas {desk} --count 4000 --models a" in output
    assert check(desk).problems == []


@pytest.fixture
def read_desk(desk):
    """A world with 24 personas by models, every other one of which has a word to look at."""
    write(desk, {"a": Model()}, 24)
    lines = written(desk)
    for line in lines[::2]:
        line["user_prompt"] += " My old dog died of poison."
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (desk / "personas.jsonl").write_text(text, encoding="utf-8")
    return desk


def reviews(folder):
    return [json.loads(line) for line in (folder / "reviews.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_reader_accepts_rejects_skips_and_goes_on_later(read_desk, candor):
    before = TextWorld.read(read_desk)
    out = candor("review", read_desk, "--sample", 8, "--reviewer", "Kim", stdin="a\nr\ntoo sad\nx\ns\nq\n")
    assert out.exit_code == 0, out.output
    first, second = reviews(read_desk)
    assert (first["verdict"], first["note"], first["reviewer"]) == ("accept", "", "Kim")
    assert (second["verdict"], second["note"]) == ("reject", "too sad")
    looked_at = {p.persona_id for n, p in read_parts(read_desk)[0].written.items() if n % 2}
    assert {first["persona"], second["persona"]} <= looked_at, "words to look at come first"
    assert "found 'x'; one of a, r, s, q" in out.output
    assert "drawn at random: 0 of 4 read" in out.output
    assert "picked for their words: 2 of 4 read, 1 accepted (50%" in out.output

    after = TextWorld.read(read_desk)
    ids = [{p.persona_id for s in w.scenarios for k in w.user_kinds for p in w.personas(s, k)} for w in (before, after)]
    assert ids[0] - ids[1] == {second["persona"]}
    assert ids[1] <= ids[0], "all others keep their ids"

    out = candor("review", read_desk, "--sample", 8, stdin="a\n" * 20)
    assert len(reviews(read_desk)) == 8
    assert len({r["persona"] for r in reviews(read_desk)}) == 8
    assert "the whole sample is read" in out.output
    assert "drawn at random: 4 of 4 read, 4 accepted (100%, 95 % interval 34% to 100%)" in out.output
    assert "picked for their words: 4 of 4 read, 3 accepted (75%" in out.output
    findings = check(read_desk)
    assert findings.problems == []
    assert "32 personas" in findings.summary
    assert "of which 7 accepted, 1 rejected and 24 unread" in findings.summary


def test_a_change_of_mind_counts(read_desk, candor):
    candor("review", read_desk, "--sample", 4, stdin="r\n\nq\n")
    (first,) = reviews(read_desk)
    assert first["persona"] not in {p.persona_id for p in read_parts(read_desk)[0].people()}
    with open(read_desk / "reviews.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({**first, "verdict": "accept"}) + "\n")
    assert first["persona"] in {p.persona_id for p in read_parts(read_desk)[0].people()}


def test_the_end_of_the_input_ends_it_and_keeps_what_was_said(read_desk, candor):
    out = candor("review", read_desk, stdin="a\na\n")
    assert out.exit_code == 0, out.output
    assert len(reviews(read_desk)) == 2
    assert "continue with: candor world review" in out.output


def test_writing_again_replaces_what_was_rejected(read_desk, candor):
    candor("review", read_desk, "--sample", 4, stdin="a\nr\n\nr\n\nr\n\n")
    assert Counter(r["verdict"] for r in reviews(read_desk)) == {"accept": 1, "reject": 3}
    people = {p.persona_id for p in read_parts(read_desk)[0].people()}
    assert write(read_desk, {"a": Model()}, 24).short == 0
    now = read_parts(read_desk)[0]
    assert people < {p.persona_id for p in now.people()}
    kept = Counter((p.scenario, p.kind) for at, p in now.kept() if at.file == "personas.jsonl")
    assert set(kept.values()) == {6}


def test_the_sample_is_spread_and_half_of_it_is_at_random(tmp_path):
    folder = small_world(tmp_path / "desk", 8)
    write(folder, {"a": Model()}, 320)
    lines = written(folder)
    for line in lines[::2]:
        line["user_prompt"] += " There was blood."
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "personas.jsonl").write_text(text, encoding="utf-8")
    parts = read_parts(folder)[0]
    drawn = sample(parts, 64, seed=1)
    assert [d.word for d in drawn] == ["blood"] * 32 + [None] * 32
    assert len({d.persona.persona_id for d in drawn}) == 64
    at_random = Counter((d.persona.scenario, d.persona.kind) for d in drawn if d.word is None)
    assert set(at_random.values()) == {2}
    assert len(at_random) == 16
    assert {d.place.file for d in drawn} == {"personas.jsonl"}
    assert sample(parts, 64, seed=1) == drawn
    assert sample(parts, 64, seed=2) != drawn
    everyone = sample(parts, 10_000, seed=1)
    assert len(everyone) == len(list(parts.placed())), "with those by hand where the others do not suffice"


@pytest.mark.parametrize(
    ("world", "says"), [("support", "installed world"), ("pocket", "is code"), ("mars", "no world")]
)
def test_what_cannot_be_reviewed_is_refused(candor, world, says):
    out = candor("review", world)
    assert out.exit_code == 2
    assert says in out.output


@pytest.mark.parametrize("command", ["personas", "review"])
def test_help_has_an_example(candor, command):
    assert f"Example: candor world {command} " in candor(command, "--help").output


def test_the_command_line_stays_light():
    code = (
        "import sys, loop.cli.app, actors.worlds.authoring.writer, loop.cli.personas, loop.cli.review\n"
        "print([m for m in ('torch', 'ray', 'vllm', 'openai') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
    code = "import sys, loop.cli.app; print([m for m in ('rapidfuzz', 'scipy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


@pytest.mark.slow
def test_twenty_thousand_personas_are_read_and_checked_in_bearable_time(tmp_path):
    folder = small_world(tmp_path / "desk", 8)
    rooms = itertools.cycle(
        [(s, k) for s in sorted(p.stem for p in (folder / "scenarios").glob("*")) for k in ("benign", "biased")]
    )
    lines = [
        WrittenSpec(**invented(n), scenario=s, kind=k, model="a")
        for n, (s, k) in zip(range(20_000), rooms, strict=False)
    ]
    append(folder / "personas.jsonl", lines)
    started = time.process_time()
    world = TextWorld.read(folder)
    reading = time.process_time() - started
    assert sum(len(world.personas(s, k)) for s in world.scenarios for k in world.user_kinds) == 20_032
    started = time.process_time()
    assert check(folder).problems == []
    checking = time.process_time() - started
    assert reading < 3, "the goal is 1 s on an idle machine"
    assert checking < 30, "the goal is 10 s on an idle machine"
