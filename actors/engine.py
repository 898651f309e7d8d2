"""The assistant: one vLLM engine in a Ray actor, and the policies it serves by name.

Policy r of the arm at work is served as `candor/policy-<r>`. A new policy gets in as a LoRA adapter beside the base
model (`lora`) or as whole weights in place of the old ones (`merged`); either way the caller proves with
`prompt_logprobs` that the engine computes what the trainer computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from actors.actor import (
    Actor,
    ActorGone,
    ActorLocation,
    Pulse,
    collect_seldom,
    family_memory,
    last_error,
    own_log,
)
from actors.batching import BatchedServer
from actors.models.chat import NEUTRAL, PLAIN, ChatError, Choice, Reply, Sampling
from actors.models.choice_tree import TokenPath, choice_tree
from actors.models.decoding import ReplyDecoder
from actors.models.hardware import fast_dtype
from actors.models.sizing import cache_gib, context
from actors.models.template import ChatTemplate, TemplateError
from actors.models.thoughts import OPENED
from actors.models.usage import CacheUse
from actors.settings import LORA_RANKS, EngineSettings, TemplateSettings
from actors.visitors import REFUSED, Host, Part, Told, Visit, not_served, too_long
from actors.vllm_plugin import OWNER
from actors.worlds.base import Message

BASE_POLICY = "candor/policy-0"
IDLE_SECONDS = 120
"""How long new weights wait for requests that nobody awaits any more; a long reply takes less."""


ADAPTERS = 4
"""Policies that an engine serves beside the base model at once."""
STUCK_SECONDS = 60
"""A core that starts and uses no processor time for so long does not start any more."""
LOOK_SECONDS = 5
"""How often one looks."""


def policy_name(version: int) -> str:
    """The name under which policy `version` is served."""
    return f"candor/policy-{version}"


def engine_environment(threads: int) -> dict[str, str]:
    """Environment of an engine's processes, set before they start."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # bound threads of two engines would share cores while others idle
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # on a CPU vLLM would otherwise put one more process under the engine
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


class EngineError(RuntimeError):
    """An engine that cannot start or be used; the message carries its own last error."""


