"""What a trajectory is, in Python and in Arrow.

One row is one conversation of one round: who talked, every message, every rating, what the judge said, and which policy
and which engine spoke. Ids are a pure function of the plan, so the same conversation has the same id after any crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import pyarrow as pa

from actors.worlds.base import Message

VERDICT = pa.struct(
    [
        ("rubric", pa.string()),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("judge", pa.string()),
        ("raw", pa.string()),
        ("error", pa.string()),
    ]
)
"""What a judge said of one message; `raw` in full. Without a label, `error` says why there is none."""

MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("rating", pa.float64()),
        ("rating_distribution", pa.list_(pa.float32())),
        ("rating_mass", pa.float64()),
        ("rating_method", pa.string()),
        ("rating_failures", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("verdict", pa.string()),
        ("verdicts", pa.list_(VERDICT)),
        ("flags", pa.list_(pa.string())),
    ]
)

CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
ASKED = pa.struct(
    [("role", pa.string()), ("after", pa.int32()), ("messages", CHAT), ("answer", pa.string())],
)
USAGE = pa.struct(
    [
        ("role", pa.string()),
        ("model", pa.string()),
        ("requests", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
    ]
)
FAULT = pa.struct([("role", pa.string()), ("model", pa.string()), ("kind", pa.string()), ("count", pa.int32())])

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
        ("user_messages", CHAT),
        ("asked", pa.list_(ASKED)),
        ("reward", pa.float64()),
        ("validates", pa.float64()),
        ("contradicts", pa.float64()),
        ("in_role", pa.float64()),
        ("ended", pa.string()),
        ("judge", pa.string()),
        ("engine", pa.string()),
        ("started", pa.float64()),
        ("finished", pa.float64()),
        ("attempt", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("usage", pa.list_(USAGE)),
        ("faults", pa.list_(FAULT)),
        ("error", pa.string()),
    ],
    metadata={"candor_schema": "trajectory/2"},
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
    """One message as the assistant saw it; of the fields after `content`, `flags` and `finish_reason` are set on what
    users say too, the others on the assistant's replies only.

    Attributes:
        rating: Expected rating, 1 to 10.
        rating_distribution: Probabilities of 1..10, renormalised over those ten.
        rating_mass: How much of the probability, or of the samples, was on those ten before.
        rating_method: `logprobs` or `sampled`.
        rating_failures: Sampled answers that were no rating.
        verdict: The judge's label of the reply, or `error: ` and why there is none.
        verdicts: Everything that the judge said of it, rows of `VERDICT`.
        flags: What is odd about a user's message, from `actors.conduct`.
    """

    role: str
    content: str
    rating: float | None = None
    rating_distribution: list[float] | None = None
    rating_mass: float | None = None
    rating_method: str | None = None
    rating_failures: int | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    finish_reason: str | None = None
    verdict: str | None = None
    verdicts: list[dict] | None = None
    flags: list[str] | None = None


@dataclass
class Trajectory:
    """A conversation that was held, or given up: then `error` says why, `reward` is None, never a number, and the
    messages are those of the last attempt, as far as it went.

    Attributes:
        asked: Prompts that are in neither transcript, rows of `ASKED`: each is the first `after` of `user_messages`
            and then `messages`. A message that held a thought stands here whole, under the role of who said it, with
            what had been said before.
        validates: Largest probability of the replies to confirm what it is convenient to believe; None without a judge,
            and where it did not answer about one of them.
        contradicts: The same for contradicting what the policy says when somebody neutral asks.
        in_role: Probability that the user stayed in role; None where nobody looked.
        ended: `turns` (all were held), `marker` (the user had no more to say) or `transition` (so did it seem).
        attempt: The try that succeeded, from 0; seeds of its messages follow from it and the conversation's seed.
        prompt_tokens, completion_tokens: Of all requests together, those of failed attempts included.
        usage: By role and model, rows of `USAGE`; empty, like `faults`, where another arm held the conversation, which
            has what it cost.
        faults: Requests that failed and were sent again, rows of `FAULT`.
    """

    conversation: Conversation
    persona: str
    messages: list[Turn]
    user_messages: list[Message]
    reward: float | None
    engine: str
    started: float
    finished: float
    asked: list[dict] = field(default_factory=list)
    validates: float | None = None
    contradicts: float | None = None
    in_role: float | None = None
    ended: str | None = None
    attempt: int = 0
    judge: str | None = None
    usage: list[dict] = field(default_factory=list)
    faults: list[dict] = field(default_factory=list)
    error: str | None = None

    def row(self) -> dict:
        """The trajectory as a row of `SCHEMA`."""
        out = {**vars(self), "messages": [vars(m) for m in self.messages]}  # asdict would copy every token
        tokens = {k: sum(u[k] for u in self.usage) for k in ("prompt_tokens", "completion_tokens")}
        return {**vars(out.pop("conversation")), **out, **tokens}


def to_batch(trajectories: Iterable[Trajectory]) -> pa.RecordBatch:
    """Rows of `SCHEMA` in the given order."""
    return pa.RecordBatch.from_pylist([t.row() for t in trajectories], schema=SCHEMA)


def planned(plan: pa.Table, indices: Sequence[int]) -> Iterator[Conversation]:
    """The conversations with these indices from a plan (`PLAN_SCHEMA`, in order)."""
    for first in range(0, len(indices), 256):
        for row in plan.take(pa.array(indices[first : first + 256], pa.int64())).to_pylist():
            yield Conversation(**row)


def trajectory_ids(run: str, arm: str, round_: int, indices: Iterable[int]) -> list[str]:
    """Ids of planned conversations: the same after any crash and on any machine."""
    place, sha256 = f"{run}/{arm}/{round_}/", hashlib.sha256
    return [sha256(f"{place}{index}".encode()).hexdigest()[:20] for index in indices]


def trajectory_id(run: str, arm: str, round_: int, index: int) -> str:
    """The id of one planned conversation."""
    return trajectory_ids(run, arm, round_, [index])[0]
