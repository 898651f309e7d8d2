import json

import pytest

from loop.config.explain import ConfigError
from loop.rundir import DamagedError, RunDir, read_json
from loop.served import at_revision, files_of


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(1000))
    (folder / "notes.md").write_text("of no concern")
    return folder


def snapshot(cache, commit):
    """A model in the layout of the hub's cache, at a commit that `main` points to."""
    folder = cache / "models--org--name"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs/main").write_text(commit)
    made = folder / "snapshots" / commit
    made.mkdir(parents=True)
    (made / "config.json").write_text(json.dumps({"commit": commit}))
    return made


def test_files_that_are_served_are_recorded_and_a_run_stays_with_them(model, tmp_path):
    out = RunDir(tmp_path / "run")
    out.pin_model(str(model))
    out.pin_served(str(model))
    recorded = read_json(out.model)
    assert sorted(recorded["files"]) == ["config.json", "model.safetensors"]
    (model / "notes.md").write_text("changed")
    out.pin_served(str(model))
    content = bytearray(1000)
    content[500] = 1  # same size, same name
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"began with other files of .*, among them model\.safetensors"):
        out.pin_served(str(model))


def test_a_hub_model_is_known_by_its_commit_and_files_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert files_of("org/name") == {}
    first, second = "a" * 40, "b" * 40
    snapshot(tmp_path / "hub", first)
    assert files_of("org/name")["commit"] == first
    out = RunDir(tmp_path / "run")
    out.pin_model("org/name")
    out.pin_served("org/name")
    snapshot(tmp_path / "hub", second)
    with pytest.raises(ConfigError, match=rf"\(commit {first} then, {second} now\); set model_revision to the first"):
        out.pin_served("org/name")


def test_a_model_whose_files_are_not_here_is_recorded_later(tmp_path):
    out = RunDir(tmp_path / "run")
    out.pin_model("scripted")
    out.pin_served("scripted")
    assert "files" not in read_json(out.model)
    out.model.write_text('{"sha256": "x"}')
    with pytest.raises(DamagedError, match=r"model\.json is damaged: model, sha256 expected"):
        out.pin_served("scripted")


def test_only_hub_models_have_revisions(model, monkeypatch):
    assert at_revision(str(model), None) == str(model)
    for name in (str(model), "scripted"):
        with pytest.raises(ConfigError, match="is no hub name such as org/name, so it has no revisions"):
            at_revision(name, "main")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="model_revision abc: org/nowhere cannot be had from the Hugging Face Hub"):
        at_revision("org/nowhere", "abc")
