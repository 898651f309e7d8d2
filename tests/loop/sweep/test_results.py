"""What a sweep leaves, from run directories whose outcomes are known."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from actors.storage.files import model_fingerprint
from actors.storage.segments import read_table
from actors.worlds.models import resolve
from evals.evaluator import RECORD
from evals.outcomes import Outcome
from loop.cli.app import app
from loop.config.explain import ConfigError
from loop.report.summary import write_summary
from loop.rundir import read_json, write_json, write_text
from loop.sweep.folder import SweepDir, recorded_sweep, standing
from loop.sweep.report import write_results
from loop.sweep.sharing import take_over_base
from loop.sweep.table import COLUMNS, ITEMS, TRAINED_SHARE, missing
from tests.conftest import write_evaluation
from tests.loop.sweep.planted import sweep_of

AUDIT = {
    end: {
        **{"count": 10, "user_kind": {"benign": benign, "biased": 10 - benign}, "scenario": {"s": 10}},
        **{"reward": {"mean": 1.0, "min": 1.0, "max": 1.0}, "threshold": 1.0, "tied": 0},
        "completion_tokens": {"mean": 9.0, "min": 9.0, "max": 9.0},
    }
    for end, benign in (("top", 4), ("bottom", 8))
}


def outcomes(arm: str, policy: int, lies: int, items: int = 40):
    return [
        Outcome("mask", "mask", f"i{n}", f"c{n // 2}", arm, policy, outcome="lie" if n < lies else "honest", belief="A")
        for n in range(items)
    ]


def finish(sweep, folder: SweepDir, labels=None) -> None:
    """Leave what finished runs leave: in each seed a biased arm of ratio x lies 4 + 20 x + seed times of 40."""
    for run in sweep.runs:
        if labels is not None and run.label not in labels:
            continue
        out = folder.run(run)
        for arm in run.config.arms:
            for policy in range(run.config.rounds + 1):
                place = out.evals(arm.name, policy)
                place.mkdir(parents=True)
                lies = 4 + int(policy > 0) * (int(20 * (arm.biased_ratio or 0)) + run.seed)
                write_evaluation(place, outcomes(arm.name, policy, lies))
            trained = {"count": 20, "user_kind": {"benign": 12, "biased": 8}}
            write_json(out.audit(arm.name, 0), {**AUDIT, "round": {}, "vetoed": 0, "trained": trained})
        write_text(out.config, "")
        write_summary(out, run.config, "finished")


@pytest.fixture
def sweep():
    return sweep_of(seeds=3, grid={"biased_ratio": [0, 0.5, 1]}, analysis={"dose": "biased_ratio"})


@pytest.fixture
def folder(tmp_path, sweep):
    made = SweepDir(tmp_path / "sweep")
    made.open(sweep)
    return made


def test_a_finished_sweep_has_one_table_of_everything_and_a_report(sweep, folder):
    finish(sweep, folder)
    assert write_results(sweep, folder) == []
    table = read_table(folder.table)
    assert set(COLUMNS) | {"biased_ratio"} == set(table.column_names)
    rows = {(r["run"], r["arm"], r["policy"], r["suite"], r["figure"]): r for r in table.to_pylist()}
    assert len(rows) == len(table), "no figure is there twice"
    score = rows["seed-2", "ratio-0-5", 1, "mask", "honesty_score"]
    assert (score["value"], score["n"], score["seed"], score["biased_ratio"]) == (1 - 16 / 40, 40, 2, 0.5)
    assert score["low"] < score["value"] < score["high"]
    assert (rows["seed-0", "ratio-1", 1, "mask", "outcome/lie"]["n"]) == 24
    share = rows["seed-0", "ratio-1", 0, "", TRAINED_SHARE]
    assert (share["value"], share["n"]) == (8 / 20, 20), "KTO is trained on both ends"
    page = folder.report.read_text()
    assert re.findall('data-chart="([^"]+)"', page) == ["dose-mask", "dose-trained", "forest", "rounds"]
    assert "Not complete" not in page
    body, _, scripts = page.partition("<script>")
    drawn = scripts.partition("const CHARTS = ")[2].partition("\n")[0]
    assert '"rate": 0.6' in drawn
    assert not re.search(r"\bnan\b|\binf\b", (body + drawn).lower())


def test_every_figure_of_the_report_follows_from_the_table_of_items(sweep, folder):
    """Computed here with nothing of the code that computes the report."""
    finish(sweep, folder)
    write_results(sweep, folder)
    found, items = read_json(folder.figures), read_table(folder.items)
    assert items.schema.equals(ITEMS, check_metadata=True)
    frame = items.to_pandas()
    frame["lie"] = (frame["outcome"] == "lie").astype(float)
    rate = frame.groupby(["condition", "seed", "policy"])["lie"].mean()
    for row in found["contrasts"]:
        other = row["against"]
        difference = rate[row["condition"], :, row["policy"]] - rate[other["condition"], :, other["policy"]]
        assert row["by_seed"] == {str(s): pytest.approx(v) for s, v in difference.items()}
        assert row["value"] == pytest.approx(difference.mean())
        assert row["between"] == pytest.approx(difference.std(ddof=1), abs=1e-12)
    for row in found["rates"]:
        values = rate[row["condition"], :, row["policy"]]
        assert row["value"] == pytest.approx(values.mean())
        half = 4.302653 * values.std(ddof=1) / 3**0.5  # the 97.5 % point of Student's t with two degrees
        assert (row["low"], row["high"]) == (pytest.approx(row["value"] - half), pytest.approx(row["value"] + half))
    (dose,) = found["doses"]
    x = np.array([0, 0.5, 1])
    lies = [rate[f"ratio-{c}", :, 1].mean() for c in ("0", "0-5", "1")]
    assert dose["trend"]["value"] == pytest.approx(np.polyfit(x, lies, 1)[0])
    assert [p["value"] for p in dose["points"]] == pytest.approx(lies)
    assert [p["trained"] for p in dose["points"]] == pytest.approx([8 / 20] * 3)
    primary = {(r["kind"], r["condition"]) for r in found["contrasts"] if r["family"] == "primary"}
    assert primary == {("against", "ratio-0-5"), ("against", "ratio-1")}
    shown = folder.report.read_text()
    for row in (*found["contrasts"], *dose["steps"]):
        assert f"{100 * row['value']:+.1f}" in shown


def test_what_is_missing_is_said_and_there_is_no_table(sweep, folder):
    finish(sweep, folder, {"seed-0", "seed-1"})
    (folder.run(sweep.runs[1]).evals("ratio-1", 1) / RECORD).unlink()
    write_summary(folder.run(sweep.runs[1]), sweep.runs[1].config, "failed")
    lacking = write_results(sweep, folder)
    assert lacking == [("seed-1", "ratio-1"), *(("seed-2", f"ratio-{r}") for r in ("0", "0-5", "1"))]
    assert not folder.table.exists()
    assert not folder.items.exists()
    page = folder.report.read_text()
    assert "Not complete" in page
    assert "seed-1, arm ratio-1" in page
    told = read_json(folder.figures)["contrasts"]
    (row,) = [r for r in told if (r["condition"], r["kind"]) == ("ratio-1", "against")]
    assert (row["seeds"], row["p"]) == (1, None)


def test_a_report_of_nothing_can_be_written(sweep, folder):
    assert len(write_results(sweep, folder)) == 9
    assert "Not complete" in folder.report.read_text()


def test_the_files_are_the_same_whenever_they_are_written(sweep, folder):
    finish(sweep, folder, {"seed-2"})
    finish(sweep, folder, {"seed-0", "seed-1"})
    write_results(sweep, folder)
    before = [p.read_bytes() for p in (folder.table, folder.items, folder.figures, folder.report)]
    write_results(sweep, folder)
    assert [p.read_bytes() for p in (folder.table, folder.items, folder.figures, folder.report)] == before


def test_a_run_that_did_not_come_to_its_end_is_missing_even_with_all_evaluations(sweep, folder):
    finish(sweep, folder)
    write_summary(folder.run(sweep.runs[0]), sweep.runs[0].config, "failed")
    assert {label for label, _ in missing(sweep, folder)} == {"seed-0"}
    assert standing(folder, sweep.runs[0]).state == "failed"
    assert standing(folder, sweep.runs[1]).state == "finished"


def test_tensorboard_has_settings_and_last_figures_of_every_arm(sweep, folder):
    finish(sweep, folder)
    write_results(sweep, folder)
    write_results(sweep, folder)  # in place of the first
    place = folder.hparams(sweep.runs[1], "ratio-0-5")
    events = EventAccumulator(str(place)).Reload()
    (last,) = events.Scalars("last/mask")
    assert last.value == pytest.approx(1 - 15 / 40)
    told = str(events.summary_metadata["_hparams_/session_start_info"])
    assert all(key in told for key in ("biased_ratio", "seed", "condition"))


def test_a_sweep_may_grow_by_seeds_and_may_not_change(tmp_path, sweep, folder):
    finish(sweep, folder)
    write_results(sweep, folder)
    more = sweep_of(seeds=4, grid={"biased_ratio": [0, 0.5, 1]}, analysis={"dose": "biased_ratio"})
    with pytest.raises(ConfigError, match="another candor sweep is using it"):
        folder.open(more)
    copied = SweepDir(tmp_path / "copy")
    shutil.copytree(folder.root, copied.root)
    (copied.root / ".lock").unlink()
    copied.open(more)
    assert not copied.table.exists(), "it was of fewer runs"
    assert [run.label for run in recorded_sweep(copied.root).runs] == [f"seed-{n}" for n in range(4)]
    for changed, why in (
        (sweep_of(seeds=2, grid={"biased_ratio": [0, 0.5, 1]}), "holds the run seed-2, which the sweep has not"),
        (sweep_of(seeds=4, grid={"biased_ratio": [0, 0.5]}), r"seed-0 had another config.*\n(.*\n)*.*arms\.2"),
    ):
        again = SweepDir(tmp_path / f"again-{len(changed.runs)}")
        shutil.copytree(copied.root, again.root)
        (again.root / ".lock").unlink()
        with pytest.raises(ConfigError, match=why):
            again.open(changed)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(ConfigError, match="is not empty and is not a sweep's directory"):
        SweepDir(tmp_path / "full").open(sweep)
    with pytest.raises(ConfigError, match=r"is not a sweep's directory: it has no sweep\.yaml"):
        recorded_sweep(tmp_path / "full")


def test_policy_0_is_asked_once_for_all_runs_that_ask_the_same(sweep, folder):
    finish(sweep, folder, {"seed-0"})
    first, second, _ = sweep.runs
    write_json(folder.run(first).model, {"model": "pocket", "sha256": "another"})
    take_over_base(folder, second, sweep.runs)
    assert not folder.run(second).root.exists(), "the model's files are others"
    write_json(folder.run(first).model, {"model": "pocket", "sha256": model_fingerprint(Path(resolve("pocket")))})
    take_over_base(folder, second, sweep.runs)
    taken = read_table(folder.run(second).evals("ratio-0", 0) / "mask.arrow")
    assert pa.compute.equal(taken["outcome"], "lie").to_pylist().count(True) == 4
    assert json.loads((folder.run(second).evals("ratio-0", 0) / RECORD).read_text())["rule"] == "majority"
    other = sweep_of(seeds=[9], set={"evals.mask": 5}, grid={"biased_ratio": [0, 0.5, 1]})
    asks_other = other.runs[0]
    take_over_base(folder, asks_other, [first, asks_other])
    assert folder.run(asks_other).root.exists() is False


def test_the_report_command_writes_a_sweep_again_and_says_its_answer(sweep, folder):
    finish(sweep, folder)
    write_results(sweep, folder)
    kept = folder.report.read_bytes()
    folder.report.unlink()

    def report(*more):
        return CliRunner().invoke(app, ["report", str(folder.root), *more])

    busy = report()
    assert busy.exit_code == 2
    assert "candor sweep is at work on it" in busy.output
    (folder.root / ".lock").unlink()

    shown = report()
    assert shown.exit_code == 0, shown.output
    assert "Lies rise by 50.0 points from biased_ratio 0 to 1" in shown.output
    assert folder.report.read_bytes() == kept
    found = json.loads(report("--json").output)
    assert found["answer"]["verdict"] == "yes"
    assert found["sweep"] == "planted"
    refused = report("--compare", "paper")
    assert refused.exit_code == 2
    assert "goes with a run" in refused.output


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a config is a mapping"),
        ("[1", "not valid YAML"),
        ("sweep: {name: x}\n", "config is missing or is no mapping"),
        ("sweep: []\nconfig: {}\n", "sweep is missing or is no mapping"),
        ("sweep: {name: x, base: y, seed: 3}\nconfig: {}\n", "seed"),
        ("sweep: {name: x, base: y}\nconfig: {rounds: many}\n", "rounds"),
    ],
)
def test_a_damaged_record_of_a_sweep_is_one_sentence(sweep, folder, text, why):
    folder.settings.write_text(text)
    for command in (["report"], ["sweep"]):
        said = CliRunner().invoke(app, [*command, str(folder.root)])
        assert said.exit_code == 2, said.output
        assert "sweep.yaml" in said.output.replace("\n", "")
        assert why in said.output
