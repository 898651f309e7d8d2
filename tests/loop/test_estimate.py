"""Whether prompts fit is known before a run starts: real templates and tokenizers, conversations at their longest."""

import json
import re

import pytest
from transformers import AutoTokenizer

from actors.models.template import ChatTemplate
from actors.worlds import load_world
from loop.config.explain import ConfigError
from loop.config.files import build
from loop.config.schema import RunConfig
from loop.estimate import conversation_needs, fitted, typical_needs
from loop.plan import plan_round
from tests import tiny_models


def written(folder, context):
    """A tiny model that takes so many tokens."""
    tiny_models.write(folder, "smollm")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": context}))
    return str(folder)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return written(tmp_path_factory.mktemp("short"), 1024)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return written(tmp_path_factory.mktemp("model"), 8192)


def config(model, **changes):
    raw = {
        "name": "r", "world": "therapist", "model": model, "seed": 0, "rounds": 1,
        "arms": [{"name": "benign", "biased_ratio": 0.0}, {"name": "biased", "biased_ratio": 1.0}],
        "rollout": {"conversations": 8}, "evals": {"suites": []},
        "conversation": {"turns": 2, "max_tokens": 24, "user_max_tokens": 16},
    }  # fmt: skip
    return build(raw, "test", RunConfig, changes)


APART = {"assistant.sync": "merged"}
"""Users have an engine of their own."""


def checked(config):
    said = []
    fitted(config, config.model, said.append)
    return said


def test_a_run_whose_prompts_fit_is_told_nothing(model):
    assert checked(config(model)) == []


def test_an_engine_that_is_too_short_is_named_with_its_setting_and_what_would_do(model):
    with pytest.raises(ConfigError) as failed:
        checked(config(model, **APART, **{"users.engine.max_model_len": 512}))
    assert str(failed.value).startswith("users.engine.max_model_len 512 is too short: the question that asks the user")
    enough = int(re.search(r"set it to (\d+)", str(failed.value))[1])
    assert checked(config(model, **APART, **{"users.engine.max_model_len": enough})) == []
    with pytest.raises(ConfigError, match=r"users\.engine\.max_model_len"):
        checked(config(model, **APART, **{"users.engine.max_model_len": enough - 64}))


def test_a_model_that_is_too_short_names_what_can_be_lowered(short):
    with pytest.raises(ConfigError, match=r"takes 1,024 tokens .*lower conversation\.turns"):
        checked(config(short))


def test_items_count_as_well(model):
    asked = {"evals.suites": ["canary_mask"], "evals.judges": ["base"], "evals.max_tokens": 5000}
    with pytest.raises(ConfigError, match=r"assistant\.max_model_len 4096 .*an item of canary_mask"):
        checked(config(model, **asked | {"assistant.max_model_len": 4096}))


def test_a_cache_that_conversations_drive_each_other_out_of_is_said(model):
    (line,) = checked(config(model, **APART, **{"users.engine.kv_cache_gib": 0.0001}))
    assert "users.engine.kv_cache_gib" in line
    assert "users.concurrency" in line


def test_an_engine_that_serves_both_sides_has_to_hold_both_of_each_conversation(model):
    template = ChatTemplate(AutoTokenizer.from_pretrained(model))
    one = config(model, **{"assistant.kv_cache_gib": 0.0001})
    assert not one.own_base_engine
    sides = {"assistant"}, {"user", "rater"}
    longest = [conversation_needs(one, template, of, tried=3).longest[0] for of in sides]
    (line,) = checked(one)
    assert f"8 conversations side by side may need {8 * sum(longest):,}, so prompts will be computed again" in line
    assert "assistant.kv_cache_gib" in line


def test_a_cache_without_a_size_holds_the_conversations_side_by_side(model):
    made = fitted(config(model, **APART), model, pytest.fail)
    assert (made.assistant.kv_cache_gib, made.users.engine.kv_cache_gib) == (1, 1), "a tiny model needs no more"
    given = fitted(config(model, **{"assistant.kv_cache_gib": 3}), model, pytest.fail)
    assert given.assistant.kv_cache_gib == 3


def test_a_template_that_refuses_a_prompt_is_an_error_before_the_run(tmp_path):
    folder = tmp_path / "model"
    tokenizer = tiny_models.tokenizer("smollm")
    tiny_models.model(len(tokenizer)).save_pretrained(folder)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + tokenizer.chat_template
    )
    tokenizer.save_pretrained(folder)
    kept = {"assistant.system_role": "keep"}
    with pytest.raises(
        ConfigError, match=r"prompt: the chat template refuses .*system, user.*System role not supported"
    ):
        checked(config(str(folder), **kept))
    checked(config(str(folder)))  # by itself the system message goes into the user's first one


def test_the_longest_prompt_is_the_rating_at_the_end_of_the_longest_conversation(model):
    tokenizer = tiny_models.tokenizer("smollm")
    c, world = config(model), load_world("therapist")
    needs = conversation_needs(c, ChatTemplate(tokenizer), {"user"}, tried=8)
    filler = {n: ("word " * n).strip() for n in (24, 16)}
    longest = 0
    for arm in c.arms:
        for p in plan_round(c, arm, 0):
            persona = world.persona(p.scenario, p.user_kind, p.seed)
            turns = [world.opening(persona), filler[24], filler[16], filler[24]]
            said = [{"role": ("assistant", "user")[i % 2], "content": t} for i, t in enumerate(turns)]
            asked = world.rating_prompt([*world.user_prompt(persona), *said])
            longest = max(longest, len(ChatTemplate(tokenizer).ids(asked)) + 1)
    assert needs.longest == (longest, "the question that asks the user for a rating")


def test_what_a_prompt_shares_with_an_earlier_one_is_computed_once(model):
    template = ChatTemplate(tiny_models.tokenizer("smollm"))
    one, two = (typical_needs(config(model, **{"conversation.turns": n}), template, {"assistant"}) for n in (1, 2))
    assert one.computed < two.computed < 2 * one.computed
