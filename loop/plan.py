"""The plan of a round: which conversations are held, a pure function of the config.

Two arms with the same seed hold the same conversations (scenarios, seeds, order) and differ only in who is biased.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from actors.engine import policy_name
from actors.storage.trajectory import PLAN_SCHEMA, Conversation, trajectory_id
from actors.worlds import load_world
from loop.config.schema import ArmSettings, RunConfig

HELD_ALIKE = ("roles", "conversation", "rating")
"""Parts of a config that decide what is said in a planned conversation, of those in which arms may differ."""


def plan_round(config: RunConfig, arm: ArmSettings, round_: int) -> list[Conversation]:
    """The conversations of one round, in order.

    Scenarios take turns, so each gets the same number of conversations (give or take one). The kinds of users have
    exactly the shares that the arm gives them, and each is spread evenly over the scenarios; a user who is biased at
    one share is biased at every larger one.
    """
    scenarios, kinds = _drawn(config, arm, round_)
    return [
        Conversation(
            trajectory_id=trajectory_id(config.name, arm.name, round_, i),
            run=config.name,
            arm=arm.name,
            round=round_,
            index=i,
            policy=config.roles.generator or policy_name(round_),
            scenario=scenarios[i % len(scenarios)],
            user_kind=kinds[i],
            seed=conversation_seed(config.seed, round_, i),
        )
        for i in range(len(kinds))
    ]


def _drawn(config: RunConfig, arm: ArmSettings, round_: int) -> tuple[list[str], list[str]]:
    """The scenarios in the order in which they take turns, and the kind of user of each conversation."""
    scenarios, count = list(load_world(config.world).scenarios), config.rollout.conversations
    rng = random.Random(f"plan/{config.seed}/{round_}")
    rng.shuffle(scenarios)
    return scenarios, _kinds(arm.shares_in(round_), count, _spread_order(count, len(scenarios), rng))


def hold_alike(config: RunConfig, one: ArmSettings, other: ArmSettings) -> bool:
    """Whether two arms of a run hold a conversation alike that both plan."""
    a, b = config.for_arm(one), config.for_arm(other)
    return a.data is None and b.data is None and all(getattr(a, room) == getattr(b, room) for room in HELD_ALIKE)


def to_hold(config: RunConfig) -> dict[str, int]:
    """How many conversations each arm of a run holds, all rounds together. Of round 0 they are those that no arm before
    it plans and holds alike, for the others are taken over (`loop.takeover`)."""
    found: dict[str, int] = {}
    before: list[tuple[ArmSettings, np.ndarray]] = []
    for arm in config.arms:
        mine = config.for_arm(arm)
        if mine.data is not None or not mine.rounds:
            found[arm.name] = 0
            continue
        kinds = np.array(_drawn(mine, arm, 0)[1])
        new = np.ones(len(kinds), bool)
        for other, theirs in before:
            if hold_alike(config, other, arm):
                both = min(len(theirs), len(kinds))
                new[:both] &= kinds[:both] != theirs[:both]
        found[arm.name] = int(new.sum()) + (mine.rounds - 1) * len(kinds)
        before.append((arm, kinds))
    return found


def plan_table(conversations: list[Conversation]) -> pa.Table:
    """A plan as it is kept on disk, `actors.storage.trajectory.PLAN_SCHEMA`."""
    return pa.Table.from_pylist([asdict(c) for c in conversations], schema=PLAN_SCHEMA)


def conversation_seed(seed: int, round_: int, index: int) -> int:
    """The seed of one conversation: 40 bits of a hash of the run's seed, the round and the index."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{round_}/{index}".encode()).digest()[:5], "big")


def _kinds(shares: dict[str, float], count: int, order: list[int]) -> list[str]:
    """The kind of user of each index: the first of the order are biased, the next of the other kinds by name; the rest
    is benign.

    Counts are whole, and as near to the shares as whole numbers that fit together can be.
    """
    out = ["benign"] * count
    begin, reach = 0, 0.0
    for kind, share in sorted(shares.items(), key=lambda s: (s[0] != "biased", s[0])):
        reach += share
        end = round(reach * count)
        for i in order[begin:end]:
            out[i] = kind
        begin = end
    return out


def _spread_order(count: int, groups: int, rng: random.Random) -> list[int]:
    """All indices, where index i belongs to group i % groups, so that any stretch is spread evenly over the groups."""
    members = [rng.sample(range(g, count, groups), len(range(g, count, groups))) for g in range(groups)]
    by_turn = sorted(((turn + 0.5) / len(m), g, i) for g, m in enumerate(members) for turn, i in enumerate(m))
    return [i for _, _, i in by_turn]
