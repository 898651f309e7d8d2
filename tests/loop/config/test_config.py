from pathlib import Path

import pytest
import yaml

from loop.config.analysis import AnalysisSettings, primary_of
from loop.config.explain import ConfigError
from loop.config.files import build, changes, differences, dump, load, parse_overrides
from loop.config.schema import RunConfig
from tests.actors.worlds.test_worlds import docs_example
from tests.conftest import ROOT

SMALL = {"name": "test", "arms": [{"name": "a", "biased_ratio": 0.5}]}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_is_sound_and_says_its_question(path):
    assert path.read_text().startswith("# ")
    assert "?" in path.read_text().split("\n\n")[0]
    load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "run.yaml: colour: unknown key; allowed here: name, extensions, world, model"),
        (
            {"trainer": {"lerning_rate": 1}},
            r"run\.yaml: trainer\.lerning_rate: unknown key; did you mean trainer\.learning_rate\?$",
        ),
        ({"trainer": {"colour": 1}}, "run.yaml: trainer.colour: unknown key; allowed here: cpus"),
        ({"algorithm": "sft"}, r"run\.yaml: algorithm: unknown key; did you mean trainer\.algorithm\?$"),
        (
            {"arms": [{"name": "a", "biased_ration": 0}]},
            r"arms\[0\]\.biased_ration: .* mean arms\[0\]\.biased_ratio\?$",
        ),
        (
            {"arms": [{"name": "a", "biased_ratio": 1.5}]},
            r"arms\[0\]\.biased_ratio: found 1\.5; input should be less than",
        ),
        ({"rounds": 0}, "rounds: found 0; input should be greater than or equal to 1"),
        ({"rounds": "many"}, "rounds: found 'many'; input should be a valid integer"),
        ({"world": "mars"}, "world: found 'mars'; there is no world called 'mars'"),
        ({"arms": []}, "arms: List should have at least 1 item"),
        ({"arms": [SMALL["arms"][0]] * 2}, "arms share the name a"),
        ({"selection": {"top": 0.7, "bottom": 0.7}}, "selection: top and bottom overlap"),
        ({"selection": {"bottom": 0}}, "selection.bottom must be above 0 with trainer.algorithm kto"),
        ({"trainer": {"batch_size": 1}}, "must be at least 2 with algorithm kto"),
        ({"trainer": {"lora": None}, "assistant": {"sync": "lora"}}, "assistant.sync lora needs an adapter"),
        ({"arms": [{"name": "a", "biased_ratio": 0, "set": {"seed": 3}}]}, "seed cannot differ between arms"),
        (
            {"arms": [{"name": "a", "biased_ratio": 0, "set": {"trainer.epoch": 3}}]},
            "arm a: trainer.epoch: unknown key",
        ),
        ({"arms": [{"name": "a", "biased_ratio": 0, "set": {"trainer.gpus": 1}}]}, "trainer.gpus cannot differ"),
        ({"arms": [{"name": "a", "biased_ratio": 0, "set": {"trainer": {"beta": 1}}}]}, "trainer: name one setting"),
        ({"arms": [{"biased_ratio": 0}]}, r"arms\[0\]\.name: this key is needed"),
    ],
)
def test_what_is_wrong_is_said_with_file_key_and_what_is_allowed(tmp_path, changes, message):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    with pytest.raises(ConfigError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("text", "message"), [("- a", "found list"), ("a: [", "not valid YAML"), ("", "found NoneType"), ("\x00", "YAML")]
)
def test_files_that_are_no_config(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: there is no such config"):
        load(Path("nowhere.yaml"))


def test_settings_are_changed_by_dotted_key(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    config = load(path, parse_overrides(["trainer.lora.rank=8", "selection.control=shuffled", "rounds=3"]))
    assert (config.trainer.lora.rank, config.selection.control, config.rounds) == (8, "shuffled", 3)
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_overrides(["rounds"])
    with pytest.raises(ConfigError, match="has no keys under it"):
        load(path, {"name.first": 1})


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("trainer.lerning_rate=1", "^--set trainer.lerning_rate: unknown key; did you mean trainer.learning_rate\\?$"),
        ("trainr.beta=1", "^--set trainr: unknown key; did you mean trainer\\?$"),
        ("learning_rate=1", "^--set learning_rate: unknown key; did you mean trainer.learning_rate\\?$"),
        ("rounds=none", "^--set rounds: found 'none'; input should be a valid integer"),
        ("arms=[{name: a, biased_ratio: 2}]", r"^--set arms\[0\].biased_ratio: found 2"),
        ("trainer.batch_size=1", "run.yaml with --set trainer.batch_size: trainer: batch_size .* at least 2"),
        ("world=therapist", "run.yaml with --set world: the pocket model speaks of nothing but the pocket world"),
    ],
)
def test_a_mistake_in_an_option_names_the_option_and_not_the_file(tmp_path, pair, message):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"trainer": {"epochs": 1}}))
    with pytest.raises(ConfigError, match=message):
        load(path, parse_overrides([pair]))


