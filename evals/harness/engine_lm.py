"""lm-eval's model interface (https://github.com/EleutherAI/lm-evaluation-harness) over the engines' actor handles."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
import tempfile
import threading
import zlib
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from actors.batching import BatchedClient
from actors.models.chat import ChatError, Reply, Sampling
from actors.models.ref import ModelRef
from actors.models.template import ChatTemplate
from actors.models.thoughts import OPENED, without_thoughts
from actors.models.usage import UsageLedger

DEFAULT_TOKENS = 256
"""Longest answer of a task that does not say, as in lm-eval's own models."""
_THOUGHT = re.compile(r"\A.*</think>", re.DOTALL | re.IGNORECASE)
ROLE = "evaluated"
"""What the policy is called in the ledger."""


class EngineLMError(ValueError):
    """A task asks for what the engines cannot do."""


class EngineLM(TemplateLM):
    """A policy behind lm-eval's model interface; requests go to the engines by actor handle, many at once.

    Prompts are never cut: one that is too long fails, is noted in `failed`, and makes an error of its item. Close it,
    or use it in a `with` statement.

    Args:
        ref: The engines and the policy's name there.
        at_once: Requests under way at once.
        seed: Sampled answers follow from it and their prompt.
        answers: A file that keeps answers as they come, so that an evaluation that was cut short goes on.
        chat: Whether prompts go through the chat template. Then the model itself ends what it says, and the engine is
            given no other stop strings, which a thought or a block of code may contain.

    Attributes:
        failed: Why a request failed, by `request_key`.
        finished: Why a text ended, likewise.
        ledger: What the requests cost.
    """

    def __init__(
        self, ref: ModelRef, at_once: int, seed: int = 0, answers: Path | None = None, chat: bool = False
    ) -> None:
        super().__init__()
        self.failed: dict[str, str] = {}
        self.finished: dict[str, str] = {}
        self.ledger = UsageLedger()
        self._ref = ref
        self._seed = seed
        self._chat = chat
        self._clients = itertools.cycle([BatchedClient(engine, "engine") for engine in ref.engines])
        self._answers = _Answers(answers, ref.policy)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="harness", daemon=True)
        self._thread.start()
        self._gate = asyncio.Semaphore(at_once)
        try:
            files, self.max_length, given = self._wait(next(self._clients).call("tokenizer"))
        except BaseException:
            self.close()
            raise
        self.tokenizer = _tokenizer(files)
        self._template = ChatTemplate(self.tokenizer, given)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread that asks the engines."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        return self._ref.policy

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids, as lm-eval's `hf` model has them: with the tokenizer's own special tokens, unless the text begins
        with the first of them."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        end = {} if add_generation_prompt else {"continue_final_message": True}
        return self._template.text(chat_history, add_generation_prompt, **end)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Text up to the first stop string that is in no thought; empty where the request failed."""
        return self._wait(_all(self._generate(n, *r.args) for n, r in enumerate(requests)))

    def _loglikelihood_tokens(self, requests: Sequence[tuple], **_: Any) -> list[tuple[float, bool]]:
        """Log-probability (nats) and whether greedy decoding writes it; minus infinity where the request failed."""
        by_context: dict[tuple[int, ...], list[int]] = {}
        for n, (_, context, _) in enumerate(requests):
            by_context.setdefault(tuple(context), []).append(n)
        found: list[tuple[float, bool]] = [(float("-inf"), False)] * len(requests)
        groups = list(by_context.items())
        told = self._wait(_all(self._score(c, [requests[n] for n in group]) for c, group in groups))
        for (_, group), scores in zip(groups, told, strict=True):
            for n, score in zip(group, scores, strict=True):
                found[n] = score
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, each token with as much before it as fits."""
        windows = []
        for request in requests:
            (text,) = request.args
            rolling = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length - 2, 1)
            windows.append([(request.args, *make_disjoint_window(w)) for w in rolling])
        scores = iter(self._loglikelihood_tokens(list(itertools.chain(*windows))))
        return [sum(next(scores)[0] for _ in of_one) for of_one in windows]

    async def _generate(self, number: int, context: str, given: dict[str, Any]) -> str:
        key = request_key(context, given)
        wanted = normalize_gen_kwargs(given, DEFAULT_TOKENS)
        end = self.tokenizer.decode(self.eot_token_id)
        until = handle_stop_sequences(wanted["until"], end)
        temperature = wanted.get("temperature", 0.0)
        if temperature and (odd := set(wanted) - {"until", "max_gen_toks", "do_sample", "temperature"}):
            raise EngineLMError(f"generation_kwargs: the engine does not know {', '.join(sorted(odd))}; leave it out")
        ids = self.tok_encode(context)
        if not self._fits(key, len(ids)):
            return ""
        seed = zlib.crc32(f"{self._seed}/{key}/{number if temperature else 0}".encode())
        sampling = Sampling(wanted["max_gen_toks"], temperature, seed)
        reply = await self._ask(key, f"{key}/{seed}", "complete", ids, sampling, [end] if self._chat else until)
        thinks = reply is not None and without_thoughts(begun(context) + reply["text"]) is None
        if thinks and not self._chat and reply["finish_reason"] == "stop":  # perhaps at a string within the thought
            reply = await self._ask(key, f"{key}/{seed}/thought", "complete", ids, sampling, [end])
        if reply is None:
            return ""
        self.finished[key] = reply["finish_reason"]
        if without_thoughts(begun(context) + reply["text"]) is None:
            return reply["text"]
        said = after_thought(reply["text"])
        return reply["text"].removesuffix(said) + postprocess_generated_text(said, until, None)

    async def _score(self, context: tuple[int, ...], requests: Sequence[tuple]) -> list[tuple[float, bool]]:
        """Scores of the continuations of one context."""
        keys = [request_key(*texts) for texts, _, _ in requests]
        continuations = [list(c) for _, _, c in requests]
        fits = [self._fits(k, len(context) + len(c)) for k, c in zip(keys, continuations, strict=True)]
        asked = [c for c, fit in zip(continuations, fits, strict=True) if fit]
        scores = None
        if asked:
            name = request_key(list(context), asked)
            scores = await self._ask(keys, f"likelihoods/{name}", "loglikelihoods", list(context), asked)
        told = iter(scores or [(float("-inf"), False)] * len(asked))
        return [tuple(next(told)) if fit else (float("-inf"), False) for fit in fits]

    def _fits(self, key: str, tokens: int) -> bool:
        """Whether a prompt leaves room for one token; notes it where not."""
        if tokens < self.max_length:
            return True
        self.failed[key] = f"the prompt has {tokens} tokens; the engine takes {self.max_length - 1} (max_model_len)"
        return False

    async def _ask(self, keys: str | Sequence[str], name: str, method: str, *args: Any) -> Any:
        """What an engine answers, or answered before; None, and a note, where it refuses the request."""
        if (kept := self._answers.kept.get(name)) is not None:
            return kept
        async with self._gate:
            try:
                found = await next(self._clients).call(method, self._ref.policy, *args)
            except ChatError as error:
                for key in [keys] if isinstance(keys, str) else keys:
                    self.failed.setdefault(key, f"{type(error).__name__}: {error}")
                return None
        entry = self.ledger.entry(ROLE, self._ref.model)
        entry.requests += 1
        entry.prompt_tokens += len(args[0])
        if isinstance(found, Reply):
            entry.completion_tokens += found.completion_tokens
            found = {"text": found.text, "finish_reason": found.finish_reason}
        self._answers.add(name, found)
        return found

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except BaseExceptionGroup as failed:  # of several requests: the first says why
            raise failed.exceptions[0] from None


