"""How long a run will take on this machine, said before it starts, and how long each part took, said at its end.

What a run has to do is known from its config. How fast a machine does it is known from the last run of the same model
here. Where there was none, it is estimated: for models that come with a world from how fast this machine does a short
piece of work, compared with the machine that the constants were measured on; for others on CPUs from the tokens to
compute and the speed of the cores.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.models.hardware import cores, fast_dtype
from actors.scripted import SCRIPTED
from actors.storage.cache import cache_folder
from actors.storage.files import whole_file
from actors.worlds.base import WorldError
from actors.worlds.models import home_of, resolve
from evals.protocols import PROTOCOLS
from evals.suites.catalogue import SUITES
from evals.suites.sources import suites_of
from loop.config.schema import RunConfig
from loop.estimate import computed_tokens, shape_of
from loop.plan import to_hold
from loop.rundir import RunDir, read_json

START = 18.0
"""Seconds from the command until engines and trainer are up, on the reference machine: two cores of 2025 with
instructions for bfloat16."""
TURN = 0.0058
"""Seconds that a turn of a conversation takes there with a pocket model, all of a round side by side."""
ANSWER = 0.0019
"""Seconds that an answer to an item takes there."""
ROW = 0.0165
"""Seconds that a row takes there each time it is trained on."""
PUBLISH = 0.1
"""Seconds until a policy is served there."""
END = 5.5
"""Seconds that summary and report take there."""
PROBE = 0.082
"""Seconds that `speed` measures there."""
EFFICIENCY = {"float32": 0.45, "bfloat16": 1.1}
"""Part of a machine's speed at multiplying matrices of float32 that engines and trainer of a pretrained model reach, by
the number format in which they run fast there."""
LOAD = 60
"""Seconds that engines and trainer take to load a model of a billion parameters."""
CONTROLS = 5 / 3
"""Items that are asked for each one under pressure, matched controls counted."""


@dataclass(frozen=True)
class Expected:
    """Seconds until engines and trainer are up, and for everything after that."""

    start: float
    loop: float

    def __str__(self) -> str:
        return f"about {shown(self.start + self.loop)} on this machine, {shown(self.start)} of them to start"


def shown(seconds: float) -> str:
    """A duration as people say it."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds // 60} min {seconds % 60} s"


def expected(config: RunConfig) -> Expected | None:
    """How long a new run of a config will take; None where nothing is known about its model here."""
    if set(config.models) != set(config.engines) or config.model == SCRIPTED:  # an endpoint takes what it takes
        return None
    if before := _kept().get(_key(config)):
        return Expected(before["start"], work(config) * before["factor"])
    factor = speed() / PROBE
    if all(map(home_of, [config.model, *(s.model for s in config.engines.values())])):
        return Expected(START * factor, work(config) * factor)
    return _by_tokens(config, factor)


def _by_tokens(config: RunConfig, factor: float) -> Expected | None:
    """How long a run on CPUs takes by the tokens that it computes; None where that cannot be known."""
    gpus = config.trainer.gpus or any(s.gpus for s in (config.assistant, config.users.engine, *config.engines.values()))
    try:
        folder = Path(resolve(config.model))
    except WorldError:
        return None
    if gpus or config.engines or not folder.is_dir() or (config.assistant.replicas, config.users.pools) != (1, 1):
        return None
    weights = sum(f.stat().st_size for f in folder.glob("*.safetensors")) / 2  # most are kept in 16 bits
    text = shape_of(str(folder)).get_text_config()
    looked_up = 0 if text.tie_word_embeddings else text.vocab_size * text.hidden_size
    seconds = (
        2 * (weights - looked_up) * computed_tokens(config, str(folder)) / (EFFICIENCY[fast_dtype("cpu")] * flops())
    )
    return Expected(START * factor + LOAD * weights / 1e9, seconds)


def flops() -> float:
    """Floating-point operations a second of this machine's cores together, multiplying matrices of float32."""
    import numpy as np

    size = 1024
    a = np.ones((size, size), np.float32)
    a @ a

    def once() -> float:
        began = time.perf_counter()
        a @ a
        return time.perf_counter() - began

    return 2 * size**3 / min(once() for _ in range(5))


