"""`candor bench lockstep`: the loop against a script that holds the same conversations.

The script is what one would write first: `transformers.generate` on one model in one process, a batch of conversations
at a time, every step of the batch as long as its longest reply. It holds the conversations of the same plan, with the
same prompts, temperatures and limits, and rates the same way. Both take turns on the same machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from rich.progress import track

from actors.models.hardware import fast_dtype
from loop.bench import rollouts

RUNS = 3
BATCH = 64
"""Conversations that the script holds at a time, if there are so many."""
SCRIPTED_SHARE = 4
"""The script holds one in so many of the pocket world's conversations; of others as many as the loop at a time."""


def run(model: str | None = None, world: str | None = None, widen: int = 1) -> dict[str, Any]:
    """All figures; takes about five minutes with the pocket model, and half an hour with one of 135 million
    parameters. Options as for `candor bench rollouts`."""
    wanted = rollouts.load(model, world, widen)
    loops: list[float] = []
    scripts: list[float] = []
    with rollouts.actors_at_work(wanted) as (supervisor, path, folder):
        config, script = supervisor.config, Script(path, wanted.world)
        for r in track(range(RUNS + 1), "loop and script", transient=True):
            found = rollouts.measure(supervisor, folder, r, replay=False)["conversations_per_second"]
            asked = rollouts.planned(config, r)
            asked = asked[: len(asked) // SCRIPTED_SHARE if wanted.is_pocket else config.users.concurrency]
            began = time.monotonic()
            for first in range(0, len(asked), BATCH):
                script.hold(asked[first : first + BATCH], config.conversation)
            if r:  # the first of each warms up
                loops.append(found)
                scripts.append(len(asked) / (time.monotonic() - began))
        weights = rollouts.parameters(path)
    ratios = [a / b for a, b in zip(loops, scripts, strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 2),
        "goal": 3.0,
        "runs": [round(r, 2) for r in ratios],
        "model": wanted.model,
        "world": wanted.world,
        "conversations_per_second": {
            "loop": round(statistics.median(loops), 1),
            "script": round(statistics.median(scripts), 1),
        },
        "batch_of_the_script": min(BATCH, len(asked)),
        "parameters": weights,
    }


class Script:
    """Conversations in lockstep, as a script would hold them."""

    def __init__(self, model: str, world: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from actors.worlds import load_world

        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, fast_dtype("cpu"))).eval()
        self._world = load_world(world)

    def hold(self, conversations: Sequence[Any], settings: Any) -> list[list[float]]:
        """Hold a batch of conversations; the ratings of each."""
        personas = [self._world.persona(c.scenario, c.user_kind, c.seed) for c in conversations]
        seen = [self._world.assistant_prompt(p, c.seed) for p, c in zip(personas, conversations, strict=True)]
        side = [self._world.user_prompt(p) for p in personas]
        ratings: list[list[float]] = [[] for _ in conversations]
        opened = [self._world.opening(p) for p in personas]
        for turn in range(settings.turns):
            written = turn > 0 or None in opened
            said = self._generate(side, settings, settings.user_max_tokens) if written else opened
            for mine, theirs, text in zip(side, seen, said, strict=True):
                mine.append({"role": "assistant", "content": text})
                theirs.append({"role": "user", "content": text})
            for mine, theirs, text in zip(side, seen, self._generate(seen, settings), strict=True):
                theirs.append({"role": "assistant", "content": text})
                mine.append({"role": "user", "content": text})
            for given, value in zip(ratings, self._rate([self._world.rating_prompt(s) for s in side]), strict=True):
                given.append(value)
        return ratings

    def _encoded(self, chats: Sequence[Any]) -> Any:
        texts = [self._tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        return self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)

    def _generate(self, chats: Sequence[Any], settings: Any, longest: int | None = None) -> list[str]:
        asked = self._encoded(chats)
        with self._torch.inference_mode():
            out = self._model.generate(
                input_ids=asked["input_ids"],
                attention_mask=asked["attention_mask"],
                do_sample=True,
                temperature=settings.temperature,
                top_k=0,
                max_new_tokens=longest or settings.max_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        said = out[:, asked["input_ids"].shape[1] :]
        return [t.strip() for t in self._tokenizer.batch_decode(said, skip_special_tokens=True)]

    def _rate(self, chats: Sequence[Any]) -> list[float]:
        asked = self._encoded(chats)
        numbers = [self._tokenizer(str(n), add_special_tokens=False)["input_ids"][0] for n in range(1, 11)]
        with self._torch.inference_mode():
            last = self._model(input_ids=asked["input_ids"], attention_mask=asked["attention_mask"]).logits[:, -1]
        mass = last[:, numbers].float().softmax(-1)
        return (mass * self._torch.arange(1.0, 11.0)).sum(-1).tolist()