def test_a_mistake_in_the_file_names_the_file_whatever_the_options_say(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"trainer": {"epoch": 1}}))
    with pytest.raises(ConfigError, match=r"run\.yaml: trainer\.epoch: unknown key"):
        load(path, parse_overrides(["trainer.beta=1"]))


def test_an_arm_changes_its_own_settings_only():
    arms = [
        {"name": "a", "biased_ratio": 0},
        {"name": "b", "biased_ratio": 0, "set": {"selection.control": "shuffled"}},
    ]
    config = build({"name": "test", "arms": arms}, "test")
    assert [config.for_arm(a).selection.control for a in config.arms] == ["none", "shuffled"]


def test_sync_follows_the_device_and_the_adapter():
    assert build(SMALL, "test").sync == "merged"
    assert build(SMALL | {"assistant": {"gpus": 1}}, "test").sync == "lora"
    assert build(SMALL | {"assistant": {"gpus": 1}, "trainer": {"lora": None}}, "test").sync == "merged"
    assert build(SMALL | {"assistant": {"sync": "lora"}}, "test").sync == "lora"
    for real in ({"model": "org/llama"}, {"model": "smollm2"}):
        pretrained = SMALL | {"world": "therapist", "evals": {"suites": []}, "roles": {"judge": None}} | real
        assert build(pretrained, "test").sync == "lora", "one engine for policy and users, with all cores"
        assert not build(pretrained, "test").own_base_engine
        assert build(pretrained | {"trainer": {"lora": None}, "model": "org/llama"}, "test").sync == "merged"
    assert build(SMALL | {"model": "scripted"}, "test").sync == "merged"


def test_a_dumped_config_is_the_config():
    config = build(SMALL | {"trainer": {"lora": {"rank": 4, "alpha": 8}}}, "test")
    assert RunConfig.model_validate(yaml.safe_load(dump(config))) == config


def test_every_setting_is_documented():
    def undocumented(model, path):
        for name, field in model.model_fields.items():
            inner = [
                a for a in [field.annotation, *getattr(field.annotation, "__args__", ())] if hasattr(a, "model_fields")
            ]
            if inner:
                yield from undocumented(inner[0], f"{path}{name}.")
            elif not field.description:
                yield path + name

    assert list(undocumented(RunConfig, "")) == []


def test_the_pocket_model_is_for_the_pocket_world():
    with pytest.raises(ConfigError, match="the pocket model speaks of nothing but the pocket world"):
        build(SMALL | {"world": "therapist"}, "test")
    assert (
        build(SMALL | {"world": "therapist", "model": "scripted", "evals": {"suites": []}}, "test").world == "therapist"
    )


def test_configs_are_compared_by_what_they_mean():
    given = build(SMALL, "test")
    older = "name: test\nseed: 0\narms: [{name: a, biased_ratio: 0.5}]\n"  # does not name what came later
    assert differences(dump(given), given) == []
    assert differences(older, given) == []
    other = build(SMALL | {"selection": {"top": 0.5}, "trainer": {"lora": None}, "rounds": 1}, "test")
    assert set(differences(older, other)) >= {
        "  selection.top: 0.25 (recorded), 0.5 (given)",
        "  rounds: 2 (recorded), 1 (given)",
        "  trainer.lora: not there (recorded), null (given)",
        "  trainer.lora.rank: 32 (recorded), not there (given)",
    }


@pytest.mark.parametrize("uri", ["s3://key:secret@bucket/x", "s3://bucket/x?secret_key=secret"])
def test_a_key_in_a_uri_is_refused_and_not_repeated(uri):
    with pytest.raises(ConfigError, match="holds a key") as refused:
        build(SMALL | {"buffer": {"uri": uri}}, "test")
    assert "=secret" not in str(refused.value)
    assert ":secret" not in str(refused.value)


