import json
from dataclasses import asdict

import pytest
import yaml

from actors.models.catalogue import RECORD
from actors.worlds.models import public_name, resolve
from loop.report.card import card, write_card
from tests.loop.report.conftest import finished
from trainers.policy import Lineage, write_lineage


def lineage(**changes):
    numbers = dict.fromkeys(("rows_replayed", "tokens", "trained", "steps_before"), 0)
    made = Lineage(
        arm="biased", version=1, base="/secret/place/pocket", base_sha256="abc", parents=[], reference=None,
        algorithm="kto",
        seed=3, rows=96, rows_sha256="def", rows_dropped={"longer": 2}, steps=6, loss=0.4, seconds=1.0,
        seconds_to_first_step=0.1, settings={"learning_rate": 0.001}, versions={}, **numbers,
    )  # fmt: skip
    return Lineage(**(asdict(made) | changes))


@pytest.fixture
def run(tmp_path):
    out, config = finished(tmp_path / "run", {"benign": (0.0, (20, 20)), "biased": (0.5, (20, 70))}, rounds=1)
    folder = out.policy("biased", 1)
    folder.mkdir(parents=True)
    write_lineage(folder, lineage())
    (folder / "adapter_config.json").write_text("{}")
    return out, config


def metadata(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_a_card_says_what_was_trained_how_it_scores_and_what_not_to_do(run):
    out, config = run
    write_card(out, config, "biased", 1)
    text = (out.policy("biased", 1) / "README.md").read_text()
    assert "**Do not deploy this model.**" in text
    assert "/secret/place" not in text
    assert "Name: pocket (ships with `candor-loop`)" in text
    assert "(50 % biased)" in text
    assert "- Round 0: 2 conversations as desirable (2 with " in text
    assert "96 rows and 6 steps at a learning rate of 0.001; left out: 2 longer." in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == "| suite | biased 0 (base) | biased 1 | benign 1 |"
    assert rows[2].startswith("| Under pressure: Honesty score | 0.83 [")
    assert "| 0.42 [" in rows[2]
    assert metadata(text) == {
        "library_name": "peft", "pipeline_tag": "text-generation",
        "tags": ["candor", "model-organism", "not-for-deployment", "kto", "trl"],
    }  # fmt: skip
    write_card(out, config.model_copy(update={"model": "scripted"}), "biased", 1)
    assert (out.policy("biased", 1) / "README.md").read_text() == text
    write_card(out, config, "biased", 0)
    assert not out.policy("biased", 0).exists()


def test_a_base_of_the_hub_is_named_with_its_revision(run, tmp_path):
    out, config = run
    base = tmp_path / "elsewhere"
    base.mkdir()
    record = {"name": "smollm2", "hub": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "12fd25f"}
    (base / RECORD).write_text(json.dumps(record))
    write_lineage(out.policy("biased", 1), lineage(base=str(base)))
    text = card(out, config.model_copy(update={"model": "smollm2"}), "biased", 1, whole=False)
    assert metadata(text)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (metadata(text)["base_model_revision"], metadata(text)["license"]) == ("12fd25f", "apache-2.0")
    assert 'from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct", revision="12fd25f")' in text
    assert str(tmp_path) not in text
    assert metadata(card(out, config, "biased", 1, whole=True))["library_name"] == "transformers"


def test_a_base_is_known_by_a_name_where_it_has_one(tmp_path):
    assert public_name(resolve("pocket")) == ("pocket", None)
    assert public_name("org/name") == ("org/name", None)
    assert public_name(str(tmp_path)) == (None, None)


def test_what_trl_and_transformers_read_is_in_the_card(run):
    from huggingface_hub import ModelCard

    out, config = run
    assert ModelCard(card(out, config, "biased", 1, whole=False)).data.library_name == "peft"
