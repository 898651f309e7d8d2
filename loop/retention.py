"""Removing what a run no longer needs: old policies, conversations and steps, and never what something else is built on
and cannot do without."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from evals.evaluator import complete
from loop.config.schema import RunConfig
from loop.rundir import RunDir

LINEAGE = ("candor_policy.json", "adapter_config.json", "config.json", "README.md")
"""Small files of a policy that stay, so that every later policy can be followed back to the base."""

_PRUNING = threading.Lock()

PRUNED = "PRUNED"
"""A file in a policy whose weights were removed to save space."""


@dataclass(frozen=True)
class Removal:
    """A file that goes, and its bytes."""

    path: Path
    size: int


def prunable(config: RunConfig, out: RunDir, keep: int, segments: bool = False) -> list[Removal]:
    """What can go when the newest policies of every arm are kept: the weights of those before them.

    A policy keeps its weights while its arm is not done with it (it is not evaluated, or the next is not trained), and
    while it is what training compares with (`trainer.reference`). Its lineage, all figures, plans, selections and
    outcomes stay in any case.

    Args:
        keep: How many of the newest policies of each arm keep their weights, at least 1.
        segments: Whether conversations of rounds that are trained and evaluated go too; then the figures of those
            rounds cannot be computed again, and transcripts are lost.
    """
    found: list[Path] = []
    for arm in config.arms:
        mine = config.for_arm(arm)
        versions = [v for v in range(1, mine.rounds + 1) if out.policy(arm.name, v).exists()]
        needed = _needed(mine, out, arm.name, versions) | set(versions[-keep:])
        for v in versions:
            if v not in needed:
                found += [p for p in _files(out.policy(arm.name, v)) if p.name not in (*LINEAGE, PRUNED)]
        if segments and mine.data is None:
            for r in range(mine.rounds):
                frozen = r == 0 and mine.selection.control == "frozen" and len(versions) < mine.rounds
                folder = out.trajectories(arm.name, r).local
                done = out.policy(arm.name, r + 1).exists() and complete(out.evals(arm.name, r))
                if done and out.rollout(arm.name, r).exists() and not frozen and folder is not None:
                    found += _files(folder)
    return [Removal(path, path.stat().st_size) for path in found]


def _needed(config: RunConfig, out: RunDir, arm: str, versions: list[int]) -> set[int]:
    """Policies whose weights something may still ask for."""
    needed = {v for v in versions if not complete(out.evals(arm, v))}
    if isinstance(config.trainer.reference, int):  # also of a run that is done, as rounds may be added to it
        needed |= {config.trainer.reference} & set(versions)
    if len(versions) < config.rounds:
        needed |= set(versions[-2 if config.trainer.reference == "previous" else -1 :])
    return needed


def _files(folder: Path) -> Iterable[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


def keep_small(config: RunConfig, out: RunDir) -> str | None:
    """What `cluster.keep_policies` asks for, once a round is done; returns what to say of it, if anything went."""
    keep = config.cluster.keep_policies
    with _PRUNING:  # every arm that is done with a round looks at all of them
        found = prunable(config, out, keep) if keep is not None else []
        prune(found, out)
    if not found:
        return None
    folders = sorted({r.path.relative_to(out.root / "policies").parts[:2] for r in found})
    names = ", ".join(f"policy {version} of {arm}" for arm, version in folders)
    return (
        f"removed the weights of {names}, {sum(r.size for r in found) / 2**20:,.1f} MiB (cluster.keep_policies {keep})"
    )


def prune(removals: Iterable[Removal], out: RunDir) -> None:
    """Remove them, and leave a note in the policies of what was removed, so that nobody takes them for damaged."""
    for removal in removals:
        folder = removal.path.parent
        if folder.is_relative_to(out.root / "policies"):
            (folder / PRUNED).touch()
        removal.path.unlink(missing_ok=True)