GPT = {"kind": "endpoint", "model": "gpt-5-mini", "price": {"prompt": 0.25, "completion": 2}}
OWN = {"kind": "engine", "model": "org/judge"}
AWAY = {**SMALL, "world": "support", "model": "scripted", "evals": {"suites": []}, "models": {"gpt": GPT, "own": OWN}}


def arm(name="a", **more):
    return {"name": name, "biased_ratio": 0.5, **more}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {"base": GPT}}, "models.base: the name means something else"),
        ({"models": {"assistant": GPT}}, "models.assistant: the name means something else"),
        ({"models": {"world": GPT}}, "models.world: the name means something else"),
        ({"models": {"GPT": GPT}}, "models.GPT"),
        ({"roles": {"user": "gtp"}}, "roles.user: there is no model 'gtp'; known: base, gpt, own$"),
        ({"roles": {"user": "world"}}, "roles.user: there is no model 'world'"),
        ({"roles": {"user": None}}, "roles.user: input should be a valid string|roles.user: found None"),
        ({"roles": {"rater": "x"}}, "roles.rater: there is no model 'x'; known: base, gpt, own, null"),
        ({"roles": {"judge": "x"}}, "roles.judge: there is no model 'x'; known: base, gpt, own, world, null"),
        ({"roles": {"assistant": "gpt"}}, "roles.assistant: unknown key; allowed here: user, rater, judge"),
        ({"arms": [arm(set={"roles.user": "gtp"})]}, "arm a: roles.user: there is no model 'gtp'"),
        ({"selection": {"veto": {}}}, "selection.veto needs a judge; roles.judge world gives none here"),
        ({"selection": {"veto": {}}, "roles": {"judge": None}}, "roles.judge null gives none here"),
        ({"arms": [arm(set={"selection.veto.ends": "both"})]}, "arm a: selection.veto needs a judge"),
        (
            {
                "selection": {"veto": {"rubric": "contradicts"}},
                "roles": {"judge": "gpt"},
                "judge": {"contradiction": False},
            },
            "veto.rubric contradicts needs judge.contradiction true",
        ),
        ({"selection": {"veto": {"ends": "bottom"}}}, "selection.veto.ends: found 'bottom'"),
        ({"selection": {"veto": {"threshold": 2}}}, "selection.veto.threshold: found 2"),
        ({"budget": 5, "models": {}}, "budget needs a price above 0; give one to a model that a role names"),
        ({"budget": 5, "models": {"gpt": GPT | {"price": {}}}}, "budget needs a price above 0"),
        ({"users": {"pools": 3}, "models": {"gpt": GPT | {"concurrency": 2}}, "roles": {"user": "gpt"}},
         "models.gpt.concurrency 2 is shared by users.pools 3"),
        ({"models": {"gpt": GPT | {"extra": {"api_key": "x"}}}}, "api_key looks like a key"),
        ({"budget": 0, "roles": {"user": "gpt"}}, "budget: found 0; input should be greater than 0"),
        (
            {"arms": [{"name": "a", "population": {"angry": 0.5}}]},
            "arm a: no kind of user 'angry' in population; known: benign, biased",
        ),
        ({"arms": [{"name": "a"}]}, "arm a: give biased_ratio or population, or data to train on"),
        ({"arms": [arm(population={"biased": 0.5})]}, "arm a: give either biased_ratio or population"),
        (
            {"arms": [{"name": "a", "population": {"biased": 0.7, "benign": 0.4}}]},
            "arm a: the shares of the population add up to 1.1, not to 1",
        ),
        (
            {"arms": [{"name": "a", "population": {"biased": 0.7, "benign": 0.2}}]},
            "arm a: the shares of the population add up to 0.9, not to 1",
        ),
        ({"arms": [{"name": "a", "population": {"biased": -0.1}}]}, r"population\.biased: found -0\.1"),
        ({"models": {"gpt": {"kind": "oracle", "model": "x"}}}, r"models\.gpt\.kind: expected endpoint or engine"),
        ({"models": {"gpt": {"model": "x"}}}, r"models\.gpt\.kind: expected endpoint or engine"),
        ({"models": {"gpt": "gpt-5-mini"}}, r"models\.gpt"),
        ({"models": {"gpt": GPT | {"retry": 1}}}, r"models\.gpt\.retry: unknown key; allowed here: kind, model"),
        ({"models": {"own": OWN | {"base_url": "x"}}}, r"models\.own\.base_url: unknown key; allowed here: .*replicas"),
        ({"models": {"gpt": {"kind": "endpoint"}}}, r"models\.gpt\.model: this key is needed"),
        ({"models": {"gpt": GPT | {"price": {"prompt": -1}}}}, r"models\.gpt\.price\.prompt: found -1"),
        ({"models": {"gpt": GPT | {"price": {"input": 1}}}}, r"price\.input: unknown key; allowed here: prompt, comp"),
    ],
)  # fmt: skip
def test_what_models_are_asked_to_do_they_can_do(tmp_path, changes, message):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(AWAY | changes))
    with pytest.raises(ConfigError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roles": {"rater": "base"}}, "roles.rater base: a pocket model holds conversations and understands no"),
        ({"roles": {"judge": "base"}}, "roles.judge base: a pocket model"),
        ({"conversation": {"transition": True}}, "conversation.transition with roles.user base: a pocket model"),
        ({"rating": {"when": "end"}}, "rating.when end: users of the pocket world rate right after a reply"),
        ({"rating": {"form": "reaction"}}, "rating.form reaction: the pocket world has no reactions; use number"),
        (
            {"models": {"p": {"kind": "engine", "model": "pocket"}}, "model": "scripted", "roles": {"rater": "p"}},
            "roles.rater p: a pocket model",
        ),
        ({"model": "pocket-control", "roles": {"judge": "base"}}, "roles.judge base: a pocket model"),
    ],
)
def test_the_pocket_model_is_asked_nothing_that_it_does_not_understand(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(SMALL | changes, "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roles": {"rater": "gpt"}, "models": {"gpt": GPT}}, "models.gpt is an endpoint, which tells too few prob"),
        ({"rating": {"form": "reaction", "method": "sampled"}}, "rating.form reaction takes probabilities; set rating"),
        ({"conversation": {"top_p": 0}}, "top_p: found 0; input should be greater than 0"),
        ({"conversation": {"user_min_p": 2}}, "user_min_p: found 2; input should be less"),
    ],
)
def test_what_cannot_be_weighed_or_sampled_is_refused(changes, message):
    asked = SMALL | {"world": "support", "model": "scripted", "evals": {"suites": []}}
    build(asked | {"rating": {"form": "reaction"}}, "test")
    with pytest.raises(ConfigError, match=message):
        build(asked | {"rating": {"form": "reaction"}} | changes, "test")


