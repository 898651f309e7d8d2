"""`candor eval MODEL`: evaluate one model without a run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from actors.actor import ActorGone
from actors.models.chat import ModelRefusedError
from actors.models.ref import ModelRef, endpoint_identity, engine_identity
from actors.models.sizing import LONGEST
from actors.settings import EndpointSettings, EngineSettings, ModelEngineSettings, Settings
from actors.storage.files import whole_file
from actors.worlds import WorldError, world_kind
from actors.worlds.models import home_of, resolve
from evals.evaluator import Access, Evaluator, complete, summarise
from evals.judging.words import NAME as WORDS
from evals.judging.words import PROTOCOLS as WORDS_READ
from evals.settings import EvalSettings
from evals.suites.catalogue import SUITES
from evals.suites.rows import SourceError, TooFewError
from evals.suites.sources import from_world, load, suites_of
from loop.config.explain import ConfigError
from loop.config.files import build, parse_overrides, read_yaml, unlike
from loop.config.schema import Extensions, ModelName, ModelSettings
from loop.export import merge
from loop.report.terminal import Stages, cancelled_by_signals

ANSWER = 1024
"""Longest answer, in tokens, where the config does not say; half of what the model takes where that is less."""
SELF = "self"
"""What the model itself is called as a judge."""


class EvaluationConfig(Settings):
    """Everything that defines an evaluation outside of a run."""

    extensions: Extensions = Field(default_factory=list)
    """Modules of your own that add suites, as in a run config."""
    model: str = Field(min_length=1)
    """A Hugging Face directory or hub name, an adapter's directory, a pocket model by name, or the model's name at
    `endpoint`."""
    base: str | None = None
    """The base model of an adapter; null takes the one that the adapter names."""
    endpoint: EndpointSettings | None = None
    """Where the model is served, instead of an engine."""
    world: str | None = None
    """A world whose own items are asked."""
    models: dict[ModelName, ModelSettings] = Field(default_factory=dict)
    """Models that judge, by name."""
    engine: EngineSettings = EngineSettings()
    """The engine of the model."""
    evals: EvalSettings = EvalSettings()
    """What is asked, and who judges: names under `models`, `self` for the model itself, or `world`."""

    @model_validator(mode="after")
    def _can_be_judged(self) -> EvaluationConfig:
        known = [*self.models, SELF, WORDS, *(["world"] if self.judges_exactly else [])]
        for name in self.judges:
            if name not in known:
                raise ValueError(f"evals.judges: there is no judge {name!r}; known: {', '.join(known)}")
        if SELF in self.models:
            raise ValueError(f"models.{SELF}: the name means the model that is evaluated; give the judge another")
        if SELF in self.judges and (home := home_of(self.model)):
            raise ValueError(
                f"evals.judges {SELF}: a model of the {home} world understands no question about an answer"
            )
        asked = [s for s in suites_of(self.world, self.evals) if SUITES[s].by_lm_eval]
        if asked and self.endpoint is not None:
            raise ValueError(
                f"evals.suites: {', '.join(asked)} are asked of an engine; give the model itself, no address"
            )
        if set(self.judges) - {"world", WORDS}:
            return self
        for suite in suites_of(self.world, self.evals):
            if SUITES[suite].by_lm_eval or not self.evals.suite(suite).judged:
                continue
            if WORDS in self.judges and SUITES[suite].protocol in WORDS_READ:
                continue
            if not self.judges or not from_world(suite, self.evals.suite(suite), self.world):
                raise ValueError(
                    f"answers to {suite} need a model that judges them; give --judge NAME@URL, or --judge {SELF} to "
                    "let the model judge itself"
                )
        return self

    @property
    def judges_exactly(self) -> bool:
        """Whether there is a world that has a judge of its own, which needs no model."""
        return self.world is not None and world_kind(self.world).exact_judge() is not None

    @property
    def judges(self) -> tuple[str, ...]:
        """Who judges: those named, else the world's judge where there is a world that has one."""
        if self.evals.judges is not None:
            return tuple(self.evals.judges)
        return ("world",) if self.judges_exactly else tuple(self.models)


def judge_of(spec: str, key_env: str | None) -> tuple[str, dict[str, Any] | None]:
    """The name of a judge, and its settings where it is an endpoint.

    Args:
        spec: `world`, `words`, `self`, `MODEL@URL`, or `MODEL` at OpenAI's address.
    """
    if spec in ("world", WORDS, SELF):
        return spec, None
    model, _, url = spec.partition("@")
    name = "".join(c if c.isalnum() else "-" for c in model.lower()).strip("-") or "judge"
    found: dict[str, Any] = {"kind": "endpoint", "model": model, "key_env": key_env}
    return name, found | ({"base_url": url} if url else {})