async def _all(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Results in order; the first that raises ends the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(w) for w in work]
    return [t.result() for t in tasks]


class _Answers:
    """Answers of one policy by request, in a file of JSON lines; a line that was cut off is asked again."""

    def __init__(self, file: Path | None, policy: str) -> None:
        self.kept: dict[str, Any] = {}
        self._file = file
        self._policy = policy
        if file is not None and file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if row["policy"] == policy:
                    self.kept[row["request"]] = row["answer"]

    def add(self, request: str, answer: Any) -> None:
        if self._file is not None:
            row = {"policy": self._policy, "request": request, "answer": answer}
            with open(self._file, "a", encoding="utf-8") as file:
                file.write("\n" * (file.tell() > 0) + json.dumps(row))


def begun(prompt: str) -> str:
    """What a prompt says of the answer already: some chat templates open a thought."""
    return OPENED if prompt.rstrip().casefold().endswith(OPENED) else ""


def after_thought(text: str) -> str:
    """What stands behind the last thought, with the spaces at its ends, which code begins with."""
    return _THOUGHT.sub("", text)


def request_key(*args: Any) -> str:
    """What `failed` and `finished` call a request, by the arguments that lm-eval gives it."""
    return hashlib.sha256(json.dumps(args, sort_keys=True).encode()).hexdigest()[:32]


def _tokenizer(files: Mapping[str, bytes]) -> Any:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return AutoTokenizer.from_pretrained(folder)
