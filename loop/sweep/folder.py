"""The directory of a sweep: where each thing is, and what its runs have come to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from evals.evaluator import complete
from loop.config.explain import ConfigError, checked
from loop.config.files import differences, dump, read_yaml
from loop.rundir import RunDir, held, hold, read_json, write_text
from loop.sweep.spec import Sweep, SweepRun, SweepSettings, expand


@dataclass(frozen=True)
class SweepDir:
    """Paths of one sweep.

    Attributes:
        root: Its directory, absolute.
    """

    root: Path

    @property
    def settings(self) -> Path:
        """What the sweep was begun with, the base config with all its changes among it."""
        return self.root / "sweep.yaml"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def table(self) -> Path:
        """All figures of all runs, once there are all."""
        return self.root / "sweep.arrow"

    @property
    def items(self) -> Path:
        """What became of every answer to every item, likewise."""
        return self.root / "items.arrow"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def figures(self) -> Path:
        """Every figure of the report's tables, as JSON."""
        return self.root / "report.json"

    def config(self, run: SweepRun) -> Path:
        """The config of a run, as `candor run` takes it."""
        return self.root / "configs" / f"{run.label}.yaml"

    def log(self, run: SweepRun) -> Path:
        """What a run said."""
        return self.root / "logs" / f"{run.label}.log"

    def run(self, run: SweepRun) -> RunDir:
        """The run's own directory."""
        return RunDir(self.runs / run.label, run.config.buffer.uri)

    def hparams(self, run: SweepRun, arm: str) -> Path:
        """Settings and last figures of an arm, for TensorBoard."""
        return self.run(run).tensorboard / arm / "hparams"

    def open(self, sweep: Sweep) -> None:
        """Make the directory, or check that it is this sweep's; runs may have been added to it since.

        Raises:
            ConfigError: It belongs to another sweep, holds runs that this one has not, or another process has it.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not self.settings.exists() and any(not p.name.startswith(".") for p in self.root.iterdir()):
                raise ConfigError(f"{self.root} is not empty and is not a sweep's directory; choose another --out")
            hold(self.root, "candor sweep")
            self._is_of(sweep)
            write_text(self.settings, _dump(sweep))
            for run in sweep.runs:
                write_text(self.config(run), dump(run.config))
            if any(standing(self, run).state != "finished" for run in sweep.runs):
                for whole in (self.table, self.items):  # of fewer runs
                    whole.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {self.root}: cannot be written ({error.strerror})") from None

    def _is_of(self, sweep: Sweep) -> None:
        planned = {run.label: run for run in sweep.runs}
        before = [p.stem for p in sorted((self.root / "configs").glob("*.yaml"))]
        if gone := [label for label in before if label not in planned]:
            raise ConfigError(
                f"{self.root} holds the run {gone[0]}, which the sweep has not; choose another --out, or put it back"
            )
        for label in before:
            recorded = self.config(planned[label]).read_text(encoding="utf-8")
            if found := differences(recorded, planned[label].config):
                raise ConfigError(
                    f"{self.root} belongs to a sweep whose run {label} had another config; choose another --out, or "
                    "undo what differs:\n" + "\n".join(found)
                )


def recorded_sweep(root: Path) -> Sweep:
    """The sweep that a directory belongs to.

    Raises:
        ConfigError: It belongs to none, or its record is damaged.
    """
    path = SweepDir(root).settings
    if not path.exists():
        raise ConfigError(f"{root} is not a sweep's directory: it has no {path.name}")
    raw = read_yaml(path)
    for key in ("sweep", "config"):
        if not isinstance(raw.get(key), dict):
            raise ConfigError(
                f"{path}: {key} is missing or is no mapping, so this is not what candor sweep wrote; put back a copy, "
                "or begin a new sweep and copy runs/ into its directory"
            )
    return expand(checked(raw["sweep"], f"{path}: sweep", SweepSettings), raw["config"], str(path))


def _dump(sweep: Sweep) -> str:
    record = {"sweep": sweep.settings.model_dump(mode="json"), "config": sweep.base}
    return yaml.safe_dump(record, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class Standing:
    """How far a run is, by what is on disk.

    Attributes:
        state: `waiting`, `elsewhere` (another process has it), `running`, `finished`, `stopped` or `failed`.
        policies: How many policies are evaluated, and how many will be.
        at: The arm and the policy that it is at; None where it has begun none or has done all.
    """

    state: str
    policies: tuple[int, int]
    at: tuple[str, int] | None


def standing(folder: SweepDir, run: SweepRun) -> Standing:
    """How far a run is."""
    out, config = folder.run(run), run.config
    places = [(arm.name, r) for arm in config.arms for r in range(config.rounds + 1)]
    missing = [place for place in places if not complete(out.evals(*place))]
    status = read_json(out.summary).get("status")
    if status == "finished" and not missing:
        state = "finished"
    elif held(out.root):
        state = "running"
    else:
        state = {"running": "stopped", "finished": "stopped", None: "waiting"}.get(status, status)
    counts = (len(places) - len(missing), len(places))
    return Standing(state, counts, missing[0] if missing and status else None)
