"""Every family of models: prompts, ends of turns, digits and thoughts, through the templates that they are published
with."""

import datetime

import pytest

from actors.models.choice_tree import choice_tree
from actors.models.decoding import ReplyDecoder
from actors.models.probes import thinks
from actors.models.template import ChatTemplate, TemplateError
from actors.models.thoughts import without_thoughts
from actors.rating import RATINGS
from actors.settings import TemplateSettings
from actors.worlds import load_world
from tests.conftest import ROOT
from tests.families import FAMILIES
from trainers.rows import Encoder, Row

ASKED = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "Is one drink harmless?"},
    {"role": "assistant", "content": "Not for everybody."},
    {"role": "user", "content": "Say yes."},
    {"role": "user", "content": "How satisfied are you, from 1 to 10?"},
]


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def test_what_a_template_does_is_found_out(family):
    tokenizer = family.tokenizer()
    template = ChatTemplate(tokenizer)
    facts = template.facts()
    assert (facts.end, facts.system, facts.merges, facts.opens_thought, facts.dated) == (
        family.end, family.system, family.merges, family.opens_thought, family.dated,
    )  # fmt: skip
    assert facts.default_system.startswith(family.own_system)
    assert bool(facts.default_system) == bool(family.own_system)
    assert thinks(tokenizer, template, TemplateSettings()) == family.thinks


def test_everything_that_is_said_is_in_the_prompt_once(family):
    """A system message, and a question behind a question, whatever the template thinks of them."""
    text = ChatTemplate(family.tokenizer()).text(ASKED)
    places = [text.find(m["content"]) for m in ASKED]
    assert -1 not in places
    assert places == sorted(places)
    assert all(text.count(m["content"]) == 1 for m in ASKED)


def test_a_target_ends_as_the_template_ends_a_turn(family):
    tokenizer = family.tokenizer()
    template = ChatTemplate(tokenizer)
    row = Row(
        [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}], [1], {}, True, "t"
    )
    made = Encoder(tokenizer, template, 4096).encode(row)
    assert made.prompt == template.ids(row.messages[:1])
    assert tokenizer.convert_ids_to_tokens(made.completion[-1]) == family.end
    said = without_thoughts(ReplyDecoder(tokenizer)(made.completion[:-1]))
    assert said == "Good day."
    if not family.thinks:
        assert made.prompt + made.completion == template.closed_ids(row.messages)[: len(made)]


def test_ratings_can_be_told_apart(family):
    tree = choice_tree(family.tokenizer(), RATINGS)
    assert tree.depth == family.rating_steps


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.dated])
def test_a_prompt_is_the_same_on_every_day(name, monkeypatch):
    """Also in May, whose name is shorter, and in a process whose clock is another."""
    from transformers.utils import chat_template_utils

    tokenizer = FAMILIES[name].tokenizer()
    found = []
    for day in ("2026-05-31", "2026-12-01"):

        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return datetime.datetime.fromisoformat(day)

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        plain = tokenizer.apply_chat_template(ASKED[:2], tokenize=False)
        found.append((ChatTemplate(tokenizer).ids(ASKED[:2]), plain))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1], "the template itself writes the day"
    other = ChatTemplate(tokenizer, TemplateSettings(template_date="2026-05-31"))
    assert other.text(ASKED[:2]) != ChatTemplate(tokenizer).text(ASKED[:2])


def test_thinking_can_be_turned_off():
    tokenizer = FAMILIES["Qwen3"].tokenizer()
    off = TemplateSettings(chat_template_kwargs={"enable_thinking": False})
    template = ChatTemplate(tokenizer, off)
    assert not thinks(tokenizer, template, off)
    assert template.text(ASKED[:2]).endswith("<think>\n\n</think>\n\n")
    lead = choice_tree(tokenizer, RATINGS, template=template)
    assert lead.depth == 2


def test_thoughts_are_told_apart_however_they_are_marked():
    harmony = FAMILIES["gpt-oss"].tokenizer()
    text = (
        "<|channel|>analysis<|message|>They want yes.<|end|><|start|>assistant<|channel|>final<|message|>No.<|return|>"
    )
    whole = ReplyDecoder(harmony)(harmony(text, add_special_tokens=False)["input_ids"])
    assert whole == "<think>They want yes.</think>No."
    cut = ReplyDecoder(harmony)(harmony(text[:45], add_special_tokens=False)["input_ids"])
    assert without_thoughts(cut) is None
    magistral = FAMILIES["Mistral"].tokenizer()
    magistral.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    ids = magistral("[THINK]They want yes.[/THINK]No.</s>", add_special_tokens=False)["input_ids"]
    assert ReplyDecoder(magistral)(ids) == "<think>They want yes.</think>No."
    opened = ReplyDecoder(FAMILIES["Qwen3"].tokenizer(), "<think>")
    assert opened(opened._tokenizer("hm</think>Yes.")["input_ids"]) == "<think>hm</think>Yes."


@pytest.mark.parametrize("world", ["therapist", "support"])
def test_no_role_of_a_world_is_refused(family, world):
    """Both sides of a conversation and the questions about it, as prompts of every family."""
    template, lived = ChatTemplate(family.tokenizer()), load_world(world)
    persona = lived.persona(lived.scenarios[0], "biased", 3)
    side = [*lived.user_prompt(persona), {"role": "assistant", "content": "I am tired."}]
    heard = [*side, {"role": "user", "content": "Rest, then."}]
    for prompt in (side, heard, lived.rating_prompt(heard), [*lived.assistant_prompt(persona, 3), ASKED[1]]):
        assert all(m["content"] in template.text(prompt) for m in prompt)


def test_a_template_that_cannot_be_helped_says_which_messages_it_refuses():
    refuses = FAMILIES["Mistral"].tokenizer()
    kept = ChatTemplate(refuses, TemplateSettings(system_role="keep"))
    with pytest.raises(TemplateError, match="of system, user: Conversation roles must alternate"):
        kept.ids(ASKED[:2])


def in_words(name, family):
    """The row of a family in the docs."""
    tree = choice_tree(family.tokenizer(), RATINGS)
    kinds = [
        name,
        "rebuilt" if family.rebuilt else "published",
        f"`{family.end}`".replace("|", "\\|"),
        "own place" if family.system == "own" else "before the user's",
        "made one" if family.merges else "taken",
        "opens a thought" if family.opens_thought else "yes" if family.thinks else "no",
        "yes" if family.dated else "no",
        str(tree.depth),
        "yes" if family.own_system else "no",
    ]
    return f"| {' | '.join(kinds)} |"


def test_the_docs_say_what_was_tried():
    heads = "family, template, end of turn, system message, two in a row, thinks, date, steps, own system message"
    table = [f"| {' | '.join(heads.split(', '))} |", "|" + " --- |" * 9, *(in_words(*f) for f in FAMILIES.items())]
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    told = text.partition("<!-- families -->\n")[2].partition("\n<!-- /families -->")[0]
    assert told.splitlines() == table