class Engine(BatchedServer, Host, Actor):
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
        self._busy = self._utilities = self._done = 0
        self._cache_use = CacheUse()
        self._engine: Any = None

    async def start(self) -> str:
        """Start the engine; returns its name, version and number format."""
        os.environ[OWNER] = str(os.getpid())
        _prepare_for_cpu()
        import vllm
        from transformers import AutoConfig, AutoTokenizer
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.envs import enable_envs_cache
        from vllm.platforms import current_platform
        from vllm.utils.gc_utils import freeze_gc_heap
        from vllm.v1.engine.async_llm import AsyncLLM

        s = self._settings
        dtype = fast_dtype() if s.dtype == "auto" else s.dtype
        shape = AutoConfig.from_pretrained(self._model)
        self._context = context(shape, s.max_model_len)
        args: dict[str, Any] = {}
        if self._lora_rank is not None:
            args = {"enable_lora": True, "max_loras": ADAPTERS, "max_lora_rank": served_rank(self._lora_rank)}
        if current_platform.is_cpu():
            _fork_the_core()
            args["enforce_eager"] = True
            # What prompts share is cached in whole blocks; with vLLM's 128 tokens little of a talk would be.
            args["block_size"] = 32
            # vLLM 0.32 rewinds the generator of a seeded request whose prompt is split; a CPU generator cannot be.
            args["enable_chunked_prefill"] = False
            args["max_num_batched_tokens"] = max(8192, self._context)
            tokens, free = s.max_num_seqs * self._context // 2, psutil.virtual_memory().available
            gib = s.kv_cache_gib or cache_gib(shape, dtype, tokens, free)
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(gib)))
        else:
            # Without a GPU of its own (`gpus: 0`) an engine shares one with the other engine and the trainer.
            args["gpu_memory_utilization"] = s.gpu_memory_utilization if s.gpus else min(0.3, s.gpu_memory_utilization)
            args["enable_sleep_mode"] = self._sleeps
        if s.tensor_parallel * s.pipeline_parallel == 1:
            args["distributed_executor_backend"] = "uni"
        options = AsyncEngineArgs(
            model=self._model,
            dtype=dtype,
            max_model_len=self._context,
            max_num_seqs=s.max_num_seqs,
            tensor_parallel_size=s.tensor_parallel,
            pipeline_parallel_size=s.pipeline_parallel,
            disable_log_stats=True,
            **args,
        )
        try:
            with _watched_core() if current_platform.is_cpu() else contextlib.nullcontext():
                self._engine = AsyncLLM.from_engine_args(options)
        except Exception as error:
            told = last_error(own_log())
            if told is None:
                raise ActorGone(f"the engine of {self._model} died while it started: {error}") from None
            raise EngineError(f"the engine of {self._model} did not start: {told}") from None
        self._tokenizer = AutoTokenizer.from_pretrained(self._model)  # vLLM's own goes through a pool of threads
        own = self._engine.model_config.get_diff_sampling_param()
        ends = self._engine.model_config.try_get_generation_config().get("eos_token_id") or []
        ends = ends if isinstance(ends, list) else [ends]
        self._template = ChatTemplate(self._tokenizer, s.template(), ends)
        chats = bool(self._tokenizer.chat_template)  # a base model has none, and is never asked in chats
        self._ends = [t for t in self._template.end_ids if t not in ends] if chats else []
        self._decoded = ReplyDecoder(self._tokenizer, OPENED if chats and self._template.opens_thought else "")
        self._choice_tree = lru_cache(maxsize=None)(
            lambda choices: choice_tree(self._tokenizer, choices, self._model, self._template)
        )
        self._own_sampling = {name: value for name, value in own.items() if name in NEUTRAL}
        # Without this the collector walks all that was imported, half a second every few, and nobody is answered then.
        freeze_gc_heap()
        collect_seldom()
        enable_envs_cache()  # vLLM looks some up for every request
        return f"vllm {vllm.__version__}, {dtype}"

    def ping(self) -> ActorLocation:
        if self._engine is not None and self._engine.errored:
            raise self._gone(self._engine.dead_error)
        return super().ping()

    def pulse(self) -> Pulse:
        """Requests and other calls that its core works on, and how many it has answered."""
        doing = f"{self._busy:,} requests under way" if self._busy or not self._utilities else "takes weights"
        use = self._cache_use
        figures = {"requests": self._busy, "prompt_tokens": use.prompt_tokens, "cached_tokens": use.cached_tokens}
        return Pulse(self._busy + self._utilities > 0, self._done, doing, memory=family_memory(), figures=figures)

    def _gone(self, error: Exception) -> ActorGone:
        return ActorGone(f"the engine of {self._model} died: {last_error(own_log()) or error}")

    async def check_choices(self, choices: Sequence[str]) -> None:
        """Raise `NoLogprobsError` unless this model's tokenizer can write each choice, and no two of them alike."""
        self._choice_tree(tuple(choices))

    async def own_sampling(self) -> dict[str, float]:
        """How the model's `generation_config` has it sampled, by the names of `actors.models.chat.NEUTRAL`."""
        return self._own_sampling

    async def cache_use(self) -> CacheUse:
        """The requests since this was last asked, and how much of their prompts the prefix cache held."""
        use, self._cache_use = self._cache_use, CacheUse()
        return use

    async def reply(self, policy: str, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """Sample the next assistant message from `policy`; where the chat template opens a thought, the text has the
        opening tag too, so that a thought that was cut is known for one."""
        from vllm.sampling_params import SamplingParams

        params = SamplingParams(
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            logprobs=0 if sampling.logprobs else None,
            stop=list(sampling.stop),
            stop_token_ids=self._ends,
            detokenize=bool(sampling.stop),
            **sampling.chosen(self._own_sampling),
        )
        prompt, output = await self._run(policy, self._prompt(messages), params)
        completion = output.outputs[0]
        ids = list(completion.token_ids)
        steps = zip(ids, completion.logprobs, strict=True) if sampling.logprobs else ()
        return Reply(
            text=completion.text if sampling.stop else self._decoded(ids),
            token_ids=ids,
            logprobs=[step[token].logprob for token, step in steps],
            finish_reason=completion.finish_reason or "unknown",
            prompt_tokens=len(prompt),
            completion_tokens=len(ids),
            weights=policy,
        )

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        try:
            return self._template.ids(messages)
        except TemplateError as error:
            raise ChatError(f"{self._model}: {error}") from None

    async def choose(self, policy: str, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        """Probability of each choice as a `ChoiceTree` means it; a step of it that follows another finds the prompt in
        the prefix cache."""
        prompt = self._prompt(messages)

        async def after(path: TokenPath, tokens: Sequence[int]) -> dict[int, float]:
            found = await self._next(policy, [*prompt, *path], tokens)
            return {token: math.exp(logprob) for token, (logprob, _) in found.items()}

        masses, asked = await self._choice_tree(tuple(choices)).probabilities(after)
        return Choice(masses, len(prompt), asked)

    async def prompt_logprobs(self, policy: str, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of each token of each text but its first; the delivery probe.

        One text at a time: with adapters on a CPU, vLLM 0.32 dies of prompt log-probabilities for two at once.
        """
        from vllm.sampling_params import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        out = []
        async with self._alone():
            for ids in texts:
                _, output = await self._run(policy, list(ids), params)
                steps = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
                out.append([step[token].logprob for token, step in steps])
        return out

    async def tokenizer(self) -> tuple[dict[str, bytes], int, TemplateSettings]:
        """The files of the model's tokenizer by name, the most tokens of a prompt and its completion together, and what
        the chat template is given."""
        with tempfile.TemporaryDirectory() as folder:
            self._tokenizer.save_pretrained(folder)
            return {f.name: f.read_bytes() for f in Path(folder).iterdir()}, self._context, self._settings.template()

    async def complete(self, policy: str, ids: Sequence[int], sampling: Sampling, stop: Sequence[str]) -> Reply:
        """Continue a text that no chat template was put around, up to the first of the strings `stop`.

        Returns:
            The text as it was written, spaces at its ends included; whoever asked cuts it at `stop`.
        """
        from vllm.sampling_params import SamplingParams

        params = SamplingParams(
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            stop=list(stop),
            **sampling.chosen(self._own_sampling),
        )
        _, output = await self._run(policy, list(ids), params)
        completion = output.outputs[0]
        wrote = list(completion.token_ids)
        return Reply(
            text=self._decoded.continued(wrote),
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
        try:
            stream = self._engine.generate(tokens_input(ids), params, request, lora_request=adapter)
            output = [o async for o in stream][-1]
        except (ValueError, VLLMValidationError) as error:  # refused, for example longer than max_model_len
            raise ChatError(str(error)) from error
        except EngineDeadError as error:
            raise self._gone(error) from None
        finally:
            self._busy -= 1
            self._done += 1
        self._cache_use.add(len(ids), output.num_cached_tokens or 0)
        return ids, output

    async def served(self) -> list[str]:
        return [] if self._asleep else list(self._policies)

    async def _answer(self, visit: Visit) -> AsyncIterator[Part]:
        """What vLLM says to a visitor, in parts; the prompt, and where a reply ends, are as in the run."""
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        if self._asleep or visit.policy not in self._policies:
            yield not_served(visit.policy, await self.served())
            return
        try:
            ids = self._prompt(visit.messages) if visit.ids is None else list(visit.ids)
            asked = visit.sampling
            if fault := too_long(len(ids), asked.max_tokens if visit.limited else 1, self._context):
                yield fault
                return
            chat = visit.ids is None and visit.messages[0]["role"] != PLAIN
            params = SamplingParams(
                max_tokens=asked.max_tokens if visit.limited else self._context - len(ids),
                seed=asked.seed,
                logprobs=visit.logprobs,
                stop=list(asked.stop),
                stop_token_ids=self._ends if chat else [],
                output_kind=RequestOutputKind.DELTA,
                **asked.chosen(self._own_sampling),
            )
            request, wrote = f"visit-{os.getpid()}-{next(self._request_ids)}", 0
            adapter = self._policies[visit.policy]
            stream = self._engine.generate(tokens_input(ids), params, request, lora_request=adapter)
            async with contextlib.aclosing(stream):
                async for output in stream:
                    said = output.outputs[0]
                    wrote += len(said.token_ids)
                    told = _told(said.token_ids, said.logprobs or ())
                    yield Part(said.text, told, said.finish_reason, len(ids), wrote)
        except (ValueError, VLLMValidationError, ChatError) as error:
            yield Part(fault=str(error), status=REFUSED)

    async def publish(self, policy: str, path: str, how: str) -> float:
        """Serve the weights at `path` as `policy`; returns how long the engine took to take them, in seconds.

        Args:
            path: With `lora` an adapter directory, with `merged` a whole model.
            how: `lora` keeps the policies that are served; `merged` replaces the one that is.
        """
        started = time.monotonic()
        async with self._alone():
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
        self._utilities += 1
        try:
            while not (await asyncio.wait([work], timeout=1))[0]:
                if self._engine.errored:
                    work.cancel()
                    raise self._gone(self._engine.dead_error)
            return work.result()
        except EngineDeadError as error:
            raise self._gone(error) from None
        finally:
            self._utilities -= 1
            self._done += 1

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
        async with self._alone():
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
        async with self._alone():
            for request in self._policies.values():
                if request is not None:
                    await self._utility(self._engine.remove_lora(request.lora_int_id))
            self._policies = {BASE_POLICY: None}

    async def stop(self) -> None:
        """Stop the engine and its processes."""
        if self._engine is not None:
            self._engine.shutdown()


def _told(ids: Sequence[int], steps: Sequence[dict[int, Any]]) -> list[Told]:
    """Tokens with what vLLM says of their probabilities; the most probable first among the alternatives."""
    found = []
    for token, step in zip(ids, steps, strict=False):
        best = sorted(step.values(), key=lambda choice: choice.rank or 0)
        found.append(
            Told(
                step[token].decoded_token or "", step[token].logprob, [(c.decoded_token or "", c.logprob) for c in best]
            )
        )
    return found


def _prepare_for_cpu() -> None:
    """Without a GPU, keep vLLM from compiling a small function in C++ when the first request wants probabilities, for
    10 to 25 seconds; nothing else is compiled on a CPU. Torch reads this when vLLM is imported."""
    import torch

    if not torch.cuda.is_available():
        os.environ["TORCHDYNAMO_DISABLE"] = "1"


def _fork_the_core() -> None:
    """Have vLLM fork its own process from this one, which has all modules in memory, where it would start an empty one
    that imports them again, for 6 seconds of processor time and more. vLLM spawns on a CPU and in every Ray actor, as
    what is forked cannot use a GPU or Ray any more; on a CPU it needs neither."""
    import multiprocessing

    import vllm.v1.engine.utils

    vllm.v1.engine.utils.get_mp_context = lambda: multiprocessing.get_context("fork")


@contextlib.contextmanager
def _watched_core() -> Iterator[None]:
    """While the block runs, kill a forked core that stands still: a fork can take along a lock that some thread of
    this process held, and then waits for it without end. The caller learns that the engine died."""
    import multiprocessing

    over = threading.Event()

    def watch() -> None:
        used, since = {}, time.monotonic()
        while not over.wait(LOOK_SECONDS):
            children = multiprocessing.active_children()  # and no process that something else here has started
            now = {}
            for child in children:
                with contextlib.suppress(psutil.Error):
                    now[child.pid] = psutil.Process(child.pid).cpu_times()[:2]
            if now != used or not children:
                used, since = now, time.monotonic()
            elif time.monotonic() - since > STUCK_SECONDS:
                for child in children:
                    child.kill()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def served_rank(rank: int) -> int:
    """The smallest `max_lora_rank` that serves adapters of `rank`."""
    fits = [r for r in LORA_RANKS if r >= rank]
    if not fits:
        raise ValueError(f"vLLM serves LoRA ranks up to {LORA_RANKS[-1]}; got {rank}")
    return fits[0]
