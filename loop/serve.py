"""The policies of a run behind vLLM's own OpenAI-compatible server, in one process of its own.

Several policies are adapters on one base; a single one is merged into whole weights first, which a CPU serves several
times as fast.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from actors.actor import last_error
from actors.engine import BASE_POLICY, engine_environment, policy_name, served_rank
from actors.models.hardware import fast_dtype
from actors.models.sizing import cache_gib, context
from actors.models.template import ChatTemplate
from actors.scripted import SCRIPTED
from actors.settings import EngineSettings
from actors.vllm_plugin import MODE, OWNER, TEMPLATE
from loop.config.explain import ConfigError
from loop.config.schema import RunConfig
from loop.export import base_model, export, policy_folder
from loop.listening import listen, shown
from loop.rundir import RunDir, write_json
from trainers.policy import LINEAGE_FILE

HOST = "127.0.0.1"
KEY = "VLLM_API_KEY"
"""Environment variable from which vLLM's server takes the key that it asks for."""
START_SECONDS = 600
STOP_SECONDS = 20

Policy = tuple[str, int]
"""Arm and version."""


class ServeError(RuntimeError):
    """A server that does not start, or ended; the message carries its own last error."""


@dataclass(frozen=True)
class Door:
    """What a server is to serve.

    Attributes:
        model: Directory or hub name of whole weights.
        base: What these are called.
        adapters: Directories by the name that each is served under.
    """

    model: str
    base: str
    adapters: dict[str, Path]

    @property
    def names(self) -> list[str]:
        """The names of all policies, as `/v1/models` has them."""
        return [self.base, *self.adapters]


def policies_of(config: RunConfig, out: RunDir, arms: Sequence[str]) -> list[Policy]:
    """The base, and every policy of some arms that has been made."""
    made = [(a, v) for a in arms for v in range(1, config.rounds + 1) if (out.policy(a, v) / LINEAGE_FILE).exists()]
    return [(arms[0], 0), *made]


def name_of(policy: Policy, several_arms: bool) -> str:
    """What a policy is served as; with several arms the arm is part of it, but for the base, which all share.

    Example:
        >>> name_of(("biased", 2), several_arms=False), name_of(("biased", 2), several_arms=True)
        ('candor/policy-2', 'candor/biased/policy-2')
    """
    arm, version = policy
    return f"candor/{arm}/policy-{version}" if several_arms and version else policy_name(version)


@contextmanager
def door(config: RunConfig, out: RunDir, policies: Sequence[Policy], say: Callable[[str], None]) -> Iterator[Door]:
    """Lay policies down so that one server can serve them, for as long as the block runs.

    Raises:
        ConfigError: There is no such policy, the base is gone or has changed, or they do not fit into one server.
    """
    if config.model == SCRIPTED:
        raise ConfigError("a scripted model answers from hashes and has no weights; there is nothing to serve")
    several = len({arm for arm, version in policies if version}) > 1
    folders = {policy: policy_folder(config, out, *policy) for policy in policies}
    if len(policies) == 1 and (only := policies[0])[1]:
        scratch = Path(tempfile.mkdtemp(prefix="candor-serve-"))
        try:
            say(f"putting the weights of policy {only[1]} together")
            whole = export(config, out, *only, scratch / "model", None)
            yield Door(str(whole), name_of(only, False), {})
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return
    adapters = {name_of(p, several): f for p, f in folders.items() if f is not None}
    for name, folder in adapters.items():
        if not (folder / "adapter_config.json").exists():
            raise ConfigError(
                f"{name} is a whole model, of which one server serves one; give one --arm and one --round"
            )
    yield Door(base_model(config, out), BASE_POLICY, adapters)


