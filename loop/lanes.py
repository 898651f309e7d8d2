"""Arms side by side: a thread for each that is at work, and in which order they begin."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from loop.report.terminal import Stages, Stopped
from loop.supervisor import ClusterGoneError

LOOK_SECONDS = 0.2
END_SECONDS = 10
"""How long one waits for the others to notice that all is to end."""


class Turns:
    """In which order arms begin: each when those before it are over with what it takes over from them of round 0.

    So it takes over the same evaluation of the base and the same conversations as where arms follow one another.

    Args:
        before: By arm, those that it waits for, all of them begun before it.
    """

    def __init__(self, before: Mapping[str, Sequence[str]]) -> None:
        self._before = before
        self._over = {name: threading.Event() for name in before}

    def wait_for(self, arm: str, ui: Stages) -> None:
        """Wait for the turn of an arm; a stop is heeded meanwhile."""
        for other in self._before[arm]:
            if not self._over[other].is_set():
                ui.say(f"  {arm} waits for {other}, of which it takes over what round 0 has in common")
            while not self._over[other].wait(LOOK_SECONDS):
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

    A job that does not look whether it is to end is left behind after `END_SECONDS`, and ends when it does.

    Raises:
        Stopped: The run was asked to stop.
    """
    if len(jobs) == 1:
        jobs[0]()
        return
    failed: list[BaseException] = []
    end = threading.Event()

    def do(job: Callable[[], None]) -> None:
        ui.end_with(end)
        try:
            job()
        except BaseException as error:
            failed.append(error)
            end.set()

    threads = [threading.Thread(target=do, args=(job,), name=f"arms-{n}", daemon=True) for n, job in enumerate(jobs)]
    try:
        for thread in threads:
            thread.start()
        while not failed and (alive := [t for t in threads if t.is_alive()]):
            alive[0].join(LOOK_SECONDS)
    finally:
        end.set()
        until = time.monotonic() + END_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
    if failed:
        raise next((e for e in failed if isinstance(e, ClusterGoneError)), _cause(failed))


def _cause(failed: Sequence[BaseException]) -> BaseException:
    """The first error that does not only say that all was to end."""
    return next((e for e in failed if not isinstance(e, Stopped)), failed[0])
