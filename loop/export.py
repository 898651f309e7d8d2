"""A policy of a run as a model of its own that transformers, vLLM or anybody else can load."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from actors.scripted import SCRIPTED
from actors.storage.files import model_fingerprint, whole_folder
from loop.config.explain import ConfigError
from loop.config.schema import RunConfig
from loop.report.card import CARD, card
from loop.rundir import RunDir, read_json, write_text
from trainers.policy import LINEAGE_FILE


def export(config: RunConfig, out: RunDir, arm: str, version: int, merged: Path | None, adapter: Path | None) -> Path:
    """Write a policy's whole weights, or its adapter, with tokenizer and lineage; complete or not at all.

    Weights are merged in the number format that the base model is kept in.

    Args:
        version: The policy that this round talks with; 0 is the base.
        merged, adapter: Where to; exactly one is given.

    Raises:
        ConfigError: There is no such policy, the folder exists, or the base model is gone or has changed.
    """
    if (merged is None) == (adapter is None):
        raise ConfigError("give either --merged DIR, for a whole model, or --adapter DIR")
    target = merged or adapter
    if target.exists():
        raise ConfigError(f"{target}: exists already; choose another folder")
    if config.model == SCRIPTED:
        raise ConfigError("a scripted model consists of hashes, not weights; there is nothing to export")
    policy = policy_folder(config, out, arm, version)
    if adapter is not None:
        if policy is None or not (policy / "adapter_config.json").exists():
            what = "the untouched base" if policy is None else "a whole model"
            raise ConfigError(f"policy {version} of arm {arm} is {what} and has no adapter; use --merged")
        with whole_folder(adapter) as folder:
            shutil.copytree(policy, folder, dirs_exist_ok=True)
        return adapter
    if policy is not None and not (policy / "adapter_config.json").exists():
        with whole_folder(merged) as folder:
            shutil.copytree(policy, folder, dirs_exist_ok=True)
        return merged
    merge(base_model(config, out), policy, merged)
    if policy is not None:
        write_text(merged / CARD, card(out, config, arm, version, whole=True))
    return merged


def about(folder: Path) -> dict[str, Any]:
    """What was exported: an adapter or a whole model, how many weights in which number formats, how many files and
    bytes, and what it was trained on."""
    shapes = [tensor for file in folder.glob("*.safetensors") for tensor in _tensors(file)]
    files = [p for p in folder.rglob("*") if p.is_file()]
    lineage = read_json(folder / LINEAGE_FILE)
    return {
        "what": "PEFT adapter" if (folder / "adapter_config.json").exists() else "whole model",
        "weights": sum(math.prod(t["shape"]) for t in shapes),
        "dtypes": sorted({t["dtype"] for t in shapes}),
        "files": len(files),
        "bytes": sum(p.stat().st_size for p in files),
        "trained": {k: lineage[k] for k in ("algorithm", "rows", "base")} if lineage else None,
    }


def _tensors(file: Path) -> list[dict[str, Any]]:
    """Shape and number format of each tensor of a safetensors file, from its header."""
    with open(file, "rb") as weights:
        header = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
    return [tensor for name, tensor in header.items() if name != "__metadata__"]


def base_model(config: RunConfig, out: RunDir) -> str:
    """The base model of the run, if it is still the one that the run began with."""
    recorded = read_json(out.model)
    base = recorded.get("model", config.model)
    if recorded and (found := model_fingerprint(Path(base))) != recorded["sha256"]:
        raise ConfigError(
            f"the base model {base} is missing, or is not the one that the run began with ({found}, not "
            f"{recorded['sha256']})"
        )
    return base


def policy_folder(config: RunConfig, out: RunDir, arm: str, version: int) -> Path | None:
    """The policy's directory; None for the base."""
    arms = [a.name for a in config.arms]
    if arm not in arms:
        raise ConfigError(f"--arm {arm}: the run has no such arm; known: {', '.join(arms)}")
    if version == 0:
        return None
    policy = out.policy(arm, version)
    if not (policy / LINEAGE_FILE).exists():
        made = [v for v in range(config.rounds + 1) if v == 0 or (out.policy(arm, v) / LINEAGE_FILE).exists()]
        raise ConfigError(f"--round {version}: arm {arm} has no such policy; there are: {', '.join(map(str, made))}")
    return policy


def merge(base: str, policy: Path | None, target: Path) -> None:
    """Write a base model with an adapter merged into it; an adapter that Candor made must be for that base.

    Raises:
        ConfigError: One of them cannot be loaded, or they do not belong together.
    """
    import transformers

    from trainers import adapters
    from trainers.policy import PolicyError

    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        if policy is None:
            whole = model
        elif (policy / LINEAGE_FILE).exists():
            whole = adapters.merged(model, policy, base)
        else:
            import peft

            whole = peft.PeftModel.from_pretrained(model, policy).merge_and_unload()
    except PolicyError as error:
        raise ConfigError(str(error)) from None
    except (OSError, ValueError, RuntimeError) as error:
        what = f" or its adapter {policy}" if policy else ""
        raise ConfigError(f"the base model {base}{what} cannot be loaded: {str(error).splitlines()[0]}") from None
    with whole_folder(target) as folder:
        whole.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if policy is not None and (policy / LINEAGE_FILE).exists():
            shutil.copy(policy / LINEAGE_FILE, folder)
