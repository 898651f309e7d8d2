"""An engine that records the requests it serves and can serve them again, as fast as it can: what benchmarks compare
the loop with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.engine import Engine
from actors.rating import RATINGS


@dataclass(frozen=True)
class Request:
    """A request that an engine served.

    Attributes:
        policy: The policy that was asked.
        kind: `reply` or `choose`.
        prompt: Token ids.
        cached: How many of them the engine did not have to compute, as an earlier request began with the same.
        completion_tokens: How many it wrote.
        temperature, seed, logprobs: How they were sampled, and whether their probabilities were asked for.
        arrived, done: When it came and when it was answered, `time.time()`.
    """

    policy: str
    kind: str
    prompt: list[int]
    cached: int
    completion_tokens: int
    temperature: float
    seed: int | None
    logprobs: bool
    arrived: float
    done: float


class RecordingEngine(Engine):
    """An engine that can keep a record of every request."""

    _record: list[Request] | None = None

    async def _run(self, policy: str, ids: list[int], params: Any) -> tuple[list[int], Any]:
        arrived = time.time()
        ids, output = await super()._run(policy, ids, params)
        if self._record is not None:
            kind = "choose" if params.logprob_token_ids else "reply"
            wrote = len(output.outputs[0].token_ids)
            how = (params.temperature, params.seed, params.logprobs is not None)
            cached = output.num_cached_tokens or 0
            self._record.append(Request(policy, kind, ids, cached, wrote, *how, arrived, time.time()))
        return ids, output

    async def record(self, on: bool) -> list[Request]:
        """Begin or stop to keep a record of every request; returns what was kept so far. Nothing is cached then."""
        kept, self._record = self._record or [], [] if on else None
        await self._utility(self._engine.reset_prefix_cache())
        return kept

    async def replay(self, requests: Sequence[Request]) -> float:
        """Serve recorded requests again, all of them known in advance and each as long as it was; returns how many
        seconds that took. It is the most that the engine can do."""
        from vllm.sampling_params import SamplingParams

        await self._utility(self._engine.reset_prefix_cache())
        choices = self._choice_tree(RATINGS).first

        def params(r: Request) -> Any:
            if r.kind == "choose":
                return SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=choices, detokenize=False)
            return SamplingParams(
                max_tokens=r.completion_tokens,
                ignore_eos=True,
                temperature=r.temperature,
                seed=r.seed,
                logprobs=0 if r.logprobs else None,
                detokenize=False,
            )

        began = time.monotonic()
        await asyncio.gather(*(self._run(r.policy, r.prompt, params(r)) for r in requests))
        return time.monotonic() - began
