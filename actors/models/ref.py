"""ModelRef: how to reach a model, wherever it is served."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.models.chat import ChatModel
from actors.models.engine_client import EngineClient
from actors.settings import EndpointSettings, EngineSettings, Prices, TemplateSettings
from actors.storage.files import model_fingerprint


@dataclass(frozen=True)
class ModelRef:
    """How to reach a model.

    Attributes:
        model: What it is called in the config, `assistant`, `base` or a name under `models`.
        engines: Handles of the engines that serve it, by the number of the replica; None in the place of one that is
            down.
        policy: The name under which they serve it.
        endpoint: In place of engines.
        share: Part of the endpoint's limits, or of the engines' capacity, that one process may use.
        capacity: How many requests each of the engines works on at a time; None where that is not known.
        identity: What tells the model from every other, so that its answers can be kept; empty where that is not known.
    """

    model: str
    engines: Sequence[Any] = ()
    policy: str = ""
    endpoint: EndpointSettings | None = None
    share: float = 1.0
    capacity: int | None = None
    price: Prices | None = None
    identity: str = ""


def endpoint_identity(settings: EndpointSettings) -> str:
    """What tells an endpoint's model from every other: where it is, what it is called there, and how it is asked."""
    asked = [settings.base_url, settings.model, settings.extra]
    if settings.chat_template_kwargs:
        asked.append(settings.chat_template_kwargs)
    return json.dumps(asked, sort_keys=True)


def engine_identity(model: str, settings: EngineSettings) -> str:
    """What tells an engine's model from every other: its files, and what its chat template is given."""
    files, given = model_fingerprint(Path(model)), settings.template()
    return files if given == TemplateSettings() else f"{files} {given.model_dump_json()}"


def open_model(ref: ModelRef, endpoints: dict[str, ChatModel]) -> ChatModel:
    """The model that is meant; endpoints stay open in `endpoints`, by what they are called here and where they are."""
    if ref.endpoint is None:
        limit = ref.capacity and max(1, math.ceil(ref.capacity * ref.share))
        return EngineClient(ref.engines, ref.policy, limit)
    key = f"{ref.model} {endpoint_identity(ref.endpoint)}"
    if key not in endpoints:
        from actors.models.endpoint import Endpoint

        endpoints[key] = Endpoint(ref.endpoint, ref.share)
    return endpoints[key]
