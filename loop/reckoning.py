"""What a run takes on GPUs: hours by stage, GPU hours and money. Reckoned before it starts and not measured: from the
tokens that its conversations, evaluations and trainings come to, the weights that each token passes, and a part of what
the GPUs could compute.

`loop.timing` does the same for machines without GPUs, where it knows more: how long earlier runs took there.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.models.template import ChatTemplate
from actors.settings import EndpointSettings
from evals.judging.words import NAME as WORDS
from evals.suites.sources import suites_of
from loop.cluster import needs
from loop.config.schema import RunConfig
from loop.estimate import Asking, Needs, RoughTemplate, asking, chosen, data_tokens, template_of, typical_needs
from loop.memory import Shape, folder_of, model_shape
from loop.plan import to_hold
from trainers.algorithms import ALGORITHMS
from trainers.flops import peak_flops

PROMPT_SHARE = 0.35
"""Part of a GPU's peak that engines are taken to reach on the tokens of prompts. An assumption, as the next one is."""
REPLY_SHARE = 0.1
"""The same on the tokens that they write: memory bounds decoding, adapters cost a part, and conversations are never all
at the same point."""
TRAINER_SHARE = 0.35
"""Part of a GPU's peak that the trainer is taken to reach, recomputed activations counted as work. On an H200,
`candor bench mfu` found 0.31 and 0.34 for SFT and 0.37 and 0.35 for KTO, each without and with recomputation."""
REQUEST_SECONDS = 2.0
"""How long an endpoint is taken to need for a request, where its limits allow more."""
HOUR = 3600.0
STAGES = ("rollout", "evaluate", "train")


@dataclass
class Reckoned:
    """What a run takes.

    Attributes:
        gpu: Kind of the GPUs.
        gpus: How many the run holds all the time.
        hours: By stage, all arms and rounds together; an evaluation counts as if it were alone.
        total: Hours of the whole run, without its start; less than all stages together where arms are at work side by
            side.
        endpoint_cost: What requests to endpoints cost; 0 where none has a price.
        gpu_cost: What the GPUs cost; None where `cluster.gpu_hour_price` is not given.
        assumed: What was taken for granted, a line each.
    """

    gpu: str
    gpus: float
    hours: dict[str, float]
    total: float
    endpoint_cost: float
    gpu_cost: float | None
    assumed: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """The same for JSON."""
        facts = asdict(self)
        return facts | {"total_hours": facts.pop("total"), "gpu_hours": self.total * self.gpus}

    def __str__(self) -> str:
        parts = ", ".join(f"{stage} {hours:.2g} h" for stage, hours in self.hours.items() if hours)
        money = [f"{self.gpu_cost:,.0f} for GPUs"] if self.gpu_cost is not None else []
        money += [f"{self.endpoint_cost:,.0f} for endpoints"] if self.endpoint_cost else []
        cost = f"; cost {' and '.join(money)}" if money else ""
        gpu_hours = f"{self.total * self.gpus:,.0f} GPU hours"
        overlap = "; arms overlap" if sum(self.hours.values()) > 1.001 * self.total else ""
        return f"about {self.total:.3g} h on {self.gpus:g} {self.gpu} ({parts}{overlap}), {gpu_hours}{cost}"