def evaluate(config: EvaluationConfig, out: Path, ui: Stages) -> dict[str, dict]:
    """Ask a model every item of every suite; an unfinished evaluation in `out` is continued.

    Returns:
        Figures by suite.

    Raises:
        ConfigError: Something cannot be had, or `out` belongs to another evaluation.
        ActorGone, ModelRefusedError: An engine died, or a model answers nobody until a person has acted; what was
            answered is kept.
        asyncio.CancelledError: It was asked to stop; likewise.
    """
    evaluator = Evaluator(config.world)
    if fault := asyncio.run(evaluator.prepare(config.evals)):
        raise ConfigError(fault)
    adapter = (Path(config.model).expanduser() / "adapter_config.json").exists()
    if config.endpoint is None and not adapter and home_of(config.model) is None:
        _resolved(config.model)
    _claim(config, out)
    if not complete(out):
        with _serving(config, ui) as (access, settings):
            asyncio.run(_ask(evaluator, access, config, settings, out, ui))
    return summarise(out, config.evals.max_error_share)


def _claim(config: EvaluationConfig, out: Path) -> None:
    """Record the config in a new folder, or check that the folder is of an evaluation with the same one."""
    found = config.model_dump(mode="json")
    text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
    recorded = out / "config.yaml"
    try:
        if recorded.exists():
            before = build(read_yaml(recorded), str(recorded), EvaluationConfig)
            if differs := unlike(before.model_dump(mode="json"), found):
                raise ConfigError(
                    f"{out} belongs to another evaluation; choose another --out, or undo what differs:\n"
                    + "\n".join(differs.values())
                )
            return
        if out.exists() and any(out.iterdir()):
            raise ConfigError(f"{out} is not empty and is not an evaluation; choose another --out")
        with whole_file(recorded) as file:
            file.write(text.encode())
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror})") from None


async def _ask(
    evaluator: Evaluator, access: Access, config: EvaluationConfig, settings: EvalSettings, out: Path, ui: Stages
) -> None:
    work = asyncio.ensure_future(evaluator.evaluate("", 0, access, str(out), settings))
    with cancelled_by_signals(work), ui.stage(f"evaluate {config.model}", 1, "answers") as stage:
        while not work.done():
            await asyncio.wait([work], timeout=0.3)
            stage.update(*await evaluator.progress())
        try:
            await work
        finally:
            await evaluator.close()


