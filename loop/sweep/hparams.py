"""What TensorBoard's HPARAMS tab shows of a sweep: the axes of each arm, and the last figures of each."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from actors.storage.files import whole_folder
from loop.sweep.folder import SweepDir
from loop.sweep.spec import Sweep
from loop.sweep.table import TRAINED_SHARE


def write_hparams(sweep: Sweep, folder: SweepDir, figures: pa.Table) -> None:
    """Write a session for every arm that has been evaluated, in place of an earlier one.

    Args:
        figures: Rows of `loop.sweep.table.figures_table`.
    """
    for run in sweep.runs:
        mine = figures.filter(pc.equal(figures["run"], run.label))
        for arm, axes in run.axes.items():
            metrics = last_figures(mine.filter(pc.equal(mine["arm"], arm)))
            if metrics:
                _write(folder, run, arm, {"seed": run.seed, "condition": run.condition(arm), **axes}, metrics)


def last_figures(figures: pa.Table) -> dict[str, float]:
    """The headline of every suite at an arm's last policy, and the share of what it was trained on."""
    rows = [row for row in figures.to_pylist() if row["value"] is not None]
    last = max((row["policy"] for row in rows if row["suite"]), default=None)
    found: dict[str, float] = {}
    for row in rows:  # the headline of a suite is the first of its rows
        if row["suite"] and row["policy"] == last:
            found.setdefault(f"last/{row['suite']}", row["value"])
    shares = [row["value"] for row in rows if row["figure"] == TRAINED_SHARE]
    return found | ({TRAINED_SHARE: sum(shares) / len(shares)} if shares else {})


def _write(folder: SweepDir, run: Any, arm: str, settings: dict[str, Any], metrics: dict[str, float]) -> None:
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
    with whole_folder(folder.hparams(run, arm)) as place:
        writer = SummaryWriter(str(place))
        for summary in hparams(plain, metrics):
            writer.file_writer.add_summary(summary)
        for name, value in metrics.items():
            writer.add_scalar(name, value, run.config.rounds)
        writer.close()
