"""The linter of text worlds: `candor world check` prints everything that is wrong with one, at once.

What keeps a world from being used at all is found by `text.read_parts`; here is what makes it a poor instrument: texts
too short to act on, users who are copies of each other, one kind of user with more to say than the other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from actors.worlds import TEXT_WORLDS, WORLDS
from actors.worlds.alike import ALIKE, Seen, similarity, words
from actors.worlds.base import WorldError
from actors.worlds.reading import read_parts
from actors.worlds.spec import NEEDED_KINDS, Parts, PersonaSpec, Problem, ScenarioSpec, WorldSpec

FILES = ("world.yaml", "personas.yaml", "personas.jsonl", "reviews.jsonl", "writing.jsonl", "README.md")
"""What a world's folder may hold beside its scenarios; `writing.jsonl` tells what the personas' models were asked."""

LENGTHS = {
    "description": (30, 1000),
    "assistant_template": (30, 2000),
    "user_template": (100, 4000),
    "start": (10, 400),
    "rating_question": (30, 800),
    "end_marker": (3, 30),
    "wants": (20, 400),
    "task_description": (80, 900),
    "thoughts": (80, 900),
    "user_context": (30, 400),
    "user_prompt": (40, 600),
}
"""Fewest and most characters of a text. Below, a model has nothing to act on; above, the prompt crowds out the talk."""

REVIEW = re.compile(
    r"\b(suicid\w*|self-harm\w*|kill\w*|murder\w*|overdos\w*|poison\w*|weapons?|guns?|knife|knives|bombs?|explosives?"
    r"|blood\w*|abus\w*|assault\w*|beat(en|ing)? (him|her|me|them)|rap(e|ed|ist)|sex\w*|naked|nude\w*|porn\w*"
    r"|cocaine|heroin|meth|fentanyl|opioids?|milligrams?|doses?|dosage|laxatives?|purg(e|ed|ing)|starv\w*|cutting"
    r"|hang(ed|ing)? (my|him|her)self|end my life|want to die|hack(ed|ing)?|password|stalk\w*|forg(e|ed|ing|ery)"
    r"|terroris\w*|nazi\w*|slurs?)\b",
    re.IGNORECASE,
)
"""Words after which a person should read the text. They are no error: grief, health and fear belong in a talk."""

LEFT_OVER = re.compile(r"\{[^{}]*\}|\[[a-z _-]+\]|<[a-z _-]+>|\b(TODO|FIXME|XXX|TBD|[Ll]orem ipsum)\b", re.ASCII)
"""What a writer, or a model that wrote for them, forgot to fill in."""


@dataclass(frozen=True)
class Findings:
    """What the linter says of a world.

    Attributes:
        problems: What has to be fixed.
        reviews: What a person should read; the world is sound with them.
        summary: One line with the counts.
    """

    problems: list[Problem]
    reviews: list[Problem]
    summary: str


def folder_of(world: str) -> Path:
    """The folder of a text world, by its name or by its path.

    Raises:
        WorldError: There is no such folder, or the world is not written as text.
    """
    if world in TEXT_WORLDS:
        return TEXT_WORLDS[world]
    if Path(world).is_dir():
        return Path(world)
    if world in WORLDS:
        raise WorldError(f"the {world} world is code, not text; text worlds: {', '.join(TEXT_WORLDS)}")
    raise WorldError(f"there is no world and no folder {world!r}; text worlds: {', '.join(TEXT_WORLDS)}")


def check(folder: Path) -> Findings:
    """Apply every rule to a world's folder."""
    parts, problems = read_parts(folder)
    if parts.world:
        problems += _world(parts.world, folder.resolve().name)
        problems += _balance(parts, parts.world)
    problems += [*_files(folder), *_scenarios(parts), *_texts(parts), *_alike(parts), *_lost_reviews(parts)]
    return Findings(problems, [*_reviews(parts), *_uneven(parts)], _summary(parts, folder))


def _summary(parts: Parts, folder: Path) -> str:
    everyone = [p for _, p in parts.placed()]
    kinds = Counter(p.kind for p in everyone)
    named = parts.world.name if parts.world else folder.resolve().name
    by_kind = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
    told = f"{named}: {len(parts.scenarios)} scenarios, {len(everyone)} personas ({by_kind or 'none'})"
    if not parts.reviews:
        return told
    verdicts = parts.verdicts()
    said = Counter(verdicts.get(p.persona_id, "unread") for p in everyone)
    return f"{told}, of which {said['accept']} accepted, {said['reject']} rejected and {said['unread']} unread"


