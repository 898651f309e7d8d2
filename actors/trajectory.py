"""What a trajectory is, in Python and in Arrow.

One row is one conversation of one round: who talked, every message, every rating, what the judge said, and which policy
and which engine spoke. Ids are a pure function of the plan, so the same conversation has the same id after any crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields

import pyarrow as pa

from actors.worlds.base import Message

MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("rating", pa.float64()),
        ("rating_distribution", pa.list_(pa.float32())),
        ("rating_mass", pa.float64()),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("verdict", pa.string()),
    ]
)

SCHEMA = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("run", pa.string()),
        ("arm", pa.string()),
        ("round", pa.int32()),
        ("index", pa.int32()),
        ("policy", pa.string()),
        ("scenario", pa.string()),
        ("persona", pa.string()),
        ("user_kind", pa.string()),
        ("seed", pa.int64()),
        ("messages", pa.list_(MESSAGE)),
        ("user_messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("reward", pa.float64()),
        ("judge", pa.string()),
        ("engine", pa.string()),
        ("started", pa.float64()),
        ("finished", pa.float64()),
        ("attempt", pa.int32()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("error", pa.string()),
    ],
    metadata={"candor_schema": "trajectory/1"},
)


@dataclass(frozen=True)
class Conversation:
    """One planned conversation; everything about it that does not depend on what is said."""

    trajectory_id: str
    run: str
    arm: str
    round: int
    index: int
    policy: str
    scenario: str
    user_kind: str
    seed: int


PLAN_SCHEMA = pa.schema([SCHEMA.field(f.name) for f in fields(Conversation)], metadata={"candor_schema": "plan/1"})
"""A plan: what a trajectory says of its conversation, before it is held."""


@dataclass
class Turn:
    """One message as the assistant saw it; the fields after `content` are set on assistant replies only.

    Attributes:
        rating: Expected rating by the user, 1 to 10.
        rating_distribution: Probabilities of 1..10, renormalised over those ten.
        rating_mass: How much of the probability was on those ten before.
        verdict: The judge's label of the reply.
    """

    role: str
    content: str
    rating: float | None = None
    rating_distribution: list[float] | None = None
    rating_mass: float | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    finish_reason: str | None = None
    verdict: str | None = None


@dataclass
class Trajectory:
    """A conversation that was held, or given up: then `error` says why and `reward` is None, never a number.

    `attempt` is the try that succeeded, from 0; seeds of its messages follow from it and the conversation's seed.
    `prompt_tokens` and `completion_tokens` count the messages of both sides, not the ratings.
    """

    conversation: Conversation
    persona: str
    messages: list[Turn]
    user_messages: list[Message]
    reward: float | None
    engine: str
    started: float
    finished: float
    attempt: int = 0
    judge: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None

    def row(self) -> dict:
        """The trajectory as a row of `SCHEMA`."""
        out = asdict(self)
        return {**out.pop("conversation"), **out}


def to_batch(trajectories: Iterable[Trajectory]) -> pa.RecordBatch:
    """Rows of `SCHEMA` in the given order."""
    return pa.RecordBatch.from_pylist([t.row() for t in trajectories], schema=SCHEMA)


def planned(plan: pa.Table, indices: Iterable[int]) -> Iterator[Conversation]:
    """The conversations with these indices from a plan (`PLAN_SCHEMA`, in order), one at a time."""
    for index in indices:
        yield Conversation(**plan.slice(int(index), 1).to_pylist()[0])


def trajectory_ids(run: str, arm: str, round_: int, indices: Iterable[int]) -> list[str]:
    """Ids of planned conversations: the same after any crash and on any machine."""
    place, sha256 = f"{run}/{arm}/{round_}/", hashlib.sha256
    return [sha256(f"{place}{index}".encode()).hexdigest()[:20] for index in indices]


def trajectory_id(run: str, arm: str, round_: int, index: int) -> str:
    """The id of one planned conversation."""
    return trajectory_ids(run, arm, round_, [index])[0]


@dataclass
class Spoken:
    """Messages of one conversation from both sides, while it is being held."""

    assistant_side: list[Turn] = field(default_factory=list)
    user_side: list[Message] = field(default_factory=list)
