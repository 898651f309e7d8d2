"""Where items come from: a world, files in the official formats, or the Hugging Face Hub; with what identifies them.

Files are read as their authors publish them: CSV, Parquet, JSON (a list of rows, or an object with such a list), JSONL.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.storage.datafiles import DataFileError, content_hash, locate, read_rows
from actors.worlds import load_world, world_kind
from actors.worlds.base import TooFewItemsError, WorldError
from evals.protocols import PROTOCOLS, Protocol
from evals.settings import EvalSettings, SuiteSettings
from evals.suites.catalogue import CANARY, SUITES
from evals.suites.items import Item, of_world
from evals.suites.rows import Row, SourceError, TooFewError, text


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
    own = tuple(s for s in SUITES if _world_has(world, s))
    return own or CANARY


def _world_has(world: str | None, suite: str) -> bool:
    return world is not None and suite in world_kind(world).suites


def _world_items(world: str, suite: str, count: int, seed: int) -> Sequence[Any]:
    source = load_world(world)
    return PROTOCOLS[SUITES[suite].protocol].world_items(source, suite, count, seed)


def from_world(suite: str, settings: SuiteSettings, world: str | None) -> bool:
    """Whether the items of a suite are the world's own."""
    return _source(suite, settings, world) == "world"


def _source(suite: str, settings: SuiteSettings, world: str | None) -> str:
    if settings.source is not None:
        return settings.source
    if shipped := SUITES[suite].shipped:
        return str(shipped)
    return "world" if _world_has(world, suite) else SUITES[suite].hub or "world"


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
            found = _world_items(world, suite, settings.items or SUITES[suite].of_world or 1, seed)
        except TooFewItemsError as error:
            raise TooFewError(f"evals.{suite}.items: {error}", error.have) from None
        except WorldError as error:
            raise SourceError(f"evals.{suite}.source: {error}") from None
        items = [of_world(item, suite) for item in found]
        return Loaded(items, {"source": f"world {world}", "revision": None, "sha256": None, "items": len(items)})
    rows, record = _rows(suite, settings, source)
    protocol = PROTOCOLS[SUITES[suite].protocol]
    items = [protocol.put(protocol.read_item(where, row, suite, source), settings) for where, row in rows]
    _distinct(items, source)
    protocol.check_items(items, source)
    chosen = items if settings.items is None else _sample(items, settings.items, f"{suite}/{seed}", source)
    return Loaded(chosen, record | {"rows": len(items), "items": len(chosen)})


def _rows(suite: str, settings: SuiteSettings, source: str) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a source, and what identifies it; rows have the columns that the protocol reads from the names of
    file and folder, where they lack them, and the one that names them."""
    about, protocol = SUITES[suite], PROTOCOLS[SUITES[suite].protocol]
    official = source == about.hub
    revision = settings.revision or (about.revision if official else None)
    try:
        place, files, revision = locate(source, revision, about.files or None if official else None)
        named, left_out = _named(place, files, protocol)
        sha256 = content_hash(place, list(named))
        if settings.sha256 is not None and settings.sha256 != sha256:
            raise SourceError(
                f"evals.{suite}.sha256: {source} has {sha256}, not {settings.sha256}; get the version that is meant, "
                "or correct the hash"
            )
        rows = [(where, _filled(row, of, protocol)) for f, of in named.items() for where, row in read_rows(f)]
    except DataFileError as error:
        raise SourceError(f"evals.{suite}.source {error}") from None
    if not rows:
        raise SourceError(f"evals.{suite}.source {source}: there are no rows in it")
    record = {"source": source, "revision": revision, "sha256": sha256}
    if len(named) == 1 and (known := about.known.get(content_hash(*named, list(named)))):
        record["official"] = known
    if left_out:
        record["left_out"] = left_out
    return rows, record


def _named(place: Path, files: Sequence[Path], protocol: Protocol) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """Files that hold items with the columns that their names give, and names of those beside them that do not.

    The nearest name counts: the file's own, then those of its folders, and that of the source where none of them says
    anything. Of several files those that are named belong to a suite, if any are.

    Raises:
        SourceError: They hold results or other parts of a benchmark, and no items.
    """
    inside = {f: f.relative_to(place) if place.is_dir() else Path(f.name) for f in files}
    results = [f for f, path in inside.items() if set(path.parts[:-1]) & set(protocol.results)]
    files = [f for f in files if f not in results]
    if not files or place.name in protocol.results:
        raise SourceError(
            f"{place}: holds what the authors' scripts made of items ({', '.join(protocol.results)}); give the folder "
            "or file of the items themselves"
        )
    outside = place.name if place.is_dir() else place.absolute().parent.name
    named, refused = {}, {}
    for file in files:
        try:
            named[file] = _by_name((*inside[file].parts[:-1], inside[file].stem), protocol)
        except SourceError as error:
            refused[file] = error
    if refused and not any(named.values()):
        raise next(iter(refused.values()))
    if not any(named.values()):
        of_all = _by_name((outside,), protocol)
        named = dict.fromkeys(named, of_all)
    elif len(named) > 1 or refused:
        named = {f: of for f, of in named.items() if of}
    left_out = [f for f in inside if f not in named and f not in results]
    return named, [inside[f].as_posix() for f in left_out]


def _by_name(parts: Sequence[str], protocol: Protocol) -> dict[str, Any]:
    plain = (re.sub(r"\W+", "_", part.casefold()) for part in reversed(parts))
    return next(filter(None, map(protocol.name_rows, plain)), {})


def _filled(row: dict[str, Any], given: dict[str, Any], protocol: Protocol) -> dict[str, Any]:
    """A row with the columns that it lacks: those of its file, and its name, which follows from what it says."""
    filled = given | {k: v for k, v in row.items() if k not in given or text(row, k)}
    name = protocol.named_by
    if name is not None and not text(row, name):
        said = json.dumps({str(k): said for k in row if (said := text(row, k))}, sort_keys=True)
        filled[name] = hashlib.sha256(said.encode()).hexdigest()[:16]
    return filled


def _distinct(items: Sequence[Item], source: str) -> None:
    seen: set[str] = set()
    for item in items:
        if item.item_id in seen:
            raise SourceError(
                f"{source}: two rows are called {item.item_id}; outcomes are paired by it, so it is unique"
            )
        seen.add(item.item_id)


def _sample(items: list[Item], count: int, seed: str, source: str) -> list[Item]:
    """So many items, spread evenly over categories, in their order."""
    if count > len(items):
        raise TooFewError(f"{source}: has {len(items)} items, and {count} are asked for", len(items))
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


def load_all(world: str | None, settings: EvalSettings) -> dict[str, Loaded]:
    """Every suite's items, but for those of lm-eval, which brings its own.

    Raises:
        SourceError: Those of some suite cannot be had, or there are none.
    """
    return {
        s: load(s, settings.suite(s), world, settings.seed)
        for s in suites_of(world, settings)
        if not SUITES[s].by_lm_eval
    }
