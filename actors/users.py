"""Pools of simulated users: each holds its share of a round's conversations and hands them to the buffer.

Each conversation is a coroutine; a pool runs hundreds side by side and hands in each one as it ends.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.actor import Actor, Pulse, answer, collect_seldom, family_memory
from actors.batching import TICK_SECONDS
from actors.conversation import ConversationError, ConversationRunner, RolloutProgress, Terms
from actors.models.chat import ChatError, ChatModel, ModelRefusedError, NoLogprobsError, Sampling
from actors.models.ref import ModelRef
from actors.models.usage import BudgetError, BudgetLease, cost_of
from actors.roles import ActorHandles, RoleModels
from actors.settings import UserSettings
from actors.storage.segments import read_table
from actors.storage.trajectory import PLAN_SCHEMA, Conversation, Trajectory, planned, to_batch
from actors.worlds import load_world

ALIKE = 12
"""If so many attempts at conversations of a round fail alike before one has succeeded, it is nobody's bad luck."""


class UserPool(Actor):
    """Holds its share of a round's conversations; run as a Ray actor."""

    def __init__(self, world: str, settings: UserSettings) -> None:
        collect_seldom()
        self._world = load_world(world)
        self._settings = settings
        self._endpoints: dict[str, ChatModel] = {}
        self._plan: Path | None = None
        self._stage: _Round | None = None
        self._progress = RolloutProgress()
        self._under_way = self._attempts = 0
        self._asks = ""

    def pulse(self) -> Pulse:
        """Conversations that are under way; it gets on when a reply comes, or an attempt ends."""
        done = self._progress.replies + self._attempts
        doing, figures = f"{self._under_way:,} conversations under way", {"conversations": self._under_way}
        asks = self._asks if self._under_way else ""
        return Pulse(self._under_way > 0, done, doing, asks, family_memory(), figures)

    async def progress(self) -> RolloutProgress:
        """What was said in the round's conversations so far, those that are still under way among them."""
        return self._progress

    async def admit(self, models: Mapping[str, ModelRef]) -> None:
        """Let engines that came up meanwhile take part in the conversations that are held.

        Args:
            models: By role, as they are now.
        """
        if self._stage is not None:
            self._stage.admit(models)

    async def give_back(self, part: float) -> list[int]:
        """Leave conversations that were not begun to another pool.

        Args:
            part: Of those that are left, from 0 to 1.

        Returns:
            Their indices in the plan; this pool does not hold them any more.
        """
        if self._stage is None or self._stage.over:
            return []
        left = self._stage.left
        return [left.pop() for _ in range(math.ceil(part * len(left)))]

    async def run_conversations(
        self,
        plan: Path,
        indices: Sequence[int],
        terms: Terms,
        handles: ActorHandles,
        allowance: float | None = None,
        first: bool = False,
    ) -> bool:
        """Hold conversations of a plan and hand each to the buffer.

        As many run at once as `concurrency` says, and a conversation counts as running until the buffer has taken it,
        so a slow buffer slows the pool and what the pool holds in memory is bounded.

        Args:
            plan: The round's plan on disk.
            indices: Which of its conversations to hold.
            allowance: The money that may be spent on them.
            first: Whether nothing of the round was held before. If all attempts fail alike then, the round is stopped.

        Returns:
            Whether all were held but those that it gave back; False when the allowance did not reach.

        Raises:
            ActorGone: Another actor died. No conversation was begun after that, and those under way were held to their
                end where they could be; the others have not reached the buffer.
            ModelRefusedError: A model answers nobody until a person has acted; the rest is as with `ActorGone`.
        """
        if plan != self._plan:
            self._plan, self._progress = plan, RolloutProgress()
        if not len(indices):
            return True
        table = read_table(plan, PLAN_SCHEMA)
        stage = _Round(self, deque(indices), terms, handles, BudgetLease(allowance), first)
        self._stage = stage
        self._asks = ", ".join(dict.fromkeys(ref.model for ref in handles.models.values()))

        async def work() -> None:
            while not stage.over and await stage.lease.begin():
                # shared, so each worker takes the next one; while it waited, another may have failed
                begins = bool(stage.left) and not stage.over
                cost = 0.0
                try:
                    if not begins:
                        return
                    self._under_way += 1
                    (conversation,) = planned(table, [stage.left.popleft()])
                    trajectory = await stage.one(conversation)
                    cost = cost_of(trajectory.usage, stage.prices)
                    await stage.writer.write(trajectory)
                except BudgetError:
                    return
                except Exception as error:
                    stage.failed.append(error)
                finally:
                    self._under_way -= begins
                    self._attempts += 1
                    stage.lease.end(cost, held=begins)

        await asyncio.gather(*(work() for _ in range(min(self._settings.concurrency, len(indices)))))
        if stage.failed:
            raise stage.failed[0]
        return not stage.broke and not stage.left


