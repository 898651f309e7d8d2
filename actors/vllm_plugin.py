"""What every vLLM process of a run does first; loaded through the entry point group `vllm.general_plugins`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

OWNER = "CANDOR_ENGINE_OWNER"
"""Environment variable with the process id of the actor that owns the engine."""

TEMPLATE = "CANDOR_TEMPLATE"
"""Environment variable with what a server's chat template is given (`actors.settings.TemplateSettings`, as JSON)."""
MODE = "candor"
"""The tokenizer mode of servers that render chats as a run does."""

_PR_SET_PDEATHSIG = 1


def register() -> None:
    """Ask Linux for AMX where the CPU has it, make an engine's processes die with the actor that owns them, have a CPU
    apply adapters to the requests that ask for them, and have a server render chats as a run does.

    vLLM's bfloat16 attention kernel uses AMX tiles, and a process that never asked for them is killed by SIGILL.
    """
    import torch

    torch.cpu._init_amx()
    _die_with_the_owner()
    os.register_at_fork(after_in_child=_begin_as_a_child)
    _adapters_of_requests()
    if TEMPLATE in os.environ:
        from vllm.renderers.registry import RENDERER_REGISTRY
        from vllm.tokenizers.registry import TokenizerRegistry

        TokenizerRegistry.register(MODE, "vllm.tokenizers.hf", "CachedHfTokenizer")
        RENDERER_REGISTRY.register(MODE, "actors.vllm_renderer", "RunRenderer")


def _adapters_of_requests() -> None:
    """Have CPU engines apply adapters with `actors.vllm_lora`."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        type(current_platform).get_punica_wrapper = staticmethod(lambda: "actors.vllm_lora.GroupedPunica")


def _begin_as_a_child() -> None:
    """What a process does that an engine's actor forked: it is called by what it is, and dies with the actor."""
    _die_with_the_owner()
    with contextlib.suppress(ImportError):  # Ray has moved what other packages would write a title over
        from ray._raylet import setproctitle

        setproctitle("VLLM::EngineCore")


def _die_with_the_owner() -> None:
    owner = os.environ.get(OWNER)
    if owner and owner != str(os.getpid()):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
