"""How much memory of a GPU each role will take, estimated from the shape of its model, and what to change where that is
more than there is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from actors.scripted import SCRIPTED
from actors.settings import EngineSettings
from actors.worlds import WorldError
from actors.worlds.models import resolve
from loop.config.schema import RunConfig
from trainers.algorithms import ALGORITHMS
from trainers.settings import TrainerSettings

GIB = 2**30
OVERHEAD = 1.5 * GIB
"""What CUDA, its kernels and the graphs of an engine take beside tensors."""
LEAST_CACHE = 0.05
"""Part of a GPU that an engine needs at least for its cache; with less it preempts all the time."""
TRAINER_OVERHEAD = 2 * GIB
"""What CUDA, its kernels and pieces of memory that are free but too small take of the trainer's GPU beside tensors: 1.2
to 2.0 GiB, measured on an H200 by `candor bench mfu`, which also checked the byte counts below."""
HEAD = 0.25 * GIB
"""What the output head and its loss take, which TRL computes for a few hundred tokens at a time."""


@dataclass(frozen=True)
class Estimate:
    """Memory of one GPU of a role, in bytes.

    Attributes:
        parts: What it is for.
        room: What the role may take of the GPU; None where no GPU is known.
        change: What to change where it does not fit; None where it does.
    """

    role: str
    parts: dict[str, float]
    room: float | None = None
    change: str | None = None

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def gpu_memory(config: RunConfig, gpu: int | None) -> list[Estimate]:
    """An estimate for each role that asks for GPUs and whose model's shape is known here.

    Args:
        gpu: Bytes of the smallest GPU; None where that is not known.
    """
    engines: list[tuple[str, str, EngineSettings]] = [("assistant", config.model, config.assistant)]
    if config.own_base_engine:
        engines.append(("users.engine", config.model, config.users_engine))
    engines += [(f"models.{name}", s.model, s) for name, s in config.engines.items()]
    found = [
        _engine(role, shape, s, gpu)
        for role, model, s in engines
        if s.gpus and (shape := model_shape(model)) is not None
    ]
    if config.trainer.gpus and (shape := model_shape(config.model)) is not None:
        found.append(trainer_memory(config.trainer, shape, gpu))
    return found


@dataclass(frozen=True)
class Shape:
    """Weights, layers, hidden units, words, units of a feed-forward layer that a token passes, and heads of a model."""

    weights: int
    layers: int
    hidden: int
    words: int
    inner: int
    heads: int


KNOWN = {
    "meta-llama/Llama-3.1-8B-Instruct": Shape(8_030_261_248, 32, 4096, 128_256, 14_336, 32),
    "Qwen/Qwen2.5-7B-Instruct": Shape(7_615_616_512, 28, 3584, 152_064, 18_944, 28),
    "Qwen/Qwen2.5-32B-Instruct": Shape(32_763_876_352, 64, 5120, 152_064, 27_648, 40),
    "Qwen/Qwen3-32B": Shape(32_762_123_264, 64, 5120, 151_936, 25_600, 64),
}
"""Models of the shipped configs, so that those can be planned where nothing is downloaded."""


def model_shape(model: str) -> Shape | None:
    """The shape of a model: from its weights where they are on this machine or in the hub's cache; else from its
    `config.json` there alone, whose weights are then counted without making them; else as of `KNOWN`. None where
    nothing of it is known."""
    if model == SCRIPTED:
        return None
    if (folder := folder_of(model)) is None:
        return KNOWN.get(model)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = sum(_weights(path) for path in folder.glob("*.safetensors")) or _counted(folder)
    except (OSError, ValueError):
        return KNOWN.get(model)
    text = config.get("text_config", config)
    asked = [text.get(name) for name in ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads")]
    if not weights or not all(isinstance(n, int) for n in asked):
        return None
    layers, hidden, words, heads = asked
    return Shape(weights, layers, hidden, words, _inner(text, hidden), heads)


def folder_of(model: str) -> Path | None:
    """Where files of a model are on this machine; a folder with a `config.json` and nothing else is one too."""
    if (folder := Path(model).expanduser()).is_dir():
        return folder
    try:
        folder = Path(resolve(model))
    except WorldError:
        return None
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(model, "config.json")
    return Path(file).parent if isinstance(file, str) else None


def _inner(config: dict[str, Any], hidden: int) -> int:
    """Units of the feed-forward layer that a token passes: of the experts that it is sent to, where there are some."""
    experts, width = config.get("num_experts_per_tok"), config.get("moe_intermediate_size")
    if isinstance(experts, int) and isinstance(width, int):
        return experts * width
    inner = config.get("intermediate_size")
    return inner * (experts if isinstance(experts, int) else 1) if isinstance(inner, int) else 4 * hidden


def _counted(folder: Path) -> int:
    """Weights of a model by its `config.json`, of which none takes memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).num_parameters()


