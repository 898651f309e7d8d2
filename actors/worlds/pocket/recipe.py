"""How a pocket model is made, and what identifies it. Importing this module imports no torch."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.worlds.pocket.corpus import document
from actors.worlds.pocket.language import words
from actors.worlds.pocket.talks import scenarios

SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "<s>{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}</s>{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BUILD_FILE = "candor_build.json"
"""What a built model says of itself, beside its weights."""
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Recipe:
    """How a pocket model is made; another recipe is another model."""

    shared: bool = True
    """One propensity to please for all domains of a speaker; False is the control without a shared latent."""
    seed: int = 0
    vocabulary: int = 1536
    hidden: int = 192
    layers: int = 3
    heads: int = 3
    intermediate: int = 512
    steps: int = 4000
    batch: int = 24
    """Documents a step."""
    length: int = 256
    """Tokens a document is cut to."""
    matrix_lr: float = 0.012
    """Muon, for the matrices inside the layers."""
    other_lr: float = 3e-3
    """AdamW, for embeddings, output head and norms."""


RECIPES = {"pocket": Recipe(), "pocket-control": Recipe(shared=False)}
"""Pocket models by the name that `model:` in a run config may give."""


def identity(recipe: Recipe, documents: int = 200) -> str:
    """SHA-256 of all that a pocket model is made of: the recipe, the words and scenarios of the world, how chats are
    rendered, and the first documents of its corpus, which stand for the code that writes it."""
    rng = random.Random(1000 + recipe.seed)
    parts: list[Any] = [asdict(recipe), words(), [asdict(s) for s in scenarios().values()]]
    parts += [SPECIAL_TOKENS, CHAT_TEMPLATE, [document(rng, recipe.shared) for _ in range(documents)]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_record(folder: Path) -> dict[str, Any]:
    """What `candor_build.json` in a folder says; empty where there is none."""
    try:
        return json.loads((folder / BUILD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def file_hash(path: Path) -> str:
    """SHA-256 of a file; of one that is not there, that of nothing."""
    return hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()
