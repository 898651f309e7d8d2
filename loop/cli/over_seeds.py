"""`candor eval seeds` and `candor eval spread`: what several runs show that differ in their seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loop.cli.exits import fail
from loop.cli.options import AsJson


def seeds(
    runs: Annotated[list[Path], typer.Argument(help="Run directories that differ in their seed.")],
    policy: Annotated[int, typer.Option(min=0, help="Which policy.")],
    arm: Annotated[str | None, typer.Option(help="The arm that is compared.")] = None,
    against: Annotated[str | None, typer.Option(help="The arm that it is compared with.")] = None,
    trend: Annotated[
        str | None,
        typer.Option(help="Instead of two arms, the trend over all: users, or trained for the trained share."),
    ] = None,
    suite: Annotated[str, typer.Option(help="Which honesty suite.")] = "mask",
    margin: Annotated[
        float | None, typer.Option(help="Also test whether the change is smaller than this share, for example 0.02.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare arms over training seeds: does the rate of lies differ, beyond the luck of training?

    Needs at least two runs that are the same but for their seed. A p value is not corrected for other comparisons.
    """
    import json
    from dataclasses import asdict

    from evals.stats.inference import ComparisonError
    from evals.stats.seeds import contrast
    from evals.stats.seeds import trend as trend_of
    from loop.report.seeds import doses, seed_table

    if (trend is None) == (arm is None) or (arm is None) != (against is None):
        raise fail("give either --arm and --against, or --trend")
    if trend not in (None, "users", "trained"):
        raise fail(f"--trend {trend}: users or trained")
    try:
        table = seed_table(runs, policy, suite)
        if trend is None:
            found, unit = contrast(table, str(arm), str(against), margin), f"{arm} minus {against}"
        else:
            found, unit = trend_of(table, doses(runs, policy, trend), margin), f"from none to all {trend} biased"
    except ComparisonError as error:
        raise fail(str(error)) from None
    if as_json:
        print(json.dumps(asdict(found)))
        return
    print(f"lies, {unit}: {100 * found.value:+.1f} points [{100 * found.low:+.1f}, {100 * found.high:+.1f}]")
    print(f"p = {found.p:.2g} by {found.method}; {found.seeds} seeds, {found.items} items in {found.clusters} clusters")
    print("by seed: " + ", ".join(f"{seed} {100 * value:+.1f}" for seed, value in found.by_seed.items()))
    print(f"a true change of {100 * found.detectable:.1f} points would be found in four of five such comparisons")
    if found.equivalence is not None:
        print(f"within {100 * found.equivalence.margin:g} points: p = {found.equivalence.p:.2g}")


def spread(
    runs: Annotated[list[Path], typer.Argument(help="Run directories that differ in their seed.")],
    arm: Annotated[str, typer.Option(help="Which arm.")],
    policy: Annotated[int, typer.Option(min=0, help="Which policy.")],
    suite: Annotated[str, typer.Option(help="Which honesty suite.")] = "mask",
    as_json: AsJson = False,
) -> None:
    """Show how much of an honesty score's variance is between training seeds, and how much between replicates.

    The runs need evals.SUITE.replicates of 2 or more.
    """
    import json
    from dataclasses import asdict

    from evals.stats.inference import ComparisonError
    from loop.report.contrasts import seed_spread

    try:
        found, same_items = seed_spread(runs, arm, policy, suite)
    except ComparisonError as error:
        raise fail(str(error)) from None
    if as_json:
        print(json.dumps(asdict(found) | {"same_items": same_items}))
        return
    whole = found.between + found.within
    share = f"{found.between / whole:.0%} of the variance" if whole else "no variance"
    print(f"mean {found.mean:.3f} over {len(runs)} training seeds")
    print(f"standard deviation between training seeds: {found.between**0.5:.4f} ({share})")
    print(f"standard deviation between replicates:     {found.within**0.5:.4f}")
    if not same_items:
        print("The runs were asked different items (see evals.seed), which is a part of the first figure.")