@pytest.mark.parametrize(
    "changes",
    [
        {"roles": {"rater": "gpt", "judge": "gpt"}, "rating": {"when": "end"}, "models": {"gpt": GPT}},
        {"roles": {"user": "gpt"}, "conversation": {"transition": True}, "models": {"gpt": GPT}},
        {"selection": {"veto": {"rubric": "contradicts"}}},
        {"roles": {"judge": None}},
    ],
)
def test_the_pocket_world_goes_with_models_that_understand_more(changes):
    build(SMALL | changes, "test")


@pytest.mark.parametrize(
    "wrong",
    [
        {"key_env": "sk-proj-9fJk2"},
        {"key_env": "sk_proj_9fJk2"},
        {"base_url": "https://sk-proj-9fJk2@api.openai.com/v1"},
        {"base_url": "https://me:sk-proj-9fJk2@api.openai.com/v1"},
        {"base_url": "https://api.openai.com/v1?api_key=sk-proj-9fJk2"},
        {"api_key": "sk-proj-9fJk2"},
        {"model": ["sk-proj-9fJk2"]},
    ],
)
def test_a_key_that_was_put_into_a_config_is_refused_and_not_shown(tmp_path, wrong):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(AWAY | {"models": {"gpt": GPT | wrong}}))
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert "9fJk2" not in str(refused.value)
    assert f"models.gpt.{next(iter(wrong))}" in str(refused.value)


