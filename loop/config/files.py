"""Configs as files and on the command line: reading, overriding, writing and comparing them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from actors.storage.strict_yaml import YamlFault, read_value
from loop.config.explain import AnyConfig, ConfigError, checked
from loop.config.schema import RunConfig


def load(path: Path, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Read and check a config.

    Args:
        overrides: Values by dotted key, as from `--set`.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds something that is not allowed.
    """
    config = build(read_yaml(path), str(path), changes=overrides)
    for arm in config.arms:
        config.for_arm(arm)
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: There is no such file, or no mapping in it.
    """
    try:
        raw = read_value(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such config") from None
    except YamlFault as fault:
        raise ConfigError(f"{path}: not valid YAML: {fault}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, found {type(raw).__name__}")
    return raw


def default_config() -> Path:
    """`configs/pocket.yaml` of the checkout, or of the installed package."""
    here = Path(__file__).resolve().parent.parent
    places = [here.parent / "configs" / "pocket.yaml", here / "configs" / "pocket.yaml"]
    return next((p for p in places if p.exists()), places[0])


def build(
    raw: dict[str, Any], source: str, kind: type[AnyConfig] = RunConfig, changes: dict[str, Any] | None = None
) -> AnyConfig:
    """A run config, or settings of another kind, from a mapping; arguments and errors as of `checked`."""
    return checked(raw, source, kind, changes)


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`key=value` strings as a mapping; values are YAML."""
    out = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set {pair}: expected key=value, for example --set rounds=3")
        try:
            out[key] = read_value(value)
        except YamlFault as fault:
            raise ConfigError(f"--set {key}: the value is not valid YAML: {fault.problem}") from None
    return out


def dump(config: RunConfig) -> str:
    """The resolved config as YAML; it holds no secrets, which come from the environment only."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


_ENGINE = r"(assistant|users\.engine|models\.[^.]+)"
MAY_CHANGE = re.compile(
    r"(arms\.\d+\.set\.)?("
    r"budget|cluster\..*"
    r"|models\.[^.]+\.(key_env|requests_per_minute|tokens_per_minute|concurrency|timeout|retries|price.*)"
    rf"|({_ENGINE}|users|judge|buffer|trainer|evals)\.(cpus|gpus|threads)"
    rf"|{_ENGINE}\.(replicas|min_replicas|max_num_seqs|kv_cache_gib|gpu_memory_utilization|tensor_parallel|pipeline_parallel)"
    r"|assistant\.serve(\..*)?"
    r"|users\.(pools|min_pools|concurrency)|buffer\.segment_(rows|seconds)|evals\.(share|cache)"
    r"|trainer\.(micro_batch|checkpoint_steps|gradient_checkpointing)"
    r")"
)
"""Operational settings, by dotted key: where and how fast things are computed, and what they may cost. They may change
before a run is continued; `rounds` may too, upwards."""


@dataclass(frozen=True)
class Change:
    """A setting that is another than a run began or last went on with.

    Attributes:
        allowed: Whether the run may go on with it.
    """

    key: str
    before: Any
    after: Any
    allowed: bool
    line: str


def changes(recorded: str, given: RunConfig, names: tuple[str, str] = ("recorded", "given")) -> list[Change]:
    """What differs between a recorded config and another; empty when they mean the same.

    Settings that the recorded one does not name, because it is older than they are, have their default value.

    Args:
        names: What the two are called.

    Raises:
        ConfigError: The recorded one is not a config.
    """
    try:
        before = build(read_value(recorded), "the recorded config")
    except YamlFault as fault:
        raise ConfigError(f"the recorded config is not valid YAML: {fault}") from None
    old, new = before.model_dump(mode="json"), given.model_dump(mode="json")
    was, now = _flat(old), _flat(new)
    return [
        Change(
            key,
            was.get(key),
            now.get(key),
            bool(MAY_CHANGE.fullmatch(key)) or (key == "rounds" and given.rounds > before.rounds),
            line,
        )
        for key, line in unlike(old, new, names).items()
    ]


def differences(recorded: str, given: RunConfig, names: tuple[str, str] = ("recorded", "given")) -> list[str]:
    """What differs between a recorded config and another that a run may not go on with, a line for each dotted key;
    arguments and errors as of `changes`."""
    return [change.line for change in changes(recorded, given, names) if not change.allowed]


def unlike(recorded: Any, given: Any, names: tuple[str, str] = ("recorded", "given")) -> dict[str, str]:
    """What differs between two settings as plain data: a line by dotted key."""
    before, after = _flat(recorded), _flat(given)
    return {
        key: f"  {key}: {_shown(before, key)} ({names[0]}), {_shown(after, key)} ({names[1]})"
        for key in dict.fromkeys([*before, *after])
        if before.get(key, ...) != after.get(key, ...)
    }


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Leaves of nested mappings and lists by dotted key."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inner:
        return {key: value}
    return {k: v for name, x in inner for k, v in _flat(x, f"{key}.{name}".lstrip(".")).items()}


def _shown(values: dict[str, Any], key: str) -> str:
    return (
        yaml.safe_dump(values[key], default_flow_style=True).split("\n...")[0].strip() if key in values else "not there"
    )
