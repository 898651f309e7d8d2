"""The results of a sweep: its two tables, `report.json` and `report.html`, and what TensorBoard shows of its arms."""

from __future__ import annotations

import pyarrow as pa
import yaml

from actors.storage.segments import write_table
from loop.report.page import render
from loop.rundir import write_json, write_text
from loop.sweep.analysis import analyse
from loop.sweep.answer import answer
from loop.sweep.charts import charts
from loop.sweep.folder import SweepDir
from loop.sweep.hparams import write_hparams
from loop.sweep.rates import Found
from loop.sweep.spec import Sweep
from loop.sweep.table import figures_table, items_table, missing
from loop.sweep.tables import tables


def write_results(sweep: Sweep, folder: SweepDir) -> list[tuple[str, str]]:
    """Write what a sweep came to. The tables are there only when nothing is missing; the report says what is.

    Returns:
        Runs and arms of which some policy has not been evaluated.
    """
    lacking = missing(sweep, folder)
    figures, items = figures_table(sweep, folder), items_table(sweep, folder)
    found = analyse(sweep, figures, items) | {"missing": [list(pair) for pair in lacking]}
    write_json(folder.figures, found)
    write_text(folder.report, page(sweep, folder, found, items))
    write_hparams(sweep, folder, figures)
    if not lacking:  # the tables come last: who finds one finds everything
        write_table(folder.items, items)
        write_table(folder.table, figures)
    return lacking


def page(sweep: Sweep, folder: SweepDir, found: Found, items: pa.Table) -> str:
    """The report as HTML that needs nothing else."""
    return render(
        "sweep.html.j2",
        charts(found),
        package=__package__,
        found=found,
        answer=answer(found),
        conditions=len(sweep.conditions),
        tables=tables(sweep, found, items),
        runs=[(run.label, f"runs/{run.label}/report.html", folder.run(run).report.exists()) for run in sweep.runs],
        config=yaml.safe_dump(sweep.settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    )
