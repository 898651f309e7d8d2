"""An index of a run's conversations: what filters, lists and links need of each, while their texts stay on disk.

It grows while the run goes on. A conversation that is opened, and what a search looks through, is read from its
segment; a segment that was compacted meanwhile is found by its number.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.buffer import RoundData
from actors.storage.segments import BufferError, Segment, read_table
from loop.config.schema import RunConfig
from loop.report.chats import NO_VERDICT
from loop.report.filters import GROUPS, SELECTED, Query, mean_ratings
from loop.report.query import SORTS, RoundReader, grouped, plans
from loop.rundir import RunDir
from loop.select import SCHEMA as SELECTION

KEPT = ("trajectory_id", "arm", "round", "index", "scenario", "persona", "user_kind", "reward", "error")
COLUMNS = (*KEPT, "rating", "verdicts", "segment")
PUBLISH_SECONDS = 0.5
"""While much is read, what was read so far can be seen so often."""
SEARCHES = 8
"""So many searches are remembered, so that their pages can be turned."""
ERROR_CHARACTERS = 200


@dataclass(frozen=True)
class Training:
    """One trajectory of a selection: the policy that learned from it, and why.

    Attributes:
        version: Of the policy.
    """

    arm: str
    version: int
    desirable: bool
    rank: int
    score: float


class ConversationIndex:
    """All conversations of a run that were written so far.

    Attributes:
        problems: What was said of files that cannot be used.
        complete: Whether everything that was there at the start has been read.
    """

    def __init__(self, out: RunDir, config: RunConfig) -> None:
        self._out = out
        self._every = Query.checked(config, [], [], None, None)
        self.problems: list[str] = []
        self.complete = False
        talking = {a.name for a in config.arms if config.for_arm(a).data is None}
        held = [plan for plan in plans(config, self._every) if plan.arm in talking]
        self._readers = [RoundReader(out, plan, self.problems.append) for plan in held]
        self._open = list(self._readers)
        self._planned = sum(r.plan.count for r in self._readers)
        self._table = pa.table({name: pa.array([], _TYPES[name]) for name in COLUMNS})
        self._places: dict[str, int] = {}
        self._selections: dict[tuple[str, int], pa.Table] = {}
        self._trained: dict[str, list[Training]] = {}
        self._searches: OrderedDict[str, _Search] = OrderedDict()
        self._reading, self._searching = threading.Lock(), threading.Lock()

    @property
    def planned(self) -> int:
        """How many conversations the run will hold."""
        return self._planned

    @property
    def table(self) -> pa.Table:
        """What was read so far, `COLUMNS`; it is replaced and never changed."""
        return self._table

    @property
    def version(self) -> int:
        """Grows with everything that is new."""
        return len(self._table) + len(self._selections)

    def refresh(self) -> None:
        """Read what was written since the last time."""
        with self._reading:
            fresh: list[pa.Table] = []
            told = time.monotonic()
            for reader in list(self._open):
                closed = reader.closed()  # asked before reading, so that nothing comes after it
                for segment, table in reader.new_segments():
                    fresh.append(_indexed(table, segment.first))
                    if time.monotonic() - told > PUBLISH_SECONDS:
                        self._publish(fresh)
                        fresh, told = [], time.monotonic()
                if closed:
                    self._open.remove(reader)
            self._publish(fresh)
            self._read_selections()
            self.complete = True

    def _publish(self, fresh: list[pa.Table]) -> None:
        fresh = [t for t in fresh if len(t)]
        if fresh:
            begin = len(self._table)
            whole = pa.concat_tables([self._table, *fresh]).combine_chunks()
            ids = whole["trajectory_id"].slice(begin).to_pylist()
            self._places.update(zip(ids, range(begin, len(whole)), strict=True))
            self._table = whole

    def _read_selections(self) -> None:
        for reader in self._readers:
            place = reader.plan.arm, reader.plan.round
            path = self._out.selection(*place)
            if place in self._selections or not path.exists():
                continue
            try:
                selection = read_table(path, SELECTION)
            except BufferError as error:
                self.problems.append(str(error))
                selection = SELECTION.empty_table()
            self._selections[place] = selection
            for row in selection.to_pylist():
                of = Training(place[0], place[1] + 1, row["label"], row["rank"], row["score"])
                self._trained.setdefault(row["trajectory_id"], []).append(of)

    def trained(self, trajectory_id: str) -> list[Training]:
        """Which policies learned from a conversation."""
        return self._trained.get(trajectory_id, [])

    def selection(self, arm: str, version: int) -> pa.Table:
        """What a policy was trained on (`loop.select.SCHEMA`); empty where that is not known."""
        return self._selections.get((arm, version - 1), SELECTION.empty_table())

    def find(self, query: Query, text: str = "", sort: str = "", persona: str = "") -> Found:
        """The conversations that are asked for; `text` may stand anywhere in them, in capitals or not."""
        table = self._table
        numbered = table.append_column("place", pa.array(np.arange(len(table), dtype=np.int32)))
        found = numbered.filter(_within(table, query, persona))
        chosen = None
        if query.selected is not None:
            desirable = SELECTED[query.selected]
            ids = [i for i, of in list(self._trained.items()) if any(desirable in (None, t.desirable) for t in of)]
            chosen = pa.array(ids, pa.string())
        found = query.of(found, chosen)
        if text:
            found = found.filter(pc.is_in(found["place"], value_set=pa.array(self._search(text).hits(self))))
        if sort in SORTS:
            found = found.take(pc.sort_indices(found, sort_keys=[SORTS[sort], ("place", "ascending")]))
        return Found(found, self)

    def _search(self, text: str) -> _Search:
        with self._searching:
            search = self._searches.setdefault(text.casefold(), _Search(text))
            self._searches.move_to_end(text.casefold())
            while len(self._searches) > SEARCHES:
                self._searches.popitem(last=False)
            return search

    def row(self, trajectory_id: str) -> dict[str, Any] | None:
        """What the index has of a conversation."""
        place = self._places.get(trajectory_id)
        return None if place is None else self._table.slice(place, 1).to_pylist()[0]

    def whole(self, trajectory_id: str) -> dict[str, Any] | None:
        """A conversation in full (`actors.storage.trajectory.SCHEMA`); None where there is none of that id.

        Raises:
            BufferError, StorageError: Its segment cannot be read any more.
        """
        known = self.row(trajectory_id)
        if known is None:
            return None
        ((_, table),) = self.segments(known["arm"], known["round"], [known["segment"]])
        return table.filter(pc.equal(table["index"], known["index"])).slice(0, 1).to_pylist()[0]

    def segments(
        self, arm: str, round_: int, numbers: Iterable[int], without: Container[Segment] = ()
    ) -> Iterator[tuple[Segment, pa.Table]]:
        """The segments with these numbers, or those that they were compacted into, each once, with their rows.

        Args:
            without: Segments that are not wanted.
        """
        data = RoundData(self._out.trajectories(arm, round_))
        for number in numbers:
            for attempt in (1, 2):  # it may be compacted just now
                try:
                    segment = next((s for s in data.segments.live() if s.first <= number <= s.last), None)
                    if segment is None:
                        raise BufferError(f"{data.store}: segment {number} is not there any more")
                    if segment not in without:
                        yield segment, data.segments.read(segment)
                    break
                except FileNotFoundError:
                    if attempt == 2:
                        raise


@dataclass(frozen=True)
class Found:
    """Conversations that were asked for, in their order."""

    table: pa.Table
    index: ConversationIndex

    def __len__(self) -> int:
        return len(self.table)

    def page(self, number: int, size: int) -> list[dict[str, Any]]:
        """Rows of one page, counted from 1, each with what was trained on it."""
        rows = self.table.slice((number - 1) * size, size).to_pylist()
        return [r | {"trained": self.index.trained(r["trajectory_id"])} for r in rows]

    def verdicts(self, *by: str) -> dict[tuple, dict[str, float]]:
        """The share of the replies that got each verdict, the most frequent first, for each value of the groups.

        Args:
            by: Keys of `loop.report.filters.GROUPS`.
        """
        flat = pc.list_flatten(self.table["verdicts"])
        of = pc.list_parent_indices(self.table["verdicts"])
        labels = pc.list_element(pc.split_pattern(flat, ":", max_splits=1), 0)  # `error: ` and why is one verdict
        places = {name: self.table[GROUPS[name]].take(of) for name in by}
        replies = pa.table(places | {"verdict": labels})
        found: dict[tuple, dict[str, float]] = {}
        counted = replies.group_by([*by, "verdict"]).aggregate([([], "count_all")])
        for row in counted.sort_by([("count_all", "descending"), ("verdict", "ascending")]).to_pylist():
            found.setdefault(tuple(row[name] for name in by), {})[row["verdict"]] = row["count_all"]
        return {place: {v: n / sum(of.values()) for v, n in of.items()} for place, of in found.items()}

    def groups(self, *by: str) -> list[dict[str, Any]]:
        """How many there are of each kind, their mean rating (`loop.report.query.grouped`), and `verdicts`."""
        shares = self.verdicts(*by)
        return [
            row | {"verdicts": shares.get(tuple(row[name] for name in by), {})} for row in grouped([self.table], by)
        ]

    @cached_property
    def ids(self) -> pa.ChunkedArray:
        return self.table["trajectory_id"]

    def around(self, trajectory_id: str) -> tuple[int, str | None, str | None]:
        """The number of a conversation among them, counted from 1, and the ids before and after it; 0 where it is not
        among them."""
        at = pc.index(self.ids, trajectory_id).as_py()
        if at < 0:
            return 0, None, None
        before = self.ids[at - 1].as_py() if at else None
        after = self.ids[at + 1].as_py() if at + 1 < len(self.ids) else None
        return at + 1, before, after


class _Search:
    """Where a text stands; each segment is looked through once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._seen: dict[tuple[str, int], set[Segment]] = {}
        self._hits: set[tuple[str, int, int]] = set()
        self._lock = threading.Lock()

    def hits(self, index: ConversationIndex) -> np.ndarray:
        """Places in the index."""
        with self._lock:
            table = index.table
            arms, rounds, numbers = (table[c].to_pylist() for c in ("arm", "round", "segment"))
            places: dict[tuple[str, int], set[int]] = {}
            for arm, round_, number in set(zip(arms, rounds, numbers, strict=True)):
                places.setdefault((arm, round_), set()).add(number)
            for place, there in places.items():
                seen = self._seen.setdefault(place, set())
                for segment, rows in index.segments(*place, sorted(there), seen):
                    self._hits.update((*place, i) for i in self._look(rows))
                    seen.add(segment)
            keys = zip(arms, rounds, table["index"].to_pylist(), strict=True)
            return np.array([n for n, key in enumerate(keys) if key in self._hits], np.int32)

    def _look(self, rows: pa.Table) -> Iterator[int]:
        """Plan indices of the rows in which it stands: in a message of either side, in what was asked beside them, in
        what a judge said, or in the error."""
        found = np.zeros(len(rows), bool)
        for column, field in (("messages", "content"), ("user_messages", "content"), ("asked", "answer")):
            chats = rows[column].combine_chunks()
            at = self._stands(pc.struct_field(pc.list_flatten(chats), field))
            found[pc.list_parent_indices(chats).filter(at).to_numpy()] = True
        chats = rows["messages"].combine_chunks()
        ruled = pc.struct_field(pc.list_flatten(chats), "verdicts")
        at = pc.list_parent_indices(ruled).filter(self._stands(pc.struct_field(pc.list_flatten(ruled), "raw")))
        found[pc.list_parent_indices(chats).take(at).to_numpy()] = True
        for column in ("error", "persona", "trajectory_id"):
            found |= self._stands(rows[column]).to_numpy()
        yield from rows["index"].filter(pa.array(found)).to_pylist()

    def _stands(self, texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """Whether it stands in each of some texts."""
        return pc.fill_null(pc.match_substring(texts, self._text, ignore_case=True), False)


_TYPES = {
    **dict.fromkeys(KEPT, pa.string()),
    **dict.fromkeys(("round", "index", "segment"), pa.int32()),
    **dict.fromkeys(("reward", "rating"), pa.float64()),
    "verdicts": pa.list_(pa.string()),
}


def _indexed(table: pa.Table, segment: int) -> pa.Table:
    """The columns of the index, of rows of a segment."""
    messages = table["messages"].combine_chunks()
    flat = pc.list_flatten(messages)
    replies = pc.equal(pc.struct_field(flat, "role"), "assistant")
    counts = np.bincount(pc.list_parent_indices(messages).filter(replies).to_numpy(), minlength=len(table))
    labels = pc.fill_null(pc.struct_field(flat, "verdict").filter(replies), NO_VERDICT)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    made = {name: table[name] for name in KEPT if name != "error"}
    made["error"] = pc.utf8_slice_codeunits(table["error"], 0, ERROR_CHARACTERS)
    made["rating"] = mean_ratings(table)
    made["verdicts"] = pa.ListArray.from_arrays(pa.array(offsets), labels)
    made["segment"] = pa.array(np.full(len(table), segment, np.int32))
    return pa.table({name: made[name] for name in COLUMNS})


def _within(table: pa.Table, query: Query, persona: str) -> pa.Array:
    """Which rows are of the arms, the rounds and the persona that are asked for."""
    mask = pc.is_in(table["arm"], value_set=pa.array(query.arms, pa.string()))
    mask = pc.and_(mask, pc.is_in(table["round"], value_set=pa.array(query.rounds, pa.int32())))
    return pc.and_(mask, pc.equal(table["persona"], persona)) if persona else mask
