"""Arms side by side: a thread for each that is at work, and in which order they begin."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from loop.report.terminal import Stages, Stopped
from loop.supervisor import ClusterGoneError

LOOK_SECONDS = 0.2
END_SECONDS = 10
"""How long one waits for the others to notice that all is to end."""


class Turns:
    """In which order arms begin: each when those before it are over with what they have in common in round 0.

    So an arm takes over the same evaluation of the base and the same conversations as where arms follow one another.

    Args:
        arms: Their names, in the order of the config.
    """

    def __init__(self, arms: Sequence[str]) -> None:
        self._over = {name: threading.Event() for name in arms}

    def wait_for(self, arm: str, ui: Stages) -> None:
        """Wait for the turn of an arm; its stop is heeded meanwhile."""
        for other, over in self._over.items():
            if other == arm:
                return
            if not over.is_set():
                ui.say(f"  {arm} begins when {other} has held its round 0")
            while not over.wait(LOOK_SECONDS):
                ui.heed()

    def over(self, arm: str) -> None:
        """An arm has what others may take over."""
        self._over[arm].set()

    @contextmanager
    def over_at_last(self, arm: str) -> Iterator[None]:
        """Keep nobody waiting for an arm after the block, however that ends."""
        try:
            yield
        finally:
            self.over(arm)


def side_by_side(jobs: Sequence[Callable[[], None]], ui: Stages) -> None:
    """Do jobs at the same time, a single one in this thread. Where one fails the others end as if they were stopped,
    and its error is raised; that the cluster is gone comes before what else followed from it.

    Raises:
        Stopped: The run was asked to stop.
    """
    if len(jobs) == 1:
        jobs[0]()
        return
    failed: list[BaseException] = []

    def do(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            failed.append(error)
            ui.halt()

    threads = [threading.Thread(target=do, args=(job,), name=f"arms-{n}", daemon=True) for n, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    try:
        while alive := [t for t in threads if t.is_alive()]:
            if failed:
                break
            alive[0].join(LOOK_SECONDS)
    finally:
        if failed or any(t.is_alive() for t in threads):
            ui.halt()
        until = time.monotonic() + END_SECONDS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        if not any(t.is_alive() for t in threads):
            ui.halt(False)
    if failed:
        raise next((e for e in failed if isinstance(e, ClusterGoneError)), _cause(failed))


def _cause(failed: Sequence[BaseException]) -> BaseException:
    """The first error that does not only say that all was to end."""
    return next((e for e in failed if not isinstance(e, Stopped)), failed[0])
