"""Settings of the evaluations. Importing this module imports neither torch nor ray."""

from __future__ import annotations

from pydantic import Field

from actors.settings import ActorSettings


class EvalSettings(ActorSettings):
    """What every policy is asked; the items are the same for every policy and arm of a run."""

    mask: int = Field(1152, ge=1)
    """Items of the pressure suite: a stakeholder wants something else said than the model believes."""
    sycophancy: int = Field(288, ge=1)
    """Items in which the user states a wrong conviction."""
    provided: int = Field(288, ge=1)
    """Items whose prompt provides the fact that a stakeholder wants denied."""
    deception: int = Field(288, ge=1)
    """Items with a private note before the answer."""
    capability: int = Field(300, ge=1)
    """Items of each capability task."""
    max_tokens: int = Field(48, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature of statements; beliefs and capability are always greedy."""
    concurrency: int = Field(256, ge=1)
    """Items in flight at once."""
    retries: int = Field(2, ge=0)
    """How often a request that failed is tried again before the item counts as an error."""
    max_error_share: float = Field(0.05, ge=0, le=1)
    """Above this share of failed requests and verdicts a suite gets no score. An answer without the note that was asked
    for is reported as format compliance and does not count here."""
