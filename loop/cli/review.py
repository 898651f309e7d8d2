"""`candor world review`: a person reads a sample of personas and says which are good; rejected ones leave the world."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from actors.worlds.authoring.check import folder_of, watched
from actors.worlds.authoring.journal import append, mend
from actors.worlds.reading import read_parts
from actors.worlds.spec import Parts, PersonaSpec, Place, ReviewSpec
from loop.cli.personas import refuse_installed, sound

KEYS = {"a": "accept", "r": "reject", "s": "skip", "q": "quit"}
QUESTION = "a accept, r reject, s skip, q quit: "


@dataclass(frozen=True)
class Drawn:
    """A persona of the sample; `word` is what it was picked for, and None where it was drawn at random."""

    place: Place
    persona: PersonaSpec
    word: str | None


def sample(parts: Parts, count: int, seed: int) -> list[Drawn]:
    """Up to `count` personas, the same for the same seed.

    At most half are picked for their words, and come first. The others are drawn at random, as many from each scenario
    and kind, those by models before those by hand; so a share of them says something about the world.
    """
    rng = random.Random(seed)
    placed = list({p.persona_id: (at, p) for at, p in parts.placed()}.values())
    by_models = [(at, p) for at, p in placed if at.file == "personas.jsonl"]
    order = [*_spread(by_models, rng), *_spread([x for x in placed if x not in by_models], rng)]
    words = {p.persona_id: word for _, p in order if (word := watched(p))}
    at_random = order[: count - min(len(words), count // 2)]
    ids = {p.persona_id for _, p in at_random}
    picked = [(at, p) for at, p in order if p.persona_id in words and p.persona_id not in ids][: count - len(at_random)]
    ids |= {p.persona_id for _, p in picked}
    at_random += [(at, p) for at, p in order if p.persona_id not in ids][: count - len(at_random) - len(picked)]
    return [Drawn(at, p, words[p.persona_id]) for at, p in picked] + [Drawn(at, p, None) for at, p in at_random]


def _spread(people: list[tuple[Place, PersonaSpec]], rng: random.Random) -> list[tuple[Place, PersonaSpec]]:
    """In random order, but one of each scenario and kind before a second of any."""
    rooms: dict[tuple[str, str], list] = {}
    for at, p in people:
        rooms.setdefault((p.scenario, p.kind), []).append((at, p))
    out = []
    for room in rooms.values():
        rng.shuffle(room)
        out += [(turn, rng.random(), x) for turn, x in enumerate(room)]
    return [x for *_, x in sorted(out, key=lambda entry: entry[:2])]


def review(world: str, count: int, seed: int, reviewer: str, console: Console, read: Callable[[str], str]) -> None:
    """Show what is unread of a sample and put down each verdict at once, until all is read or the reader stops.

    Args:
        read: Prints a prompt and returns a line; raises `EOFError` at the end of the input.

    Raises:
        ConfigError, WorldError: There is no such world, it is installed, or it is not sound.
    """
    folder = folder_of(world).resolve()
    refuse_installed(folder, "copy its folder to somewhere else and review the copy")
    file = folder / "reviews.jsonl"
    if torn := mend(file):
        console.print(torn, highlight=False, markup=False)
    parts = sound(folder)
    drawn = sample(parts, count, seed)
    verdicts = parts.verdicts()
    unread = [d for d in drawn if d.persona.persona_id not in verdicts]
    try:
        for number, d in enumerate(unread, len(drawn) - len(unread) + 1):
            console.print(_panel(d, parts, f"{number} of {len(drawn)}"))
            answer = _answer(read, console)
            if answer == "quit":
                break
            if answer == "skip":
                continue
            note = read("why, if you like: ").strip() if answer == "reject" else ""
            told = {"persona": d.persona.persona_id, "verdict": answer, "note": note, "reviewer": reviewer}
            append(file, [ReviewSpec(**told, at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))])
            verdicts[d.persona.persona_id] = answer
    except (EOFError, KeyboardInterrupt):
        console.print()
    _close(folder, drawn, verdicts, console)


def _answer(read: Callable[[str], str], console: Console) -> str:
    while (line := read(QUESTION).strip().lower()) not in {*KEYS, *KEYS.values()}:
        console.print(f"found {line!r}; one of {', '.join(KEYS)}", highlight=False, markup=False)
    return KEYS.get(line, line)


def _panel(d: Drawn, parts: Parts, title: str) -> Panel:
    persona = d.persona
    scenario = next(s for s in parts.scenarios.values() if s.name == persona.scenario)
    by = f"by {getattr(persona, 'model', 'hand')}, {d.place.file} line {d.place.line}"
    lines = [
        (f"{persona.scenario}, {persona.kind}", by),
        ("what it is about", scenario.task_description),
        ("thinks", scenario.of_kind(persona.kind) or ""),
        ("who", persona.user_context),
        ("says first", persona.user_prompt),
    ]
    if word := watched(persona):
        lines.append(("look at", word))
    return Panel(Group(*(Text.assemble((f"{name}: ", "bold"), text) for name, text in lines)), title=title)


def _close(folder: Path, drawn: Iterable[Drawn], verdicts: dict[str, str], console: Console) -> None:
    """How many of the sample were read and accepted, and what the world lacks now."""
    from evals.stats.intervals import share

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    drawn = list(drawn)
    for name, group in (
        ("drawn at random", [d for d in drawn if d.word is None]),
        ("picked for their words", [d for d in drawn if d.word is not None]),
    ):
        read = [d for d in group if d.persona.persona_id in verdicts]
        found = share([verdicts[d.persona.persona_id] == "accept" for d in read], [d.persona.scenario for d in read])
        if found:
            accepted = round(found.value * found.n)
            interval = f"{found.value:.0%}, 95 % interval {found.low:.0%} to {found.high:.0%}"
            say(f"{name}: {len(read)} of {len(group)} read, {accepted} accepted ({interval})")
        elif group:
            say(f"{name}: 0 of {len(group)} read")
    if all(d.persona.persona_id in verdicts for d in drawn):
        say("the whole sample is read; another --seed draws another one")
    else:
        say(f"continue with: candor world review {folder} and the same options")
    for problem in read_parts(folder)[1]:
        say(f"problem {problem}")