def reckoned(config: RunConfig, gpu: str | None) -> Reckoned | None:
    """What a run takes on GPUs of a kind; None where it asks for none, or kind or models are not known.

    Args:
        gpu: `cluster.gpu`, or what the cluster calls its GPUs.
    """
    peak = peak_flops(gpu) if gpu else None
    held = sum(n.count * n.gpus for n in needs(config))
    if not held or peak is None:
        return None
    models = _Models.of(config, peak)
    if models is None:
        return None
    hours, money, to_talk = dict.fromkeys(STAGES, 0.0), 0.0, to_hold(config)
    of_arms = []
    for n, arm in enumerate(map(config.for_arm, config.arms)):
        before, first = sum(hours.values()), 0.0
        asked = asking(arm, models.template, offline=True)
        models.note_items(asked)
        for name, tokens in _evaluation(arm, asked).items():  # one after the other, as all wait for the answers
            policies = arm.rounds + (n == 0)  # policy 0 is evaluated once
            each = models.seconds(name, tokens) / HOUR
            hours["evaluate"] += policies * each
            first += (n == 0) * each
            money += policies * models.price(name, tokens)
        if arm.data is None:
            talks = to_talk[config.arms[n].name]
            talking = {name: _times(of, talks) for name, of in _conversation(arm, models).items()}
            longest = max(models.seconds(*of) for of in talking.items()) / HOUR  # they work side by side
            hours["rollout"] += longest
            first += longest * (1 - (arm.rounds - 1) * arm.rollout.conversations / talks) if talks else 0.0
            money += sum(models.price(*of) for of in talking.items())
        hours["train"] += arm.rounds * models.train_seconds(arm, peak) / HOUR
        of_arms.append((first, sum(hours.values()) - before - first))
    price, total = config.cluster.gpu_hour_price, _until_all_are_done(of_arms, config.side_by_side)
    cost = None if price is None else price * held * total
    return Reckoned(gpu, held, hours, total, money, cost, models.assumed)


def _until_all_are_done(arms: Sequence[tuple[float, float]], sets: int) -> float:
    """Hours until all arms are done.

    Args:
        arms: Of each the hours of its round 0 until the next arm may begin, and all others.
        sets: How many arms are at work side by side; the set of actors that is free first takes the next arm.
    """
    free, turn = [0.0] * sets, 0.0
    for first, rest in arms:
        turn = max(min(free), turn) + first
        free[free.index(min(free))] = turn + rest
    return max(free)


@dataclass
class _Models:
    """The models of a run, and how fast each answers.

    Attributes:
        flops: Of engines by name: what those of a model could compute together in a second, and what a token costs.
    """

    config: RunConfig
    template: ChatTemplate
    base: Shape
    flops: dict[str, tuple[float, float]]
    assumed: list[str]

    @classmethod
    def of(cls, config: RunConfig, peak: float) -> _Models | None:
        """None where an engine has no GPU, or the shape of a model is not known."""
        engines = {"assistant": (config.model, config.assistant)}
        if config.own_base_engine:
            engines["base"] = (config.model, config.users_engine)
        engines |= {name: (s.model, s) for name, s in config.engines.items()}
        flops = {}
        for name, (model, s) in engines.items():
            shape = model_shape(model)
            if shape is None or not s.gpus:
                return None
            flops[name] = (peak * s.gpus * s.replicas, _forward(shape))
        assumed = [
            f"of the GPUs' peak of {peak / 1e12:.0f} TFLOP/s engines reach {PROMPT_SHARE:.0%} on prompts and "
            f"{REPLY_SHARE:.0%} on replies, the trainer {TRAINER_SHARE:.0%}",
            "replies are as long as they may be",
        ]
        folder, template = folder_of(config.model), RoughTemplate()
        with contextlib.suppress(OSError, ValueError):
            template = template_of(str(folder), config.assistant) if folder else template
        if isinstance(template, RoughTemplate):
            assumed.append(f"the tokenizer of {config.model} is not here: a token is four letters")
        return cls(config, template, model_shape(config.model), flops, assumed)

    def note_items(self, asked: dict[str, Asking]) -> None:
        """Say which suites were taken for as large as they were published, and which count nothing."""
        if guessed := [suite for suite, of in asked.items() if not of.counted and of.answers]:
            self._note(f"items of {', '.join(guessed)} are as many and as long as published")
        unknown = [s for s in suites_of(self.config.world, self.config.evals) if s not in asked or not asked[s].answers]
        if unknown:
            self._note(f"no time is counted for {', '.join(unknown)}")

    def _note(self, line: str) -> None:
        if line not in self.assumed:
            self.assumed.append(line)

    def seconds(self, name: str, asked: Needs) -> float:
        """How long a model takes for what it is asked, with nothing else to wait for."""
        if name in self.flops:
            peak, token = self.flops[name]
            return token / peak * ((asked.computed - asked.said) / PROMPT_SHARE + asked.said / REPLY_SHARE)
        s = self.config.endpoints[name]
        self._note(f"{name} answers a request in {REQUEST_SECONDS:g} s, as far as its limits allow")
        return self.config.side_by_side * max(  # arms that are at work side by side share the limits
            asked.requests * REQUEST_SECONDS / s.concurrency,
            60 * asked.requests / s.requests_per_minute if s.requests_per_minute else 0.0,
            60 * (asked.sent + asked.said) / s.tokens_per_minute if s.tokens_per_minute else 0.0,
        )

    def price(self, name: str, asked: Needs) -> float:
        """What an endpoint takes for it."""
        settings = self.config.models.get(name)
        if not isinstance(settings, EndpointSettings) or settings.price is None:
            return 0.0
        return settings.price.of(round(asked.sent), round(asked.said))

    def train_seconds(self, arm: RunConfig, peak: float) -> float:
        """How long a training takes, each token of a row computed in every pass that the algorithm makes."""
        s = arm.trainer
        if not s.gpus:
            return 0.0
        if arm.data is not None:
            tokens = data_tokens(arm)
        else:
            own = typical_needs(arm, self.template, {"assistant"})
            whole = own.computed if s.rows == "conversation" else own.sent + own.said
            tokens = chosen(arm) * (whole / own.requests if s.rows == "last" else whole)
        # forward, the gradients of activations, those of weights unless they are frozen, and what is recomputed
        passes = 2 + (s.lora is None) + s.gradient_checkpointing + ALGORITHMS[s.algorithm].extra_passes
        return tokens * s.epochs * passes * _forward(self.base) / (TRAINER_SHARE * peak * s.gpus * s.ranks)


