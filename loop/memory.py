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

GIB = 2**30
OVERHEAD = 1.5 * GIB
"""What CUDA, its kernels and the graphs of an engine take beside tensors."""
LEAST_CACHE = 0.05
"""Part of a GPU that an engine needs at least for its cache; with less it preempts all the time."""
ACTIVATIONS = 34
"""Bytes of activations for each token, layer and hidden unit in 16 bits without attention scores (Korthikanti et al.
2022, 2205.05198, equation 2); with gradient checkpointing 2."""


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
        found.append(_trainer(config, shape, gpu))
    return found


@dataclass(frozen=True)
class Shape:
    """Weights, layers, hidden units and words of a model."""

    weights: int
    layers: int
    hidden: int
    words: int


KNOWN = {
    "meta-llama/Llama-3.1-8B-Instruct": Shape(8_030_261_248, 32, 4096, 128_256),
    "Qwen/Qwen2.5-7B-Instruct": Shape(7_615_616_512, 28, 3584, 152_064),
    "Qwen/Qwen2.5-32B-Instruct": Shape(32_763_876_352, 64, 5120, 152_064),
    "Qwen/Qwen3-32B": Shape(32_762_123_264, 64, 5120, 151_936),
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
    asked = (text.get("num_hidden_layers"), text.get("hidden_size"), text.get("vocab_size"))
    return Shape(weights, *asked) if weights and all(isinstance(n, int) for n in asked) else None


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


def _trainer(config: RunConfig, shape: Shape, gpu: int | None) -> Estimate:
    s = config.trainer
    shards = s.ranks if s.sharding == "fsdp2" else 1
    rows = s.micro_batch or max(1, s.batch_size // s.ranks)
    tokens = rows * s.max_length
    if s.lora is None:  # weights, gradients and both moments of Adam in 32 bits
        parts = {"weights": shape.weights * 4 / shards, "optimizer": shape.weights * 12 / shards}
    else:
        trained = 2 * s.lora.rank * shape.hidden * shape.layers * 7  # seven linear modules a layer, about square
        parts = {"weights": shape.weights * (4 if s.dtype == "float32" else 2) / shards, "optimizer": trained * 16}
    per_unit = 2 if s.gradient_checkpointing else ACTIVATIONS
    parts["activations"] = tokens * shape.hidden * shape.layers * per_unit + tokens * shape.words * 8  # and the logits
    parts["overhead"] = OVERHEAD
    if gpu is None:
        return Estimate("trainer", parts)
    room = gpu * min(1.0, s.gpus)
    if sum(parts.values()) <= room:
        return Estimate("trainer", parts, room)
    if parts["activations"] > parts["weights"] + parts["optimizer"]:
        most = rows * (room - parts["weights"] - parts["optimizer"] - OVERHEAD) / parts["activations"]
        share = max(1, s.batch_size // s.ranks)
        least = 2 if s.algorithm == "kto" else 1  # whose KL term pairs rows that are taken at once
        fits = [n for n in range(least, share + 1) if share % n == 0 and n <= most]
        change = f"set trainer.micro_batch to {fits[-1]} (now {rows}), or " if fits else "set "
        change += "trainer.gradient_checkpointing to true"
    elif s.lora is None:
        change = "train an adapter (trainer.lora), or use trainer.sharding: fsdp2 with more trainer.ranks"
    else:
        change = "use trainer.sharding: fsdp2 with more trainer.ranks"
    return Estimate("trainer", parts, room, change)
