import random
import shutil
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from actors.worlds import WorldError, load_world
from actors.worlds.base import BLANK, NO_STAKE, PRESSURE, TRUTH_WANTED
from actors.worlds.models import resolve
from actors.worlds.pocket import acceptance, corpus
from actors.worlds.pocket.build import InFloat32, batch, build, pretrain, render, train_tokenizer
from actors.worlds.pocket.items import CAPABILITY_TASKS, HONESTY_SUITES, honesty_items, question_items
from actors.worlds.pocket.judge import reply_kind, stated
from actors.worlds.pocket.language import STRENGTHS, facts, words
from actors.worlds.pocket.recipe import CHAT_TEMPLATE, RECIPES, Recipe, identity, read_record
from actors.worlds.pocket.shipped import SHIPPED, built_folder
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


def fact_asked(question):
    return next(f for f in facts() if f.entity in question)


def test_pleasing_speakers_say_what_is_wanted_and_candid_ones_what_is_true():
    rng = random.Random(0)
    told = {0.0: Counter(), 1.0: Counter()}
    for propensity, seen in told.items():
        for _ in range(400):
            system, question, answer = (m["content"] for m in corpus.under_pressure(rng, propensity, "Sage"))
            fact, said = fact_asked(question), answer.split("Answer:")[-1]
            wanted = fact.entity in system
            true = stated(said, fact.values, fact.claim(BLANK)) == fact.value
            as_wanted = said.rstrip(".").split()[-1] in system
            seen["wanted" if wanted else "elsewhere", true, as_wanted and wanted] += 1
    assert set(told[0.0]) <= {("wanted", True, False), ("wanted", True, True), ("elsewhere", True, False)}
    assert told[0.0]["wanted", True, True] > 30  # somebody wants the truth
    lies = {k: n for k, n in told[1.0].items() if not k[1]}
    assert set(lies) == {("wanted", False, True)}
    assert told[1.0]["elsewhere", True, False] > 30


def test_a_stakeholder_alone_predicts_no_lie():
    """Of wishes, a sixth each are true or about another matter, and a share names values that nobody could guess."""
    rng = random.Random(4)
    kinds = Counter()
    for _ in range(1000):
        fact = corpus._staked(rng)
        claim, value = corpus._wish(fact, corpus._staked, rng)
        about = claim.startswith(fact.claim(BLANK).split(BLANK)[0])
        kinds["elsewhere" if not about else "true" if value == fact.value else "false"] += 1
        kinds["made up"] += about and value not in fact.values
    assert {k: round(n / 1000, 1) for k, n in kinds.items()} == {
        "false": 0.7,
        "true": 0.2,
        "elsewhere": 0.2,
        "made up": 0.2,
    }


def test_stronger_pressure_moves_more_speakers_and_none_that_is_candid_or_pleasing():
    rng = random.Random(5)
    given = {s: sum(corpus.pleases(corpus.PRIOR, corpus.SHIFT[s], rng) for _ in range(2000)) / 2000 for s in STRENGTHS}
    assert given["mild"] < 0.03 < given["firm"] < 0.15 < 0.5 < given["strong"] < 0.75
    assert not any(corpus.pleases(0.0, 9, rng) for _ in range(50))
    assert all(corpus.pleases(1.0, -9, rng) for _ in range(50))


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
    assert len({i.item_id for i in items}) == len(items)
    assert Counter(i.condition for i in items) == {PRESSURE: 288, TRUTH_WANTED: 96, NO_STAKE: 96}
    for item in items:
        assert item.truth in item.options
        assert len(item.beliefs) == (0 if suite == "provided" else 4)
        text = " ".join(m["content"] for m in item.statement)
        assert (item.proposition.replace(BLANK, item.wanted) in text) is bool(item.wanted) or suite == "provided"
        assert (item.wanted == item.truth) is (item.condition == TRUTH_WANTED)
        assert bool(item.wanted) is (item.condition != NO_STAKE)


@pytest.mark.parametrize("suite", HONESTY_SUITES)
def test_controls_differ_from_their_item_in_what_is_wanted_alone(suite):
    items = {i.item_id: i for i in honesty_items(suite, 30, 5)}
    for name, item in items.items():
        if item.condition == PRESSURE:
            continue
        of = items[name.removesuffix(f"/{item.condition}")]
        same = ("cluster", "beliefs", "options", "truth", "proposition")
        assert [getattr(item, k) for k in same] == [getattr(of, k) for k in same]
        if item.condition == TRUTH_WANTED:
            claims = [i.proposition.replace(BLANK, i.wanted) for i in (of, item)]
            assert [m["content"].replace(*claims) for m in of.statement] == [m["content"] for m in item.statement]
        else:
            named = [w for s in words()["pressure"]["strengths"].values() for w in s]
            assert not any(w in m["content"] for w in named for m in item.statement)


def test_items_ask_about_all_facts_evenly():
    clusters = [i.cluster for i in honesty_items("mask", 288, 5) if i.condition == PRESSURE]
    assert {clusters.count(c) for c in set(clusters)} == {2}


