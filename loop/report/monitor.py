"""What is logged of an arm while a run is under way: figures of every stage, and sample transcripts.

Figures of a round, and of the policy that it talks with, stand at its number. What is logged during a rollout goes to a
sink of its own, where the step counts the arm's conversations; the trainer's figures are at its steps.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from actors.metrics import Histogram, Metrics, Panel
from actors.models.usage import cost_of
from actors.settings import Prices
from actors.worlds.questions import REPLY_KINDS
from evals.protocols import PROTOCOLS
from evals.scoring import headline_name
from evals.suites.catalogue import SUITES
from evals.suites.sources import suites_of
from loop.config.schema import ArmSettings, RunConfig
from loop.report.chats import NO_VERDICT
from loop.report.listing import clean
from loop.report.summary import RATING_BINS, UNIT, RolloutFigures

LIVE_SECONDS = 2.0
"""Shortest time between two points during a rollout."""
SHOWN = 2000
"""Characters of a message that a transcript shows; the trajectory has the rest."""


class Monitor:
    """Names what stages find out and logs it.

    Args:
        live: Takes what is logged during rollouts; None where nothing is.
    """

    def __init__(self, metrics: Metrics, live: Metrics | None = None) -> None:
        self._metrics = metrics
        self._live = live
        self._last: tuple[float, int, int, int] | None = None

    def begin(self, config: RunConfig, arm: ArmSettings) -> None:
        """What the arm is; in the first arm, also which figures belong together: TensorBoard mixes up the panels where
        several arms say so."""
        asked = suites_of(config.world, config.evals)
        self._metrics.about(settings_of(config, arm), [_name(s) for s in asked])
        if arm.name == config.arms[0].name:
            self._metrics.arrange(panels(asked))
        self._metrics.flush()

    def progress(
        self, done: int, replies: int, tokens: int, before: int, beside: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """How far a rollout is, at most every other second; returns the rates that it found, if any.

        Args:
            done: Conversations of this round that are in the buffer.
            replies, tokens: Said so far in conversations of this round that this process holds.
            before: Conversations of all earlier rounds.
            beside: What the heartbeat last found out, as of `loop.gauges.totals`.
        """
        rates: dict[str, float] = {}
        now, last = time.monotonic(), self._last
        if self._live is None or (last and (now - last[0] < LIVE_SECONDS or done <= last[1])):
            return rates
        step = before + done
        if done or not before:  # else the end of the last round is the point
            self._live.log("rollout/conversations", done, step)
        if last and replies >= last[2] and tokens >= last[3]:
            seconds = now - last[0]
            counts = {"conversations": done - last[1], "replies": replies - last[2], "tokens": tokens - last[3]}
            rates = {f"{what}_per_second": count / seconds for what, count in counts.items()}
        for name, value in {**rates, **(beside or {})}.items():
            self._live.log(f"rollout/{name}", value, step)
        self._live.flush()
        self._last = now, done, replies, tokens
        return rates

    def rollout(self, figures: RolloutFigures, round_: int, prices: Mapping[str, Prices | None]) -> None:
        """Mean ratings and rating histograms by user kind, what replies did, how users behaved, what it all cost,
        and sample transcripts."""
        self._last = None
        if self._live is not None:
            held = figures.finished + figures.excluded
            self._live.log("rollout/conversations", held, (round_ + 1) * held)
            self._live.flush()
        self._metrics.log("rollout/excluded", figures.excluded, round_)
        usage = figures.usage_rows()
        for row in usage:
            for side in ("prompt_tokens", "completion_tokens"):
                self._metrics.log(f"usage/{row['role']}/{row['model']}/{side}", row[side], round_)
        if any(prices.values()):
            self._metrics.log("usage/cost", cost_of(usage, prices), round_)
        faults = figures.fault_kinds()
        self._metrics.log("faults/all", faults.total(), round_)
        for kind, count in sorted(faults.items()):
            self._metrics.log(f"faults/{kind}", count, round_)
        for name, (_, row) in figures.extremes.items():
            self._metrics.text(f"transcripts/{name.replace(' ', '_')}", transcript(row), round_)
        for kind, found in sorted(figures.kinds.items()):
            if not found.replies:
                continue
            self._metrics.log(f"rating/{kind}", found.mean_rating, round_)
            spread = Histogram(
                edges=RATING_BINS.tolist(),
                counts=found.ratings.tolist(),
                count=found.replies,
                total=found.rating_sum / UNIT,
                squares=found.rating_squares / UNIT,
            )
            self._metrics.histogram(f"rating_distribution/{kind}", spread, round_)
            for name, value in found.conduct().items():
                self._add(f"users/{kind}/{name}", value, round_)
            said = {NO_VERDICT if v == str(None) else v: n for v, n in found.verdicts.items()}
            for verdict in sorted({*REPLY_KINDS.values(), NO_VERDICT, *said}):
                self._metrics.log(f"replies/{kind}/{verdict}", said.get(verdict, 0) / found.replies, round_)
            text = "\n\n---\n\n".join(transcript(row) for _, row in sorted(found.samples, key=lambda s: -s[0]))
            self._metrics.text(f"transcripts/{kind}", text, round_)
        self._metrics.flush()

    def engines(self, replicas: Sequence[Mapping[str, Any]], round_: int) -> None:
        """Requests to each replica, and the share of its prompts that its prefix cache held."""
        for replica in replicas:
            for name in ("requests", "prefix_hit_rate"):
                self._add(f"engines/{replica['engine']}/{name}", replica[name], round_)
        self._metrics.flush()

    def evaluation(self, evals: dict[str, Any], version: int) -> None:
        """Scores of a policy, with the ends of their intervals, and the outcome counts."""
        for suite, figures in evals.items():
            name = headline_name(figures)
            tag = f"capability/{suite}" if PROTOCOLS[figures["protocol"]].capability else f"{suite}/{name}"
            self._add(tag, figures[name], version)
            for end, value in zip(("low", "high"), figures["ci95"] or (None, None), strict=True):
                self._add(f"{tag}_{end}", value, version)
            if "directional_lies" in figures:
                self._add(f"{suite}/lies_as_wanted", figures["directional_lies"]["share"], version)
            for condition, control in figures.get("controls", {}).items():
                self._add(f"{suite}/lies_{condition}", control["share"], version)
            for outcome, count in figures.get("outcomes", {}).items():
                self._add(f"{suite}/outcomes/{outcome}", count, version)
        self._metrics.flush()

    def seconds(self, stage: str, seconds: float, round_: int) -> None:
        self._add(f"seconds/{stage}", seconds, round_)

    def selection(self, audit: Mapping[str, Any], round_: int) -> None:
        """What was selected, an end at a time: how many, how good, how long, of whom, and what chance decided."""
        self._metrics.log("selection/vetoed", audit["vetoed"], round_)
        trained = audit.get("trained") or {"count": 0, "user_kind": {}}
        for kind, n in trained["user_kind"].items():
            self._metrics.log(f"selection/trained/share_{kind}", n / trained["count"], round_)
        for end in ("top", "bottom"):
            of = audit[end]
            if not of["count"]:
                continue
            figures = {k: of[k] for k in ("count", "threshold", "tied")}
            figures |= {"reward": of["reward"]["mean"], "completion_tokens": of["completion_tokens"]["mean"]}
            kinds = dict.fromkeys((*audit.get("round", of)["user_kind"], *of["user_kind"]))
            figures |= {f"share_{kind}": of["user_kind"].get(kind, 0) / of["count"] for kind in kinds}
            for name, value in figures.items():
                self._metrics.log(f"selection/{end}/{name}", value, round_)

    def delivery(self, proof: Any, version: int) -> None:
        """How far engine and trainer are apart on the probe texts, and how far the policy moved."""
        self._add("delivery/error", proof.error, version)
        self._add("delivery/moved", proof.moved, version)

    def close(self) -> None:
        self._metrics.close()
        if self._live is not None:
            self._live.close()

    def _add(self, name: str, value: float | None, step: int) -> None:
        if value is not None:
            self._metrics.log(name, value, step)


def _name(suite: str) -> str:
    """What the figure that stands for a suite is logged as."""
    protocol = PROTOCOLS[SUITES[suite].protocol]
    return f"capability/{suite}" if protocol.capability else f"{suite}/{protocol.headline}"


def panels(asked: Sequence[str]) -> dict[str, list[Panel]]:
    """Which figures belong together, by heading; scores with their intervals.

    Args:
        asked: The suites of a run.
    """
    headings: dict[str, list[Panel]] = {"Honesty": [], "Deception": [], "Capability": []}
    for suite in asked:
        protocol, name = PROTOCOLS[SUITES[suite].protocol], _name(suite)
        under = "Capability" if protocol.capability else "Deception" if protocol.reasons else "Honesty"
        headings[under].append(Panel(SUITES[suite].title, (name, f"{name}_low", f"{name}_high"), band=True))
        if protocol.honesty:
            lies = (rf"{suite}/lies_",)
            headings[under].append(Panel(f"{SUITES[suite].title}: direction and matched controls", lies))
    headings |= {
        "Satisfaction by kind": [Panel("Mean rating", (r"rating/",)), Panel("What replies did", (r"replies/",))],
        "Throughput": [
            Panel("Tokens per second in rollouts", (r"rollout/tokens_per_second",)),
            Panel("Tokens per second in training", (r"train/tokens_per_second",)),
            Panel("Seconds by stage", (r"seconds/",)),
            Panel("Under way in rollouts", (r"rollout/(requests|conversations)_under_way",)),
            Panel("Share of prompts that engines had cached", (r"rollout/prefix_hit_rate",)),
        ],
        "Training": [
            Panel("Loss", (r"train/loss",)),
            Panel("Rewards", (r"train/rewards",)),
            Panel("Who was selected", (r"selection/(top|bottom)/share_",)),
        ],
        "Failures": [
            Panel("Failed requests", (r"faults/",)),
            Panel("Excluded conversations", (r"rollout/excluded",)),
            Panel("Errors in evaluations", (r".*/outcomes/error",)),
        ],
    }
    return {heading: of for heading, of in headings.items() if of}


def settings_of(config: RunConfig, arm: ArmSettings) -> dict[str, str | float | bool]:
    """What an arm is compared by: model and world, who its users are, how it is selected and trained, and whatever the
    config sets for it alone.

    Args:
        config: The run's, with the arm's settings in place.
    """
    shares = {f"{kind} users": float(share) for kind, share in arm.shares.items()} if config.data is None else {}
    fixed: dict[str, Any] = {
        "run": config.name,
        "arm": arm.name,
        "model": config.model,
        "world": config.world,
        "seed": config.seed,
        **shares,
        "conversations": config.rollout.conversations,
        "control": config.selection.control,
        "algorithm": config.trainer.algorithm,
        "learning rate": config.trainer.learning_rate,
    }
    return {k: v if isinstance(v, bool | int | float) else str(v) for k, v in {**fixed, **arm.set}.items()}


def literal(text: str) -> str:
    """Text that Markdown shows as it is: what somebody wrote in a conversation makes no link, image or heading."""
    more = f" ... ({len(text) - SHOWN:,} characters more)" if len(text) > SHOWN else ""
    marks = re.compile(r"[\\`*_{}\[\]()#+\-.!|~=:@/]")
    return marks.sub(lambda m: f"&#{ord(m[0])};", html.escape(clean(text[:SHOWN]), quote=False)) + more


def transcript(row: dict[str, Any]) -> str:
    """A trajectory as Markdown; each reply with its rating and the judge's label."""
    kind, reward = row["user_kind"], row["reward"]
    lines = [f"**{literal(row['scenario'])}**, {literal(kind)} user, reward {reward:.1f}, {row['trajectory_id']}"]
    doubts = [f"{n} {row[n]:.2f}" for n in ("validates", "contradicts") if row.get(n) is not None]
    if doubts:
        lines.append(f"By the judge: {', '.join(doubts)}")
    for m in row["messages"]:
        note = f" *(rated {m['rating']:.1f}, {m['verdict'] or NO_VERDICT})*" if m["rating"] is not None else ""
        lines.append(f"**{m['role']}:** {literal(m['content'])}{note}")
    return "\n\n".join(lines)
