"""Language models write personas of a text world: who writes how many, and what of it is kept.

The models are asked in turns, with the prompt of `actors/worlds/authoring/prompt.py`, until every scenario has as many
personas of every kind as were asked for. Each answer has to be strict JSON and is never repaired: what cannot be used
is counted and asked for again. What is kept goes into the files of `actors/worlds/authoring/journal.py` at once.

Plain asyncio over `ChatModel`; importing this imports neither torch nor ray nor vllm.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from actors.models.chat import ChatError, ChatModel, ModelRefusedError, Reply, Sampling
from actors.models.thoughts import without_thoughts
from actors.worlds.alike import Seen, words
from actors.worlds.authoring.check import LEFT_OVER, LENGTHS, watched, whole_text
from actors.worlds.authoring.journal import Journal, RequestSpec
from actors.worlds.authoring.prompt import prompt
from actors.worlds.base import Message
from actors.worlds.reading import strict_json
from actors.worlds.spec import Parts, PersonaSpec, Spec, Text, WrittenSpec

PATIENCE = 4
"""Requests in a row of which nothing could be kept, after which a model is given up for a scenario and kind."""

OUTAGE = 20
"""Requests in a row without any answer, over all scenarios, after which a model counts as gone."""

LEAK = 8
"""Words in a row that are no chance: that many from the thoughts in a persona's text give the thoughts away."""

TOKENS_EACH, TOKENS_FOR_THINKING = 300, 1000
"""Room for an answer: the longest persona that is allowed, and what a model may think before it."""

FENCE = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL)
FIRST_PERSON = re.compile(r"\bI\b|\b(me|my|myself|we|our|us)\b")
QUOTED = re.compile(r"\"[^\"]*\"|\u201c[^\u201d]*\u201d")
SECOND_PERSON = re.compile(r"\b(you|your|yourself)\b", re.IGNORECASE)


class UnusableError(ValueError):
    """An answer, or one persona of it, that is not kept; the message is the reason by which it is counted."""


def parse(text: str) -> list[PersonaPair]:
    """The pairs of an answer: exactly one JSON array of objects with exactly the two keys, or that in one fence; what
    the model thought first does not count.

    Raises:
        UnusableError: The answer is anything else.
    """
    text = without_thoughts(text) or ""
    fenced = FENCE.fullmatch(text)
    try:
        entries = strict_json(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        raise UnusableError("no JSON") from None
    if not isinstance(entries, list) or not entries:
        raise UnusableError("no array of personas")
    try:
        return [PersonaPair.model_validate(e) for e in entries]
    except ValidationError:
        raise UnusableError("other fields than asked for") from None


class PersonaPair(Spec):
    """What a model is asked for."""

    user_context: Text
    user_prompt: Text


def fault(pair: PersonaPair, thoughts: str) -> str | None:
    """Why a pair cannot be kept, whatever else was written; None where it can."""
    for name in ("user_context", "user_prompt"):
        text, (least, most) = getattr(pair, name), LENGTHS[name]
        if not least <= len(text) <= most:
            return f"{name} {'too short' if len(text) < least else 'too long'}"
        if LEFT_OVER.search(text) or any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in text):
            return "something left to fill in"
        if _leaks(text, thoughts):
            return "repeats the thoughts"
    told = QUOTED.sub("", pair.user_context)
    if FIRST_PERSON.search(told) or SECOND_PERSON.search(told):
        return "user_context not in the third person"
    return None


def _leaks(text: str, thoughts: str) -> bool:
    private, said = words(thoughts), words(text)
    runs = {tuple(private[i : i + LEAK]) for i in range(len(private) - LEAK + 1)}
    return any(tuple(said[i : i + LEAK]) in runs for i in range(len(said) - LEAK + 1))


@dataclass
class Cell:
    """A scenario with a kind, and who writes how many personas for it."""

    number: int
    scenario: str
    kind: str
    target: int
    quota: dict[str, int]
    have: Counter = field(default_factory=Counter)
    flying: Counter = field(default_factory=Counter)
    fruitless: Counter = field(default_factory=Counter)
    requests: int = 0

    @property
    def missing(self) -> int:
        return self.target - self.have.total() - self.flying.total()

    def wanted(self, model: str) -> int:
        """How many a model has yet to write of its own share."""
        return self.quota[model] - self.have[model] - self.flying[model]


@dataclass(frozen=True)
class Job:
    """One request that is to be made."""

    cell: Cell
    model: str
    number: int
    count: int

    @property
    def batch(self) -> str:
        return f"{self.cell.scenario}/{self.cell.kind}/{self.number}"


@dataclass(frozen=True)
class Expected:
    """What a model is expected to be asked and to cost; tokens are guessed from letters until it has answered once."""

    personas: int
    requests: int
    prompt_tokens: int
    completion_tokens: int


