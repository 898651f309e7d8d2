"""`candor eval MODEL`: evaluate one model without a run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from actors.chat import ModelRefusedError
from actors.files import model_fingerprint, whole_file
from actors.lifeline import ActorGone
from actors.roles import Door, endpoint_identity
from actors.settings import EndpointSettings, EngineSettings, ModelEngineSettings, Settings
from actors.worlds import WorldError
from actors.worlds.models import POCKET_MODELS, resolve
from evals.evaluator import Access, Evaluator, complete, summarise
from evals.settings import PROTOCOLS, EvalSettings
from evals.sources import from_world, suites_of
from loop.config import (
    ConfigError,
    ModelName,
    ModelSettings,
    build,
    overridden,
    parse_overrides,
    read_yaml,
    unlike,
)
from loop.export import merge
from loop.monitor import Stages, cancelled_by_signals

LONG = 8192
"""Longest prompt and answer together, in tokens, unless the model or the config says less."""
ANSWER = 1024
"""Longest answer, in tokens, where the config does not say; half of what the model takes where that is less."""
SELF = "self"
"""What the model itself is called as a judge."""


class EvaluationConfig(Settings):
    """Everything that defines an evaluation outside of a run."""

    model: str = Field(min_length=1)
    """A Hugging Face directory or hub name, an adapter's directory, a pocket model by name, or with `endpoint` what the
    model is called there."""
    base: str | None = None
    """The base model of an adapter; null takes the one that the adapter names."""
    endpoint: EndpointSettings | None = None
    """Where the model is served, in place of an engine."""
    world: str | None = None
    """A world whose own items are asked."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Samples of items, their order and all answers follow from it."""
    models: dict[ModelName, ModelSettings] = Field(default_factory=dict)
    """Models that judge, by name."""
    engine: EngineSettings = EngineSettings()
    """The engine of the model; `max_model_len` is as long as the model takes, up to 8192, unless it is set."""
    evals: EvalSettings = EvalSettings()
    """What is asked, and who judges: names under `models`, `self` for the model itself, or `world`."""

    @model_validator(mode="after")
    def _can_be_judged(self) -> EvaluationConfig:
        known = [*self.models, SELF, *(["world"] if self.world == "pocket" else [])]
        for name in self.judges:
            if name not in known:
                raise ValueError(f"evals.judges: there is no judge {name!r}; known: {', '.join(known)}")
        if SELF in self.models:
            raise ValueError(f"models.{SELF}: the name means the model that is evaluated; give the judge another")
        if SELF in self.judges and self.model in POCKET_MODELS:
            raise ValueError(f"evals.judges {SELF}: a pocket model understands no question about an answer")
        asked = [s for s in suites_of(self.world, self.evals) if PROTOCOLS[s] == "harness"]
        if asked and self.endpoint is not None:
            raise ValueError(
                f"evals.suites: {', '.join(asked)} are asked of an engine; give the model itself, no address"
            )
        if set(self.judges) - {"world"}:
            return self
        for suite in suites_of(self.world, self.evals):
            if PROTOCOLS[suite] == "harness":
                continue
            if not self.judges or not from_world(suite, self.evals.suite(suite), self.world):
                raise ValueError(
                    f"answers to {suite} need a model that judges them; give --judge NAME@URL, or --judge {SELF} to "
                    "let the model judge itself"
                )
        return self

    @property
    def judges(self) -> tuple[str, ...]:
        """Who judges: those named, else the world's judge where there is a world that has one."""
        if self.evals.judges is not None:
            return tuple(self.evals.judges)
        return ("world",) if self.world == "pocket" else tuple(self.models)


def judge_of(spec: str, key_env: str | None) -> tuple[str, dict[str, Any] | None]:
    """The name of a judge, and its settings where it is an endpoint.

    Args:
        spec: `world`, `self`, `MODEL@URL`, or `MODEL` at OpenAI's address.
    """
    if spec in ("world", SELF):
        return spec, None
    model, _, url = spec.partition("@")
    name = "".join(c if c.isalnum() else "-" for c in model.lower()).strip("-") or "judge"
    found: dict[str, Any] = {"kind": "endpoint", "model": model, "key_env": key_env}
    return name, found | ({"base_url": url} if url else {})


def evaluate(config: EvaluationConfig, out: Path, ui: Stages) -> dict[str, dict]:
    """Ask a model every item of every suite; an unfinished evaluation in `out` is gone on with.

    Returns:
        Figures by suite.

    Raises:
        ConfigError: Something cannot be had, or `out` belongs to another evaluation.
        ActorGone, ModelRefusedError: An engine died, or a model answers nobody until a person has acted; what was
            answered is kept.
        asyncio.CancelledError: It was asked to stop; likewise.
    """
    evaluator = Evaluator(config.world, config.seed)
    if fault := asyncio.run(evaluator.prepare(config.evals)):
        raise ConfigError(fault)
    adapter = (Path(config.model).expanduser() / "adapter_config.json").exists()
    if config.endpoint is None and not adapter and config.model not in POCKET_MODELS:
        _resolved(config.model)
    _claim(config, out)
    if not complete(out):
        with _crew(config, ui) as (access, settings):
            asyncio.run(_ask(evaluator, access, config, settings, out, ui))
    return summarise(out, config.evals.max_error_share)


