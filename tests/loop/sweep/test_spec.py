"""Sweeps as files: what they expand into, and what is refused with a message."""

from pathlib import Path

import pytest
import yaml

from loop.config.explain import ConfigError
from loop.sweep.spec import read_sweep
from tests.conftest import ROOT

POCKET = ROOT / "configs/pocket.yaml"


@pytest.fixture
def written(tmp_path):
    def write(**sweep) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({"name": "s", "base": str(POCKET), **sweep}))
        return path

    return write


def test_what_arms_may_differ_in_becomes_arms_of_one_run_and_each_seed_a_run(written):
    grid = {"biased_ratio": [0, 0.05], "trainer.algorithm": ["sft", "kto"]}
    sweep = read_sweep(written(seeds=2, grid=grid))
    assert [run.label for run in sweep.runs] == ["seed-0", "seed-1"]
    assert [run.config.seed for run in sweep.runs] == [0, 1]
    names = ["ratio-0-sft", "ratio-0-kto", "ratio-0-05-sft", "ratio-0-05-kto"]
    assert all([arm.name for arm in run.config.arms] == names for run in sweep.runs)
    assert sweep.runs[1].axes["ratio-0-05-sft"] == {"biased_ratio": 0.05, "trainer.algorithm": "sft"}
    assert sweep.runs[0].config.for_arm(sweep.runs[0].config.arms[2]).trainer.algorithm == "sft"
    assert (sweep.conditions, sweep.against) == (names, "ratio-0-sft")


def test_a_runs_first_arm_is_the_one_that_others_are_compared_with(written):
    """A run's own report compares with its first arm: the sweep's report and it name the same difference."""
    grid = {"biased_ratio": [0, 0.05], "trainer.algorithm": ["sft", "kto"]}
    sweep = read_sweep(written(seeds=1, grid=grid, analysis={"against": "ratio-0-kto"}))
    names = ["ratio-0-kto", "ratio-0-sft", "ratio-0-05-sft", "ratio-0-05-kto"]
    assert [arm.name for arm in sweep.runs[0].config.arms] == names


def test_other_settings_make_runs_of_their_own_with_the_arms_of_the_base(written):
    sweep = read_sweep(written(seeds=[3], grid={"model": ["pocket", "pocket-control"]}))
    assert [run.label for run in sweep.runs] == ["pocket-seed-3", "pocket-control-seed-3"]
    assert [run.config.model for run in sweep.runs] == ["pocket", "pocket-control"]
    assert sweep.conditions == [f"{m}/{a}" for m in ("pocket", "pocket-control") for a in ("benign", "biased")]
    assert sweep.runs[1].config.name == "s-pocket-control-seed-3"


def test_named_points_change_the_arms_that_take_part_or_stand_in_their_place(written):
    points = [
        {"name": "plain"},
        {"name": "shuffled", "set": {"selection.control": "shuffled"}},
        {"name": "benign", "set": {"biased_ratio": 0}},
    ]
    sweep = read_sweep(written(arms=["biased"], points=points))
    (run,) = sweep.runs
    assert [(a.name, a.biased_ratio, a.set) for a in run.config.arms] == [
        ("plain", 0.5, {}),
        ("shuffled", 0.5, {"selection.control": "shuffled"}),
        ("benign", 0, {}),
    ]
    assert run.axes["plain"] == {"selection.control": "none", "biased_ratio": 0.5}, "what is in force, given or not"


def test_settings_of_all_runs_and_changes_on_the_command_line_reach_every_run(written):
    path = written(set={"rounds": 4, "rollout.conversations": 50}, grid={"biased_ratio": [0, 1]})
    (run,) = read_sweep(path, {"rounds": 1}).runs
    assert (run.config.rounds, run.config.rollout.conversations) == (1, 50)
    with pytest.raises(ConfigError, match="--set biased_ratio: the sweep varies it"):
        read_sweep(path, {"biased_ratio": 0.3})
    with pytest.raises(ConfigError, match="--set seed: the sweep gives the seeds"):
        read_sweep(path, {"seed": 3})


def test_a_base_is_found_beside_the_sweep_and_storage_is_shared_out(tmp_path):
    (tmp_path / "base.yaml").write_text(POCKET.read_text() + "\nbuffer: {uri: 's3://bucket/runs/'}\n")
    (tmp_path / "s.yaml").write_text("name: s\nbase: base.yaml\n")
    (run,) = read_sweep(tmp_path / "s.yaml").runs
    assert (run.label, run.config.buffer.uri) == ("seed-0", "s3://bucket/runs/s")


def test_what_a_base_declares_of_its_arms_holds_where_they_take_part_unchanged(tmp_path):
    (tmp_path / "base.yaml").write_text(POCKET.read_text() + "\nanalysis: {primary: [{arm: biased}]}\n")
    for grid, kept in (({}, 1), ({"selection.control": ["none", "shuffled"]}, 0)):
        (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "s", "base": "base.yaml", "grid": grid}))
        (run,) = read_sweep(tmp_path / "s.yaml").runs
        assert len(run.config.analysis.primary or ()) == kept


@pytest.mark.parametrize(
    ("sweep", "why"),
    [
        ({"seeds": [1, 1]}, "seeds: 1 is there twice"),
        ({"seeds": 0}, "seeds: "),
        ({"grid": {"seed": [1]}}, "grid: seed is not a setting to vary like others; give the seeds in `seeds`"),
        ({"grid": {"biased_ratio": [0.5, 0.5]}}, "grid.biased_ratio: give one value or more, each once"),
        ({"grid": {"biased_ratio": []}}, "grid.biased_ratio: give one value or more, each once"),
        (
            {"grid": {"selection.contrl": ["none"]}},
            r"contrl: unknown key; did you mean selection\.control",
        ),
        ({"grid": {"biased_ratio": [2]}}, "run seed-0: arms.0..biased_ratio: found 2"),
        ({"set": {"name": "x"}}, "set: name is given by the sweep itself"),
        ({"points": [{"name": "a"}, {"name": "a"}]}, "points: a is there twice"),
        ({"arms": ["none"]}, "arms: the base has no arm none; it has benign, biased"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml: there is no such config"),
        ({"axes": {}}, "axes: unknown key"),
        ({"analysis": {"against": "x"}}, "analysis.against: there is no condition 'x'; known: benign, biased"),
        ({"analysis": {"dose": "x"}}, "analysis.dose: x is no axis; axes are none"),
        ({"analysis": {"suite": "maks"}}, "analysis.suite: found 'maks'; there is no such suite; did you mean mask"),
        (
            {"points": [{"name": "a", "set": {"rounds": 1}}], "grid": {"rounds": [2]}},
            "rounds is set by the grid and by a point",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_message(written, sweep, why):
    with pytest.raises(ConfigError, match=why):
        read_sweep(written(**sweep))
