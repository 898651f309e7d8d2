"""What a config would run, and where: everything about it is resolved and checked, and nothing is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from actors.settings import EndpointSettings, EngineSettings
from actors.worlds import WorldError, load_world
from actors.worlds.base import PRESSURE
from actors.worlds.models import resolve
from evals.judging import prompting
from evals.protocols import lm_eval
from evals.settings import EvalSettings
from evals.suites.catalogue import SUITES
from evals.suites.sources import load_all, suites_of
from loop.cluster import check_resources, needs
from loop.config.explain import ConfigError
from loop.config.schema import ArmSettings, RunConfig

Row = dict[str, Any]


def preview(config: RunConfig) -> dict[str, Any]:
    """What a run of this config consists of, for JSON: `run`, `arms`, `models`, `actors`, `suites`, and `here`, what
    this machine lacks for it.

    Models are found, items and data sets read, as a run does before its first conversation; data sets of the Hugging
    Face Hub are fetched where they are not in its cache. No actor, engine or endpoint is asked anything.

    Raises:
        ConfigError: A run of it would be refused; the message says why.
    """
    try:
        scenarios = load_world(config.world).scenarios
        model = resolve(config.model)
        paths = {name: _path(name, settings.model) for name, settings in config.engines.items()}
        arms = [_arm(config, arm) for arm in config.arms]
        suites = _suites(config)
    except ConfigError:
        raise
    except (WorldError, ValueError, OSError) as error:  # data sets, rows and items have errors of their own
        raise ConfigError(str(error)) from None
    return {
        "run": {
            "name": config.name,
            "world": config.world,
            "scenarios": len(scenarios),
            "model": config.model,
            "weights": model,
            "rounds": config.rounds,
            "algorithm": config.trainer.algorithm,
            "policies": config.sync,
            "seed": config.seed,
            "budget": config.budget,
            "buffer": config.buffer.uri,
            "cluster": config.cluster.address,
            "command": "run" if config.converses else "finetune",
        },
        "arms": arms,
        "models": _models(config, paths),
        "actors": [
            {"role": n.role, "count": n.count, "cpus": n.cpus, "gpus": n.gpus} for n in needs(config) if n.count
        ],
        "suites": suites,
        "here": _lacking(config),
    }


def _path(name: str, model: str) -> str:
    try:
        return resolve(model)
    except WorldError as error:
        raise ConfigError(f"models.{name}: {error}") from None


def _arm(config: RunConfig, arm: ArmSettings) -> Row:
    """What an arm does in each round, and the settings that are its own."""
    own = config.for_arm(arm)
    if own.trainer.replay:
        from trainers.replay import noted, read_conversations

        read_conversations(Path(own.trainer.replay.path), noted(own.trainer.replay))
    row: Row = {"arm": arm.name, "conversations": None, "kinds": None, "rows": None, "set": arm.set}
    if own.data is None:
        changes = {r: _kinds(arm, r) for r in sorted(arm.schedule)}
        return row | {"conversations": own.rollout.conversations, "kinds": _kinds(arm, 0), "schedule": changes}
    from trainers.datasets import compose

    return row | {"rows": compose(own.data, own.world, own.seed).record["counts"]}


def _kinds(arm: ArmSettings, round_: int) -> dict[str, float]:
    """The share of each kind of user in a round."""
    shares = arm.shares_in(round_)
    return {"benign": round(1 - sum(shares.values()), 9), **shares}


def _models(config: RunConfig, paths: dict[str, str]) -> list[Row]:
    """Who plays whom: a row for each role and model, with the arms in which it is so."""
    found: dict[tuple[str, str], list[str]] = {}
    for arm in config.arms:
        own = config.for_arm(arm)
        played = [("assistant", "assistant")]
        if own.data is None:
            played += [("generator", own.roles.generator)] if own.roles.generator else []
            played += [("user", own.roles.user), ("rater", own.roles.rater or "user")]
            played.append(("judge", (own.roles.judge or "nobody") if own.judges else "nobody"))
        played += [("evaluation judge", name) for name in own.eval_judges]
        for one in played:
            found.setdefault(one, []).append(arm.name)
    return [
        {"role": role, "model": name, "what": _what(config, role, name, paths), "arms": arms}
        for (role, name), arms in found.items()
    ]


def _what(config: RunConfig, role: str, name: str, paths: dict[str, str]) -> str:
    """What a model is and where it answers."""
    if (role, name) == ("rater", "user"):
        return "the user rates"
    without_model = {
        "nobody": "no verdicts are given",
        "world": "the world's own exact judge",
        "words": "tells options apart by their words",
    }
    if name in without_model:
        return without_model[name]
    if name == "assistant":
        policies = "adapters" if config.sync == "lora" else "whole weights"
        return f"{config.model}, trained; {_engines(config.assistant)}, policies as {policies}"
    if name == "base":
        if not config.own_base_engine:
            return f"{config.model}, untrained; the assistant's engines"
        return f"{config.model}, untrained; {_engines(config.users.engine)} of its own"
    settings = config.models[name]
    if isinstance(settings, EndpointSettings):
        return f"{settings.model} at {settings.base_url}"
    return f"{paths[name]}; {_engines(settings)} of its own"


def _engines(settings: EngineSettings) -> str:
    fewest = f", {settings.min_replicas} of them at least" if settings.min_replicas else ""
    return f"{settings.replicas} engine{'s' * (settings.replicas > 1)}{fewest}"


def _suites(config: RunConfig) -> list[Row]:
    """What every policy is asked; where arms are asked different things, a row names its arms."""
    by_settings: dict[str, list[ArmSettings]] = {}
    for arm in config.arms:
        by_settings.setdefault(config.for_arm(arm).evals.model_dump_json(), []).append(arm)
    rows = []
    for settings, arms in by_settings.items():
        evals = EvalSettings.model_validate_json(settings)
        asked = suites_of(config.world, evals)
        if fault := lm_eval.fault(asked, evals):
            raise ConfigError(fault)
        prompting.load(evals.prompts)
        loaded = load_all(config.world, evals)
        for suite in asked:
            own, names = evals.suite(suite), [arm.name for arm in arms]
            row: Row = {"suite": suite, "protocol": SUITES[suite].protocol, "replicates": own.replicates, "arms": names}
            if suite in loaded:
                items = loaded[suite].items
                pressured = sum(item.condition == PRESSURE for item in items)
                row |= {"items": pressured, "controls": len(items) - pressured, **_origin(loaded[suite].record)}
            else:
                row |= {"items": own.items, "controls": 0, "source": own.source or "lm-eval", "sha256": None}
            rows.append(row)
    return rows


def _origin(record: dict[str, Any]) -> Row:
    return {key: record[key] for key in ("source", "sha256")}


def _lacking(config: RunConfig) -> list[str]:
    """What a run would lack if it were started here and now: keys, cores, GPUs."""
    lacking = [
        f"models.{name}: the environment variable {settings.key_env} is not set"
        for name, settings in config.endpoints.items()
        if settings.key_env and not os.environ.get(settings.key_env, "").strip()
    ]
    if config.cluster.address is None:
        gpus = 0
        if any(n.gpus for n in needs(config)):
            import torch

            gpus = torch.cuda.device_count()
        try:
            check_resources(config, [{"CPU": os.cpu_count() or 1, "GPU": gpus}])
        except ConfigError as error:
            lacking.append(str(error).splitlines()[0].rstrip(":"))
    return lacking


def show(found: dict[str, Any], console: Any, path: str) -> None:
    """Print a preview as tables."""
    run = found["run"]
    where = f"the Ray cluster at {run['cluster']}" if run["cluster"] else "this machine"
    console.print(f"[bold]{run['name']}[/] is sound. Start it with: candor {run['command']} {path}", highlight=False)
    of_world = f"{run['world']}, {run['scenarios']} scenarios"
    about = {"world": of_world, "model": run["weights"], "seed": str(run["seed"]), "runs on": where}
    about |= {"rounds": f"{run['rounds']} in each arm, trained with {run['algorithm']}"}
    about |= {"trajectories": run["buffer"] or "in the run directory"}
    about |= {"budget": f"{run['budget']:g}"} if run["budget"] else {}
    console.print(_table(["", ""], about.items()))
    console.print()
    console.print(_table(["arm", "in each round", "its own settings"], map(_arm_cells, found["arms"])))
    several = len(found["arms"]) > 1
    models = [(m["role"], m["model"], m["what"], *_in(m, found, several)) for m in found["models"]]
    console.print()
    console.print(_table(["role", "model", "what it is", *["arms"] * several], models))
    actors = [(a["role"], a["count"], f"{a['cpus']:g}", f"{a['gpus']:g}") for a in found["actors"]]
    sums = [sum(a["count"] * a[kind] for a in found["actors"]) for kind in ("cpus", "gpus")]
    actors.append(("all", sum(a["count"] for a in found["actors"]), *(f"{s:g}" for s in sums)))
    console.print()
    console.print(_table(["actor", "how many", "CPUs each", "GPUs each"], actors))
    suites = [
        (s["suite"], _items(s), s["replicates"], s["protocol"], _short(s["source"]), *_in(s, found, several))
        for s in found["suites"]
    ]
    console.print()
    console.print(_table(["suite", "items", "times", "protocol", "from", *["arms"] * several], suites))
    if found["here"]:
        console.print()
    for line in found["here"]:
        console.print(f"not on this machine: {line}", style="yellow", highlight=False, markup=False)


def _arm_cells(arm: Row) -> tuple[str, str, str]:
    if arm["rows"] is not None:
        does = f"{arm['rows']['all']} rows, {arm['rows']['added']} of them added"
    else:
        begins = {0: arm["kinds"], **arm["schedule"]}
        kinds = {
            r: ", ".join(f"{100 * share:.4g} % {kind}" for kind, share in of.items() if share)
            for r, of in begins.items()
        }
        does = f"{arm['conversations']} conversations: " + "; ".join(
            f"from round {r} on {who}" if r else who for r, who in kinds.items()
        )
    return arm["arm"], does, ", ".join(f"{key}={value}" for key, value in arm["set"].items())


def _items(suite: Row) -> str:
    controls = f" + {suite['controls']} controls" if suite["controls"] else ""
    return ("all" if suite["items"] is None else str(suite["items"])) + controls


def _in(row: Row, found: dict[str, Any], several: bool) -> list[str]:
    if not several:
        return []
    return ["all" if len(row["arms"]) == len(found["arms"]) else ", ".join(row["arms"])]


def _short(source: str) -> str:
    path = Path(source)
    return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else source


def _table(headings: list[str], rows: Any) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=any(headings))
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table
