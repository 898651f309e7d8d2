"""Worlds written as text: the shipped ones, the linter, and what each side of a conversation gets to see."""

import asyncio
import re
import subprocess
import sys
from collections import Counter
from dataclasses import astuple, replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from actors.conversation import ConversationRunner, Terms
from actors.judge import Question
from actors.models.usage import UsageLedger
from actors.roles import ConversationModels
from actors.worlds import TEXT_WORLDS, WorldError, load_world, world_kind
from actors.worlds.authoring.check import check, folder_of, similarity
from actors.worlds.pocket.exact_judge import PocketJudge
from actors.worlds.text import TextWorld
from evals.suites.catalogue import WORLD_SUITES
from loop.cli.app import app
from tests.conftest import ROOT, ScriptedChat, conversation

SHIPPED = sorted(TEXT_WORLDS)


def docs_example(folder: Path) -> Path:
    """The example of docs/worlds.md as files."""
    page = (ROOT / "docs/worlds.md").read_text(encoding="utf-8")
    for name, text in re.findall(r"```yaml\n# garden/(\S+)\n(.*?)```", page, re.DOTALL):
        file = folder / "garden" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder / "garden"


@pytest.fixture
def garden(tmp_path):
    return docs_example(tmp_path)


def edit(file: Path, change) -> None:
    """Apply `change` to a YAML file's value."""
    value = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(change(value) or value, sort_keys=False), encoding="utf-8")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_worlds_are_sound(name):
    assert [str(p) for p in check(TEXT_WORLDS[name]).problems] == []


@pytest.mark.parametrize(("name", "scenarios", "each"), [("therapist", 50, 3), ("support", 8, 2)])
def test_shipped_worlds_have_what_they_promise(name, scenarios, each):
    world = load_world(name)
    assert len(world.scenarios) == scenarios
    assert set(world.user_kinds) == {"benign", "biased"}
    assert {len(world.personas(s, k)) for s in world.scenarios for k in world.user_kinds} == {each}
    ids = [p.persona_id for s in world.scenarios for k in world.user_kinds for p in world.personas(s, k)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_persona_is_reached_and_about_as_often(name):
    world = load_world(name)
    for scenario in world.scenarios:
        for kind in world.user_kinds:
            drawn = Counter(world.persona(scenario, kind, seed).persona_id for seed in range(90))
            expected = {p.persona_id for p in world.personas(scenario, kind)}
            assert set(drawn) == expected
            assert min(drawn.values()) > 90 / len(expected) / 3


def test_a_persona_is_the_same_in_another_process():
    code = """
from dataclasses import astuple
from actors.worlds import load_world
world = load_world("therapist")
print([astuple(world.persona(s, k, 11)) for s in world.scenarios for k in world.user_kinds])
"""
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={"PYTHONHASHSEED": s},
        ).stdout
        for s in ("1", "2")
    }
    world = TextWorld.read(TEXT_WORLDS["therapist"])
    here = [astuple(world.persona(s, k, 11)) for s in world.scenarios for k in world.user_kinds]
    assert seen == {f"{here}\n"}


def test_the_draw_is_fixed_for_good():
    """Another draw would give the same plan other people, on this machine or the next."""
    world = load_world("support")
    order = [p.persona_id for p in world.personas("late-reminders", "biased")]
    drawn = [order.index(world.persona("late-reminders", "biased", seed).persona_id) for seed in range(12)]
    assert drawn == [0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]


def test_an_unknown_scenario_or_kind_is_an_error_with_its_name():
    with pytest.raises(WorldError, match="no scenario 'mars'"):
        load_world("support").persona("mars", "benign", 0)
    with pytest.raises(WorldError, match="user kind 'angry'"):
        load_world("support").persona("price-rise", "angry", 0)