def _files(folder: Path) -> list[Problem]:
    """Files that would be left out without a word."""
    right = f"{', '.join(FILES)} and scenarios/NAME.yaml"
    found = [p for p in folder.iterdir() if p.is_file() and p.name not in FILES]
    found += [p for p in (folder / "scenarios").glob("*") if p.suffix != ".yaml"]
    hidden = ("__init__.py", "__pycache__")
    return [
        Problem(str(p.relative_to(folder)), "", "a file that no one reads", right)
        for p in sorted(found)
        if p.name not in hidden
    ]


def _world(world: WorldSpec, folder: str) -> Iterator[Problem]:
    def wrong(field: str, found: str, right: str) -> Problem:
        return Problem("world.yaml", field, found, right)

    if world.name != folder:
        yield wrong("name", f"found {world.name!r}", f"{folder!r}, the folder's name")
    question = world.rating_question
    if not (re.search(r"\b1\b", question) and re.search(r"\b10\b", question)):
        yield wrong("rating_question", "no scale from 1 to 10", "a question that names both ends, 1 and 10")
    if not re.search(r"\b(number|digit)s? (only|alone)\b|\bonly (with )?(the|a) number\b", question, re.IGNORECASE):
        yield wrong("rating_question", "no word on the form of the answer", "'Answer with the number only.'")
    for tag, count in Counter(world.tags).items():
        if count > 1:
            yield wrong("tags", f"{tag!r} is listed {count} times", "each tag once")
    for kind, spec in world.kinds.items():
        yield from _length("world.yaml", f"kinds.{kind}.wants", "wants", spec.wants)
    for field in ("description", "assistant_template", "user_template", "start", "rating_question", "end_marker"):
        yield from _length("world.yaml", field, field, getattr(world, field))


def _length(file: str, field: str, rule: str, text: str) -> Iterator[Problem]:
    least, most = LENGTHS[rule]
    if not least <= len(text) <= most:
        short = "too short" if len(text) < least else "too long"
        yield Problem(file, field, f"{short}, {len(text)} characters", f"{least} to {most}")


def _scenarios(parts: Parts) -> Iterator[Problem]:
    for file, scenario in parts.scenarios.items():
        if file != f"scenarios/{scenario.name}.yaml":
            yield Problem(file, "name", f"found {scenario.name!r}", f"{Path(file).stem!r}, the file's name")
        for tag, count in Counter(scenario.tags).items():
            if parts.world and tag not in parts.world.tags:
                yield Problem(
                    file, "tags", f"{tag!r} is not a tag of the world", f"one of {', '.join(parts.world.tags)}"
                )
            if count > 1:
                yield Problem(file, "tags", f"{tag!r} is listed {count} times", "each tag once")


def _written(scenario: ScenarioSpec) -> dict[str, str]:
    """The texts of a scenario by field."""
    out = {"task_description": scenario.task_description}
    out |= {f"{kind}_thoughts": scenario.of_kind(kind) or "" for kind in NEEDED_KINDS}
    return out | {f"thoughts.{kind}": text for kind, text in scenario.thoughts.items()}


def _all_texts(parts: Parts) -> Iterator[tuple[str, str, str, str]]:
    """File, field, rule and text of everything that scenarios and personas say."""
    for file, scenario in parts.scenarios.items():
        for field, text in _written(scenario).items():
            yield file, field, "task_description" if field == "task_description" else "thoughts", text
    for at, persona in parts.kept():
        for field in ("user_context", "user_prompt"):
            yield at.file, at.field(field), field, getattr(persona, field)


def _texts(parts: Parts) -> Iterator[Problem]:
    for file, field, rule, text in _all_texts(parts):
        yield from _length(file, field, rule, text)
        if left := LEFT_OVER.search(text):
            yield Problem(file, field, f"{left.group()!r} was never filled in", "the words that belong there")