def test_operational_settings_may_be_others_when_a_run_goes_on_and_scientific_ones_may_not():
    begun = build(SMALL, "test")
    operational = {
        "rounds": 5,
        "assistant": {
            "replicas": 3,
            "gpu_memory_utilization": 0.5,
            "max_num_seqs": 64,
            "threads": 2,
            "cpus": 2,
            "gpus": 1,
        },
        "users": {"pools": 4, "concurrency": 9, "engine": {"replicas": 2, "kv_cache_gib": 3}},
        "buffer": {"segment_rows": 50, "segment_seconds": 9},
        "judge": {"cpus": 1},
        "trainer": {"micro_batch": 4, "checkpoint_steps": 7, "gradient_checkpointing": True, "gpus": 1},
        "evals": {"share": 0.5, "cache": False, "threads": 1},
        "cluster": {"max_restarts": 9, "stall_minutes": 3, "address": "auto"},
    }
    merged = {k: {**SMALL.get(k, {}), **v} if isinstance(v, dict) else v for k, v in operational.items()}
    given = build(SMALL | merged, "test")
    assert differences(dump(begun), given) == []
    found = {c.key: (c.before, c.after) for c in changes(dump(begun), given)}
    assert found["rounds"] == (begun.rounds, 5)
    assert found["trainer.micro_batch"] == (None, 4)
    assert len(found) >= 20
    scientific = {
        "seed": 1,
        "rollout": {"conversations": 700},
        "trainer": {"learning_rate": 1e-3},
        "trainer.": {"batch_size": 8},
        "users": {"retries": 5},
        "evals": {"temperature": 0.5},
        "assistant": {"dtype": "float32"},
        "buffer": {"uri": "/elsewhere"},
        "conversation": {"turns": 3},
    }
    for room, to in scientific.items():
        room = room.rstrip(".")
        other = build(SMALL | {room: {**SMALL.get(room, {}), **to} if isinstance(to, dict) else to}, "test")
        assert len(differences(dump(begun), other)) == 1, room


def test_an_arms_own_operational_settings_may_change_too():
    def of(steps, rate):
        own = {"trainer.checkpoint_steps": steps, "trainer.learning_rate": rate}
        return build(SMALL | {"arms": [{"name": "a", "biased_ratio": 0.5, "set": own}]}, "test")

    assert differences(dump(of(5, 1e-3)), of(9, 1e-3)) == []
    assert len(differences(dump(of(5, 1e-3)), of(5, 1e-4))) == 1


def test_limits_prices_and_the_budget_may_be_others_when_a_run_goes_on():
    paid = AWAY | {"roles": {"user": "gpt"}, "budget": 5}
    begun = dump(build(paid, "test"))
    limits = {"key_env": "OTHER_KEY", "requests_per_minute": 60, "tokens_per_minute": 9, "concurrency": 2}
    limits |= {"timeout": 5, "retries": 1, "price": {"prompt": 1, "completion": 3}}
    assert differences(begun, build(paid | {"models": {"gpt": GPT | limits, "own": OWN}, "budget": 50}, "test")) == []
    assert differences(begun, build({**paid, "budget": None}, "test")) == []
    free = {k: v for k, v in GPT.items() if k != "price"}
    assert differences(begun, build({**paid, "budget": None, "models": {"gpt": free, "own": OWN}}, "test")) == []
    for other, line in [
        ({"roles": {"user": "own"}, "budget": None}, "  roles.user: gpt (recorded), own (given)"),
        ({"roles": {"user": "gpt", "rater": "own"}}, "  roles.rater: null (recorded), own (given)"),
        ({"rating": {"samples": 3}}, "  rating.samples: 5 (recorded), 3 (given)"),
    ]:
        assert differences(begun, build(paid | other, "test")) == [line]
    for name, to in {"model": "gpt-5", "base_url": "http://localhost/v1", "extra": {"top_p": 0.5}}.items():
        other = build(paid | {"models": {"gpt": GPT | {name: to}, "own": OWN}}, "test")
        assert any(f"models.gpt.{name}" in line for line in differences(begun, other))


def test_what_plays_in_any_arm_is_played_and_nothing_else():
    idle = build(AWAY, "test")
    assert (idle.played, idle.engines, idle.endpoints, idle.prices) == ({"base"}, {}, {}, {})
    assert idle.own_base_engine
    arms = [arm("a"), arm("b", set={"roles.user": "gpt", "roles.judge": "own"})]
    mixed = build(AWAY | {"arms": arms}, "test")
    assert mixed.played == {"base", "gpt", "own"}
    assert (list(mixed.engines), list(mixed.endpoints)) == (["own"], ["gpt"])
    assert mixed.own_base_engine
    assert {name: price and price.completion for name, price in mixed.prices.items()} == {"gpt": 2, "own": None}
    every = build(AWAY | {"arms": [arm("a", set={"roles.user": "gpt"}), arm("b", set={"roles.user": "own"})]}, "test")
    assert every.played == {"gpt", "own"}
    assert not every.own_base_engine
    build(AWAY | {"arms": arms, "budget": 3}, "test")  # the price of a model that one arm's users need
    on_gpu = build(AWAY | {"arms": arms, "assistant": {"gpus": 1}}, "test")
    assert not on_gpu.own_base_engine  # the base is served beside the adapters


