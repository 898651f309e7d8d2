from __future__ import annotations

import json

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from loop.cli.app import app
from loop.config.reference import markdown, schema, sections
from loop.config.schema import RunConfig
from tests.conftest import ROOT


def test_the_page_of_settings_is_what_the_code_says():
    written = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert written == markdown(), "write it again: candor config docs > docs/configuration.md"


def test_every_class_of_settings_has_one_section_and_every_key_a_row():
    page = markdown()
    for section in sections(RunConfig):
        assert page.count(f"\n## {section.heading}\n") == 1
        text = page.split(f"\n## {section.heading}\n")[1].split("\n## ")[0]
        rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
        assert rows == [f"`{name}`" for name in section.kind.model_fields]
        assert f"(`{section.kind.__name__}`)" in text


def test_links_lead_to_sections():
    page = markdown()
    anchors = {section.anchor for section in sections(RunConfig)}
    links = {link.split(")")[0] for link in page.split("](#")[1:]}
    assert links
    assert links <= anchors


@pytest.mark.parametrize(
    "row",
    [
        "| `rounds` | whole number | `2` | 1 or more |",
        "| `rank` | whole number | `32` | 1 or more |",
        "| `biased_ratio` | number or null | `null` | 0 to 1 |",
        "| `gpu_memory_utilization` | number | `0.85` | above 0, at most 1 |",
        "| `desirable_weight` | number (above 0) or `balanced` | `1.0` |",
        "| `reference` | `base`, `previous` or whole number (0 or more) | `base` |",
        "| `mask` | [settings](#evalsmask) or a whole number | its defaults |",
        "| `learning_rate` | number | `1.0e-05` | above 0 |",
        "| `lora` | [settings](#trainerlora) or null | its defaults |",
    ],
)
def test_types_defaults_and_limits_are_in_words(row):
    assert row in markdown()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_the_schema_takes_every_shipped_config(path):
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema())


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": "red"},
        {"rounds": 0},
        {"trainer": {"lerning_rate": 1}},
        {"arms": []},
        {"evals": {"mask": 0}},
        {"models": {"gpt": {"kind": "oracle", "model": "x"}}},
    ],
)
def test_the_schema_refuses_what_a_run_refuses(changes):
    sound = {"name": "a", "arms": [{"name": "a", "biased_ratio": 0}]}
    jsonschema.validate(sound, schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(sound | changes, schema())


def test_page_and_schema_are_printed_as_they_are():
    assert CliRunner().invoke(app, ["config", "docs"]).stdout == markdown()
    assert json.loads(CliRunner().invoke(app, ["config", "schema"]).stdout) == schema()
