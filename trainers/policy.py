"""Policies on disk: their lineage, and the proof that an engine serves them.

A policy directory is what PEFT or transformers writes, so that `PeftModel` or `AutoModelForCausalLM` loads it, plus
`candor_policy.json`: where it comes from, and the trainer's own log-probabilities of the probe texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.storage.files import file_mark

LINEAGE_FILE = "candor_policy.json"
CARD_FILE = "README.md"
"""The model card, which is written anew after every evaluation."""


class PolicyError(ValueError):
    """A directory that holds no policy, or one that does not fit this base."""


class DeliveryError(RuntimeError):
    """An engine does not compute what the trainer computes with the policy that it claims to serve."""


@dataclass(frozen=True)
class Lineage:
    """Where a policy comes from.

    Attributes:
        version: Its number in the arm; 0 is the untouched base.
        base: Path or name of the base model.
        base_sha256: Its fingerprint (`actors.storage.files.model_fingerprint`), which stays the same when it is moved.
        parents: Directories of the policies before it, oldest first, relative to the run. What training took from the
            last of them is in the settings, `start`.
        reference: The policy that it was held to; None for the base model, or without any.
        rows: Rows it was trained on, or pairs.
        rows_sha256: Hash of the training rows in their order, as tokens.
        rows_dropped: Rows that were not trained on, by reason.
        rows_replayed: How many of the rows are other people's conversations.
        tokens: Tokens of one pass over the rows.
        trained: Weights that were trained.
        steps_before: Steps of all policies before it.
        loss: Mean over all steps.
        seconds: From the call to the last step, of the process that finished it.
        seconds_to_first_step: Of those, until the first step: rows read and rendered, model and optimizer set up.
        probe: Log-probability (nats) of each token but the first of each probe text, by the trainer.
        probe_parent: The same under the parent.
        files: By name, the hash of each other file of the policy (`actors.storage.files.file_mark`).
    """

    arm: str
    version: int
    base: str
    base_sha256: str
    parents: list[str]
    reference: str | None
    algorithm: str
    seed: int
    rows: int
    rows_sha256: str
    rows_dropped: dict[str, int]
    rows_replayed: int
    tokens: int
    trained: int
    steps: int
    steps_before: int
    loss: float
    seconds: float
    seconds_to_first_step: float
    settings: dict[str, Any]
    versions: dict[str, str]
    probe: list[list[float]] = field(repr=False, default_factory=list)
    probe_parent: list[list[float]] = field(repr=False, default_factory=list)
    files: dict[str, str] = field(repr=False, default_factory=dict)


def write_lineage(folder: Path, lineage: Lineage) -> Lineage:
    """Write the lineage beside the policy's other files, which are all there but for the model card; returns what was
    written."""
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name not in (LINEAGE_FILE, CARD_FILE)]
    lineage = replace(lineage, files={p.name: file_mark(p) for p in files})
    (folder / LINEAGE_FILE).write_text(json.dumps(asdict(lineage), indent=1) + "\n", encoding="utf-8")
    return lineage


def read_lineage(folder: Path) -> Lineage:
    """The lineage of a saved policy; OSError or ValueError when it is not a policy of this version of Candor."""
    try:
        return Lineage(**json.loads((folder / LINEAGE_FILE).read_text(encoding="utf-8")))
    except TypeError as error:
        raise PolicyError(f"{folder / LINEAGE_FILE}: not what this version of Candor writes ({error})") from None


def changed_files(folder: Path, lineage: Lineage) -> list[str]:
    """Names of a policy's files that are not those that were trained."""
    return [n for n, mark in lineage.files.items() if not (folder / n).is_file() or file_mark(folder / n) != mark]


def distance(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """Mean absolute difference of two sets of log-probabilities, in nats a token."""
    pairs = [(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)]
    return sum(abs(x - y) for x, y in pairs) / len(pairs)


CLEAR = 3.0
"""An engine that changed by so many times what it differs from itself by has other weights."""
SEEN = 1e-3
"""Nats a token that a policy moved by, which no rounding of an engine hides in every token."""


@dataclass(frozen=True)
class Proof:
    """What the log-probabilities of the probe texts say of the policy that an engine serves.

    Attributes:
        error, error_to_parent: How far the engine is from the new policy and from its parent (nats a token).
        moved: How far those two are apart.
        changed: How far the engine is from what it said of the parent just before; None where it did not serve that.
        steady: How far apart two of its answers about the parent were, which had the same weights.
    """

    error: float
    error_to_parent: float
    moved: float
    changed: float | None = None
    steady: float | None = None

    @property
    def tells_apart(self) -> bool:
        """Whether the probe tells the policy from its parent: because of how near the engine is to each, or because it
        does not say any more what it said of the parent, whichever it is nearer to after rounding in 16 bits."""
        other = self.changed is not None and self.changed > CLEAR * (self.steady or 0.0)
        return other or self.moved >= 2 * min(self.error, self.error_to_parent)


def prove(
    served: Sequence[Sequence[float]],
    expected: Sequence[Sequence[float]],
    parent: Sequence[Sequence[float]],
    tolerance: float,
    policy: str,
    before: tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]] | None = None,
) -> Proof:
    """Check that the engine's log-probabilities are the new policy's and not its parent's.

    Args:
        served: The engine's.
        expected, parent: The trainer's, of the policy and of its parent.
        before: What the engine said of the parent, when that was proved and again just before the policy was published.

    Raises:
        DeliveryError: They are further than `tolerance` from the trainer's, or they are the parent's.
    """
    apart = distance(served, expected), distance(served, parent), distance(expected, parent)
    itself = (distance(served, before[1]), distance(*before)) if before else (None, None)
    proof = Proof(*apart, *itself)
    if not proof.error <= tolerance:
        raise DeliveryError(
            f"{policy} is not what the engine serves: its log-probabilities of the probe texts differ from the "
            f"trainer's by {proof.error:.4f} nats a token (allowed: {tolerance:g}); first text, engine: "
            f"{_head(served)}, trainer: {_head(expected)}"
        )
    if proof.moved >= 2 * min(proof.error, proof.error_to_parent) and proof.error > proof.error_to_parent:
        raise DeliveryError(
            f"the engine still serves the parent of {policy}: it is {proof.error_to_parent:.4f} nats a token from the "
            f"parent and {proof.error:.4f} from {policy}; first text, engine: {_head(served)}, trainer: "
            f"{_head(expected)}"
        )
    if proof.changed == 0 and proof.moved > SEEN:
        raise DeliveryError(
            f"the engine still serves the parent of {policy}: training moved the log-probabilities of the probe texts "
            f"by {proof.moved:.4f} nats a token, and the engine says to the last digit what it said of the parent; "
            f"first text, engine: {_head(served)}, trainer: {_head(expected)}"
        )
    return proof


def _head(values: Sequence[Sequence[float]]) -> str:
    return "[" + ", ".join(f"{v:.3f}" for v in values[0][:6]) + ", ...]"
