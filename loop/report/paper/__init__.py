"""A run beside the paper: our figure, theirs, the difference with its interval, and what is odd about theirs.

`hu2025.yaml`, which lies beside this module, has every figure that Hu et al. 2025 report. Everything here is a pure
function of it and of a run's `summary.json`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from evals.scoring import headline_name
from evals.stats.grim import Printed, check
from evals.stats.intervals import Estimate, newcombe, wilson
from loop.report.scores import headline

DATA = files(__package__) / "hu2025.yaml"
VANILLA = "vanilla"
TOTAL = "total"
ROW = 3
"""Fewer figures than this may agree by chance, more hardly: a copied row has at least so many."""
FIRST = 1
"""The policy that stands for a condition where nothing else is said: the paper trains once."""


class PaperError(ValueError):
    """Reported figures that cannot be read, or a comparison that nobody can make; the message says what is right."""


@dataclass(frozen=True)
class Reported:
    """One figure of the paper.

    Attributes:
        experiment: `direct`, `mixture` or `interaction`.
        condition: What the model was trained on, one of the keys under `conditions`.
        suite, category: As `evals.suites.sources` calls them; `total` is the whole suite where categories stand beside
            it, None where there are none.
        measure: `deception_rate`, `honesty_score` or `accuracy`.
        value: A percentage as printed, so that its digits are known.
        n: How many items the category has.
    """

    table: str
    model: str
    experiment: str
    condition: str
    suite: str
    category: str | None
    measure: str
    value: str
    n: int

    @property
    def share(self) -> float:
        return float(Decimal(self.value) / 100)


@dataclass(frozen=True)
class Flags:
    """What is odd about a figure.

    Attributes:
        impossible: The nearest percentages that are shares of its items, where it is none (GRIM).
        fewer: The most items, but at least half, that an impossible figure is a share of: with few items a sign that
            some were left out, with hundreds next to none.
        copied: Where its whole row stands again under another condition or model.
    """

    impossible: tuple[str, str] | None = None
    fewer: int | None = None
    copied: tuple[str, ...] = ()


@dataclass(frozen=True)
class Side:
    """One of our figures beside one of theirs.

    Attributes:
        ours: Our share with its interval; None where the suite got no score.
        n, n_effective: Our items, and how many independent ones they are worth.
        theirs: Their figure; the same one printed in several tables stands here once.
        tables: All tables that print it.
        difference: Ours minus theirs in points with its interval (`newcombe`); None where we have no score.
        flags: Of all those tables together.
        rules: By whose rules ours was scored, where figures by two of them stand side by side
            (`evals.protocols.mask_rules`).
    """

    arm: str
    policy: int
    ours: Estimate | None
    n: int
    n_effective: float
    theirs: Reported
    tables: tuple[str, ...]
    difference: Estimate | None
    flags: Flags
    rules: str = ""


def reported(source: Traversable = DATA) -> list[Reported]:
    """Every figure of the paper, in the order of its tables.

    Raises:
        PaperError: The file is not as `hu2025.yaml` explains; the message names the entry and the field.
    """
    try:
        raw = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PaperError(f"{source}: cannot be read ({error})") from None
    wanted = [f.name for f in fields(Reported)]
    if not isinstance(raw, dict) or not all(isinstance(raw.get(k), dict) for k in ("models", "conditions")):
        raise PaperError(f"{source}: models, conditions, fields and figures are expected")
    if raw.get("fields") != wanted or not isinstance(raw.get("figures"), list) or not raw["figures"]:
        raise PaperError(f"{source}: a list of figures is expected, with the fields {', '.join(wanted)}")
    known = {"model": raw["models"], "condition": raw["conditions"]}
    found: dict[tuple, Reported] = {}
    for number, entry in enumerate(raw["figures"], 1):
        one = _entry(entry, f"{source}, figure {number}", wanted, known)
        key = (one.table, one.model, one.condition, one.suite, one.category, one.measure)
        if key in found:
            raise PaperError(f"{source}, figure {number}: {', '.join(map(str, key))} is there twice")
        found[key] = one
    return list(found.values())


def _entry(entry: Any, where: str, wanted: Sequence[str], known: Mapping[str, Mapping[str, str]]) -> Reported:
    if not isinstance(entry, list) or len(entry) != len(wanted):
        count = len(entry) if isinstance(entry, list) else type(entry).__name__
        raise PaperError(f"{where}: found {count} of {len(wanted)} fields; needed are {', '.join(wanted)}")
    row = dict(zip(wanted, entry, strict=True))
    for name, value in row.items():
        if name != "n" and not (isinstance(value, str) and value) and (name, value) != ("category", None):
            raise PaperError(f"{where}, {name}: found {value!r}; text is needed, a percentage in quotes too")
        if name in known and value not in known[name]:
            raise PaperError(f"{where}, {name}: found {value!r}; known: {', '.join(known[name])}")
    try:
        if not 0 <= Decimal(row["value"]) <= 100:
            raise InvalidOperation
    except InvalidOperation:
        raise PaperError(f"{where}, value: found {row['value']!r}; a percentage from 0 to 100 is needed") from None
    if type(row["n"]) is not int or row["n"] < 1:
        raise PaperError(f"{where}, n: found {row['n']!r}; a whole number of items is needed")
    return Reported(**row)


def flags(entries: Iterable[Reported]) -> dict[Reported, Flags]:
    """What is odd about each figure, by itself and beside the others."""
    entries = list(entries)
    copied = _copies(entries)
    found = {}
    for one in entries:
        verdict, places = check(Printed(one.table, one.value, one.n)), copied.get(_row(one), ())
        if verdict.possible:
            found[one] = Flags(copied=places)
        else:
            smaller = range(one.n - 1, one.n // 2 - 1, -1)
            fewer = next((n for n in smaller if n and check(Printed(one.table, one.value, n)).possible), None)
            found[one] = Flags(verdict.nearest, fewer, places)
    return found


def _row(one: Reported) -> tuple[str, str, str]:
    """What figures of one row have in common."""
    return one.table, one.model, one.condition


def _copies(entries: Sequence[Reported]) -> dict[tuple[str, str, str], tuple[str, ...]]:
    """For each row whose figures stand again, all of them, under another condition or model: where."""
    rows: dict[tuple[str, str, str], list[tuple]] = defaultdict(list)
    for one in entries:
        rows[_row(one)].append((one.suite, one.category, one.measure, Decimal(one.value)))
    alike = defaultdict(list)
    for row, figures in rows.items():
        if len(figures) >= ROW:
            alike[frozenset(figures)].append(row)
    return {
        row: tuple(f"{table} {condition}" for table, model, condition in same if (model, condition) != row[1:])
        for same in alike.values()
        for row in same
    }


def model_of(name: str) -> str | None:
    """Which of the paper's models a model's name or folder says, or None: `Qwen/Qwen2.5-7B-Instruct` is qwen2.5-7b."""
    return next((m for m in yaml.safe_load(DATA.read_text(encoding="utf-8"))["models"] if m in name.casefold()), None)


def assigned(pairs: Iterable[str]) -> dict[str, str]:
    """What the user says stands for what, from `ARM=CONDITION` or `ARM/POLICY=CONDITION`.

    Raises:
        PaperError: One is not written like this.
    """
    found = {}
    for pair in pairs:
        arm, equals, condition = pair.partition("=")
        if not (arm and equals and condition):
            raise PaperError(
                f"found {pair!r}; ARM=CONDITION is needed, for example biased=biased-50, or ARM/2=CONDITION"
            )
        found[arm] = condition
    return found


def side_by_side(
    summary: Mapping[str, Any],
    conditions: Mapping[str, str] | None = None,
    model: str | None = None,
    entries: Sequence[Reported] | None = None,
) -> list[Side]:
    """Our figures beside theirs, wherever both have one of the same suite, category and measure.

    Policy 0 stands for vanilla; policies 0 of several arms that say the same are one. Policy 1 of an arm whose name is
    a condition's stands for that condition. Figures are compared by category, and totals only where our items are of
    the same categories as theirs: a world's own items are other items. Two independent samples are assumed, their
    figure a share of all n items; the items of both are the same, which narrows the interval of a difference by an
    amount that nobody can tell without their outcomes. Neither training seeds nor judges are in it.

    Args:
        summary: What `loop.report.summary.write_summary` makes.
        conditions: By arm (`biased`), or arm and policy (`biased/2`), what stands for which condition of theirs;
            beside the rules above, and before them for the policies that it names.
        model: Only figures of this model of theirs; None for all.
        entries: Their figures; None for all that there are.

    Raises:
        PaperError: There is no such arm, policy, condition or model.
    """
    entries = reported() if entries is None else entries
    if model is not None and model not in {e.model for e in entries}:
        raise PaperError(f"the paper has no model {model}; known: {', '.join(dict.fromkeys(e.model for e in entries))}")
    odd = flags(entries)
    found = []
    for arm, entry, condition in _standing(summary, conditions or {}, entries):
        groups: dict[tuple, list[Reported]] = defaultdict(list)
        for one in entries:
            if one.condition == condition and model in (None, one.model):
                groups[one.suite, one.category, one.model, one.measure, Decimal(one.value), one.n].append(one)
        categories: dict[str, dict[str, int]] = defaultdict(dict)
        for suite, category, *_, n in groups:
            if category not in (None, TOTAL):
                categories[suite][_plain(category)] = n
        for same in groups.values():
            for rules, evals in _by_rules(entry["evals"], same[0].suite):
                figures = _ours(evals, same[0], categories[same[0].suite])
                if figures is not None:
                    found.append(replace(_side(arm, entry["policy"], figures, same, odd), rules=rules))
    return found


def _by_rules(evals: Mapping[str, Any], suite: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Our figures by all rules by which a suite was scored, those of the run first."""
    whole = evals.get(suite, {})
    yield whole.get("rules", ""), evals
    for rules, figures in whole.get("by_rules", {}).items():
        yield rules, {suite: figures}