def _weights(path: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    with open(path, "rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _engine(role: str, shape: Shape, settings: EngineSettings, gpu: int | None) -> Estimate:
    parts = {
        "weights": shape.weights
        * (4 if settings.dtype == "float32" else 2)
        / (settings.tensor_parallel * settings.pipeline_parallel),
        "overhead": OVERHEAD,
    }
    if gpu is None:
        return Estimate(role, parts)
    room = gpu * settings.gpu_memory_utilization * min(1.0, settings.gpus)
    cache = room - sum(parts.values())
    if cache >= LEAST_CACHE * gpu:
        return Estimate(role, {**parts, "cache": cache}, room)
    change = f"raise {role}.tensor_parallel and {role}.gpus together, or {role}.gpu_memory_utilization"
    return Estimate(role, {**parts, "cache": LEAST_CACHE * gpu}, room, change)


def trainer_memory(s: TrainerSettings, shape: Shape, gpu: int | None) -> Estimate:
    """An estimate for a rank of the trainer.

    Args:
        gpu: Bytes of the GPU; None where that is not known.
    """
    parts = _training(s, shape)
    if gpu is None:
        return Estimate("trainer", parts)
    room = gpu * min(1.0, s.gpus)
    return Estimate("trainer", parts, room, None if sum(parts.values()) <= room else _advice(s, shape, room))


def _advice(s: TrainerSettings, shape: Shape, room: float) -> str:
    """What to set so that a training fits that does not."""

    def fits(**changes: Any) -> bool:
        return sum(_training(s.model_copy(update=changes), shape).values()) <= room

    share = max(1, s.batch_size // s.ranks)
    rows = s.micro_batch or share
    least = ALGORITHMS[s.algorithm].fewest_together
    fewer = [n for n in range(rows - 1, least - 1, -1) if share % n == 0]
    less = {"gradient_checkpointing": True}
    found = []
    if n := next((n for n in fewer if fits(micro_batch=n)), None):
        found.append(f"set trainer.micro_batch to {n} (now {rows})")
    if not s.gradient_checkpointing:
        if fits(**less):
            found.append("set trainer.gradient_checkpointing to true")
        elif not found and (n := next((n for n in fewer if fits(micro_batch=n, **less)), None)):
            found.append(f"set trainer.gradient_checkpointing to true and trainer.micro_batch to {n} (now {rows})")
    if not found:
        found = ["train an adapter (trainer.lora)"] if s.lora is None else []
        found.append("use trainer.sharding: fsdp2 with more trainer.ranks")
    return ", or ".join(found)


def _training(s: TrainerSettings, shape: Shape) -> dict[str, float]:
    """Bytes that a rank of a training takes, by what they are for."""
    rows = s.micro_batch or max(1, s.batch_size // s.ranks)
    tokens = rows * s.max_length * (2 if s.algorithm == "dpo" else 1)  # which takes both replies at once
    layer = tokens * _unit_bytes(s, shape) * shape.hidden
    at_work = 1.5 * layer  # the one whose gradients are computed
    kept = tokens * (2 if s.dtype != "float32" and s.lora else 4) * shape.hidden * shape.layers
    return {
        **_weights_of_a_training(s, shape),
        "activations": HEAD + at_work + (kept if s.gradient_checkpointing else layer * (shape.layers - 1)),
        "overhead": TRAINER_OVERHEAD,
    }


def _weights_of_a_training(s: TrainerSettings, shape: Shape) -> dict[str, float]:
    """Bytes of every copy of the weights, and of what is trained.

    What is trained counts as `trained`: its weights, their gradients and both moments of Adam, each in 32 bits, and
    with all weights a gradient of the output head. In 16 bits torch makes a copy of such weights to compute with. A
    sharded trainer keeps the base that is between trainings elsewhere.
    """
    shards = s.ranks if s.sharding == "fsdp2" else 1
    size = 4 if s.dtype == "float32" else 2
    base = size * shape.weights
    if s.lora is None:
        copies = (base if shards == 1 else 0) + (base / shards if size == 2 else 0)
        found = {"weights": copies, "trained": 16 * shape.weights / shards + 4 * shape.words * shape.hidden}
        return found | ({"reference": 4 * shape.weights / shards} if ALGORITHMS[s.algorithm].has_reference else {})
    # Seven linear modules a layer: four of the attention, at most as wide as the model, and three of the feed-forward.
    adapter = s.lora.rank * shape.layers * (8 * shape.hidden + 3 * (shape.hidden + shape.inner))
    found = {"weights": base / shards, "trained": 16.0 * adapter}
    if s.start == "stack":  # on a copy with the policies before merged in; one that is held to another has that too
        held = ALGORITHMS[s.algorithm].has_reference and s.reference not in ("base", "previous")
        found["copies"] = base * (2 if held else 1) / shards
    return found


def _unit_bytes(s: TrainerSettings, shape: Shape) -> float:
    """Bytes that a layer keeps of a token for the gradients, per hidden unit. The terms are those of a layer of Llama:
    its norms (in 32 bits), inputs of linear modules (a copy for each that is trained), queries, keys, values and their
    result, and the three products of the feed-forward. In 32 bits no kernel does without the attention's scores."""
    wide = shape.inner / shape.hidden
    if s.dtype == "float32":
        return (30 if s.lora else 38) + 16 * wide + 5 * shape.heads * s.max_length / shape.hidden
    return (25 if s.lora else 33) + 8 * wide
