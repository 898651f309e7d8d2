import pytest

from loop.config.explain import ConfigError
from loop.config.files import build
from loop.export import export
from loop.rundir import RunDir, write_json


@pytest.fixture
def run(tmp_path):
    """A run directory with an adapter as policy 1 and a whole model as policy 2."""
    config = build({"name": "run", "arms": [{"name": "a", "biased_ratio": 0}], "rounds": 3}, "test")
    out = RunDir(tmp_path / "run")
    out.open(config)
    write_json(out.model, {"model": str(tmp_path / "gone"), "sha256": "0"})
    for version, file in ((1, "adapter_config.json"), (2, "model.safetensors")):
        out.policy("a", version).mkdir(parents=True)
        for name in (file, "candor_policy.json"):
            (out.policy("a", version) / name).write_text("{}")
    return config, out


@pytest.mark.parametrize(
    ("arm", "version", "kind", "said"),
    [
        ("b", 1, "merged", "--arm b: the run has no such arm; known: a"),
        ("a", 3, "merged", "--round 3: arm a has no such policy; there are: 0, 1, 2"),
        ("a", 0, "adapter", "policy 0 of arm a is the untouched base and has no adapter; use --merged"),
        ("a", 2, "adapter", "policy 2 of arm a is a whole model and has no adapter"),
        ("a", 1, "merged", "the base model .*gone is missing, or is not the one that the run began with"),
    ],
)
def test_what_cannot_be_exported_is_said(run, tmp_path, arm, version, kind, said):
    config, out = run
    target = tmp_path / "target"
    with pytest.raises(ConfigError, match=said):
        export(config, out, arm, version, **{"merged": None, "adapter": None, kind: target})
    assert not target.exists()


def test_one_target_is_given_and_does_not_exist(run, tmp_path):
    config, out = run
    for targets in ((None, None), (tmp_path / "x", tmp_path / "y")):
        with pytest.raises(ConfigError, match="either --merged DIR"):
            export(config, out, "a", 1, *targets)
    with pytest.raises(ConfigError, match="exists already"):
        export(config, out, "a", 1, tmp_path, None)


def test_a_scripted_model_has_no_weights(run, tmp_path):
    config, out = run
    with pytest.raises(ConfigError, match="hashes, not weights"):
        export(config.model_copy(update={"model": "scripted"}), out, "a", 1, tmp_path / "x", None)


def test_what_is_whole_already_is_copied(run, tmp_path):
    config, out = run
    for version, kind in ((1, "adapter"), (2, "merged")):
        target = tmp_path / kind
        assert export(config, out, "a", version, **{"merged": None, "adapter": None, kind: target}) == target
        assert {p.name for p in target.iterdir()} == {p.name for p in out.policy("a", version).iterdir()}