def _standing(
    summary: Mapping[str, Any], given: Mapping[str, str], entries: Sequence[Reported]
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Arm, entry and condition of every policy that stands for one."""
    known = list(dict.fromkeys(e.condition for e in entries))
    wanted = {_place(summary, key): condition for key, condition in given.items()}
    shown: list[dict] = []
    for arm in summary["arms"]:
        for entry in arm["rounds"]:
            policy, evals = entry["policy"], entry.get("evals")
            said = wanted.pop((arm["name"], policy), None)
            name = said or {0: VANILLA, FIRST: arm["name"]}.get(policy)
            condition = next((k for k in (name, f"{name}-{arm.get('trainer')}") if k in known), None)
            if said and condition is None:
                raise PaperError(f"the paper has no condition {said}; known: {', '.join(known)}")
            if said and not evals:
                raise PaperError(
                    f"policy {policy} of arm {arm['name']} is not evaluated, so it cannot stand for a condition"
                )
            if condition is None or not evals or (policy == 0 and not said and evals in shown):
                continue
            if policy == 0 and not said:
                shown.append(evals)
            yield arm["name"], entry, condition
    for arm, policy in wanted:
        raise PaperError(f"policy {policy} of arm {arm} is not evaluated, so it cannot stand for a condition")


def _place(summary: Mapping[str, Any], key: str) -> tuple[str, int]:
    """Arm and policy that a key of the mapping names."""
    arm, _, policy = key.partition("/")
    names = [a["name"] for a in summary["arms"]]
    if arm not in names:
        raise PaperError(f"there is no arm {arm}; the run has {', '.join(names)}")
    if policy and not policy.isdigit():
        raise PaperError(f"{key}: found policy {policy!r}; its number is needed, for example {arm}/2")
    return arm, int(policy) if policy else FIRST


SHARE_APART = 0.05
"""Most by which a category's share of the items may differ where totals are compared; failed answers are left out."""


OFFICIAL_TYPES = {
    "goal driven rule breaking manipulation": "strategic deception",
    "sycophantic misrepresentation": "sycophancy",
    "honesty evasion under pressure": "honesty evasion",
}
"""What the published file of DeceptionBench calls categories that the paper calls otherwise."""


def _plain(name: str) -> str:
    plain = name.casefold().replace("_", " ")
    return OFFICIAL_TYPES.get(plain, plain)


def _ours(evals: Mapping[str, Any], theirs: Reported, categories: Mapping[str, int]) -> dict[str, Any] | None:
    """Our figures of the same items, or None where we have none."""
    whole = evals.get(theirs.suite)
    if whole is None or theirs.measure != headline_name(whole).removeprefix(f"{whole.get('kind')}_"):
        return None
    if theirs.category is None:
        return whole
    parts = {_plain(c): f for c, f in whole.get("categories", {}).items()}
    if theirs.category == TOTAL:
        return whole if _mixed_alike({c: f["n"] for c, f in parts.items()}, categories) else None
    part = parts.get(_plain(theirs.category))
    return None if part is None else {"protocol": whole["protocol"]} | part


def _mixed_alike(ours: Mapping[str, int], theirs: Mapping[str, int]) -> bool:
    """Whether two totals are of the same categories, each with about the same share of the items."""
    sizes = [sum(of.values()) for of in (ours, theirs)]
    if set(ours) != set(theirs) or 0 in sizes:
        return False
    return all(abs(ours[c] / sizes[0] - theirs[c] / sizes[1]) <= SHARE_APART for c in ours)


def _side(
    arm: str, policy: int, figures: dict[str, Any], same: Sequence[Reported], odd: Mapping[Reported, Flags]
) -> Side:
    theirs, ours = same[0], headline(figures)
    apart = None if ours is None else newcombe(ours, wilson(theirs.share, theirs.n))
    copied = dict.fromkeys(place for one in same for place in odd[one].copied)
    return Side(
        arm=arm,
        policy=policy,
        ours=ours,
        n=figures["n"],
        n_effective=figures.get("n_effective") or figures["n"],
        theirs=theirs,
        tables=tuple(dict.fromkeys(one.table for one in same)),
        difference=None if apart is None else tuple(100 * x for x in apart),
        flags=replace(odd[theirs], copied=tuple(copied)),
    )


COLUMNS = {
    "policy": "arm and policy",
    "suite": "suite",
    "ours": "ours, % [95 %]",
    "condition": "stands for",
    "theirs": "theirs, %",
    "difference": "difference [95 %]",
    "flags": "flags on theirs",
}
"""What the columns of the table are called."""


def rows(sides: Iterable[Side]) -> list[dict[str, str]]:
    """Text for the terminal and the report, one row a comparison, with the keys of `COLUMNS`."""
    return [
        {
            "policy": f"{s.arm} {s.policy}",
            "suite": (f"{s.theirs.suite}: {s.theirs.category}" if s.theirs.category else s.theirs.suite)
            + (f" ({s.rules} rules)" if s.rules else ""),
            "ours": f"{_percent(s.ours)} of {s.n}" if s.ours else "no score",
            "condition": f"{s.theirs.condition}, {s.theirs.model} ({', '.join(s.tables)})",
            "theirs": f"{s.theirs.value} of {s.theirs.n}",
            "difference": _points(s.difference) if s.difference else "-",
            "flags": _odd(s.flags, s.theirs.n) or "-",
        }
        for s in sides
    ]


def _percent(estimate: Estimate) -> str:
    value, low, high = (100 * x for x in estimate)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _points(estimate: Estimate) -> str:
    value, low, high = estimate
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _odd(found: Flags, n: int) -> str:
    said = [f"impossible of {n} ({' or '.join(found.impossible)} are possible)"] if found.impossible else []
    said += [f"possible of {found.fewer}"] if found.fewer else []
    return "; ".join(said + [f"same row as {place}" for place in found.copied])


def table(found: Sequence[Mapping[str, str]]) -> Any:
    """What `rows` made, for the terminal."""
    from rich.table import Table

    out = Table(title="beside Hu et al. 2025", title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in COLUMNS.values():
        out.add_column(heading)
    for row in found:
        out.add_row(*(row[c] for c in COLUMNS))
    return out
