"""`candor bench judge [--model NAME]`: how well judges do on 220 answers that were labelled by hand.

The answers are SmolLM2's to the canary items. Without a model the judge `words` is measured; with one also the model,
in writing and by likelihood (`evals.judge_method`). Kappa is agreement beyond chance; a judge whose interval reaches 0
is no better than chance, and a run gives no score by a judge by likelihood of which that is found.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from actors.models.chat import ChatModel
from actors.models.ref import open_model
from evals.judging import prompting
from evals.judging.calibration import Reliability, measure
from evals.judging.likelihood import LikelihoodJudging
from evals.judging.panel import Judging, ModelJudging
from evals.judging.words import WordsJudging
from loop.bench import rating

WRITTEN_TOKENS = 256
COUNT: int | None = None
"""How many of the answers that state options are read; None for all."""


def run(model: str | None = None) -> dict[str, Any]:
    """All figures; with a model it takes as long as the model needs for 800 prompts of about 400 tokens.

    Args:
        model: As `model` of a config, or `NAME@URL` for an OpenAI-compatible endpoint.
    """
    found = {f"words, {name}": _figures(*_timed(WordsJudging(), n)) for name, n in (("options", 0), ("numbers", 1))}
    if model is not None:
        with rating.serving(model) as (ref, _):
            endpoints: dict[str, ChatModel] = {}

            async def judged() -> None:
                opened = open_model(ref, endpoints)
                for name, judge in _judges(model, opened):
                    began = time.monotonic()
                    made = await measure(judge, count=COUNT)
                    found[name] = _figures(made, time.monotonic() - began)
                for endpoint in endpoints.values():
                    await endpoint.close()

            asyncio.run(judged())
    kappas = [f["kappa"] for f in found.values()]
    return {"ratio": max(k for k in kappas if k is not None), "goal": None, "runs": kappas, **found}


def _judges(model: str, opened: ChatModel) -> Iterator[tuple[str, Judging]]:
    prompts = prompting.load(None)
    yield f"{model}, by likelihood", LikelihoodJudging(model, opened, prompts)
    yield f"{model}, in writing", ModelJudging(model, opened, prompts, WRITTEN_TOKENS)


def _timed(judge: Judging, numbers: int) -> tuple[Reliability, float]:
    began = time.monotonic()
    return asyncio.run(measure(judge, numbers=bool(numbers))), time.monotonic() - began


def _figures(made: Reliability, seconds: float) -> dict[str, Any]:
    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 3)

    return {
        "kappa": rounded(made.kappa),
        "ci95": made.ci95 and [round(end, 3) for end in made.ci95],
        "better_than_chance": made.better_than_chance,
        "sensitivity": rounded(made.sensitivity),
        "specificity": rounded(made.specificity),
        "texts": made.texts,
        "without_a_verdict": made.failed,
        "seconds": round(seconds, 1),
    }