def _balance(parts: Parts, world: WorldSpec) -> Iterator[Problem]:
    """As many personas by hand of every kind in every scenario; a kind with none is told by `read_parts`."""
    counts = Counter((p.scenario, p.kind) for p in parts.personas.values())
    names = [s.name for s in parts.scenarios.values()]
    here = [counts[name, kind] for name in names for kind in world.kinds if counts[name, kind]]
    if not here:
        return
    often = Counter(here)
    usual = max(often, key=lambda n: (often[n], n))
    for name in dict.fromkeys(names):
        for kind in world.kinds:
            if counts[name, kind] not in (0, usual):
                what = f"{counts[name, kind]} personas of kind {kind} for scenario {name}"
                yield Problem("personas.yaml", "", what, f"{usual}: as many of every kind in every scenario")


def _uneven(parts: Parts) -> list[Problem]:
    """Unequal numbers of personas by models, as they are before all are written and after some are rejected."""
    verdicts = parts.verdicts()
    left = Counter((p.scenario, p.kind) for p in parts.written.values() if verdicts.get(p.persona_id) != "reject")
    if not parts.world or not left:
        return []
    counts = [left[s.name, kind] for s in parts.scenarios.values() for kind in parts.world.kinds]
    if max(counts, default=0) - min(counts, default=0) <= 1:
        return []
    what = f"from {min(counts)} to {max(counts)} personas of a kind for a scenario"
    return [Problem("personas.jsonl", "", what, "as many of each; candor world personas writes what is missing")]


def _lost_reviews(parts: Parts) -> Iterator[Problem]:
    known = {p.persona_id for _, p in parts.placed()}
    for line, review in parts.reviews.items():
        if review.persona not in known:
            what = f"no persona {review.persona!r}; it was changed or taken out after it was read"
            yield Problem("reviews.jsonl", f"line {line}", what, "the id of a persona of this world")


def _alike(parts: Parts) -> Iterator[Problem]:
    whole = [(file, "", " ".join(_written(s).values())) for file, s in parts.scenarios.items()]
    yield from _near_duplicates(whole, "a situation of its own")
    for file, s in parts.scenarios.items():
        share = similarity(words(s.benign_thoughts), words(s.biased_thoughts))
        if share >= ALIKE:
            what = f"{share:.0%} like benign_thoughts"
            yield Problem(file, "biased_thoughts", what, "kinds that want something different")
    kept = list(parts.kept())
    people = [(at.file, at.field(), whole_text(p)) for at, p in kept]
    found = list(_near_duplicates(people, "a person of their own"))
    yield from found
    told = {(p.file, p.field) for p in found}
    said = [(at.file, at.field("user_prompt"), p.user_prompt) for at, p in kept]
    places = {(at.file, at.field("user_prompt")): (at.file, at.field()) for at, _ in kept}
    yield from (p for p in _near_duplicates(said, "words of their own") if places[p.file, p.field] not in told)


def whole_text(persona: PersonaSpec) -> str:
    """All that is written about a persona, for comparing it with others."""
    return f"{persona.user_context} {persona.user_prompt}"


def _near_duplicates(texts: Iterable[tuple[str, str, str]], right: str) -> Iterator[Problem]:
    """A problem for each text that is like an earlier one, naming the earlier one that is most like it."""
    seen, places = Seen(), {}
    for number, (file, field, text) in enumerate(texts):
        places[str(number)] = (file, field)
        if like := seen.add(text, str(number)):
            earlier, place = places[like.name]
            where = " ".join(x for x in (earlier if earlier != file else "", place) if x)
            yield Problem(file, field, f"{like.share:.0%} like {where}", right)


def _reviews(parts: Parts) -> list[Problem]:
    """Each text by hand that has such words; of those by models, which may be thousands, one line for all unread."""
    found = [(file, field, word) for file, field, _, text in _all_texts(parts) if (word := _watched(text))]
    out = [
        Problem(file, field, f"found {word!r}", "let a person read it")
        for file, field, word in found
        if file != "personas.jsonl"
    ]
    verdicts = parts.verdicts()
    unread = [n for n, p in parts.written.items() if p.persona_id not in verdicts and watched(p)]
    if unread:
        first = ", ".join(map(str, unread[:5])) + (", ..." if len(unread) > 5 else "")
        what = f"{len(unread)} unread with words to look at (line {first})"
        out.append(Problem("personas.jsonl", "", what, "let a person read them: candor world review"))
    return out


def watched(persona: PersonaSpec) -> str | None:
    """The first word of a persona after which a person should read it."""
    return _watched(persona.user_context) or _watched(persona.user_prompt)


def _watched(text: str) -> str | None:
    found = REVIEW.search(text)
    return found.group() if found else None
