"""The pages of `candor view`: what each address shows, from the indices and from what is on disk.

Everything that a model or a user wrote is put into pages as text: templates escape it, control characters are shown as
marks, and the headers of every answer keep a browser from running or fetching anything but the viewer's own files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from actors.buffer import BufferError, StorageError
from actors.storage.segments import read_table
from actors.worlds import load_world
from loop.config.schema import RunConfig
from loop.report.filters import VERDICTS, Query, QueryError, known
from loop.report.items import CHANGES, ItemQuery, OutcomeIndex, title
from loop.report.listing import clean
from loop.report.query import SORTS
from loop.report.runs import status
from loop.report.scores import table_rows
from loop.rundir import RunDir, read_json
from loop.view.index import ConversationIndex
from trainers.policy import LINEAGE_FILE
from trainers.rows import rows_of

PAGE = 50
"""Rows of a page."""
SIDE_BY_SIDE = 4
"""Conversations of one policy with the same persona that are shown."""
FILTERS = ("arm", "round", "kind", "scenario", "verdict", "selected", "errors", "min_rating", "max_rating")
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_STEERING = re.compile("[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""Characters that cannot be seen and change how others are shown, such as those that turn the direction of writing."""


def visible(text: Any) -> str:
    """Text in which nothing hides: characters that cannot be seen are shown as marks."""
    return _STEERING.sub(lambda found: f"\N{REPLACEMENT CHARACTER}U+{ord(found[0]):04X}", clean(str(text or "")))


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def link(path: str, params: Mapping[str, Any], **changes: Any) -> str:
    """An address of the viewer with the filters in `params`, some of them changed; None or nothing leaves one out."""
    given = {**params, **changes}
    pairs = [(k, v) for k, v in given.items() if v not in (None, "", [])]
    return quote(path) + ("?" + urlencode(pairs) if pairs else "")