def work(config: RunConfig) -> float:
    """Seconds that the reference machine needs for everything after the start, with a pocket model."""
    total, held = END, to_hold(config)
    for n, arm in enumerate(map(config.for_arm, config.arms)):
        asked = sum(answers(s, arm) for s in suites_of(arm.world, arm.evals) if not SUITES[s].by_lm_eval)
        total += (arm.rounds + (n == 0)) * asked * ANSWER + (arm.rounds + 1) * PUBLISH
        talks, turns = arm.rollout.conversations, arm.conversation.turns
        if arm.data is None:
            total += held[config.arms[n].name] * turns * TURN
            ends = arm.selects.top + arm.selects.bottom
            chosen = talks * ends if arm.selection.unit == "share" else ends
            total += arm.rounds * chosen * turns * ROW * arm.trainer.epochs
        else:
            total += arm.rounds * (arm.data.base.rows or 1000) * ROW * arm.trainer.epochs
    return total


def answers(suite: str, config: RunConfig) -> float:
    """Answers to the items of a suite that one policy gives, matched controls among them; about so many."""
    settings = config.evals.suite(suite)
    count = settings.items or SUITES[suite].of_world or 100
    return count * settings.replicates * (CONTROLS if PROTOCOLS[SUITES[suite].protocol].honesty else 1)


def speed() -> float:
    """Seconds that a fixed piece of work takes, half of it in Python and half in numpy: the best of three."""
    import numpy as np

    a = np.ones((384, 384), np.float32)

    def once() -> float:
        began = time.perf_counter()
        sum(i * i for i in range(1_500_000))
        for _ in range(60):
            a @ a
        return time.perf_counter() - began

    return min(once() for _ in range(3))


def remember(config: RunConfig, out: RunDir) -> None:
    """Keep how long a finished run took, for the next one of the same model here; not of a run that was resumed."""
    took = parts(out, config)
    if read_json(out.timing).get("starts") != 1 or config.side_by_side > 1:
        return
    start = took.pop("start")
    kept = _kept() | {_key(config): {"start": start, "factor": (sum(took.values()) + END) / work(config)}}
    try:
        with whole_file(_file()) as file:
            file.write(json.dumps(kept, indent=1).encode())
    except OSError:  # what is not kept is estimated
        return


def parts(out: RunDir, config: RunConfig) -> dict[str, float]:
    """Seconds by stage, all arms and rounds together; an evaluation beside a rollout counts where it outlasted that."""
    found = {"start": read_json(out.timing).get("start", 0.0)}
    found |= {"publish": 0.0, "rollout": 0.0, "evaluate": 0.0, "train": 0.0}
    for arm in config.arms:
        for r in range(config.rounds + 1):
            seconds = read_json(out.stages(arm.name, r))
            for stage in ("publish", "rollout", "train"):
                found[stage] += seconds.get(stage, 0.0)
            found["evaluate"] += max(0.0, seconds.get("evaluate", 0.0) - seconds.get("rollout", 0.0))
    return found


def told(seconds: dict[str, float], at_once: int = 1) -> str:
    """Such seconds in all and by stage, those left out that took none.

    Args:
        at_once: How many arms were at work side by side.
    """
    names = {"evaluate": "evaluate (beyond rollouts)"} if seconds.get("rollout") else {}
    took = {names.get(name, name): s for name, s in seconds.items() if s}
    whose = " summed over arms that overlapped" if at_once > 1 else ""
    return f"{shown(sum(took.values()))}{whose}: {', '.join(f'{name} {shown(s)}' for name, s in took.items())}"


def _key(config: RunConfig) -> str:
    engines = ",".join(sorted(s.model for s in config.engines.values()))
    trainer = f"{config.trainer.algorithm} {'adapter' if config.trainer.lora else 'full'}"
    return f"{config.model} {engines} {config.world} {trainer} {config.sync} {cores()} cores"


def _file() -> Path:
    return cache_folder() / "durations.json"


def _kept() -> dict[str, Any]:
    try:
        return json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
