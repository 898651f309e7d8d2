"""A trainer of several ranks: the first starts the others in its placement group, and none continues without the rest.

A rank that dies takes the first one with it, which takes all others with it; whoever started the first starts it again,
and training continues from the last checkpoint. So a group that is half there is never repaired.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.actor import first_line
from trainers.job import TrainJob
from trainers.rows import Rows
from trainers.settings import TrainerSettings

LOOK_SECONDS = 0.5
"""How often the first rank looks whether the others are there."""
BLAME_SECONDS = 5
"""How long it waits, when its own training breaks, for Ray to say that another rank died."""


class Followers:
    """The ranks beside the first, which owns them: they end with it.

    Args:
        kind: The class of the first rank, `trainers.trainer.Trainer` or one derived from it.
        ranks: How many there are in all; the placement group has a bundle for each.
    """

    def __init__(self, kind: type, model: str, dtype: str, threads: int, ranks: int, waits: bool) -> None:
        group = ray.util.get_current_placement_group()
        bundles = group.bundle_specs
        self._actors = [
            ray.remote(kind)
            .options(
                num_cpus=bundles[rank].get("CPU", 0),
                num_gpus=bundles[rank].get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            )
            .remote(model, dtype, threads, [], ranks, waits, rank)
            for rank in range(1, ranks)
        ]
        self._starting = [actor.start.remote() for actor in self._actors]
        self._ranks = ranks

    def wait(self) -> None:
        """Wait until all are up, and tell each, this process too, where the ranks meet."""
        ray.get(self._starting)
        meeting = {
            "MASTER_ADDR": ray.util.get_node_ip_address(),
            "MASTER_PORT": str(_free_port()),
            "WORLD_SIZE": str(self._ranks),
            "LOCAL_RANK": "0",  # each sees its own device only
        }
        os.environ.update(meeting, RANK="0")
        ray.get([a.join.remote({**meeting, "RANK": str(rank)}) for rank, a in enumerate(self._actors, 1)])

    @contextmanager
    def following(
        self, job: TrainJob, settings: TrainerSettings, rows: Rows, checkpoint: Path | None
    ) -> Iterator[None]:
        """Have the others train the same job while the block does."""
        shared = ray.put(rows)
        calls = [a.follow.remote(job, settings, shared, checkpoint) for a in self._actors]
        done = threading.Event()
        threading.Thread(target=self._watch, args=(calls, done), daemon=True).start()
        try:
            yield
            ray.get(calls)
        except BaseException:
            traceback.print_exc()
            self._leave(calls, BLAME_SECONDS)
        finally:
            done.set()

    def _watch(self, calls: list[Any], done: threading.Event) -> None:
        while not done.wait(LOOK_SECONDS):
            if any(map(_failure, ray.wait(calls, num_returns=len(calls), timeout=0)[0])):
                self._leave(calls, 0)

    def _leave(self, calls: list[Any], seconds: float) -> None:
        """End this process, and with it all ranks, with the reason as its last words."""
        ray.wait(calls, num_returns=1, timeout=seconds)
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        for call in ready:
            if why := _failure(call):
                print(f"RankLostError: rank {calls.index(call) + 1} of the trainer: {why}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)


def _failure(call: Any) -> str | None:
    try:
        ray.get(call)
    except Exception as error:
        return first_line(error)
    return None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]
