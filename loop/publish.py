"""Publishing: a policy from disk into every engine that is to serve it, and the proof that it is there."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actors.actor import ActorGone
from actors.engine import BASE_POLICY, policy_name
from loop.arm import Arm
from loop.retention import PRUNED
from loop.rundir import DamagedError, write_json
from loop.supervisor import fetch
from trainers.policy import Proof, prove, read_lineage


def check_weights(policy: Path) -> None:
    """Find out whether a policy still has its weights.

    Raises:
        DamagedError: They were removed to save space, and something has to be done with it again.
    """
    if (policy / PRUNED).exists():
        raise DamagedError(
            f"{policy} is asked for again, and its weights were removed (candor prune or cluster.keep_policies); bring "
            f"them back from a backup and remove {policy / PRUNED}, or choose another --out"
        )


def take_in(arm: Arm, r: int) -> bool:
    """Have engines that came up meanwhile serve policy r; whether there are any. The evaluation under way works with
    them then; whoever else works with engines is told by the caller.

    Raises:
        DeliveryError: One of them serves something else.
        ActorGone: One of them or the trainer died.
    """
    engines = arm.supervisor.engines
    if not any(m in engines for m in arm.supervisor.tend()):
        return False
    publish(arm, r)
    return True


def publish(arm: Arm, r: int) -> None:
    """Make every replica of the assistant serve policy r, and prove that its log-probabilities are the trainer's.

    Raises:
        DeliveryError: A replica serves something else.
        ActorGone: A replica or the trainer died.
    """
    supervisor, config, out, name = arm.supervisor, arm.config, arm.out, arm.name
    serves = f"{name}/{r}"
    supervisor.join()
    behind = [a for a in supervisor.live_assistants if a.serves != serves]
    if not behind:
        return
    if r > 0:
        check_weights(out.policy(name, r))
    delivery = PolicyDelivery(
        version=r,
        policy=out.policy(name, r) if r > 0 else None,
        base=arm.model,
        sync=config.sync,
        merged=out.merged(name, r) if r > 0 and config.sync == "merged" and config.trainer.lora else None,
    )
    with arm.stage("publish", r, f"publish policy {r}", len(behind), "replicas") as stage:
        engines, tolerance = [a.handle for a in behind], config.assistant.probe_tolerance
        parent = _parent(arm, r)
        before = [a.said if a.said and a.said[0] == a.serves == parent else None for a in behind]
        report = deliver(delivery, supervisor.trainer.handle, engines, tolerance, before)
        stage.update(len(report.proofs))
    worst = max(report.proofs, key=lambda p: p.error)
    for actor, proof, said in zip(behind, report.proofs, report.served, strict=True):
        actor.serves, actor.proof, actor.said = serves, proof, (serves, said)
    write_json(
        out.delivery(name, r),
        {
            "policy": policy_name(r),
            "engine": supervisor.engine,
            "at": time.time(),
            "seconds": {part: round(s, 4) for part, s in report.seconds.items()},
            "replicas": [asdict(a.proof) for a in supervisor.live_assistants if a.proof is not None],
        },
    )
    arm.monitor.delivery(worst, r)
    if r > 0 and not worst.tells_apart:
        arm.ui.say(f"  policy {r} moved by {worst.moved:.4f} nats a token, too little to tell it from its parent")
    arm.record(r, "publish", stage)
    if r > 0:
        shutil.rmtree(out.merged(name, r), ignore_errors=True)
    with contextlib.suppress(ActorGone):  # an evaluator that is gone begins again, with all engines
        fetch(supervisor.evaluator.handle.admit.remote(supervisor.access(config, policy_name(r), None)))


def _parent(arm: Arm, r: int) -> str | None:
    """What an engine serves that serves the parent of policy r, as in `SupervisedActor.serves`; None for the base."""
    if r == 0:
        return None
    parents = read_lineage(arm.out.policy(arm.name, r)).parents
    return f"{arm.name}/{Path(parents[-1]).name if parents else 0}"


@dataclass(frozen=True)
class PolicyDelivery:
    """A policy to be delivered.

    Attributes:
        version: Its number; 0 is the untouched base.
        policy: Its directory; None for the base.
        base: Path or name of the base model.
        sync: `lora` or `merged`, as `Engine.publish` takes it.
        merged: Where its whole weights are put together first; None where the engine takes the directory as it is.
    """

    version: int
    policy: Path | None
    base: str
    sync: str
    merged: Path | None


@dataclass
class DeliveryReport:
    """What came of it.

    Attributes:
        proofs: One an engine, in their order.
        served: Of each engine the log-probabilities of the probe texts.
        seconds: What each part took: `ask` before, where engines serve the parent; `merge` by the trainer; `publish`
            until the slowest engine had answered, of which `load` in the slowest engine itself; and `prove`.
    """

    proofs: list[Proof] = field(default_factory=list)
    served: list[list[list[float]]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - started


def deliver(
    delivery: PolicyDelivery,
    trainer: Any,
    engines: Sequence[Any],
    tolerance: float,
    before: Sequence[tuple[str, list[list[float]]] | None] | None = None,
) -> DeliveryReport:
    """Make every engine serve the policy, and prove that its log-probabilities are the trainer's.

    Args:
        trainer: Handle of the trainer, who knows the probe texts.
        tolerance: `assistant.probe_tolerance`.
        before: Of each engine that serves the parent, which that is and its log-probabilities when that was proved;
            None for others. They are asked again before the policy comes.

    Raises:
        DeliveryError: An engine serves something else.
        ActorGone: One of them died.
    """
    made, name = DeliveryReport(), policy_name(delivery.version)
    texts = trainer.probe.remote()
    if delivery.policy is None:
        expected = parent = fetch(trainer.base_logprobs.remote())
    else:
        lineage = read_lineage(delivery.policy)
        expected, parent = lineage.probe, lineage.probe_parent
    before = before or [None] * len(engines)
    with made.timed("ask") if any(before) else contextlib.nullcontext():
        again = [
            was and engine.prompt_logprobs.remote(policy_name(int(Path(was[0]).name)), texts)
            for engine, was in zip(engines, before, strict=True)
        ]
        itself = [was and (was[1], fetch(now)) for was, now in zip(before, again, strict=True)]
    path = delivery.policy
    if delivery.merged is not None:
        with made.timed("merge"):
            fetch(trainer.merge.remote(str(delivery.policy), str(delivery.merged)))
        path = delivery.merged
    with made.timed("publish"):
        if delivery.policy is None and delivery.sync == "lora":
            fetch([e.retire.remote() for e in engines])
            own = [0.0]
        elif delivery.policy is None:
            own = fetch([e.publish.remote(BASE_POLICY, delivery.base, "merged") for e in engines])
        else:
            own = fetch([e.publish.remote(name, str(path), delivery.sync) for e in engines])
    made.seconds["load"] = max(own)
    with made.timed("prove"):
        made.served = fetch([e.prompt_logprobs.remote(name, texts) for e in engines])
        made.proofs = [
            prove(served, expected, parent, tolerance, name, was)
            for served, was in zip(made.served, itself, strict=True)
        ]
    return made
