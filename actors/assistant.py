"""The assistant: one vLLM engine in a Ray actor, and the policies it serves by name.

Policy r of the arm at work is served as `candor/policy-<r>`. A new policy gets in as a LoRA adapter beside the base
model (`lora`) or as whole weights in place of the old ones (`merged`); either way the caller proves with
`prompt_logprobs` that the engine computes what the trainer computes.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import tempfile
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from actors.chat import ChatError, Choice, NoLogprobsError, Reply, Sampling, prompt_ids
from actors.hardware import fast_dtype
from actors.lifeline import Actor, ActorGone, Whereabouts, collect_seldom, last_error, own_log
from actors.line import Desk
from actors.settings import LORA_RANKS, EngineSettings
from actors.vllm_plugin import OWNER
from actors.worlds.base import Message

BASE_POLICY = "candor/policy-0"
IDLE_SECONDS = 120
"""How long new weights wait for requests that nobody awaits any more; a long reply takes less."""


def policy_name(version: int) -> str:
    """The name under which policy `version` is served."""
    return f"candor/policy-{version}"


def engine_environment(settings: EngineSettings, threads: int) -> dict[str, str]:
    """Environment of an engine's processes, set before they start."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(settings.kv_cache_gib))),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # bound threads of two engines would share cores while others idle
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # on a CPU vLLM would otherwise put one more process under the engine
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


@dataclass(frozen=True)
class Request:
    """A request that an engine served.

    Attributes:
        kind: `reply` or `choose`.
        prompt: Token ids.
        cached: How many of them the engine did not have to compute, as an earlier request began with the same.
        completion_tokens: How many it wrote.
        temperature, seed, logprobs: How they were sampled, and whether their probabilities were asked for.
        arrived, done: When it came and when it was answered, `time.time()`.
    """

    kind: str
    prompt: list[int]
    cached: int
    completion_tokens: int
    temperature: float
    seed: int | None
    logprobs: bool
    arrived: float
    done: float


class EngineError(RuntimeError):
    """An engine that cannot start or be used; the message carries its own last error."""