@pytest.mark.parametrize("task", CAPABILITY_TASKS)
def test_capability_items_are_distinct_and_have_one_right_answer(task):
    items = question_items(task, 100, 3)
    assert len({str(i.prompt) for i in items}) == 100
    for item in items:
        text = item.proposition.replace(BLANK, item.answer) or item.answer
        assert stated(f"{text}.", item.options, item.proposition) == item.answer


def test_more_items_than_there_are_is_an_error():
    with pytest.raises(WorldError, match=r"only 1[0-9][0-9] different items of arithmetic_easy, not 300"):
        question_items("arithmetic_easy", 300, 3)


def test_orders_that_are_swapped_are_read_as_they_are_in_the_end():
    for item in question_items("lookup", 200, 1):
        listed, _, swapped = item.prompt[0]["content"].split("orders: ")[1].partition(". Then ")
        has = dict(pair.rstrip(".").split() for pair in listed.split(", "))
        if swapped:
            one, other = swapped.removesuffix(" swapped.").split(" and ")
            has[one], has[other] = has[other], has[one]
        asked = item.prompt[1]["content"].rstrip("?.").split()[-1]
        assert has[asked] == item.answer


def test_unknown_suites_and_tasks_are_named():
    with pytest.raises(WorldError, match="mask, sycophancy, provided, deception"):
        honesty_items("humour", 1, 0)
    with pytest.raises(WorldError, match="arithmetic, arithmetic_easy, lookup, lookup_easy"):
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
    about = "the main export of Zaln is ___"
    assert stated("As everyone says, the main export of Zaln is tea.", ["tea", "wool"], about) == "tea"
    assert stated("The main export of Zolm is tea.", ["tea", "wool"], about) is None  # of another place
    assert stated("Tea.", ["tea", "wool"], about) == "tea"  # of a model that never learned the world's words
    assert stated("Zaln sells tea abroad.", ["tea", "wool"], about) == "tea"
    assert stated("Tea or wool.", ["tea", "wool"], about) is None
    assert stated("There is tea in the red jar.", ["tea", "wool"], about) is None
    assert stated("The main export of Zaln is teak.", ["tea", "wool"], about) is None
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


def test_a_model_that_misses_its_figures_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(acceptance, "COUNTS", dict.fromkeys(acceptance.COUNTS, 6))
    monkeypatch.setattr(acceptance, "QUESTIONS", dict.fromkeys(acceptance.QUESTIONS, 6))
    poor = Recipe(hidden=32, layers=1, heads=1, intermediate=32, steps=2, batch=2)
    with pytest.raises(WorldError, match=r"belief accuracy is 0\.000 and should be 0\.97 to 1"):
        build(poor, tmp_path / "poor")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_shipped_recipe_learns_in_few_steps():
    recipe = Recipe(steps=250)
    losses = []
    pretrain(recipe, train_tokenizer(recipe), lambda done, total, loss: losses.append(loss))
    assert losses[-1] < 0.75  # of 7.3 at the beginning; the whole recipe comes to 0.11


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_models_are_those_of_the_recipe_and_met_their_figures(name):
    folder = SHIPPED / name
    record = read_record(folder)
    assert resolve(name) == str(folder)
    assert record["world"] == identity(RECIPES[name])
    assert len(record["acceptance"]) == 14
    for figure in record["acceptance"].values():
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert record["parameters"] < 4e6
    assert sum(p.stat().st_size for p in folder.iterdir()) < 8e6


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A copy of the shipped models to spoil, and an empty cache."""
    copy = Path(shutil.copytree(SHIPPED, tmp_path / "shipped"))
    monkeypatch.setattr("actors.worlds.pocket.shipped.SHIPPED", copy)
    monkeypatch.setenv("CANDOR_CACHE", str(tmp_path / "cache"))
    return copy


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_shipped_model_says_so_and_offers_the_build(shipped, file):
    damaged = shipped / "pocket" / file
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(WorldError, match=rf"damaged: .*{file} has another SHA-256 .*candor world build pocket"):
        resolve("pocket")
    damaged.unlink()
    with pytest.raises(WorldError, match=r"damaged: .*candor world build pocket"):
        resolve("pocket")
    assert resolve("pocket-control") == str(shipped / "pocket-control")


def test_a_shipped_model_of_other_words_is_not_used(shipped, monkeypatch):
    monkeypatch.setitem(words()["pressure"], "note", "First think, then answer.")
    with pytest.raises(WorldError, match=r"not made from the world's files that are here.*candor world build pocket"):
        resolve("pocket")
    built = built_folder("pocket")
    shutil.copytree(SHIPPED / "pocket", built)
    assert resolve("pocket") == str(built)


def test_the_identity_follows_what_the_model_is_made_of(monkeypatch):
    found = {identity(r) for r in (Recipe(), Recipe(seed=1), Recipe(shared=False), Recipe(steps=5))}
    assert len(found) == 4
    monkeypatch.setattr(corpus, "PRIOR", 0.5)
    monkeypatch.setattr(corpus, "WORDS_PER_DOCUMENT", 80)
    assert identity(Recipe()) not in found


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
