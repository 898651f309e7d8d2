"""`candor world personas`: language models write personas for a world, and what it costs is said before and after."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.models.chat import ModelRefusedError
from actors.settings import EndpointSettings
from actors.storage.files import whole_folder
from actors.storage.strict_yaml import YamlFault, read_value
from actors.worlds import TEXT_WORLDS, WorldError
from actors.worlds.authoring.check import FILES, folder_of
from actors.worlds.authoring.journal import Journal, totals
from actors.worlds.authoring.writer import Writer
from actors.worlds.reading import read_parts
from actors.worlds.spec import Parts
from loop.cli.exits import DONE, FAILED, STOPPED
from loop.config.explain import ConfigError
from loop.report.terminal import Stage, Stages, cancelled_by_signals

UNPRICED = "price not given"


def write(
    world: str,
    out: Path | None,
    models: Mapping[str, EndpointSettings],
    count: int,
    batch: int,
    seed: int,
    concurrency: int,
    yes: bool,
    again: str,
) -> int:
    """Have personas written until there are `count` by models; returns the exit code.

    Args:
        world: A text world by name, or its folder.
        out: Folder of the world that is written into, a copy of `world` where it is not there yet; None for `world`.
        models: Those chosen, by name.
        yes: Do not ask before money is spent.
        again: The command that continues where this one ends early.

    Raises:
        ConfigError, WorldError: Something is wrong, and nothing was spent.
    """
    console = Console()
    folder, made = destination(world, out)
    journal = None
    try:
        journal = Journal(folder)
        for told in journal.mended:
            print(told)
        writer = Writer(sound(folder), journal, _endpoints(models), count, batch, seed)
        if not writer.short:
            print(f"nothing to write: {folder} has {writer.have} personas by models")
            return DONE
        _say_expected(writer, models, count, console)
        if not yes and not _agreed(console):
            print("nothing was written, and nothing was spent")
            return FAILED
        code = _write_all(writer, concurrency, console)
        _say_result(writer, journal, models, count, folder, console)
        if code != DONE:
            print(f"Continue with: {again}")
        return code
    finally:
        if journal:
            journal.close()
        if made and not (journal and journal.requests):
            shutil.rmtree(folder)


def chosen(config: Path, names: str) -> dict[str, EndpointSettings]:
    """The models with these names, separated by commas, from the config's `models:`.

    No message shows what was found: it could be a key in the wrong place.

    Raises:
        ConfigError: The file, a name or a setting is wrong, or a key is not in the environment.
    """
    try:
        raw = read_value(config.read_text(encoding="utf-8"))
    except YamlFault as fault:
        raise ConfigError(f"{config}: not valid YAML: {fault}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config}: cannot be read ({getattr(error, 'strerror', None) or 'no UTF-8'})") from None
    known = raw.get("models") if isinstance(raw, dict) else None
    if not isinstance(known, dict) or not known:
        raise ConfigError(f"{config}: models: a mapping of names to endpoints is needed, see docs/worlds.md")
    wanted = [n.strip() for n in names.split(",")]
    for name, times in Counter(wanted).items():
        if times > 1:
            raise ConfigError(f"--models: {name!r} is named {times} times; name each model once")
        if name not in known:
            there = ", ".join(map(str, known))
            raise ConfigError(f"--models: {config} has no model {name!r}; it has: {there}")
    out, wrong = {}, []
    for name in wanted:
        where = f"{config}: models.{name}"
        if isinstance(known[name], dict) and known[name].get("kind", "endpoint") != "endpoint":
            wrong.append(f"{where}.kind: not an endpoint; personas are written by models of kind endpoint")
            continue
        try:
            out[name] = EndpointSettings.model_validate(known[name])
        except ValidationError as error:
            wrong += [_explained(where, e) for e in error.errors(include_input=False)]
            continue
        if missing := _missing_key(out[name].key_env):
            wrong.append(f"{where}.key_env: {missing}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return out


def _explained(where: str, error) -> str:
    key = ".".join([where, *map(str, error["loc"])])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key; allowed here: {', '.join(EndpointSettings.model_fields)}"
    if error["type"] == "missing":
        return f"{key}: this key is needed and was not given"
    return f"{key}: {error['msg'].removeprefix('Value error, ')}"


def _missing_key(variable: str | None) -> str | None:
    """What is wrong with the variable that holds a key."""
    if variable is None or os.environ.get(variable):
        return None
    return f"the environment variable {variable} is not set"


def destination(world: str, out: Path | None) -> tuple[Path, bool]:
    """The folder that is written into, and whether it was made by this call, as a copy of the world.

    Raises:
        WorldError: There is no such world.
        ConfigError: The folder may not, or cannot, be written into.
    """
    source = folder_of(world).resolve()
    target = source if out is None else out.resolve()
    refuse_installed(target, "give --out DIR for a copy")
    if target == source or (target / "world.yaml").exists():
        names = [sorted(p.name for p in (f / "scenarios").glob("*.yaml")) for f in (source, target)]
        if names[0] != names[1]:
            raise ConfigError(f"{target} is another world: its scenarios are not those of {source}")
        if not os.access(target, os.W_OK):
            raise ConfigError(f"{target} cannot be written to; give --out DIR for a copy")
        return target, False
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not a world; --out takes a new folder, or one that it made")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", target.name):
        raise ConfigError(
            f"--out: found {target.name!r}; the folder's name becomes the world's: lower-case letters, digits and "
            "single dashes, a letter first"
        )
    sound(source)  # a copy of a world that cannot be read would be of no use
    try:
        _copy(source, target)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror or error}") from None
    return target, True


def refuse_installed(folder: Path, instead: str) -> None:
    """Raise `ConfigError` for the folder of an installed world."""
    if folder in {p.resolve() for p in TEXT_WORLDS.values()}:
        raise ConfigError(f"{folder.name} is an installed world, which stays as it is; {instead}")


def _copy(source: Path, target: Path) -> None:
    """All that a world may hold, under the folder's own name."""
    with whole_folder(target) as scratch:
        shutil.copytree(source / "scenarios", scratch / "scenarios")
        for name in FILES:
            if (source / name).exists():
                shutil.copy(source / name, scratch / name)
        file = scratch / "world.yaml"
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"^name:.*$", f"name: {target.name}", text, count=1, flags=re.M), encoding="utf-8")