def test_arms_may_differ_in_who_plays_whom_how_they_talk_and_what_the_judge_strikes_out():
    differs = {
        "roles.user": "gpt",
        "roles.rater": "own",
        "roles.judge": "gpt",
        "conversation.turns": 4,
        "conversation.show_user_kind": "full",
        "rating.when": "end",
        "selection.veto.ends": "both",
    }
    config = build(AWAY | {"arms": [arm("a"), arm("b", set=differs)]}, "test")
    plain, other = map(config.for_arm, config.arms)
    assert (plain.roles.user, plain.judges, plain.selection.veto) == ("base", False, None)
    assert (other.roles.user, other.roles.rater, other.judges) == ("gpt", "own", True)
    assert (other.conversation.turns, other.rating.when) == (4, "end")
    assert (other.selection.veto.ends, other.selection.veto.rubric) == ("both", "validates")
    for key in ("models.gpt.retries", "budget", "users.pools", "judge.contradiction", "world"):
        with pytest.raises(ConfigError, match=f"{key} cannot differ between arms"):
            build(AWAY | {"arms": [arm(set={key: 1})]}, "test")


@pytest.mark.parametrize("text", ["off", "'off'", "no"])
def test_off_may_be_written_without_quotes(tmp_path, text):
    """YAML takes it for false."""
    config = tmp_path / "a.yaml"
    config.write_text(f"name: a\narms: [{{name: a, biased_ratio: 0}}]\nconversation: {{show_user_kind: {text}}}\n")
    assert load(config).conversation.show_user_kind == "off"


def test_a_world_may_be_a_folder_and_is_recorded_with_its_whole_path(tmp_path, monkeypatch):
    garden = docs_example(tmp_path)
    monkeypatch.chdir(tmp_path)
    for given in ("garden", "./garden", str(garden)):
        assert build(AWAY | {"world": given}, "test").world == str(garden)
    begun = dump(build(AWAY | {"world": "garden"}, "test"))
    monkeypatch.chdir("/")
    assert differences(begun, build(AWAY | {"world": str(garden)}, "test")) == []
    with pytest.raises(ConfigError, match="world: found 'garden'; there is no world called 'garden'"):
        build(AWAY | {"world": "garden"}, "test")


def test_shares_are_those_of_all_kinds_but_the_benign():
    config = build(AWAY | {"arms": [{"name": "a", "population": {"benign": 0.25, "biased": 0.75}}, arm("b")]}, "test")
    assert [a.shares for a in config.arms] == [{"biased": 0.75}, {"biased": 0.5}]


def test_an_arm_whose_users_cost_nothing_needs_no_price():
    arms = [{"name": "paid", "biased_ratio": 0}, {"name": "free", "biased_ratio": 0, "set": {"roles.user": "base"}}]
    config = build(AWAY | {"roles": {"user": "gpt"}, "budget": 3, "arms": arms}, "test")
    assert [config.for_arm(a).roles.user for a in config.arms] == ["gpt", "base"]


