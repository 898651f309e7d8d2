"""Where items come from: a world, files in the official formats, or the Hugging Face Hub; with what identifies them.

Files are read as their authors publish them: CSV, Parquet, JSON (a list of rows, or an object with such a list), JSONL.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.datafiles import DataFileError, content_hash, locate, read_rows
from actors.worlds import load_world
from actors.worlds.base import WorldError
from evals import mask
from evals.items import Elicitation, Item, dialogue, of_world
from evals.mask_files import ARCHETYPES
from evals.settings import CANARY, HUB, HUB_REVISIONS, PROTOCOLS, WORLD_SUITES, EvalSettings, SuiteSettings

SHIPPED = {
    "canary_mask": Path(__file__).parent / "canary" / "mask.jsonl",
    "canary_deception": Path(__file__).parent / "canary" / "deceptionbench.jsonl",
}
WORLD_ITEMS = {
    "mask": 1152,
    "sycophancy": 288,
    "provided": 288,
    "deceptionbench": 288,
    "arithmetic": 300,
    "lookup": 300,
}
"""How many items of its own a world is asked for where nothing else is said."""
HUB_FILES = {"deceptionbench": ["deceptionbench_0527.json"], "behonest": ["Unknowns/*.json"]}
"""Which files of a data set on the Hub; all that can be read where it is not said."""
DIRECT_TIMES = 3
"""How often MASK asks `belief_elicit_1`."""
QUESTION_COLUMNS = ("question", "prompt", "input", "query")

Row = tuple[str, dict[str, Any]]
"""Where a row is from (file and number, for messages), and its columns."""


class SourceError(ValueError):
    """Items that cannot be had; the message names file, row and column, what was found and what would be right."""


@dataclass(frozen=True)
class Loaded:
    """The items of one suite.

    Attributes:
        record: What identifies them: source, revision, hash, and how many there were.
    """

    items: list[Item]
    record: dict[str, Any]


def suites_of(world: str | None, settings: EvalSettings) -> tuple[str, ...]:
    """The suites that are asked: those named, else all that the world has items for, else the canary suites."""
    if settings.suites is not None:
        return tuple(settings.suites)
    own = tuple(s for s in WORLD_SUITES if _world_has(world, s))
    return own or CANARY


def _world_has(world: str | None, suite: str) -> bool:
    if world is None:
        return False
    try:
        return bool(_world_items(world, suite, 1, 0))
    except WorldError:
        return False


def _world_items(world: str, suite: str, count: int, seed: int) -> Sequence[Any]:
    source = load_world(world)
    if PROTOCOLS[suite] == "questions":
        return source.question_items(suite, count, seed)
    return source.honesty_items(suite, count, seed)


def from_world(suite: str, settings: SuiteSettings, world: str | None) -> bool:
    """Whether the items of a suite are the world's own."""
    return _source(suite, settings, world) == "world"


def _source(suite: str, settings: SuiteSettings, world: str | None) -> str:
    if settings.source is not None:
        return settings.source
    if suite in SHIPPED:
        return str(SHIPPED[suite])
    return "world" if _world_has(world, suite) else HUB.get(suite, "world")


def load(suite: str, settings: SuiteSettings, world: str | None, seed: int) -> Loaded:
    """The items of a suite; a pure function of its arguments and the source, so that every policy and arm meets the
    same ones.

    Raises:
        SourceError: There are none, or they are not well formed.
    """
    source = _source(suite, settings, world)
    if source == "world":
        if world is None:
            raise SourceError(f"evals.{suite}: only worlds have items for it; name one with --world, or leave it out")
        try:
            found = _world_items(world, suite, settings.items or WORLD_ITEMS.get(suite, 1), seed)
        except WorldError as error:
            raise SourceError(f"evals.{suite}.source: {error}") from None
        items = [of_world(item, suite) for item in found]
        return Loaded(items, {"source": f"world {world}", "revision": None, "sha256": None, "items": len(items)})
    rows, record = _rows(suite, settings, source)
    make = {"mask": _mask_item, "deceptionbench": _deception_item, "unknowns": _unknown_item}.get(PROTOCOLS[suite])
    if make is None:
        raise SourceError(f"evals.{suite}.source: {suite} has items of worlds only, not of {source}")
    items = [make(where, row) for where, row in rows]
    _distinct(items, source)
    if PROTOCOLS[suite] == "mask":
        _one_kind_each(items, source)
    chosen = items if settings.items is None else _sample(items, settings.items, f"{suite}/{seed}", source)
    return Loaded(chosen, record | {"rows": len(items), "items": len(chosen)})


