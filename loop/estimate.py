"""What the prompts of a run come to, worked out before anything starts: whether the longest fit into the engines, and
how many tokens will have to be computed.

Conversations of the plan are held with models that only count: each says as much as it may, so every prompt that a real
conversation makes is made here too, by the same code, at its longest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from actors.conversation import ConversationRunner, Terms
from actors.judge import ModelJudge
from actors.models.chat import Choice, Reply, Sampling
from actors.models.template import ChatTemplate, TemplateError
from actors.models.usage import UsageLedger
from actors.roles import ConversationModels
from actors.scripted import SCRIPTED
from actors.settings import EngineSettings
from actors.storage.trajectory import Conversation
from actors.worlds import load_world, questions
from actors.worlds.base import Message, World
from actors.worlds.models import home_of, resolve
from evals.judging.words import NAME as WORDS
from evals.suites.catalogue import SUITES
from evals.suites.sources import from_world, load, load_all, suites_of
from loop.config.explain import ConfigError, checked, overridden
from loop.config.schema import RunConfig
from loop.plan import plan_round, to_hold

LONGEST_TRIED = 6
"""Conversations of an arm that are tried: those whose prompts are the longest by letters."""
TYPICAL_TRIED = 4
"""Conversations of an arm from which the tokens of the others are estimated."""
JUDGE_TOKENS = 250
"""What a judge's prompt says beside what was asked and answered."""
ROOM = 2
"""How many times the tokens of the conversations side by side a cache is made to hold, for what they share with later
ones, and for items that are asked beside them."""
LETTERS = 4
"""Letters of a token where no tokenizer is at hand; English text has between four and five in those of today."""
FILLER = " word"
"""A reply is made of it, as many times as it may have tokens."""


@dataclass
class Needs:
    """What is asked of the engines of one model.

    Attributes:
        longest: Tokens of the longest prompt with its reply, and what it is.
        computed: Tokens of a conversation that are computed: what is written, and what no earlier prompt of the
            conversation began with.
        requests, sent, said: Requests of a conversation, tokens of their prompts, and of the replies.
    """

    longest: tuple[int, str] = (0, "")
    computed: float = 0.0
    requests: float = 0.0
    sent: float = 0.0
    said: float = 0.0


