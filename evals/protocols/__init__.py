"""Protocols: how an item is asked, what its answer comes to, and the figures of a suite, one file each.

Another one is a file here with a subclass of `Protocol`, and its place in `PROTOCOLS`; suites name it in
`evals.suites.catalogue`.
"""

from __future__ import annotations

from evals.protocols.base import Protocol
from evals.protocols.behonest import BeHonest
from evals.protocols.deceptionbench import DeceptionBench
from evals.protocols.lm_eval import LmEval
from evals.protocols.mask import Mask
from evals.protocols.questions import Questions

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (Mask(), DeceptionBench(), BeHonest(), Questions(), LmEval())}
"""By the name that suites and records give them."""

__all__ = ["PROTOCOLS", "Protocol"]