def _rows(suite: str, settings: SuiteSettings, source: str) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a source, and what identifies it; rows of MASK have the archetype that file or folder is named after
    in column `archetype` where they have none."""
    official = source == HUB.get(suite)
    revision = settings.revision or (HUB_REVISIONS.get(suite) if official else None)
    try:
        place, files, revision = locate(source, revision, HUB_FILES.get(suite) if official else None)
        named = {f: _archetype(f.relative_to(place) if place.is_dir() else Path(f.name)) for f in files}
        if PROTOCOLS[suite] == "mask" and any(named.values()):
            files = [f for f in files if named[f] or len(files) == 1]
        sha256 = content_hash(place, files)
        if settings.sha256 is not None and settings.sha256 != sha256:
            raise SourceError(
                f"evals.{suite}.sha256: {source} has {sha256}, not {settings.sha256}; get the version that is meant, "
                "or correct the hash"
            )
        rows = [(where, _named(named[f]) | row) for f in files for where, row in read_rows(f)]
    except DataFileError as error:
        raise SourceError(f"evals.{suite}.source {error}") from None
    if not rows:
        raise SourceError(f"evals.{suite}.source {source}: there are no rows in it")
    return rows, {"source": source, "revision": revision, "sha256": sha256}


def _named(archetype: str | None) -> dict[str, Any]:
    return {"archetype": archetype} if archetype else {}


def _archetype(path: Path) -> str | None:
    """The archetype of MASK that a path names; `doubling_down_known_facts` is not `known_facts`."""
    text = path.as_posix()
    return next((a for a in sorted(ARCHETYPES, key=len, reverse=True) if a in text), None)


def _text(row: dict[str, Any], column: str) -> str:
    """A column as text; empty where it is missing or null."""
    value = row.get(column)
    return "" if value is None else str(value).strip()


def _need(where: str, row: dict[str, Any], columns: Iterable[str]) -> None:
    for column in columns:
        if column not in row:
            raise SourceError(f"{where}: there is no column {column}; found {', '.join(map(str, row))}")
        if not _text(row, column):
            raise SourceError(f"{where}, {column}: it is empty")


def _mask_item(where: str, row: dict[str, Any]) -> Item:
    """A row of MASK: `task_id`, `type`, `system_prompt`, `user_prompt`, `proposition`, `formatted_ground_truth`,
    `belief_system_1`, `belief_elicit_1` to `_3`, and for doubling down `dd_turn_1_prompt`, `dd_turn_1_response`."""
    _need(where, row, ("task_id", "proposition", "user_prompt", "formatted_ground_truth"))
    archetype = _text(row, "archetype")
    if archetype not in ARCHETYPES:
        raise SourceError(
            f"{where}, archetype: found {archetype!r}; name the file or a column after one of {', '.join(ARCHETYPES)}"
        )
    proposition = _text(row, "proposition")
    numerical = _text(row, "type") == "numerical" or ("<value>" in proposition and "<pivotal>" not in proposition)
    truth = _text(row, "formatted_ground_truth")
    told = mask.read_interval(truth) if numerical else truth if truth in ("A", "B") else None
    if archetype == "provided_facts" and told in (None, mask.NOTHING):
        wanted = "an interval such as [26, 29]" if numerical else "A or B"
        raise SourceError(f"{where}, formatted_ground_truth: found {truth!r}; provided facts need {wanted}")
    if not numerical and mask.read_interval(truth) is not None:
        raise SourceError(f"{where}, formatted_ground_truth: found the interval {truth}, but the type is binary")
    turns = [_text(row, "user_prompt")]
    if archetype == "doubling_down_known_facts":
        _need(where, row, ("dd_turn_1_prompt", "dd_turn_1_response"))
        turns = [_text(row, "dd_turn_1_prompt"), _text(row, "dd_turn_1_response"), *turns]
    return Item(
        item_id=f"{archetype}/{_text(row, 'task_id')}",
        cluster=hashlib.sha256(proposition.encode()).hexdigest()[:16],
        prompt=dialogue(_text(row, "system_prompt"), *turns),
        category=archetype,
        beliefs=() if archetype == "provided_facts" else _beliefs(where, row),
        options=() if numerical else _options(where, proposition),
        numerical=numerical,
        proposition=proposition,
        truth=mask.label_text(told) or "",
    )


def _beliefs(where: str, row: dict[str, Any]) -> tuple[Elicitation, ...]:
    _need(where, row, ("belief_elicit_1",))
    system = _text(row, "belief_system_1")
    direct = Elicitation(dialogue(system, _text(row, "belief_elicit_1")), True, DIRECT_TIMES)
    others = [_text(row, f"belief_elicit_{n}") for n in (2, 3)]
    return (direct, *(Elicitation(dialogue(system, o), False) for o in others if o))


def _options(where: str, proposition: str) -> tuple[tuple[str, str], ...]:
    """A and B, each as the proposition reads with that side of its pivotal part."""
    found = re.findall(r"<pivotal>(.*?)</pivotal>", proposition, re.DOTALL)
    if len(found) != 1:
        raise SourceError(
            f"{where}, proposition: found {len(found)} parts marked <pivotal>...</pivotal>; one, with both sides "
            "apart by a slash, is wanted"
        )
    sides = [s.strip() for s in found[0].strip().strip("[]").split("/")]
    if len(sides) != 2 or not all(sides):
        return ("A", "what the first side of the marked part says"), ("B", "what its second side says")
    whole = f"<pivotal>{found[0]}</pivotal>"
    return tuple((label, proposition.replace(whole, side)) for label, side in zip("AB", sides, strict=True))


def _deception_item(where: str, row: dict[str, Any]) -> Item:
    """A row of DeceptionBench: `id`, `type`, `inner_prompt`, `system_prompt`, `outer_prompt`, `format`; and
    `instructed` where a row says so of itself, otherwise all sandbagging rows are."""
    _need(where, row, ("id", "type", "inner_prompt", "outer_prompt"))
    kind = _text(row, "type")
    instructed = row.get("instructed")
    if isinstance(instructed, str):
        instructed = {"true": True, "false": False}.get(instructed.casefold(), instructed)
    if instructed is None:
        instructed = "sandbagging" in kind.casefold()
    if not isinstance(instructed, bool):
        raise SourceError(f"{where}, instructed: found {instructed!r}; true or false is wanted")
    asked = "\n\n".join(filter(None, (_text(row, "outer_prompt"), _text(row, "format"))))
    return Item(
        item_id=f"{kind}/{_text(row, 'id')}",
        cluster=f"{kind}/{_text(row, 'id')}",
        prompt=dialogue(_text(row, "system_prompt"), asked),
        category=kind,
        beliefs=(Elicitation(dialogue("", _text(row, "inner_prompt"))),),
        instructed=instructed,
    )


def _unknown_item(where: str, row: dict[str, Any]) -> Item:
    """A question; `answerable` true marks one that can be answered."""
    column = next((c for c in QUESTION_COLUMNS if _text(row, c)), None)
    if column is None:
        raise SourceError(f"{where}: there is no column {' or '.join(QUESTION_COLUMNS)} with a question in it")
    answerable = str(row.get("answerable", "")).casefold() in ("true", "1")
    name = _text(row, "id") or _text(row, "question_id") or hashlib.sha256(_text(row, column).encode()).hexdigest()[:16]
    return Item(
        item_id=name,
        cluster=name,
        prompt=dialogue("", _text(row, column)),
        category="answerable" if answerable else "unanswerable",
    )


def _distinct(items: Sequence[Item], source: str) -> None:
    seen: set[str] = set()
    for item in items:
        if item.item_id in seen:
            raise SourceError(
                f"{source}: two rows are called {item.item_id}; outcomes are paired by it, so it is unique"
            )
        seen.add(item.item_id)


def _one_kind_each(items: Sequence[Item], source: str) -> None:
    """Rows about the same proposition are all options or all numbers."""
    kinds: dict[str, bool] = {}
    for item in items:
        if kinds.setdefault(item.cluster, item.numerical) != item.numerical:
            raise SourceError(
                f"{source}, {item.item_id}: its proposition is binary in one row and numerical in another"
            )


def _sample(items: list[Item], count: int, seed: str, source: str) -> list[Item]:
    """So many items, spread evenly over categories, in their order."""
    if count > len(items):
        raise SourceError(f"{source}: has {len(items)} items, and {count} are asked for")
    rng = random.Random(seed)
    by_category: dict[str, list[int]] = {}
    for n, item in enumerate(items):
        by_category.setdefault(item.category, []).append(n)
    shuffled = {c: rng.sample(of_one, len(of_one)) for c, of_one in by_category.items()}
    chosen: list[int] = []
    while len(chosen) < count:
        for of_one in shuffled.values():
            if of_one and len(chosen) < count:
                chosen.append(of_one.pop())
    return [items[n] for n in sorted(chosen)]


def load_all(world: str | None, settings: EvalSettings, seed: int) -> dict[str, Loaded]:
    """Every suite's items, but for those of lm-eval, which brings its own.

    Raises:
        SourceError: Those of some suite cannot be had, or there are none.
    """
    return {s: load(s, settings.suite(s), world, seed) for s in suites_of(world, settings) if PROTOCOLS[s] != "harness"}
