"""Adapters on the base model in memory: new ones, saved ones, and one on top of another."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import peft

from actors.storage.files import model_fingerprint
from actors.worlds.models import public_name
from trainers.policy import PolicyError, read_lineage
from trainers.settings import LoraSettings

TRAINED = "default"
"""PEFT's name of the adapter that a round trains."""


def new(base: Any, settings: LoraSettings) -> Any:
    """The base with a fresh adapter, which changes nothing yet; its random half follows torch's seed."""
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_rslora=settings.rslora,
        lora_dropout=0.0,
        target_modules=settings.targets,
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(base, config)


def saved(base: Any, policy: Path, model: str) -> Any:
    """The base with a saved policy's adapter on it, to continue training.

    Args:
        model: Path or name of the base.
    """
    check_base(policy, model)
    made = peft.PeftModel.from_pretrained(base, policy, is_trainable=True)
    _at(made, model)
    return made


def merged(base: Any, policy: Path, model: str) -> Any:
    """A copy of the base with a saved policy's adapter merged into its weights."""
    check_base(policy, model)
    return peft.PeftModel.from_pretrained(copy.deepcopy(base), policy).merge_and_unload()


def _at(trained: Any, model: str) -> None:
    """Tell PEFT where the base is: it would ask the Hugging Face Hub for a name that is no folder when it saves."""
    for config in trained.peft_config.values():
        config.base_model_name_or_path = model


def save(trained: Any, folder: Path, model: str, under: Path | None = None) -> None:
    """Write the trained adapter; with `under`, an adapter that does what that policy's and it do together.

    Two adapters with updates B1 A1 and B2 A2 are one of rank r1 + r2 with [B1 B2] [A1; A2], scales folded in: the sum
    is exact, and an engine serves it like any other.

    Args:
        model: Path or name of the base.
    """
    revision = getattr(trained.config, "_commit_hash", None)  # of a base that came from the Hub
    if under is None:
        _at(trained, model)
        trained.save_pretrained(folder, selected_adapters=[TRAINED])
        _name_base(folder, model, revision)
        return
    trained.load_adapter(under, "under")
    _at(trained, model)
    trained.add_weighted_adapter(["under", TRAINED], [1.0, 1.0], "stacked", combination_type="cat")
    trained.peft_config["stacked"].use_rslora = False  # PEFT takes it over from `under`, whose scale is folded in
    trained.save_pretrained(folder, selected_adapters=["stacked"])
    for file in (folder / "stacked").iterdir():
        file.replace(folder / file.name)
    shutil.rmtree(folder / "stacked")
    _name_base(folder, model, revision)


def _name_base(folder: Path, model: str, revision: str | None) -> None:
    """Have a saved adapter name its base as everybody knows it, with its revision; where nobody else can know the base,
    its path stays."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    name, known = public_name(model)
    config |= {"base_model_name_or_path": name or model, "revision": known or revision}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_base(policy: Path, model: str) -> None:
    """Check that a saved policy is an adapter for this base.

    Raises:
        PolicyError: It is for another one, or no adapter at all.
    """
    try:
        config = json.loads((policy / "adapter_config.json").read_text(encoding="utf-8"))
        lineage = read_lineage(policy)
    except (OSError, ValueError, TypeError) as error:
        raise PolicyError(f"{policy} contains no adapter made by Candor ({error})") from None
    if lineage.base_sha256 != model_fingerprint(Path(model)):
        raise PolicyError(
            f"{policy} is an adapter of rank {config.get('r')} for the base {lineage.base}, and the base here is "
            f"{model}: another model, or another version of it. An adapter fits only what it was trained on"
        )
