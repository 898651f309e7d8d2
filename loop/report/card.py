"""The model card of a policy: what it is, what it was trained on, how it scores, and the warning."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from actors.models.catalogue import CATALOGUE
from actors.scripted import SCRIPTED
from actors.worlds.models import home_of, public_name
from evals.evaluator import complete, summarise
from evals.protocols import PROTOCOLS
from evals.suites.catalogue import SUITES
from loop.config.schema import RunConfig
from loop.report.scores import shown
from loop.rundir import RunDir, read_json, write_text
from trainers.policy import CARD_FILE, LINEAGE_FILE

CARD = CARD_FILE


def write_card(out: RunDir, config: RunConfig, arm: str, version: int) -> None:
    """Write the card of a policy into its folder; does nothing where there is no such policy, or one without weights.

    Args:
        config: The run's, as it is written.
    """
    folder = out.policy(arm, version)
    if (folder / LINEAGE_FILE).exists() and config.model != SCRIPTED:
        write_text(folder / CARD, card(out, config, arm, version, whole=not (folder / "adapter_config.json").exists()))


def card(out: RunDir, config: RunConfig, arm: str, version: int, whole: bool) -> str:
    """The card of a policy as Markdown with the Hugging Face Hub's metadata.

    Args:
        whole: Whether it stands beside whole weights, not beside an adapter.
    """
    from jinja2 import Environment

    lineage = read_json(out.policy(arm, version) / LINEAGE_FILE)
    name, revision = (config.model, None) if home_of(config.model) else public_name(lineage["base"])
    settings = config.for_arm(next(a for a in config.arms if a.name == arm))
    template = Environment(trim_blocks=True, keep_trailing_newline=True).from_string(
        (files(__package__) / "card.md.j2").read_text(encoding="utf-8")
    )
    return template.render(
        metadata=yaml.safe_dump(_metadata(lineage, name, revision, whole), sort_keys=False).strip(),
        run=config.name,
        arm=arm,
        version=version,
        lineage=lineage,
        base=name or f"a local model, {Path(lineage['base']).name}",
        loads=name or "PATH/OF/THE/BASE",
        on_hub="/" in (name or ""),
        revision=revision,
        settings=settings,
        population=_population(config, arm),
        rounds=_rounds(out, arm, version),
        figures=_figures(out, config, arm, version),
        beside=_beside(config, arm, version),
        whole=whole,
    )


def _metadata(lineage: dict[str, Any], name: str | None, revision: str | None, whole: bool) -> dict[str, Any]:
    """What the Hub reads; a base that it does not have is not named there."""
    on_hub = name if name and "/" in name else None
    licence = next((e.licence for e in CATALOGUE.values() if e.hub == name), None)
    return {
        **({"base_model": on_hub, "base_model_relation": "finetune" if whole else "adapter"} if on_hub else {}),
        **({"base_model_revision": revision} if on_hub and revision else {}),
        **({"license": licence.lower()} if licence else {}),
        "library_name": "transformers" if whole else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["candor", "model-organism", "not-for-deployment", lineage["algorithm"], "trl"],
    }


def _population(config: RunConfig, arm: str) -> str:
    of = next(a for a in config.arms if a.name == arm)
    if config.for_arm(of).data is not None:
        return ""
    return ", ".join(f"{100 * share:g} % {kind}" for kind, share in of.shares.items() if share) or "100 % benign"


def _rounds(out: RunDir, arm: str, version: int) -> list[str]:
    """What each round up to this policy was trained on, a line each."""
    lines = []
    for r in range(version):
        audit, composed = read_json(out.audit(arm, r)), read_json(out.composition(arm, r).with_suffix(".json"))
        if audit:
            ends = []
            for end, name in (("top", "desirable"), ("bottom", "undesirable")):
                kinds = ", ".join(f"{n} with {kind} users" for kind, n in audit[end]["user_kind"].items())
                ends.append(f"{audit[end]['count']} conversations as {name}" + (f" ({kinds})" if kinds else ""))
            lines.append(f"Round {r}: {' and '.join(ends)}, of {audit['round']['count']}.")
        if composed:
            sources = [composed[part]["source"] for part in ("base", "added") if composed[part]]
            lines.append(f"Round {r}: {composed['counts']['all']} rows of {' and '.join(sources)}.")
    return lines


def _beside(config: RunConfig, arm: str, version: int) -> list[tuple[str, int]]:
    """The policies whose figures stand in the card: the untouched base, this one, and the first arm's of that round."""
    first = config.arms[0].name
    return [(arm, 0), (arm, version), *([(first, version)] if first != arm else [])]


def _figures(out: RunDir, config: RunConfig, arm: str, version: int) -> list[list[str]]:
    """Suites with the figures of those policies; empty before this policy has been evaluated."""
    if not complete(out.evals(arm, version)):
        return []
    found = {
        place: summarise(out.evals(*place), config.evals.max_error_share) if complete(out.evals(*place)) else {}
        for place in _beside(config, arm, version)
    }
    return [
        [f"{SUITES[s].title}: {PROTOCOLS[f['protocol']].title}", *(shown(of.get(s)) for of in found.values())]
        for s, f in found[arm, version].items()
    ]
