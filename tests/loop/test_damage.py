"""Damaged run directories: every file of a finished run, torn, empty, garbage or another run's, is either made again as
it was or named in one sentence with exit code 2."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals.evaluator import complete
from loop.cli.app import app
from loop.config.files import load
from loop.damage import _mend_composition, mend
from loop.rounds import is_finished
from loop.rundir import DamagedError, RunDir
from loop.selection import make_selection
from tests.conftest import ROOT

pytestmark = pytest.mark.heavy
DAMAGE = {
    "empty": lambda content: b"",
    "torn": lambda content: content[: len(content) // 2],
    "garbage": lambda content: bytes((b * 7 + 13) % 256 for b in range(300)),
    "a number": lambda content: b"17\n",
    "deep": lambda content: b"[" * 100_000,
}
AGAIN = {
    "summary.json": "made again",
    "timing.json": "made again",
    "rounds/biased/0/plan.arrow": "made again from the config",
    "rounds/biased/0/rollout.json": "made again from the trajectories",
    "rounds/biased/0/selection.arrow": "made again from the trajectories",
    "rounds/biased/0/selection.json": "made again from the trajectories",
    "evals/biased/1/evaluation.json": "completed again",
    "evals/biased/1/mask.arrow": "asked again",
}
"""Files that are made again, and what is said of them."""
NAMED = (
    "config.yaml",
    "model.json",
    "world.json",
    "rounds/biased/0/delivery.json",
    "rounds/biased/0/stages.json",
    "rounds/biased/0/engines.json",
    "evals/biased/0/usage.json",
    "policies/biased/1/candor_policy.json",
    "policies/biased/1/scripted_weights.json",
)
"""Files that nothing can make again."""


@pytest.fixture
def copied(scripted_run, tmp_path):
    """The config, and a copy of the run that may be damaged."""
    config, out = scripted_run
    return config, RunDir(Path(shutil.copytree(out, tmp_path / "run")))


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", AGAIN)
def test_what_can_be_made_again_is(name, how, copied, scripted_run):
    config, out = load(copied[0]), copied[1]
    path = out.root / name
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    said: list[str] = []
    mend(config, out, said.append)
    assert any(str(out.root) in line and AGAIN[name] in line for line in said), said
    if name.startswith("evals"):
        assert not complete(out.evals("biased", 1))
        assert not is_finished(config, out)
    elif "selection" in name or "rollout" in name:
        assert path.read_bytes() == (scripted_run[1] / name).read_bytes()
    else:
        assert not path.exists()
    said.clear()
    mend(config, out, said.append)
    assert said == []


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", NAMED)
def test_what_cannot_be_made_again_is_named_in_one_sentence(name, how, copied):
    config, out = copied
    path = out.root / name
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    result = CliRunner().invoke(app, ["run", str(config), "--out", str(out.root)])
    assert result.exit_code == 2, result.output
    assert str(out.root) in result.output.replace("\n", "")
    assert Path(name).name in result.output
    assert "Traceback" not in result.output


def test_files_of_another_run_are_noticed(copied, scripted_run):
    config, out = load(copied[0]), copied[1]
    said: list[str] = []
    plan = out.plan("biased", 0)
    other = load(copied[0], {"seed": 6})
    from actors.storage.segments import read_table, write_table
    from loop.plan import plan_round, plan_table

    write_table(plan, plan_table(plan_round(other, other.arms[0], 0)))
    record = json.loads((out.evals("biased", 1) / "evaluation.json").read_text())
    record["settings"]["seed"] = 6
    (out.evals("biased", 1) / "evaluation.json").write_text(json.dumps(record))
    selection = read_table(out.selection("biased", 0))
    names = selection.schema.get_field_index("trajectory_id")
    foreign = selection.set_column(
        names, selection.schema.field(names), [[f"other-{i}" for i in range(len(selection))]]
    )
    write_table(out.selection("biased", 0), foreign)
    shutil.copy(out.evals("biased", 0) / "mask.arrow", out.evals("biased", 1) / "mask.arrow")
    mend(config, out, said.append)
    assert [line.split(" is damaged")[0].rpartition("/")[2] for line in said] == [
        "plan.arrow",
        "selection.arrow",
        "evaluation.json",
        "mask.arrow",
    ], said
    assert out.selection("biased", 0).read_bytes() == (scripted_run[1] / "rounds/biased/0/selection.arrow").read_bytes()
    policy = out.policy("biased", 1) / "candor_policy.json"
    lineage = json.loads(policy.read_text())
    policy.write_text(json.dumps(lineage | {"version": 2}))
    with pytest.raises(DamagedError, match="holds policy 2 of arm biased; restore it, or remove policies/biased/1"):
        mend(config, out, said.append)


def test_a_sound_run_has_nothing_to_mend(copied):
    said: list[str] = []
    mend(load(copied[0]), copied[1], said.append)
    assert said == []


def test_a_selection_is_made_again_bit_for_bit(copied, scripted_run):
    config, out = load(copied[0]), copied[1]
    out.selection("biased", 0).unlink()
    make_selection(config.for_arm(config.arms[0]), out, "biased", 0)
    assert out.selection("biased", 0).read_bytes() == (scripted_run[1] / "rounds/biased/0/selection.arrow").read_bytes()


@pytest.mark.parametrize("command", ["report", "status", "data"])
def test_other_commands_name_a_damaged_file_too(command, copied):
    from tests.loop.conftest import candor

    out = copied[1]
    out.config.write_text("name: [\n")
    done = candor(command, out.root)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "config.yaml: not valid YAML" in done.stderr
    assert "Traceback" not in done.stderr


def test_composed_rows_are_made_again_until_they_were_trained_on(tmp_path):
    config = load(ROOT / "configs/pocket-direct.yaml")
    arm = next(a for a in config.arms if config.for_arm(a).data is not None)
    out, said = RunDir(tmp_path), []
    table = out.composition(arm.name, 0)
    table.parent.mkdir(parents=True)
    for name, content in ((table, b"torn"), (table.with_suffix(".json"), b"{}")):
        name.write_bytes(content)
    _mend_composition(out, arm.name, 0, trained=False, say=said.append)
    assert said == [f"{table} is made again from the data"]
    assert list(table.parent.iterdir()) == []
    table.write_bytes(b"torn")
    with pytest.raises(DamagedError, match=r"composition\.arrow is damaged: it is no table; restore it"):
        _mend_composition(out, arm.name, 0, trained=True, say=said.append)