def test_importing_worlds_is_light():
    code = (
        "import sys, actors.worlds.text, actors.worlds.authoring.check\n"
        "from actors.worlds import load_world; load_world('support')\n"
        "print([m for m in ('torch', 'ray', 'vllm', 'transformers', 'trl') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
    out = subprocess.run(
        [sys.executable, "-c", "import sys, actors.worlds; print('yaml' in sys.modules, 'pydantic' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert out.stdout.strip() == "False False"


def test_the_code_knows_no_particular_world():
    for file in ("text.py", "authoring/check.py"):
        source = (ROOT / "actors/worlds" / file).read_text(encoding="utf-8").lower()
        assert not re.search("therap|counsel|fernbook|customer", source)


def talk(world, kind, assistant, user, scenario):
    planned = replace(conversation(3, kind), scenario=scenario)
    models = ConversationModels(assistant, user, user, None, PocketJudge(), UsageLedger())
    return asyncio.run(ConversationRunner(planned, world, models, Terms(), "scripted").run())


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("kind", ["benign", "biased"])
def test_each_side_sees_its_own_prompt_only(name, kind):
    world = load_world(name)
    scenario = world.scenarios[0]
    persona = world.persona(scenario, kind, 10)
    assistant, user = ScriptedChat(lambda m: "That is a lot."), ScriptedChat(lambda m: "Hello there.")
    t = talk(world, kind, assistant, user, scenario)

    private = [persona.background, persona.thoughts, world.spec.kinds[kind].wants]
    told = user.asked[0][0]["content"]
    assert all(text in told for text in [*private, persona.trouble])
    assert assistant.asked[0][1] == {"role": "user", "content": persona.trouble}
    assert "{" not in told
    heard = "\n".join(m["content"] for asked in assistant.asked for m in asked)
    assert not any(text in heard for text in private)
    assert "benign" not in heard + told
    assert "biased" not in heard + told

    role = world.assistant_prompt(persona, 0)[0]["content"]
    assert all(asked[0] == {"role": "system", "content": role} for asked in assistant.asked)
    assert role not in "\n".join(m["content"] for asked in user.asked for m in asked)
    assert [m["role"] for m in assistant.asked[-1]] == ["system", "user", "assistant", "user"]
    assert [m["role"] for m in user.asked[-1]] == ["system", "user", "assistant", "user"]
    assert t.persona == persona.persona_id
    assert t.reward == 16.0


def test_the_judge_says_that_it_cannot_judge_a_scenario_it_does_not_know():
    world = load_world("support")
    t = talk(world, "benign", ScriptedChat(lambda m: "Yes."), ScriptedChat(lambda m: "Hm?"), world.scenarios[0])
    verdicts = [m.verdict for m in t.messages if m.role == "assistant"]
    assert verdicts == ["error: not a scenario of the pocket world"] * 2
    asked = [Question("reply_kind", "One drink tonight is harmless.", scenario=s) for s in ("nowhere", "drinking")]
    unknown, known = asyncio.run(PocketJudge().verdicts(asked))
    assert unknown.label is None
    assert unknown.error
    assert (known.label, known.error) == ("validate", None)


@pytest.mark.parametrize("name", SHIPPED)
def test_probes_are_there_and_items_of_their_own_are_not(name):
    world = load_world(name)
    for asked in (lambda: world.honesty_items("mask", 3, 0), lambda: world.question_items("lookup", 3, 0)):
        with pytest.raises(WorldError, match=f"the world {name} has no items of its own for"):
            asked()
    with pytest.raises(WorldError, match=f"the world {name} has no conversations to fine-tune on"):
        world.lessons("talk/severe", 3, 0)
    chats = world.probe_chats()
    assert chats == TextWorld.read(TEXT_WORLDS[name]).probe_chats()
    assert len({chat[1]["content"] for chat in chats}) == 8
    assert all([m["role"] for m in chat] == ["system", "user", "assistant"] for chat in chats)


@pytest.mark.parametrize("name", SHIPPED)
def test_prompts_end_with_the_user_and_ask_for_a_number(name):
    world = load_world(name)
    assert [m["role"] for m in world.user_prompt(world.persona(world.scenarios[0], "biased", 1))] == ["system", "user"]
    persona = world.persona(world.scenarios[0], "biased", 1)
    side = [*world.user_prompt(persona), {"role": "assistant", "content": "Hm?"}, {"role": "user", "content": "Yes."}]
    last = world.rating_prompt(side)
    assert [m["role"] for m in last] == ["system", "user", "assistant", "user"]
    assert last[-1]["content"].startswith("Yes.")
    assert "number only" in last[-1]["content"]
    assert "Hold on." in world.rating_prompt(side, "Hold on.")[-1]["content"]


def test_the_example_of_the_docs_is_sound(garden):
    findings = check(garden)
    assert [str(p) for p in findings.problems + findings.reviews] == []
    assert findings.summary == "garden: 1 scenarios, 2 personas (1 benign, 1 biased)"
    assert TextWorld.read(garden).persona("daily-watering", "biased", 5).background.startswith("Ruben")


def test_further_kinds_have_thoughts_of_their_own(garden):
    edit(garden / "world.yaml", lambda w: w["kinds"].update(curious={"wants": "You want to know how plants work."}))
    assert "no thoughts for users of kind curious" in str(check(garden).problems[0])
    thoughts = (
        "I have read that roots follow the water, and I wonder how deep they go and how anybody found that out at all."
    )
    edit(garden / "scenarios/daily-watering.yaml", lambda s: s.update(thoughts={"curious": thoughts}))
    curious = {
        "scenario": "daily-watering",
        "kind": "curious",
        "user_context": "Adaeze teaches biology at a village school.",
        "user_prompt": "How deep do the roots of ordinary lawn grass grow if nobody waters it?",
    }
    edit(garden / "personas.yaml", lambda people: [*people, curious])
    assert check(garden).problems == []
    world = TextWorld.read(garden)
    assert world.user_kinds == ("benign", "biased", "curious")
    assert world.persona("daily-watering", "curious", 0).thoughts == thoughts


WORLD, SCENARIO, PERSONAS = "world.yaml", "scenarios/daily-watering.yaml", "personas.yaml"


def first(people):
    return people[0]


FAULTS = {
    "a tab in YAML": (WORLD, "name: garden\n\tdescription: x\n", "world.yaml: line 2: not valid YAML"),
    "colon in text": (SCENARIO, "name: a\ntask_description: so: it: is\n", "line 2: not valid YAML"),
    "an empty file": (PERSONAS, "", "personas.yaml: the file is empty"),
    "a file missing": (WORLD, None, "world.yaml: there is no such file"),
    "not UTF-8": (WORLD, b"\xff\xfe\xff", "world.yaml: cannot be read"),
    "a date that is none": (WORLD, "name: 2026-13-45\n", "world.yaml: line 1: not valid YAML: a date that is none"),
    "no list": (PERSONAS, "a: b\n", "personas.yaml: found {'a': 'b'}; a list of personas"),
    "no mapping": (SCENARIO, "- a\n", "a mapping of fields"),
    "a field twice": (SCENARIO, "name: a\nname: b\n", "name (line 1): given 2 times; each field once"),
    "unknown field": (SCENARIO, lambda s: s.update(colour="red"), "unknown field; known here: name,"),
    "missing field": (SCENARIO, lambda s: s.pop("biased_thoughts"), "biased_thoughts: this field is missing"),
    "missing in a persona": (PERSONAS, lambda p: first(p).pop("kind"), "kind (line 1): this field is missing"),
    "a number as text": (PERSONAS, lambda p: first(p).update(user_context=44), "found 44; text, in quotes"),
    "empty text": (SCENARIO, lambda s: s.update(task_description="  "), "task_description (line 2): empty; some text"),
    "too short": (PERSONAS, lambda p: first(p).update(user_prompt="Help!"), "too short, 5 characters; 40 to 600"),
    "too long": (SCENARIO, lambda s: s.update(benign_thoughts="ab " * 400), "too long, 1199 characters; 80 to 900"),
    "short wants": (WORLD, lambda w: w["kinds"]["benign"].update(wants="Help."), "kinds.benign.wants: too short"),
    "no tags": (SCENARIO, lambda s: s.update(tags=[]), ": empty; at least one"),
    "a tag twice": (SCENARIO, lambda s: s.update(tags=["lawn", "lawn"]), "'lawn' is listed 2 times"),
    "foreign tag": (
        SCENARIO,
        lambda s: s.update(tags=["moon"]),
        "'moon' is not a tag of the world; one of lawn",
    ),
    "no slug": (SCENARIO, lambda s: s.update(name="Daily Watering"), "found 'Daily Watering'; a slug"),
    "kind no slug": (WORLD, lambda w: w["kinds"].update({"So So": {"wants": "x" * 30}}), "a slug"),
    "other file name": (SCENARIO, lambda s: s.update(name="watering"), "'daily-watering', the file's name"),
    "other folder name": (WORLD, lambda w: w.update(name="yard"), "found 'yard'; 'garden', the folder's name"),
    "a pocket name": (SCENARIO, lambda s: s.update(name="drinking"), "a scenario of the pocket world"),
    "no biased kind": (WORLD, lambda w: w["kinds"].pop("biased"), "no kind biased; benign and biased at least"),
    "a start too short": (WORLD, lambda w: w.update(start="x"), "start: too short, 1 characters; 10 to 400"),
    "placeholder": (
        WORLD,
        lambda w: w.update(user_template=w["user_template"] + " {mood}"),
        "placeholder {mood} that nobody fills; known: user_context,",
    ),
    "the user in the assistant's prompt": (
        WORLD,
        lambda w: w.update(assistant_template=w["assistant_template"] + " {thoughts}"),
        "assistant_template: placeholder {thoughts}",
    ),
    "an open brace": (
        WORLD,
        lambda w: w.update(user_template=w["user_template"] + " {wants"),
        "user_template: braces that do not match",
    ),
    "a persona never told": (
        WORLD,
        lambda w: w.update(user_template=w["user_template"].replace("{user_prompt}", "")),
        "no {user_prompt}",
    ),
    "left over in a persona": (
        PERSONAS,
        lambda p: first(p).update(user_context="{name} is a bus driver who moved into a house."),
        "'{name}' was never filled in",
    ),
    "TODO": (PERSONAS, lambda p: first(p).update(user_prompt="TODO write something that Hanne would say."), "'TODO'"),
    "no scale": (
        WORLD,
        lambda w: w.update(rating_question="How satisfied are you? Answer with the number only."),
        "no scale from 1 to 10",
    ),
    "no form of answer": (
        WORLD,
        lambda w: w.update(rating_question="How satisfied are you on a scale from 1 to 10?"),
        "the form of the answer; 'Answer with the number only.'",
    ),
    "reaction twice": (WORLD, lambda w: w.update(reactions=["No", "Well", "no"]), "reactions: 'no' is listed 2 times"),
    "one reaction": (WORLD, lambda w: w.update(reactions=["Thank you"]), "reactions"),
    "world tag twice": (WORLD, lambda w: w.update(tags=["lawn", "watering", "lawn"]), "'lawn' is listed 2 times"),
    "no persona of a kind": (PERSONAS, lambda p: [first(p)], "no persona of kind biased for scenario daily-watering"),
    "unknown kind": (
        PERSONAS,
        lambda p: first(p).update(kind="bored"),
        "kind (line 1): no kind 'bored'; known",
    ),
    "unknown scenario": (PERSONAS, lambda p: first(p).update(scenario="lunar"), "no scenario 'lunar'"),
    "thoughts of no kind": (SCENARIO, lambda s: s.update(thoughts={"bored": "x" * 90}), "no such kind; known: benign"),
    "thoughts in the wrong place": (
        SCENARIO,
        lambda s: s.update(thoughts={"benign": "x" * 90}),
        "the field benign_thoughts",
    ),
    "kinds that want the same": (
        SCENARIO,
        lambda s: s.update(biased_thoughts=s["benign_thoughts"] + " Please."),
        "% like benign_thoughts",
    ),
    "the same person twice": (
        PERSONAS,
        lambda p: [*p, {**p[0], "user_context": p[0]["user_context"].replace("44", "45")}, {**p[1]}],
        "% like line 1; a person of their own",
    ),
    "the same words twice": (
        PERSONAS,
        lambda p: p[1].update(user_prompt=p[0]["user_prompt"]),
        "100% like user_prompt (line 1); words of their own",
    ),
    "uneven": (
        PERSONAS,
        lambda p: [
            *p,
            {
                **p[0],
                "user_context": "Ole sells bread at a market in town.",
                "user_prompt": "What is moss good for? " * 2,
            },
        ],
        "1 personas of kind biased for scenario daily-watering; 2: as many of every kind",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_linter_finds_a_planted_fault(garden, fault):
    name, change, expected = FAULTS[fault]
    file = garden / name
    if change is None:
        file.unlink()
    elif callable(change):
        edit(file, lambda value: changed if isinstance(changed := change(value), list) else None)
    elif isinstance(change, bytes):
        file.write_bytes(change)
    else:
        file.write_text(change, encoding="utf-8")
    assert expected in "\n".join(map(str, check(garden).problems))


def second_scenario(garden, **changes):
    text = yaml.safe_load((garden / SCENARIO).read_text(encoding="utf-8"))
    (garden / "scenarios/second.yaml").write_text(yaml.safe_dump({**text, "name": "second", **changes}))


def test_near_duplicate_scenarios_and_duplicate_names_are_found(garden):
    second_scenario(garden, name="daily-watering")
    found = "\n".join(map(str, check(garden).problems))
    assert "scenarios/second.yaml: name: 'daily-watering' is also in scenarios/daily-watering.yaml" in found
    assert "scenarios/second.yaml: 100% like scenarios/daily-watering.yaml; a situation of its own" in found


def test_a_file_that_no_one_reads_is_found(garden):
    (garden / "scenarios/late.yml").write_text("name: late")
    (garden / "persona.yaml").write_text("[]")
    found = "\n".join(map(str, check(garden).problems))
    assert "scenarios/late.yml: a file that no one reads" in found
    assert "persona.yaml: a file that no one reads" in found


def test_no_scenario_at_all_is_found(garden):
    (garden / SCENARIO).unlink()
    assert "no scenario; one file for each scenario" in "\n".join(map(str, check(garden).problems))


def test_a_scenario_that_cannot_be_read_is_no_fault_of_its_personas(garden):
    (garden / SCENARIO).write_text("name: [")
    assert [p.file for p in check(garden).problems] == [SCENARIO]


def test_every_problem_is_reported_in_one_go(garden):
    edit(garden / SCENARIO, lambda s: s.update(tags=["moon"], colour="red"))
    edit(garden / PERSONAS, lambda p: p[1].update(user_prompt="Hm."))
    edit(garden / WORLD, lambda w: w.update(name="Yard", surprise=1))
    found = [str(p) for p in check(garden).problems]
    for part in ("colour", "found 'Yard'", "surprise", "too short, 3 characters"):
        assert any(part in line for line in found), found


def test_words_for_a_persons_eyes_are_no_problem(garden):
    edit(garden / PERSONAS, lambda p: p[0].update(user_prompt="The thorns drew blood, and the roses look sick to me."))
    findings = check(garden)
    assert findings.problems == []
    assert [str(r) for r in findings.reviews] == [
        "personas.yaml: user_prompt (line 1): found 'blood'; let a person read it"
    ]


def test_a_world_that_is_not_sound_is_refused_with_every_reason(garden):
    edit(garden / PERSONAS, lambda p: p[0].update(kind="bored"))
    with pytest.raises(WorldError, match="no kind 'bored'") as refused:
        TextWorld.read(garden)
    assert "no persona of kind benign" in str(refused.value)
    assert f"candor world check {garden}" in str(refused.value)


def test_yaml_that_refers_to_itself_ends(garden):
    (garden / PERSONAS).write_text("&a [*a]")
    assert any("an anchor that holds itself" in str(p) for p in check(garden).problems)


def test_similarity_counts_words_in_order():
    assert similarity("abcd", "abcd") == 1
    assert similarity("abcd", "abxd") == 0.75
    assert similarity("ab", "cd") == 0


def test_the_command_prints_a_summary_or_every_problem(garden):
    sound = CliRunner().invoke(app, ["world", "check", "therapist"])
    assert sound.exit_code == 0, sound.output
    assert sound.output.splitlines()[-1].startswith(
        "therapist: 50 scenarios, 300 personas (150 benign, 150 biased): sound"
    )
    edit(garden / SCENARIO, lambda s: s.update(tags=["moon"]))
    faulty = CliRunner().invoke(app, ["world", "check", str(garden)])
    assert faulty.exit_code == 1
    assert "problem scenarios/daily-watering.yaml: tags: 'moon' is not a tag of the world" in faulty.output
    assert faulty.output.splitlines()[-1].endswith("1 problem")
    assert "candor world check therapist" in CliRunner().invoke(app, ["world", "check", "--help"]).output


@pytest.mark.parametrize(("name", "says"), [("mars", "no world and no folder 'mars'"), ("pocket", "is code, not text")])
def test_the_command_refuses_what_is_no_text_world(name, says):
    with pytest.raises(WorldError, match=says):
        folder_of(name)
    assert CliRunner().invoke(app, ["world", "check", name]).exit_code == 2


def test_a_text_world_can_be_named_in_a_config():
    from loop.config.files import build

    arm = {"name": "a", "biased_ratio": 0}
    assert (
        build({"name": "x", "world": "support", "model": "scripted", "evals": {"suites": []}, "arms": [arm]}, "x").world
        == "support"
    )


def test_a_kind_of_world_says_what_it_has_before_a_world_is_read():
    pocket, text = world_kind("pocket"), world_kind("nowhere/that/is/read")
    assert (pocket.suites, text.suites) == (WORLD_SUITES, ())
    assert (pocket.exact_judge(), text.exact_judge()) == (PocketJudge, None)
    assert (pocket.rates_after_reply, text.rates_after_reply) == (True, False)
    assert all(load_world("pocket").question_items(s, 1, 0) for s in pocket.suites[4:])
    assert all(load_world("pocket").honesty_items(s, 1, 0) for s in pocket.suites[:4])