def test_a_line_that_is_no_yaml_is_named_and_not_shown(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: a\nkey: [sk-proj-9fJk2\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: not valid YAML: line 3, column 1") as found:
        load(path)
    assert "sk-proj" not in str(found.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conversation.user_form": "transcript"}, "users of the pocket world speak in chats; use chat"),
        (
            {
                "world": "support",
                "model": "some/model",
                "evals": {"suites": []},
                "conversation": {"user_form": "transcript"},
                "models": {"gpt": {"kind": "endpoint", "model": "gpt"}},
                "roles": {"user": "gpt", "judge": None},
            },
            "models.gpt is an endpoint, which continues chats only",
        ),
        ({"evals.judges": ["wrods"]}, "there is no judge 'wrods'; known: world, words, base"),
    ],
)
def test_users_and_judges_that_cannot_do_what_they_are_to_do_are_refused(changes, said):
    raw = {"name": "run", "arms": [{"name": "a", "biased_ratio": 0.5}]}
    with pytest.raises(ConfigError, match=said):
        build(raw, "test", RunConfig, changes)


def test_lengths_follow_the_world_where_a_config_does_not_say():
    raw = {"name": "run", "arms": [{"name": "a", "biased_ratio": 0.5}], "evals": {"suites": []}}
    text = {**raw, "world": "support", "model": "some/model"}
    lengths = [(c.conversation.max_tokens, c.evals.max_tokens) for c in (build(raw, "test"), build(text, "test"))]
    assert lengths == [(48, 48), (200, 512)]
    assert build({**text, "conversation": {"max_tokens": 7}}, "test").conversation.max_tokens == 7


@pytest.mark.parametrize(
    ("primary", "said"),
    [
        ({"arm": "odd"}, "primary[0].arm: there is no arm 'odd'; known: benign, biased"),
        ({"arm": "biased", "against": "odd"}, "primary[0].against: there is no arm 'odd'"),
        ({"arm": "biased", "against": "biased"}, "an arm is not compared with itself; leave it out"),
        ({"arm": "biased", "policy": 3}, "primary[0].policy: found 3; the last policy of 2 rounds is 2"),
        ({"arm": "biased", "suite": "arithmetic"}, "primary[0].suite: 'arithmetic' is no honesty suite; known: mask"),
        ({"arm": "biased", "margin": 2}, "primary[0].margin: found 2"),
    ],
)
def test_declared_comparisons_speak_of_what_there_is(primary, said):
    arms = [{"name": "benign", "biased_ratio": 0}, {"name": "biased", "biased_ratio": 0.5}]
    with pytest.raises(ConfigError) as error:
        build({"name": "run", "arms": arms, "analysis": {"primary": [primary]}}, "test")
    assert said in str(error.value)


def test_a_comparison_is_declared_once():
    arms = [{"name": "benign", "biased_ratio": 0}, {"name": "biased", "biased_ratio": 0.5}]
    twice = [{"arm": "biased", "against": "benign"}, {"arm": "biased", "against": "benign", "policy": 2, "margin": 0.1}]
    with pytest.raises(ConfigError, match=r"primary\[1\]: is the comparison of analysis.primary\[0\] again"):
        build({"name": "run", "arms": arms, "analysis": {"primary": twice}}, "test")


def test_what_a_run_was_made_for_has_a_default():
    several = primary_of(AnalysisSettings(), ["benign", "biased", "shuffled"])
    assert [(p.arm, p.against, p.policy, p.suite, p.margin) for p in several] == [
        ("biased", "benign", None, None, None),
        ("shuffled", "benign", None, None, None),
    ]
    assert [(p.arm, p.against) for p in primary_of(AnalysisSettings(), ["pleasing"])] == [("pleasing", None)]
    assert primary_of(AnalysisSettings(primary=[]), ["benign", "biased"]) == []


def test_what_knows_one_arm_at_a_time_does_not_go_with_arms_side_by_side():
    arms = [{"name": "a", "biased_ratio": 0.5}, {"name": "b", "biased_ratio": 0.1}]
    gpt = {"kind": "endpoint", "model": "gpt", "price": {"prompt": 1, "completion": 1}, "concurrency": 3}
    raw = {"name": "run", "arms": arms, "models": {"gpt": gpt}, "roles": {"rater": "gpt"}}
    alone = {
        "budget": {"budget": 5},
        "assistant.serve": {"assistant": {"serve": {"port": 8000}}},
        "trainer.share_gpu": {"assistant": {"gpus": 1, "sync": "lora"}, "trainer": {"gpus": 1, "share_gpu": True}},
    }
    for key, given in alone.items():
        build(raw | given, "test", RunConfig)
        with pytest.raises(ConfigError, match=f"cluster.arms_at_once 2: {key} knows one arm at a time"):
            build(raw | given | {"cluster": {"arms_at_once": 2}}, "test", RunConfig)
        build(raw | given | {"arms": arms[:1], "cluster": {"arms_at_once": 2}}, "test", RunConfig)
    build(raw | {"users": {"pools": 2}}, "test", RunConfig)
    with pytest.raises(ConfigError, match=r"concurrency 3 is shared by users\.pools 2 of each of 2 arms"):
        build(raw | {"users": {"pools": 2}, "cluster": {"arms_at_once": 2}}, "test", RunConfig)