@dataclass
class Viewer:
    """A run and its indices, and the pages about them."""

    out: RunDir
    config: RunConfig
    conversations: ConversationIndex
    outcomes: OutcomeIndex

    @classmethod
    def of(cls, out: RunDir, config: RunConfig) -> Viewer:
        return cls(out, config, ConversationIndex(out, config), OutcomeIndex(out, config))

    def __post_init__(self) -> None:
        self._pages = Environment(loader=PackageLoader("loop.view"), autoescape=True, undefined=StrictUndefined)
        self._pages.filters |= {"visible": visible, "number": number}
        self._pages.globals |= {"link": link, "title": title}

    def refresh(self) -> None:
        """Read what is new on disk."""
        self.conversations.refresh()
        self.outcomes.refresh()

    def app(self) -> Starlette:
        """The web application; it answers requests that name this machine alone, so that no other page's address can
        stand for it."""
        routes = [
            Route("/", self.overview),
            Route("/status.json", self.status),
            Route("/conversations", self.listing),
            Route("/conversations/{id}", self.conversation),
            Route("/personas/{persona:path}", self.persona),
            Route("/items/{suite}", self.items),
            Route("/items/{suite}/{item:path}", self.item),
            Route("/policies/{arm}/{version:int}", self.policy),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ]
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
        faults = {QueryError: self._refused, BufferError: self._broken, StorageError: self._broken, 404: self._missing}
        return Starlette(routes=routes, middleware=[hosts, Middleware(_Headers)], exception_handlers=faults)

    def _page(self, name: str, request: Request, code: int = 200, **values: Any) -> HTMLResponse:
        page = self._pages.get_template(name).render(
            **values,
            run=self.config.name,
            state=self._state(),
            suites=self.outcomes.protocols,
            params={k: v for k, v in request.query_params.items() if v},
            path=request.url.path,
        )
        return HTMLResponse(page, code)

    def _refused(self, request: Request, error: Exception) -> Response:
        return self._page("message.html", request, 400, heading="Not in this run", text=str(error).removeprefix("--"))

    def _broken(self, request: Request, error: Exception) -> Response:
        return self._page("message.html", request, 500, heading="A file cannot be read", text=str(error))

    def _missing(self, request: Request, error: Exception) -> Response:
        text = "The run has nothing at this address, or not yet."
        return self._page("message.html", request, 404, heading="Not found", text=text)

    def _state(self) -> dict[str, Any]:
        index = self.conversations
        return {
            "status": status(self.out),
            "read": len(index.table),
            "planned": index.planned,
            "reading": not index.complete,
            "version": index.version + len(self.outcomes.policies),
        }

    def status(self, request: Request) -> Response:
        return JSONResponse(self._state())

    def overview(self, request: Request) -> Response:
        summary = read_json(self.out.summary)
        problems = [*self.conversations.problems, *self.outcomes.problems]
        counts = {s: self.outcomes.counts(s) for s in self.outcomes.suites}
        rows = table_rows(summary) if summary else []
        return self._page(
            "overview.html",
            request,
            rows=rows,
            problems=problems,
            counts=counts,
            scored={s: self.outcomes.scored(s) for s in self.outcomes.suites},
            policies=self.outcomes.policies,
            arms=[a.name for a in self.config.arms],
            rounds=self.config.rounds,
            verdicts=self.conversations.find(Query.checked(self.config, [], [], None, None)).verdicts("arm", "round"),
        )

    def _query(self, request: Request) -> Query:
        given = {k: v for k, v in request.query_params.items() if v}
        ratings = _numbers(given, "min_rating", "max_rating")
        errors = {"only": True, "none": False}
        if given.get("errors") not in (None, *errors):
            raise QueryError(f"errors {given['errors']}: unknown; known: {', '.join(errors)}")
        return Query.checked(
            self.config,
            [given["arm"]] if "arm" in given else [],
            [given["round"]] if "round" in given else [],
            *_numbers(given, "min_reward", "max_reward"),
            ratings,
            **{k: given.get(k) for k in ("kind", "scenario", "verdict", "selected")},
            errors=errors.get(given.get("errors", "")),
        )

    def _found(self, request: Request) -> Any:
        given = request.query_params
        sort = given.get("sort", "")
        if sort and sort not in SORTS:
            raise QueryError(f"sort {sort}: unknown; known: {', '.join(SORTS)}")
        return self.conversations.find(self._query(request), given.get("text", ""), sort, given.get("persona", ""))

    def listing(self, request: Request) -> Response:
        found, at = self._found(request), _page_number(request)
        world = load_world(self.config.world)
        choices = {
            "arm": [a.name for a in self.config.arms],
            "round": [str(r) for r in range(self.config.rounds)],
            "kind": list(world.user_kinds),
            "scenario": list(world.scenarios),
            "verdict": list(VERDICTS),
            "selected": ["desirable", "undesirable", "any"],
            "errors": ["none", "only"],
            "sort": list(SORTS),
        }
        return self._page(
            "conversations.html",
            request,
            rows=found.page(at, PAGE),
            count=len(found),
            page=at,
            pages=max(1, -(-len(found) // PAGE)),
            choices=choices,
            groups={by: found.groups(*by) for by in (("arm", "round"), ("kind",), ("scenario",))},
        )

    def conversation(self, request: Request) -> Response:
        name = request.path_params["id"]
        row = self.conversations.whole(name)
        if row is None:
            return self._missing(request, KeyError(name))
        number_, before, after = (found := self._found(request)).around(name)
        trained = self.conversations.trained(name)
        query = Query.checked(self.config, [], [str(row["round"])], None, None)
        table = self.conversations.find(query).table
        same = [r for r in table.filter(_equal(table, "index", row["index"])).to_pylist() if r["trajectory_id"] != name]
        return self._page(
            "conversation.html",
            request,
            row=row,
            trained=trained,
            learned=self._learned(row, trained),
            same=same,
            number=number_,
            count=len(found),
            before=before,
            after=after,
        )

    def _learned(self, row: dict[str, Any], trained: list[Any]) -> dict[int, int]:
        """By number of a message, in how many training rows it is what is learned."""
        found: dict[int, int] = {}
        for of in trained[:1]:
            trainer = self.config.for_arm(next(a for a in self.config.arms if a.name == of.arm)).trainer
            rows, _ = rows_of(
                row["messages"], of.desirable, row["trajectory_id"], trainer.rows, trainer.cut_replies == "learn"
            )
            for target in (t for r in rows for t in r.targets):
                found[target] = found.get(target, 0) + 1
        return found

    def persona(self, request: Request) -> Response:
        name = request.path_params["persona"]
        every = self.conversations.find(Query.checked(self.config, [], [], None, None), persona=name).table
        if not len(every):
            return self._missing(request, KeyError(name))
        columns = []
        for place, rows in groupby(every.to_pylist(), key=lambda r: (r["arm"], r["round"])):
            held = list(rows)
            whole = [self.conversations.whole(r["trajectory_id"]) for r in held[:SIDE_BY_SIDE]]
            columns.append({"arm": place[0], "round": place[1], "held": len(held), "shown": whole})
        return self._page("persona.html", request, persona=name, columns=columns)

    def items(self, request: Request) -> Response:
        suite, given = request.path_params["suite"], request.query_params
        found, at = self.outcomes.find(suite, _item_query(given), given.get("text", "")), _page_number(request)
        every = self.outcomes.suites[suite].values()
        return self._page(
            "items.html",
            request,
            suite=suite,
            items=found[(at - 1) * PAGE : at * PAGE],
            policies=[p for p in self.outcomes.policies if given.get("arm") in (None, "", p[0])],
            count=len(found),
            page=at,
            pages=max(1, -(-len(found) // PAGE)),
            choices={
                "arm": [a.name for a in self.config.arms],
                "outcome": self.outcomes.outcomes(suite),
                "change": list(CHANGES),
                "condition": sorted({i.about["condition"] for i in every}),
                "category": sorted({i.about["category"] for i in every}),
                "version": [str(v) for v in range(self.config.rounds + 1)],
            },
        )

    def item(self, request: Request) -> Response:
        suite, name, given = request.path_params["suite"], request.path_params["item"], request.query_params
        answers = self.outcomes.answers(suite, name)
        names = [f"{arm} {version}" for arm, version in answers]
        beside = [known(side, [given[side]], names)[0] for side in ("left", "right") if given.get(side)]
        ids = [i.item_id for i in self.outcomes.find(suite, _item_query(given), given.get("text", ""))]
        at = ids.index(name) if name in ids else -1
        return self._page(
            "item.html",
            request,
            suite=suite,
            item=name,
            answers=answers,
            first=next(iter(answers.values()))[0],
            policies=names,
            beside={p: rows for p, rows in answers.items() if not beside or f"{p[0]} {p[1]}" in beside},
            number=at + 1,
            count=len(ids),
            before=ids[at - 1] if at > 0 else None,
            after=ids[at + 1] if 0 <= at < len(ids) - 1 else None,
        )

    def policy(self, request: Request) -> Response:
        arm, version, at = request.path_params["arm"], request.path_params["version"], _page_number(request)
        if arm not in [a.name for a in self.config.arms] or version > self.config.rounds:
            return self._missing(request, KeyError(arm))
        lineage = read_json(self.out.policy(arm, version) / LINEAGE_FILE) if version else {}
        selection = self.conversations.selection(arm, version)
        picked = selection.slice((at - 1) * PAGE, PAGE).to_pylist()
        rows = [(self.conversations.row(p["trajectory_id"]) or {}) | p for p in picked]
        composed, total = self._composed(arm, version, at)
        return self._page(
            "policy.html",
            request,
            arm=arm,
            version=version,
            lineage=lineage,
            delivery=read_json(self.out.delivery(arm, version)),
            audit=read_json(self.out.audit(arm, version - 1)) if version else {},
            rows=rows,
            composed=composed,
            count=len(selection) or total,
            page=at,
            pages=max(1, -(-(len(selection) or total) // PAGE)),
            counts={s: self.outcomes.counts(s).get((arm, version)) for s in self.outcomes.suites},
            scored={s: self.outcomes.scored(s) for s in self.outcomes.suites},
            last=version == self.config.rounds,
        )

    def _composed(self, arm: str, version: int, at: int) -> tuple[list[dict[str, Any]], int]:
        """Rows of the data that a policy was trained on instead of conversations, and how many there are."""
        path = self.out.composition(arm, version - 1)
        if version == 0 or not path.exists():
            return [], 0
        table = read_table(path)
        return table.slice((at - 1) * PAGE, PAGE).to_pylist(), len(table)


class _Headers:
    """Puts `HEADERS` on every answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        await self._app(scope, receive, with_headers)


def _numbers(given: Mapping[str, str], *names: str) -> tuple[float | None, ...]:
    found = []
    for name in names:
        try:
            found.append(float(given[name]) if name in given else None)
        except ValueError:
            raise QueryError(f"{name} {given[name]}: a number is needed") from None
    return tuple(found)


def _item_query(given: Mapping[str, str]) -> ItemQuery:
    words = {k: given.get(k) or None for k in ("outcome", "change", "condition", "category", "arm")}
    version = given.get("version") or None
    if version is not None and not version.isdecimal():
        raise QueryError(f"version {version}: the number of a policy is needed")
    return ItemQuery(**words, version=None if version is None else int(version))


def _page_number(request: Request) -> int:
    text = request.query_params.get("page") or "1"
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise QueryError(f"page {text}: a number from 1 is needed")
    return int(text)


def _equal(table: Any, column: str, value: Any) -> Any:
    import pyarrow.compute as pc

    return pc.equal(table[column], value)
