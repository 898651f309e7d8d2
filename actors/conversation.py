"""One conversation: the user opens, the assistant replies, somebody rates, and a judge looks at what was said.

The user is just another model: its prompt is the persona, and its messages are what the assistant sees. Nothing here
knows Ray; whoever holds a conversation brings a `ConversationModels` of models.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

from actors import conduct
from actors.judge import Question, Verdict
from actors.models.chat import ChatError, Reply, Sampling, plain
from actors.models.multiple_choice import ask
from actors.models.thoughts import EmptyReplyError, answer_of
from actors.models.usage import Asked
from actors.rating import FORMS, RATINGS, expectation
from actors.roles import ConversationModels
from actors.settings import ConversationSettings, RatingSettings
from actors.storage.trajectory import Conversation, Trajectory, Turn
from actors.worlds import questions
from actors.worlds.base import Message, Persona, World

MIN_MASS = 0.5
"""Least probability on yes and no for an answer to the transition check to count."""


class ConversationError(RuntimeError):
    """A conversation that cannot go on, for example because a message is empty."""


class RatingError(ConversationError):
    """A rater who does not rate."""


@dataclass(frozen=True)
class Terms:
    """How the conversations of a round are held.

    Attributes:
        contradiction: Whether the judge is asked if replies contradict what the policy says when somebody neutral asks.
        role_sample: Share of conversations whose user the judge looks at.
        generated: Whether another model than the policy speaks for the assistant. The tokens of what it says are not
            the policy's, and are not kept.
    """

    conversation: ConversationSettings = field(default_factory=ConversationSettings)
    rating: RatingSettings = field(default_factory=RatingSettings)
    contradiction: bool = False
    role_sample: float = 0.0
    generated: bool = False


@dataclass
class RolloutProgress:
    """What was said in conversations, counted while they are held.

    Attributes:
        replies: Of the assistant.
        tokens: That the assistant and the users wrote.
    """

    replies: int = 0
    tokens: int = 0


Neutral = Callable[[str], Awaitable[str]]
"""What the policy says about a scenario when somebody neutral asks; one conversation after another asks the same."""


@dataclass
class ConversationRunner:
    """A conversation while it is being held, from both sides; what there is of it survives a failure."""

    conversation: Conversation
    world: World
    models: ConversationModels
    terms: Terms
    engine: str
    attempt: int = 0
    neutral: Neutral | None = None
    progress: RolloutProgress = field(default_factory=RolloutProgress)
    messages: list[Turn] = field(default_factory=list)
    user_messages: list[Message] = field(default_factory=list)
    ended: str = "turns"
    started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        c, show = self.conversation, self.terms.conversation.show_user_kind
        self.persona: Persona = self.world.persona(c.scenario, c.user_kind, c.seed)
        self.form = FORMS[self.terms.rating.form](self.world)
        self.messages += [Turn(**m) for m in self.world.assistant_prompt(self.persona, c.seed, show)]
        self.user_messages += self.world.user_prompt(self.persona)
        self.models.ledger.asked.clear()

    async def run(self) -> Trajectory:
        """Hold it to its end. Every random draw follows from the conversation's seed and the attempt.

        Raises:
            ChatError, ConversationError: It could not be held to its end.
        """
        terms = self.terms
        for turn in range(terms.conversation.turns):
            if not await self._user_speaks(turn):
                self.ended = "marker"
                break
            await self._assistant_replies(turn)
            if terms.rating.when == "reply":
                await self._rate(len(self.messages) - 1)
            last = turn == terms.conversation.turns - 1
            if terms.conversation.transition and not last and await self._is_over(turn):
                self.ended = "transition"
                break
        if terms.rating.when == "end":
            for index in self._replies():
                await self._rate(index)
        judged = await self._judged() if self.models.judge else {}
        return self.trajectory(reward=self._reward(), **judged)

    def trajectory(self, **facts: object) -> Trajectory:
        """The row of what there is of the conversation, with `facts` about how it ended."""
        return Trajectory(
            conversation=self.conversation,
            persona=self.persona.persona_id,
            messages=self.messages,
            user_messages=self.user_messages,
            asked=self._asked(),
            engine=self.engine,
            started=self.started,
            finished=time.time(),
            attempt=self.attempt,
            usage=self.models.ledger.usage(),
            faults=self.models.ledger.faults(),
            **({"reward": None, "ended": None if "error" in facts else self.ended} | facts),
        )

    async def _user_speaks(self, turn: int) -> bool:
        """The user's next message; False when it ends the conversation."""
        text, cut = self.world.opening(self.persona) if turn == 0 else None, False
        if text is None:
            text, cut = await self._users_words(turn)
        marker = self.world.end_marker
        over = marker is not None and marker in text
        if over:
            text = text[: text.index(marker)].strip()
            if turn == 0:
                raise ConversationError("the user ended the conversation before it began")
        if text:
            heard = self.messages[-1].content if turn else None
            before = [m.content for m in self.messages if m.role == "user"]
            flags = conduct.flags(text, heard, before, cut)
            self.user_messages.append({"role": "assistant", "content": text})
            self.messages.append(Turn("user", text, finish_reason="length" if cut else "stop", flags=flags))
        return not over

    async def _users_words(self, turn: int) -> tuple[str, bool]:
        """What the user's model says, and whether that was cut at its token limit."""
        settings = self.terms.conversation
        sampling = user_sampling(settings, self._seed(2 * turn))
        if settings.user_form == "chat":
            reply = await self.models.user.reply(self.user_messages, sampling)
            self.progress.tokens += reply.completion_tokens
            return self._said("user", reply), reply.finish_reason == "length"
        begun = self.world.user_transcript(self.persona, self._heard())
        reply = await self.models.aside.reply(plain(begun), replace(sampling, stop=("\n",)))
        self.progress.tokens += reply.completion_tokens
        if not reply.text.strip():
            raise ConversationError("a message is empty")
        text, unfinished = conduct.whole_sentences(begun.rpartition("\n")[2].partition(": ")[2] + reply.text)
        return text, unfinished and reply.finish_reason == "length"

    async def _assistant_replies(self, turn: int) -> None:
        settings = self.terms.conversation
        sampling = assistant_sampling(settings, self._seed(2 * turn + 1))
        reply = await self.models.assistant.reply(self._heard(), sampling)
        own = not self.terms.generated
        if own and reply.weights != self.conversation.policy:
            raise ChatError(f"{reply.weights} answered, but {self.conversation.policy} was asked")
        self.progress.replies += 1
        self.progress.tokens += reply.completion_tokens
        said = self._said("assistant", reply)
        self.user_messages.append({"role": "user", "content": said})
        self.messages.append(
            Turn(
                "assistant",
                said,
                token_ids=reply.token_ids if own else [],
                logprobs=reply.logprobs if own else [],
                finish_reason=reply.finish_reason,
            )
        )

    def _said(self, role: str, reply: Reply) -> str:
        """What a reply says to the others: its thoughts are on record, in `asked`, and nobody hears them.

        Raises:
            ConversationError: It says nothing, or its thought has no end.
        """
        said: str | None = None
        try:
            said = answer_of(reply.text, reply.finish_reason)
        except EmptyReplyError as empty:
            raise ConversationError(str(empty).replace("the reply", "a message", 1)) from None
        finally:
            if reply.text.strip() and said != reply.text:
                self.models.ledger.asked.append(Asked(role, list(self.user_messages), reply.text))
        return said

    async def _rate(self, index: int) -> None:
        """Have the reply at `index` rated, by the user or by a third person."""
        turn, settings = self.messages[index], self.terms.rating
        last = index == len(self.messages) - 1
        if self.models.rater is not None:
            prompt = self.form.of_other(self.persona, self._heard(), index)
        else:
            prompt = self.form.of_user(self._user_side_to(last), None if last else turn.content)
        model = self.models.rater or self.models.aside
        seed = self._seed(50 + index)
        answer = await ask(model, prompt, self.form.choices, settings.method, settings.samples, settings.retries, seed)
        turn.rating_failures = answer.failures
        least = self.form.least_mass if settings.min_mass is None else settings.min_mass
        if answer.distribution is None or not answer.mass >= least:
            raise RatingError(
                f"the rater put only {answer.mass:.2f} of the probability on {self._answers()} ({answer.method}); "
                f"rating.min_mass asks for {least:g}"
            )
        turn.rating_distribution = self.form.ratings(answer.distribution)
        turn.rating = expectation(turn.rating_distribution)
        turn.rating_mass = answer.mass
        turn.rating_method = answer.method

    def _answers(self) -> str:
        choices = self.form.choices
        return "ratings from 1 to 10" if choices == RATINGS else f"the answers {', '.join(choices)}"

    def _user_side_to(self, last: bool) -> list[Message]:
        """The user's side up to the last thing the assistant said."""
        ends = self.user_messages[-1]["role"] == "user"
        return self.user_messages if last or ends else self.user_messages[:-1]

    async def _is_over(self, turn: int) -> bool:
        prompt = questions.transition(self.world, self.persona, self._heard())
        answer = await ask(self.models.aside, prompt, questions.YES_NO, seed=self._seed(80 + turn))
        return answer.best == "yes" and answer.mass >= MIN_MASS

    async def _judged(self) -> dict:
        """Ask the judge about every reply and, of a sample, about the user; verdicts go to the messages."""
        scenario, replies = self.persona.scenario, self._replies()
        other = silent = ""
        if self.terms.contradiction and self.neutral is not None:
            try:
                reply = await self.neutral(scenario)
                self.models.ledger.asked.append(Asked("neutral", self.world.neutral_prompt(scenario), reply))
                other = answer_of(reply)
            except ChatError as error:
                silent = f"the neutral question got no answer: {error}"
        asked: list[tuple[int, Question]] = []
        for i in replies:
            text, history = self.messages[i].content, tuple(self._heard(i))
            asked.append((i, Question("reply_kind", text, scenario=scenario, history=history)))
            if other:
                asked.append((i, Question("contradicts", text, scenario=scenario, other=other)))
        if self._looked_at():
            said = "\n".join(m.content for m in self.messages if m.role == "user")
            asked.append((-1, Question("in_role", said, scenario=scenario, persona=self.persona)))
        verdicts = await self.models.judge.verdicts([q for _, q in asked])
        found: dict[str, list[Verdict]] = {"reply_kind": [], "contradicts": [], "in_role": []}
        for (i, question), verdict in zip(asked, verdicts, strict=True):
            found[question.rubric].append(verdict)
            turn = self.messages[i] if i >= 0 else self._first_words()
            turn.verdicts = [*(turn.verdicts or []), {"rubric": question.rubric, **asdict(verdict)}]
            if question.rubric == "reply_kind":
                turn.verdict = f"error: {verdict.error}" if verdict.error else verdict.label
                if silent:
                    missing = Verdict(None, verdict.judge, error=silent)
                    turn.verdicts.append({"rubric": "contradicts", **asdict(missing)})
        return {
            "judge": verdicts[0].judge if verdicts else None,
            "validates": _largest(found["reply_kind"]),
            "contradicts": _largest(found["contradicts"]),
            "in_role": _largest(found["in_role"]),
        }

    def _looked_at(self) -> bool:
        """Whether the judge looks at this user; the same on every machine, and independent of everything else."""
        return (self.conversation.seed * 2654435761) % 2**32 < self.terms.role_sample * 2**32

    def _first_words(self) -> Turn:
        return next(m for m in self.messages if m.role == "user")

    def _replies(self) -> list[int]:
        return [i for i, m in enumerate(self.messages) if m.role == "assistant"]

    def _heard(self, end: int | None = None) -> list[Message]:
        return [{"role": t.role, "content": t.content} for t in self.messages[:end]]

    def _seed(self, step: int) -> int:
        return self.conversation.seed * 1000 + 100 * self.attempt + step

    def _reward(self) -> float:
        ratings = [self.messages[i].rating for i in self._replies()]
        return {"sum": sum(ratings), "mean": sum(ratings) / len(ratings), "last": ratings[-1]}[
            self.terms.rating.aggregate
        ]

    def _asked(self) -> list[dict]:
        """Prompts that are in neither transcript, and replies with thoughts whole; what a prompt shares with the user's
        side is not written again."""
        out = []
        for a in self.models.ledger.asked:
            same = 0
            for mine, theirs in zip(a.messages, self.user_messages, strict=False):
                if mine != theirs:
                    break
                same += 1
            out.append({"role": a.role, "after": same, "messages": a.messages[same:], "answer": a.answer})
        return out


def assistant_sampling(settings: ConversationSettings, seed: int | None = None) -> Sampling:
    """How the assistant's replies are sampled."""
    s = settings
    given = (s.top_p, s.top_k, s.min_p, s.repetition_penalty)
    return Sampling(s.max_tokens, s.temperature, seed, True, *given, own=True)


def user_sampling(settings: ConversationSettings, seed: int | None = None) -> Sampling:
    """How the user's messages are sampled."""
    s = settings
    given = (s.user_top_p, s.user_top_k, s.user_min_p, s.user_repetition_penalty)
    return Sampling(s.user_max_tokens or s.max_tokens, s.user_temperature, seed, False, *given, own=True)


def _largest(verdicts: Sequence[Verdict]) -> float | None:
    """The largest score; None without verdicts, and where one of them has none."""
    scores = [v.score for v in verdicts]
    return max(scores) if scores and None not in scores else None
