"""Training algorithms, one file each: what a policy's rows have to be, and the trainer of TRL that takes them.

Another one is a file here with a subclass of `Algorithm`, and its place in `ALGORITHMS`. Importing this imports neither
torch nor TRL.
"""

from __future__ import annotations

from trainers.algorithms.base import Algorithm
from trainers.algorithms.dpo import Dpo
from trainers.algorithms.kto import Kto
from trainers.algorithms.sft import Sft

ALGORITHMS: dict[str, Algorithm] = {a.name: a for a in (Kto(), Sft(), Dpo())}
"""By the name that `trainer.algorithm` gives them."""

__all__ = ["ALGORITHMS", "Algorithm"]
