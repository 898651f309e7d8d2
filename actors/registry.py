"""Names that settings choose from a registry, to which extensions add, and what a mistyped one was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

ALIKE = 0.7
"""Least similarity, by `difflib`, of two names that are taken for one another; at 0.6 "colour" would mean "rollout"."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that a mistyped or shortened one most likely means; None where none is close.

    Example:
        >>> nearest("lerning_rate", ["learning_rate", "batch_size"])
        'learning_rate'
        >>> nearest("algo", ["algorithm", "rows"])
        'algorithm'
    """
    known = list(known)
    if close := difflib.get_close_matches(word, known, n=1, cutoff=ALIKE):
        return close[0]
    longer = [k for k in known if len(word) >= 3 and k.startswith(word)]
    return longer[0] if len(longer) == 1 else None


@dataclass(frozen=True)
class OneOf:
    """For `Annotated[str, OneOf(REGISTRY)]`: the name of something in a registry as it is when the setting is read.

    Example:
        >>> from pydantic import TypeAdapter
        >>> TypeAdapter(Annotated[str, OneOf({"kto": 1})]).validate_python("kto")
        'kto'
    """

    registry: Mapping[str, Any]

    def check(self, name: str) -> str:
        """The name itself.

        Raises:
            ValueError: It is not in the registry; the message says what was probably meant.
        """
        if name in self.registry:
            return name
        near = nearest(name, self.registry)
        known = f"known: {', '.join(self.registry)}; others come with the modules that `extensions` names"
        raise ValueError(f"did you mean {near}? {known}" if near else known)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema) | {"enum": list(self.registry)}