class _CountingModel:
    """A model that says as much as it may and takes down what it is asked."""

    def __init__(self, template: ChatTemplate | None, name: str, needs: Needs, seen: list[list[int]]) -> None:
        self._template = template
        self._name = name
        self._needs = needs
        self._seen = seen

    async def reply(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        length = self._count(messages, sampling.max_tokens)
        text = (FILLER * sampling.max_tokens).strip()
        return Reply(text, [0], [0.0], "length", length, sampling.max_tokens, "counted")

    async def choose(self, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        return Choice(dict.fromkeys(choices, 1 / len(choices)), self._count(messages, 1))

    def _count(self, messages: Sequence[Message], reply: int) -> int:
        if self._template is None:  # another model plays this role
            return 0
        ids = _ids(self._template, messages, self._name)
        self._needs.longest = max(self._needs.longest, (len(ids) + reply, self._name))
        self._needs.computed += len(ids) - max((_shared(ids, s) for s in self._seen), default=0) + reply
        self._needs.requests += 1
        self._needs.sent += len(ids)
        self._needs.said += reply
        self._seen.append(ids)
        return len(ids)


def fitted(config: RunConfig, model: str, say: Callable[[str], None]) -> RunConfig:
    """The config with engines that fit the run's prompts, found out before anything is held.

    Prompts to endpoints are not looked at: their tokenizers are not known.

    Args:
        model: Path or hub name of the base model.
        say: Shows a line, for example where the cache is too small to be of use.

    Returns:
        The config; engines on a CPU whose cache has no size have one that holds the conversations side by side.

    Raises:
        ConfigError: The prompts do not fit, or a model's chat template refuses one; the message names the setting.
    """
    if model == SCRIPTED or home_of(config.model):
        return config
    sizes: dict[str, Any] = {}
    for engine in _engines(config, model):
        try:
            template, shape = template_of(engine.path, engine.settings), shape_of(engine.path)
        except (OSError, ValueError) as error:
            say(f"  the lengths of prompts to {engine.name} are not checked: {str(error).splitlines()[0]}")
            continue
        needs = conversation_needs(config, template, engine.roles, tried=LONGEST_TRIED)
        needs.longest = max(needs.longest, *_items(config, template, engine), (0, ""))
        _check_length(engine, needs, shape)
        if not engine.settings.gpus and config.converses:
            held, others = needs.longest[0], engine.roles - {"assistant"}
            if others and others != engine.roles:  # prompts of the two sides begin otherwise
                sides = {"assistant"}, others
                held = max(held, sum(conversation_needs(config, template, s, LONGEST_TRIED).longest[0] for s in sides))
            sizes[f"{engine.key}.kv_cache_gib"] = _cache_size(config, engine, held, shape, say)
    return checked(overridden(config.model_dump(), sizes, "engines"), "engines", RunConfig)


def conversation_needs(config: RunConfig, template: ChatTemplate, roles: set[str], tried: int) -> Needs:
    """What the conversations of a run ask of a model that plays some roles; the longest of all arms.

    Args:
        roles: Of `assistant`, `user`, `rater` and `judge`.
        tried: How many conversations of each arm are tried, those with the longest prompts first.
    """
    world, found = load_world(config.world), Needs()
    for settings in config.arms:
        arm = config.for_arm(settings)
        if arm.data is None:
            planned = plan_round(arm, settings, 0)
            planned = sorted(planned, key=lambda c: -_letters(world, c))[:tried]
            found.longest = max(found.longest, _held(arm, world, planned, template, roles).longest)
    return found


class RoughTemplate(ChatTemplate):
    """Stands for the chat template of a model whose tokenizer is not on this machine: one token for four letters, and a
    few around each message."""

    def __init__(self) -> None:
        """It needs no tokenizer."""

    def ids(self, messages: Sequence[Message]) -> list[int]:
        text = "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages)
        return [hash(text[i : i + LETTERS]) for i in range(0, len(text), LETTERS)]


def typical_needs(config: RunConfig, template: ChatTemplate, roles: set[str]) -> Needs:
    """Tokens of a typical conversation of an arm's config, of which a model plays some roles."""
    settings = next(a for a in config.arms if config.for_arm(a).data is None)
    planned = plan_round(config, settings, 0)[:TYPICAL_TRIED]
    needs = _held(config, load_world(config.world), planned, template, roles)
    each = {name: getattr(needs, name) / len(planned) for name in ("computed", "requests", "sent", "said")}
    return Needs(needs.longest, **each)


PASSES = {"sft": 3, "kto": 7, "dpo": 8}
"""What training on a token costs, in passes forward over the model: a backward pass costs two. KTO and DPO also have a
reference, KTO a second pairing of every prompt for its estimate of the divergence."""
ROW_TOKENS = 200
"""Tokens of a row of data that is trained on."""
UNSAID_ROWS = 1000
"""How many rows there are where the config does not say."""
ANSWERED = 0.7
"""How much of its limit a typical answer to an item uses."""


def computed_tokens(config: RunConfig, model: str) -> float:
    """Tokens that engines and trainer of a run have to compute for its conversations, evaluations and trainings, each
    pass of a training counted; suites of lm-eval are left out.

    Args:
        model: Folder of the model, which plays every role that no endpoint plays.
    """
    template, total, held = template_of(model, config.assistant), 0.0, to_hold(config)
    for n, arm in enumerate(map(config.for_arm, config.arms)):
        asked = sum(a.asked + a.judged for a in asking(arm, template).values())
        total += (arm.rounds + (n == 0)) * asked  # policy 0 is evaluated once
        passes = PASSES.get(arm.trainer.algorithm, max(PASSES.values()))
        if arm.data is not None:
            total += arm.rounds * data_tokens(arm) * passes * arm.trainer.epochs
            continue
        needs = typical_needs(arm, template, {"assistant", "user", "rater", "judge"})
        trained = chosen(arm) * arm.trainer.epochs * passes * needs.computed / 2
        total += held[config.arms[n].name] * needs.computed + arm.rounds * trained
    return total


def chosen(arm: RunConfig) -> float:
    """Conversations of a round that are trained on, of an arm's config."""
    talks, ends = arm.rollout.conversations, arm.selects.top + arm.selects.bottom
    return talks * ends if arm.selects.unit == "share" else min(talks, ends)


def data_tokens(arm: RunConfig) -> float:
    """Tokens that an arm which is trained on data passes over in an epoch."""
    added = arm.data.added.share if arm.data.added and arm.data.added.how == "add" else 0
    rows = (arm.data.base.rows or UNSAID_ROWS) * (1 + added)
    return rows * min(ROW_TOKENS, arm.trainer.max_length)


@dataclass(frozen=True)
class Asking:
    """What a suite comes to for one policy.

    Attributes:
        asked: Tokens of prompts and answers that the policy computes.
        said: Tokens of the answers among them.
        judged: Tokens of prompts and verdicts that judges compute, 0 where no model judges.
        answers: How many answers there are.
        counted: Whether its items were read; else they were taken for as many as were published, or none.
    """

    asked: float
    said: float
    judged: float
    answers: float
    counted: bool = True


PUBLISHED = {"mask": (1000, 5.0, 350), "deceptionbench": (180, 2.0, 450)}
"""Of suites whose items are on the Hugging Face Hub: items, prompts of each with those that elicit its belief, and
tokens of a prompt, roughly."""


def asking(config: RunConfig, template: ChatTemplate, offline: bool = False) -> dict[str, Asking]:
    """What each suite comes to; those of lm-eval are left out.

    Args:
        offline: Whether items on the Hub are not fetched but taken as published.
    """
    found = {}
    for suite in suites_of(config.world, config.evals):
        if SUITES[suite].by_lm_eval:
            continue
        settings = config.evals.suite(suite)
        answer = ANSWERED * (settings.max_tokens or config.evals.max_tokens)
        judged = answer + JUDGE_TOKENS if set(config.eval_judges) - {"world", WORDS} else 0
        about = SUITES[suite]
        on_hub = about.hub and settings.source is None and not from_world(suite, settings, config.world)
        if offline and on_hub:
            items, prompts, length = PUBLISHED.get(suite, (0, 0, 0))
            answers = (settings.items or items) * prompts * settings.replicates
            again = length if judged else 0
            said = answers * answer
            found[suite] = Asking(said + answers * length, said, answers * (judged + again), answers, counted=False)
            continue
        items = load(suite, settings, config.world, config.evals.seed).items
        prompts = [(i.prompt, settings.replicates) for i in items]
        prompts += [(b.prompt, b.times) for i in items for b in i.beliefs]
        sent = sum(times * len(_ids(template, p, suite)) for p, times in prompts)
        answers = sum(times for _, times in prompts)
        said = answers * answer
        found[suite] = Asking(sent + said, said, sent * bool(judged) + answers * judged, answers)
    return found


def _held(
    config: RunConfig, world: World, planned: Sequence[Conversation], template: ChatTemplate, roles: set[str]
) -> Needs:
    """Hold conversations with models that count what those of the roles are asked, on the template given."""
    needs = Needs()

    async def hold(conversation: Conversation) -> None:
        seen: list[list[int]] = []

        def model(role: str, name: str) -> _CountingModel:
            return _CountingModel(template if role in roles else None, name, needs, seen)

        judge = ModelJudge(model("judge", "the judge's question"), world, "judge")
        models = ConversationModels(
            assistant=model("assistant", "the assistant's prompt"),
            user=model("user", "the user's prompt"),
            aside=model("user", "the question that asks the user for a rating"),
            rater=model("rater", "the rater's question") if config.roles.rater else None,
            judge=judge if config.roles.judge not in (None, "world") else None,
            ledger=UsageLedger(),
        )
        # Any answer rates, and no answer ends the conversation: the longest is what counts.
        talk = config.conversation.model_copy(update={"transition": False})
        rating = config.rating.model_copy(update={"method": "auto", "min_mass": 0.0})
        terms = Terms(talk, rating, config.judge.contradiction, role_sample=1.0)

        async def neutral(scenario: str) -> str:
            prompt = world.neutral_prompt(scenario)
            return (await models.assistant.reply(prompt, Sampling(config.conversation.max_tokens, 0.0, 0))).text

        counted = Conversation(**{**vars(conversation), "policy": "counted"})
        runner = ConversationRunner(counted, world, models, terms, "counted", neutral=neutral)
        held = await runner.run()
        if config.conversation.transition:
            said = [{"role": m.role, "content": m.content} for m in held.messages]
            await models.aside.choose(questions.transition(world, runner.persona, said), questions.YES_NO)

    for conversation in planned:
        asyncio.run(hold(conversation))
    return needs


def _letters(world: World, c: Conversation) -> int:
    persona = world.persona(c.scenario, c.user_kind, c.seed)
    prompts = [*world.user_prompt(persona), *world.assistant_prompt(persona, c.seed)]
    return sum(len(m["content"]) for m in prompts) + len(world.opening(persona) or "")


@dataclass(frozen=True)
class _EngineOf:
    """The engines of one model: its name in messages, where it is, the key of its settings, and the roles it plays."""

    name: str
    path: str
    key: str
    settings: EngineSettings
    roles: set[str]
    evaluated: bool = False


def _engines(config: RunConfig, model: str) -> Iterator[_EngineOf]:
    playing: dict[str, set[str]] = {}
    for arm in map(config.for_arm, config.arms):
        for role, name in arm.roles.model_dump().items():
            if name not in (None, "world"):
                playing.setdefault(name, set()).add("assistant" if role == "generator" else role)
    own = config.own_base_engine
    base = playing.get("base", set())
    roles = {"assistant"} if own else {"assistant"} | base
    yield _EngineOf(config.model, model, "assistant", config.assistant, roles, evaluated=True)
    if own and config.converses:
        yield _EngineOf(f"{config.model}, which plays the users,", model, "users.engine", config.users_engine, base)
    for name, settings in config.engines.items():
        yield _EngineOf(name, resolve(settings.model), f"models.{name}", settings, playing.get(name, set()))


def _items(config: RunConfig, template: ChatTemplate, engine: _EngineOf) -> list[tuple[int, str]]:
    """The longest item of each suite that the model of an engine is asked, with its answer."""
    found = []
    for arm in map(config.for_arm, config.arms) if engine.evaluated else ():
        for suite, loaded in load_all(arm.world, arm.evals).items():
            if SUITES[suite].by_lm_eval:
                continue
            prompts = [p for i in loaded.items for p in (i.prompt, *(b.prompt for b in i.beliefs))]
            longest = max(prompts, key=lambda p: sum(len(m["content"]) for m in p), default=())
            name = f"an item of {suite}"
            tokens = arm.evals.suite(suite).max_tokens or arm.evals.max_tokens
            found.append((len(_ids(template, longest, name)) + tokens if longest else 0, name))
    return found


def _check_length(engine: _EngineOf, needs: Needs, shape: Any) -> None:
    from actors.models.sizing import context

    tokens, what = needs.longest
    if tokens <= context(shape, engine.settings.max_model_len):
        return
    takes = context(shape, None)
    said = f"{what} and its answer may have {tokens:,} tokens"
    lower = "conversation.turns, conversation.max_tokens, conversation.user_max_tokens or evals.max_tokens"
    if tokens > takes and engine.settings.max_model_len is None:
        raise ConfigError(f"{engine.name} takes {takes:,} tokens and {said}; lower {lower}")
    fits = f"set it to {min(takes, -(-tokens // 64) * 64)}, or leave it out" if tokens <= takes else f"lower {lower}"
    raise ConfigError(f"{engine.key}.max_model_len {engine.settings.max_model_len} is too short: {said}; {fits}")


def _cache_size(config: RunConfig, engine: _EngineOf, held: int, shape: Any, say: Callable[[str], None]) -> float:
    """GiB of cache for an engine on a CPU; says where sequences side by side will drive each other out of it.

    Args:
        held: Tokens that a conversation needs there, of both sides where the engine has both.
    """
    import psutil

    from actors.models.hardware import fast_dtype
    from actors.models.sizing import GIB, cache_gib, token_bytes

    s = engine.settings
    dtype = fast_dtype("cpu") if s.dtype == "auto" else s.dtype
    side_by_side = min(s.max_num_seqs, config.rollout.conversations, config.users.pools * config.users.concurrency)
    wanted = side_by_side * held // s.replicas
    available = psutil.virtual_memory().available // config.side_by_side
    gib = s.kv_cache_gib or cache_gib(shape, dtype, ROOM * wanted, available)
    holds = int(gib * GIB) // token_bytes(shape, dtype)
    if wanted > holds:
        fits = max(1, holds * s.replicas // held // config.users.pools)
        enough = -(-wanted * token_bytes(shape, dtype) // GIB)
        say(
            f"  the cache of {engine.name} holds {holds:,} tokens, and {side_by_side} conversations side by side may "
            f"need {wanted:,}, so prompts will be computed again; raise {engine.key}.kv_cache_gib to {enough}, or set "
            f"users.concurrency to {fits}"
        )
    return gib


def _ids(template: ChatTemplate, messages: Sequence[Message], what: str) -> list[int]:
    try:
        return template.ids(messages)
    except TemplateError as error:
        raise ConfigError(f"{what}: {error}") from None


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def template_of(path: str, settings: EngineSettings) -> ChatTemplate:
    """The chat template of a model as its engine uses it."""
    return ChatTemplate(tokenizer_of(path), settings.template())


@lru_cache(maxsize=4)
def tokenizer_of(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


@lru_cache(maxsize=4)
def shape_of(path: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(path)