def sound(folder: Path) -> Parts:
    """A world's parts, whose personas may still be missing; `WorldError` with a line for each problem."""
    parts, problems = read_parts(folder, complete=False)
    if problems or parts.world is None:
        lines = "\n".join(f"  {p}" for p in problems)
        raise WorldError(f"{folder} holds no sound world (candor world check {folder}):\n{lines}")
    return parts


def _endpoints(models: Mapping[str, EndpointSettings]) -> dict:
    from actors.models.endpoint import Endpoint

    return {name: Endpoint(settings) for name, settings in models.items()}


def _agreed(console: Console) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked whether to spend that; give --yes to go ahead without a question")
    return console.input("Go ahead? y or n: ").strip().lower() in ("y", "yes")


def _write_all(writer: Writer, concurrency: int, console: Console) -> int:
    """Check every endpoint, write, and return the exit code."""
    try:
        with Stages(console) as ui, ui.stage("write personas", writer.have + writer.short, "personas") as stage:
            asyncio.run(_write(writer, concurrency, stage))
    except asyncio.CancelledError:
        print("candor: stopped; every persona that was kept is in the file", file=sys.stderr)
        return STOPPED
    if writer.refused:
        print(f"candor: stopped, because a model no longer answers: {writer.refused}", file=sys.stderr)
    return FAILED if writer.short else DONE


async def _write(writer: Writer, concurrency: int, stage: Stage) -> None:
    endpoints = writer.models
    try:
        with cancelled_by_signals(asyncio.current_task()):
            found = await asyncio.gather(*(e.check() for e in endpoints.values()), return_exceptions=True)
            for error in found:
                if isinstance(error, BaseException) and not isinstance(error, ModelRefusedError):
                    raise error
            if wrong := [f"{n}: {e}" for n, e in zip(endpoints, found, strict=True) if e]:
                raise ConfigError("nothing was spent, because not every model can be reached:\n" + "\n".join(wrong))
            await writer.run(concurrency, stage.update)
    finally:
        for endpoint in endpoints.values():
            await endpoint.close()


def _say_expected(writer: Writer, models: Mapping[str, EndpointSettings], count: int, console: Console) -> None:
    expected = writer.expected()
    rows = [
        (name, e.personas, e.requests, e.prompt_tokens, e.completion_tokens, _cost(models, name, e))
        for name, e in expected.items()
    ]
    print(f"{writer.short} of {count} personas are to be written.")
    console.print(_table("Expected, if every answer can be used", "about", rows))


def _say_result(
    writer: Writer, journal: Journal, models: Mapping[str, EndpointSettings], count: int, folder: Path, console: Console
) -> None:
    found = totals(journal.requests)
    rows = [
        (name, t.kept, t.requests, t.prompt_tokens, t.completion_tokens, _cost(models, name, t))
        for name, t in found.items()
    ]
    console.print(_table("All requests so far, earlier runs included", "", rows))
    print(f"{writer.have} of {count} personas are in {folder / 'personas.jsonl'}")
    if dropped := sum((t.dropped for t in found.values()), Counter()):
        print(f"not kept: {_counts(dropped)}")
    if faults := sum((t.faults for t in found.values()), Counter()):
        print(f"failed attempts: {_counts(faults)}")
    for line in writer.said:
        print(line)
    if watched := writer.watched():
        print(f"{watched} hold words after which a person should read them: candor world review {folder}")


def _counts(counter: Counter) -> str:
    return ", ".join(f"{n} x {what}" for what, n in counter.most_common())


def _cost(models: Mapping[str, EndpointSettings], name: str, tokens) -> float | None:
    """What tokens cost; None where the model, or one that only an earlier run asked, has no price."""
    price = models[name].price if name in models else None
    if price is None:
        return None
    return price.of(tokens.prompt_tokens, tokens.completion_tokens)


def _table(title: str, about: str, rows: Iterable[tuple]) -> Table:
    """Rows of model, personas, requests, tokens sent and received, and cost in the currency of the prices."""
    rows = list(rows)
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for name in ("personas", "requests", "tokens sent", "received", "cost"):
        table.add_column(name, justify="right")

    def shown(cost: float | None) -> str:
        return (
            UNPRICED if cost is None else f"{about} {cost:,.2f}".strip() if cost >= 1 else f"{about} {cost:.4f}".strip()
        )

    for name, *counts, cost in rows:
        table.add_row(escape(name), *(f"{n:,}" for n in counts), shown(cost))
    if len(rows) > 1:
        priced = [cost for *_, cost in rows if cost is not None]
        total = shown(sum(priced) if priced else None) + (" and more" if 0 < len(priced) < len(rows) else "")
        table.add_section()
        table.add_row("together", *(f"{sum(r[i] for r in rows):,}" for i in range(1, 5)), total)
    return table