@contextlib.contextmanager
def _serving(config: EvaluationConfig, ui: Stages) -> Iterator[tuple[Access, EvalSettings]]:
    """The model, its judges, and the settings that fit the model, while the block runs."""
    engines = [s for s in config.models.values() if isinstance(s, ModelEngineSettings)]
    with contextlib.ExitStack() as stack:
        if config.endpoint is None or engines or "world" in config.judges:
            stack.enter_context(_ray())
        settings = config.evals
        if config.endpoint is not None:
            model = ModelRef(
                config.model, endpoint=config.endpoint, share=1.0, identity=endpoint_identity(config.endpoint)
            )
            capacity = config.endpoint.concurrency
            if "max_tokens" not in settings.model_fields_set:
                settings = settings.model_copy(update={"max_tokens": ANSWER})
        else:
            path = stack.enter_context(_weights(config))
            longest = _longest(config.engine, path)
            engine = config.engine.model_copy(update={"max_model_len": longest})
            model = stack.enter_context(_engine(config.model, path, engine, ui))
            capacity = engine.max_num_seqs * engine.replicas
            if "max_tokens" not in settings.model_fields_set and home_of(config.model) is None:
                settings = settings.model_copy(update={"max_tokens": min(ANSWER, longest // 2)})
        judges = []
        for name in config.judges:
            if name == SELF:
                judges.append(model)
            elif name not in ("world", WORDS):
                judges.append(stack.enter_context(_judge(name, config.models[name], ui)))
        yield Access(model, tuple(judges), stack.enter_context(_exact(config)), capacity), settings


@contextlib.contextmanager
def _ray() -> Iterator[None]:
    from loop.cluster import quieten_ray, start_local_ray

    quieten_ray()
    import ray

    start_local_ray("candor-eval")
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _exact(config: EvaluationConfig) -> Iterator[Any]:
    """The world's exact judge; None where it is not asked for."""
    if "world" not in config.judges:
        yield None
        return
    import ray

    yield ray.remote(world_kind(config.world).exact_judge()).options(num_cpus=0, max_concurrency=1000).remote()


@contextlib.contextmanager
def _judge(name: str, settings: EndpointSettings | ModelEngineSettings, ui: Stages) -> Iterator[ModelRef]:
    if isinstance(settings, EndpointSettings):
        yield ModelRef(name, endpoint=settings, price=settings.price, identity=endpoint_identity(settings))
        return
    with _engine(name, _resolved(settings.model), settings, ui) as ref:
        yield ref


def _resolved(model: str) -> str:
    try:
        return resolve(model)
    except WorldError as error:
        raise ConfigError(str(error)) from None


@contextlib.contextmanager
def _engine(name: str, path: str, settings: EngineSettings, ui: Stages) -> Iterator[ModelRef]:
    """Engines that serve a model as the base policy."""
    import ray

    from actors.engine import BASE_POLICY, Engine, engine_environment

    threads = settings.threads or max(1, (os.cpu_count() or 1) // settings.replicas)
    options = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    environment = {"env_vars": engine_environment(threads)}
    actors = [
        ray.remote(Engine).options(**options, runtime_env=environment).remote(path, settings)
        for _ in range(settings.replicas)
    ]
    try:
        with ui.stage(f"start {name}", len(actors), "engines") as stage:
            try:
                ray.get([a.start.remote() for a in actors])
            except ray.exceptions.RayTaskError as error:
                raise ConfigError(f"the engine of {name} does not start: {_cause(error)}") from None
            stage.update(len(actors))
        yield ModelRef(name, actors, BASE_POLICY, identity=engine_identity(path, settings))
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get([a.stop.remote() for a in actors], timeout=10)


def _cause(error: Any) -> str:
    return str(getattr(error, "cause", error)).strip().splitlines()[-1]


@contextlib.contextmanager
def _weights(config: EvaluationConfig) -> Iterator[str]:
    """Path or hub name of whole weights; an adapter is merged into its base, for as long as the block runs."""
    folder = Path(config.model).expanduser()
    adapter = folder / "adapter_config.json"
    if not adapter.exists():
        yield _resolved(config.model)
        return
    base = config.base or json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{adapter}: names no base model; give it with --base")
    scratch = Path(tempfile.mkdtemp(prefix="candor-eval-"))
    try:
        merge(_resolved(base), folder, scratch / "model")
        yield str(scratch / "model")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _longest(engine: EngineSettings, path: str) -> int:
    """The most tokens of a prompt and its answer together."""
    if engine.max_model_len is not None:
        return engine.max_model_len
    config = Path(path) / "config.json"
    if not config.exists():  # a hub name
        return LONGEST
    takes = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings") or LONGEST
    return min(LONGEST, int(takes))


STOPS = (ActorGone, ModelRefusedError, asyncio.CancelledError)
"""What ends an evaluation although nothing is broken."""


def read_config(
    file: Path | None,
    given: dict[str, str | None],
    suites: str | None,
    judges: list[str],
    limit: int | None,
    changes: list[str],
    say: Callable[[str], None],
) -> EvaluationConfig:
    """The settings of a file, with those of the command line in their place.

    Args:
        given: `model`, `base`, `world`, `base_url` and `key_env` of the command line.
        suites: Names with commas.
        judges: As `judge_of` takes them.
        limit: Most items of each suite.
        changes: `key=value`, which come last.
        say: Told, in a line, of each suite that has fewer items than `limit`.

    Raises:
        ConfigError: Something in it is not allowed.
    """
    raw: dict[str, Any] = read_yaml(file) if file else {}
    key_env = given["key_env"]
    raw |= {k: given[k] for k in ("model", "base", "world") if given[k] is not None}
    if given["base_url"]:
        raw["endpoint"] = {
            "kind": "endpoint", "model": given["model"], "base_url": given["base_url"], "key_env": key_env
        }  # fmt: skip
    evals = dict(raw.get("evals") or {})
    if suites:
        evals["suites"] = [s.strip() for s in suites.split(",") if s.strip()]
    if judges:
        made = [judge_of(spec, key_env or ("OPENAI_API_KEY" if "@" not in spec else None)) for spec in judges]
        evals["judges"] = [name for name, _ in made]
        raw["models"] = {**(raw.get("models") or {}), **{name: found for name, found in made if found}}
    raw["evals"] = evals
    source = str(file or "candor eval")
    config = build(raw, source, EvaluationConfig, parse_overrides(changes))
    if limit is None:
        return config
    own = {s: {"items": _most(s, limit, config, say)} for s in suites_of(config.world, config.evals)}
    raw["evals"] = {**evals, **{s: {**_suite(evals.get(s)), **of} for s, of in own.items()}}
    return build(raw, source, EvaluationConfig, parse_overrides(changes))


def _most(suite: str, limit: int, config: EvaluationConfig, say: Callable[[str], None]) -> int:
    """How many items of a suite there are, up to a limit."""
    if SUITES[suite].by_lm_eval:  # which takes what there is
        return limit
    try:
        load(suite, config.evals.suite(suite).model_copy(update={"items": limit}), config.world, config.evals.seed)
    except TooFewError as few:
        say(f"{suite} has {few.have} items; --limit {limit} takes all of them")
        return few.have
    except SourceError:  # which is said when the evaluation begins
        return limit
    return limit


def _suite(given: Any) -> dict[str, Any]:
    return dict(given) if isinstance(given, dict) else {}