class Writer:
    """Has `count` personas written by models, an equal share by each, for every scenario and kind.

    Personas that models wrote before count, unless a person rejected them; those by hand do not.

    Attributes:
        models: Who is asked, by name in the config.
        said: What a person should know, such as a model that was given up.
        refused: Why no further requests were made; None where all went well.
    """

    def __init__(
        self, parts: Parts, journal: Journal, models: Mapping[str, ChatModel], count: int, batch: int, seed: int
    ) -> None:
        """Args:
        parts: The world as it is in the journal's folder, without problems.
        batch: Personas asked for with one request.
        """
        self.said: list[str] = []
        self.refused: str | None = None
        self._parts, self._journal, self.models, self._batch, self._seed = parts, journal, models, batch, seed
        self._scenarios = {s.name: s for s in parts.scenarios.values()}
        self._silent: Counter[str] = Counter()
        self._people, self._openings = Seen(), Seen()
        self._examples: dict[tuple[str, str], list[PersonaSpec]] = {}
        for at, persona in parts.placed():
            self._remember(persona, f"{at.file}:{at.line}")
        self.cells = shares(sorted(self._scenarios), list(parts.world.kinds), list(models), count)
        by_place = {(c.scenario, c.kind): c for c in self.cells}
        rejected = {p for p, verdict in parts.verdicts().items() if verdict == "reject"}
        for persona in parts.written.values():
            if persona.persona_id not in rejected:
                by_place[persona.scenario, persona.kind].have[persona.model] += 1
        for request in journal.requests:
            if cell := by_place.get((request.scenario, request.kind)):
                cell.requests = max(cell.requests, request.number + 1)

    @property
    def have(self) -> int:
        """Personas that count, up to what was asked for."""
        return sum(min(c.target, c.have.total()) for c in self.cells)

    @property
    def short(self) -> int:
        """Personas that are missing."""
        return sum(max(0, c.target - c.have.total()) for c in self.cells)

    def expected(self) -> dict[str, Expected]:
        """What writing the missing ones would take, by model, if all that is written could be kept."""
        before = {m: [r for r in self._journal.requests if r.model == m and r.kept] for m in self.models}
        everyone = [p for _, p in self._parts.placed()]
        letters = sum(len(whole_text(p)) for p in everyone) / len(everyone) if everyone else 280
        out = {}
        for model in self.models:
            rooms = [(c, n) for c in self.cells if (n := self._to_write(c)[model])]
            requests = sum(-(-n // self._batch) for _, n in rooms)
            personas = sum(n for _, n in rooms)
            if measured := before[model]:
                sent = sum(r.prompt_tokens for r in measured) / len(measured)
                each = sum(r.completion_tokens for r in measured) / sum(r.kept for r in measured)
                tokens = requests * sent, personas * each
            else:
                asked = [(self._prompt(Job(c, model, 0, min(n, self._batch))), -(-n // self._batch)) for c, n in rooms]
                sent = sum(len(m["content"]) / 4 * times for messages, times in asked for m in messages)
                tokens = sent, personas * (letters / 4 + 20)
            out[model] = Expected(personas, requests, round(tokens[0]), round(tokens[1]))
        return out

    def _to_write(self, cell: Cell) -> dict[str, int]:
        """How many each model would have to write of what a cell lacks; not more than it lacks in all."""
        wanted = {m: max(0, cell.wanted(m)) for m in self.models}
        for _ in range(sum(wanted.values()) - max(0, cell.missing)):
            wanted[max(wanted, key=lambda m: wanted[m])] -= 1
        return wanted

    async def run(self, concurrency: int, heard: Callable[[int], None] = lambda have: None) -> None:
        """Ask until nothing is missing or nobody is left to ask; what was kept is on disk at every moment.

        Args:
            concurrency: Requests under way at once.
            heard: Called after each answer with the personas that there are.
        """
        running: set[asyncio.Task] = set()
        try:
            while True:
                while len(running) < concurrency and (job := self._next()):
                    job.cell.flying[job.model] += job.count
                    job.cell.requests += 1
                    running.add(asyncio.create_task(self._ask(job)))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                heard(self.have)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _next(self) -> Job | None:
        """The emptiest cell, and in it the model that is furthest behind; None where there is nothing to ask now."""
        open_ = [] if self.refused else [c for c in self.cells if c.missing > 0 and self._able(c)]
        if not open_:
            return None
        cell = min(open_, key=lambda c: (c.target - c.missing) / c.target)
        able = self._able(cell)
        model = max(able, key=lambda m: (cell.wanted(m), -((able.index(m) - cell.number) % len(able))))
        own = cell.wanted(model)  # none left where it takes over from another
        return Job(cell, model, cell.requests, min(self._batch, cell.missing, own if own > 0 else self._batch))

    def _able(self, cell: Cell) -> list[str]:
        return [m for m in self.models if cell.fruitless[m] < PATIENCE]

    async def _ask(self, job: Job) -> None:
        """Make one request and put down what it brought."""
        digest = hashlib.sha256(f"{self._seed}/{job.batch}".encode()).digest()
        limit = TOKENS_EACH * job.count + TOKENS_FOR_THINKING
        sampling = Sampling(limit, 1.0, int.from_bytes(digest[:4], "big") >> 1)
        reply, faults = None, {}
        try:
            reply = await self.models[job.model].reply(self._prompt(job), sampling)
            faults = dict(reply.faults)
        except ChatError as error:
            faults = error.faults
        except ModelRefusedError as error:
            self.refused = self.refused or f"{job.model}: {error}"
            return
        finally:
            job.cell.flying[job.model] -= job.count
        kept, dropped = self._read(job, reply)
        self._journal.add(
            RequestSpec(
                batch=job.batch,
                number=job.number,
                model=job.model,
                served=reply.weights if reply else "",
                scenario=job.cell.scenario,
                kind=job.cell.kind,
                asked=job.count,
                kept=len(kept),
                dropped=dict(dropped),
                prompt_tokens=reply.prompt_tokens if reply else 0,
                completion_tokens=reply.completion_tokens if reply else 0,
                faults=faults,
                at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            ),
            kept,
        )
        job.cell.have[job.model] += len(kept)
        self._judge(job, reply is not None, bool(kept), dropped)

    def _read(self, job: Job, reply: Reply | None) -> tuple[list[WrittenSpec], Counter]:
        """What of an answer is kept, and how many are not, by reason."""
        if reply is None:
            return [], Counter({"no answer": job.count})
        try:
            if reply.finish_reason == "length":
                raise UnusableError("cut at the token limit")
            pairs = parse(reply.text)
        except UnusableError as error:
            return [], Counter({str(error): job.count})
        kept: list[WrittenSpec] = []
        dropped = Counter({"more than asked for": max(0, len(pairs) - job.count)})
        dropped["fewer than asked for"] = max(0, job.count - len(pairs))
        place = {"scenario": job.cell.scenario, "kind": job.cell.kind, "model": job.model, "batch": job.batch}
        thoughts = self._scenarios[job.cell.scenario].of_kind(job.cell.kind) or ""
        for pair in pairs[: job.count]:
            persona = WrittenSpec(**pair.model_dump(), **place)
            reason = fault(pair, thoughts)
            if not reason and (self._people.like(whole_text(persona)) or self._openings.like(persona.user_prompt)):
                reason = "near-duplicate"
            if reason:
                dropped[reason] += 1
            else:
                kept.append(persona)
                self._remember(persona, job.batch)
        return kept, +dropped

    def _judge(self, job: Job, answered: bool, useful: bool, dropped: Counter) -> None:
        """Give a model up where asking it again is of no use; the others take over."""
        model, cell = job.model, job.cell
        self._silent[model] = 0 if answered else self._silent[model] + 1
        if self._silent[model] >= OUTAGE and not self.refused:
            self.refused = f"{model}: {OUTAGE} requests in a row got no answer"
        cell.fruitless[model] = 0 if useful else cell.fruitless[model] + 1
        if cell.fruitless[model] == PATIENCE:
            why = ", ".join(dropped)
            left = ", ".join(self._able(cell)) or "nobody"
            self.said.append(
                f"{cell.scenario}, {cell.kind}: {model} is given up, since nothing was kept of {PATIENCE} requests "
                f"(the last: {why}); {left} goes on"
            )

    def _remember(self, persona: PersonaSpec, name: str) -> None:
        self._people.add(whole_text(persona), name)
        self._openings.add(persona.user_prompt, name)
        self._examples.setdefault((persona.scenario, persona.kind), []).append(persona)

    def _prompt(self, job: Job) -> list[Message]:
        cell = job.cell
        known = self._examples.get((cell.scenario, cell.kind), [])
        scenario = self._scenarios[cell.scenario]
        return prompt(self._parts.world, scenario, cell.kind, job.count, known, f"{self._seed}/{job.batch}")

    def watched(self) -> int:
        """Unread personas by models with words after which a person should read them."""
        read = self._parts.verdicts()
        people = [p for known in self._examples.values() for p in known if isinstance(p, WrittenSpec)]
        return sum(1 for p in people if p.persona_id not in read and watched(p))


def shares(scenarios: Sequence[str], kinds: Sequence[str], models: Sequence[str], count: int) -> list[Cell]:
    """Cells that share `count` evenly, and in each the models' even shares; what is left over goes round."""
    places = [(s, k) for s in scenarios for k in kinds]
    each, extra = divmod(count, len(places))
    out, turn = [], 0
    for number, (scenario, kind) in enumerate(places):
        target = each + (number < extra)
        own, rest = divmod(target, len(models))
        lucky = {models[(turn + i) % len(models)] for i in range(rest)}
        turn += rest
        out.append(Cell(number, scenario, kind, target, {m: own + (m in lucky) for m in models}))
    return out