def _forward(shape: Shape) -> float:
    """FLOPs of a token that passes a model once: two for each weight that is multiplied with; attention is left out, as
    conversations are short."""
    return 2.0 * (shape.weights - shape.words * shape.hidden)


def _playing(arm: RunConfig) -> dict[str, set[str]]:
    """Which roles of an arm's conversations each model plays, by the name of who serves it."""
    found: dict[str, set[str]] = defaultdict(set)
    found[arm.roles.generator or "assistant"].add("assistant")
    given = {"user": arm.roles.user, "rater": arm.roles.rater, "judge": arm.roles.judge}
    for role, name in given.items():
        if name not in (None, "world"):
            found["assistant" if name == "base" and not arm.own_base_engine else name].add(role)
    return found


def _conversation(arm: RunConfig, models: _Models) -> dict[str, Needs]:
    """What a conversation asks of each model."""
    return {name: typical_needs(arm, models.template, roles) for name, roles in _playing(arm).items()}


def _evaluation(arm: RunConfig, asked: dict[str, Asking]) -> dict[str, Needs]:
    """What the suites ask of the policy and of each judge, for one policy."""
    answers, total, said = (sum(getattr(a, name) for a in asked.values()) for name in ("answers", "asked", "said"))
    found = {"assistant": Needs(computed=total, requests=answers, sent=total - said, said=said)}
    verdicts = sum(a.judged for a in asked.values())
    for name in arm.eval_judges:
        if name not in ("world", WORDS):
            served = "assistant" if name == "base" and not arm.own_base_engine else name
            of = found.setdefault(served, Needs())
            of.computed += verdicts
            of.requests += answers
            of.sent += verdicts
    return found


def _times(of: Needs, count: float) -> Needs:
    return Needs(of.longest, *(count * getattr(of, name) for name in ("computed", "requests", "sent", "said")))
