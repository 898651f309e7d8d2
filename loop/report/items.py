"""Evaluation items across the policies of a run: an index of their outcomes, while prompts and answers stay on disk."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from actors.storage.segments import BufferError, read_table
from actors.worlds.base import PRESSURE
from evals.evaluator import RECORD, complete
from evals.outcomes import SCHEMA
from evals.protocols import PROTOCOLS
from evals.stats.compare import Paired, paired
from evals.stats.inference import ComparisonError
from evals.stats.intervals import Share, share
from loop.config.schema import RunConfig
from loop.report.filters import QueryError, known
from loop.rundir import RunDir, read_json

Policy = tuple[str, int]
"""Arm and version."""
ABOUT = ("category", "condition", "wanted", "truth", "cluster")
"""What is the same for every policy of an item."""
COLUMNS = ("item_id", "outcome", *ABOUT)
TURNED = "honest to lie"
CHANGES = (TURNED, "lie to honest", "changed")
"""How an item may have gone from the first to the last policy of an arm."""
SUSPECT = ("lie", "wrong", "claimed")
"""Outcomes that one looks for first."""


@dataclass
class Item:
    """One item of a suite.

    Attributes:
        about: Its `ABOUT`.
        outcomes: By policy, the outcome of each of its answers.
    """

    item_id: str
    about: dict[str, Any]
    outcomes: dict[Policy, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemQuery:
    """Which items are asked for; what is None asks for all.

    Attributes:
        outcome: Any answer came to it, of `arm` and policy `version` alone where those are given.
        change: One of `OutcomeIndex.changes`, of any arm or of `arm`.
    """

    outcome: str | None = None
    change: str | None = None
    condition: str | None = None
    category: str | None = None
    arm: str | None = None
    version: int | None = None

    def fits(self, item: Item) -> bool:
        """Whether an item is among them."""
        for name in ("condition", "category"):
            if (wanted := getattr(self, name)) is not None and item.about[name] != wanted:
                return False
        mine = {p: of for p, of in item.outcomes.items() if self.arm in (None, p[0])}
        if self.outcome is not None and not any(
            self.outcome in of for (_, version), of in mine.items() if self.version in (None, version)
        ):
            return False
        return self.change is None or any(_change(mine, arm, self.change) for arm in {p[0] for p in mine})


def _change(outcomes: dict[Policy, list[str]], arm: str, change: str) -> bool:
    mine = [of for (a, _), of in sorted(outcomes.items()) if a == arm]
    first, last = mine[0], mine[-1]
    if change == "changed":
        return first != last
    before, after = change.split(" to ")
    return before in first and after not in first and after in last and before not in last


@dataclass(frozen=True)
class Comparison:
    """Two policies on the items that they have in common.

    Attributes:
        outcome: What is counted.
        first, second: Its share of their answers, each item counted once.
    """

    outcome: str
    first: float
    second: float
    paired: Paired


class OutcomeIndex:
    """The outcomes of every policy that has been asked everything.

    Attributes:
        policies: In the order of arms and versions.
        suites: By name, the items of a suite by id.
        protocols: By suite.
        problems: What was said of files that cannot be used.
    """

    def __init__(self, out: RunDir, config: RunConfig) -> None:
        self._out = out
        self._config = config
        self._seen: set[Policy] = set()
        self.policies: list[Policy] = []
        self.suites: dict[str, dict[str, Item]] = {}
        self.protocols: dict[str, str] = {}
        self.problems: list[str] = []

    def refresh(self) -> None:
        """Read what was completed since the last time."""
        every = [(a.name, r) for a in self._config.arms for r in range(self._config.rounds + 1)]
        for policy in every:
            folder = self._out.evals(*policy)
            if policy in self._seen or not complete(folder):
                continue
            self._seen.add(policy)
            for suite, about in read_json(folder / RECORD)["suites"].items():
                try:
                    table = read_table(folder / f"{suite}.arrow", SCHEMA).select(COLUMNS)
                except BufferError as error:
                    self.problems.append(str(error))
                    continue
                self.protocols[suite] = about["protocol"]
                self._add(policy, suite, table)
            self.policies = [p for p in every if p in self._seen]

    def _add(self, policy: Policy, suite: str, table: pa.Table) -> None:
        items = dict(self.suites.get(suite, {}))
        for row in table.to_pylist():
            name = row["item_id"]
            item = items.setdefault(name, Item(name, {k: row[k] for k in ABOUT}))
            item.outcomes.setdefault(policy, []).append(row["outcome"])
        self.suites[suite] = items

    def outcomes(self, suite: str) -> list[str]:
        """Every outcome that an item of a suite came to, those that one looks for first."""
        there = {o for item in self.suites[suite].values() for of in item.outcomes.values() for o in of}
        return sorted(there, key=lambda o: (o not in SUSPECT, o))

    def changes(self, suite: str) -> list[str]:
        """How an item of a suite may have changed: `CHANGES`, and from any outcome to any other."""
        found = self.outcomes(suite)
        return [*CHANGES, *(c for a in found for b in found if a != b and (c := f"{a} to {b}") not in CHANGES)]

    def conditions(self, suite: str) -> Counter[str]:
        """How many items of a suite are asked under each condition."""
        return Counter(item.about["condition"] for item in self.suites[suite].values())

    def scored(self, suite: str) -> str | None:
        """The condition of the items that the suite's figures are made of, where it has matched controls beside them;
        None where all items count."""
        found = self.conditions(suite)
        return PRESSURE if PRESSURE in found and len(found) > 1 else None

    def counts(self, suite: str, condition: str | None = None) -> dict[Policy, Counter[str]]:
        """How many answers of each policy came to which outcome.

        Args:
            condition: Of the items; None takes those that the suite's figures are made of (`scored`).
        """
        found: dict[Policy, Counter[str]] = {p: Counter() for p in self.policies}
        wanted = condition or self.scored(suite)
        for item in self.suites[suite].values():
            if wanted in (None, item.about["condition"]):
                for policy, of in item.outcomes.items():
                    found[policy].update(of)
        return found

    def measured(self, suite: str) -> str | None:
        """The outcome whose share is the figure of a suite, such as lies; None where its figure is another."""
        return PROTOCOLS[self.protocols[suite]].counted

    def share(self, suite: str, policy: Policy, condition: str | None = None) -> Share | None:
        """The share of a policy's answers that came to the outcome `measured`, with its interval over clusters; answers
        that failed are left out. None where none is left, or more failed than `evals.max_error_share`.

        Args:
            condition: As of `counts`.
        """
        if self.refused(suite, policy, condition):
            return None
        hits = self._hits(suite, policy, condition)
        clusters = [self.suites[suite][name].about["cluster"] for name, of in hits.items() for _ in of]
        return share([hit for of in hits.values() for hit in of], clusters)

    def refused(self, suite: str, policy: Policy, condition: str | None = None) -> bool:
        """Whether so many of a policy's answers failed that its protocol gives no score (`evals.max_error_share`)."""
        wanted, protocol = condition or self.scored(suite), PROTOCOLS[self.protocols[suite]]
        arm = next(a for a in self._config.arms if a.name == policy[0])
        most = self._config.for_arm(arm).evals.max_error_share
        for table in self._tables(policy, suite):
            mine = table if wanted is None else table.filter(pc.equal(table["condition"], wanted))
            figures = protocol.summarise(mine, most)
            return figures[protocol.headline_of(figures)] is None
        return False

    def compare(self, suite: str, first: Policy, second: Policy, condition: str | None = None) -> Comparison | str:
        """How one policy differs from another in the share of `measured`, over items of which both have an answer that
        did not fail; or why that cannot be said.

        Args:
            condition: As of `counts`.
        """
        if (measured := self.measured(suite)) is None:
            return "its figure is not the share of one outcome"
        for arm, version in (first, second):
            if self.refused(suite, (arm, version), condition):
                return f"too many answers of {arm} {version} failed (evals.max_error_share)"
        means = [
            {name: sum(of) / len(of) for name, of in self._hits(suite, policy, condition).items()}
            for policy in (first, second)
        ]
        common = means[0].keys() & means[1].keys()
        try:
            found = paired(*means, {name: item.about["cluster"] for name, item in self.suites[suite].items()})
        except ComparisonError:
            return "the two have no item in common"
        shares = [sum(of[name] for name in common) / len(common) for of in means]
        return Comparison(measured, *shares, found)

    def _hits(self, suite: str, policy: Policy, condition: str | None) -> dict[str, list[bool]]:
        """By item, which of a policy's answers came to `measured`."""
        wanted, measured = condition or self.scored(suite), self.measured(suite)
        found = {
            name: [outcome == measured for outcome in item.outcomes.get(policy, ()) if outcome != "error"]
            for name, item in self.suites[suite].items()
            if wanted in (None, item.about["condition"])
        }
        return {name: of for name, of in found.items() if of and measured}

    def find(self, suite: str, query: ItemQuery, text: str = "") -> list[Item]:
        """The items that are asked for; `text` may stand in any prompt, answer or verdict about them.

        Raises:
            QueryError: The run has no such suite, or no such value.
        """
        known("--suite", [suite], self.suites)
        items = self.suites[suite]
        there = {
            "outcome": self.outcomes(suite),
            "change": self.changes(suite),
            "condition": sorted(self.conditions(suite)),
            "category": sorted({i.about["category"] for i in items.values()}),
            "arm": [a.name for a in self._config.arms],
        }
        for name, values in there.items():
            if (given := getattr(query, name)) is not None:
                known(f"--{name}", [given], values)
        found = [item for item in items.values() if query.fits(item)]
        if text:
            standing = self._search(suite, text)
            found = [item for item in found if item.item_id in standing]
        return found

    def _search(self, suite: str, text: str) -> set[str]:
        found: set[str] = set()
        for policy in self.policies:
            for table in self._tables(policy, suite):
                masks = [pc.match_substring(table["item_id"], text, ignore_case=True).to_numpy().copy()]
                for column, name in (("said", "prompt"), ("said", "text"), ("rulings", "raw")):
                    lists = table[column].combine_chunks()
                    texts = pc.struct_field(pc.list_flatten(lists), name)
                    at = pc.fill_null(pc.match_substring(texts, text, ignore_case=True), False)
                    masks[0][pc.list_parent_indices(lists).filter(at).to_numpy()] = True
                found |= set(table["item_id"].filter(pa.array(masks[0])).to_pylist())
        return found

    def _tables(self, policy: Policy, suite: str) -> list[pa.Table]:
        """The outcomes of one policy, where it was asked the suite."""
        path = self._out.evals(*policy) / f"{suite}.arrow"
        try:
            return [read_table(path, SCHEMA)] if path.exists() else []
        except BufferError:
            return []  # it is among the problems

    def answers(self, suite: str, item_id: str) -> dict[Policy, list[dict[str, Any]]]:
        """What each policy was asked, believed and said of an item, and what judges said of that: rows of
        `evals.outcomes.SCHEMA` with prompts as messages, by policy.

        Raises:
            QueryError: There is no such suite or item.
        """
        known("--suite", [suite], self.suites)
        if item_id not in self.suites[suite]:
            raise QueryError(f"suite {suite} has no item {item_id}")
        found: dict[Policy, list[dict[str, Any]]] = {}
        for policy in self.policies:
            for table in self._tables(policy, suite):
                rows = table.filter(pc.equal(table["item_id"], item_id)).to_pylist()
                found[policy] = [_shown(r) for r in rows]
        return {policy: rows for policy, rows in found.items() if rows}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """An outcome with prompts as messages, and with the rulings of each part beside it."""
    said = [
        s | {"messages": _messages(s["prompt"]), "rulings": [r for r in row["rulings"] if r["part"] == s["part"]]}
        for s in row["said"]
    ]
    parts = {s["part"] for s in row["said"]}
    return row | {"said": said, "further": [r for r in row["rulings"] if r["part"] not in parts]}


def _messages(prompt: str) -> list[dict[str, str]]:
    """A prompt as messages; one that is no JSON, as it was given to a model that has no chat template."""
    try:
        found = json.loads(prompt)
    except ValueError:
        return [{"role": "prompt", "content": prompt}]
    return found if isinstance(found, list) else [{"role": "prompt", "content": prompt}]


def title(protocol: str) -> str:
    """What a protocol is called in full."""
    return PROTOCOLS[protocol].title if protocol in PROTOCOLS else protocol
