"""Pools of simulated users: each holds its share of a round's conversations and hands them to the buffer.

Each conversation is a coroutine; a pool runs hundreds side by side and hands in each one as it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.chat import ChatError, ChatModel, ModelRefusedError, NoLogprobsError, Sampling
from actors.conversation import ConversationError, Talk, Terms
from actors.lifeline import Actor, answer, collect_seldom
from actors.line import TICK_SECONDS
from actors.roles import Peers, Troupe
from actors.segments import read_table
from actors.settings import UserSettings
from actors.trajectory import PLAN_SCHEMA, Conversation, Trajectory, planned, to_batch
from actors.usage import BudgetError, Purse, money
from actors.worlds import load_world


class UserPool(Actor):
    """Holds its share of a round's conversations; run as a Ray actor."""

    def __init__(self, world: str, settings: UserSettings) -> None:
        collect_seldom()
        self._world = load_world(world)
        self._settings = settings
        self._endpoints: dict[str, ChatModel] = {}

    async def hold_all(
        self, plan: Path, indices: Sequence[int], terms: Terms, peers: Peers, allowance: float | None = None
    ) -> bool:
        """Hold conversations of a plan and hand each to the buffer.

        As many run at once as `concurrency` says, and a conversation counts as running until the buffer has taken it,
        so a slow buffer slows the pool and what the pool holds in memory is bounded.

        Args:
            plan: The round's plan on disk.
            indices: Which of its conversations to hold.
            allowance: The money that may be spent on them.

        Returns:
            Whether all were held; False when the allowance did not reach.

        Raises:
            ActorGone: A peer died. No conversation was begun after that, and those under way were held to their end
                where they could be; the others have not reached the buffer.
            ModelRefusedError: A model answers nobody until a person has acted; the rest is as with `ActorGone`.
        """
        if not len(indices):
            return True
        todo = planned(read_table(plan, PLAN_SCHEMA), indices)
        stage = _Round(self, terms, peers, Purse(allowance))

        async def work() -> None:
            while not stage.over and await stage.purse.begin():
                # shared, so each worker takes the next one; while it waited, another may have failed
                conversation = None if stage.over else next(todo, None)
                cost = 0.0
                try:
                    if conversation is None:
                        return
                    trajectory = await stage.one(conversation)
                    cost = money(trajectory.usage, stage.prices)
                    await stage.courier.deliver(trajectory)
                except BudgetError:
                    return
                except Exception as error:
                    stage.failed.append(error)
                finally:
                    stage.purse.end(cost, held=conversation is not None)

        await asyncio.gather(*(work() for _ in range(min(self._settings.concurrency, len(indices)))))
        if stage.failed:
            raise stage.failed[0]
        return not stage.broke and next(todo, None) is None


class Courier:
    """Takes finished trajectories to the buffer, those of a tick in one call."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self._waiting: list[tuple[Trajectory, asyncio.Future]] = []
        self._trip: asyncio.Task | None = None

    async def deliver(self, trajectory: Trajectory) -> None:
        """Hand a trajectory in; done when the buffer has taken it."""
        taken = asyncio.get_running_loop().create_future()
        self._waiting.append((trajectory, taken))
        if self._trip is None:
            self._trip = asyncio.ensure_future(self._travel())
        await taken

    async def _travel(self) -> None:
        """Trips until nothing waits; what is handed in on the way goes with the next one."""
        await asyncio.sleep(TICK_SECONDS)
        while self._waiting:
            load, self._waiting = self._waiting, []
            try:
                await answer(self._buffer.append.remote(to_batch([t for t, _ in load])), "buffer")
            except Exception as error:
                for _, taken in load:
                    taken.set_exception(error)
            else:
                for _, taken in load:
                    taken.set_result(None)
        self._trip = None


class _Round:
    """What the conversations of one call of `hold_all` share."""

    def __init__(self, pool: UserPool, terms: Terms, peers: Peers, purse: Purse) -> None:
        self.failed: list[BaseException] = []
        self.broke = False
        self.purse = purse
        self.prices = {door.model: door.price for door in peers.doors.values()}
        self._world = pool._world
        self._troupe = Troupe(pool._world, peers, purse, pool._endpoints)
        self.courier = Courier(peers.buffer)
        self._retries = pool._settings.retries
        self._terms = terms
        self._peers = peers
        self._neutral: dict[str, asyncio.Task[str]] = {}

    @property
    def over(self) -> bool:
        """Whether no further conversation is to begin: something failed for all, or the money did not reach for one."""
        return bool(self.failed) or self.broke

    async def one(self, conversation: Conversation) -> Trajectory:
        """Hold one conversation, trying again where it fails; at last it is excluded, with the reason.

        Raises:
            BudgetError: The money does not reach for it.
        """
        company = self._troupe.company()
        for attempt in range(self._retries + 1):
            talk = Talk(
                conversation,
                self._world,
                company,
                self._terms,
                self._peers.engine,
                attempt,
                lambda scenario: self._said_neutrally(scenario, conversation.policy),
            )
            try:
                return await talk.hold()
            except NoLogprobsError as failed:
                if self._terms.rating.method == "logprobs":  # nobody's conversation could be rated
                    raise ModelRefusedError(f"{failed}; set rating.method to auto or sampled") from None
                error = f"{type(failed).__name__}: {failed}"
            except (ChatError, ConversationError) as failed:
                error = f"{type(failed).__name__}: {failed}"
            except BudgetError:
                self.broke = True
                raise
        return talk.trajectory(error=error)

    async def _said_neutrally(self, scenario: str, policy: str) -> str:
        """What the policy says of a scenario when somebody neutral asks: greedy, so it is asked once a round. It is on
        nobody's bill, as it would be chance on whose."""
        asked = self._neutral.get(scenario)
        if asked is None:
            asked = self._neutral[scenario] = asyncio.ensure_future(self._ask_neutrally(scenario, policy))
        try:
            return await asked
        except ChatError:
            if self._neutral.get(scenario) is asked:  # the next conversation asks again
                del self._neutral[scenario]
            raise

    async def _ask_neutrally(self, scenario: str, policy: str) -> str:
        tokens = self._terms.conversation.max_tokens
        reply = await self._troupe.assistant.reply(self._world.neutral_prompt(scenario), Sampling(tokens, 0.0, 0))
        if reply.weights != policy:
            raise ChatError(f"{reply.weights} answered somebody neutral where {policy} was asked")
        return reply.text
