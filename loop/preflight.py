"""Every model of a run is tried before anything is spent on it: `actors.models.probes`, by role."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from actors.models.chat import ModelRefusedError
from actors.models.endpoint import Endpoint
from actors.models.probes import Finding, probe_endpoint, probe_folder
from actors.models.usage import BudgetLease, MeteredModel, UsageLedger, UsageTotals
from actors.rating import FORMS, RATINGS
from actors.scripted import SCRIPTED
from actors.settings import EndpointSettings, EngineSettings, ModelEngineSettings
from actors.worlds import WorldError, load_world
from actors.worlds.models import home_of, resolve
from actors.worlds.questions import YES_NO
from loop.config.explain import ConfigError, checked
from loop.config.schema import RunConfig
from loop.rundir import RunDir, read_json, write_json

ROLE = "check"
"""What the requests of a check are called among the costs."""


def check_models(config: RunConfig, model: str, out: RunDir, say: Callable[[str], None]) -> None:
    """Try every model that plays a role; what was found and what it cost is in `checks.json`.

    Args:
        model: Path or hub name of the base model.
        say: Shows a line, where a model works in another way than one might expect.

    Raises:
        ConfigError: One of them cannot do what its role asks; the message names the setting.
    """
    before, ledger = read_json(out.checks), UsageLedger()
    found = {name: probe_engine(path, settings) for name, path, settings in _folders(config, model)}
    try:
        found |= asyncio.run(_endpoints(config, ledger))
    finally:
        totals = UsageTotals()
        totals.add([*before.get("usage", []), *ledger.usage()])
        kept = {name: [asdict(f) for f in findings] for name, findings in found.items()}
        write_json(out.checks, {"models": kept, "usage": totals.rows(), "faults": ledger.faults()})
    for name, findings in found.items():
        for finding in findings:
            if finding.verdict == "fault":
                raise ConfigError(f"{name}: {finding.probe}: {finding.said}")
            if finding.verdict == "note" and not before:
                say(f"  {name}: {finding.probe}: {finding.said}")


def probe_engine(path: str, settings: EngineSettings) -> list[Finding]:
    """What the tokenizer and template of an engine's model do; a note where they cannot be read here."""
    try:
        return probe_folder(path, settings.template())
    except (OSError, ValueError) as error:
        return [Finding("tokenizer", "note", f"cannot be tried here: {str(error).splitlines()[0]}")]


def _folders(config: RunConfig, model: str) -> Iterator[tuple[str, str, EngineSettings]]:
    """Models of engines, by the setting that names them; those that worlds bring are known."""
    if model != SCRIPTED and not home_of(config.model):
        yield "model", model, config.assistant
    for name, settings in config.engines.items():
        if not home_of(settings.model):
            yield f"models.{name}", resolve(settings.model), settings


async def _endpoints(config: RunConfig, ledger: UsageLedger) -> dict[str, list[Finding]]:
    found = {}
    for name, settings in config.endpoints.items():
        endpoint = Endpoint(settings)
        model = MeteredModel(endpoint, name, ROLE, ledger, BudgetLease(None), settings.price, keep=False)
        try:
            await endpoint.check()
            findings = await probe_endpoint(model, settings, _closed(config, name))
            if advice := _needs_probabilities(config, name):
                findings = [_required(f, advice) for f in findings]
            found[f"models.{name}"] = findings
        except ModelRefusedError as error:
            raise ConfigError(f"models.{name}: {error}") from None
        finally:
            await endpoint.close()
    return found


def _closed(config: RunConfig, name: str) -> Sequence[str] | None:
    """The answers to the closed question that a model is asked most: ratings, or a judge's; None for no question."""
    for arm in map(config.for_arm, config.arms):
        roles = arm.roles
        if (roles.rater or roles.user) == name and config.converses:
            return FORMS[arm.rating.form](load_world(arm.world)).choices
        if roles.judge == name:
            return YES_NO
    return None


def _needs_probabilities(config: RunConfig, name: str) -> str:
    """The setting by which a model must tell probabilities; empty where it need not."""
    for arm in map(config.for_arm, config.arms):
        if (arm.roles.rater or arm.roles.user) == name and config.converses and arm.rating.method == "logprobs":
            return "set rating.method to auto or sampled"
    return ""


def _required(finding: Finding, advice: str) -> Finding:
    """A finding about closed questions as a fault where probabilities are needed and are not told."""
    if finding.probe != "closed questions" or finding.verdict == "ok":
        return finding
    return Finding(finding.probe, "fault", f"{finding.said}; {advice}")


def check_one(spec: str, changes: dict[str, Any]) -> list[Finding]:
    """What a model that is not part of a run does.

    Args:
        spec: A folder, a hub name or a short name; or `MODEL@URL` for an endpoint.
        changes: Settings of the model, as under `models` of a config.

    Raises:
        ConfigError: There is no such model, or a setting is wrong.
    """
    name, _, url = spec.partition("@")
    if not url:
        settings = checked({"kind": "engine", "model": spec} | changes, "--set", ModelEngineSettings)
        try:
            return probe_folder(resolve(spec), settings.template())
        except WorldError as error:
            raise ConfigError(str(error)) from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{spec}: no tokenizer can be read there: {str(error).splitlines()[0]}") from None
    raw = {"kind": "endpoint", "model": name, "base_url": url, "key_env": None} | changes
    return asyncio.run(_whole_check(checked(raw, "--set", EndpointSettings)))


async def _whole_check(settings: EndpointSettings) -> list[Finding]:
    endpoint = Endpoint(settings)
    try:
        await endpoint.check()
        found = await probe_endpoint(endpoint, settings, RATINGS, thorough=True)
    except ModelRefusedError as error:
        return [Finding("reach", "fault", str(error))]
    finally:
        await endpoint.close()
    left_out = [Finding(field, "note", f"refused: {why}") for field, why in endpoint.found_out.items()]
    return [Finding("reach", "ok", "it is there, takes the key and has the model"), *found, *left_out]
