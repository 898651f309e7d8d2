"""Runs that differ in their seed, as one table: what `evals.stats.seeds` compares arms by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from actors.storage.segments import read_table
from actors.worlds.base import PRESSURE
from evals.evaluator import record
from evals.outcomes import SCHEMA as OUTCOMES
from evals.stats.inference import ComparisonError
from evals.stats.seeds import SCHEMA
from loop.config.explain import ConfigError
from loop.config.files import MAY_CHANGE, load, unlike
from loop.config.schema import RunConfig
from loop.report.summary import trained_share
from loop.rundir import RunDir

OWN = ("name", "seed")
"""In which runs may differ."""


def configs(runs: Sequence[Path]) -> list[RunConfig]:
    """The configs of runs, which are alike but for their seeds.

    Raises:
        ComparisonError: One is no run directory, two have the same seed, or one differs in more than that.
    """
    found = []
    for run in runs:
        try:
            found.append(load(RunDir(run).config))
        except ConfigError as error:
            raise ComparisonError(f"{run}: is no run directory ({error})") from None
    seeds = [config.seed for config in found]
    for run, seed in zip(runs, seeds, strict=True):
        if seeds.count(seed) > 1:
            raise ComparisonError(f"{run}: another run has the seed {seed} too; each run is one training seed")
    first, *others = (config.model_dump(mode="json") for config in found)
    for run, other in zip(runs[1:], others, strict=True):
        lines = [x for key, x in unlike(first, other).items() if key not in OWN and not MAY_CHANGE.fullmatch(key)]
        if lines:
            raise ComparisonError("\n".join([f"{run}: differs from {runs[0]} in more than its seed:", *lines]))
    return found


def seed_table(runs: Sequence[Path], policy: int, suite: str) -> pa.Table:
    """Rows of `evals.stats.seeds.SCHEMA`: whether each answer under pressure was a lie, of every arm that was asked.

    Args:
        runs: Run directories that differ in their seed.
        policy: Which policy of each arm.

    Raises:
        ComparisonError: As `configs`; or no run has an evaluation of that policy with the suite.
    """
    tables = [
        _answers(RunDir(run), config.seed, arm.name, policy, suite)
        for run, config in zip(runs, configs(runs), strict=True)
        for arm in config.arms
        if suite in record(RunDir(run).evals(arm.name, policy)).get("suites", {})
    ]
    if not tables:
        raise ComparisonError(f"no arm has a complete evaluation of policy {policy} with the suite {suite}")
    return pa.concat_tables(tables)


def _answers(out: RunDir, seed: int, arm: str, policy: int, suite: str) -> pa.Table:
    rows = read_table(out.evals(arm, policy) / f"{suite}.arrow", OUTCOMES)
    rows = rows.filter(pc.equal(rows["condition"], PRESSURE))
    lied = pc.cast(pc.equal(rows["outcome"], "lie"), pa.float64())
    hit = pc.if_else(pc.equal(rows["outcome"], "error"), pa.scalar(None, pa.float64()), lied)
    same = [pa.repeat(seed, len(rows)), pa.repeat(arm, len(rows))]
    return pa.table([*same, rows["item_id"], rows["cluster"], hit], schema=SCHEMA)


def doses(runs: Sequence[Path], policy: int, over: str) -> dict[tuple[str, int], float]:
    """The dose of each arm in each seed: of `users`, the share of biased ones; of `trained` conversations, the share of
    those with biased users.

    Raises:
        ComparisonError: As `configs`; or what a policy was trained on is not recorded.
    """
    return {
        key: dose
        for run, config in zip(runs, configs(runs), strict=True)
        for key, dose in _of(run, config, policy, over)
    }


def _of(run: Path, config: RunConfig, policy: int, over: str) -> Iterator[tuple[tuple[str, int], float]]:
    for arm in config.arms:
        if over == "users":
            yield (arm.name, config.seed), arm.shares.get("biased", 0.0)
            continue
        shares = trained_share(RunDir(run), arm.name, policy)
        if not shares:
            raise ComparisonError(f"{run}: what policy {policy} of arm {arm.name} was trained on is not recorded")
        yield (arm.name, config.seed), shares.get("biased", 0.0)
