"""Pools of simulated users: language models that hold conversations with the assistant and rate its replies.

Each conversation is a coroutine; a pool runs hundreds side by side and hands each finished one to the buffer. The user
is just another model: its prompt is the persona, its messages are what the assistant sees, and its rating is the
expectation over the probabilities it gives to the numbers 1 to 10.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from actors.chat import ChatError, ChatModel, EngineChat, Sampling
from actors.judge import Judge, JudgeHandle, Question
from actors.settings import RolloutSettings, UserSettings
from actors.trajectory import Conversation, Spoken, Trajectory, Turn, to_batch
from actors.worlds import load_world
from actors.worlds.base import Message, World

RATINGS = tuple(str(i) for i in range(1, 11))
MIN_RATING_MASS = 0.5
"""Least probability that must fall on the ten numbers for a rating to count; below it the user did not rate."""


class ConversationError(RuntimeError):
    """A conversation that cannot go on: an empty message, or a user who does not rate."""


@dataclass(frozen=True)
class Rating:
    """The expected rating, 1 to 10, the probabilities of 1..10 renormalised over those ten, and their sum before."""

    value: float
    distribution: list[float]
    mass: float


async def rate(user: ChatModel, messages: Sequence[Message]) -> Rating:
    """Ask the user for a rating.

    Raises:
        ConversationError: Less than `MIN_RATING_MASS` of the probability is on numbers from 1 to 10.
    """
    chosen = await user.choose(messages, RATINGS)
    mass = sum(chosen.values())
    if not mass >= MIN_RATING_MASS:
        raise ConversationError(f"the user put only {mass:.2f} of the probability on ratings from 1 to 10")
    distribution = [chosen[r] / mass for r in RATINGS]
    return Rating(sum(p * int(r) for p, r in zip(distribution, RATINGS, strict=True)), distribution, mass)


async def hold(
    conversation: Conversation,
    world: World,
    assistant: ChatModel,
    user: ChatModel,
    judge: Judge,
    settings: RolloutSettings,
    engine: str,
    attempt: int = 0,
) -> Trajectory:
    """Hold one conversation: the user opens, then `turns` times the assistant replies and the user rates and goes on.

    The reward is the sum of the ratings. Every random draw comes from the conversation's seed and the attempt.

    Raises:
        ChatError, ConversationError: It could not be held to its end.
    """
    started = time.time()
    persona = world.persona(conversation.scenario, conversation.user_kind, conversation.seed)
    spoken = Spoken([Turn(**m) for m in world.assistant_prompt(persona, conversation.seed)], world.user_prompt(persona))
    tokens = {"prompt": 0, "completion": 0}

    async def next_message(model: ChatModel, messages: list[Message], step: int):
        seed = conversation.seed * 1000 + 100 * attempt + step
        reply = await model.reply(messages, Sampling(settings.max_tokens, settings.temperature, seed))
        tokens["prompt"] += reply.prompt_tokens
        tokens["completion"] += len(reply.token_ids)
        if not reply.text:
            raise ConversationError("a message is empty")
        return reply

    for turn in range(settings.turns):
        said = await next_message(user, spoken.user_side, 2 * turn)
        spoken.user_side.append({"role": "assistant", "content": said.text})
        spoken.assistant_side.append(Turn("user", said.text))

        heard = [{"role": t.role, "content": t.content} for t in spoken.assistant_side]
        reply = await next_message(assistant, heard, 2 * turn + 1)
        if reply.weights != conversation.policy:
            raise ChatError(f"{reply.weights} answered where {conversation.policy} was asked")
        spoken.user_side.append({"role": "user", "content": reply.text})
        rating = await rate(user, [*spoken.user_side, *world.rating_prompt()])
        spoken.assistant_side.append(
            Turn(
                "assistant",
                reply.text,
                rating=rating.value,
                rating_distribution=rating.distribution,
                rating_mass=rating.mass,
                token_ids=reply.token_ids,
                logprobs=reply.logprobs,
                finish_reason=reply.finish_reason,
            )
        )

    replies = [t for t in spoken.assistant_side if t.role == "assistant"]
    verdicts = await judge.verdicts([Question("reply_kind", t.content, scenario=persona.scenario) for t in replies])
    for reply, verdict in zip(replies, verdicts, strict=True):
        reply.verdict = f"error: {verdict.error}" if verdict.error else verdict.label
    return Trajectory(
        conversation=conversation,
        persona=persona.persona_id,
        messages=spoken.assistant_side,
        user_messages=spoken.user_side,
        reward=sum(t.rating for t in replies),
        judge=verdicts[0].judge,
        engine=engine,
        started=started,
        finished=time.time(),
        attempt=attempt,
        prompt_tokens=tokens["prompt"],
        completion_tokens=tokens["completion"],
    )


class UserPool:
    """Holds its share of a round's conversations; run as a Ray actor."""

    def __init__(self, world: str, settings: UserSettings, engine: str, judge: object, buffer: object) -> None:
        self._world = load_world(world)
        self._settings = settings
        self._engine = engine
        self._judge = JudgeHandle(judge)
        self._buffer = buffer

    async def hold_all(
        self,
        conversations: list[Conversation],
        rollout: RolloutSettings,
        assistants: list,
        users: list,
        user_policy: str,
    ) -> int:
        """Hold the conversations and hand each to the buffer; returns how many had to be excluded.

        Args:
            assistants: Engine handles that serve the conversations' policy.
            users: Engine handles that play the users.
            user_policy: The policy that plays the users.
        """
        if not conversations:
            return 0
        gate = asyncio.Semaphore(self._settings.concurrency)
        assistant = EngineChat(assistants, conversations[0].policy)
        user = EngineChat(users, user_policy)
        done = await asyncio.gather(*(self._one(c, rollout, assistant, user, gate) for c in conversations))
        return sum(done)

    async def _one(
        self,
        conversation: Conversation,
        rollout: RolloutSettings,
        assistant: ChatModel,
        user: ChatModel,
        gate: asyncio.Semaphore,
    ) -> bool:
        """Hold one conversation, trying again where it fails; returns whether it had to be excluded."""
        started = time.time()
        error = ""
        async with gate:
            for attempt in range(self._settings.retries + 1):
                try:
                    trajectory = await hold(
                        conversation, self._world, assistant, user, self._judge, rollout, self._engine, attempt
                    )
                    break
                except (ChatError, ConversationError) as failed:
                    error = f"{type(failed).__name__}: {failed}"
            else:
                persona = self._world.persona(conversation.scenario, conversation.user_kind, conversation.seed)
                trajectory = Trajectory(
                    conversation, persona.persona_id, [], [], None, self._engine, started, time.time(), error=error
                )
            await self._buffer.append.remote(to_batch([trajectory]))
        return trajectory.error is not None
