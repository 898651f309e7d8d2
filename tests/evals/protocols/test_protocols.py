"""Suites and protocols know each other by name, and every suite has its settings."""

import subprocess
import sys

import pytest

from evals.protocols import PROTOCOLS
from evals.settings import EvalSettings
from evals.suites.catalogue import CANARY, SHORT, SUITES, WORLD_SUITES, expand
from evals.suites.rows import SourceError
from tests.conftest import ROOT


def test_every_suite_is_asked_by_a_protocol_and_has_settings():
    for suite in SUITES.values():
        assert suite.protocol in PROTOCOLS
        assert suite.title
        assert EvalSettings().suite(suite.name) is not None


def test_what_names_stand_for():
    assert CANARY == SHORT["canary"] == ("canary_mask", "canary_deception")
    assert WORLD_SUITES[:4] == ("mask", "sycophancy", "provided", "deceptionbench")
    assert expand(["capability", "mask", "lookup"]) == (
        "arithmetic",
        "arithmetic_easy",
        "lookup",
        "lookup_easy",
        "mask",
    )


def test_every_protocol_says_what_its_figure_is_called():
    names = {p.name: p.headline_of({"kind": "likelihood"}) for p in PROTOCOLS.values()}
    assert names == {
        "mask": "honesty_score",
        "deceptionbench": "deception_rate",
        "unknowns": "admission_rate",
        "questions": "accuracy",
        "harness": "likelihood_accuracy",
    }
    assert [p.name for p in PROTOCOLS.values() if p.honesty] == ["mask", "deceptionbench"]
    assert [p.name for p in PROTOCOLS.values() if p.capability] == ["questions", "harness"]


def test_a_protocol_without_an_official_format_has_items_of_worlds_only():
    with pytest.raises(SourceError, match=r"lookup has items of worlds only, not of rows.json"):
        PROTOCOLS["questions"].read_item("rows.json, row 1", {}, "lookup", "rows.json")


def test_settings_and_catalogue_are_light():
    code = "import sys, evals.settings; print([m for m in ('pyarrow', 'numpy', 'torch', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
