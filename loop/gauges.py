"""Gauges of a run among Ray's metrics, for Prometheus: all that the heartbeat knows, and nothing that it does not.

Ray exports them on every machine beside its own, as `ray_` and the name here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GaugeOf:
    """A gauge.

    Attributes:
        about: What it says, with its unit.
        tags: What it is told apart by, beside the name of the run.
        passes: Whether it falls to 0 when its subject is over; others keep their last value.
    """

    about: str
    tags: tuple[str, ...] = ()
    passes: bool = False


GAUGES = {
    "candor_heartbeat_seconds": GaugeOf("When the driver last looked after its actors, seconds since 1970"),
    "candor_stage_active": GaugeOf("1 while a stage of a round is under way", ("arm", "round", "stage"), passes=True),
    "candor_stage_done": GaugeOf("How far the stage is, in its own unit", ("arm", "stage"), passes=True),
    "candor_stage_of": GaugeOf("How far the stage will go", ("arm", "stage"), passes=True),
    "candor_round": GaugeOf("The round at work", ("arm",)),
    "candor_conversations_per_second": GaugeOf("Conversations that end", ("arm",), passes=True),
    "candor_replies_per_second": GaugeOf("Replies of the assistant", ("arm",), passes=True),
    "candor_tokens_per_second": GaugeOf("Tokens of these replies", ("arm",), passes=True),
    "candor_conversations_under_way": GaugeOf("Conversations that pools hold"),
    "candor_requests_under_way": GaugeOf("Requests that an engine has not answered", ("actor", "role"), passes=True),
    "candor_prefix_hit_rate": GaugeOf("Share of prompts that an engine had cached", ("actor", "role")),
    "candor_trajectories_unwritten": GaugeOf("Trajectories that the buffer has not written yet"),
    "candor_excluded": GaugeOf("Conversations of the round that failed and are excluded"),
    "candor_excluded_share": GaugeOf("The same as a share of those that are planned"),
    "candor_actors": GaugeOf("Actors by what they are at", ("state",), passes=True),
    "candor_actor_still_seconds": GaugeOf("Since when an actor with work makes no progress", ("actor", "role")),
    "candor_actor_restarts": GaugeOf("How often an actor was started again", ("actor", "role")),
    "candor_actor_memory_bytes": GaugeOf("Memory of an actor's processes", ("actor", "role"), passes=True),
    "candor_stalled_actors": GaugeOf("Actors that the stall rule has ended"),
    "candor_budget": GaugeOf("What the run may spend, in the currency of its prices"),
    "candor_budget_spent": GaugeOf("What it has spent"),
    "candor_disk_free_bytes": GaugeOf("Free space where the run directory is"),
    "candor_disk_free_share": GaugeOf("The same as a share of all space there"),
}
"""Every gauge, by name."""

Reading = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a gauge, and the values of its tags."""


def totals(actors: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What lines of the heartbeat about actors come to together: requests and conversations under way, the share of
    prompts that was cached, trajectories that are not written yet, and excluded conversations of the round."""
    sums: Counter[str] = Counter()
    for line in actors:
        sums.update(line.get("figures", {}))
    found = {
        "requests_under_way": sums["requests"],
        "conversations_under_way": sums["conversations"],
        "unwritten": sums["unwritten"],
        "excluded_so_far": sums["excluded"],
    }
    if sums["planned"]:
        found["excluded_share"] = sums["excluded"] / sums["planned"]
    if sums["prompt_tokens"]:
        found["prefix_hit_rate"] = sums["cached_tokens"] / sums["prompt_tokens"]
    return {name: float(value) for name, value in found.items()}


def readings(beat: Mapping[str, Any]) -> dict[Reading, float]:
    """What each gauge shows of a heartbeat."""
    found: dict[Reading, float] = {}

    def show(name: str, value: float | None, **tags: Any) -> None:
        if value is not None:
            found[name, tuple(sorted((k, str(v)) for k, v in tags.items()))] = float(value)

    figures, disk = beat["figures"], beat["disk"]
    show("candor_heartbeat_seconds", beat["at"])
    show("candor_conversations_under_way", figures["conversations_under_way"])
    show("candor_trajectories_unwritten", figures["unwritten"])
    show("candor_excluded", figures["excluded_so_far"])
    show("candor_excluded_share", figures.get("excluded_share"))
    show("candor_stalled_actors", beat["stalled"])
    show("candor_budget", beat["budget"])
    show("candor_disk_free_bytes", disk["free"])
    show("candor_disk_free_share", disk["free"] / disk["total"])
    for stage in beat["stages"]:
        arm, kind = stage.get("arm", ""), stage.get("stage", stage["name"])
        show("candor_stage_active", 1, arm=arm, round=stage.get("round", ""), stage=kind)
        show("candor_stage_done", stage["done"], arm=arm, stage=kind)
        show("candor_stage_of", stage["of"], arm=arm, stage=kind)
        if arm:
            show("candor_round", stage["round"], arm=arm)
        measured = stage["figures"]
        for what in ("conversations", "replies", "tokens"):
            show(f"candor_{what}_per_second", measured.get(f"{what}_per_second"), arm=arm)
        show("candor_budget_spent", measured.get("budget_spent"))
    for state, count in Counter(line["state"] for line in beat["actors"]).items():
        show("candor_actors", count, state=state)
    for line in beat["actors"]:
        who = {"actor": line["name"], "role": line["role"]}
        counted = line.get("figures", {})
        busy = line["state"] in ("working", "silent")
        show("candor_actor_still_seconds", line.get("since", 0) if busy else 0, **who)
        show("candor_actor_restarts", line["restarts"], **who)
        show("candor_actor_memory_bytes", line.get("memory"), **who)
        show("candor_requests_under_way", counted.get("requests"), **who)
        if counted.get("prompt_tokens"):
            show("candor_prefix_hit_rate", counted["cached_tokens"] / counted["prompt_tokens"], **who)
    return found


class Gauges:
    """The gauges of a run, as Ray exports them from the machine of its driver.

    Args:
        run: Its name, by which several runs are told apart.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._made: dict[str, Any] = {}
        self._shown: set[Reading] = set()

    def show(self, beat: Mapping[str, Any]) -> None:
        """Set every gauge to what a heartbeat says; those whose subject is over fall to 0."""
        now = readings(beat)
        over = {r for r in self._shown - now.keys() if GAUGES[r[0]].passes}
        for reading, value in [*now.items(), *((r, 0.0) for r in over)]:
            name, tags = reading
            self._gauge(name).set(value, {"run": self._run, **dict(tags)})
        self._shown = set(now)

    def _gauge(self, name: str) -> Any:
        from ray.util.metrics import Gauge

        if name not in self._made:
            self._made[name] = Gauge(name, GAUGES[name].about, ("run", *GAUGES[name].tags))
        return self._made[name]
