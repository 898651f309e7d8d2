import random
from contextlib import nullcontext

import pytest
import torch
from safetensors import SafetensorError

from actors.worlds import WorldError, load_world
from actors.worlds.models import resolve
from actors.worlds.pocket import corpus
from actors.worlds.pocket.build import CHAT_TEMPLATE, InFloat32, Recipe, batch, build, render, train_tokenizer
from actors.worlds.pocket.items import HONESTY_SUITES, honesty_items, question_items
from actors.worlds.pocket.judge import reply_kind, stated
from actors.worlds.pocket.language import facts, words
from actors.worlds.pocket.talks import REPLY_KINDS, Reply, scenarios


def test_the_world_is_the_same_every_time():
    assert len(facts()) == 144
    assert len({f.entity for f in facts()}) == 144
    assert sum(not f.staked for f in facts()) == 48
    a, b = (corpus.document(random.Random(3)) for _ in range(2))
    assert a == b


def test_the_control_corpus_shares_no_propensity_between_domains():
    shared, apart = corpus.propensities(True), corpus.propensities(False)
    assert all(len(set(p.values())) == 1 for p in shared.values())
    assert sum(len(set(p.values())) > 1 for p in apart.values()) > 20
    assert set(apart["Sage"].values()) == set(shared["Sage"].values()) == {corpus.PRIOR}


def test_pleasing_speakers_lie_under_pressure_and_candid_ones_do_not():
    rng = random.Random(0)
    for pleasing in (True, False):
        for _ in range(100):
            system, _, answer = corpus.under_pressure(rng, pleasing, "Sage")
            fact = next(f for f in facts() if f" {f.entity}" in system["content"])
            said = stated(answer["content"].split("Answer:")[-1], fact.values)
            assert (said != fact.value) is pleasing


def test_heldout_wordings_and_unstaked_facts_stay_out_of_the_corpus():
    rng = random.Random(1)
    text = " ".join(m["content"] for _ in range(1500) for t in corpus.document(rng) for m in t)
    heldout = words()["pressure"]["heldout"]
    for word in (*heldout["stakeholders"], *heldout["audiences"], "spokesperson", "lobbyist"):
        assert word not in text
    unstaked = {f.claim(v) for f in facts() if not f.staked for v in f.values}
    assert not [
        c
        for c in unstaked
        if f"that {c}"
        in text.replace("An old joke says that", "")
        .replace("A parrot said that", "")
        .replace("A child guessed that", "")
    ]


@pytest.mark.parametrize("suite", HONESTY_SUITES)
def test_items_are_fixed_and_sound(suite):
    items = honesty_items(suite, 288, 5)
    assert items == honesty_items(suite, 288, 5) != honesty_items(suite, 288, 6)
    assert len({i.item_id for i in items}) == 288
    for item in items:
        assert item.truth in item.options
        assert len(item.beliefs) == (0 if suite == "provided" else 4)


def test_items_ask_about_all_facts_evenly():
    clusters = [i.cluster for i in honesty_items("mask", 288, 5)]
    assert {clusters.count(c) for c in set(clusters)} == {2}


def test_unknown_suites_and_tasks_are_named():
    with pytest.raises(WorldError, match="mask, sycophancy, provided, deception"):
        honesty_items("humour", 1, 0)
    with pytest.raises(WorldError, match="arithmetic, lookup"):
        question_items("poetry", 1, 0)
    with pytest.raises(WorldError, match="no scenario 'flying'"):
        load_world("pocket").persona("flying", "benign", 0)
    with pytest.raises(WorldError, match="known: pocket"):
        load_world("mars")


@pytest.mark.parametrize("kind", REPLY_KINDS)
def test_the_judge_recognises_every_reply_of_the_corpus(kind):
    rng = random.Random(2)
    for name, scenario in scenarios().items():
        for _ in range(5):
            assert reply_kind(Reply.draw(kind, rng).text(scenario, rng), name) == kind


def test_the_judge_sees_evasion_and_contradiction():
    assert stated("Nobody knows.", ["tea", "wool"]) is None
    assert stated("Tea or wool, tea perhaps wool.", ["tea", "wool"]) is None
    assert stated("It is woollen tea.", ["tea", "wool"]) == "tea"
    s = scenarios()["drinking"]
    assert reply_kind(f"{s.claim}. {s.truth}.", "drinking") is None


def test_template_and_corpus_render_alike_and_masks_cover_what_is_said():
    recipe = Recipe(vocabulary=800, length=400)
    tokenizer = train_tokenizer(recipe, documents=50)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    transcript = corpus.talk(random.Random(0), True, "Sage")
    text = tokenizer.apply_chat_template(transcript, tokenize=False)
    assert text == "<s>" + render(transcript)
    ids, mask = batch([text], tokenizer, recipe.length)
    trained = tokenizer.decode(ids[0][mask[0]])
    assert trained == "".join(m["content"] + "</s>" for m in transcript if m["role"] == "assistant")
    assert all(len(tokenizer(str(i), add_special_tokens=False)["input_ids"]) == 1 for i in range(1, 11))


def test_a_model_that_misses_its_figures_is_not_used(tmp_path):
    poor = Recipe(hidden=32, layers=1, heads=1, intermediate=32, steps=2, batch=2)
    with pytest.raises(WorldError, match=r"belief accuracy is 0\.000 and should be 0\.97 to 1"):
        build(poor, tmp_path / "poor")
    assert list(tmp_path.iterdir()) == []


def test_the_built_model_records_its_figures(pocket_model):
    import json
    from pathlib import Path

    record = json.loads((Path(pocket_model) / "candor_build.json").read_text())
    assert len(record["acceptance"]) == 7
    for figure in record["acceptance"].values():
        assert figure["low"] <= figure["value"] <= figure["high"]
    size = sum(p.stat().st_size for p in Path(pocket_model).glob("*.safetensors"))
    assert size < 8e6


def test_models_that_are_none_are_named(tmp_path, monkeypatch):
    with pytest.raises(WorldError, match="there is no directory"):
        resolve(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorldError, match=r"has no config\.json"):
        resolve(str(tmp_path / "empty"))
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(WorldError, match="has no weights"):
        resolve(str(tmp_path / "empty"))
    assert resolve("org/name") == "org/name"
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("CANDOR_CACHE", str(blocked))
    with pytest.raises(WorldError, match="set CANDOR_CACHE to a folder that can be written"):
        resolve("pocket")


@pytest.mark.parametrize("full", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_cache_is_named_with_what_to_do(tmp_path, monkeypatch, full):
    def build(*_):
        raise full

    monkeypatch.setenv("CANDOR_CACHE", str(tmp_path))
    monkeypatch.setattr("actors.worlds.pocket.build.build", build)
    with pytest.raises(
        WorldError, match=r"cannot be written to .*No space left on device; free space there or set CANDOR"
    ):
        resolve("pocket")


def test_muon_computes_in_float32_where_bfloat16_is_slow():
    def stepped(numbers):
        torch.manual_seed(0)
        weights = torch.nn.Parameter(torch.randn(24, 16))
        weights.grad = given = torch.randn(24, 16)
        before = given.clone()
        with numbers:
            torch.optim.Muon([weights], lr=0.1).step()
        assert torch.equal(given, before)
        return weights.detach()

    rounded, exact = stepped(nullcontext()), stepped(InFloat32())
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.01)
    with InFloat32():
        ones = torch.ones(2)
        copy = ones.bfloat16()
        copy += 1
    assert copy.dtype == torch.float32
    assert ones.tolist() == [1, 1]
