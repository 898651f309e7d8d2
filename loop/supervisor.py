"""The supervisor of a run's actors: starts them, and starts them again when they die."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from actors.actor import ActorGone, first_line, gone_if_dead
from actors.engine import BASE_POLICY, Engine
from actors.models.chat import NoLogprobsError
from actors.rating import FORMS
from actors.worlds import load_world
from evals.settings import EvalSettings
from loop.cluster import check_resources, wait_for_room
from loop.config.explain import ConfigError
from loop.config.schema import RunConfig
from loop.roster import Roster, SupervisedActor
from trainers.policy import prove

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60
PING_SECONDS = 30
"""An actor that does not answer for so long is busy, not dead: Ray says of a dead one that it is dead."""


class ActorLostError(RuntimeError):
    """An actor died more often than `cluster.max_restarts` allows; the message carries its own last error."""


class ClusterGoneError(RuntimeError):
    """No machine of the cluster is left."""


def fetch(work: Any) -> Any:
    """`ray.get`, with `ActorGone` for whatever means that an actor died."""
    import ray

    with gone_if_dead():
        return ray.get(work)


def machines() -> list[dict[str, float]]:
    """Resources of each live machine of the cluster; `ClusterGoneError` where none is left."""
    import ray

    alive = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    if not alive:
        raise ClusterGoneError("no machine of the Ray cluster is left")
    return alive


class ActorSupervisor(Roster):
    """All actors that an arm works with, kept alive.

    Attributes:
        engine: Name and version of the assistant's engines, once they are up.
        figures: What the heartbeat last found out about all actors together, as of `loop.gauges.totals`.
        stalled: How many actors the stall rule has ended.
        beside: Those of the other arms that are at work.

    Args:
        say: Shows a line to whoever watches the run.
        log: Adds a line to its log; arguments as of `loop.runlog.RunLog.write`.
        number: Which set of actors it is, where arms are at work side by side. The first of them finds out whether the
            cluster has room for all.
        heed: Raises where the run is to end; asked before an actor is begun, and while one is waited for.
    """

    def __init__(
        self,
        config: RunConfig,
        model: str,
        say: Callable[[str], None],
        engine: type = Engine,
        log: Callable[..., None] = lambda *_, **__: None,
        number: int = 0,
        heed: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config, model, engine, number)
        self.engine = ""
        self.figures: dict[str, float] = {}
        self.stalled = 0
        self._say = say
        self._log = log
        self._false_alarms = 0
        self._has_room = number > 0
        self._number = number
        self._heed = heed
        self._closing = threading.Lock()
        self._closed = False
        self.beside: list[ActorSupervisor] = []
        self._pings: dict[Any, tuple[SupervisedActor, Any]] = {}

    def start(self, started: Callable[[int], None] = lambda _: None, join: bool = True) -> None:
        """Bring up every actor that is not up. An engine or a pool that others of its kind stand in for is begun and
        not waited for; `join` takes it in when it is ready.

        Args:
            started: Called with the number of actors that are up, each time one more is.
            join: Take in those that are ready again; not while conversations are held, as engines serve no policy yet.

        Raises:
            ConfigError: The cluster lacks what they ask for, or the model cannot play users.
            ActorLostError: One of them died too often while it started.
        """
        import ray

        if join:
            self.join()
        lacking = [m for m in self.actors if not m.up]
        down = self.lacking(lacking)
        if down:
            self.find_room()
            self._keep_room(down)
        for m in down:
            if m.handle is None:
                self._begin(m)
        waiting = {m.pending: m for m in lacking if m.pending is not None}  # one begun before may be there first
        while self.lacking([m for m in self.actors if not m.up]):
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=0.3)
            started(sum(m.up for m in self.actors))
            self._heed()
            if not done:
                machines()
            for ref in done:
                m = waiting.pop(ref)
                try:
                    ready = fetch(ref)
                    m.location = fetch(m.handle.ping.remote())
                except ActorGone as error:
                    self._record_death(m, error)
                    self._keep_room([m])
                    self._begin(m)
                    waiting[m.pending] = m
                    continue
                self._is_up(m, ready)
        self.complete = True
        for m in lacking:  # those that can come later do so now, and take nobody's place who is needed
            if m.handle is None and self._may_begin(m):
                self._begin(m)
        if not down:
            return
        started(sum(m.up for m in self.actors))
        if self.trainer in down:
            self._check_trainer()
        if self.evaluator in down:
            self._check_evaluator()
        if self.config.converses:
            self._check_raters([m for m in lacking if m.up and m in self.engines])

    def _begin(self, m: SupervisedActor) -> None:
        self._heed()
        with self._closing:  # what is begun after the end would outlive the run
            if self._closed:
                raise ActorLostError(f"the run is over, and no {m.role} is begun any more")
            m.handle = m.make()
            m.pending = m.begin(m.handle)

    def _is_up(self, m: SupervisedActor, ready: Any) -> None:
        m.up, m.pending = True, None
        if m not in self.assistants:
            return
        if self.engine and ready != self.engine:
            raise ConfigError(
                f"{m.name} is {ready} and the others are {self.engine}; replicas must compute the same, so install the "
                "same on every machine, and name assistant.dtype where their processors differ"
            )
        self.engine = ready

    def join(self) -> list[SupervisedActor]:
        """Take in every engine and pool that was begun and is ready by now, and say which they are; one that died
        meanwhile is given up, and begun again by the next `start` or `tend`, until it died too often."""
        import ray

        joined = []
        begun = {m.pending: m for m in self.actors if m.pending is not None and not m.up}
        for ref in ray.wait(list(begun), num_returns=len(begun), timeout=0)[0] if begun else ():
            m = begun[ref]
            try:
                ready = fetch(ref)
                m.location = fetch(m.handle.ping.remote())
                self._is_up(m, ready)
                joined.append(m)
                self._say(f"  the {m.role} is {'back' if m.restarts else 'there'}: {m.name}")
            except ActorGone as error:
                self.give_up(m, error)
        return joined

    def give_up(self, m: SupervisedActor, error: ActorGone) -> None:
        """Record the death of an engine or a pool that others stand in for; one that died too often is left out."""
        if m.deaths > self.config.cluster.max_restarts:
            self._kill(m)
            return
        try:
            self._record_death(m, error, waits=False)
        except ActorLostError as lost:
            if not self.spare(m):
                raise
            self._say(f"  {lost}; going on without it")
            self._kill(m)

    def tend(self) -> list[SupervisedActor]:
        """While others work: begin engines and pools again that died and that others stand in for, and take in those
        that are ready. Waits for nothing. A pool that dies, or an engine that nothing stands in for, is found by
        whoever asks it.

        Returns:
            Those that are up again; the engines among them serve no policy yet.
        """
        import ray

        for ref in ray.wait(list(self._pings), num_returns=len(self._pings), timeout=0)[0] if self._pings else ():
            m, handle = self._pings.pop(ref)
            try:
                fetch(ref)
            except ActorGone as error:
                if m.handle is handle and self.spare(m):
                    self.give_up(m, error)
        asked = [m for m, _ in self._pings.values()]
        for m in (*self.engines, *self.pools):
            if m.up and m in self.engines and m not in asked and self.spare(m):
                self._pings[m.handle.ping.remote()] = m, m.handle
            elif m.handle is None and self._may_begin(m) and self.spare(m):
                self._begin(m)
        return self.join()

    def _check_trainer(self) -> None:
        """Find out whether the model allows what its training asks for, before anything is held for it."""
        try:
            for arm in map(self.config.for_arm, self.config.arms):
                if fault := fetch(self.trainer.handle.check.remote(arm.trainer)):
                    raise ConfigError(fault)
        except ActorGone:
            return  # whoever asks it next finds out, and has it started again

    def _check_evaluator(self) -> None:
        """Read what policies are to be asked, before anything is held for it."""
        try:
            for settings in dict.fromkeys(self.config.for_arm(arm).evals.model_dump_json() for arm in self.config.arms):
                if fault := fetch(self.evaluator.handle.prepare.remote(EvalSettings.model_validate_json(settings))):
                    raise ConfigError(fault)
        except ActorGone:
            return  # whoever asks it next finds out, and has it started again

    def _check_raters(self, engines: list[SupervisedActor]) -> None:
        """Find out whether engines whose models rate have tokens for the answers; else ratings are sampled."""
        arms = map(self.config.for_arm, self.config.arms)
        asked = [(a.roles.rater or a.roles.user, a.rating.method, a.rating.form) for a in arms]
        for name, method, form in dict.fromkeys(asked):
            choices = FORMS[form](load_world(self.config.world)).choices
            actors = self.base_engines if name == "base" else self.model_engines.get(name, [])
            try:
                fetch([m.handle.check_choices.remote(choices) for m in actors if m in engines])
            except NoLogprobsError as error:
                if method == "logprobs" or form == "reaction":
                    raise ConfigError(
                        f"the model of roles.user or roles.rater, {name}, cannot rate by probabilities: "
                        f"{first_line(error)}. Set rating.form to number, and rating.method to sampled or auto"
                    ) from None
                if method == "auto" and self._number == 0:
                    self._say(f"  ratings by {name} are sampled: {first_line(error)}")
            except ActorGone:
                return  # whoever asks it next finds out, and has it started again

    def find_room(self) -> None:
        """Find out, while nobody is up yet, whether the cluster has room for everybody; on a cluster that others share,
        wait for it. Once it was found, nothing happens.

        Raises:
            ConfigError: It has not.
        """
        if self._has_room:
            return
        if self.config.cluster.address:
            wait_for_room(self.config, self._say)
        else:
            check_resources(self.config, machines())
        self._has_room = True

    def _keep_room(self, down: list[SupervisedActor]) -> None:
        """Wait for machines that may come back while the cluster has no room for everybody that the run needs.

        Args:
            down: Those that are needed and are not up.
        """
        spare = Counter(m.role for m in self.actors if not m.up and m not in down)
        for other in self.beside:
            absent = [m for m in other.actors if not m.up]
            needed = other.lacking(absent)
            spare += Counter(m.role for m in absent if m not in needed)
        deadline, said = time.monotonic() + 60 * self.config.cluster.wait_for_nodes, -math.inf
        while True:
            self._heed()
            try:
                return check_resources(self.config, machines(), spare)
            except ConfigError as error:
                if time.monotonic() > deadline:
                    raise ActorLostError(f"the cluster has become too small: {error}") from None
                if time.monotonic() - said > 60:
                    said = time.monotonic()
                    told = str(error).splitlines()[0]
                    self._say(f"  the cluster has become too small; waiting for machines ({told})")
            time.sleep(2)

    def restart_dead(self, gone: ActorGone) -> None:
        """Restart every actor that died; what it was at is then missing, and done again by whoever asked for it.

        Raises:
            ActorLostError: One died more often than `cluster.max_restarts` allows.
            ClusterGoneError: No machine is left.
        """
        machines()
        dead = self.dead()
        if not dead:  # a connection broke, or somebody was faster
            self._false_alarms += 1
            if self._false_alarms > self.config.cluster.max_restarts:
                raise ActorLostError(f"{gone}; no actor is down, and trying again did not help")
            time.sleep(wait_seconds(self._false_alarms))
            self._end_calls()
        for actor, error in dead:
            self._record_death(actor, error)
        self.start()

    def begin_anew(self) -> None:
        """Forget an arm that failed: nothing is at work for it any more, and its deaths do not count for the next."""
        self._end_calls()
        self.forget_deaths()
        self.start()

    def _end_calls(self) -> None:
        """A call that is still under way, and that nobody awaits any more, ends with its actor."""
        for actor in (self.trainer, self.evaluator, *self.pools):
            self._kill(actor)

    def replace(self, actor: SupervisedActor, error: ActorGone) -> None:
        """Restart one actor that died, while others are at work."""
        self._record_death(actor, error)
        self.start(join=False)

    @contextmanager
    def engines_asleep(self) -> Iterator[None]:
        """Let the engines sleep during the block, where the trainer uses their GPU. What they serve afterwards has to
        be proved again: the base here, a policy when it is published.

        Raises:
            DeliveryError: An engine's base weights are not what they were.
        """
        if not self.config.trainer.share_gpu:
            yield
            return
        self.join()
        engines = [m.handle for m in self.live_engines]
        fetch([e.sleep.remote() for e in engines])
        for m in self.assistants:
            m.serves = m.said = None
        try:
            yield
        except Exception:  # but not a stop: the trainer is still at work then, and all are about to end
            fetch([e.wake.remote() for e in engines])
            raise
        fetch([e.wake.remote() for e in engines])
        if self.config.sync == "lora" or self.config.own_base_engine:
            expected = fetch(self.trainer.handle.base_logprobs.remote())
            texts = self.trainer.handle.probe.remote()
            for served in fetch(
                [m.handle.prompt_logprobs.remote(BASE_POLICY, texts) for m in self.base_engines if m.up]
            ):
                prove(served, expected, expected, self.config.assistant.probe_tolerance, "the base, after a sleep,")

    def dead(self) -> list[tuple[SupervisedActor, ActorGone]]:
        """Actors that are down, each with the reason that it or Ray gives."""
        import ray

        pings = {m.handle.ping.remote(): m for m in self.actors if m.up}
        answered, _ = ray.wait(list(pings), num_returns=len(pings), timeout=PING_SECONDS)
        found = []
        for ref in answered:
            try:
                fetch(ref)
            except ActorGone as error:
                found.append((pings[ref], error))
        return found

    def forget_deaths(self) -> None:
        """A round is done: deaths before it do not count any more, and who was given up gets another chance."""
        self._false_alarms = 0
        for m in self.actors:
            m.deaths = 0
        self.start()

    def _may_begin(self, m: SupervisedActor) -> bool:
        """Whether an actor that others stand in for is to be started again now."""
        return m.deaths <= self.config.cluster.max_restarts and time.monotonic() >= m.rests

    def _record_death(self, actor: SupervisedActor, error: ActorGone, waits: bool = True) -> None:
        """Say that an actor died, and that it is started again.

        Args:
            waits: Wait a while before that, longer each time; else `rests` says until when it is to wait.
        """
        self._heed()
        actor.deaths += 1
        limit = self.config.cluster.max_restarts
        at, why = actor.location, actor.cause_of_death(error)
        self._log(
            "died",
            f"{actor.name} died: {why}",
            actor=actor.name,
            host=at and at.host,
            pid=at and at.pid,
            log=actor.last_lines,
        )
        if actor.deaths > limit:
            raise ActorLostError(
                f"the {self._called(actor)} died {actor.deaths} times within a round (cluster.max_restarts: {limit}); "
                f"its last error: {why}"
            )
        self._say(f"  the {self._called(actor)} died ({why}); starting it again, {actor.deaths} of {limit}")
        actor.restarts += 1
        self._kill(actor)
        actor.rests = time.monotonic() + wait_seconds(actor.deaths)
        if waits:
            time.sleep(wait_seconds(actor.deaths))

    def _called(self, actor: SupervisedActor) -> str:
        """What an actor is called: by its role, and where there are several sets by its name."""
        return f"{actor.role} {actor.name}" if self.beside else actor.role

    def _kill(self, actor: SupervisedActor) -> None:
        import ray

        with contextlib.suppress(Exception):
            ray.kill(actor.handle)
        actor.handle = actor.pending = actor.serves = actor.location = actor.said = None
        actor.up = False

    def stop(self) -> None:
        """Write what the buffer holds, stop the engines so that no process of theirs is left, then everything else."""
        import ray

        with self._closing:
            self._closed = True
        up = [m for m in self.actors if m.handle is not None]
        engines = [m for m in up if m in self.engines]
        with contextlib.suppress(ray.exceptions.RayError):
            last = [m.handle.flush.remote() for m in up if m is self.buffer] + [m.handle.stop.remote() for m in engines]
            ray.wait(last, num_returns=len(last), timeout=10)
        for m in up:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(m.handle)
        if self._ranks is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.util.remove_placement_group(self._ranks)


def wait_seconds(times: int) -> float:
    """Seconds to wait before something is tried again: twice as long each time."""
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (times - 1))