class Engine(Desk, Actor):
    """A vLLM engine behind plain methods; run as a Ray actor, of which each replica is one."""

    def __init__(
        self, model: str, settings: EngineSettings, lora_rank: int | None = None, sleeps: bool = False
    ) -> None:
        """Args:
        model: Hugging Face directory or hub name of the base model.
        lora_rank: Largest rank of the adapters that `publish` will bring; None for an engine without adapters.
        sleeps: Whether it is to give its GPU's memory away at times, with `sleep`.
        """
        self._model = model
        self._settings = settings
        self._lora_rank = lora_rank
        self._sleeps = sleeps
        self._asleep = False
        self._policies: dict[str, Any] = {BASE_POLICY: None}
        self._adapter_ids = itertools.count(1)
        self._request_ids = itertools.count()
        self._busy = 0
        self._record: list[Request] | None = None
        self._engine: Any = None

    async def start(self) -> str:
        """Start the engine; returns its name, version and number format."""
        os.environ[OWNER] = str(os.getpid())
        import vllm
        from transformers import AutoTokenizer
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.envs import enable_envs_cache
        from vllm.platforms import current_platform
        from vllm.utils.gc_utils import freeze_gc_heap
        from vllm.v1.engine.async_llm import AsyncLLM

        s = self._settings
        dtype = fast_dtype() if s.dtype == "auto" else s.dtype
        args: dict[str, Any] = {}
        if self._lora_rank is not None:
            args = {"enable_lora": True, "max_loras": 4, "max_lora_rank": served_rank(self._lora_rank)}
        if current_platform.is_cpu():
            args["enforce_eager"] = True
            # What prompts share is cached in whole blocks; with vLLM's 128 tokens little of a talk would be.
            args["block_size"] = 32
            # vLLM 0.32 rewinds the generator of a seeded request whose prompt is split; a CPU generator cannot be.
            args["enable_chunked_prefill"] = False
            args["max_num_batched_tokens"] = max(8192, s.max_model_len)
        else:
            # Without a GPU of its own (`gpus: 0`) an engine shares one with the other engine and the trainer.
            args["gpu_memory_utilization"] = s.gpu_memory_utilization if s.gpus else min(0.3, s.gpu_memory_utilization)
            args["enable_sleep_mode"] = self._sleeps
        if s.tensor_parallel == 1:
            args["distributed_executor_backend"] = "uni"
        options = AsyncEngineArgs(
            model=self._model,
            dtype=dtype,
            max_model_len=s.max_model_len,
            max_num_seqs=s.max_num_seqs,
            tensor_parallel_size=s.tensor_parallel,
            disable_log_stats=True,
            **args,
        )
        try:
            self._engine = AsyncLLM.from_engine_args(options)
        except Exception as error:
            told = last_error(own_log())
            if told is None:
                raise ActorGone(f"the engine of {self._model} died while it started: {error}") from None
            raise EngineError(f"the engine of {self._model} did not start: {told}") from None
        self._tokenizer = AutoTokenizer.from_pretrained(self._model)  # vLLM's own goes through a pool of threads
        self._choice_tokens = lru_cache(maxsize=None)(self._tokens_of_choice)
        # Without this the collector walks all that was imported, half a second every few, and nobody is answered then.
        freeze_gc_heap()
        collect_seldom()
        enable_envs_cache()  # vLLM looks some up for every request
        return f"vllm {vllm.__version__}, {dtype}"

    def ping(self) -> Whereabouts:
        if self._engine is not None and self._engine.errored:
            raise self._gone(self._engine.dead_error)
        return super().ping()

    def _gone(self, error: Exception) -> ActorGone:
        return ActorGone(f"the engine of {self._model} died: {last_error(own_log()) or error}")

    def _choice_token(self, choice: str) -> int:
        ids = self._tokenizer(choice, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise NoLogprobsError(
                f"the tokenizer of {self._model} splits {choice!r} into {len(ids)} tokens; one is needed"
            )
        return ids[0]

    def _tokens_of_choice(self, choice: str) -> list[int]:
        """The token of a choice, and where it is one token too, of the choice with a capital."""
        capital = self._tokenizer(choice.capitalize(), add_special_tokens=False)["input_ids"]
        return list(dict.fromkeys([self._choice_token(choice), *(capital if len(capital) == 1 else [])]))

    async def check_choices(self, choices: Sequence[str]) -> None:
        """Raise `NoLogprobsError` unless each choice is one token of this model."""
        for choice in choices:
            self._choice_token(choice)

    async def reply(self, policy: str, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """Sample the next assistant message from `policy`."""
        from vllm.sampling_params import SamplingParams

        params = SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
            logprobs=0 if sampling.logprobs else None,
            detokenize=False,
        )
        prompt, output = await self._run(policy, prompt_ids(self._tokenizer, messages), params)
        completion = output.outputs[0]
        ids = list(completion.token_ids)
        steps = zip(ids, completion.logprobs, strict=True) if sampling.logprobs else ()
        return Reply(
            text=self._tokenizer.decode(ids, skip_special_tokens=True).strip(),
            token_ids=ids,
            logprobs=[step[token].logprob for token, step in steps],
            finish_reason=completion.finish_reason or "unknown",
            prompt_tokens=len(prompt),
            completion_tokens=len(ids),
            weights=policy,
        )

    async def choose(self, policy: str, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        """Probability that the reply begins with each choice, or with it capitalised; a choice must be one token."""
        from vllm.sampling_params import SamplingParams

        tokens = {c: self._choice_tokens(c) for c in choices}
        asked = sorted({t for found in tokens.values() for t in found})
        params = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=asked, detokenize=False)
        prompt, output = await self._run(policy, prompt_ids(self._tokenizer, messages), params)
        found = output.outputs[0].logprobs[0]
        masses = {c: sum(math.exp(found[t].logprob) for t in ids) for c, ids in tokens.items()}
        return Choice(masses, len(prompt))

    async def prompt_logprobs(self, policy: str, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of each token of each text but its first; the delivery probe.

        One text at a time: with adapters on a CPU, vLLM 0.32 dies of prompt log-probabilities for two at once.
        """
        from vllm.sampling_params import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        out = []
        for ids in texts:
            _, output = await self._run(policy, list(ids), params)
            steps = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
            out.append([step[token].logprob for token, step in steps])
        return out

    async def tokenizer(self) -> tuple[dict[str, bytes], int]:
        """The files of the model's tokenizer by name, and the most tokens of a prompt and its completion together."""
        with tempfile.TemporaryDirectory() as folder:
            self._tokenizer.save_pretrained(folder)
            return {f.name: f.read_bytes() for f in Path(folder).iterdir()}, self._settings.max_model_len

    async def complete(self, policy: str, ids: Sequence[int], sampling: Sampling, stop: Sequence[str]) -> Reply:
        """Continue a text that no chat template was put around, up to the first of the strings `stop`.

        Returns:
            The text as it was written, spaces at its ends included; whoever asked cuts it at `stop`.
        """
        from vllm.sampling_params import SamplingParams

        params = SamplingParams(
            max_tokens=sampling.max_tokens, temperature=sampling.temperature, seed=sampling.seed, stop=list(stop)
        )
        _, output = await self._run(policy, list(ids), params)
        completion = output.outputs[0]
        wrote = list(completion.token_ids)
        return Reply(
            text=self._tokenizer.decode(wrote, skip_special_tokens=True),
            token_ids=wrote,
            logprobs=[],
            finish_reason=completion.finish_reason or "unknown",
            prompt_tokens=len(ids),
            completion_tokens=len(wrote),
            weights=policy,
        )

    async def loglikelihoods(
        self, policy: str, context: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation of a context (nats), and whether greedy decoding would write it.

        Where all continuations are single tokens, one request asks for all of them. With adapters on a CPU there is one
        for each of their tokens: vLLM 0.32 dies there of prompt log-probabilities beside any other request.

        Args:
            context: Token ids, at least one.
            continuations: Token ids of each.
        """
        from vllm.platforms import current_platform
        from vllm.sampling_params import SamplingParams

        if all(len(c) == 1 for c in continuations) or (self._lora_rank is not None and current_platform.is_cpu()):
            texts = [((*context, *c[:n]), token) for c in continuations for n, token in enumerate(c)]
            asked: dict[tuple[int, ...], list[int]] = {}
            for ids, token in texts:
                asked.setdefault(ids, []).append(token)
            found = await asyncio.gather(*(self._next(policy, list(ids), tokens) for ids, tokens in asked.items()))
            by_text = dict(zip(asked, found, strict=True))
            steps = iter([by_text[ids][token] for ids, token in texts])
            told = [[next(steps) for _ in c] for c in continuations]
            return [(sum(p for p, _ in of_one), all(greedy for _, greedy in of_one)) for of_one in told]

        async def one(continuation: Sequence[int]) -> tuple[float, bool]:
            params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
            ids = [*context, *continuation]
            _, output = await self._run(policy, ids, params)
            steps = list(zip(ids, output.prompt_logprobs, strict=True))[len(context) :]
            told = [step[token] for token, step in steps]
            return sum(t.logprob for t in told), all(t.rank == 1 for t in told)

        return list(await asyncio.gather(*map(one, continuations)))

    async def _next(self, policy: str, ids: list[int], tokens: Sequence[int]) -> dict[int, tuple[float, bool]]:
        """Log-probability (nats) of each of some tokens after a text, and whether it is the most probable one."""
        from vllm.sampling_params import SamplingParams

        asked = sorted(set(tokens))
        params = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=asked, detokenize=False)
        completion = (await self._run(policy, ids, params))[1].outputs[0]
        found, greedy = completion.logprobs[0], completion.token_ids[0]
        return {t: (found[t].logprob, t == greedy) for t in asked}

    async def _run(self, policy: str, ids: list[int], params: Any) -> tuple[list[int], Any]:
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._asleep:
            raise EngineError(f"the engine of {self._model} sleeps while the trainer uses its GPU")
        if policy not in self._policies:
            raise ChatError(f"policy {policy!r} is not served; served now: {', '.join(self._policies)}")
        params.output_kind = RequestOutputKind.FINAL_ONLY
        request = f"{os.getpid()}-{next(self._request_ids)}"
        adapter = self._policies[policy]
        self._busy += 1
        arrived = time.time()
        try:
            stream = self._engine.generate(tokens_input(ids), params, request, lora_request=adapter)
            output = [o async for o in stream][-1]
        except (ValueError, VLLMValidationError) as error:  # refused, for example longer than max_model_len
            raise ChatError(str(error)) from error
        except EngineDeadError as error:
            raise self._gone(error) from None
        finally:
            self._busy -= 1
        if self._record is not None:
            kind = "choose" if params.logprob_token_ids else "reply"
            wrote = len(output.outputs[0].token_ids)
            how = (params.temperature, params.seed, params.logprobs is not None)
            cached = output.num_cached_tokens or 0
            self._record.append(Request(kind, ids, cached, wrote, *how, arrived, time.time()))
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
        policy = next(iter(self._policies))
        choices = [self._choice_token(str(i)) for i in range(1, 11)]

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
        await asyncio.gather(*(self._run(policy, r.prompt, params(r)) for r in requests))
        return time.monotonic() - began

    async def publish(self, policy: str, path: str, how: str) -> float:
        """Serve the weights at `path` as `policy`; returns how long the engine took to take them, in seconds.

        Args:
            path: With `lora` an adapter directory, with `merged` a whole model.
            how: `lora` keeps the policies that are served; `merged` replaces the one that is.
        """
        started = time.monotonic()
        if how == "lora":
            from vllm.lora.request import LoRARequest

            number = next(self._adapter_ids)
            request = LoRARequest(f"{policy}-{number}", number, path)
            await self._utility(self._engine.add_lora(request))
            self._policies[policy] = request
        else:
            await self._idle(policy)
            self._policies = {}
            await self._utility(self._engine.collective_rpc("reload_weights", kwargs={"weights_path": path}))
            await self._utility(self._engine.reset_prefix_cache())
            self._policies = {policy: None}
        return time.monotonic() - started

    async def _utility(self, call: Awaitable[Any]) -> Any:
        """What the engine's own process answers to a call that is no request; vLLM lets such a call wait for ever when
        that process dies meanwhile."""
        from vllm.v1.engine.exceptions import EngineDeadError

        work = asyncio.ensure_future(call)
        while not (await asyncio.wait([work], timeout=1))[0]:
            if self._engine.errored:
                work.cancel()
                raise self._gone(self._engine.dead_error)
        try:
            return work.result()
        except EngineDeadError as error:
            raise self._gone(error) from None

    async def _idle(self, policy: str) -> None:
        """Wait until no request runs; those of a pool that died are still answered, to nobody."""
        deadline = time.monotonic() + IDLE_SECONDS
        while self._busy:
            if time.monotonic() > deadline:
                raise ChatError(f"{self._busy} requests still run; {policy} cannot take the place of what they run on")
            await asyncio.sleep(0.05)

    async def sleep(self) -> None:
        """Finish what is under way, then move the weights to the machine's memory and drop the cache, so that a trainer
        can use the GPU. On a CPU there is nothing to give away; only requests are refused until it wakes."""
        if self._asleep:
            return
        await self._idle("the trainer")
        self._asleep = True
        if self._sleeps_for_real():
            await self._utility(self._engine.sleep(level=1))

    async def wake(self) -> None:
        """Take the weights back; what they are now, the delivery probe proves."""
        if not self._asleep:
            return
        if self._sleeps_for_real():
            await self._utility(self._engine.wake_up())
            await self._utility(self._engine.reset_prefix_cache())
        self._asleep = False

    def _sleeps_for_real(self) -> bool:
        from vllm.platforms import current_platform

        return self._sleeps and not current_platform.is_cpu()

    async def retire(self) -> None:
        """Forget every adapter; only the base is served, as at the start of an arm."""
        for request in self._policies.values():
            if request is not None:
                await self._utility(self._engine.remove_lora(request.lora_int_id))
        self._policies = {BASE_POLICY: None}

    async def stop(self) -> None:
        """Stop the engine and its processes."""
        if self._engine is not None:
            self._engine.shutdown()


def served_rank(rank: int) -> int:
    """The smallest `max_lora_rank` that serves adapters of `rank`."""
    fits = [r for r in LORA_RANKS if r >= rank]
    if not fits:
        raise ValueError(f"vLLM serves LoRA ranks up to {LORA_RANKS[-1]}; got {rank}")
    return fits[0]