def _claim(config: EvaluationConfig, out: Path) -> None:
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    recorded = out / "config.yaml"
    try:
        if recorded.exists():
            if differs := unlike(yaml.safe_load(recorded.read_text(encoding="utf-8")), yaml.safe_load(text)):
                raise ConfigError(
                    f"{out} belongs to another evaluation; choose another --out, or undo what differs:\n"
                    + "\n".join(differs.values())
                )
            return
        if out.exists() and any(out.iterdir()):
            raise ConfigError(f"{out} is not empty and is no evaluation; choose another --out")
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
def _crew(config: EvaluationConfig, ui: Stages) -> Iterator[tuple[Access, EvalSettings]]:
    """The model, its judges, and the settings that fit the model, while the block runs."""
    engines = [s for s in config.models.values() if isinstance(s, ModelEngineSettings)]
    with contextlib.ExitStack() as stack:
        if config.endpoint is None or engines or "world" in config.judges:
            stack.enter_context(_ray())
        settings = config.evals
        if config.endpoint is not None:
            model = Door(config.model, endpoint=config.endpoint, share=1.0, identity=endpoint_identity(config.endpoint))
            capacity = config.endpoint.concurrency
            if "max_tokens" not in settings.model_fields_set:
                settings = settings.model_copy(update={"max_tokens": ANSWER})
        else:
            path = stack.enter_context(_weights(config))
            longest = _longest(config.engine, path)
            engine = config.engine.model_copy(update={"max_model_len": longest})
            model = stack.enter_context(_engine(config.model, path, engine, ui))
            capacity = engine.max_num_seqs * engine.replicas
            if "max_tokens" not in settings.model_fields_set and config.model not in POCKET_MODELS:
                settings = settings.model_copy(update={"max_tokens": min(ANSWER, longest // 2)})
        judges = []
        for name in config.judges:
            if name == SELF:
                judges.append(model)
            elif name != "world":
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

    from actors.judge import PocketJudge

    yield ray.remote(PocketJudge).options(num_cpus=0, max_concurrency=1000).remote()


@contextlib.contextmanager
def _judge(name: str, settings: EndpointSettings | ModelEngineSettings, ui: Stages) -> Iterator[Door]:
    if isinstance(settings, EndpointSettings):
        yield Door(name, endpoint=settings, price=settings.price, identity=endpoint_identity(settings))
        return
    with _engine(name, _resolved(settings.model), settings, ui) as door:
        yield door


def _resolved(model: str) -> str:
    try:
        return resolve(model)
    except WorldError as error:
        raise ConfigError(str(error)) from None


@contextlib.contextmanager
def _engine(name: str, path: str, settings: EngineSettings, ui: Stages) -> Iterator[Door]:
    """Engines that serve a model as the base policy."""
    import ray

    from actors.assistant import BASE_POLICY, Engine, engine_environment

    threads = settings.threads or max(1, (os.cpu_count() or 1) // settings.replicas)
    options = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    environment = {"env_vars": engine_environment(settings, threads)}
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
        yield Door(name, actors, BASE_POLICY, identity=model_fingerprint(Path(path)))
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
    if "max_model_len" in engine.model_fields_set:
        return engine.max_model_len
    config = Path(path) / "config.json"
    if not config.exists():  # a hub name
        return LONG
    takes = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings") or LONG
    return min(LONG, int(takes))


STOPS = (ActorGone, ModelRefusedError, asyncio.CancelledError)
"""What ends an evaluation although nothing is broken."""


def read_config(
    file: Path | None,
    given: dict[str, str | None],
    suites: str | None,
    judges: list[str],
    limit: int | None,
    changes: list[str],
) -> EvaluationConfig:
    """The settings of a file with what the command line says in place.

    Args:
        given: `model`, `base`, `world`, `base_url` and `key_env` of the command line.
        suites: Names with commas.
        judges: As `judge_of` takes them.
        limit: Items of each suite.
        changes: `key=value`, which come last.

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
    config = build(overridden(raw, parse_overrides(changes), "--set"), source, EvaluationConfig)
    if limit is None:
        return config
    own = {s: {"items": limit} for s in suites_of(config.world, config.evals)}
    raw["evals"] = {**evals, **{s: {**_suite(evals.get(s)), **of} for s, of in own.items()}}
    return build(overridden(raw, parse_overrides(changes), "--set"), source, EvaluationConfig)


def _suite(given: Any) -> dict[str, Any]:
    return dict(given) if isinstance(given, dict) else {}