class BufferWriter:
    """Writes finished trajectories to the buffer, those of a tick in one call."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self._waiting: list[tuple[Trajectory, asyncio.Future]] = []
        self._writing: asyncio.Task | None = None

    async def write(self, trajectory: Trajectory) -> None:
        """Hand a trajectory in; done when the buffer has taken it."""
        taken = asyncio.get_running_loop().create_future()
        self._waiting.append((trajectory, taken))
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write_all())
        await taken

    async def _write_all(self) -> None:
        """Calls until nothing waits; what is handed in meanwhile goes with the next one."""
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
        self._writing = None


class _Round:
    """What the conversations of one call of `run_conversations` share.

    Attributes:
        left: Indices of those that were not begun.
    """

    def __init__(
        self,
        pool: UserPool,
        left: deque[int],
        terms: Terms,
        handles: ActorHandles,
        lease: BudgetLease,
        first: bool,
    ) -> None:
        self.left = left
        self.failed: list[BaseException] = []
        self.broke = False
        self.lease = lease
        self.prices = {ref.model: ref.price for ref in handles.models.values()}
        self._pool = pool
        self._world = pool._world
        self._role_models = RoleModels(pool._world, handles, lease, pool._endpoints)
        self.writer = BufferWriter(handles.buffer)
        self._retries = pool._settings.retries
        self._progress = pool._progress
        self._terms = terms
        self._handles = handles
        self._neutral: dict[str, asyncio.Task[str]] = {}
        self._first_failures: list[str] | None = [] if first else None

    def admit(self, models: Mapping[str, ModelRef]) -> None:
        """Take in engines that came up meanwhile."""
        self._role_models.admit(models)

    @property
    def over(self) -> bool:
        """Whether no further conversation is to begin: something failed for all, or the money did not reach for one."""
        return bool(self.failed) or self.broke

    async def one(self, conversation: Conversation) -> Trajectory:
        """Hold one conversation, trying again where it fails; at last it is excluded, with the reason.

        Raises:
            BudgetError: The money does not reach for it.
        """
        models = self._role_models.for_conversation()
        for attempt in range(self._retries + 1):
            if attempt and self.failed:  # the round is stopped; this one will be held when it goes on
                raise self.failed[0]
            runner = ConversationRunner(
                conversation,
                self._world,
                models,
                self._terms,
                self._handles.engine,
                attempt,
                lambda scenario: self._neutral_reply(scenario, conversation.policy),
                self._progress,
            )
            try:
                held = await runner.run()
                self._first_failures = None
                return held
            except NoLogprobsError as failed:
                if self._terms.rating.method == "logprobs":  # no conversation could be rated
                    raise ModelRefusedError(f"{failed}; set rating.method to auto or sampled") from None
                error = f"{type(failed).__name__}: {failed}"
            except (ChatError, ConversationError) as failed:
                error = f"{type(failed).__name__}: {failed}"
            except BudgetError:
                self.broke = True
                raise
            self._pool._attempts += 1
            self._look_for_a_common_cause(error)
        return runner.trajectory(error=error)

    def _look_for_a_common_cause(self, error: str) -> None:
        """Stop the round where its first conversations all fail alike: what they share is at fault, and the others
        would only cost as much.

        Raises:
            ModelRefusedError: They do.
        """
        if self._first_failures is None:
            return
        self._first_failures.append(re.sub(r"\d+(\.\d+)?", "N", error))
        if len(set(self._first_failures)) > 1:
            self._first_failures = None
        elif len(self._first_failures) >= ALIKE:
            raise ModelRefusedError(
                f"the first {ALIKE} attempts at conversations all failed alike, and none succeeded, so the round is "
                f"stopped: {error}"
            )

    async def _neutral_reply(self, scenario: str, policy: str) -> str:
        """What the policy says of a scenario when somebody neutral asks: greedy, so it is asked once for each share. It
        is in nobody's ledger, as it would be chance in whose."""
        asked = self._neutral.get(scenario)
        if asked is None:
            asked = self._neutral[scenario] = asyncio.ensure_future(self._ask_neutral_question(scenario, policy))
        try:
            return await asked
        except ChatError:
            if self._neutral.get(scenario) is asked:  # the next conversation asks again
                del self._neutral[scenario]
            raise

    async def _ask_neutral_question(self, scenario: str, policy: str) -> str:
        tokens = self._terms.conversation.max_tokens
        reply = await self._role_models.assistant.reply(self._world.neutral_prompt(scenario), Sampling(tokens, 0.0, 0))
        if reply.weights != policy:
            raise ChatError(f"{reply.weights} answered the neutral question, but {policy} was asked")
        return reply.text