def command(config: RunConfig, found: Door, host: str, port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
    """How vLLM's server is called, and with which environment. Chats are rendered, and replies end, as in the run.

    Args:
        scratch: A folder that is there as long as the server.
    """
    import psutil
    import torch
    from transformers import AutoConfig

    s, shape = config.assistant, AutoConfig.from_pretrained(found.model)
    dtype = fast_dtype() if s.dtype == "auto" else s.dtype
    longest = context(shape, s.max_model_len)
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", found.model, "--dtype", dtype]
    words += ["--host", host, "--port", str(port), "--served-model-name", found.base]
    words += ["--max-model-len", str(longest), "--max-num-seqs", str(s.max_num_seqs)]
    words += ["--tokenizer-mode", MODE, "--generation-config", str(_generation(found.model, s, scratch))]
    if found.adapters:
        ranks = [json.loads((f / "adapter_config.json").read_text())["r"] for f in found.adapters.values()]
        words += ["--enable-lora", "--max-lora-rank", str(served_rank(max(ranks)))]
        words += ["--max-loras", str(len(found.adapters)), "--lora-modules"]
        words += [f"{name}={folder}" for name, folder in found.adapters.items()]
    environment = engine_environment(s.threads or os.cpu_count() or 1) | {OWNER: str(os.getpid())}
    environment[TEMPLATE] = s.template().model_dump_json()
    if torch.cuda.is_available():
        words += ["--gpu-memory-utilization", str(s.gpu_memory_utilization)]
        words += ["--tensor-parallel-size", str(s.tensor_parallel)]
    else:  # as `actors.engine.Engine.start` has it, and says why
        words += ["--enforce-eager", "--block-size", "32", "--no-enable-chunked-prefill"]
        words += ["--max-num-batched-tokens", str(max(8192, longest))]
        tokens, free = s.max_num_seqs * longest // 2, psutil.virtual_memory().available
        gib = s.kv_cache_gib or cache_gib(shape, dtype, tokens, free)
        environment |= {"VLLM_CPU_KVCACHE_SPACE": str(max(1, round(gib))), "TORCHDYNAMO_DISABLE": "1"}
    return words, environment


@contextmanager
def serving(
    config: RunConfig, found: Door, log: Path, port: int = 0, host: str = HOST, key: str | None = None
) -> Iterator[tuple[str, subprocess.Popen]]:
    """A server that is up; yields its address (`http://.../v1`) and its process, which ends with the block.

    Args:
        log: Where the server writes what it has to say.
        port: 0 takes a free one.
        key: What requests have to bring; it goes through the environment, where no list of processes shows it.

    Raises:
        ConfigError: The port is taken.
        ServeError: It does not start.
    """
    with listen(host, port, "--port") as probe:
        port = probe.getsockname()[1]
    scratch = tempfile.TemporaryDirectory(prefix="candor-serve-")
    words, environment = command(config, found, host, port, Path(scratch.name))
    environment |= {KEY: key} if key else {}
    inherited = {k: v for k, v in os.environ.items() if k != KEY}
    with open(log, "wb") as told:
        process = subprocess.Popen(
            words,
            env=inherited | environment,
            stdout=told,
            stderr=told,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        address = f"http://{shown(host)}:{port}"
        _wait(process, address, log)
        yield f"{address}/v1", process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)
        process.kill()
        process.wait()
        scratch.cleanup()


def _generation(model: str, settings: EngineSettings, folder: Path) -> Path:
    """A folder with a model's generation config, in which the end of the assistant's turn is one of the ends: vLLM's
    server knows no more of them than are there, and the template may have another one."""
    from transformers import AutoTokenizer, GenerationConfig

    try:
        own = GenerationConfig.from_pretrained(model).to_diff_dict()
    except OSError:  # the model has none
        own = {}
    ends = own.get("eos_token_id") or []
    template = ChatTemplate(
        AutoTokenizer.from_pretrained(model), settings.template(), ends if isinstance(ends, list) else [ends]
    )
    write_json(folder / "generation_config.json", own | {"eos_token_id": template.end_ids})
    return folder


def ended(process: subprocess.Popen, log: Path) -> ServeError:
    """Why a server ended that nobody stopped."""
    cause = last_error(str(log)) or f"it ended with exit code {process.poll()}"
    return ServeError(f"vLLM's server: {cause}; all that it said is in {log}")


def _wait(process: subprocess.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ended(process, log)
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(f"{address}/health", timeout=2):
            return
        time.sleep(0.3)
    raise ServeError(f"vLLM's server was not up after {START_SECONDS} s; what it said is in {log}")
