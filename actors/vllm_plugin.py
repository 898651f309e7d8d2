"""What every vLLM process of a run does first; loaded through the entry point group `vllm.general_plugins`."""

from __future__ import annotations

import ctypes
import os
import signal

OWNER = "CANDOR_ENGINE_OWNER"
"""Environment variable with the process id of the actor that owns the engine."""

_PR_SET_PDEATHSIG = 1


def register() -> None:
    """Ask Linux for AMX where the CPU has it, and make an engine's processes die with the actor that owns them.

    vLLM's bfloat16 attention kernel uses AMX tiles, and a process that never asked for them is killed by SIGILL.
    """
    import torch

    torch.cpu._init_amx()
    owner = os.environ.get(OWNER)
    if owner and owner != str(os.getpid()):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
