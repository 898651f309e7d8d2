from __future__ import annotations

import pytest
from typer.testing import CliRunner

from actors.registry import nearest
from loop.cli.app import app
from loop.config.hints import dotted_keys
from loop.config.schema import RunConfig


@pytest.mark.parametrize(
    ("word", "meant"),
    [("lerning_rate", "learning_rate"), ("algo", "algorithm"), ("Epochs", "epochs"), ("colour", None), ("b", None)],
)
def test_a_mistyped_or_shortened_name_is_known_again(word, meant):
    assert nearest(word, ["learning_rate", "algorithm", "epochs", "batch_size", "beta", "rollout"]) == meant


def test_every_key_is_found_with_the_way_to_it():
    keys = set(dotted_keys(RunConfig))
    assert {"rounds", "trainer.lora.rank", "selection.veto.rubric", "evals.gsm8k.shots", "data.added.share"} <= keys
    assert not any(key.startswith(("models.", "arms.")) for key in keys)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["rnu"], "run"),
        (["world", "buidl"], "build"),
        (["eval", "grimm", "table.csv"], "grim"),
        (["eval", "agrement", "runs/x"], "agreement"),
        (["bench", "rolouts"], "rollouts"),
    ],
)
def test_a_mistyped_command_is_answered_with_what_was_meant(words, meant):
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 2
    assert "id you mean" in said.stderr
    assert meant in said.stderr.split("id you mean")[1]
