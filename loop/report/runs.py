"""Which runs there are below a folder, how far each is, and its headline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from evals.evaluator import complete
from loop.report.scores import headline, suites
from loop.rundir import RunDir, read_json
from loop.runlog import first_line_at

DEEPEST = 2
"""How many folders down runs are looked for; those of a sweep are in a folder of its own."""


def runs(folder: Path) -> list[dict[str, Any]]:
    """What `candor ls` shows, the newest run first."""
    return sorted(map(_about, _found(folder, DEEPEST)), key=lambda r: -r["begun"])


def _found(folder: Path, deepest: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Run directories with their configs; a run holds no other runs."""
    if (config := _run_config(folder)) is not None:
        yield folder, config
    elif deepest:
        for inner in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
            yield from _found(inner, deepest - 1)


def _run_config(folder: Path) -> dict[str, Any] | None:
    """The config of a run directory as it is written there; None for any other folder."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) and "arms" in config and "rounds" in config else None


def _about(found: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    folder, config = found
    out, summary = RunDir(folder.absolute()), read_json(folder / "summary.json")
    arms, rounds = [a["name"] for a in config["arms"]], config["rounds"]
    return {
        "path": str(folder),
        "name": config.get("name"),
        "status": status(out),
        "begun": _begun(out),
        "world": config.get("world"),
        "model": config.get("model"),
        "seed": config.get("seed"),
        "policies": {
            "evaluated": sum(complete(out.evals(arm, r)) for arm in arms for r in range(rounds + 1)),
            "planned": len(arms) * (rounds + 1),
        },
        "honesty": _honesty(summary),
    }


def status(out: RunDir) -> str:
    """`running`, `finished`, `stopped` or `failed` as the run says itself, `interrupted` where it was killed and so
    could not say it, `not begun` where nothing was done yet."""
    told = read_json(out.summary).get("status")
    if out.at_work():
        return "running"
    if told == "running":
        return "interrupted"
    return told or ("interrupted" if out.model.exists() else "not begun")


def _begun(out: RunDir) -> float:
    """When the run was begun, in seconds since 1970: as its log says, else when its first files were written."""
    if (told := first_line_at(out.log)) is not None:
        return told
    return (out.model if out.model.exists() else out.config).stat().st_mtime


def _honesty(summary: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The score of the first suite under pressure, by arm: of the first policy and of the last one that has it."""
    pressure = suites(summary, "mask")[:1] if summary else []
    found: dict[str, list[dict[str, Any]]] = {}
    for arm in summary.get("arms", []):
        scores = [
            {"policy": e["policy"], "suite": suite, "score": of[0], "ci95": list(of[1:])}
            for e in arm["rounds"]
            for suite in pressure
            if suite in e.get("evals", {}) and (of := headline(e["evals"][suite]))
        ]
        if scores:
            found[arm["name"]] = scores if len(scores) == 1 else [scores[0], scores[-1]]
    return found


def table(found: list[dict[str, Any]]) -> Any:
    """The runs for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    out = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("run", "begun", "status", "policies", "honesty score, first to last policy"):
        out.add_column(heading, no_wrap=True)
    for run in found:
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["begun"]))
        honesty = "\n".join(f"{arm} {_change(scores)}" for arm, scores in run["honesty"].items())
        done = "{evaluated} of {planned}".format(**run["policies"])
        out.add_row(escape(run["path"]), begun, run["status"], done, escape(honesty or "-"))
    return out


def _change(scores: list[dict[str, Any]]) -> str:
    return " to ".join(f"{s['score']:.2f}" for s in scores)
